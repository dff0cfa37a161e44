//! Session decisions: properties of the pure functions, and a seeded simulation.

mod properties;
mod record_format;
mod simulation;
