//! The rates of events in a user's life with their sources. The report prints this table.
//!
//! Unknown rates are assumed and rather too high, so that the results are an upper bound for honest users.

pub struct Rate {
    pub value: f64,
    pub what: &'static str,
    pub why: &'static str,
}

const fn rate(value: f64, what: &'static str, why: &'static str) -> Rate {
    Rate { value, what, why }
}

pub const OFFICE: Rate =
    rate(0.6, "users who work in an office three days a week", "assumed; the others work at home");
pub const FILTERED: Rate = rate(
    0.1,
    "offices behind a web filter in the cloud, which opens TLS and leaves from one of two countries",
    "assumed",
);
pub const RENUMBERED: Rate = rate(
    0.3,
    "homes that get a new address each day, half of them from another network",
    "Padmanabhan et al., Reasons Dynamic Addresses Change, IMC 2016: periods of 24 h; almost half of the changes leave the prefix",
);
pub const DUAL: Rate =
    rate(0.5, "homes and carriers with IPv6", "about half of the users, by Google's statistics");
pub const VPN_FALLBACK: Rate =
    rate(0.1, "page views over IPv4 of who has IPv6", "Happy Eyeballs (RFC 8305); share assumed");
pub const CARRIER_MINUTES: Rate = rate(
    20.0,
    "minutes after which a phone has another address of its carrier (24 networks)",
    "Balakrishnan et al., Where's that Phone?, IMC 2009: other addresses within minutes",
);
pub const VPN: Rate = rate(0.25, "users who have a VPN", "surveys report a quarter to a third");
pub const VPN_ON: Rate = rate(
    0.25,
    "their sittings in which they switch it on, half of them abroad, and half off again",
    "assumed",
);
pub const FLIES: Rate = rate(
    0.3,
    "users who fly abroad once in 30 days, for three days; a third to another continent",
    "assumed; Eurostat counts some 0.2 such trips per head",
);
pub const TRAVEL_CARD: Rate = rate(0.3, "of these, a telephone card of a third country", "assumed");
pub const UPDATE_DAYS: Rate = rate(
    28.0,
    "days between versions of a browser in its User-Agent",
    "Chrome, Edge and Firefox: every four weeks",
);
pub const UPDATE_HANDSHAKE: Rate =
    rate(0.25, "of these, with another TLS handshake", "assumed; a few a year are known");
pub const CRASH: Rate = rate(
    0.002,
    "crashes for each hour of use, power cuts included; the jar is then up to 30 s older",
    "Mozilla publishes some 1 in 1,000 hours; doubled",
);
pub const LID_CLOSED: Rate =
    rate(0.1, "sittings whose last responses are lost as the lid closes", "assumed");
pub const RESTORED: Rate =
    rate(0.3, "sittings that begin with two to six restored tabs", "assumed");
pub const POLLS: Rate =
    rate(0.1, "users with a tab that sends a request every two minutes", "assumed");
pub const LOST_AIR: Rate = rate(0.01, "responses lost over the air", "assumed");
pub const LOST_WIRE: Rate = rate(0.001, "responses lost on wires", "assumed");
pub const STUCK: Rate = rate(
    0.000_01,
    "requests over the air that arrive 5 to 60 s late",
    "TCP sends again after 1, 3, 7, 15 and 31 s (RFC 6298); share assumed",
);
pub const DESKTOP_PAGE: Rate =
    rate(0.03, "sittings at the phone that request desktop pages", "assumed");
pub const MEDIA: Rate = rate(
    0.1,
    "sittings at an iPhone that play a video of the app (another program fetches it)",
    "assumed; the User-Agent is then AppleCoreMedia",
);
pub const LANGUAGE: Rate =
    rate(0.02, "users who change the language of their browser once in 30 days", "assumed");
pub const DEVICE_EMULATION: Rate = rate(
    0.005,
    "users whose laptop claims once in 30 days to be a phone (developer tools)",
    "assumed",
);

pub const ALL: [&Rate; 23] = [
    &OFFICE,
    &FILTERED,
    &RENUMBERED,
    &DUAL,
    &VPN_FALLBACK,
    &CARRIER_MINUTES,
    &VPN,
    &VPN_ON,
    &FLIES,
    &TRAVEL_CARD,
    &UPDATE_DAYS,
    &UPDATE_HANDSHAKE,
    &CRASH,
    &LID_CLOSED,
    &RESTORED,
    &POLLS,
    &LOST_AIR,
    &LOST_WIRE,
    &STUCK,
    &DESKTOP_PAGE,
    &MEDIA,
    &LANGUAGE,
    &DEVICE_EMULATION,
];
