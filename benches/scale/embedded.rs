//! Measures memory, file size and opening time of the embedded store.
//!
//! Each step runs in a separate process, so that memory is measured separately.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};

use doorward::clock::Clock;
use doorward::store::Store;

use crate::print_figure;
use crate::sessions::Sessions;

pub fn measure(count: u64) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().display().to_string();
    let filled = child(&["embedded-fill", &path, &count.to_string()]);
    let opened = child(&["embedded-open", &path]);
    let each = |bytes: &Value| bytes.as_f64().unwrap_or_default() / count as f64;
    let file = std::fs::metadata(directory.path().join("sessions.redb")).expect("a file").len();
    print_figure(&json!({
        "figure": "embedded", "sessions": count,
        "resident": each(&opened["grown"]), "file": file as f64 / count as f64,
        "open": opened["seconds"], "fill": filled["seconds"],
    }));
}

/// Runs a step in a separate process and parses its last line of output.
fn child(words: &[&str]) -> Value {
    let this = std::env::current_exe().expect("this program");
    let output = Command::new(this).args(words).output().expect("this program starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.lines().last().unwrap_or_default()).expect("JSON")
}

/// Step: writes the sessions.
pub async fn fill(directory: &Path, count: u64) {
    let started = Instant::now();
    let store = Store::embedded(directory, Clock::System).expect("opens");
    let (sessions, shared) = (Sessions::new(), store.clone());
    Sessions::each(count, move |number| {
        let (sessions, store) = (sessions.clone(), shared.clone());
        async move {
            sessions.create(&store, number).await;
            sessions.touch(&store, number).await;
        }
    })
    .await;
    store.close().await.expect("closed");
    print_figure(&json!({ "seconds": started.elapsed().as_secs_f64() }));
}

/// Step: opens the store as a gateway does at startup.
pub fn open(directory: &Path) {
    let (before, started) = (resident(), Instant::now());
    let store = Store::embedded(directory, Clock::System).expect("opens");
    let seconds = started.elapsed().as_secs_f64();
    print_figure(&json!({ "seconds": seconds, "grown": resident() - before }));
    drop(store);
}

/// Returns the resident memory of this process in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).expect("VmRSS");
    kib.parse::<u64>().expect("a number") * 1_024
}
