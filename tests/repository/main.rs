//! Rules for the repository itself: layers, cycles, type names, prose, and the review of proxy vulnerabilities.
//! of metrics and events.

mod cycles;
mod layers;
mod metrics_and_events;
mod prose;
mod vulnerabilities;
