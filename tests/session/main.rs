//! Session decisions: properties of the pure functions, and a seeded simulation.

mod properties;
mod simulation;
