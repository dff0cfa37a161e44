//! What a session has been used from, so that a place is judged once and not at every request.
//!
//! Invariants:
//! - bounded: at most [`NETWORKS`] networks and [`SOFTWARE`] programs, the longest unused goes first
//! - a place that an enforcing route would have answered is not known to it, though a route that only
//!   watches has let it pass: who has a stolen token could else make himself known there first

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::context::{ClientContext, network_of};
use super::fingerprint::Fingerprint;
use super::memo::{self, Known as KnownBefore};
use super::policy::Watch;
use super::record::Record;
use crate::clock::UnixMillis;

/// Networks kept beside the one where the session began.
pub const NETWORKS: usize = memo::NETWORKS;

/// User agents, each with a TLS handshake, kept beside those that the session began with.
pub const SOFTWARE: usize = 4;

/// A network that was used by turns with another is written down at most this often.
const RETURN_EVERY: Duration = Duration::from_secs(60);

/// Networks and software beside those of the login. Empty for most sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The one entered last stands last.
    networks: Vec<Entered>,
    software: Vec<Known>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entered {
    address: IpAddr,
    /// When it was entered last, or left, where another one was used since.
    at: UnixMillis,
    /// Whether an enforcing route lets it pass too.
    passed: bool,
}

/// A program by both of its signs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    agent: String,
    fingerprint: Option<Fingerprint>,
    passed: bool,
}

/// How new a request's place is to its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Novelty {
    /// Where the session is already, or was a moment ago.
    Here,
    /// Known, but another network was used since.
    Back,
    /// A network, a user agent or a TLS handshake that the session was not used from.
    New,
}

impl Record {
    /// How new this place is. A network that was left before `oldest` is a new one. Costs three comparisons
    /// where nothing changed.
    pub fn novelty(
        &self,
        from: &ClientContext,
        watch: Watch,
        oldest: UnixMillis,
        now: UnixMillis,
    ) -> Novelty {
        let network = from.network_address();
        if !self.knows_software(from, watch) || !self.knows_network(network, watch, oldest) {
            return Novelty::New;
        }
        let (current, since) = self.current_place();
        if network == network_of(current) {
            return Novelty::Here;
        }
        if now.since(since) < RETURN_EVERY { Novelty::Here } else { Novelty::Back }
    }

    /// An address of the network entered last, and when that was.
    pub fn current_place(&self) -> (IpAddr, UnixMillis) {
        let begun = (self.begun_from.address, self.created);
        self.seen.networks.last().map_or(begun, |entered| (entered.address, entered.at))
    }

    /// One address of each network that the session is known to use, and was in since `oldest`: where it
    /// is now, where it began, and those that it left later than that.
    pub fn known_places(
        &self,
        watch: Watch,
        oldest: UnixMillis,
    ) -> impl Iterator<Item = IpAddr> + '_ {
        let networks = &self.seen.networks;
        let left = networks.len().saturating_sub(1);
        let seen = networks.iter().enumerate().filter(move |(number, entered)| {
            counts(entered.passed, watch) && (*number == left || entered.at >= oldest)
        });
        let seen = seen.map(|(_, entered)| entered.address);
        std::iter::once(self.begun_from.address).chain(seen)
    }

    /// User agents that the session is known to use.
    pub fn known_agents(&self, watch: Watch) -> impl Iterator<Item = &str> + '_ {
        let seen = self.known_software(watch).map(|known| &known.agent);
        std::iter::once(&self.begun_from.agent).chain(seen).map(String::as_str)
    }

    /// TLS handshakes that the session is known to use.
    pub fn known_fingerprints(
        &self,
        watch: Watch,
    ) -> impl Iterator<Item = Option<Fingerprint>> + '_ {
        let seen = self.known_software(watch).map(|known| known.fingerprint);
        std::iter::once(self.begun_from.fingerprint).chain(seen)
    }

    /// A new session knows from its beginning where its user was lately. Networks alone: a user has several
    /// programs, but a cookie does not go from one to another.
    pub fn seed(&mut self, known: impl Iterator<Item = KnownBefore>) {
        let here = self.begun_from.network_address();
        let elsewhere = known.filter(|known| network_of(known.network) != here);
        let networks = &mut self.seen.networks;
        networks.extend(elsewhere.map(|KnownBefore { network, at, passed }| Entered {
            address: network,
            at,
            passed,
        }));
        if networks.is_empty() {
            return;
        }
        // Where the session is: what stands last.
        let (address, at) = (self.begun_from.address, self.created);
        networks.push(Entered { address, at, passed: true });
        shorten(networks, NETWORKS);
    }

    /// A new session knows the programs of the one whose place it takes in its browser, each with its handshake:
    /// a cookie does not go from one to another, and who opened TLS on the way will do so again. Not those of
    /// another user, nor from before a change of the password: whoever had the old one may be among them.
    pub fn inherit(&mut self, before: &Record) {
        let is_his = before.identity.user == self.identity.user;
        if !is_his || before.credential != self.credential {
            return;
        }
        let begun = &before.begun_from;
        let (agent, fingerprint) = (begun.agent.clone(), begun.fingerprint);
        let first = Known { agent, fingerprint, passed: true };
        let all = std::iter::once(first).chain(before.seen.software.iter().cloned());
        let software = &mut self.seen.software;
        software.extend(all.filter(|known| !known.is_of(&self.begun_from)));
        shorten(software, SOFTWARE);
    }

    /// Writes a place down as the one used last. `passed`: no enforcing route would mind.
    pub fn note(&mut self, from: &ClientContext, at: UnixMillis, passed: bool) {
        let network = from.network_address();
        let begun = self.begun_from.network_address() == network;
        let networks = &mut self.seen.networks;
        // It was used up to now.
        if let Some(left) = networks.last_mut() {
            left.at = left.at.max(at);
        }
        let before = networks.iter().position(|entered| network_of(entered.address) == network);
        let known = before.map(|at| networks.remove(at)).is_some_and(|entered| entered.passed);
        networks.push(Entered { address: from.address, at, passed: passed || known || begun });
        shorten(networks, NETWORKS);
        if !is_of(from, &self.begun_from.agent, self.begun_from.fingerprint) {
            self.note_software(from, passed);
        }
    }

    fn note_software(&mut self, from: &ClientContext, passed: bool) {
        let software = &mut self.seen.software;
        let before = software.iter().position(|known| known.is_of(from));
        let known = before.map(|at| software.remove(at)).is_some_and(|known| known.passed);
        let (agent, fingerprint) = (from.agent.clone(), from.fingerprint);
        software.push(Known { agent, fingerprint, passed: passed || known });
        shorten(software, SOFTWARE);
    }

    fn knows_software(&self, from: &ClientContext, watch: Watch) -> bool {
        let begun = &self.begun_from;
        is_of(from, &begun.agent, begun.fingerprint)
            || self.known_software(watch).any(|known| known.is_of(from))
    }

    fn known_software(&self, watch: Watch) -> impl Iterator<Item = &Known> + '_ {
        self.seen.software.iter().filter(move |known| counts(known.passed, watch))
    }

    fn knows_network(&self, network: IpAddr, watch: Watch, oldest: UnixMillis) -> bool {
        self.known_places(watch, oldest).any(|known| network_of(known) == network)
    }
}

impl Known {
    fn is_of(&self, from: &ClientContext) -> bool {
        is_of(from, &self.agent, self.fingerprint)
    }
}

/// A handshake that nobody looked at may be any.
fn is_of(from: &ClientContext, agent: &str, fingerprint: Option<Fingerprint>) -> bool {
    from.agent == agent && from.may_be(fingerprint)
}

fn counts(passed: bool, watch: Watch) -> bool {
    match watch {
        Watch::Enforce => passed,
        Watch::Off | Watch::Monitor => true,
    }
}

/// Drops from the front what is over `limit`.
pub(super) fn shorten<T>(list: &mut Vec<T>, limit: usize) {
    let over = list.len().saturating_sub(limit);
    list.drain(..over);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::{KeyRing, random_bytes};
    use crate::session::{Identity, SessionId, SessionKey, Token, UserTag};

    const MINUTE: Duration = Duration::from_secs(60);
    const OLDEST: UnixMillis = UnixMillis(0);

    fn from(address: &str, agent: &str) -> ClientContext {
        ClientContext::new(address.parse().expect("an address"), agent.as_bytes())
    }

    fn record() -> Record {
        let keys = KeyRing::generate("now");
        let key = SessionKey { tag: UserTag([0; 8]), id: SessionId([0; 16]) };
        let token = Token::new(keys.newest().0, key, 0, random_bytes());
        let end = UnixMillis(u64::MAX);
        let home = from("192.0.2.7", "Firefox");
        Record::begin(Identity::default(), &token, UnixMillis(0), end, home)
    }

    #[test]
    fn the_place_of_the_login_is_here_and_any_other_is_new_once() {
        let mut record = record();
        let (home, cafe) = (from("192.0.2.99", "Firefox"), from("198.51.100.7", "Firefox"));
        let at = UnixMillis(1_000_000);
        assert_eq!(record.novelty(&home, Watch::Enforce, OLDEST, at), Novelty::Here);
        assert_eq!(record.novelty(&cafe, Watch::Enforce, OLDEST, at), Novelty::New);
        record.note(&cafe, at, true);
        assert_eq!(record.novelty(&cafe, Watch::Enforce, OLDEST, at), Novelty::Here);
        assert_eq!(record.novelty(&home, Watch::Enforce, OLDEST, at), Novelty::Here, "by turns");
        assert_eq!(record.novelty(&home, Watch::Enforce, OLDEST, at.plus(MINUTE)), Novelty::Back);
    }

    fn shaking(number: u8) -> Option<Fingerprint> {
        let (cipher_list, extension_list) = ([number; 6], [0; 6]);
        let (ciphers, extensions) = (15, 12);
        Some(Fingerprint {
            version: 13,
            named: true,
            ciphers,
            extensions,
            cipher_list,
            extension_list,
        })
    }

    #[test]
    fn the_same_user_agent_with_another_handshake_is_new_once() {
        let (home, at) = (from("192.0.2.7", "Firefox"), UnixMillis(1));
        let mut record = record();
        record.begun_from = home.clone().shaking_hands(shaking(1));
        for (handshake, novelty) in
            [(1, Novelty::Here), (2, Novelty::New), (1, Novelty::Here), (3, Novelty::New)]
        {
            let here = home.clone().shaking_hands(shaking(handshake));
            assert_eq!(record.novelty(&here, Watch::Enforce, OLDEST, at), novelty, "{handshake}");
            record.note(&here, at, true);
            assert_eq!(
                record.novelty(&here, Watch::Enforce, OLDEST, at),
                Novelty::Here,
                "{handshake}"
            );
        }
        assert_eq!(
            record.novelty(&home, Watch::Enforce, OLDEST, at),
            Novelty::Here,
            "not looked at"
        );
        assert!(!record.begun_from.same_place(&home.shaking_hands(shaking(2))));
    }

    #[test]
    fn who_was_only_watched_is_not_known_to_a_route_that_enforces() {
        let mut record = record();
        let thief = from("203.0.113.9", "curl");
        record.note(&thief, UnixMillis(1), false);
        assert_eq!(record.novelty(&thief, Watch::Monitor, OLDEST, UnixMillis(2)), Novelty::Here);
        assert_eq!(record.novelty(&thief, Watch::Enforce, OLDEST, UnixMillis(2)), Novelty::New);
        let home = from("192.0.2.7", "Firefox");
        assert_eq!(record.novelty(&home, Watch::Enforce, OLDEST, UnixMillis(2)), Novelty::Here);
        record.note(&thief, UnixMillis(3), true);
        assert_eq!(record.novelty(&thief, Watch::Enforce, OLDEST, UnixMillis(4)), Novelty::Here);
    }

    #[test]
    fn a_new_session_knows_the_networks_of_its_user_and_is_still_where_it_began() {
        let at = UnixMillis(1_000_000);
        let known = |address: &str, passed| {
            let network = from(address, "").network_address();
            KnownBefore { network, at: UnixMillis(500_000), passed }
        };
        let mut record = Record { created: at, ..record() };
        let before =
            [known("198.51.100.7", true), known("203.0.113.9", false), known("192.0.2.1", true)];
        record.seed(before.into_iter());
        let (home, cafe) = (from("192.0.2.99", "Firefox"), from("198.51.100.7", "Firefox"));
        let watched = from("203.0.113.9", "Firefox");
        assert_eq!(record.current_place(), (record.begun_from.address, at));
        assert_eq!(record.novelty(&home, Watch::Enforce, OLDEST, at), Novelty::Here);
        assert_eq!(record.novelty(&cafe, Watch::Enforce, OLDEST, at.plus(MINUTE)), Novelty::Back);
        assert_eq!(record.novelty(&watched, Watch::Enforce, OLDEST, at), Novelty::New);
        assert_eq!(record.novelty(&watched, Watch::Monitor, OLDEST, at), Novelty::Here);
        let curl = from("198.51.100.7", "curl");
        assert_eq!(record.novelty(&curl, Watch::Monitor, OLDEST, at), Novelty::New);
        assert_eq!(record.known_places(Watch::Enforce, UnixMillis(600_000)).count(), 2, "too old");
    }

    #[test]
    fn a_new_session_knows_the_handshakes_of_the_one_before_in_its_browser_that_were_let_pass() {
        let at = UnixMillis(1);
        let shaking_hands = |number| from("192.0.2.7", "Firefox").shaking_hands(shaking(number));
        let begun_as = |number| Record { begun_from: shaking_hands(number), ..record() };
        let mut before = begun_as(1);
        before.note(&shaking_hands(2), at, true);
        before.note(&shaking_hands(3), at, false);
        let mut record = begun_as(2);
        record.inherit(&before);
        for (handshake, watch, novelty) in [
            (1, Watch::Enforce, Novelty::Here),
            (2, Watch::Enforce, Novelty::Here),
            (3, Watch::Enforce, Novelty::New),
            (3, Watch::Monitor, Novelty::Here),
            (4, Watch::Monitor, Novelty::New),
        ] {
            let here = record.novelty(&shaking_hands(handshake), watch, OLDEST, at);
            assert_eq!(here, novelty, "{handshake}, {watch:?}");
        }
        assert_eq!(record.seen.software.len(), 2, "its own is not written down twice");
        let other = Identity { user: "bob".to_owned(), ..Identity::default() };
        for mut stranger in [
            Record { identity: other, ..begun_as(2) },
            Record { credential: [7; 8], ..begun_as(2) },
        ] {
            stranger.inherit(&before);
            assert_eq!(stranger.seen, Seen::default());
        }
        for number in 5..20 {
            let mut next = begun_as(number);
            next.inherit(&record);
            assert!(next.seen.software.len() <= SOFTWARE);
            record = next;
        }
    }

    #[test]
    fn a_network_that_was_left_too_long_ago_is_new_and_where_the_session_is_stays_known() {
        let mut record = record();
        let [cafe, train] = ["198.51.100.7", "203.0.113.9"].map(|at| from(at, "Firefox"));
        let at = |minutes: u64| UnixMillis(minutes * 60_000);
        record.note(&cafe, at(10), true);
        let novelty = |record: &Record, from: &ClientContext, oldest: u64, now: u64| {
            record.novelty(from, Watch::Enforce, at(oldest), at(now))
        };
        assert_eq!(novelty(&record, &cafe, 60, 90), Novelty::Here, "it never left");
        record.note(&train, at(90), true);
        assert_eq!(novelty(&record, &cafe, 89, 119), Novelty::Back, "left a moment ago");
        assert_eq!(novelty(&record, &cafe, 91, 121), Novelty::New);
        let home = from("192.0.2.7", "Firefox");
        assert_eq!(novelty(&record, &home, 500, 600), Novelty::Back, "the login's own");
    }

    #[test]
    fn a_session_of_a_user_who_was_nowhere_else_knows_nothing() {
        let mut record = record();
        record.seed(std::iter::empty());
        assert_eq!(record.seen, Seen::default());
    }

    #[test]
    fn however_often_a_session_moves_its_record_stays_small() {
        let mut record = record();
        for number in 0..200 {
            let place = from(&format!("10.0.{number}.1"), &format!("agent {number}"));
            record.note(&place, UnixMillis(number), true);
        }
        assert_eq!((record.seen.networks.len(), record.seen.software.len()), (NETWORKS, SOFTWARE));
        assert_eq!(record.current_place().0, from("10.0.199.1", "").address);
        assert_eq!(
            record.novelty(
                &from("192.0.2.7", "Firefox"),
                Watch::Enforce,
                OLDEST,
                UnixMillis(u64::MAX)
            ),
            Novelty::Back,
            "the login's own place is never forgotten"
        );
    }
}
