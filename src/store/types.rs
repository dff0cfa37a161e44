//! Values and errors of all stores.

use std::path::PathBuf;

use bytes::Bytes;

use crate::clock::UnixMillis;
use crate::redis::{RedisUnavailable, Replication};
use crate::session::{EndReason, RevocationCutoff, SessionId, SessionKey, UserTag};

/// Maximum sessions in the listing of one user.
pub const MAX_LISTED: usize = 1_000;

/// Names a sealed value: 8 bytes of a keyed hash, so that names do not reveal what they stand for and cannot
/// be made to collide. The history of a user has the tag of the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ValueTag(pub [u8; 8]);

impl From<UserTag> for ValueTag {
    fn from(tag: UserTag) -> ValueTag {
        ValueTag(tag.0)
    }
}

/// The value under a session key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slot {
    /// Nothing: never written, or removed after `retain_until`.
    Absent,
    /// A sealed record. `revision` starts at 1 and increases by one with each commit.
    Live { revision: u64, sealed: Bytes },
    /// A tombstone. No commit can revive the session.
    Ended { reason: EndReason, at: UnixMillis },
}

/// The result of a load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    pub slot: Slot,
    /// The last touch; zero if there was none.
    pub touched: UnixMillis,
    /// The user's revocation cutoff.
    pub user_cutoff: RevocationCutoff,
}

/// The result of a compare-and-swap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitOutcome {
    Swapped,
    /// Another write was first, or the session ended. Load and decide again.
    Conflict,
}

/// Durability of an acknowledged write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Lost when the process ends (`Store::Memory`).
    InMemory,
    /// On this machine's disk.
    OnDisk,
    /// As configured in Redis, without waiting for replicas.
    NotRequested,
    /// `acknowledged` replicas confirmed the write in time. With fewer than `requested`, a failover
    /// may lose it.
    Replicated { requested: u32, acknowledged: u32 },
}

impl Durability {
    /// Reports whether the write survives the loss of its server; `None` if no replica was waited
    /// for.
    pub fn is_durable(self) -> Option<bool> {
        match self {
            Durability::InMemory => Some(false),
            Durability::OnDisk => Some(true),
            Durability::NotRequested => None,
            Durability::Replicated { requested, acknowledged } => Some(acknowledged >= requested),
        }
    }
}

impl From<Option<Replication>> for Durability {
    fn from(replication: Option<Replication>) -> Durability {
        match replication {
            Some(Replication { requested, acknowledged }) => {
                Durability::Replicated { requested, acknowledged }
            }
            None => Durability::NotRequested,
        }
    }
}

/// The end of a session that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndedSession {
    pub durability: Durability,
    /// Whether this call ended the session; false if it had ended before.
    pub is_first: bool,
}

/// A revocation that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revoked<L> {
    pub cutoff: L,
    pub durability: Durability,
    /// The sessions that this call ended and no earlier one. Empty for a global revocation.
    pub ended: Vec<SessionId>,
}

/// A session that may have expired, as loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpiredSession {
    pub key: SessionKey,
    /// Revision and last touch of the load.
    pub revision: u64,
    pub touched: UnixMillis,
    /// Time before which the session cannot have expired.
    pub due: UnixMillis,
    pub retain_until: UnixMillis,
}

/// A session in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionListing {
    pub key: SessionKey,
    pub revision: u64,
    pub sealed: Bytes,
    pub touched: UnixMillis,
}

/// A change in the store, made here or by another gateway. Data loaded before it may be outdated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreChange {
    /// A session was rotated or ended.
    Session(SessionKey),
    /// A user's cutoff moved.
    UserCutoff(UserTag),
    /// The global cutoff moved.
    GlobalCutoff,
    /// Changes were missed, or the store was emptied: everything may have changed.
    Everything,
}

/// The store did not respond in time. The caller must not conclude anything.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the session store is unavailable: {0}")]
pub struct Unavailable(pub String);

impl Unavailable {
    /// For requests while the keys of the stored sessions are unknown.
    pub fn missing_keys() -> Unavailable {
        Unavailable("the keys file is missing, and the sessions may need it".to_owned())
    }
}

impl From<RedisUnavailable> for Unavailable {
    fn from(RedisUnavailable(detail): RedisUnavailable) -> Unavailable {
        Unavailable(detail)
    }
}

/// Reason a store cannot be opened, for the operator at startup.
#[derive(Debug, thiserror::Error)]
pub enum StoreOpenError {
    #[error("the store's directory {}: {error}", path.display())]
    Directory { path: PathBuf, error: std::io::Error },
    #[error(
        "{} is in use by another doorward process; give each its own directory, or use Redis",
        path.display()
    )]
    InUse { path: PathBuf },
    #[error(
        "{} was written by another version of doorward (schema {found}); start that version, or delete the file, which ends all sessions",
        path.display()
    )]
    Schema { path: PathBuf, found: u64 },
    #[error("{} cannot be read as a session store: {detail}", path.display())]
    Damaged { path: PathBuf, detail: String },
    #[error("the Redis settings: {0}")]
    Redis(String),
}
