//! Simulates users and cookie attackers over thirty days against the real authentication with a memory store.
//!
//! The short form runs with the other tests and asserts the bounds for a few users. `tests/system/simulation/run`
//! simulates many. The simulation is seeded, so the figures are reproducible.

mod attacker;
mod auth_under_test;
mod device;
mod figures;
mod location_log;
mod networks;
mod parallel;
mod person;
mod rates;
mod schedule;
mod seeded_rng;
mod software;
mod table;
mod tally;
mod theft;
mod user_simulation;

use doorward::risk::Thresholds;
use doorward::session::SignalsMode;

use attacker::{AttackerLocation, AttackerSoftware, TheftOutcome, TokenUse};
use auth_under_test::{GRACE, Policy, ROTATE_AFTER, SessionLifetime};
use tally::UserTally;
use theft::{Outcome, TheftScenario, UseTime};

/// Signals enforced with the default thresholds.
const ENFORCED: Policy = rules(SignalsMode::Enforce, SessionLifetime::Workday);

/// Token rotation without signals.
const OFF: Policy = rules(SignalsMode::Off, SessionLifetime::Workday);

const fn rules(mode: SignalsMode, lifetime: SessionLifetime) -> Policy {
    let thresholds =
        Thresholds { log: Some(20), rotate: Some(35), reauthenticate: Some(60), end: None };
    Policy { mode, thresholds, lifetime }
}

#[test]
fn simulation_uses_the_default_thresholds() {
    assert_eq!(ENFORCED.thresholds, Thresholds::default());
}

#[test]
fn honest_users_see_under_one_false_login_in_1000_days() {
    assert_few_false_logins(&parallel::simulate_users(&ENFORCED, 0..34));
}

#[test]
fn foreign_attacker_is_stopped_at_the_first_request() {
    for (location, software) in OUTSIDE {
        let scenario = TheftScenario {
            location,
            software,
            token_use: TokenUse::FollowsRotation,
            use_time: UseTime::Immediately,
        };
        assert_stopped_at_first_request(
            &theft::simulate_theft(&ENFORCED, 0..12, scenario),
            &scenario,
        );
    }
}

#[test]
fn rotating_attacker_is_detected_at_the_owners_next_request() {
    let long = rules(SignalsMode::Off, SessionLifetime::Month);
    let scenarios = [
        (OFF, UseTime::Immediately),
        (ENFORCED, UseTime::Immediately),
        (long, UseTime::WhileVictimSleeps),
    ];
    for (rules, use_time) in scenarios {
        let (location, software) = (AttackerLocation::Inside, AttackerSoftware::Same);
        let scenario =
            TheftScenario { location, software, token_use: TokenUse::FollowsRotation, use_time };
        assert_detected_at_next_request(&theft::simulate_theft(&rules, 0..12, scenario), &scenario);
    }
}

#[test]
fn passive_attacker_is_rejected_after_three_grace_periods() {
    for use_time in [UseTime::Immediately, UseTime::WhileVictimSleeps] {
        let (location, software) = (AttackerLocation::Inside, AttackerSoftware::Same);
        let scenario =
            TheftScenario { location, software, token_use: TokenUse::KeepsToken, use_time };
        let outcome = theft::simulate_theft(&OFF, 0..12, scenario);
        assert!(outcome.share(TheftOutcome::Detected) > 0.5, "{scenario:?}: {outcome:?}");
        assert_denied_after_grace(&outcome, &scenario);
    }
}

#[test]
fn table_shows_outcomes_and_detection_times() {
    let outcome = |rules, location, software| {
        let scenario = TheftScenario {
            location,
            software,
            token_use: TokenUse::FollowsRotation,
            use_time: UseTime::Immediately,
        };
        theft::simulate_theft(&rules, 0..12, scenario)
    };
    let abroad = outcome(ENFORCED, AttackerLocation::Abroad, AttackerSoftware::OtherBrowser);
    assert_eq!(table::cell(&abroad), "refused");
    let inside = outcome(OFF, AttackerLocation::Inside, AttackerSoftware::Same);
    let detected = inside.outcomes[TheftOutcome::Detected.as_str()];
    assert_eq!(inside.detected_after.len(), detected, "one time for each detected attacker");
    let cell = table::cell(&inside);
    let rest = cell.strip_prefix(&format!("detected {detected} (")).expect("detected first");
    let (times, rest) = rest.split_once(')').expect("closed");
    assert_eq!(times.split(", ").count(), 2, "{cell}");
    assert_eq!(rest, format!(", ended {}", inside.outcomes[TheftOutcome::SessionEnded.as_str()]));
    let mut table = table::Table::new(&["off", "enforce"]);
    table.row(
        AttackerLocation::Inside,
        AttackerSoftware::Same,
        vec![cell.clone(), "refused".to_owned()],
    );
    let row = format!("| user's address | the same | {cell} | refused |");
    assert_eq!(table.to_string().lines().nth(2), Some(row.as_str()));
}

/// Attackers outside the victim's networks who use other software.
const OUTSIDE: [(AttackerLocation, AttackerSoftware); 7] = [
    (AttackerLocation::Abroad, AttackerSoftware::Program),
    (AttackerLocation::CloudAbroad, AttackerSoftware::OtherBrowser),
    (AttackerLocation::CloudAbroad, AttackerSoftware::Disguised),
    (AttackerLocation::Country, AttackerSoftware::Program),
    (AttackerLocation::Country, AttackerSoftware::OtherBrowser),
    (AttackerLocation::Country, AttackerSoftware::Disguised),
    (AttackerLocation::Country, AttackerSoftware::Newer),
];

fn assert_few_false_logins(tally: &UserTally) {
    assert!(tally.requests > 100 * tally.days, "too few requests: {tally:#?}");
    assert!(tally.crashes > 0 && tally.location_changes.contains_key("rotate"), "{tally:#?}");
    assert!(tally.per_thousand(tally.all_false()) < 1.0, "{tally:#?}");
}

fn assert_stopped_at_first_request(outcome: &Outcome, scenario: &TheftScenario) {
    assert!(outcome.tried > 5, "{scenario:?}: {outcome:?}");
    assert_eq!(outcome.worst_requests(), 0, "{scenario:?}: {outcome:?}");
}

/// Asserts that every theft is detected at the owner's next request or ends with the session.
fn assert_detected_at_next_request(outcome: &Outcome, scenario: &TheftScenario) {
    assert!(outcome.share(TheftOutcome::Detected) > 0.5, "{scenario:?}: {outcome:?}");
    assert_eq!(outcome.undetected_forks, 0, "{scenario:?}: {outcome:?}");
    assert!(outcome.detected_forks > 0, "{scenario:?}: {outcome:?}");
    assert_eq!(outcome.share(TheftOutcome::NeverStopped), 0.0, "{scenario:?}: {outcome:?}");
}

/// Asserts that an attacker who never rotates is denied after three grace periods.
fn assert_denied_after_grace(outcome: &Outcome, scenario: &TheftScenario) {
    let bound = ROTATE_AFTER + 3 * (GRACE + attacker::REQUEST_INTERVAL);
    assert!(u128::from(outcome.worst_use()) <= bound.as_millis(), "{scenario:?}: {outcome:?}");
}

/// Asserts the bounds for `USERS` users and writes all figures.
#[test]
#[ignore = "minutes; run by tests/system/simulation/run"]
fn many_users() {
    figures::Figures::open().all(figures::number("USERS", 680));
}

/// Writes only the table of attackers by location.
#[test]
#[ignore = "minutes; run by tests/system/simulation/run --attackers"]
fn attackers_by_location() {
    figures::Figures::open().attackers_by_location(figures::number("USERS", 680));
}
