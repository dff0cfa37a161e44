//! The weights of the signals, and the action for their sum.

use std::fmt;

/// A risk signal: a change that is rare in honest sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// A network (/24, /48) that the session has not used.
    Network,
    /// An autonomous system that the session has not used.
    Asn,
    /// An address of a hosting provider: a server or a VPN.
    Hosting,
    /// A country in which the session was not used.
    Country,
    /// A distance since the last activity that an airliner could not cover.
    ImpossibleTravel,
    /// A known location, used again minutes after one in another country.
    ConcurrentCountries,
    /// A new browser or program.
    Browser,
    /// A new operating system.
    OperatingSystem,
    /// A first language other than at login.
    Language,
    /// A new TLS fingerprint.
    Fingerprint,
    /// A new TLS fingerprint of a known browser on a new network, not explained by an update. The client
    /// is a program with a spoofed user agent, or behind a TLS-inspecting proxy.
    SpoofedUserAgent,
}

impl Signal {
    /// All signals with their names in logs.
    pub const ALL: [(Signal, &'static str); 11] = [
        (Signal::Network, "network"),
        (Signal::Asn, "operator"),
        (Signal::Hosting, "hosting"),
        (Signal::Country, "country"),
        (Signal::ImpossibleTravel, "speed"),
        (Signal::ConcurrentCountries, "two-countries"),
        (Signal::Browser, "browser"),
        (Signal::OperatingSystem, "system"),
        (Signal::Language, "language"),
        (Signal::Fingerprint, "fingerprint"),
        (Signal::SpoofedUserAgent, "masquerade"),
    ];

    /// Returns the name in logs.
    pub fn name(self) -> &'static str {
        Signal::ALL.iter().find(|(signal, _)| *signal == self).map_or("", |(_, name)| name)
    }

    /// Returns the weight.
    ///
    /// Everything that a VPN changes at once (55) stays below the default threshold of reauthentication
    /// (60). A new client on a new network (60 and more) reaches it, because a cookie does not move between
    /// browsers by itself.
    pub fn weight(self) -> u32 {
        match self {
            Signal::Asn | Signal::ImpossibleTravel => 5,
            Signal::Network | Signal::Hosting | Signal::Language => 10,
            Signal::Country
            | Signal::ConcurrentCountries
            | Signal::Fingerprint
            | Signal::SpoofedUserAgent => 25,
            Signal::Browser | Signal::OperatingSystem => 50,
        }
    }
}

/// The action for a score, from the mildest to the strictest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RiskAction {
    None,
    /// Logs the location change.
    Log,
    /// Rotates the token. Two clients with the same token cannot both confirm the successor.
    Rotate,
    /// Requires reauthentication.
    Reauthenticate,
    /// Ends the session and notifies the user.
    End,
}

impl RiskAction {
    /// All actions, the mildest first.
    pub const ALL: [RiskAction; 5] = [
        RiskAction::None,
        RiskAction::Log,
        RiskAction::Rotate,
        RiskAction::Reauthenticate,
        RiskAction::End,
    ];

    /// Returns the name in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            RiskAction::None => "nothing",
            RiskAction::Log => "log",
            RiskAction::Rotate => "rotate",
            RiskAction::Reauthenticate => "login",
            RiskAction::End => "end",
        }
    }
}

/// The minimum score for each action; `None` disables the action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    pub log: Option<u32>,
    pub rotate: Option<u32>,
    pub reauthenticate: Option<u32>,
    pub end: Option<u32>,
}

impl Default for Thresholds {
    /// Ends no session: a signal is not proof, and reauthentication stops an attacker as well.
    fn default() -> Thresholds {
        Thresholds { log: Some(20), rotate: Some(35), reauthenticate: Some(60), end: None }
    }
}

impl Thresholds {
    /// Returns the strictest action whose threshold the score reaches.
    pub fn action(&self, score: u32) -> RiskAction {
        let reached = |threshold: Option<u32>| threshold.is_some_and(|least| score >= least);
        match () {
            () if reached(self.end) => RiskAction::End,
            () if reached(self.reauthenticate) => RiskAction::Reauthenticate,
            () if reached(self.rotate) => RiskAction::Rotate,
            () if reached(self.log) => RiskAction::Log,
            () => RiskAction::None,
        }
    }
}

/// The risk signals of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RiskReport {
    pub signals: Vec<Signal>,
    pub score: u32,
    /// Action for the score, taken on routes in enforce mode.
    pub action: RiskAction,
}

impl RiskReport {
    pub(super) fn new(signals: Vec<Signal>, thresholds: &Thresholds) -> RiskReport {
        let score = signals.iter().map(|signal| signal.weight()).sum();
        RiskReport { signals, score, action: thresholds.action(score) }
    }
}

impl fmt::Display for RiskReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, signal) in self.signals.iter().enumerate() {
            let comma = if number == 0 { "" } else { ", " };
            write!(f, "{comma}{} {}", signal.name(), signal.weight())?;
        }
        Ok(())
    }
}
