//! Signals that a session was moved to somebody else's machine. Pure.
//!
//! From what the session knows (where it began, what it was used from since) and the request at hand
//! to a list of [`Signal`]s with weights, their sum, and the [`Answer`] that the sum deserves.
//!
//! Invariants:
//! - a signal is never proof: roaming, VPNs, company proxies and software updates are ordinary. With
//!   the default [`Thresholds`] no change of place alone asks for more than a renewed token, which an
//!   honest browser does not notice and a thief cannot hide from; a fresh login needs other software
//!   from another network
//! - what is not known is no signal: no database, no country, no word about countries
//! - nothing is computed while a session stays where it is ([`Record::novelty`])

mod again;
mod atlas;
mod distance;
mod newcomer;
mod software;
mod weigh;

pub use atlas::{Atlas, Country, Database, DatabaseError, Locality};
pub use software::{Software, System};
pub use weigh::{Answer, Report, Signal, Thresholds};

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use crate::clock::UnixMillis;
use crate::session::context::network_of;
use crate::session::{ClientContext, Novelty, Record, Watch};

/// Two countries within this time are one too many for one traveller.
const TOGETHER: Duration = Duration::from_secs(10 * 60);

/// Faster than an airliner, in km/h.
const FASTEST: f64 = 1_000.0;

/// Who updates the browser and goes to another network is away for longer than this.
const RESTED: Duration = Duration::from_secs(30 * 60);

/// Databases put an address into the wrong town often, in km.
const BLUR: f64 = 500.0;

/// What is held against what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub thresholds: Thresholds,
    /// A network that was not used for longer is a new one.
    pub known_for: Duration,
    /// Networks that are known to everybody: offices, the company's VPN.
    pub allow: Vec<IpNet>,
}

impl Default for Settings {
    fn default() -> Settings {
        let known_for = Duration::from_secs(30 * 24 * 60 * 60);
        Settings { thresholds: Thresholds::default(), known_for, allow: Vec::new() }
    }
}

/// A request, and the session that it belongs to.
pub struct Arrival<'a> {
    pub record: &'a Record,
    pub context: &'a ClientContext,
    pub watch: Watch,
    /// The session's last activity.
    pub active: UnixMillis,
    pub now: UnixMillis,
}

impl Settings {
    /// What speaks against this request. `None` while the session stays where it is.
    pub fn judge(&self, atlas: &Atlas, arrival: &Arrival<'_>) -> Option<Report> {
        let signals = match arrival.novelty(self.known_for) {
            Novelty::Here => return None,
            Novelty::Back => Compared::new(self, atlas, arrival).by_turns(),
            Novelty::New => Compared::new(self, atlas, arrival).all(),
        };
        Some(Report::new(signals, &self.thresholds))
    }
}

impl Arrival<'_> {
    fn novelty(&self, known_for: Duration) -> Novelty {
        match self.watch {
            Watch::Off => Novelty::Here,
            Watch::Monitor | Watch::Enforce => {
                let oldest = self.now.minus(known_for);
                self.record.novelty(self.context, self.watch, oldest, self.now)
            }
        }
    }
}

/// A request's place beside those that its session knows.
struct Compared<'a> {
    arrival: &'a Arrival<'a>,
    /// Where the request comes from.
    here: Locality,
    /// Where the session was last.
    last: Locality,
    known: Vec<Locality>,
    /// Whether the session was used from this very network.
    known_network: bool,
    /// Whether the network is known to everybody.
    allowed: bool,
}

impl<'a> Compared<'a> {
    fn new(settings: &Settings, atlas: &Atlas, arrival: &'a Arrival<'a>) -> Compared<'a> {
        let record = arrival.record;
        let oldest = arrival.now.minus(settings.known_for);
        let places: Vec<IpAddr> = record.known_places(arrival.watch, oldest).collect();
        let address = arrival.context.address;
        let own = network_of(address);
        let allowed = settings.allow.iter().any(|network| network.contains(&address));
        Compared {
            arrival,
            here: atlas.look(address),
            last: atlas.look(record.current_place().0),
            known_network: places.iter().any(|place| network_of(*place) == own),
            known: places.into_iter().map(|place| atlas.look(place)).collect(),
            allowed,
        }
    }

    fn all(&self) -> Vec<Signal> {
        let mut signals = Vec::new();
        if !self.known_network && !self.allowed {
            self.network(&mut signals);
        }
        self.software(&mut signals);
        signals
    }

    fn network(&self, signals: &mut Vec<Signal>) {
        new_network(&self.here, &self.known, signals);
        if self.is_impossible() {
            signals.push(Signal::Speed);
        }
    }

    /// Whether nobody could have travelled here since the last activity.
    fn is_impossible(&self) -> bool {
        let (Some(here), Some(last)) = (self.here.coordinates, self.last.coordinates) else {
            return false;
        };
        let hours = self.arrival.now.since(self.arrival.active).as_secs_f64() / 3600.0;
        let way = distance::kilometres(here, last);
        way > BLUR && way > FASTEST * hours
    }

    fn software(&self, signals: &mut Vec<Signal>) {
        let (record, context) = (self.arrival.record, self.arrival.context);
        let known: Vec<Software> =
            record.known_agents(self.arrival.watch).map(Software::read).collect();
        let here = Software::read(&context.agent);
        if differs(here.family, known.iter().map(|known| known.family)) {
            signals.push(Signal::Family);
        }
        if differs(here.system, known.iter().map(|known| known.system)) {
            signals.push(Signal::System);
        }
        let begun = &record.begun_from;
        let said = !context.language.is_empty() && !begun.language.is_empty();
        if said && context.language != begun.language {
            signals.push(Signal::Language);
        }
        if differs(context.fingerprint, record.known_fingerprints(self.arrival.watch)) {
            signals.push(Signal::Fingerprint);
            if signals.contains(&Signal::Network) && self.is_masked(&here, &known) {
                signals.push(Signal::Masquerade);
            }
        }
    }

    /// Whether this says that it is a browser which the session knows, and is none that was updated
    /// meanwhile: for that it is no newer, or was away too short a time.
    fn is_masked(&self, here: &Software<'_>, known: &[Software<'_>]) -> bool {
        let rested = self.arrival.now.since(self.arrival.active) >= RESTED;
        let mut same = known.iter().filter(|known| known.family == here.family);
        here.family.is_some() && same.any(|known| !rested || here.version <= known.version)
    }

    /// A place that was left for another country minutes ago and is used again: one person with a VPN,
    /// or two people.
    fn by_turns(&self) -> Vec<Signal> {
        let (_, entered) = self.arrival.record.current_place();
        let soon = self.arrival.now.since(entered) < TOGETHER;
        let abroad = differs(self.here.country, std::iter::once(self.last.country));
        if soon && abroad && !self.allowed { vec![Signal::Together] } else { Vec::new() }
    }
}

/// What a new network has that the known ones do not have.
fn new_network(here: &Locality, known: &[Locality], signals: &mut Vec<Signal>) {
    signals.push(Signal::Network);
    if differs(here.country, known.iter().map(|known| known.country)) {
        signals.push(Signal::Country);
    }
    if differs(here.operator, known.iter().map(|known| known.operator)) {
        signals.push(Signal::Operator);
    }
    if here.hosting && !known.iter().any(|known| known.hosting) {
        signals.push(Signal::Hosting);
    }
}

/// Whether this is none of those that are known. What is not known cannot differ.
fn differs<T: PartialEq>(here: Option<T>, mut known: impl Iterator<Item = Option<T>>) -> bool {
    let Some(here) = here else { return false };
    let mut any = false;
    let same = known.any(|known| {
        any |= known.is_some();
        known.is_some_and(|known| known == here)
    });
    any && !same
}

#[cfg(test)]
mod tests;
