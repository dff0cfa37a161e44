//! The whole gateway from outside, while everything around it fails.
//!
//! Honest browsers with several tabs, an operator who ends sessions and a thief use three gateways that
//! share a Redis (or one with a file), through a proxy that fails on purpose. Everything asked and answered
//! is recorded, and `chaos/checker/mod.rs` judges the record: eleven invariants that no fault may break, but in
//! the ways that `chaos/faults.rs` says it may.
//!
//! The tests here are the short form. `tests/chaos/run` plays as many seeds as you like and shows a table.

#[path = "chaos/backend.rs"]
mod backend;
#[path = "chaos/chance.rs"]
mod chance;
#[path = "chaos/checker/mod.rs"]
mod checker;
#[path = "chaos/faults.rs"]
mod faults;
#[path = "chaos/flags.rs"]
mod flags;
#[path = "chaos/fleet.rs"]
mod fleet;
#[path = "chaos/history.rs"]
mod history;
#[path = "chaos/people.rs"]
mod people;
#[path = "chaos/proxy.rs"]
mod proxy;
#[path = "chaos/radio.rs"]
mod radio;
#[path = "support/redis_fleet.rs"]
#[allow(dead_code, reason = "the suite of the topologies uses the rest of it")]
mod redis_fleet;
#[path = "support/redis.rs"]
#[allow(dead_code, reason = "the suite of the stores uses the rest of it")]
mod redis_server;
#[path = "chaos/report.rs"]
mod report;
#[path = "chaos/unrest.rs"]
mod unrest;
#[path = "chaos/upstream.rs"]
mod upstream;
#[path = "chaos/wire.rs"]
mod wire;
#[path = "chaos/world.rs"]
mod world;

use std::time::Duration;

use backend::Store;
use checker::Invariant;
use faults::{ALONE, Fault, GATEWAY, LOSS, NETWORK, REAL, SERVER};
use world::{Pace, Plan};

/// How long a fault lasts in the short form.
const SHORT: Duration = Duration::from_millis(1_000);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_fails_between_gateways_and_redis_harms_nobody() {
    short(Store::Redis, Pace::Fast, &NETWORK, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_fails_in_every_way_it_has_harms_nobody() {
    short(Store::Redis, Pace::Fast, &SERVER, &[]).await;
}

/// What a gateway knows without asking is known for as long as it is elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_known_without_asking_harms_nobody_when_the_word_of_changes_fails() {
    // Who is known is let in by the cache for most of an outage that is as short as here.
    short(Store::Redis, Pace::Real, &REAL, &[Invariant::Known]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_that_die_stop_or_have_a_wrong_clock_and_a_flushed_redis_cost_a_login_at_most() {
    // A wrong clock bends the times of many sessions, a lost store those of all before it.
    let bent = [Invariant::Successor, Invariant::Grace, Invariant::Known];
    short(Store::Redis, Pace::Fast, &[GATEWAY.as_slice(), &LOSS].concat(), &bent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_with_its_own_file_loses_no_session_when_it_dies_or_stops() {
    short(Store::Embedded, Pace::Fast, &ALONE, &[Invariant::Known]).await;
}

/// `rarely` names what may have nothing to judge in so short a time.
async fn short(store: Store, pace: Pace, faults: &[Fault], rarely: &[Invariant]) {
    let plan = Plan { seed: 1, store, pace, faults: faults.to_vec(), lasts: SHORT };
    let mut table = report::Table::default();
    let played = table.play(&plan).await;
    println!("{table}");
    assert!(played.is_empty(), "{}", report::story(&plan, &played));
    table.assert_not_idle(rarely);
}

/// `tests/chaos/run` starts it, with its choices in the environment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "as long as you like; `tests/chaos/run` runs it"]
async fn many_seeds() {
    report::many_seeds().await;
}

#[test]
#[ignore = "started by the tests above"]
fn a_gateway_of_the_suite() {
    fleet::be_a_gateway();
}
