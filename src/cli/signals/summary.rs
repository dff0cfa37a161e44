//! Summary of the simulated actions.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::Serialize;

use crate::risk::{RiskAction, RiskReport, RiskSettings, Thresholds};

use super::audit_reader::{AuditLine, LocationChange};

/// Stops that are reported one by one; further ones are only counted.
const MAX_STOPS: usize = 100;

/// Invalid lines whose position is reported.
const MAX_INVALID_LINES: usize = 20;

/// Users in the report.
const MAX_USERS: usize = 10;

const DAY: u64 = 24 * 60 * 60;

/// Number of occurrences for each action name.
pub(super) type ActionCounts = BTreeMap<String, u64>;

/// Accumulates the lines of all files.
pub(super) struct Summary<'a> {
    settings: &'a RiskSettings,
    /// Longest life of a session in days.
    max_days: u64,
    report: Report,
    days: BTreeMap<Date, Day>,
    users: HashMap<String, ActionCounts>,
    /// Last day with a line, for each open session.
    open_sessions: HashMap<String, Date>,
    /// Users with a session, for each day.
    user_days: HashSet<(String, Date)>,
    /// Sessions that the simulation ended or asked to reauthenticate.
    stopped_sessions: HashSet<String>,
    affected_users: BTreeSet<String>,
}

#[derive(Default)]
struct Day {
    actions: ActionCounts,
    users: u64,
}

/// Result of the simulation.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    /// Always false: the MAC chain is not verified.
    pub(super) verified: bool,
    pub(super) thresholds: BTreeMap<&'static str, Option<u32>>,
    /// Readable lines.
    pub(super) lines: u64,
    /// Lines of the event `session.location-changed`.
    pub(super) location_changes: u64,
    /// Location changes of sessions that the simulation had already stopped; not scored.
    pub(super) after_stop: u64,
    pub(super) enforced: u64,
    pub(super) lowest_score: Option<u32>,
    pub(super) invalid_lines: u64,
    /// File and number of the first invalid lines.
    pub(super) invalid: Vec<String>,
    pub(super) recorded: ActionCounts,
    pub(super) simulated: ActionCounts,
    pub(super) days: Vec<DayReport>,
    pub(super) users: Vec<UserReport>,
    /// Reauthentications and ended sessions.
    pub(super) stops: Vec<Stop>,
    pub(super) stops_omitted: u64,
    pub(super) users_seen: usize,
    pub(super) user_days: usize,
    pub(super) users_affected: usize,
    pub(super) per_1000_user_days: Option<f64>,
    pub(super) conclusion: String,
}

#[derive(Debug, Serialize)]
pub(super) struct DayReport {
    pub(super) day: String,
    pub(super) actions: ActionCounts,
    pub(super) users: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct UserReport {
    pub(super) user: String,
    pub(super) actions: ActionCounts,
}

#[derive(Debug, Serialize)]
pub(super) struct Stop {
    pub(super) at: String,
    pub(super) user: String,
    pub(super) session: String,
    pub(super) action: &'static str,
    pub(super) recorded: String,
    pub(super) score: u32,
    pub(super) signals: BTreeMap<&'static str, u32>,
    pub(super) from: String,
    pub(super) previous: String,
}

impl<'a> Summary<'a> {
    /// `absolute` is the absolute timeout: it bounds the days that one session counts for.
    pub(super) fn new(settings: &'a RiskSettings, absolute: Duration) -> Summary<'a> {
        let Thresholds { log, rotate, reauthenticate, end } = settings.thresholds;
        let thresholds =
            [("log_at", log), ("rotate_at", rotate), ("login_at", reauthenticate), ("end_at", end)]
                .into();
        Summary {
            settings,
            max_days: absolute.as_secs() / DAY + 2,
            report: Report { thresholds, ..Report::default() },
            days: BTreeMap::new(),
            users: HashMap::new(),
            open_sessions: HashMap::new(),
            user_days: HashSet::new(),
            stopped_sessions: HashSet::new(),
            affected_users: BTreeSet::new(),
        }
    }

    pub(super) fn add(&mut self, line: AuditLine) {
        self.report.lines += 1;
        let day = line.timestamp.to_zoned(TimeZone::UTC).date();
        self.record_day(&line, day);
        if let Some(change) = &line.location_change {
            self.record_location_change(&line, change, day);
        }
    }

    pub(super) fn record_invalid(&mut self, file: &str, number: u64) {
        self.report.invalid_lines += 1;
        if self.report.invalid.len() < MAX_INVALID_LINES {
            self.report.invalid.push(format!("{file}:{number}"));
        }
    }

    /// Counts a user-day for each day from the session's previous line to this one. Lines without a
    /// session, such as refused logins, do not count.
    fn record_day(&mut self, line: &AuditLine, day: Date) {
        let counted = ["session.login", "session.location-changed", "session.ended"];
        if line.user.is_empty()
            || line.session.is_empty()
            || !counted.contains(&line.action.as_str())
        {
            return;
        }
        let mut current = self.open_sessions.insert(line.session.clone(), day).unwrap_or(day);
        for _ in 0..self.max_days {
            if self.user_days.insert((line.user.clone(), current)) {
                self.days.entry(current).or_default().users += 1;
            }
            let Ok(next) = current.tomorrow() else { break };
            current = next;
            if current > day {
                break;
            }
        }
        if line.action == "session.ended" {
            self.open_sessions.remove(&line.session);
        }
    }

    fn record_location_change(&mut self, line: &AuditLine, change: &LocationChange, day: Date) {
        let report = &mut self.report;
        report.location_changes += 1;
        report.enforced += u64::from(change.enforced);
        report.lowest_score =
            Some(report.lowest_score.map_or(change.score, |least| least.min(change.score)));
        count(&mut report.recorded, &change.action);
        if self.stopped_sessions.contains(&line.session) {
            report.after_stop += 1;
            return;
        }
        let simulated = self.settings.rescore(&change.signals, change.client);
        let action = simulated.action.as_str();
        count(&mut self.report.simulated, action);
        count(&mut self.days.entry(day).or_default().actions, action);
        count(self.users.entry(line.user.clone()).or_default(), action);
        if simulated.action >= RiskAction::Reauthenticate {
            self.record_stop(line, change, &simulated);
        }
    }

    fn record_stop(&mut self, line: &AuditLine, change: &LocationChange, simulated: &RiskReport) {
        self.affected_users.insert(line.user.clone());
        if !line.session.is_empty() {
            self.stopped_sessions.insert(line.session.clone());
        }
        if self.report.stops.len() >= MAX_STOPS {
            self.report.stops_omitted += 1;
            return;
        }
        let weight = |signal: &crate::risk::Signal| (signal.name(), signal.weight());
        self.report.stops.push(Stop {
            at: line.timestamp.to_string(),
            user: line.user.clone(),
            session: line.session.clone(),
            action: simulated.action.as_str(),
            recorded: change.action.clone(),
            score: simulated.score,
            signals: simulated.signals.iter().map(weight).collect(),
            from: change.current.clone(),
            previous: change.previous.clone(),
        });
    }

    pub(super) fn finish(self) -> Report {
        let Summary { mut report, days, users, user_days, affected_users, .. } = self;
        let stops = report.stops.len() as u64 + report.stops_omitted;
        let distinct: HashSet<&String> = user_days.iter().map(|(user, _)| user).collect();
        report.users_seen = distinct.len();
        report.user_days = user_days.len();
        report.users_affected = affected_users.len();
        report.per_1000_user_days = rate(stops, user_days.len());
        let day_report = |(day, Day { actions, users }): (Date, Day)| DayReport {
            day: day.to_string(),
            actions,
            users,
        };
        let active_days = days.values().filter(|day| day.users > 0).count();
        report.days = days.into_iter().map(day_report).collect();
        report.users = most_affected(users);
        report.conclusion = conclusion(&report, stops, active_days);
        report
    }
}

fn count(counts: &mut ActionCounts, action: &str) {
    *counts.entry(action.to_owned()).or_default() += 1;
}

#[allow(clippy::cast_precision_loss, reason = "a rate of counts that are far below 2^52")]
fn rate(stops: u64, user_days: usize) -> Option<f64> {
    (user_days > 0).then(|| (stops as f64 * 10_000.0 / user_days as f64).round() / 10.0)
}

/// Returns the users with the most actions, sorted by the most severe action first.
fn most_affected(users: HashMap<String, ActionCounts>) -> Vec<UserReport> {
    let mut users: Vec<UserReport> =
        users.into_iter().map(|(user, actions)| UserReport { user, actions }).collect();
    users.sort_by_key(|user| {
        let of = |action: RiskAction| user.actions.get(action.as_str()).copied().unwrap_or(0);
        let severity = [
            of(RiskAction::End),
            of(RiskAction::Reauthenticate),
            of(RiskAction::Rotate),
            of(RiskAction::Log),
        ];
        (std::cmp::Reverse(severity), user.user.clone())
    });
    users.truncate(MAX_USERS);
    users
}

fn conclusion(report: &Report, stops: u64, days: usize) -> String {
    if report.location_changes == 0 {
        return "No location changes found. Check that this is the audit log and that routes have signals = \"monitor\".".to_owned();
    }
    let affected = format!(
        "Of {} in {}, {} would have had to log in again or lost the session, {} in total",
        counted(report.users_seen, "user"),
        counted(days, "day"),
        report.users_affected,
        counted(usize::try_from(stops).unwrap_or(usize::MAX), "time"),
    );
    let rate = match report.per_1000_user_days {
        Some(rate) => format!("{rate} per 1,000 user-days ({})", report.user_days),
        None => "no user-days".to_owned(),
    };
    format!("{affected}: {rate}. The log does not show whether these were travellers or attackers.")
}

fn counted(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
