//! Cookie thefts: scenario, time and outcome over many victims.

use std::collections::BTreeMap;
use std::ops::Range;

use super::attacker::{Attacker, AttackerLocation, AttackerSoftware, Plan, TheftOutcome, TokenUse};
use super::auth_under_test::Policy;
use super::parallel::{self, SEED};
use super::person::{DAY, LAPTOP, Person};
use super::schedule::{self, Action, ActionKind};
use super::seeded_rng::SeededRng;
use super::user_simulation::UserSimulation;

/// When the attacker uses the copied cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UseTime {
    Immediately,
    HoursLater,
    DaysLater,
    /// The cookie is copied in the evening and used at night.
    WhileVictimSleeps,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TheftScenario {
    pub location: AttackerLocation,
    pub software: AttackerSoftware,
    pub token_use: TokenUse,
    pub use_time: UseTime,
}

/// The outcome of one scenario with many victims.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Victims that had a cookie to copy.
    pub tried: usize,
    pub outcomes: BTreeMap<&'static str, usize>,
    /// Deny reasons of the attackers' last requests.
    pub refused: BTreeMap<&'static str, usize>,
    /// Allowed requests of each attacker and the time of use in milliseconds, both sorted.
    pub requests: Vec<u32>,
    pub used: Vec<u64>,
    /// Time of use by attackers who were detected later, in milliseconds, sorted.
    pub detected_after: Vec<u64>,
    /// Owner requests that should have ended the session and did not.
    pub undetected_forks: u32,
    /// Owner requests that ended the session.
    pub detected_forks: u32,
}

struct TheftResult {
    outcome: TheftOutcome,
    denied: Option<&'static str>,
    requests: u32,
    used: u64,
    undetected_forks: u32,
    detected_forks: u32,
}

/// Simulates one scenario with each of these victims.
pub fn simulate_theft(rules: &Policy, victims: Range<u64>, scenario: TheftScenario) -> Outcome {
    let thefts = parallel::run_parallel(rules, victims, |runtime, auth, number| {
        let person = Person::new(SEED, number);
        let mut rng = person.rng.fork(4);
        let actions = theft_days(&person, 7 + number % 20);
        let copies_at = copy_time(&actions, scenario.use_time, &mut rng);
        let TheftScenario { location, software, token_use, .. } = scenario;
        let waits = use_delay(scenario.use_time, &mut rng);
        let plan = Plan { location, software, token_use, copies_at, waits };
        auth.start_person(number, 30);
        let attacker = Attacker::new(plan, rng.fork(5));
        let mut simulation =
            UserSimulation::new(auth, rng.fork(6), actions).with_attacker(attacker);
        runtime.block_on(simulation.run());
        let attacker = simulation.attacker.expect("the attacker of the scenario");
        TheftResult {
            outcome: attacker.outcome(),
            denied: attacker.denied,
            requests: attacker.admitted,
            used: attacker.used_for(),
            undetected_forks: attacker.undetected_forks,
            detected_forks: attacker.detected_forks,
        }
    });
    Outcome::new(&thefts)
}

/// Returns the actions on the day of the theft and the next three days.
fn theft_days(person: &Person, day: u64) -> Vec<Action> {
    let mut actions = schedule::schedule(person, day + 4);
    actions.retain(|action| action.at >= day * DAY);
    actions
}

fn copy_time(actions: &[Action], use_time: UseTime, rng: &mut SeededRng) -> u64 {
    let first = actions.first().map_or(0, |action| action.at / DAY);
    let page_views: Vec<u64> = actions
        .iter()
        .filter(|action| action.device == LAPTOP && action.at / DAY == first)
        .filter(|action| matches!(action.kind, ActionKind::LoadPages(_)))
        .map(|action| action.at)
        .collect();
    let last = page_views.len().saturating_sub(1);
    let chosen = match use_time {
        UseTime::Immediately | UseTime::HoursLater | UseTime::DaysLater => {
            rng.between(0, (last as u64) * 2 / 3) as usize
        }
        UseTime::WhileVictimSleeps => last,
    };
    page_views.get(chosen).map_or(0, |at| at + 25_000)
}

fn use_delay(use_time: UseTime, rng: &mut SeededRng) -> u64 {
    const HOUR: u64 = 60 * 60_000;
    match use_time {
        UseTime::Immediately => 2_000,
        UseTime::HoursLater => rng.between(HOUR, 6 * HOUR),
        UseTime::DaysLater => rng.between(DAY, 3 * DAY),
        UseTime::WhileVictimSleeps => 10 * 60_000,
    }
}

impl Outcome {
    fn new(thefts: &[TheftResult]) -> Outcome {
        let mut outcome = Outcome::default();
        for theft in thefts.iter().filter(|theft| theft.outcome != TheftOutcome::NoCookie) {
            outcome.tried += 1;
            *outcome.outcomes.entry(theft.outcome.as_str()).or_default() += 1;
            let refused = theft.denied.unwrap_or("not refused");
            *outcome.refused.entry(refused).or_default() += 1;
            outcome.requests.push(theft.requests);
            outcome.used.push(theft.used);
            outcome
                .detected_after
                .extend((theft.outcome == TheftOutcome::Detected).then_some(theft.used));
            outcome.undetected_forks += theft.undetected_forks;
            outcome.detected_forks += theft.detected_forks;
        }
        outcome.requests.sort_unstable();
        outcome.used.sort_unstable();
        outcome.detected_after.sort_unstable();
        outcome
    }

    pub fn share(&self, outcome: TheftOutcome) -> f64 {
        let count = self.outcomes.get(outcome.as_str()).copied().unwrap_or_default();
        count as f64 / self.tried.max(1) as f64
    }

    pub fn worst_requests(&self) -> u32 {
        self.requests.last().copied().unwrap_or_default()
    }

    pub fn worst_use(&self) -> u64 {
        self.used.last().copied().unwrap_or_default()
    }
}
