//! Scores logged signals again with other settings, to simulate a change of the configuration.

use std::net::IpAddr;

use super::RiskSettings;
use super::scoring::{RiskReport, Signal};

impl RiskSettings {
    /// Scores signals as [`RiskSettings::assess`] would with these settings. Signals that depend on the
    /// network are dropped if the network is in `allow`. The opposite is impossible: signals of a network
    /// that was in `allow` were not logged.
    pub fn rescore(&self, signals: &[Signal], from: Option<IpAddr>) -> RiskReport {
        let allowed = from.is_some_and(|from| self.allow.iter().any(|net| net.contains(&from)));
        let applies = |signal: &&Signal| !(allowed && signal.depends_on_network());
        RiskReport::new(signals.iter().filter(applies).copied().collect(), &self.thresholds)
    }
}

impl Signal {
    /// Returns the signal with this name in logs.
    pub fn from_name(name: &str) -> Option<Signal> {
        Signal::ALL.iter().find(|(_, known)| *known == name).map(|(signal, _)| *signal)
    }

    fn depends_on_network(self) -> bool {
        match self {
            Signal::Network
            | Signal::Asn
            | Signal::Hosting
            | Signal::Country
            | Signal::ImpossibleTravel
            | Signal::ConcurrentCountries
            | Signal::SpoofedUserAgent => true,
            Signal::Browser | Signal::OperatingSystem | Signal::Language | Signal::Fingerprint => {
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{RiskAction, Thresholds};
    use super::*;

    #[test]
    fn an_allowed_network_drops_network_signals_only() {
        let abroad = [Signal::Network, Signal::Country, Signal::Browser];
        let from = Some([203, 0, 113, 9].into());
        let usual = RiskSettings::default();
        let report = usual.rescore(&abroad, from);
        assert_eq!((report.score, report.action), (85, RiskAction::Reauthenticate));
        let office =
            RiskSettings { allow: vec!["203.0.113.0/24".parse().expect("a network")], ..usual };
        let report = office.rescore(&abroad, from);
        assert_eq!((report.signals, report.score), (vec![Signal::Browser], 50));
        let thresholds = Thresholds { end: Some(80), ..Thresholds::default() };
        let strict = RiskSettings { thresholds, ..RiskSettings::default() };
        assert_eq!(strict.rescore(&abroad, from).action, RiskAction::End);
    }

    #[test]
    fn every_signal_round_trips_through_its_name() {
        for (signal, name) in Signal::ALL {
            assert_eq!(Signal::from_name(name), Some(signal));
        }
        assert_eq!(Signal::from_name("astrology"), None);
    }
}
