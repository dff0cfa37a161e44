//! What the in-process stores keep of one session and one user, and the rules by which it changes.
//!
//! Pure, and the same for `memory:` and `embedded:`; the Redis scripts say the same in Lua, and one
//! conformance suite holds them together. Invariants:
//! - a tombstone never becomes a session again, and keeps its first reason
//! - a user's line, a touch and a time to forget only ever move forward

use std::time::Duration;

use bytes::Bytes;

use super::{Listed, Slot, Unavailable};
use crate::clock::UnixMillis;
use crate::session::{EndReason, NotBefore, SessionId, SessionKey};

/// How long after `forget_at` an entry still stands, so that gateways whose clocks differ agree.
pub(super) const FORGET_SLACK: Duration = Duration::from_hours(1);

/// How long a user's line is kept: no browser keeps a cookie longer than 400 days.
pub(super) const LINE_KEPT: Duration = Duration::from_hours(400 * 24);

/// Most sessions of one user, so that nobody who can log in can also fill the store.
pub(super) const MOST_PER_USER: usize = 10_000;

/// Longest user's memo; what is longer was not written by us.
pub(super) const MEMO_LIMIT: usize = 16 * 1024;

/// What is kept of a user beyond his sessions: opaque here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Memo {
    pub(super) sealed: Bytes,
    pub(super) forget_at: UnixMillis,
}

/// One session: the record, or what is left of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) created: UnixMillis,
    pub(super) forget_at: UnixMillis,
    pub(super) slot: Slot,
}

/// What a store knows of a user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) line: NotBefore,
    /// The greatest `created` of any session of the user.
    pub(super) greatest: UnixMillis,
}

impl Entry {
    /// A new session. The same bytes again are a repeat of the same call, not a collision.
    pub(super) fn create(
        existing: Option<&Entry>,
        sealed: &Bytes,
        created: UnixMillis,
        forget_at: UnixMillis,
    ) -> Result<Entry, Unavailable> {
        let entry =
            Entry { created, forget_at, slot: Slot::Live { revision: 1, sealed: sealed.clone() } };
        match existing {
            None => Ok(entry),
            Some(existing) if existing.slot == entry.slot => Ok(entry),
            Some(_) => Err(collision()),
        }
    }

    /// The entry after a compare-and-swap; `None` when it is lost.
    pub(super) fn commit(
        &self,
        expected: u64,
        sealed: &Bytes,
        forget_at: UnixMillis,
    ) -> Option<Entry> {
        match self.slot {
            Slot::Live { revision, .. } if revision == expected => Some(Entry {
                created: self.created,
                forget_at: self.forget_at.max(forget_at),
                slot: Slot::Live { revision: revision.saturating_add(1), sealed: sealed.clone() },
            }),
            Slot::Live { .. } | Slot::Ended { .. } | Slot::Absent => None,
        }
    }

    /// The tombstone of whatever stood here.
    pub(super) fn end(
        existing: Option<&Entry>,
        reason: EndReason,
        at: UnixMillis,
        forget_at: UnixMillis,
    ) -> Entry {
        let tombstone = Slot::Ended { reason, at };
        let Some(existing) = existing else {
            return Entry { created: at, forget_at, slot: tombstone };
        };
        Entry {
            created: existing.created,
            forget_at: existing.forget_at.max(forget_at),
            slot: match &existing.slot {
                Slot::Ended { .. } => existing.slot.clone(),
                Slot::Live { .. } | Slot::Absent => tombstone,
            },
        }
    }

    /// Whether it is a session still.
    pub(super) fn is_live(&self) -> bool {
        match self.slot {
            Slot::Live { .. } => true,
            Slot::Ended { .. } | Slot::Absent => false,
        }
    }

    /// Whether nobody can still ask for the entry.
    pub(super) fn forgotten(&self, now: UnixMillis) -> bool {
        self.forget_at.plus(FORGET_SLACK) < now
    }

    /// The entry as a listing shows it: live, and not ended by the user's line.
    pub(super) fn listed(
        &self,
        key: SessionKey,
        line: NotBefore,
        touched: UnixMillis,
    ) -> Option<Listed> {
        match &self.slot {
            Slot::Live { revision, sealed } if !line.ends(key.id, self.created) => {
                Some(Listed { key, revision: *revision, sealed: sealed.clone(), touched })
            }
            Slot::Live { .. } | Slot::Ended { .. } | Slot::Absent => None,
        }
    }
}

impl Memo {
    /// The memo after a compare-and-swap of all its bytes; `None` when it is lost.
    pub(super) fn swap(
        existing: Option<&Memo>,
        expected: &[u8],
        sealed: &Bytes,
        forget_at: UnixMillis,
    ) -> Option<Memo> {
        let (standing, until) = match existing {
            Some(memo) => (&memo.sealed[..], memo.forget_at),
            None => (&[][..], UnixMillis(0)),
        };
        // The same bytes again are a repeat of the same call.
        let swaps = standing == expected || standing == sealed;
        swaps.then(|| Memo { sealed: sealed.clone(), forget_at: until.max(forget_at) })
    }

    /// Whether nobody can still ask for it.
    pub(super) fn forgotten(&self, now: UnixMillis) -> bool {
        self.forget_at.plus(FORGET_SLACK) < now
    }
}

impl Facts {
    /// What is known once a session of `created` was begun.
    pub(super) fn with(self, created: UnixMillis) -> Facts {
        Facts { greatest: self.greatest.max(created), ..self }
    }

    /// "Log out everywhere": the line passes every session ever begun, also those of a gateway whose
    /// clock is ahead of ours, or they would live on.
    pub(super) fn revoke(self, now: UnixMillis, except: Option<SessionId>) -> Facts {
        let at = now.max(self.greatest).max(self.line.at);
        Facts { line: self.line.later(NotBefore { at, except }), ..self }
    }

    /// Whether the line is older than any session that it could end.
    pub(super) fn forgotten(&self, now: UnixMillis) -> bool {
        self.line.at == UnixMillis(0) || self.line.at.plus(LINE_KEPT) < now
    }
}

/// Two sessions of one id: no chance makes 128 random bits meet, so the generator is broken.
pub(super) fn collision() -> Unavailable {
    Unavailable("a session of this id exists already: the random numbers repeat".to_owned())
}

/// The refusal to store a user's ten-thousand-and-first session.
pub(super) fn too_many() -> Unavailable {
    Unavailable(format!("the user has {MOST_PER_USER} sessions, the most that one user can have"))
}

const LIVE: u8 = 1;
const ENDED: u8 = 2;

/// `1 | revision 8`, what every live value of this revision begins with.
pub(super) fn live_prefix(revision: u64) -> [u8; 9] {
    let mut prefix = [LIVE; 9];
    prefix[1..].copy_from_slice(&revision.to_be_bytes());
    prefix
}

/// `1 | revision 8 | sealed`.
pub fn pack_live(revision: u64, sealed: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(9 + sealed.len());
    value.extend_from_slice(&live_prefix(revision));
    value.extend_from_slice(sealed);
    value
}

/// `2 | reason 1 | at 8`.
pub fn pack_ended(reason: EndReason, at: UnixMillis) -> Vec<u8> {
    let mut value = vec![ENDED, reason.code()];
    value.extend_from_slice(&at.0.to_be_bytes());
    value
}

/// Reads a packed value. `None`: not made by us, so nothing may be concluded from it.
pub fn unpack(value: Bytes) -> Option<Slot> {
    match *value.first()? {
        LIVE => Some(Slot::Live { revision: number(value.get(1..9)?)?, sealed: value.slice(9..) }),
        ENDED => Some(Slot::Ended {
            reason: EndReason::from_code(*value.get(1)?),
            at: UnixMillis(number(value.get(2..10)?)?),
        }),
        _ => None,
    }
}

/// Eight bytes as a number.
pub(super) fn number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_slots_read_back_and_foreign_bytes_do_not() {
        let live = Slot::Live { revision: 7, sealed: Bytes::from_static(b"sealed") };
        let ended = Slot::Ended { reason: EndReason::Theft, at: UnixMillis(9) };
        assert_eq!(unpack(pack_live(7, b"sealed").into()), Some(live));
        assert_eq!(unpack(pack_ended(EndReason::Theft, UnixMillis(9)).into()), Some(ended));
        for foreign in [b"".as_slice(), b"\x01short", b"\x02\x01short", b"other"] {
            assert_eq!(unpack(Bytes::from_static(foreign)), None);
        }
    }

    #[test]
    fn a_line_at_the_same_time_excepts_only_whom_both_except() {
        let (one, two) = (Some(SessionId([1; 16])), Some(SessionId([2; 16])));
        let first = Facts::default().revoke(UnixMillis(5), one);
        assert_eq!(first.revoke(UnixMillis(5), one).line.except, one);
        assert_eq!(first.revoke(UnixMillis(4), two).line.except, None);
        assert_eq!(first.revoke(UnixMillis(6), two).line.except, two);
    }

    #[test]
    fn a_line_passes_a_session_begun_by_a_clock_that_is_ahead() {
        let facts = Facts::default().with(UnixMillis(900));
        assert_eq!(facts.revoke(UnixMillis(100), None).line.at, UnixMillis(900));
    }

    #[test]
    fn times_at_the_end_of_time_do_not_wrap() {
        let facts = Facts::default().revoke(UnixMillis(u64::MAX), None);
        assert!(!facts.forgotten(UnixMillis(u64::MAX)));
        let entry = Entry::end(None, EndReason::Logout, UnixMillis(u64::MAX), UnixMillis(u64::MAX));
        assert!(!entry.forgotten(UnixMillis(u64::MAX)));
    }
}
