//! Comparison of a login with the recent locations of its user.

use super::geoip::{GeoInfo, GeoIp};
use super::scoring::{RiskAction, RiskReport, Signal};
use super::user_agent::UserAgent;
use super::{RiskSettings, differs, new_network_signals};
use crate::session::context::network_of;
use crate::session::{ClientContext, UserHistory};

impl RiskSettings {
    /// Returns a report if the user should be notified of the login: a new country, or a new client on a
    /// new network. Returns `None` for a known network and for a user without history.
    ///
    /// A login never requires an action: a user with the password may come from anywhere.
    pub fn assess_login(
        &self,
        geoip: &GeoIp,
        history: &UserHistory,
        from: &ClientContext,
    ) -> Option<RiskReport> {
        let own = network_of(from.address);
        let is_allowed = self.allow.iter().any(|network| network.contains(&from.address));
        let is_known = history.networks().any(|network| network_of(network) == own);
        if is_allowed || is_known || history.networks().next().is_none() {
            return None;
        }
        let (mut signals, here) = (Vec::new(), geoip.lookup(from.address));
        let known: Vec<GeoInfo> = history.networks().map(|network| geoip.lookup(network)).collect();
        new_network_signals(&here, &known, &mut signals);
        user_agent_signals(history, from, &mut signals);
        let notable = [Signal::Country, Signal::Browser, Signal::OperatingSystem];
        let is_notable = signals.iter().any(|signal| notable.contains(signal));
        is_notable.then(|| RiskReport {
            action: RiskAction::Log,
            ..RiskReport::new(signals, &self.thresholds)
        })
    }
}

fn user_agent_signals(history: &UserHistory, from: &ClientContext, signals: &mut Vec<Signal>) {
    let here = UserAgent::parse(&from.user_agent);
    let known: Vec<UserAgent> = history.user_agents().map(UserAgent::parse).collect();
    if !known.iter().any(|known| known.browser == here.browser) {
        signals.push(Signal::Browser);
    }
    if differs(here.os, known.iter().map(|known| known.os)) {
        signals.push(Signal::OperatingSystem);
    }
}
