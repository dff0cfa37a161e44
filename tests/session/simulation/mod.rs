//! A seeded simulation of sessions: browsers with tabs, parallel requests, lost and late responses,
//! crashes that restore old cookies, two gateways with separate clocks, interleaved store requests, key
//! rotation, logout, and in some seeds an attacker.
//!
//! The invariants S1 to S9 of `session::decide` are checked after every step. `plan.rs` states the bounds
//! of an honest schedule. Within them, no honest user is logged out.
//!
//! `SEEDS=10000 cargo test --test session simulation` runs more seeds. A failing
//! seed prints its trace and the command that runs it alone.

mod browser;
mod oracle;
mod plan;
mod store;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use plan::{Attacker, Plan};
use world::{Statistics, World};

#[test]
fn honest_schedules_are_never_refused_and_keep_every_invariant() {
    let statistics = run_seeds(Plan::honest);
    println!("{statistics:?}");
    if is_full_run() {
        assert!(
            statistics.rotations > 1_000 && statistics.lost_swaps > 10 && statistics.crashes > 10
        );
        assert!(
            statistics.after_crash > 0
                && statistics.idle > 0
                && statistics.absolute > 0
                && statistics.revoked > 0
        );
        assert!(statistics.superseded > 0, "no late request was admitted within the grace period");
        assert!(statistics.rotation_ignored > 0, "no client ever lost three offers");
    }
}

#[test]
fn an_attacker_is_detected_or_refused_and_stays_out() {
    for kind in [Attacker::Ignores, Attacker::Follows, Attacker::Old] {
        let statistics = run_seeds(|seed| Plan::with_attacker(seed, kind));
        println!("{kind:?}: {statistics:?}");
        if is_full_run() {
            assert!(statistics.attacker_admitted > 0 || kind == Attacker::Old);
            assert!(statistics.thefts_found > 50, "{kind:?}: thefts are not detected");
        }
    }
}

/// Found with 10,000 seeds. With a grace period of 10 s, two sensitive actions rotated a token twice within
/// the 30 s that a crash undoes, and the restarted browser got a theft verdict.
#[test]
fn s7_two_sensitive_actions_before_a_crash_are_not_a_theft() {
    for kind in [Attacker::Ignores, Attacker::Follows, Attacker::Old] {
        let outcome = run(&|seed| Plan::with_attacker(seed, kind), 5458, false);
        assert!(outcome.is_ok(), "{kind:?}: {outcome:?}");
    }
}

#[test]
fn wild_clocks_cost_at_most_a_login() {
    let statistics = run_seeds(Plan::wild_clocks);
    println!("{statistics:?}");
    if is_full_run() {
        assert!(statistics.rotations > 1_000);
    }
}

#[test]
fn parallel_requests_with_a_due_token_get_one_successor() {
    for seed in 0..50 {
        let outcome = World::new(Plan::calm(seed)).burst(64);
        assert_eq!(outcome, Ok(64), "seed {seed}");
    }
}

/// Runs `SEEDS` seeds (or `SEED` alone) of one kind over all cores.
fn run_seeds(plan: impl Fn(u64) -> Plan + Sync) -> Statistics {
    let (first, last) = match single_seed() {
        Some(seed) => (seed, seed + 1),
        None => (0, number("SEEDS").unwrap_or(500)),
    };
    let (next, total) = (AtomicU64::new(first), Mutex::new(Statistics::default()));
    let faults = Mutex::new(Vec::new());
    let work = || {
        let mut sum = Statistics::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= last || faults.lock().expect("no poison").len() >= 3 {
                break total.lock().expect("no poison").add(&sum);
            }
            match run(&plan, seed, single_seed().is_some()) {
                Ok(statistics) => sum.add(&statistics),
                Err(fault) => faults.lock().expect("no poison").push((seed, fault)),
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    report(&plan, &faults.into_inner().expect("no poison"));
    total.into_inner().expect("no poison")
}

fn run(plan: &impl Fn(u64) -> Plan, seed: u64, tracing: bool) -> Result<Statistics, String> {
    let mut world = World::new(plan(seed));
    world.tracing = tracing;
    match catch_unwind(AssertUnwindSafe(|| world.run())) {
        Ok(result) => result,
        Err(_) => Err("a panic (S5)".to_owned()),
    }
}

fn report(plan: &impl Fn(u64) -> Plan, faults: &[(u64, String)]) {
    for (seed, fault) in faults {
        println!("--- seed {seed}: {fault}");
        let mut world = World::new(plan(*seed));
        world.tracing = true;
        let _ = catch_unwind(AssertUnwindSafe(|| world.run()));
        let trace = &world.trace;
        for line in &trace[trace.len().saturating_sub(60)..] {
            println!("{line}");
        }
        println!("    {:?}", world.plan);
        println!("--- again: SEED={seed} cargo test --test session simulation -- --nocapture");
    }
    let seeds: Vec<_> = faults.iter().map(|(seed, fault)| format!("{seed}: {fault}")).collect();
    assert!(seeds.is_empty(), "{seeds:#?}");
}

/// Whether enough seeds ran for every kind of event to occur.
fn is_full_run() -> bool {
    single_seed().is_none() && number("SEEDS").is_none_or(|seeds| seeds >= 500)
}

fn single_seed() -> Option<u64> {
    number("SEED")
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}
