//! Fault injection: complete gateways while their network, store, processes and clocks fail.
//!
//! Honest browsers with several tabs, an operator who ends sessions and an attacker use three gateways with a shared
//! Redis, or one gateway with an embedded store. All requests and responses are recorded. The `checker` module
//! then checks eleven invariants; `faults` lists the effects that each fault may have.
//!
//! The tests here are the short form. `tests/system/chaos/run` runs any number of seeds and prints a table.

mod actors;
mod backend;
mod browsers;
mod checker;
mod checker_tests;
mod client;
mod faults;
mod gateway_process;
mod history;
mod report;
mod streams;
mod testbed;
mod upstream;

use std::time::Duration;

use backend::Store;
use checker::Invariant;
use faults::{DATA_LOSS, EMBEDDED, Fault, GATEWAY, NETWORK, REAL_TIME, SERVER};
use testbed::{Pace, Plan};

/// Duration of a fault in the short form.
const SHORT: Duration = Duration::from_millis(1_000);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn network_faults_cause_no_violation() {
    short(Store::Redis, Pace::Fast, &NETWORK, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_faults_cause_no_violation() {
    short(Store::Redis, Pace::Fast, &SERVER, &[]).await;
}

/// Runs in real time, so cached sessions live as long as in production.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalidation_faults_cause_no_violation() {
    // In such a short outage, the cache serves almost all requests, so stale reads are rare.
    short(Store::Redis, Pace::Real, &REAL_TIME, &[Invariant::StaleRead]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateway_faults_and_data_loss_cost_at_most_a_login() {
    // A wrong clock affects the times of many sessions, and data loss those of all earlier ones.
    let bent = [Invariant::Successor, Invariant::Grace, Invariant::StaleRead];
    short(Store::Redis, Pace::Fast, &[GATEWAY.as_slice(), &DATA_LOSS].concat(), &bent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded_store_survives_gateway_crashes_and_stops() {
    short(Store::Embedded, Pace::Fast, &EMBEDDED, &[Invariant::StaleRead]).await;
}

/// Runs a short history. The invariants in `rarely` may have nothing to check in it.
async fn short(store: Store, pace: Pace, faults: &[Fault], rarely: &[Invariant]) {
    let plan = Plan { seed: 1, store, pace, faults: faults.to_vec(), lasts: SHORT };
    let mut table = report::Table::default();
    let violations = table.run_history(&plan).await;
    println!("{table}");
    assert!(violations.is_empty(), "{}", report::failure_report(&plan, &violations));
    table.assert_all_judged(rarely);
}

/// Started by `tests/system/chaos/run` with options in environment variables.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "as long as you like; `tests/system/chaos/run` runs it"]
async fn many_seeds() {
    report::many_seeds().await;
}

#[test]
#[ignore = "started by the tests above"]
fn gateway_process() {
    gateway_process::run_gateway();
}
