//! Storage of session records. A store loads, compares and swaps; it makes no decisions.
//!
//! Three outcomes are never mixed: *absent* is a value ([`Slot::Absent`]), *unavailable* is an
//! error ([`Unavailable`], answered with 503 and an unchanged cookie), and *refused* is a result of
//! [`crate::session::decide()`].
//!
//! Expiry in the store is only housekeeping and decides nothing. A store removes a session some
//! time after `retain_until`, and never a tombstone before it. `retain_until` must not precede the
//! absolute timeout, because a touch does not extend it.
//!
//! | store | use | durable when acknowledged |
//! | --- | --- | --- |
//! | [`Store::Memory`] | tests, the demo | no |
//! | [`Store::Embedded`] | one machine | yes, except touches (200 ms) |
//! | [`Store::Redis`] | several gateways | as configured in Redis |
//!
//! An operation that returns `Unavailable` may have been applied. Every operation can be repeated
//! without harm.

mod cache;
mod embedded;
mod redis_store;
// Public for fuzzing and its regression tests only.
#[doc(hidden)]
pub mod entry;
mod invalidation;
mod memory;
mod redis;
mod revocation_log;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::broadcast;

pub use self::cache::{CacheStats, FlushCause};
pub use self::embedded::EmbeddedStore;
pub use self::memory::MemoryStore;
pub use self::redis::{Advice, RedisSettings};
pub use self::redis_store::{RedisStats, RedisStore};
use crate::clock::{Clock, UnixMillis};
use crate::session::{EndReason, RevocationCutoff, SessionId, SessionKey, UserTag};

/// Maximum sessions in the listing of one user.
pub const MAX_LISTED: usize = 1_000;

/// A store. Clones are handles to the same store.
#[derive(Clone, Debug)]
pub enum Store {
    /// Process memory.
    Memory(Arc<MemoryStore>),
    /// One file on this machine. Reads are served from memory.
    Embedded(Arc<EmbeddedStore>),
    /// A Redis or Valkey shared by several gateways.
    Redis(RedisStore),
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
    /// Lost when the process ends ([`Store::Memory`]).
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

/// A revocation that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revoked<L> {
    pub cutoff: L,
    pub durability: Durability,
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

/// Reason a store cannot be opened, for the operator at startup.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
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
    #[error("{}: {error}", path.display())]
    Secret { path: PathBuf, error: std::io::Error },
    #[error("the Redis settings: {0}")]
    Redis(String),
}

/// Futures of network operations are boxed. Otherwise they would enlarge the future of every
/// request, also where the store is local.
impl Store {
    /// Creates a store in process memory.
    pub fn memory(clock: Clock) -> Store {
        Store::Memory(Arc::new(MemoryStore::new(clock)))
    }

    /// Opens or creates `directory/sessions.redb` and reads it. Blocks; call it at startup.
    ///
    /// # Errors
    /// If the directory cannot be created or used, another process has it open, or the file is not
    /// a session store.
    pub fn embedded(directory: &Path, clock: Clock) -> Result<Store, OpenError> {
        Ok(Store::Embedded(Arc::new(EmbeddedStore::open(directory, clock)?)))
    }

    /// Creates a store on Redis or Valkey. The first command connects, so a gateway can start while
    /// Redis is down.
    ///
    /// # Errors
    /// If the URL or a certificate file is invalid.
    pub fn redis(settings: &RedisSettings) -> Result<Store, OpenError> {
        Ok(Store::Redis(RedisStore::new(settings)?))
    }

    /// Returns a handle for one worker. On Redis it has its own connection, which belongs to the
    /// runtime that first uses it. Clones share the connection.
    pub fn for_worker(&self) -> Store {
        match self {
            Store::Memory(_) | Store::Embedded(_) => self.clone(),
            Store::Redis(redis) => Store::Redis(redis.for_worker()),
        }
    }

    /// Returns a session from the cache: complete, and at most three seconds old. It may admit. To
    /// reject, end or write, call [`Store::load`] first, because activity at other gateways is not
    /// cached here.
    pub fn cached(&self, key: &SessionKey) -> Option<Loaded> {
        match self {
            // A load is a memory access.
            Store::Memory(_) | Store::Embedded(_) => None,
            Store::Redis(redis) => redis.cached(key),
        }
    }

    /// Receives changes from the store; it never returns on Redis. Until it runs, [`Store::cached`]
    /// returns nothing and [`Store::subscribe`] receives nothing. Returns at once for other stores.
    pub async fn run_invalidation(&self) {
        match self {
            Store::Memory(_) | Store::Embedded(_) => {}
            Store::Redis(redis) => redis.run_invalidation().await,
        }
    }

    /// Subscribes to all changes from now on, including those of this gateway. Returns `None` if no
    /// other process can change the store. A receiver that lags must recheck everything, as after
    /// [`StoreChange::Everything`].
    pub fn subscribe(&self) -> Option<broadcast::Receiver<StoreChange>> {
        match self {
            Store::Memory(_) | Store::Embedded(_) => None,
            Store::Redis(redis) => Some(redis.subscribe()),
        }
    }

    /// Returns the statistics of Redis since the start.
    pub fn stats(&self) -> Option<RedisStats> {
        match self {
            Store::Memory(_) | Store::Embedded(_) => None,
            Store::Redis(redis) => Some(redis.stats()),
        }
    }

    /// Returns the maximum total time of several dependent commands; `None` for local stores.
    pub fn request_deadline(&self) -> Option<Duration> {
        match self {
            Store::Memory(_) | Store::Embedded(_) => None,
            Store::Redis(redis) => Some(redis.request_deadline()),
        }
    }

    /// Loads a session with its last touch and its user's cutoff.
    pub async fn load(&self, key: &SessionKey) -> Result<Loaded, Unavailable> {
        match self {
            Store::Memory(memory) => Ok(memory.tables().load(key)),
            Store::Embedded(embedded) => Ok(embedded.tables().load(key)),
            Store::Redis(redis) => Box::pin(redis.load(key)).await,
        }
    }

    /// Creates a session with revision 1 and adds it to the user's index.
    ///
    /// # Errors
    /// Also if the ID is taken, or the user has 10,000 sessions.
    pub async fn create(
        &self,
        key: &SessionKey,
        sealed: &[u8],
        created: UnixMillis,
        retain_until: UnixMillis,
    ) -> Result<Durability, Unavailable> {
        match self {
            Store::Memory(memory) => {
                memory.create(key, sealed, created, retain_until).map(|()| Durability::InMemory)
            }
            Store::Embedded(embedded) => {
                let created = embedded.create(key, sealed, created, retain_until).await;
                created.map(|()| Durability::OnDisk)
            }
            Store::Redis(redis) => Box::pin(redis.create(key, sealed, created, retain_until)).await,
        }
    }

    /// Replaces the record if its revision is `expected`.
    pub async fn commit(
        &self,
        key: &SessionKey,
        expected: u64,
        sealed: &[u8],
        retain_until: UnixMillis,
    ) -> Result<CommitOutcome, Unavailable> {
        match self {
            Store::Memory(memory) => Ok(memory.commit(key, expected, sealed, retain_until)),
            Store::Embedded(embedded) => embedded.commit(key, expected, sealed, retain_until).await,
            Store::Redis(redis) => {
                Box::pin(redis.commit(key, expected, sealed, retain_until)).await
            }
        }
    }

    /// Records activity. Never moves back, and never creates or revives a session.
    pub async fn touch(
        &self,
        key: &SessionKey,
        at: UnixMillis,
        retain_until: UnixMillis,
    ) -> Result<(), Unavailable> {
        match self {
            Store::Memory(memory) => {
                memory.tables().touch(key, at);
                Ok(())
            }
            Store::Embedded(embedded) => {
                embedded.touch(key, at);
                Ok(())
            }
            Store::Redis(redis) => Box::pin(redis.touch(key, at, retain_until)).await,
        }
    }

    /// Ends the session permanently. A missing session gets a tombstone too, because a failover may
    /// bring it back. The first reason stays.
    pub async fn end(
        &self,
        key: &SessionKey,
        reason: EndReason,
        at: UnixMillis,
        retain_until: UnixMillis,
    ) -> Result<Durability, Unavailable> {
        match self {
            Store::Memory(memory) => {
                memory.end(key, reason, at, retain_until);
                Ok(Durability::InMemory)
            }
            Store::Embedded(embedded) => {
                embedded.end(key, reason, at, retain_until).await.map(|()| Durability::OnDisk)
            }
            Store::Redis(redis) => Box::pin(redis.end(key, reason, at, retain_until)).await,
        }
    }

    /// Advances the user's cutoff past every session created so far, except `except`. One atomic
    /// write.
    ///
    /// The new cutoff is the latest of `now`, the previous cutoff and the greatest `created` of the
    /// user. A gateway with a slow clock therefore also revokes sessions created by one with a fast
    /// clock.
    pub async fn revoke_user(
        &self,
        tag: &UserTag,
        now: UnixMillis,
        except: Option<SessionId>,
    ) -> Result<Revoked<RevocationCutoff>, Unavailable> {
        let (cutoff, durability) = match self {
            Store::Memory(memory) => (memory.revoke_user(tag, now, except), Durability::InMemory),
            Store::Embedded(embedded) => {
                (embedded.revoke_user(*tag, now, except).await?, Durability::OnDisk)
            }
            Store::Redis(redis) => redis.revoke_user(tag, now, except).await?,
        };
        Ok(Revoked { cutoff, durability })
    }

    /// Returns the user's cutoff. A new login must be created at least 1 ms after it.
    pub async fn user_cutoff(&self, tag: &UserTag) -> Result<RevocationCutoff, Unavailable> {
        match self {
            Store::Memory(memory) => Ok(memory.tables().user_state(*tag).cutoff),
            Store::Embedded(embedded) => Ok(embedded.tables().user_state(*tag).cutoff),
            Store::Redis(redis) => Box::pin(redis.user_cutoff(tag)).await,
        }
    }

    /// Returns the user's sealed history as [`Store::swap_user_history`] wrote it. Foreign data is
    /// returned too, truncated.
    pub async fn user_history(&self, tag: &UserTag) -> Result<Option<Bytes>, Unavailable> {
        let sealed = |user_history: entry::StoredHistory| user_history.sealed;
        match self {
            Store::Memory(memory) => Ok(memory.tables().user_history(*tag).map(sealed)),
            Store::Embedded(embedded) => Ok(embedded.tables().user_history(*tag).map(sealed)),
            Store::Redis(redis) => Box::pin(redis.user_history(tag)).await,
        }
    }

    /// Replaces the user's history if it still is `expected`; `None` expects no history. Two
    /// histories must never have the same bytes.
    ///
    /// # Errors
    /// Also if `sealed` is empty or longer than 16 KiB.
    pub async fn swap_user_history(
        &self,
        tag: &UserTag,
        expected: Option<&[u8]>,
        sealed: &[u8],
        retain_until: UnixMillis,
    ) -> Result<CommitOutcome, Unavailable> {
        if sealed.is_empty() || sealed.len() > entry::MAX_HISTORY_BYTES {
            return Err(Unavailable(format!(
                "a user history of {} bytes cannot be stored",
                sealed.len()
            )));
        }
        let expected = expected.unwrap_or_default();
        match self {
            Store::Memory(memory) => {
                Ok(memory.swap_user_history(tag, expected, sealed, retain_until))
            }
            Store::Embedded(embedded) => {
                embedded.swap_user_history(*tag, expected, sealed, retain_until).await
            }
            Store::Redis(redis) => {
                Box::pin(redis.swap_user_history(tag, expected, sealed, retain_until)).await
            }
        }
    }

    /// Advances the global cutoff past every session created so far; it never moves back. As with a
    /// user's cutoff, this includes sessions from gateways with fast clocks.
    pub async fn revoke_all_users(
        &self,
        now: UnixMillis,
    ) -> Result<Revoked<UnixMillis>, Unavailable> {
        let (cutoff, durability) = match self {
            Store::Memory(memory) => (memory.revoke_all_users(now), Durability::InMemory),
            Store::Embedded(embedded) => {
                (embedded.revoke_all_users(now).await?, Durability::OnDisk)
            }
            Store::Redis(redis) => redis.revoke_all_users(now).await?,
        };
        Ok(Revoked { cutoff, durability })
    }

    /// Restores a global cutoff that the store has lost. It revokes the same sessions as before and
    /// no newer ones.
    pub async fn restore_global_cutoff(&self, cutoff: UnixMillis) -> Result<(), Unavailable> {
        match self {
            Store::Memory(memory) => {
                memory.tables().advance_global_cutoff(cutoff);
                Ok(())
            }
            Store::Embedded(embedded) => embedded.restore_global_cutoff(cutoff).await,
            Store::Redis(redis) => redis.restore_global_cutoff(cutoff).await,
        }
    }

    /// Returns the global cutoff; zero if there is none.
    pub async fn global_cutoff(&self) -> Result<UnixMillis, Unavailable> {
        match self {
            Store::Memory(memory) => Ok(memory.tables().global_cutoff()),
            Store::Embedded(embedded) => Ok(embedded.tables().global_cutoff()),
            Store::Redis(redis) => Box::pin(redis.global_cutoff()).await,
        }
    }

    /// Lists the user's live sessions that their cutoff does not revoke, newest first, at most
    /// [`MAX_LISTED`]. The caller applies timeouts and the global cutoff.
    pub async fn list_user(&self, tag: &UserTag) -> Result<Vec<SessionListing>, Unavailable> {
        match self {
            Store::Memory(memory) => Ok(memory.tables().list_user(*tag)),
            Store::Embedded(embedded) => Ok(embedded.tables().list_user(*tag)),
            Store::Redis(redis) => redis.list_user(tag).await,
        }
    }

    /// Lists live sessions of all users, at most `limit`. Scans the whole store: for operators, not
    /// for requests.
    pub async fn list_all(&self, limit: usize) -> Result<Vec<SessionListing>, Unavailable> {
        match self {
            Store::Memory(memory) => Ok(memory.tables().list_all(limit)),
            Store::Embedded(embedded) => Ok(embedded.tables().list_all(limit)),
            Store::Redis(redis) => redis.list_all(limit).await,
        }
    }

    /// Finds a session by ID, live or ended. Scans the keys of the whole store.
    pub async fn find_session(
        &self,
        is_it: impl Fn(&SessionId) -> bool + Send + Sync,
    ) -> Result<Option<SessionKey>, Unavailable> {
        match self {
            Store::Memory(memory) => Ok(memory.tables().find_session(is_it)),
            Store::Embedded(embedded) => Ok(embedded.tables().find_session(is_it)),
            Store::Redis(redis) => redis.find_session(is_it).await,
        }
    }

    /// Checks that the store accepts writes and answers reads.
    pub async fn ping(&self) -> Result<(), Unavailable> {
        match self {
            Store::Memory(_) => Ok(()),
            Store::Embedded(embedded) => embedded.ping().await,
            Store::Redis(redis) => redis.ping().await,
        }
    }

    /// Removes some expired entries. Call it about once a second. Redis expires keys itself.
    pub fn sweep(&self) {
        match self {
            Store::Memory(memory) => memory.sweep(),
            Store::Embedded(embedded) => embedded.sweep(),
            Store::Redis(_) => {}
        }
    }

    /// Waits until all writes, including touches, are durable.
    pub async fn flush(&self) -> Result<(), Unavailable> {
        match self {
            Store::Memory(_) | Store::Redis(_) => Ok(()),
            Store::Embedded(embedded) => embedded.flush().await,
        }
    }

    /// Flushes and closes the file. Reads still work; later writes are unavailable.
    pub async fn close(&self) -> Result<(), Unavailable> {
        match self {
            Store::Memory(_) | Store::Redis(_) => Ok(()),
            Store::Embedded(embedded) => embedded.close().await,
        }
    }

    /// Returns the round trips to Redis since the start, of all workers.
    pub fn round_trips(&self) -> u64 {
        match self {
            Store::Memory(_) | Store::Embedded(_) => 0,
            Store::Redis(redis) => redis.round_trips(),
        }
    }
}
