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
// Public for fuzzing and its regression tests only.
#[doc(hidden)]
pub mod entry;
mod invalidation;
mod login_counters;
mod memory;
mod redis;
mod revocation_log;
mod tables;
mod types;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::broadcast;

pub use self::cache::{
    CacheStats, CachedRecord, DualInstant, FlushCause, PendingLoad, SessionCache, VerifiedSession,
};
pub(crate) use self::cache::{MAX_CLOCK_SKEW, SessionState};
pub use self::embedded::EmbeddedStore;
pub use self::login_counters::{Counter, CounterGroup, KnownPlace, LoginCounters};
pub use self::memory::MemoryStore;
pub use self::redis::{Advice, RedisStats, RedisStore};
pub use self::types::{
    CommitOutcome, Durability, EndedSession, ExpiredSession, Loaded, MAX_LISTED, Revoked,
    SessionListing, Slot, StoreChange, StoreOpenError, Unavailable, ValueTag,
};
use crate::clock::{Clock, UnixMillis};
pub use crate::redis::RedisSettings;
use crate::session::{EndReason, RevocationCutoff, SessionId, SessionKey, UserTag};

/// Maximum size of a sealed value in bytes.
pub const MAX_VALUE_BYTES: usize = entry::MAX_HISTORY_BYTES;

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

/// Calls a read method: of the tables of a local store, or of Redis.
macro_rules! dispatch_read {
    ($store:ident . $method:ident ( $($argument:expr),* )) => {
        match $store {
            Store::Memory(memory) => Ok(memory.tables().$method($($argument),*)),
            Store::Embedded(embedded) => Ok(embedded.tables().$method($($argument),*)),
            Store::Redis(redis) => Box::pin(redis.$method($($argument),*)).await,
        }
    };
}

/// Calls a write method of the store.
macro_rules! dispatch_write {
    ($store:ident . $method:ident ( $($argument:expr),* )) => {
        match $store {
            Store::Memory(memory) => memory.$method($($argument),*),
            Store::Embedded(embedded) => embedded.$method($($argument),*).await,
            Store::Redis(redis) => Box::pin(redis.$method($($argument),*)).await,
        }
    };
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
    pub fn embedded(directory: &Path, clock: Clock) -> Result<Store, StoreOpenError> {
        Ok(Store::Embedded(Arc::new(EmbeddedStore::open(directory, clock)?)))
    }

    /// Returns the file of an embedded store.
    pub fn embedded_file(directory: &Path) -> PathBuf {
        embedded::file_path(directory)
    }

    /// Creates a store on Redis or Valkey. The first command connects, so a gateway can start while
    /// Redis is down.
    ///
    /// # Errors
    /// If the URL or a certificate file is invalid.
    pub fn redis(settings: &RedisSettings) -> Result<Store, StoreOpenError> {
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

    fn as_redis(&self) -> Option<&RedisStore> {
        match self {
            Store::Memory(_) | Store::Embedded(_) => None,
            Store::Redis(redis) => Some(redis),
        }
    }

    /// Returns the cache of this gateway: the one that invalidations reach, or a new one if no other
    /// process can change the store.
    pub fn session_cache(&self) -> Arc<SessionCache> {
        self.as_redis().map_or_else(
            || Arc::new(SessionCache::new(false)),
            |redis| Arc::clone(&redis.shared().cache),
        )
    }

    /// Receives changes from the store; it never returns on Redis. Until it runs, no cached session
    /// is proven and [`Store::subscribe`] receives nothing. Returns at once for other stores.
    pub async fn run_invalidation(&self) {
        if let Some(redis) = self.as_redis() {
            invalidation::run(redis.for_worker()).await;
        }
    }

    /// Subscribes to all changes from now on, including those of this gateway. Returns `None` if no
    /// other process can change the store. A receiver that lags must recheck everything, as after
    /// [`StoreChange::Everything`].
    pub fn subscribe(&self) -> Option<broadcast::Receiver<StoreChange>> {
        self.as_redis().map(RedisStore::subscribe)
    }

    /// Returns the statistics of Redis since the start.
    pub fn stats(&self) -> Option<RedisStats> {
        self.as_redis().map(RedisStore::stats)
    }

    /// Returns the maximum total time of several dependent commands; `None` for local stores.
    pub fn request_deadline(&self) -> Option<Duration> {
        self.as_redis().map(RedisStore::request_deadline)
    }

    /// Loads a session with its last touch and its user's cutoff.
    pub async fn load(&self, key: &SessionKey) -> Result<Loaded, Unavailable> {
        dispatch_read!(self.load(key))
    }

    /// As [`Store::load`], if the store is local. `before` runs before the read, and only then.
    pub fn load_local<T>(
        &self,
        key: &SessionKey,
        before: impl FnOnce() -> T,
    ) -> Option<(T, Loaded)> {
        let tables = match self {
            Store::Memory(memory) => memory.tables(),
            Store::Embedded(embedded) => embedded.tables(),
            Store::Redis(_) => return None,
        };
        Some((before(), tables.load(key)))
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
        dispatch_write!(self.create(key, sealed, created, retain_until))
    }

    /// Replaces the record if its revision is `expected`.
    pub async fn commit(
        &self,
        key: &SessionKey,
        expected: u64,
        sealed: &[u8],
        retain_until: UnixMillis,
    ) -> Result<CommitOutcome, Unavailable> {
        dispatch_write!(self.commit(key, expected, sealed, retain_until))
    }

    /// Records activity. Never moves back, and never creates or revives a session.
    pub async fn touch(
        &self,
        key: &SessionKey,
        at: UnixMillis,
        retain_until: UnixMillis,
    ) -> Result<(), Unavailable> {
        dispatch_write!(self.touch(key, at, retain_until))
    }

    /// Ends the session permanently. A missing session gets a tombstone too, because a failover may
    /// bring it back. The first reason stays.
    pub async fn end(
        &self,
        key: &SessionKey,
        reason: EndReason,
        at: UnixMillis,
        retain_until: UnixMillis,
    ) -> Result<EndedSession, Unavailable> {
        dispatch_write!(self.end(key, reason, at, retain_until))
    }

    /// Ends a session that has expired without a request. Returns whether this call ended it: not if
    /// the session was used, changed or ended since the load, or the store's own clock is before
    /// `due`.
    pub async fn expire(
        &self,
        session: &ExpiredSession,
        reason: EndReason,
        at: UnixMillis,
    ) -> Result<bool, Unavailable> {
        dispatch_write!(self.expire(session, reason, at))
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
        dispatch_write!(self.revoke_user(tag, now, except))
    }

    /// Returns the user's cutoff. A new login must be created at least 1 ms after it.
    pub async fn user_cutoff(&self, tag: &UserTag) -> Result<RevocationCutoff, Unavailable> {
        dispatch_read!(self.user_cutoff(tag))
    }

    /// Returns a sealed value as [`Store::swap_value`] wrote it. Foreign data is returned too, truncated.
    pub async fn value(&self, tag: ValueTag) -> Result<Option<Bytes>, Unavailable> {
        let tag = &UserTag(tag.0);
        dispatch_read!(self.user_history(tag))
    }

    /// Replaces a sealed value if it still is `expected`; `None` expects no value. Two values must never
    /// have the same bytes. The value is kept until `retain_until`, or longer if an earlier write said so.
    ///
    /// # Errors
    /// Also if `sealed` is empty or longer than 16 KiB.
    pub async fn swap_value(
        &self,
        tag: ValueTag,
        expected: Option<&[u8]>,
        sealed: &[u8],
        retain_until: UnixMillis,
    ) -> Result<CommitOutcome, Unavailable> {
        if sealed.is_empty() || sealed.len() > entry::MAX_HISTORY_BYTES {
            return Err(Unavailable(format!("a value of {} bytes cannot be stored", sealed.len())));
        }
        let (tag, expected) = (&UserTag(tag.0), expected.unwrap_or_default());
        dispatch_write!(self.swap_user_history(tag, expected, sealed, retain_until))
    }

    /// Advances the global cutoff past every session created so far; it never moves back. As with a
    /// user's cutoff, this includes sessions from gateways with fast clocks.
    pub async fn revoke_all_users(
        &self,
        now: UnixMillis,
    ) -> Result<Revoked<UnixMillis>, Unavailable> {
        dispatch_write!(self.revoke_all_users(now))
    }

    /// Restores a global cutoff that the store has lost. It revokes the same sessions as before and
    /// no newer ones.
    pub async fn restore_global_cutoff(&self, cutoff: UnixMillis) -> Result<(), Unavailable> {
        dispatch_write!(self.restore_global_cutoff(cutoff))
    }

    /// Returns the global cutoff; zero if there is none.
    pub async fn global_cutoff(&self) -> Result<UnixMillis, Unavailable> {
        dispatch_read!(self.global_cutoff())
    }

    /// Lists the user's live sessions that their cutoff does not revoke, newest first, at most
    /// [`MAX_LISTED`]. The caller applies timeouts and the global cutoff.
    pub async fn list_user(&self, tag: &UserTag) -> Result<Vec<SessionListing>, Unavailable> {
        dispatch_read!(self.list_user(tag))
    }

    /// Lists live sessions of all users, at most `limit`. Scans the whole store: for operators, not
    /// for requests.
    pub async fn list_all(&self, limit: usize) -> Result<Vec<SessionListing>, Unavailable> {
        dispatch_read!(self.list_all(limit))
    }

    /// Finds a session by its key, live or ended. Scans the keys of the whole store.
    pub async fn find_session(
        &self,
        is_it: impl Fn(&SessionKey) -> bool + Send + Sync,
    ) -> Result<Option<SessionKey>, Unavailable> {
        dispatch_read!(self.find_session(is_it))
    }

    /// Charges one login attempt to every counter of the group. `now` is the clock of local stores;
    /// Redis uses its own.
    ///
    /// # Errors
    /// The inner error is the time to wait, if a counter is exhausted.
    pub async fn charge_login(
        &self,
        group: &CounterGroup,
        now: UnixMillis,
    ) -> Result<Result<(), Duration>, Unavailable> {
        match self {
            Store::Memory(memory) => Ok(memory.tables().login_counters.charge(group, now)),
            Store::Embedded(embedded) => Ok(embedded.tables().login_counters.charge(group, now)),
            Store::Redis(redis) => Box::pin(redis.charge_login(group)).await,
        }
    }

    /// Takes back one charge of every counter.
    pub async fn refund_login(&self, group: &CounterGroup) -> Result<(), Unavailable> {
        match self {
            Store::Memory(memory) => memory.tables().login_counters.refund(group),
            Store::Embedded(embedded) => embedded.tables().login_counters.refund(group),
            Store::Redis(redis) => return Box::pin(redis.refund_login(group)).await,
        }
        Ok(())
    }

    /// Removes the counters of a user and remembers the place of the login. `place` belongs to the
    /// group.
    pub async fn clear_login(
        &self,
        group: &CounterGroup,
        place: &KnownPlace,
        known_for: Duration,
        now: UnixMillis,
    ) -> Result<(), Unavailable> {
        let until = now.plus(known_for);
        match self {
            Store::Memory(memory) => memory.tables().login_counters.clear(group, place, until),
            Store::Embedded(store) => store.tables().login_counters.clear(group, place, until),
            Store::Redis(redis) => {
                return Box::pin(redis.clear_login(group, place, known_for)).await;
            }
        }
        Ok(())
    }

    /// Returns whether the user logged in from this place before.
    pub async fn is_known_place(
        &self,
        place: &KnownPlace,
        now: UnixMillis,
    ) -> Result<bool, Unavailable> {
        match self {
            Store::Memory(memory) => Ok(memory.tables().login_counters.is_known(place, now)),
            Store::Embedded(embedded) => Ok(embedded.tables().login_counters.is_known(place, now)),
            Store::Redis(redis) => Box::pin(redis.is_known_place(place)).await,
        }
    }

    /// Checks that the store accepts writes and answers reads. A Redis without memory, disk or enough
    /// replicas answers reads only.
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
        self.as_redis().map_or(0, |redis| redis.stats().round_trips)
    }
}
