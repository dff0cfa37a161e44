//! ActionKind happened to honest people.

use std::collections::BTreeMap;

/// Counts over many people; the order in which they are added does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserTally {
    pub days: u64,
    pub requests: u64,
    /// Logins that nobody would call false: no session yet, idle, at the end of its life.
    pub logins: u64,
    /// Logins that the gateway asked for and should not have, by cause.
    pub false_logins: BTreeMap<String, u64>,
    /// Lines `session.location-changed` by what was done, or would have been.
    pub location_changes: BTreeMap<String, u64>,
    /// Crashes that brought an older cookie back, or none.
    pub crashes: u64,
}

/// Refusals that are the ordinary course.
const EXPECTED_REASONS: [&str; 4] = ["no-session", "idle", "absolute", "unknown-session"];

/// Ends that came for a theft that was none.
const THEFT_REASONS: [&str; 2] = ["theft", "not-rotating"];

impl UserTally {
    pub fn record_login(&mut self, refused: &'static str, signals: Option<&str>) {
        if EXPECTED_REASONS.contains(&refused) {
            self.logins += 1;
            return;
        }
        let cause = match signals {
            Some(signals) if refused == "reauthenticate" => signals.to_owned(),
            Some(_) | None => refused.to_owned(),
        };
        *self.false_logins.entry(cause).or_default() += 1;
    }

    pub fn record_location_change(&mut self, answer: &str) {
        *self.location_changes.entry(answer.to_owned()).or_default() += 1;
    }

    pub fn add(&mut self, other: &UserTally) {
        self.days += other.days;
        self.requests += other.requests;
        self.logins += other.logins;
        self.crashes += other.crashes;
        for (cause, count) in &other.false_logins {
            *self.false_logins.entry(cause.clone()).or_default() += count;
        }
        for (answer, count) in &other.location_changes {
            *self.location_changes.entry(answer.clone()).or_default() += count;
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
        THEFT_REASONS.iter().filter_map(|end| self.false_logins.get(*end)).sum()
    }
}
