//! Counts of the logins and denials of honest users.

use std::collections::BTreeMap;

/// Counts over many users, independent of the order of addition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserTally {
    pub days: u64,
    pub requests: u64,
    /// Expected logins: without a session, or after the idle or absolute timeout.
    pub logins: u64,
    /// False logins by cause.
    pub false_logins: BTreeMap<String, u64>,
    /// Log entries `session.location-changed` by risk action.
    pub location_changes: BTreeMap<String, u64>,
    /// Browser crashes; each can restore an older cookie or none.
    pub crashes: u64,
}

/// Deny reasons that honest users expect.
const EXPECTED_REASONS: [&str; 4] = ["no-session", "idle", "absolute", "unknown-session"];

/// Deny reasons of a theft verdict.
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

    pub fn record_location_change(&mut self, action: &str) {
        *self.location_changes.entry(action.to_owned()).or_default() += 1;
    }

    pub fn add(&mut self, other: &UserTally) {
        self.days += other.days;
        self.requests += other.requests;
        self.logins += other.logins;
        self.crashes += other.crashes;
        for (cause, count) in &other.false_logins {
            *self.false_logins.entry(cause.clone()).or_default() += count;
        }
        for (action, count) in &other.location_changes {
            *self.location_changes.entry(action.clone()).or_default() += count;
        }
    }

    /// Converts a count to a rate per 1,000 user days.
    pub fn per_thousand(&self, count: u64) -> f64 {
        count as f64 * 1_000.0 / self.days.max(1) as f64
    }

    pub fn all_false(&self) -> u64 {
        self.false_logins.values().sum()
    }

    /// Returns the number of sessions that ended as stolen by mistake.
    pub fn false_ends(&self) -> u64 {
        THEFT_REASONS.iter().filter_map(|end| self.false_logins.get(*end)).sum()
    }
}
