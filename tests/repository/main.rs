//! Rules for the repository itself: layers, cycles, type names, prose, references, and the pages that list
//! metrics, events and vulnerabilities.

mod cycles;
mod layers;
mod metrics_and_events;
mod prose;
mod references;
mod vulnerabilities;
