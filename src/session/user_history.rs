//! The history of a user beyond their sessions: networks, user agents and security notices.
//!
//! Pure, like the [`Record`](super::Record). A store keeps it sealed, bound to the user and its revision.
//! Invariants:
//! - bounded by [`MAX_NETWORKS`], [`MAX_USER_AGENTS`] and [`MAX_NOTICES`]; the longest unused entry is
//!   removed first, and every entry expires
//! - a location confirmed only by a stolen session is removed with it, so an attacker's network does not
//!   become a known one
//! - a location that a route in enforce mode would have rejected is not known to such a route
//! - a location from before a password change is not known to new sessions, because the attacker of the
//!   old password may have been there

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::context::ClientContext;
use super::notice::{self, SecurityNotice, session_hash};
use super::{SessionId, UserTag};
use crate::clock::UnixMillis;
use crate::secret::KeyRing;
use crate::secret::seal::{self, OpenError};

/// Maximum number of networks per user.
pub const MAX_NETWORKS: usize = 16;

/// Maximum number of user agents per user.
pub const MAX_USER_AGENTS: usize = 8;

/// Maximum number of notices per user.
pub const MAX_NOTICES: usize = 8;

/// Lifetime of a notice.
pub const NOTICE_TTL: Duration = Duration::from_hours(30 * 24);

const DAY: Duration = Duration::from_hours(24);

/// The stored history of one user.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserHistory {
    /// Number of writes so far.
    revision: u64,
    written_at: UnixMillis,
    /// Credential digest of the last login, as in [`Record::credential`](super::Record).
    credential: [u8; 8],
    /// First addresses of the networks. The last used one is at the end.
    networks: Vec<Observed<IpAddr>>,
    user_agents: Vec<Observed<String>>,
    notices: Vec<SecurityNotice>,
    /// The last revocation cutoff set because of a theft; zero if there is none.
    theft_cutoff: UnixMillis,
}

/// A network or a user agent that the user has used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Observed<T> {
    value: T,
    /// Last use, in days since 1970.
    day: u64,
    trust: Trust,
    confirmed_by: ConfirmedBy,
}

/// Which sessions and routes accept a location as known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Trust {
    /// All.
    Trusted,
    /// Routes in monitor mode only; a route in enforce mode would have rejected it.
    MonitorOnly,
    /// No session, because it dates from before a password change. A login from there causes no notice.
    PreviousCredential,
}

/// What confirmed that the location belongs to the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum ConfirmedBy {
    /// A login with the password.
    Password,
    /// A session, given by the hash of its ID.
    Session([u8; 8]),
}

/// A network that a new session inherits as known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserNetwork {
    pub network: IpAddr,
    pub last_used: UnixMillis,
    /// Whether routes in enforce mode accept it.
    pub trusted: bool,
}

/// Why stored bytes are not a valid user history. It is reported and replaced by an empty one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UserHistoryError {
    #[error("cannot open the user history: {0}")]
    Open(#[from] OpenError),
    #[error("the user history has an unknown format")]
    Format,
}

const FORMAT: u8 = 1;
/// Part of the key derivation: a change makes every stored history unreadable.
const SUBJECT: &[u8] = b"user memo";

impl UserHistory {
    /// Records a login with the password behind `credential`.
    pub fn record_login(&mut self, from: &ClientContext, credential: [u8; 8], now: UnixMillis) {
        if credential != self.credential {
            self.mark_previous_credential();
            self.credential = credential;
        }
        self.observe(from, Trust::Trusted, ConfirmedBy::Password, now);
    }

    /// Records a location that was new to a session. `trusted`: a route in enforce mode accepts it.
    pub fn record_location(
        &mut self,
        session: SessionId,
        from: &ClientContext,
        trusted: bool,
        now: UnixMillis,
    ) {
        let trust = if trusted { Trust::Trusted } else { Trust::MonitorOnly };
        self.observe(from, trust, ConfirmedBy::Session(session_hash(session)), now);
    }

    /// Removes every location that only this session confirmed.
    pub fn remove_stolen_session(&mut self, session: SessionId) {
        let attacker = ConfirmedBy::Session(session_hash(session));
        self.networks.retain(|entry| entry.confirmed_by != attacker);
        self.user_agents.retain(|entry| entry.confirmed_by != attacker);
    }

    /// Records a revocation cutoff of the user that was set because of a theft.
    pub fn record_theft_cutoff(&mut self, cutoff: UnixMillis) {
        self.theft_cutoff = self.theft_cutoff.max(cutoff);
    }

    /// Returns whether a revocation cutoff was set because of a theft.
    pub fn is_theft_cutoff(&self, cutoff: UnixMillis) -> bool {
        cutoff.0 > 0 && self.theft_cutoff == cutoff
    }

    /// Adds a notice, unless there is one about the same event.
    pub fn add_notice(&mut self, notice: SecurityNotice) {
        if !self.notices.iter().any(|existing| existing.is_same_event(&notice)) {
            self.notices.push(notice);
            retain_last(&mut self.notices, MAX_NOTICES);
        }
    }

    /// Removes a notice that the user has read. The session that the notice is about cannot remove it,
    /// because it may be the attacker's.
    pub fn dismiss_notice(&mut self, id: notice::NoticeId, by: SessionId) {
        self.notices.retain(|notice| notice.id != id || notice.is_about(by));
    }

    /// Returns the notices, newest first.
    pub fn notices(&self) -> impl Iterator<Item = &SecurityNotice> {
        self.notices.iter().rev()
    }

    /// Returns the networks that a new session inherits, longest unused first. Empty if the credential is
    /// not the one of the last login.
    pub fn known_networks_for(
        &self,
        credential: [u8; 8],
    ) -> impl Iterator<Item = UserNetwork> + '_ {
        self.known_networks().filter(move |_| credential == self.credential)
    }

    fn known_networks(&self) -> impl Iterator<Item = UserNetwork> + '_ {
        self.networks.iter().filter_map(|entry| {
            let trusted = match entry.trust {
                Trust::Trusted => true,
                Trust::MonitorOnly => false,
                Trust::PreviousCredential => return None,
            };
            Some(UserNetwork { network: entry.value, last_used: day_start(entry.day), trusted })
        })
    }

    /// Returns every network of the user, to compare a login with.
    pub fn networks(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.networks.iter().map(|entry| entry.value)
    }

    /// Returns every user agent of the user, to compare a login with.
    pub fn user_agents(&self) -> impl Iterator<Item = &str> {
        self.user_agents.iter().map(|entry| entry.value.as_str())
    }

    /// Erases networks, user agents and notices. The revision stays, or an older copy could be put back;
    /// the theft cutoff stays too.
    pub fn clear(&mut self) {
        (self.networks, self.user_agents, self.notices) = (Vec::new(), Vec::new(), Vec::new());
        self.credential = [0; 8];
    }

    /// Removes expired notices, and locations unused for `known_for`.
    pub fn prune(&mut self, known_for: Duration, now: UnixMillis) {
        let oldest = day_of(now.minus(known_for));
        self.networks.retain(|entry| entry.day >= oldest);
        self.user_agents.retain(|entry| entry.day >= oldest);
        self.notices.retain(|notice| now.since(notice.at) < NOTICE_TTL);
    }

    /// Returns the number of writes so far.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Returns when a store may delete the history.
    pub fn expires_at(&self, known_for: Duration) -> UnixMillis {
        self.written_at.plus(known_for.max(NOTICE_TTL))
    }

    /// Reduces a rolled-back copy to the parts that are still valid, and sets the latest known revision.
    ///
    /// Notices stay true. A location may have been removed since, because of a theft.
    #[must_use]
    pub fn without_locations(self, revision: u64) -> UserHistory {
        UserHistory { revision, networks: Vec::new(), user_agents: Vec::new(), ..self }
    }

    /// Returns the next revision, to be written.
    #[must_use]
    pub fn next_revision(self, now: UnixMillis) -> UserHistory {
        UserHistory { revision: self.revision.saturating_add(1), written_at: now, ..self }
    }

    /// Seals the history for a store. Layout: `format 1 | revision 8 | sealed`.
    pub fn seal(&self, keys: &KeyRing, tag: &UserTag) -> Vec<u8> {
        let plain = postcard::to_allocvec(self).unwrap_or_default();
        let mut out = vec![FORMAT];
        out.extend_from_slice(&self.revision.to_be_bytes());
        out.extend_from_slice(&seal::seal(
            keys,
            SUBJECT,
            &associated_data(tag, self.revision),
            &plain,
        ));
        out
    }

    /// Opens a history that [`UserHistory::seal`] sealed for the same user.
    pub fn open(
        keys: &KeyRing,
        tag: &UserTag,
        stored: &[u8],
    ) -> Result<UserHistory, UserHistoryError> {
        let (head, sealed) = stored.split_first_chunk::<9>().ok_or(UserHistoryError::Format)?;
        let [FORMAT, revision @ ..] = *head else {
            return Err(UserHistoryError::Format);
        };
        let revision = u64::from_be_bytes(revision);
        let plain = seal::open(keys, SUBJECT, &associated_data(tag, revision), sealed)?;
        let history: UserHistory =
            postcard::from_bytes(&plain).map_err(|_| UserHistoryError::Format)?;
        if history.revision == revision { Ok(history) } else { Err(UserHistoryError::Format) }
    }

    fn observe(
        &mut self,
        from: &ClientContext,
        trust: Trust,
        confirmed_by: ConfirmedBy,
        now: UnixMillis,
    ) {
        let day = day_of(now);
        let network = Observed { value: from.network_address(), day, trust, confirmed_by };
        observe(&mut self.networks, network, MAX_NETWORKS);
        observe(
            &mut self.user_agents,
            Observed { value: from.user_agent.clone(), day, trust, confirmed_by },
            MAX_USER_AGENTS,
        );
    }

    fn mark_previous_credential(&mut self) {
        let networks = self.networks.iter_mut().map(|entry| &mut entry.trust);
        let user_agents = self.user_agents.iter_mut().map(|entry| &mut entry.trust);
        networks.chain(user_agents).for_each(|trust| *trust = Trust::PreviousCredential);
    }
}

/// Moves a repeated entry to the end of the list. Confirmation by password replaces one by session, and
/// a trusted entry stays trusted.
fn observe<T: PartialEq>(list: &mut Vec<Observed<T>>, mut now: Observed<T>, limit: usize) {
    let before = list.iter().position(|entry| entry.value == now.value);
    if let Some(before) = before.map(|at| list.remove(at)) {
        let is_trusted = |trust| trust == Trust::Trusted;
        let is_better = is_trusted(now.trust) && !is_trusted(before.trust);
        let by_password = now.confirmed_by == ConfirmedBy::Password;
        if before.trust != Trust::PreviousCredential && !is_better && !by_password {
            (now.trust, now.confirmed_by) = (before.trust, before.confirmed_by);
        }
    }
    list.push(now);
    retain_last(list, limit);
}

fn associated_data(tag: &UserTag, revision: u64) -> [u8; 16] {
    let mut out = [0; 16];
    out[..8].copy_from_slice(&tag.0);
    out[8..].copy_from_slice(&revision.to_be_bytes());
    out
}

/// Removes the first entries of a list that is longer than `limit`.
pub(super) fn retain_last<T>(list: &mut Vec<T>, limit: usize) {
    let over = list.len().saturating_sub(limit);
    list.drain(..over);
}

fn day_of(at: UnixMillis) -> u64 {
    at.seconds() / DAY.as_secs()
}

fn day_start(day: u64) -> UnixMillis {
    UnixMillis(0).plus(DAY.saturating_mul(u32::try_from(day).unwrap_or(u32::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::notice::NoticeKind;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
    const MONTH: Duration = Duration::from_hours(30 * 24);
    const TAG: UserTag = UserTag([7; 8]);
    const ONE: SessionId = SessionId([1; 16]);
    const TWO: SessionId = SessionId([2; 16]);
    const OLD: [u8; 8] = [1; 8];
    const NEW: [u8; 8] = [2; 8];

    fn from(address: &str, agent: &str) -> ClientContext {
        ClientContext::new(address.parse().expect("an address"), agent.as_bytes())
    }

    fn home() -> ClientContext {
        from("192.0.2.7", "Firefox")
    }

    fn cafe() -> ClientContext {
        from("198.51.100.7", "Firefox")
    }

    fn known(history: &UserHistory) -> Vec<(String, bool)> {
        history.known_networks().map(|known| (known.network.to_string(), known.trusted)).collect()
    }

    fn notice(kind: NoticeKind, session: SessionId, at: UnixMillis) -> SecurityNotice {
        SecurityNotice::new(kind, session, &cafe(), Some(&home()), at)
    }

    #[test]
    fn a_history_opens_for_its_own_user_and_revision_only() {
        let keys = KeyRing::generate("now");
        let mut history = UserHistory::default();
        history.record_login(&home(), OLD, NOW);
        history.add_notice(notice(NoticeKind::NewLocation, ONE, NOW));
        let history = history.next_revision(NOW);
        let stored = history.seal(&keys, &TAG);
        assert_eq!(UserHistory::open(&keys, &TAG, &stored), Ok(history));
        assert!(UserHistory::open(&keys, &UserTag([8; 8]), &stored).is_err(), "another user's");
        for at in 0..stored.len() {
            let mut changed = stored.clone();
            changed[at] ^= 1;
            assert!(UserHistory::open(&keys, &TAG, &changed).is_err(), "byte {at}");
            assert!(UserHistory::open(&keys, &TAG, &stored[..at]).is_err(), "cut at {at}");
        }
        assert!(!stored.windows(7).any(|window| window == b"Firefox"));
    }

    #[test]
    fn locations_confirmed_only_by_a_stolen_session_are_removed() {
        let mut history = UserHistory::default();
        history.record_login(&home(), OLD, NOW);
        history.record_location(ONE, &cafe(), true, NOW);
        history.record_location(ONE, &home(), true, NOW);
        history.record_location(TWO, &from("203.0.113.9", "Firefox"), true, NOW);
        history.remove_stolen_session(ONE);
        let left = [("203.0.113.0".to_owned(), true), ("192.0.2.0".to_owned(), true)];
        let mut known = known(&history);
        known.sort_by_key(|(network, _)| std::cmp::Reverse(network.clone()));
        assert_eq!(known, left, "the locations of the login and of another session stay");
        history.record_location(ONE, &cafe(), true, NOW);
        history.record_login(&cafe(), OLD, NOW);
        history.remove_stolen_session(ONE);
        assert_eq!(history.known_networks().count(), 3, "confirmed by a password now");
    }

    #[test]
    fn a_monitored_location_stays_so_until_enforce_mode_accepts_it() {
        let mut history = UserHistory::default();
        history.record_location(ONE, &cafe(), false, NOW);
        assert_eq!(known(&history), [("198.51.100.0".to_owned(), false)]);
        history.record_location(TWO, &cafe(), true, NOW);
        history.record_location(ONE, &cafe(), false, NOW);
        assert_eq!(known(&history), [("198.51.100.0".to_owned(), true)]);
    }

    #[test]
    fn a_new_password_hides_locations_from_sessions_not_logins() {
        let mut history = UserHistory::default();
        history.record_login(&cafe(), OLD, NOW);
        assert_eq!(history.known_networks_for(OLD).count(), 1);
        assert_eq!(history.known_networks_for(NEW).count(), 0, "at the first login with it");
        history.record_login(&home(), NEW, NOW);
        assert_eq!(known(&history), [("192.0.2.0".to_owned(), true)]);
        assert_eq!(history.networks().count(), 2);
        history.record_location(ONE, &cafe(), false, NOW);
        assert_eq!(
            history.known_networks().count(),
            2,
            "used again, by a session of the new password"
        );
        history.remove_stolen_session(ONE);
        assert_eq!(history.known_networks().count(), 1);
    }

    #[test]
    fn locations_and_notices_expire_after_a_month() {
        let mut history = UserHistory::default();
        history.record_login(&cafe(), OLD, NOW);
        history.add_notice(notice(NoticeKind::Theft, ONE, NOW));
        let later = NOW.plus(MONTH - DAY);
        history.record_login(&home(), OLD, later);
        history.prune(MONTH, later);
        assert_eq!((history.networks().count(), history.notices().count()), (2, 1));
        history.prune(MONTH, NOW.plus(MONTH + DAY));
        assert_eq!(known(&history), [("192.0.2.0".to_owned(), true)]);
        assert_eq!(history.notices().count(), 0);
    }

    #[test]
    fn the_history_is_bounded() {
        let keys = KeyRing::generate("now");
        let mut history = UserHistory::default();
        for number in 0..200_u8 {
            let place =
                from(&format!("2001:db8:{number}::1"), &format!("{number}{}", "x".repeat(300)));
            history.record_location(SessionId([number; 16]), &place, true, NOW);
            let session = SessionId([number; 16]);
            history.add_notice(SecurityNotice::new(
                NoticeKind::Theft,
                session,
                &place,
                Some(&place),
                NOW,
            ));
        }
        let counts =
            (history.networks().count(), history.user_agents().count(), history.notices().count());
        assert_eq!(counts, (MAX_NETWORKS, MAX_USER_AGENTS, MAX_NOTICES));
        let sealed = history.seal(&keys, &TAG);
        assert!(sealed.len() < 8 * 1024, "{}", sealed.len());
    }

    #[test]
    fn a_notice_is_added_once_and_dismissed_by_another_session() {
        let mut history = UserHistory::default();
        history.add_notice(notice(NoticeKind::NewLocation, ONE, NOW));
        history.add_notice(notice(NoticeKind::NewLocation, ONE, NOW.plus(DAY)));
        history.add_notice(notice(NoticeKind::Theft, ONE, NOW));
        assert_eq!(history.notices().count(), 2);
        let notice = history.notices().find(|notice| notice.kind == NoticeKind::NewLocation);
        let id = notice.expect("a notice").id;
        history.dismiss_notice(id, ONE);
        assert_eq!(history.notices().count(), 2, "the session that it is about cannot dismiss it");
        history.dismiss_notice(id, TWO);
        assert_eq!(
            history.notices().map(|notice| notice.kind).collect::<Vec<_>>(),
            [NoticeKind::Theft]
        );
    }

    #[test]
    fn an_erased_history_keeps_its_revision() {
        let mut history = UserHistory::default();
        history.record_login(&home(), OLD, NOW);
        history.add_notice(notice(NoticeKind::Theft, ONE, NOW));
        let mut history = history.next_revision(NOW);
        history.clear();
        let nothing = UserHistory { revision: 1, written_at: NOW, ..UserHistory::default() };
        assert_eq!(history, nothing);
    }

    #[test]
    fn a_rolled_back_copy_keeps_notices_and_no_locations() {
        let mut history = UserHistory::default();
        history.record_login(&home(), OLD, NOW);
        history.add_notice(notice(NoticeKind::Theft, ONE, NOW));
        let old = history.next_revision(NOW).without_locations(9);
        assert_eq!((old.networks().count(), old.notices().count(), old.revision()), (0, 1, 9));
    }
}
