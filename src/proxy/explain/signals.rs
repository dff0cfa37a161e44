//! The part of an explanation about a session that is used from a new place.

use serde::Serialize;

use crate::clock::UnixMillis;
use crate::risk::{Answer, Arrival, Atlas, Country, Locality, Report, Settings, Software};
use crate::session::{ClientContext, Record, Watch};

/// What speaks against the place of a request, and what follows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SignalsExplained {
    /// The route's setting: `off`, `monitor` or `enforce`.
    pub route: &'static str,
    /// The request's place, and that of the session.
    pub here: String,
    pub last: String,
    /// Names and weights; none where nothing is new.
    pub signals: Vec<(&'static str, u32)>,
    pub score: u32,
    /// The settings' names for the scores; absent where there is none.
    pub thresholds: Vec<(&'static str, Option<u32>)>,
    pub answer: &'static str,
    pub in_monitor: &'static str,
    pub in_enforce: &'static str,
}

/// A session at one place and a request from another, or from the same.
pub(super) struct Places<'a> {
    pub(super) atlas: &'a Atlas,
    pub(super) settings: &'a Settings,
    pub(super) record: &'a Record,
    pub(super) context: &'a ClientContext,
    pub(super) now: UnixMillis,
}

impl Places<'_> {
    pub(super) fn explained(&self, watch: Watch) -> SignalsExplained {
        let thresholds = &self.settings.thresholds;
        let nothing = Report { signals: Vec::new(), score: 0, answer: Answer::Nothing };
        let report = self.judged().unwrap_or(nothing);
        let from = &self.record.begun_from;
        SignalsExplained {
            route: word(watch),
            here: told(self.context, &self.atlas.look(self.context.address)),
            last: told(from, &self.atlas.look(from.address)),
            signals: report.signals.iter().map(|one| (one.name(), one.weight())).collect(),
            score: report.score,
            thresholds: vec![
                ("log_at", thresholds.log),
                ("renew_at", thresholds.renew),
                ("login_at", thresholds.login),
                ("end_at", thresholds.end),
            ],
            answer: report.answer.word(),
            in_monitor: in_monitor(report.answer),
            in_enforce: in_enforce(report.answer),
        }
    }

    /// As the guard judges, where a route enforces.
    fn judged(&self) -> Option<Report> {
        self.settings.judge(
            self.atlas,
            &Arrival {
                record: self.record,
                context: self.context,
                watch: Watch::Enforce,
                active: self.record.active,
                now: self.now,
            },
        )
    }
}

fn word(watch: Watch) -> &'static str {
    match watch {
        Watch::Off => "off",
        Watch::Monitor => "monitor",
        Watch::Enforce => "enforce",
    }
}

fn in_monitor(answer: Answer) -> &'static str {
    match answer {
        Answer::Nothing => "nothing",
        Answer::Log | Answer::Renew | Answer::Login | Answer::End => {
            "a line session.moved that says what would have been done, and the place is known from then on"
        }
    }
}

fn in_enforce(answer: Answer) -> &'static str {
    match answer {
        Answer::Nothing => "nothing",
        Answer::Log => "a line session.moved, and the place is known from then on",
        Answer::Renew => "a line, and a new token goes with the answer",
        Answer::Login => "a line, and nothing more before a fresh login",
        Answer::End => "a line, and the session ends as stolen",
    }
}

fn told(context: &ClientContext, place: &Locality) -> String {
    let country = place.country.as_ref().map(Country::to_string);
    let operator = place.operator.map(|number| format!("AS{number}"));
    let hosting = place.hosting.then(|| "machines for rent".to_owned());
    let Software { family, system, .. } = Software::read(&context.agent);
    let family = family.filter(|family| !family.is_empty()).map(str::to_owned);
    let system = system.map(|system| system.name().to_owned());
    let language = Some(context.language.clone()).filter(|language| !language.is_empty());
    let known = [country, operator, hosting, family, system, language];
    let known: Vec<String> = known.into_iter().flatten().collect();
    match &known[..] {
        [] => format!("{}, of which nothing is known", context.network()),
        known => format!("{}, {}", context.network(), known.join(", ")),
    }
}
