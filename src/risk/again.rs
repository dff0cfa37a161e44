//! What was judged once, judged again with other settings: for who wants to know before he changes them.

use std::net::IpAddr;

use super::Settings;
use super::weigh::{Report, Signal};

impl Settings {
    /// As [`Settings::judge`] would have weighed these signals. Those of a network are none where the
    /// network is in `allow`; the other way round nothing can be done: where they were not looked for,
    /// nobody knows them.
    pub fn judge_again(&self, signals: &[Signal], from: Option<IpAddr>) -> Report {
        let allowed = from.is_some_and(|from| self.allow.iter().any(|net| net.contains(&from)));
        let counts = |signal: &&Signal| !(allowed && signal.is_of_network());
        Report::new(signals.iter().filter(counts).copied().collect(), &self.thresholds)
    }
}

impl Signal {
    /// The signal of this name in logs.
    pub fn named(name: &str) -> Option<Signal> {
        Signal::ALL.iter().find(|(_, known)| *known == name).map(|(signal, _)| *signal)
    }

    fn is_of_network(self) -> bool {
        match self {
            Signal::Network
            | Signal::Operator
            | Signal::Hosting
            | Signal::Country
            | Signal::Speed
            | Signal::Together
            | Signal::Masquerade => true,
            Signal::Family | Signal::System | Signal::Language | Signal::Fingerprint => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Answer, Thresholds};
    use super::*;

    #[test]
    fn judged_again_an_allowed_network_speaks_against_nobody_and_software_still_does() {
        let abroad = [Signal::Network, Signal::Country, Signal::Family];
        let from = Some([203, 0, 113, 9].into());
        let usual = Settings::default();
        let report = usual.judge_again(&abroad, from);
        assert_eq!((report.score, report.answer), (85, Answer::Login));
        let office =
            Settings { allow: vec!["203.0.113.0/24".parse().expect("a network")], ..usual };
        let report = office.judge_again(&abroad, from);
        assert_eq!((report.signals, report.score), (vec![Signal::Family], 50));
        let thresholds = Thresholds { end: Some(80), ..Thresholds::default() };
        let strict = Settings { thresholds, ..Settings::default() };
        assert_eq!(strict.judge_again(&abroad, from).answer, Answer::End);
    }

    #[test]
    fn every_signal_is_read_back_by_its_name() {
        for (signal, name) in Signal::ALL {
            assert_eq!(Signal::named(name), Some(signal));
        }
        assert_eq!(Signal::named("astrology"), None);
    }
}
