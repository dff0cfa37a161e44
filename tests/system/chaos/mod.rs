//! The whole gateway from outside, while everything around it fails.
//!
//! Honest browsers with several tabs, an operator who ends sessions and a thief use three gateways that
//! share a Redis (or one with a file), through a proxy that fails on purpose. Everything asked and answered
//! is recorded, and `chaos/checker/mod.rs` judges the record: eleven invariants that no fault may break, but in
//! the ways that `chaos/faults.rs` says it allowed.
//!
//! The tests here are the short form. `tests/system/chaos/run` plays as many seeds as you like and shows a table.

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
use faults::{ALONE, Fault, GATEWAY, LOSS, NETWORK, REAL, SERVER};
use testbed::{Pace, Plan};

/// How long a fault lasts in the short form.
const SHORT: Duration = Duration::from_millis(1_000);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn network_faults_cause_no_violation() {
    short(Store::Redis, Pace::Fast, &NETWORK, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_faults_cause_no_violation() {
    short(Store::Redis, Pace::Fast, &SERVER, &[]).await;
}

/// What a gateway knows without asking is known for as long as it is elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalidation_faults_cause_no_violation() {
    // Who is known is let in by the cache for most of an outage that is as short as here.
    short(Store::Redis, Pace::Real, &REAL, &[Invariant::StaleRead]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateway_faults_and_data_loss_cost_at_most_a_login() {
    // A wrong clock bends the times of many sessions, a lost store those of all before it.
    let bent = [Invariant::Successor, Invariant::Grace, Invariant::StaleRead];
    short(Store::Redis, Pace::Fast, &[GATEWAY.as_slice(), &LOSS].concat(), &bent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded_store_survives_gateway_crashes_and_stops() {
    short(Store::Embedded, Pace::Fast, &ALONE, &[Invariant::StaleRead]).await;
}

/// `rarely` names what may have nothing to judge in so short a time.
async fn short(store: Store, pace: Pace, faults: &[Fault], rarely: &[Invariant]) {
    let plan = Plan { seed: 1, store, pace, faults: faults.to_vec(), lasts: SHORT };
    let mut table = report::Table::default();
    let played = table.play(&plan).await;
    println!("{table}");
    assert!(played.is_empty(), "{}", report::failure_report(&plan, &played));
    table.assert_all_judged(rarely);
}

/// `tests/system/chaos/run` starts it, with its choices in the environment.
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
