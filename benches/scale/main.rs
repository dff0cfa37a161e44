//! Measures the cost of sessions: memory in Redis and in the embedded store, Redis commands per request, and the
//! cost of invalidations for many gateways.
//!
//! Run by `benches/scale/run`. Writes one JSON line per figure to standard output.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command that speaks to a terminal"
)]

mod commands;
mod embedded;
mod fanout;
mod memory;
mod sessions;

use std::path::Path;

use serde_json::Value;

// The allocator of the gateway, so that memory figures are comparable.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() {
    // Cargo adds `--bench`.
    let arguments: Vec<_> =
        std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        match arguments.as_slice() {
            ["embedded-fill", directory, number] => {
                embedded::fill(Path::new(directory), whole(number)).await;
            }
            ["embedded-open", directory] => embedded::open(Path::new(directory)),
            [] => all(&[100_000, 1_000_000]).await,
            ["smoke"] => all(&[10_000]).await,
            other => panic!("{other:?} is not known"),
        }
    });
}

async fn all(counts: &[u64]) {
    for count in counts {
        memory::measure(*count).await;
        embedded::measure(*count);
    }
    fanout::measure().await;
    commands::measure().await;
}

/// Prints one figure.
fn print_figure(figure: &Value) {
    println!("{figure}");
}

fn whole(text: &str) -> u64 {
    text.parse().expect("a whole number")
}
