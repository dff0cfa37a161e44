//! What lines add up to.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::Serialize;

use crate::risk::{Answer, Report, Settings, Thresholds};

use super::line::{Line, Move};

/// Lines that are shown one by one; the rest is counted.
const SHOWN: usize = 100;

/// Numbers of bad lines that are kept.
const BAD_SHOWN: usize = 20;

/// Users that are shown.
const USERS: usize = 10;

const DAY: u64 = 24 * 60 * 60;

/// How often each answer, by its word.
pub(super) type Answers = BTreeMap<String, u64>;

/// All that was read, judged again.
pub(super) struct Tally<'a> {
    settings: &'a Settings,
    /// How many days a session can stand for.
    longest: u64,
    summary: Summary,
    days: BTreeMap<Date, Day>,
    users: HashMap<String, Answers>,
    /// The last day that an open session was seen on.
    open: HashMap<String, Date>,
    /// Who had a session on which day.
    user_days: HashSet<(String, Date)>,
    /// Sessions that would have been over, or waiting for a login.
    stopped: HashSet<String>,
    asked: BTreeSet<String>,
}

#[derive(Default)]
struct Day {
    answers: Answers,
    users: u64,
}

/// What is said in the end.
#[derive(Debug, Default, Serialize)]
pub(super) struct Summary {
    /// That nothing of this was verified.
    pub(super) verified: bool,
    pub(super) thresholds: BTreeMap<&'static str, Option<u32>>,
    /// All readable lines, and those of them that were judged again.
    pub(super) lines: u64,
    pub(super) moves: u64,
    /// Of moved sessions that would have been stopped before: with these settings there is no such line.
    pub(super) after_a_stop: u64,
    pub(super) enforced: u64,
    pub(super) lowest_score: Option<u32>,
    pub(super) bad_lines: u64,
    pub(super) bad: Vec<String>,
    pub(super) recorded: Answers,
    pub(super) judged_again: Answers,
    pub(super) days: Vec<DayTold>,
    pub(super) users: Vec<UserTold>,
    /// What would have led to a fresh login or an end.
    pub(super) stops: Vec<Stop>,
    pub(super) stops_not_shown: u64,
    pub(super) users_seen: usize,
    pub(super) user_days: usize,
    pub(super) users_asked: usize,
    pub(super) per_1000_user_days: Option<f64>,
    pub(super) conclusion: String,
}

#[derive(Debug, Serialize)]
pub(super) struct DayTold {
    pub(super) day: String,
    pub(super) answers: Answers,
    pub(super) users: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct UserTold {
    pub(super) user: String,
    pub(super) answers: Answers,
}

#[derive(Debug, Serialize)]
pub(super) struct Stop {
    pub(super) at: String,
    pub(super) user: String,
    pub(super) session: String,
    pub(super) answer: &'static str,
    pub(super) recorded: String,
    pub(super) score: u32,
    pub(super) signals: BTreeMap<&'static str, u32>,
    pub(super) from: String,
    pub(super) before: String,
}

impl<'a> Tally<'a> {
    /// `absolute`: no session lives longer; one that is found idle or old at its end was gone before.
    pub(super) fn new(settings: &'a Settings, absolute: Duration) -> Tally<'a> {
        let Thresholds { log, renew, login, end } = settings.thresholds;
        let thresholds =
            [("log_at", log), ("renew_at", renew), ("login_at", login), ("end_at", end)].into();
        Tally {
            settings,
            longest: absolute.as_secs() / DAY + 2,
            summary: Summary { thresholds, ..Summary::default() },
            days: BTreeMap::new(),
            users: HashMap::new(),
            open: HashMap::new(),
            user_days: HashSet::new(),
            stopped: HashSet::new(),
            asked: BTreeSet::new(),
        }
    }

    pub(super) fn add(&mut self, line: Line) {
        self.summary.lines += 1;
        let day = line.at.to_zoned(TimeZone::UTC).date();
        self.attend(&line, day);
        if let Some(moved) = &line.moved {
            self.judge(&line, moved, day);
        }
    }

    pub(super) fn bad(&mut self, file: &str, number: u64) {
        self.summary.bad_lines += 1;
        if self.summary.bad.len() < BAD_SHOWN {
            self.summary.bad.push(format!("{file}:{number}"));
        }
    }

    /// Notes the days on which somebody's session stood: from its login to its end, as far as both are
    /// here. What strangers do in a user's name is nobody's day.
    fn attend(&mut self, line: &Line, day: Date) {
        let seen = ["session.login", "session.moved", "session.ended"];
        if line.user.is_empty() || line.session.is_empty() || !seen.contains(&line.action.as_str())
        {
            return;
        }
        let mut at = self.open.insert(line.session.clone(), day).unwrap_or(day);
        for _ in 0..self.longest {
            if self.user_days.insert((line.user.clone(), at)) {
                self.days.entry(at).or_default().users += 1;
            }
            let Ok(next) = at.tomorrow() else { break };
            at = next;
            if at > day {
                break;
            }
        }
        if line.action == "session.ended" {
            self.open.remove(&line.session);
        }
    }

    fn judge(&mut self, line: &Line, moved: &Move, day: Date) {
        let summary = &mut self.summary;
        summary.moves += 1;
        summary.enforced += u64::from(moved.enforced);
        summary.lowest_score =
            Some(summary.lowest_score.map_or(moved.score, |least| least.min(moved.score)));
        count(&mut summary.recorded, &moved.answer);
        if self.stopped.contains(&line.session) {
            summary.after_a_stop += 1;
            return;
        }
        let report = self.settings.judge_again(&moved.signals, moved.from);
        let word = report.answer.word();
        count(&mut summary.judged_again, word);
        count(&mut self.days.entry(day).or_default().answers, word);
        count(self.users.entry(line.user.clone()).or_default(), word);
        if report.answer >= Answer::Login {
            self.stop(line, moved, &report);
        }
    }

    fn stop(&mut self, line: &Line, moved: &Move, report: &Report) {
        self.asked.insert(line.user.clone());
        if !line.session.is_empty() {
            self.stopped.insert(line.session.clone());
        }
        if self.summary.stops.len() >= SHOWN {
            self.summary.stops_not_shown += 1;
            return;
        }
        let weighed = |signal: &crate::risk::Signal| (signal.name(), signal.weight());
        self.summary.stops.push(Stop {
            at: line.at.to_string(),
            user: line.user.clone(),
            session: line.session.clone(),
            answer: report.answer.word(),
            recorded: moved.answer.clone(),
            score: report.score,
            signals: report.signals.iter().map(weighed).collect(),
            from: moved.here.clone(),
            before: moved.before.clone(),
        });
    }

    pub(super) fn conclude(self) -> Summary {
        let Tally { mut summary, days, users, user_days, asked, .. } = self;
        let stops = summary.stops.len() as u64 + summary.stops_not_shown;
        let seen: HashSet<&String> = user_days.iter().map(|(user, _)| user).collect();
        summary.users_seen = seen.len();
        summary.user_days = user_days.len();
        summary.users_asked = asked.len();
        summary.per_1000_user_days = rate(stops, user_days.len());
        let told = |(day, Day { answers, users }): (Date, Day)| DayTold {
            day: day.to_string(),
            answers,
            users,
        };
        let attended = days.values().filter(|day| day.users > 0).count();
        summary.days = days.into_iter().map(told).collect();
        summary.users = most(users);
        summary.conclusion = conclusion(&summary, stops, attended);
        summary
    }
}

fn count(answers: &mut Answers, word: &str) {
    *answers.entry(word.to_owned()).or_default() += 1;
}

#[allow(clippy::cast_precision_loss, reason = "a rate of counts that are far below 2^52")]
fn rate(stops: u64, user_days: usize) -> Option<f64> {
    (user_days > 0).then(|| (stops as f64 * 10_000.0 / user_days as f64).round() / 10.0)
}

/// Those with the most, the harshest answers first.
fn most(users: HashMap<String, Answers>) -> Vec<UserTold> {
    let mut users: Vec<UserTold> =
        users.into_iter().map(|(user, answers)| UserTold { user, answers }).collect();
    users.sort_by_key(|told| {
        let of = |answer: Answer| told.answers.get(answer.word()).copied().unwrap_or(0);
        let harsh = [of(Answer::End), of(Answer::Login), of(Answer::Renew), of(Answer::Log)];
        (std::cmp::Reverse(harsh), told.user.clone())
    });
    users.truncate(USERS);
    users
}

fn conclusion(summary: &Summary, stops: u64, days: usize) -> String {
    if summary.moves == 0 {
        return "No line of a session that moved: there is nothing to judge. Do routes have signals = \"monitor\", and is this the audit log?".to_owned();
    }
    let asked = format!(
        "Of {} in {}, {} would have been asked for a fresh login or put out, {} in all",
        counted(summary.users_seen, "user"),
        counted(days, "day"),
        summary.users_asked,
        counted(usize::try_from(stops).unwrap_or(usize::MAX), "time"),
    );
    let rate = match summary.per_1000_user_days {
        Some(rate) => format!("{rate} per 1,000 user-days ({})", summary.user_days),
        None => "no user-days were seen".to_owned(),
    };
    format!("{asked}: {rate}. Whether those were travellers or thieves, the log cannot say.")
}

fn counted(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
