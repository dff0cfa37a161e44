//! Entries of the in-process stores: one session and one user, and the rules for changing them.
//!
//! Pure, and shared by `memory:` and `embedded:`. The Redis scripts implement the same rules in
//! Lua; the conformance suite runs against all stores. Invariants:
//! - a tombstone never becomes a session again and keeps its first reason
//! - a user's cutoff, a touch and a retention time only move forward

use std::time::Duration;

use bytes::Bytes;

use super::types::{ExpiredSession, SessionListing, Slot, Unavailable};
use crate::clock::UnixMillis;
use crate::session::{EndReason, RevocationCutoff, SessionId, SessionKey};

/// Time an entry is kept after `retain_until`, to cover clock skew between gateways.
pub(super) const RETENTION_SLACK: Duration = Duration::from_hours(1);

/// Retention of a user's cutoff. No browser keeps a cookie longer than 400 days.
pub(super) const CUTOFF_RETENTION: Duration = Duration::from_hours(400 * 24);

/// Maximum sessions per user. Without it, one user with a valid login could fill the store.
pub(super) const MAX_SESSIONS_PER_USER: usize = 10_000;

/// Maximum size of a user's history in bytes. Longer values were not written by doorward.
pub(super) const MAX_HISTORY_BYTES: usize = 16 * 1024;

/// A user's sealed history. The store does not interpret it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HistoryEntry {
    pub(super) sealed: Bytes,
    pub(super) retain_until: UnixMillis,
}

/// One session: a sealed record or its tombstone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SessionEntry {
    pub(super) created: UnixMillis,
    pub(super) retain_until: UnixMillis,
    pub(super) slot: Slot,
}

/// Revocation state of one user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct UserState {
    pub(super) cutoff: RevocationCutoff,
    /// The greatest `created` of all sessions of the user.
    pub(super) latest_created: UnixMillis,
}

impl SessionEntry {
    /// Returns a new session. A repeated call with the same bytes is not a collision.
    pub(super) fn create(
        existing: Option<&SessionEntry>,
        sealed: &Bytes,
        created: UnixMillis,
        retain_until: UnixMillis,
    ) -> Result<SessionEntry, Unavailable> {
        let entry = SessionEntry {
            created,
            retain_until,
            slot: Slot::Live { revision: 1, sealed: sealed.clone() },
        };
        match existing {
            None => Ok(entry),
            Some(existing) if existing.slot == entry.slot => Ok(entry),
            Some(_) => Err(id_collision()),
        }
    }

    /// Returns the entry after a compare-and-swap, or `None` on a conflict.
    pub(super) fn commit(
        &self,
        expected: u64,
        sealed: &Bytes,
        retain_until: UnixMillis,
    ) -> Option<SessionEntry> {
        match self.slot {
            Slot::Live { revision, .. } if revision == expected => Some(SessionEntry {
                created: self.created,
                retain_until: self.retain_until.max(retain_until),
                slot: Slot::Live { revision: revision.saturating_add(1), sealed: sealed.clone() },
            }),
            Slot::Live { .. } | Slot::Ended { .. } | Slot::Absent => None,
        }
    }

    /// Returns the tombstone that replaces `existing`.
    pub(super) fn end(
        existing: Option<&SessionEntry>,
        reason: EndReason,
        at: UnixMillis,
        retain_until: UnixMillis,
    ) -> SessionEntry {
        let tombstone = Slot::Ended { reason, at };
        let Some(existing) = existing else {
            return SessionEntry { created: at, retain_until, slot: tombstone };
        };
        SessionEntry {
            created: existing.created,
            retain_until: existing.retain_until.max(retain_until),
            slot: match &existing.slot {
                Slot::Ended { .. } => existing.slot.clone(),
                Slot::Live { .. } | Slot::Absent => tombstone,
            },
        }
    }

    /// Returns the tombstone of a session that has expired; `None` if it changed since it was loaded,
    /// or has not expired by the clock of the store.
    pub(super) fn expire(
        &self,
        loaded: &ExpiredSession,
        touched: UnixMillis,
        reason: EndReason,
        at: UnixMillis,
        now: UnixMillis,
    ) -> Option<SessionEntry> {
        let is_unchanged = match self.slot {
            Slot::Live { revision, .. } => revision == loaded.revision,
            Slot::Ended { .. } | Slot::Absent => false,
        };
        (is_unchanged && touched <= loaded.touched && now >= loaded.due)
            .then(|| SessionEntry::end(Some(self), reason, at, loaded.retain_until))
    }

    /// Reports whether the session is live and the cutoff `after` revokes it, but not `before`.
    pub(super) fn is_revoked_between(
        &self,
        id: SessionId,
        before: RevocationCutoff,
        after: RevocationCutoff,
    ) -> bool {
        self.is_live() && after.revokes(id, self.created) && !before.revokes(id, self.created)
    }

    /// Reports whether the entry holds a sealed record.
    pub(super) fn is_live(&self) -> bool {
        match self.slot {
            Slot::Live { .. } => true,
            Slot::Ended { .. } | Slot::Absent => false,
        }
    }

    /// Reports whether the retention time, including the slack, has passed.
    pub(super) fn is_expired(&self, now: UnixMillis) -> bool {
        self.retain_until.plus(RETENTION_SLACK) < now
    }

    /// Returns the entry for a listing, or `None` if it ended or the user's cutoff revokes it.
    pub(super) fn to_listing(
        &self,
        key: SessionKey,
        cutoff: RevocationCutoff,
        touched: UnixMillis,
    ) -> Option<SessionListing> {
        match &self.slot {
            Slot::Live { revision, sealed } if !cutoff.revokes(key.id, self.created) => {
                Some(SessionListing { key, revision: *revision, sealed: sealed.clone(), touched })
            }
            Slot::Live { .. } | Slot::Ended { .. } | Slot::Absent => None,
        }
    }
}

impl HistoryEntry {
    /// Returns the history after a compare-and-swap of its bytes, or `None` on a conflict.
    pub(super) fn swap(
        existing: Option<&HistoryEntry>,
        expected: &[u8],
        sealed: &Bytes,
        retain_until: UnixMillis,
    ) -> Option<HistoryEntry> {
        let (current, current_retain) = match existing {
            Some(stored) => (&stored.sealed[..], stored.retain_until),
            None => (&[][..], UnixMillis(0)),
        };
        // The same bytes again are a retry of the same call.
        let swaps = current == expected || current == sealed;
        swaps.then(|| HistoryEntry {
            sealed: sealed.clone(),
            retain_until: current_retain.max(retain_until),
        })
    }

    /// Reports whether the retention time, including the slack, has passed.
    pub(super) fn is_expired(&self, now: UnixMillis) -> bool {
        self.retain_until.plus(RETENTION_SLACK) < now
    }
}

impl UserState {
    /// Returns the state after the creation of a session.
    pub(super) fn with_created(self, created: UnixMillis) -> UserState {
        UserState { latest_created: self.latest_created.max(created), ..self }
    }

    /// Returns the state after "log out everywhere". The cutoff covers every session ever created.
    /// Otherwise sessions from a gateway whose clock is ahead would survive.
    pub(super) fn revoke(self, now: UnixMillis, except: Option<SessionId>) -> UserState {
        let at = now.max(self.latest_created).max(self.cutoff.at);
        UserState { cutoff: self.cutoff.later(RevocationCutoff { at, except }), ..self }
    }

    /// Reports whether the cutoff is older than any session that it could revoke.
    pub(super) fn is_expired(&self, now: UnixMillis) -> bool {
        self.cutoff.at == UnixMillis(0) || self.cutoff.at.plus(CUTOFF_RETENTION) < now
    }
}

/// Error for two sessions with the same ID. 128 random bits do not collide, so the random generator
/// is broken.
pub(super) fn id_collision() -> Unavailable {
    Unavailable(
        "a session with this ID exists already: the random generator repeats itself".to_owned(),
    )
}

/// Error for a user at [`MAX_SESSIONS_PER_USER`].
pub(super) fn too_many_sessions() -> Unavailable {
    Unavailable(format!("the user has {MAX_SESSIONS_PER_USER} sessions, the maximum per user"))
}

const LIVE: u8 = 1;
const ENDED: u8 = 2;

/// `1 | revision 8`: the prefix of every live value with this revision.
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

/// Decodes a packed value. Returns `None` for bytes that doorward did not write.
pub fn unpack(value: Bytes) -> Option<Slot> {
    match *value.first()? {
        LIVE => {
            Some(Slot::Live { revision: read_u64(value.get(1..9)?)?, sealed: value.slice(9..) })
        }
        ENDED => Some(Slot::Ended {
            reason: EndReason::from_code(*value.get(1)?),
            at: UnixMillis(read_u64(value.get(2..10)?)?),
        }),
        _ => None,
    }
}

/// Decodes eight big-endian bytes.
pub(super) fn read_u64(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unpack_restores_packed_slots_and_rejects_foreign_bytes() {
        let live = Slot::Live { revision: 7, sealed: Bytes::from_static(b"sealed") };
        let ended = Slot::Ended { reason: EndReason::Theft, at: UnixMillis(9) };
        assert_eq!(unpack(pack_live(7, b"sealed").into()), Some(live));
        assert_eq!(unpack(pack_ended(EndReason::Theft, UnixMillis(9)).into()), Some(ended));
        for foreign in [b"".as_slice(), b"\x01short", b"\x02\x01short", b"other"] {
            assert_eq!(unpack(Bytes::from_static(foreign)), None);
        }
    }

    #[test]
    fn of_two_equal_cutoffs_an_exception_needs_both() {
        let (one, two) = (Some(SessionId([1; 16])), Some(SessionId([2; 16])));
        let first = UserState::default().revoke(UnixMillis(5), one);
        assert_eq!(first.revoke(UnixMillis(5), one).cutoff.except, one);
        assert_eq!(first.revoke(UnixMillis(4), two).cutoff.except, None);
        assert_eq!(first.revoke(UnixMillis(6), two).cutoff.except, two);
    }

    #[test]
    fn a_cutoff_covers_sessions_created_by_a_fast_clock() {
        let facts = UserState::default().with_created(UnixMillis(900));
        assert_eq!(facts.revoke(UnixMillis(100), None).cutoff.at, UnixMillis(900));
    }

    #[test]
    fn the_greatest_times_do_not_overflow() {
        let facts = UserState::default().revoke(UnixMillis(u64::MAX), None);
        assert!(!facts.is_expired(UnixMillis(u64::MAX)));
        let entry =
            SessionEntry::end(None, EndReason::Logout, UnixMillis(u64::MAX), UnixMillis(u64::MAX));
        assert!(!entry.is_expired(UnixMillis(u64::MAX)));
    }
}
