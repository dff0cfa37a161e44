//! What a session costs, measured: memory in Redis and in the embedded store, commands for each request,
//! and what it costs Redis to tell many gateways of each change.
//!
//! `benches/scale/run` builds and runs it. One line of JSON for each figure, on standard output.

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

// As the gateway's own, or the memory would be another allocator's.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() {
    // Cargo adds an argument of its own.
    let words: Vec<_> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        match words.as_slice() {
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

/// One figure.
fn tell(figure: &Value) {
    println!("{figure}");
}

fn whole(text: &str) -> u64 {
    text.parse().expect("a whole number")
}
