//! Where session records live. A store loads and compares-and-swaps; it judges nothing.
//!
//! Three answers are never mixed: *absent* is a value ([`Slot::Absent`]), *unavailable* is an error
//! ([`Unavailable`], answered with 503 and an untouched cookie), *refused* is for
//! [`crate::session::decide`].
//!
//! Times to live are housekeeping, never the judge: a store forgets a session only some time after
//! `forget_at`, and never a tombstone before it.

use bytes::Bytes;

use crate::clock::UnixMillis;
use crate::session::{EndReason, NotBefore, SessionId, SessionKey, UserTag};

/// What lies under a session's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slot {
    /// Nothing: never written here, or forgotten.
    Absent,
    /// A sealed record. `revision` rises by one with each commit; the first is 1.
    Live { revision: u64, sealed: Bytes },
    /// A tombstone: the session ended and no commit can bring it back.
    Ended { reason: EndReason, at: UnixMillis },
}

/// One load: the slot, and what stands beside it in the same Redis slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    pub slot: Slot,
    /// The last touch, zero when there was none.
    pub touched: UnixMillis,
    /// The user's "log out everywhere" line.
    pub not_before: NotBefore,
}

/// What became of a compare-and-swap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commit {
    Swapped,
    /// Somebody else was first, or the session ended: load and decide again.
    Lost,
}

/// A session in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub key: SessionKey,
    pub revision: u64,
    pub sealed: Bytes,
    pub touched: UnixMillis,
}

/// The store did not answer, or not in time. Nothing is known; nothing may be concluded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the session store is unavailable: {0}")]
pub struct Unavailable(pub String);
