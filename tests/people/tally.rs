//! What happened to honest people.

use std::collections::BTreeMap;

/// Counts over many people; the order in which they are added does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub days: u64,
    pub requests: u64,
    /// Logins that nobody would call false: no session yet, idle, at the end of its life.
    pub logins: u64,
    /// Logins that the gateway asked for and should not have, by cause.
    pub false_logins: BTreeMap<String, u64>,
    /// Lines `session.moved` by what was done, or would have been.
    pub moves: BTreeMap<String, u64>,
    /// Crashes that brought an older cookie back, or none.
    pub crashes: u64,
}

/// Refusals that are the ordinary course.
const ORDINARY: [&str; 4] = ["no-session", "idle", "absolute", "unknown"];

/// Ends that came for a theft that was none.
const ENDS: [&str; 2] = ["theft", "not-renewing"];

impl Tally {
    pub fn login(&mut self, refused: &'static str, signals: Option<&str>) {
        if ORDINARY.contains(&refused) {
            self.logins += 1;
            return;
        }
        let cause = match signals {
            Some(signals) if refused == "reauthenticate" => signals.to_owned(),
            Some(_) | None => refused.to_owned(),
        };
        *self.false_logins.entry(cause).or_default() += 1;
    }

    pub fn moved(&mut self, answer: &str) {
        *self.moves.entry(answer.to_owned()).or_default() += 1;
    }

    pub fn add(&mut self, other: &Tally) {
        self.days += other.days;
        self.requests += other.requests;
        self.logins += other.logins;
        self.crashes += other.crashes;
        for (cause, count) in &other.false_logins {
            *self.false_logins.entry(cause.clone()).or_default() += count;
        }
        for (answer, count) in &other.moves {
            *self.moves.entry(answer.clone()).or_default() += count;
        }
    }

    /// For each 1,000 days of a person.
    pub fn per_thousand(&self, count: u64) -> f64 {
        count as f64 * 1_000.0 / self.days.max(1) as f64
    }

    pub fn all_false(&self) -> u64 {
        self.false_logins.values().sum()
    }

    /// Sessions that ended as stolen and were not.
    pub fn false_ends(&self) -> u64 {
        ENDS.iter().filter_map(|end| self.false_logins.get(*end)).sum()
    }
}
