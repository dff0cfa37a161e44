//! What a signal weighs, and what a sum of them deserves.

use std::fmt;

/// Something that an honest session seldom does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// A network (/24, /48) that the session was not used from.
    Network,
    /// An operator (autonomous system) that it was not used from.
    Operator,
    /// A machine in a data centre: a server, or somebody behind a VPN.
    Hosting,
    /// A country that it was not used from.
    Country,
    /// Farther than an airliner flies since the last activity.
    Speed,
    /// A place used again minutes after one in another country.
    Together,
    /// Another browser or program.
    Family,
    /// Another operating system.
    System,
    /// Another first language.
    Language,
    /// Another TLS handshake.
    Fingerprint,
    /// Another TLS handshake of a browser that the session knows, from a new network, where no update
    /// explains it: a program that says that it is that browser, or a proxy that opens TLS.
    Masquerade,
}

impl Signal {
    /// All, with their names.
    pub const ALL: [(Signal, &'static str); 11] = [
        (Signal::Network, "network"),
        (Signal::Operator, "operator"),
        (Signal::Hosting, "hosting"),
        (Signal::Country, "country"),
        (Signal::Speed, "speed"),
        (Signal::Together, "two-countries"),
        (Signal::Family, "browser"),
        (Signal::System, "system"),
        (Signal::Language, "language"),
        (Signal::Fingerprint, "fingerprint"),
        (Signal::Masquerade, "masquerade"),
    ];

    /// The name in logs.
    pub fn name(self) -> &'static str {
        Signal::ALL.iter().find(|(signal, _)| *signal == self).map_or("", |(_, name)| name)
    }

    /// Chosen so that everything a VPN changes at once (55) stays below a fresh login (60), and other
    /// software from another network (60 and more) does not. A cookie does not change browsers by itself.
    pub fn weight(self) -> u32 {
        match self {
            Signal::Operator | Signal::Speed => 5,
            Signal::Network | Signal::Hosting | Signal::Language => 10,
            Signal::Country | Signal::Together | Signal::Fingerprint | Signal::Masquerade => 25,
            Signal::Family | Signal::System => 50,
        }
    }
}

/// What is done, the mildest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Answer {
    Nothing,
    /// Written down.
    Log,
    /// The token is renewed: two who hold it cannot both follow.
    Renew,
    /// Nothing more before a fresh login.
    Login,
    /// The session ends, and its user is told.
    End,
}

impl Answer {
    /// All, the mildest first.
    pub const ALL: [Answer; 5] =
        [Answer::Nothing, Answer::Log, Answer::Renew, Answer::Login, Answer::End];

    /// The word in logs.
    pub fn word(self) -> &'static str {
        match self {
            Answer::Nothing => "nothing",
            Answer::Log => "log",
            Answer::Renew => "renew",
            Answer::Login => "login",
            Answer::End => "end",
        }
    }
}

/// From which score on something is done; nothing where it never is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    pub log: Option<u32>,
    pub renew: Option<u32>,
    pub login: Option<u32>,
    pub end: Option<u32>,
}

impl Default for Thresholds {
    /// Never the end: a signal is no proof, and a fresh login keeps a thief out as well.
    fn default() -> Thresholds {
        Thresholds { log: Some(20), renew: Some(35), login: Some(60), end: None }
    }
}

impl Thresholds {
    /// The strongest answer that a score reaches.
    pub fn answer(&self, score: u32) -> Answer {
        let reached = |threshold: Option<u32>| threshold.is_some_and(|least| score >= least);
        match () {
            () if reached(self.end) => Answer::End,
            () if reached(self.login) => Answer::Login,
            () if reached(self.renew) => Answer::Renew,
            () if reached(self.log) => Answer::Log,
            () => Answer::Nothing,
        }
    }
}

/// What speaks against one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub signals: Vec<Signal>,
    pub score: u32,
    /// What the score deserves where the route enforces it.
    pub answer: Answer,
}

impl Report {
    pub(super) fn new(signals: Vec<Signal>, thresholds: &Thresholds) -> Report {
        let score = signals.iter().map(|signal| signal.weight()).sum();
        Report { signals, score, answer: thresholds.answer(score) }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, signal) in self.signals.iter().enumerate() {
            let comma = if number == 0 { "" } else { ", " };
            write!(f, "{comma}{} {}", signal.name(), signal.weight())?;
        }
        Ok(())
    }
}
