//! What is remembered of a user beyond his sessions: where he was seen, and what he has to be told.
//!
//! Pure, as the [`Record`](super::Record) is; a store keeps it sealed, bound to the user and to how often
//! it was written. Invariants:
//! - bounded: [`NETWORKS`], [`AGENTS`] and [`NOTICES`], the longest unused goes first, and all goes after
//!   its time
//! - a place that only a stolen session was seen in is forgotten with it: a thief must not become known
//! - what an enforcing route would not have let pass is not known to it here either
//! - a place from before a change of the password is known to no new session: whoever had the old
//!   password may have been there

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::context::ClientContext;
use super::notice::{self, Notice};
use super::seen::shorten;
use super::{SessionId, UserTag};
use crate::clock::UnixMillis;
use crate::secret::seal::{self, OpenError};
use crate::secret::{KeyRing, sha256};

/// Networks kept of a user.
pub const NETWORKS: usize = 16;

/// User agents kept of a user.
pub const AGENTS: usize = 8;

/// Notices kept for a user.
pub const NOTICES: usize = 8;

/// How long a notice is kept.
pub const TOLD_FOR: Duration = Duration::from_hours(30 * 24);

const DAY: Duration = Duration::from_hours(24);

/// What is remembered of one user.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memo {
    /// How often it was written.
    revision: u64,
    written: UnixMillis,
    /// Of the last login, as [`Record::credential`](super::Record).
    credential: [u8; 8],
    /// Their first addresses. The one seen last stands last.
    networks: Vec<Seen<IpAddr>>,
    agents: Vec<Seen<String>>,
    notices: Vec<Notice>,
    /// Where the user's line was drawn for a theft, last.
    theft_line: UnixMillis,
}

/// Something that the user was seen with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Seen<T> {
    what: T,
    /// Of the last time, in days since 1970.
    day: u64,
    trust: Trust,
    vouched: Vouched,
}

/// Whose it is to know a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Trust {
    /// Everybody's.
    Passed,
    /// A route's that only watches; one that enforces would not have let it pass.
    Watched,
    /// From before the password changed: no session's, and a login from there is still no news.
    Past,
}

/// Who says that the place is the user's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Vouched {
    /// Somebody who knew the password.
    Password,
    /// Whoever held this session, by the hash of its id.
    Session([u8; 8]),
}

/// A network that a new session knows from its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    pub network: IpAddr,
    pub at: UnixMillis,
    /// Whether an enforcing route lets it pass too.
    pub passed: bool,
}

/// Why bytes from a store are no memo. They are refused and reported, and nobody is the worse for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MemoError {
    #[error("the memo does not open: {0}")]
    Open(#[from] OpenError),
    #[error("the memo is not of a known format")]
    Format,
}

const FORMAT: u8 = 1;
const SUBJECT: &[u8] = b"user memo";

impl Memo {
    /// A login with the password behind `credential`.
    pub fn logged_in(&mut self, from: &ClientContext, credential: [u8; 8], now: UnixMillis) {
        if credential != self.credential {
            self.distrust();
            self.credential = credential;
        }
        self.note(from, Trust::Passed, Vouched::Password, now);
    }

    /// A session was used from a place that was new to it. `passed`: no enforcing route would mind.
    pub fn moved(
        &mut self,
        session: SessionId,
        from: &ClientContext,
        passed: bool,
        now: UnixMillis,
    ) {
        let trust = if passed { Trust::Passed } else { Trust::Watched };
        self.note(from, trust, Vouched::Session(hash(session)), now);
    }

    /// Forgets what nobody but this session vouched for.
    pub fn stolen(&mut self, session: SessionId) {
        let thief = Vouched::Session(hash(session));
        self.networks.retain(|seen| seen.vouched != thief);
        self.agents.retain(|seen| seen.vouched != thief);
    }

    /// The user's line was drawn there because of a theft.
    pub fn drew_for_theft(&mut self, line: UnixMillis) {
        self.theft_line = self.theft_line.max(line);
    }

    /// Whether a line of the user's was drawn for a theft.
    pub fn is_for_theft(&self, line: UnixMillis) -> bool {
        line.0 > 0 && self.theft_line == line
    }

    /// Keeps a notice, once for each thing that happened to a session.
    pub fn tell(&mut self, notice: Notice) {
        if !self.notices.iter().any(|told| told.says_the_same(&notice)) {
            self.notices.push(notice);
            shorten(&mut self.notices, NOTICES);
        }
    }

    /// The user has read it. The session that a notice is about cannot take it away: it may be somebody
    /// else's.
    pub fn dismiss(&mut self, id: notice::Id, by: SessionId) {
        self.notices.retain(|notice| notice.id != id || notice.is_about(by));
    }

    /// What the user has to be told, the newest first.
    pub fn notices(&self) -> impl Iterator<Item = &Notice> {
        self.notices.iter().rev()
    }

    /// What a session knows that begins with a password, the longest unused first: nothing where it is
    /// another one than at the last login.
    pub fn known_with(&self, credential: [u8; 8]) -> impl Iterator<Item = Known> + '_ {
        self.known().filter(move |_| credential == self.credential)
    }

    fn known(&self) -> impl Iterator<Item = Known> + '_ {
        self.networks.iter().filter_map(|seen| {
            let passed = match seen.trust {
                Trust::Passed => true,
                Trust::Watched => false,
                Trust::Past => return None,
            };
            Some(Known { network: seen.what, at: start_of(seen.day), passed })
        })
    }

    /// Every network that the user was seen in, for whoever logs in.
    pub fn networks(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.networks.iter().map(|seen| seen.what)
    }

    /// Every user agent that the user was seen with, for whoever logs in.
    pub fn agents(&self) -> impl Iterator<Item = &str> {
        self.agents.iter().map(|seen| seen.what.as_str())
    }

    /// Forgets the user: where he was, with what, and what he has to be told. How often it was written
    /// stays, or an older copy could be put back; so does when a theft ended all of his sessions.
    pub fn forget_user(&mut self) {
        (self.networks, self.agents, self.notices) = (Vec::new(), Vec::new(), Vec::new());
        self.credential = [0; 8];
    }

    /// Drops what is over: places unused for `known_for`, and old notices.
    pub fn forget(&mut self, known_for: Duration, now: UnixMillis) {
        let oldest = day_of(now.minus(known_for));
        self.networks.retain(|seen| seen.day >= oldest);
        self.agents.retain(|seen| seen.day >= oldest);
        self.notices.retain(|notice| now.since(notice.at) < TOLD_FOR);
    }

    /// How often it was written.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Until when a store keeps it.
    pub fn forget_at(&self, known_for: Duration) -> UnixMillis {
        self.written.plus(known_for.max(TOLD_FOR))
    }

    /// What is left of an older copy than one that was seen: what it tells is true, but a place in it may
    /// have been forgotten since, for a reason.
    #[must_use]
    pub fn rolled_back(self, seen: u64) -> Memo {
        Memo { revision: seen, networks: Vec::new(), agents: Vec::new(), ..self }
    }

    /// The next copy, to be written.
    #[must_use]
    pub fn next(self, now: UnixMillis) -> Memo {
        Memo { revision: self.revision.saturating_add(1), written: now, ..self }
    }

    /// Seals it for a store. Layout: `format 1 | revision 8 | sealed`.
    pub fn seal(&self, keys: &KeyRing, tag: &UserTag) -> Vec<u8> {
        let plain = postcard::to_allocvec(self).unwrap_or_default();
        let mut out = vec![FORMAT];
        out.extend_from_slice(&self.revision.to_be_bytes());
        out.extend_from_slice(&seal::seal(keys, SUBJECT, &binding(tag, self.revision), &plain));
        out
    }

    /// Opens what [`Memo::seal`] made for the same user.
    pub fn open(keys: &KeyRing, tag: &UserTag, stored: &[u8]) -> Result<Memo, MemoError> {
        let (head, sealed) = stored.split_first_chunk::<9>().ok_or(MemoError::Format)?;
        let [FORMAT, revision @ ..] = *head else {
            return Err(MemoError::Format);
        };
        let revision = u64::from_be_bytes(revision);
        let plain = seal::open(keys, SUBJECT, &binding(tag, revision), sealed)?;
        let memo: Memo = postcard::from_bytes(&plain).map_err(|_| MemoError::Format)?;
        if memo.revision == revision { Ok(memo) } else { Err(MemoError::Format) }
    }

    fn note(&mut self, from: &ClientContext, trust: Trust, vouched: Vouched, now: UnixMillis) {
        let day = day_of(now);
        let network = Seen { what: from.network_address(), day, trust, vouched };
        note(&mut self.networks, network, NETWORKS);
        note(&mut self.agents, Seen { what: from.agent.clone(), day, trust, vouched }, AGENTS);
    }

    fn distrust(&mut self) {
        let networks = self.networks.iter_mut().map(|seen| &mut seen.trust);
        let agents = self.agents.iter_mut().map(|seen| &mut seen.trust);
        networks.chain(agents).for_each(|trust| *trust = Trust::Past);
    }
}

/// Moves what was seen again to the end. A password's word counts for more than a session's, and nothing
/// that was let pass by an enforcing route is less than that afterwards.
fn note<T: PartialEq>(list: &mut Vec<Seen<T>>, mut now: Seen<T>, limit: usize) {
    let before = list.iter().position(|seen| seen.what == now.what);
    if let Some(before) = before.map(|at| list.remove(at)) {
        let passes = |trust| trust == Trust::Passed;
        let better = passes(now.trust) && !passes(before.trust);
        let proven = now.vouched == Vouched::Password;
        if before.trust != Trust::Past && !better && !proven {
            (now.trust, now.vouched) = (before.trust, before.vouched);
        }
    }
    list.push(now);
    shorten(list, limit);
}

fn binding(tag: &UserTag, revision: u64) -> [u8; 16] {
    let mut out = [0; 16];
    out[..8].copy_from_slice(&tag.0);
    out[8..].copy_from_slice(&revision.to_be_bytes());
    out
}

pub(super) fn hash(session: SessionId) -> [u8; 8] {
    let mut out = [0; 8];
    out.copy_from_slice(&sha256(&session.0)[..8]);
    out
}

fn day_of(at: UnixMillis) -> u64 {
    at.seconds() / DAY.as_secs()
}

fn start_of(day: u64) -> UnixMillis {
    UnixMillis(0).plus(DAY.saturating_mul(u32::try_from(day).unwrap_or(u32::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::notice::Kind;

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

    fn known(memo: &Memo) -> Vec<(String, bool)> {
        memo.known().map(|known| (known.network.to_string(), known.passed)).collect()
    }

    fn notice(kind: Kind, session: SessionId, at: UnixMillis) -> Notice {
        Notice::new(kind, session, &cafe(), Some(&home()), at)
    }

    #[test]
    fn a_memo_reads_back_for_its_own_user_and_revision_only() {
        let keys = KeyRing::generate("now");
        let mut memo = Memo::default();
        memo.logged_in(&home(), OLD, NOW);
        memo.tell(notice(Kind::NewPlace, ONE, NOW));
        let memo = memo.next(NOW);
        let stored = memo.seal(&keys, &TAG);
        assert_eq!(Memo::open(&keys, &TAG, &stored), Ok(memo));
        assert!(Memo::open(&keys, &UserTag([8; 8]), &stored).is_err(), "another user's");
        for at in 0..stored.len() {
            let mut changed = stored.clone();
            changed[at] ^= 1;
            assert!(Memo::open(&keys, &TAG, &changed).is_err(), "byte {at}");
            assert!(Memo::open(&keys, &TAG, &stored[..at]).is_err(), "cut at {at}");
        }
        assert!(!stored.windows(7).any(|window| window == b"Firefox"));
    }

    #[test]
    fn a_place_that_only_a_stolen_session_vouched_for_is_forgotten_with_it() {
        let mut memo = Memo::default();
        memo.logged_in(&home(), OLD, NOW);
        memo.moved(ONE, &cafe(), true, NOW);
        memo.moved(ONE, &home(), true, NOW);
        memo.moved(TWO, &from("203.0.113.9", "Firefox"), true, NOW);
        memo.stolen(ONE);
        let left = [("203.0.113.0".to_owned(), true), ("192.0.2.0".to_owned(), true)];
        let mut known = known(&memo);
        known.sort_by_key(|(network, _)| std::cmp::Reverse(network.clone()));
        assert_eq!(known, left, "the login's own place and another session's stay");
        memo.moved(ONE, &cafe(), true, NOW);
        memo.logged_in(&cafe(), OLD, NOW);
        memo.stolen(ONE);
        assert_eq!(memo.known().count(), 3, "a password vouches for it now");
    }

    #[test]
    fn who_was_only_watched_stays_so_until_an_enforcing_route_lets_him_pass() {
        let mut memo = Memo::default();
        memo.moved(ONE, &cafe(), false, NOW);
        assert_eq!(known(&memo), [("198.51.100.0".to_owned(), false)]);
        memo.moved(TWO, &cafe(), true, NOW);
        memo.moved(ONE, &cafe(), false, NOW);
        assert_eq!(known(&memo), [("198.51.100.0".to_owned(), true)]);
    }

    #[test]
    fn a_new_password_forgets_places_for_sessions_and_not_for_logins() {
        let mut memo = Memo::default();
        memo.logged_in(&cafe(), OLD, NOW);
        assert_eq!(memo.known_with(OLD).count(), 1);
        assert_eq!(memo.known_with(NEW).count(), 0, "at the first login with it");
        memo.logged_in(&home(), NEW, NOW);
        assert_eq!(known(&memo), [("192.0.2.0".to_owned(), true)]);
        assert_eq!(memo.networks().count(), 2);
        memo.moved(ONE, &cafe(), false, NOW);
        assert_eq!(memo.known().count(), 2, "seen again, with the new password's session");
        memo.stolen(ONE);
        assert_eq!(memo.known().count(), 1);
    }

    #[test]
    fn what_is_unused_for_a_month_is_forgotten_and_so_is_an_old_notice() {
        let mut memo = Memo::default();
        memo.logged_in(&cafe(), OLD, NOW);
        memo.tell(notice(Kind::Theft, ONE, NOW));
        let later = NOW.plus(MONTH - DAY);
        memo.logged_in(&home(), OLD, later);
        memo.forget(MONTH, later);
        assert_eq!((memo.networks().count(), memo.notices().count()), (2, 1));
        memo.forget(MONTH, NOW.plus(MONTH + DAY));
        assert_eq!(known(&memo), [("192.0.2.0".to_owned(), true)]);
        assert_eq!(memo.notices().count(), 0);
    }

    #[test]
    fn however_much_happens_to_a_user_his_memo_stays_small() {
        let keys = KeyRing::generate("now");
        let mut memo = Memo::default();
        for number in 0..200_u8 {
            let place =
                from(&format!("2001:db8:{number}::1"), &format!("{number}{}", "x".repeat(300)));
            memo.moved(SessionId([number; 16]), &place, true, NOW);
            let session = SessionId([number; 16]);
            memo.tell(Notice::new(Kind::Theft, session, &place, Some(&place), NOW));
        }
        let counts = (memo.networks().count(), memo.agents().count(), memo.notices().count());
        assert_eq!(counts, (NETWORKS, AGENTS, NOTICES));
        let sealed = memo.seal(&keys, &TAG);
        assert!(sealed.len() < 8 * 1024, "{}", sealed.len());
    }

    #[test]
    fn a_notice_is_told_once_and_goes_when_another_session_dismisses_it() {
        let mut memo = Memo::default();
        memo.tell(notice(Kind::NewPlace, ONE, NOW));
        memo.tell(notice(Kind::NewPlace, ONE, NOW.plus(DAY)));
        memo.tell(notice(Kind::Theft, ONE, NOW));
        assert_eq!(memo.notices().count(), 2);
        let told = memo.notices().find(|notice| notice.kind == Kind::NewPlace).map(|told| told.id);
        let id = told.expect("told");
        memo.dismiss(id, ONE);
        assert_eq!(memo.notices().count(), 2, "who logged in there cannot hide it");
        memo.dismiss(id, TWO);
        assert_eq!(memo.notices().map(|notice| notice.kind).collect::<Vec<_>>(), [Kind::Theft]);
    }

    #[test]
    fn a_user_who_is_forgotten_leaves_nothing_but_how_often_that_was_written() {
        let mut memo = Memo::default();
        memo.logged_in(&home(), OLD, NOW);
        memo.tell(notice(Kind::Theft, ONE, NOW));
        let mut memo = memo.next(NOW);
        memo.forget_user();
        let nothing = Memo { revision: 1, written: NOW, ..Memo::default() };
        assert_eq!(memo, nothing);
    }

    #[test]
    fn an_older_copy_keeps_what_it_tells_and_no_place() {
        let mut memo = Memo::default();
        memo.logged_in(&home(), OLD, NOW);
        memo.tell(notice(Kind::Theft, ONE, NOW));
        let old = memo.next(NOW).rolled_back(9);
        assert_eq!((old.networks().count(), old.notices().count(), old.revision()), (0, 1, 9));
    }
}
