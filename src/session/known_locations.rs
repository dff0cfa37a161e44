//! The locations from which a session was used. A location is scored when it is new, not at every
//! request.
//!
//! Invariants:
//! - at most [`MAX_NETWORKS`] networks and [`MAX_CLIENTS`] clients; the longest unused is removed first
//! - a location that enforce mode would have rejected is not known to a route in enforce mode, even
//!   after a route in monitor mode admitted it. Otherwise an attacker could use the monitored route first.

use std::net::IpAddr;
use std::time::Duration;

use super::context::{ClientContext, network_of};
use super::fingerprint::TlsFingerprint;
use super::policy::SignalsMode;
use super::record::{KnownClient, KnownNetwork, Record};
use super::user_history::{self, UserNetwork, retain_last};
use crate::clock::UnixMillis;

/// Maximum number of networks beside the one of the login.
pub const MAX_NETWORKS: usize = user_history::MAX_NETWORKS;

/// Maximum number of clients (user agent and TLS fingerprint) beside the one of the login.
pub const MAX_CLIENTS: usize = 4;

/// Shortest interval between two writes for a session that alternates between networks.
const RETURN_INTERVAL: Duration = Duration::from_secs(60);

/// Whether the location of a request is new to its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocationStatus {
    /// The network in use now, or one used a moment ago.
    Current,
    /// A known network, but another one was used since.
    Returned,
    /// A network, user agent or TLS fingerprint that the session has not used.
    New,
}

impl Record {
    /// Classifies a location. A network last used before `oldest` counts as new. If nothing changed, this
    /// takes three comparisons.
    pub fn location_status(
        &self,
        from: &ClientContext,
        mode: SignalsMode,
        oldest: UnixMillis,
        now: UnixMillis,
    ) -> LocationStatus {
        let network = from.network_address();
        if !self.is_known_client(from, mode) || !self.is_known_network(network, mode, oldest) {
            return LocationStatus::New;
        }
        let (current, since) = self.current_network();
        if network == network_of(current) {
            return LocationStatus::Current;
        }
        if now.since(since) < RETURN_INTERVAL {
            LocationStatus::Current
        } else {
            LocationStatus::Returned
        }
    }

    /// Returns an address in the current network, and when the session entered it.
    pub fn current_network(&self) -> (IpAddr, UnixMillis) {
        let login = (self.created_from.address, self.created);
        self.known_locations
            .networks
            .last()
            .map_or(login, |network| (network.address, network.last_used))
    }

    /// Returns one address of each known network: the one of the login, the current one, and those last
    /// used at or after `oldest`.
    pub fn known_addresses(
        &self,
        mode: SignalsMode,
        oldest: UnixMillis,
    ) -> impl Iterator<Item = IpAddr> + '_ {
        let networks = &self.known_locations.networks;
        let current = networks.len().saturating_sub(1);
        let known = networks.iter().enumerate().filter(move |(number, network)| {
            is_known_in(network.trusted, mode)
                && (*number == current || network.last_used >= oldest)
        });
        let known = known.map(|(_, network)| network.address);
        std::iter::once(self.created_from.address).chain(known)
    }

    /// Returns the known user agents.
    pub fn known_user_agents(&self, mode: SignalsMode) -> impl Iterator<Item = &str> + '_ {
        let known = self.known_clients(mode).map(|client| &client.user_agent);
        std::iter::once(&self.created_from.user_agent).chain(known).map(String::as_str)
    }

    /// Returns the known TLS fingerprints.
    pub fn known_fingerprints(
        &self,
        mode: SignalsMode,
    ) -> impl Iterator<Item = Option<TlsFingerprint>> + '_ {
        let known = self.known_clients(mode).map(|client| client.fingerprint);
        std::iter::once(self.created_from.fingerprint).chain(known)
    }

    /// Adds the recent networks of the user to a new session. User agents are not added: a user has several,
    /// but a cookie does not move from one browser to another.
    pub fn seed_networks(&mut self, known: impl Iterator<Item = UserNetwork>) {
        let here = self.created_from.network_address();
        let elsewhere = known.filter(|known| network_of(known.network) != here);
        let networks = &mut self.known_locations.networks;
        networks.extend(elsewhere.map(|UserNetwork { network, last_used: at, trusted }| {
            KnownNetwork { address: network, last_used: at, trusted }
        }));
        if networks.is_empty() {
            return;
        }
        // The last entry is the current network.
        let (address, at) = (self.created_from.address, self.created);
        networks.push(KnownNetwork { address, last_used: at, trusted: true });
        retain_last(networks, MAX_NETWORKS);
    }

    /// Adds the clients of the session that this one replaces in the same browser. Users behind a
    /// TLS-inspecting proxy therefore reauthenticate at most once.
    ///
    /// Clients of another user, or from before a password change, are not added: the attacker of the old
    /// password may be among them.
    pub fn inherit_clients(&mut self, before: &Record) {
        let (old, new) = (&before.identity, &self.identity);
        let is_same_user = (&old.provider, &old.user) == (&new.provider, &new.user);
        if !is_same_user || before.credential != self.credential {
            return;
        }
        let login = &before.created_from;
        let (user_agent, fingerprint) = (login.user_agent.clone(), login.fingerprint);
        let first = KnownClient { user_agent, fingerprint, trusted: true };
        let all = std::iter::once(first).chain(before.known_locations.clients.iter().cloned());
        let clients = &mut self.known_locations.clients;
        clients.extend(all.filter(|known| !known.matches(&self.created_from)));
        retain_last(clients, MAX_CLIENTS);
    }

    /// Records a location as the current one. `trusted`: a route in enforce mode accepts it.
    pub fn record_location(&mut self, from: &ClientContext, at: UnixMillis, trusted: bool) {
        let network = from.network_address();
        let is_login = self.created_from.network_address() == network;
        let networks = &mut self.known_locations.networks;
        // The previous network was in use until now.
        if let Some(left) = networks.last_mut() {
            left.last_used = left.last_used.max(at);
        }
        let before = networks.iter().position(|known| network_of(known.address) == network);
        let known = before.map(|at| networks.remove(at)).is_some_and(|known| known.trusted);
        networks.push(KnownNetwork {
            address: from.address,
            last_used: at,
            trusted: trusted || known || is_login,
        });
        retain_last(networks, MAX_NETWORKS);
        if !client_matches(from, &self.created_from.user_agent, self.created_from.fingerprint) {
            self.record_client(from, trusted);
        }
    }

    fn record_client(&mut self, from: &ClientContext, trusted: bool) {
        let clients = &mut self.known_locations.clients;
        let before = clients.iter().position(|known| known.matches(from));
        let known = before.map(|at| clients.remove(at)).is_some_and(|known| known.trusted);
        let (user_agent, fingerprint) = (from.user_agent.clone(), from.fingerprint);
        clients.push(KnownClient { user_agent, fingerprint, trusted: trusted || known });
        retain_last(clients, MAX_CLIENTS);
    }

    fn is_known_client(&self, from: &ClientContext, mode: SignalsMode) -> bool {
        let login = &self.created_from;
        client_matches(from, &login.user_agent, login.fingerprint)
            || self.known_clients(mode).any(|known| known.matches(from))
    }

    fn known_clients(&self, mode: SignalsMode) -> impl Iterator<Item = &KnownClient> + '_ {
        self.known_locations.clients.iter().filter(move |known| is_known_in(known.trusted, mode))
    }

    fn is_known_network(&self, network: IpAddr, mode: SignalsMode, oldest: UnixMillis) -> bool {
        self.known_addresses(mode, oldest).any(|known| network_of(known) == network)
    }
}

impl KnownClient {
    fn matches(&self, from: &ClientContext) -> bool {
        client_matches(from, &self.user_agent, self.fingerprint)
    }
}

/// An unknown TLS fingerprint matches any other.
fn client_matches(
    from: &ClientContext,
    user_agent: &str,
    fingerprint: Option<TlsFingerprint>,
) -> bool {
    from.user_agent == user_agent && from.matches_fingerprint(fingerprint)
}

fn is_known_in(trusted: bool, mode: SignalsMode) -> bool {
    match mode {
        SignalsMode::Enforce => trusted,
        SignalsMode::Off | SignalsMode::Monitor => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::{KeyRing, random_bytes};
    use crate::session::record::KnownLocations;
    use crate::session::{Identity, SessionId, SessionKey, Token, UserTag};

    const MINUTE: Duration = Duration::from_secs(60);
    const OLDEST: UnixMillis = UnixMillis(0);

    fn from(address: &str, user_agent: &str) -> ClientContext {
        ClientContext::new(address.parse().expect("an address"), user_agent.as_bytes())
    }

    fn record() -> Record {
        let keys = KeyRing::generate("now");
        let key = SessionKey { tag: UserTag([0; 8]), id: SessionId([0; 16]) };
        let token = Token::new(keys.signing_key().0, key, 0, random_bytes());
        let end = UnixMillis(u64::MAX);
        let home = from("192.0.2.7", "Firefox");
        Record::new(Identity::default(), &token, UnixMillis(0), end, home)
    }

    #[test]
    fn the_login_location_is_current_and_any_other_is_new_once() {
        let mut record = record();
        let (home, cafe) = (from("192.0.2.99", "Firefox"), from("198.51.100.7", "Firefox"));
        let at = UnixMillis(1_000_000);
        assert_eq!(
            record.location_status(&home, SignalsMode::Enforce, OLDEST, at),
            LocationStatus::Current
        );
        assert_eq!(
            record.location_status(&cafe, SignalsMode::Enforce, OLDEST, at),
            LocationStatus::New
        );
        record.record_location(&cafe, at, true);
        assert_eq!(
            record.location_status(&cafe, SignalsMode::Enforce, OLDEST, at),
            LocationStatus::Current
        );
        assert_eq!(
            record.location_status(&home, SignalsMode::Enforce, OLDEST, at),
            LocationStatus::Current,
            "used a moment ago"
        );
        assert_eq!(
            record.location_status(&home, SignalsMode::Enforce, OLDEST, at.plus(MINUTE)),
            LocationStatus::Returned
        );
    }

    fn fingerprint(number: u8) -> Option<TlsFingerprint> {
        let (cipher_hash, extension_hash) = ([number; 6], [0; 6]);
        let (cipher_count, extension_count) = (15, 12);
        Some(TlsFingerprint {
            version: 13,
            has_sni: true,
            cipher_count,
            extension_count,
            cipher_hash,
            extension_hash,
        })
    }

    #[test]
    fn the_same_user_agent_with_another_fingerprint_is_new_once() {
        let (home, at) = (from("192.0.2.7", "Firefox"), UnixMillis(1));
        let mut record = record();
        record.created_from = home.clone().with_fingerprint(fingerprint(1));
        for (number, status) in [
            (1, LocationStatus::Current),
            (2, LocationStatus::New),
            (1, LocationStatus::Current),
            (3, LocationStatus::New),
        ] {
            let here = home.clone().with_fingerprint(fingerprint(number));
            assert_eq!(
                record.location_status(&here, SignalsMode::Enforce, OLDEST, at),
                status,
                "{number}"
            );
            record.record_location(&here, at, true);
            assert_eq!(
                record.location_status(&here, SignalsMode::Enforce, OLDEST, at),
                LocationStatus::Current,
                "{number}"
            );
        }
        assert_eq!(
            record.location_status(&home, SignalsMode::Enforce, OLDEST, at),
            LocationStatus::Current,
            "unknown fingerprint"
        );
        assert!(!record.created_from.is_same_location(&home.with_fingerprint(fingerprint(2))));
    }

    #[test]
    fn a_location_admitted_in_monitor_mode_is_new_in_enforce_mode() {
        let mut record = record();
        let attacker = from("203.0.113.9", "curl");
        record.record_location(&attacker, UnixMillis(1), false);
        assert_eq!(
            record.location_status(&attacker, SignalsMode::Monitor, OLDEST, UnixMillis(2)),
            LocationStatus::Current
        );
        assert_eq!(
            record.location_status(&attacker, SignalsMode::Enforce, OLDEST, UnixMillis(2)),
            LocationStatus::New
        );
        let home = from("192.0.2.7", "Firefox");
        assert_eq!(
            record.location_status(&home, SignalsMode::Enforce, OLDEST, UnixMillis(2)),
            LocationStatus::Current
        );
        record.record_location(&attacker, UnixMillis(3), true);
        assert_eq!(
            record.location_status(&attacker, SignalsMode::Enforce, OLDEST, UnixMillis(4)),
            LocationStatus::Current
        );
    }

    #[test]
    fn a_new_session_has_the_networks_of_its_user() {
        let at = UnixMillis(1_000_000);
        let known = |address: &str, trusted| {
            let network = from(address, "").network_address();
            UserNetwork { network, last_used: UnixMillis(500_000), trusted }
        };
        let mut record = Record { created: at, ..record() };
        let before =
            [known("198.51.100.7", true), known("203.0.113.9", false), known("192.0.2.1", true)];
        record.seed_networks(before.into_iter());
        let (home, cafe) = (from("192.0.2.99", "Firefox"), from("198.51.100.7", "Firefox"));
        let monitored = from("203.0.113.9", "Firefox");
        assert_eq!(record.current_network(), (record.created_from.address, at));
        assert_eq!(
            record.location_status(&home, SignalsMode::Enforce, OLDEST, at),
            LocationStatus::Current
        );
        assert_eq!(
            record.location_status(&cafe, SignalsMode::Enforce, OLDEST, at.plus(MINUTE)),
            LocationStatus::Returned
        );
        assert_eq!(
            record.location_status(&monitored, SignalsMode::Enforce, OLDEST, at),
            LocationStatus::New
        );
        assert_eq!(
            record.location_status(&monitored, SignalsMode::Monitor, OLDEST, at),
            LocationStatus::Current
        );
        let curl = from("198.51.100.7", "curl");
        assert_eq!(
            record.location_status(&curl, SignalsMode::Monitor, OLDEST, at),
            LocationStatus::New
        );
        assert_eq!(
            record.known_addresses(SignalsMode::Enforce, UnixMillis(600_000)).count(),
            2,
            "too old"
        );
    }

    #[test]
    fn a_new_session_inherits_the_clients_of_the_replaced_one() {
        let at = UnixMillis(1);
        let client_with =
            |number| from("192.0.2.7", "Firefox").with_fingerprint(fingerprint(number));
        let record_from = |number| Record { created_from: client_with(number), ..record() };
        let mut before = record_from(1);
        before.record_location(&client_with(2), at, true);
        before.record_location(&client_with(3), at, false);
        let mut record = record_from(2);
        record.inherit_clients(&before);
        for (number, mode, status) in [
            (1, SignalsMode::Enforce, LocationStatus::Current),
            (2, SignalsMode::Enforce, LocationStatus::Current),
            (3, SignalsMode::Enforce, LocationStatus::New),
            (3, SignalsMode::Monitor, LocationStatus::Current),
            (4, SignalsMode::Monitor, LocationStatus::New),
        ] {
            let here = record.location_status(&client_with(number), mode, OLDEST, at);
            assert_eq!(here, status, "{number}, {mode:?}");
        }
        assert_eq!(record.known_locations.clients.len(), 2, "its own client is not stored twice");
        let other = Identity { user: "bob".to_owned(), ..Identity::default() };
        for mut stranger in [
            Record { identity: other.into(), ..record_from(2) },
            Record { credential: [7; 8], ..record_from(2) },
        ] {
            stranger.inherit_clients(&before);
            assert_eq!(stranger.known_locations, KnownLocations::default());
        }
        for number in 5..20 {
            let mut next = record_from(number);
            next.inherit_clients(&record);
            assert!(next.known_locations.clients.len() <= MAX_CLIENTS);
            record = next;
        }
    }

    #[test]
    fn an_unused_network_becomes_new_unless_it_is_current() {
        let mut record = record();
        let [cafe, train] = ["198.51.100.7", "203.0.113.9"].map(|at| from(at, "Firefox"));
        let at = |minutes: u64| UnixMillis(minutes * 60_000);
        record.record_location(&cafe, at(10), true);
        let location_status = |record: &Record, from: &ClientContext, oldest: u64, now: u64| {
            record.location_status(from, SignalsMode::Enforce, at(oldest), at(now))
        };
        assert_eq!(
            location_status(&record, &cafe, 60, 90),
            LocationStatus::Current,
            "it never left"
        );
        record.record_location(&train, at(90), true);
        assert_eq!(
            location_status(&record, &cafe, 89, 119),
            LocationStatus::Returned,
            "left a moment ago"
        );
        assert_eq!(location_status(&record, &cafe, 91, 121), LocationStatus::New);
        let home = from("192.0.2.7", "Firefox");
        assert_eq!(
            location_status(&record, &home, 500, 600),
            LocationStatus::Returned,
            "the login location"
        );
    }

    #[test]
    fn seeding_without_networks_changes_nothing() {
        let mut record = record();
        record.seed_networks(std::iter::empty());
        assert_eq!(record.known_locations, KnownLocations::default());
    }

    #[test]
    fn the_known_locations_are_bounded() {
        let mut record = record();
        for number in 0..200 {
            let place = from(&format!("10.0.{number}.1"), &format!("agent {number}"));
            record.record_location(&place, UnixMillis(number), true);
        }
        assert_eq!(
            (record.known_locations.networks.len(), record.known_locations.clients.len()),
            (MAX_NETWORKS, MAX_CLIENTS)
        );
        assert_eq!(record.current_network().0, from("10.0.199.1", "").address);
        assert_eq!(
            record.location_status(
                &from("192.0.2.7", "Firefox"),
                SignalsMode::Enforce,
                OLDEST,
                UnixMillis(u64::MAX)
            ),
            LocationStatus::Returned,
            "the login location is never removed"
        );
    }
}
