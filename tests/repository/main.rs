//! Rules about the repository itself: module layers, the review of proxy vulnerabilities, and the reference
//! of metrics and events.

mod layers;
mod metrics_and_events;
mod vulnerabilities;
