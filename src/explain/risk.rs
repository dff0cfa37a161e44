//! The risk assessment of a hypothetical request.

use serde::Serialize;

use crate::clock::UnixMillis;
use crate::risk::{
    Country, GeoInfo, GeoIp, Observation, RiskAction, RiskReport, RiskSettings, UserAgent,
};
use crate::session::{ClientContext, Record, SignalsMode};

/// Risk signals of a request and the resulting action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RiskExplanation {
    /// The route's setting: `off`, `monitor` or `enforce`.
    pub mode: &'static str,
    /// Client of the request.
    pub from: String,
    /// Client of the session before.
    pub last_from: String,
    /// Names and weights; empty if nothing differs.
    pub signals: Vec<(&'static str, u32)>,
    pub score: u32,
    /// Threshold settings and their scores; `None` disables one.
    pub thresholds: Vec<(&'static str, Option<u32>)>,
    pub action: &'static str,
    pub in_monitor: &'static str,
    pub in_enforce: &'static str,
}

/// A session and the client of the current request.
pub(super) struct LocationPair<'a> {
    pub(super) geoip: &'a GeoIp,
    pub(super) settings: &'a RiskSettings,
    pub(super) record: &'a Record,
    pub(super) context: &'a ClientContext,
    pub(super) now: UnixMillis,
}

impl LocationPair<'_> {
    pub(super) fn explanation(&self, mode: SignalsMode) -> RiskExplanation {
        let thresholds = &self.settings.thresholds;
        let nothing = RiskReport { signals: Vec::new(), score: 0, action: RiskAction::None };
        let report = self.assess().unwrap_or(nothing);
        let created_from = &self.record.created_from;
        RiskExplanation {
            mode: mode_name(mode),
            from: describe(self.context, &self.geoip.lookup(self.context.address)),
            last_from: describe(created_from, &self.geoip.lookup(created_from.address)),
            signals: report.signals.iter().map(|one| (one.name(), one.weight())).collect(),
            score: report.score,
            thresholds: vec![
                ("log_at", thresholds.log),
                ("rotate_at", thresholds.rotate),
                ("login_at", thresholds.reauthenticate),
                ("end_at", thresholds.end),
            ],
            action: report.action.as_str(),
            in_monitor: in_monitor(report.action),
            in_enforce: in_enforce(report.action),
        }
    }

    /// The assessment on a route with `signals = "enforce"`.
    fn assess(&self) -> Option<RiskReport> {
        self.settings.assess(
            self.geoip,
            &Observation {
                record: self.record,
                context: self.context,
                mode: SignalsMode::Enforce,
                last_active: self.record.last_active,
                now: self.now,
            },
        )
    }
}

fn mode_name(mode: SignalsMode) -> &'static str {
    match mode {
        SignalsMode::Off => "off",
        SignalsMode::Monitor => "monitor",
        SignalsMode::Enforce => "enforce",
    }
}

fn in_monitor(action: RiskAction) -> &'static str {
    match action {
        RiskAction::None => "nothing",
        RiskAction::Log | RiskAction::Rotate | RiskAction::Reauthenticate | RiskAction::End => {
            "an event session.location-changed that names the action; the location becomes known"
        }
    }
}

fn in_enforce(action: RiskAction) -> &'static str {
    match action {
        RiskAction::None => "nothing",
        RiskAction::Log => "an event session.location-changed; the location becomes known",
        RiskAction::Rotate => "an event, and token rotation",
        RiskAction::Reauthenticate => "an event, and no further request before reauthentication",
        RiskAction::End => "an event, and the session ends as stolen",
    }
}

fn describe(context: &ClientContext, geo: &GeoInfo) -> String {
    let country = geo.country.as_ref().map(Country::to_string);
    let asn = geo.asn.map(|number| format!("AS{number}"));
    let hosting = geo.hosting.then(|| "hosting provider".to_owned());
    let UserAgent { browser, os, .. } = UserAgent::parse(&context.user_agent);
    let browser = browser.filter(|browser| !browser.is_empty()).map(str::to_owned);
    let os = os.map(|os| os.name().to_owned());
    let language = Some(context.language.clone()).filter(|language| !language.is_empty());
    let known = [country, asn, hosting, browser, os, language];
    let known: Vec<String> = known.into_iter().flatten().collect();
    match &known[..] {
        [] => format!("{}, no further information", context.network_display()),
        known => format!("{}, {}", context.network_display(), known.join(", ")),
    }
}
