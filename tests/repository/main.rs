//! Rules for the repository itself: layers, cycles, type names, prose, references, the book, and the pages that
//! list keys, presets, metrics, events and vulnerabilities.

mod book;
mod cycles;
mod generated_pages;
mod kubernetes;
mod layers;
mod metrics_and_events;
mod prose;
mod references;
mod vulnerabilities;
