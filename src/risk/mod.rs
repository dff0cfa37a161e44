//! Risk signals: indications that a session was taken over by another machine. Pure.
//!
//! Compares a request with the known locations of its session. The result is a list of [`Signal`]s, the
//! sum of their weights, and the [`RiskAction`] for that sum.
//!
//! Invariants:
//! - a signal is never proof: roaming, VPNs, company proxies and updates are ordinary. With the default
//!   [`Thresholds`], a network change alone never requires more than token rotation. An honest browser
//!   is not affected by it, and an attacker cannot avoid it. Only another client on another network
//!   has to log in again.
//! - missing data is no signal: without a database there are no country signals
//! - nothing is computed while the location does not change ([`Record::location_status`])

mod distance;
mod geoip;
mod new_location;
mod rescore;
mod scoring;
mod user_agent;

pub use geoip::{Country, Database, DatabaseError, GeoInfo, GeoIp};
pub use scoring::{RiskAction, RiskReport, Signal, Thresholds};
pub use user_agent::{OperatingSystem, UserAgent, describe as describe_user_agent};

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use crate::clock::UnixMillis;
use crate::session::context::network_of;
use crate::session::{ClientContext, LocationStatus, Record, SignalsMode};

/// Use in two countries within this time is a signal.
const CONCURRENT_WINDOW: Duration = Duration::from_secs(10 * 60);

/// Maximum speed of a traveller in km/h, above that of an airliner.
const MAX_SPEED_KMH: f64 = 1_000.0;

/// Minimum pause of the session in which a browser update plus a network change is plausible.
const MIN_UPDATE_PAUSE: Duration = Duration::from_secs(30 * 60);

/// Typical location error of the databases in km.
const GEO_ERROR_KM: f64 = 500.0;

/// Settings of the risk assessment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RiskSettings {
    pub thresholds: Thresholds,
    /// A network unused for longer than this counts as new.
    pub known_for: Duration,
    /// Networks that are known for every session, such as offices and the company VPN.
    pub allow: Vec<IpNet>,
}

impl Default for RiskSettings {
    fn default() -> RiskSettings {
        let known_for = Duration::from_secs(30 * 24 * 60 * 60);
        RiskSettings { thresholds: Thresholds::default(), known_for, allow: Vec::new() }
    }
}

/// A request and its session.
pub struct Observation<'a> {
    pub record: &'a Record,
    pub context: &'a ClientContext,
    pub mode: SignalsMode,
    /// The session's last activity.
    pub last_active: UnixMillis,
    pub now: UnixMillis,
}

impl RiskSettings {
    /// Returns the risk signals of a request, or `None` if the location did not change.
    pub fn assess(&self, geoip: &GeoIp, observation: &Observation<'_>) -> Option<RiskReport> {
        let signals = match observation.location_status(self.known_for) {
            LocationStatus::Current => return None,
            LocationStatus::Returned => {
                Comparison::new(self, geoip, observation).concurrent_country_signals()
            }
            LocationStatus::New => Comparison::new(self, geoip, observation).new_location_signals(),
        };
        Some(RiskReport::new(signals, &self.thresholds))
    }
}

impl Observation<'_> {
    fn location_status(&self, known_for: Duration) -> LocationStatus {
        match self.mode {
            SignalsMode::Off => LocationStatus::Current,
            SignalsMode::Monitor | SignalsMode::Enforce => {
                let oldest = self.now.minus(known_for);
                self.record.location_status(self.context, self.mode, oldest, self.now)
            }
        }
    }
}

/// The location of a request, compared with the known locations of its session.
struct Comparison<'a> {
    observation: &'a Observation<'a>,
    /// Location of the request.
    here: GeoInfo,
    /// Previous location of the session.
    last: GeoInfo,
    known: Vec<GeoInfo>,
    /// Whether the session has used this network.
    is_known_network: bool,
    /// Whether the network is in [`RiskSettings::allow`].
    is_allowed: bool,
}

impl<'a> Comparison<'a> {
    fn new(
        settings: &RiskSettings,
        geoip: &GeoIp,
        observation: &'a Observation<'a>,
    ) -> Comparison<'a> {
        let record = observation.record;
        let oldest = observation.now.minus(settings.known_for);
        let known: Vec<IpAddr> = record.known_addresses(observation.mode, oldest).collect();
        let address = observation.context.address;
        let network = network_of(address);
        let is_allowed = settings.allow.iter().any(|allowed| allowed.contains(&address));
        Comparison {
            observation,
            here: geoip.lookup(address),
            last: geoip.lookup(record.current_network().0),
            is_known_network: known.iter().any(|known| network_of(*known) == network),
            known: known.into_iter().map(|address| geoip.lookup(address)).collect(),
            is_allowed,
        }
    }

    fn new_location_signals(&self) -> Vec<Signal> {
        let mut signals = Vec::new();
        if !self.is_known_network && !self.is_allowed {
            self.network_signals(&mut signals);
        }
        self.client_signals(&mut signals);
        signals
    }

    fn network_signals(&self, signals: &mut Vec<Signal>) {
        new_network_signals(&self.here, &self.known, signals);
        if self.is_impossible_travel() {
            signals.push(Signal::ImpossibleTravel);
        }
    }

    /// Returns whether no traveller could get here since the last activity.
    fn is_impossible_travel(&self) -> bool {
        let (Some(here), Some(last)) = (self.here.coordinates, self.last.coordinates) else {
            return false;
        };
        let hours = self.observation.now.since(self.observation.last_active).as_secs_f64() / 3600.0;
        let distance = distance::distance_km(here, last);
        distance > GEO_ERROR_KM && distance > MAX_SPEED_KMH * hours
    }

    fn client_signals(&self, signals: &mut Vec<Signal>) {
        let (record, context) = (self.observation.record, self.observation.context);
        let known: Vec<UserAgent> =
            record.known_user_agents(self.observation.mode).map(UserAgent::parse).collect();
        let here = UserAgent::parse(&context.user_agent);
        if differs(here.browser, known.iter().map(|known| known.browser)) {
            signals.push(Signal::Browser);
        }
        if differs(here.os, known.iter().map(|known| known.os)) {
            signals.push(Signal::OperatingSystem);
        }
        let login = &record.created_from;
        let both_known = !context.language.is_empty() && !login.language.is_empty();
        if both_known && context.language != login.language {
            signals.push(Signal::Language);
        }
        if differs(context.fingerprint, record.known_fingerprints(self.observation.mode)) {
            signals.push(Signal::Fingerprint);
            if signals.contains(&Signal::Network) && self.is_spoofed(&here, &known) {
                signals.push(Signal::SpoofedUserAgent);
            }
        }
    }

    /// Returns whether a client with a new TLS fingerprint claims to be a known browser, and no update
    /// explains the fingerprint: the version is not newer, or the pause was too short.
    fn is_spoofed(&self, here: &UserAgent<'_>, known: &[UserAgent<'_>]) -> bool {
        let may_be_updated =
            self.observation.now.since(self.observation.last_active) >= MIN_UPDATE_PAUSE;
        let mut same = known.iter().filter(|known| known.browser == here.browser);
        here.browser.is_some() && same.any(|known| !may_be_updated || here.version <= known.version)
    }

    /// Returns a signal if the session was used in another country minutes ago: one user with a VPN, or
    /// two people.
    fn concurrent_country_signals(&self) -> Vec<Signal> {
        let (_, entered) = self.observation.record.current_network();
        let is_recent = self.observation.now.since(entered) < CONCURRENT_WINDOW;
        let other_country = differs(self.here.country, std::iter::once(self.last.country));
        if is_recent && other_country && !self.is_allowed {
            vec![Signal::ConcurrentCountries]
        } else {
            Vec::new()
        }
    }
}

/// Adds the signals of a network that differs from all known ones.
fn new_network_signals(here: &GeoInfo, known: &[GeoInfo], signals: &mut Vec<Signal>) {
    signals.push(Signal::Network);
    if differs(here.country, known.iter().map(|known| known.country)) {
        signals.push(Signal::Country);
    }
    if differs(here.asn, known.iter().map(|known| known.asn)) {
        signals.push(Signal::Asn);
    }
    if here.hosting && !known.iter().any(|known| known.hosting) {
        signals.push(Signal::Hosting);
    }
}

/// Returns whether a value differs from all known ones. A missing value differs from nothing.
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
