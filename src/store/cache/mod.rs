//! The session cache: everything that a gateway remembers of sessions, users and cutoffs.
//!
//! It has three uses, and each has its own condition:
//!
//! | use | condition |
//! | --- | --- |
//! | *admit* without a store request ([`SessionCache::lookup`]) | record and cutoffs are proven current, and the proof is fresh |
//! | *serve stale* in an outage ([`SessionCache::stale`]) | the store confirmed the record recently, and no end was requested since |
//! | *detect a rollback* ([`SessionCache::is_newer_than`]) | none: the newest state seen is kept whatever happens |
//!
//! # What a cached session proves
//!
//! A record enters the cache only after it was decrypted and compared with the newest record seen.
//! A request may be admitted from the cache if no change of the record or of a cutoff has arrived
//! since the load that proved it, and if every change must have arrived:
//! - *Changes remove proofs.* Redis pushes each change ([`super::invalidation`]), and each write of
//!   this gateway removes the proof itself, because the push follows the reply. The newest state
//!   seen stays.
//! - *A response from before a change proves nothing.* A load marks record and cutoff as pending
//!   before it is sent. A change removes the mark, and only a response that finds its own mark is a
//!   proof ([`entry::Proof`]). The order in which response and change arrive has no effect, and
//!   neither has a second load between them.
//! - *A missed change is noticed.* The heartbeat proves that all changes before its sending have
//!   arrived. Without one for three seconds, by either clock, no proof counts. The cause has no
//!   effect: connection, Redis, this process or the machine.
//! - *A lost connection, an emptied store and a new topology* advance the generation. Proofs of an
//!   older generation, and of loads that began in it, do not count.
//! - *A user's sessions and cutoff* are under one lock, so a request never combines a session with
//!   a cutoff from before its revocation.
//! - A proof counts for one minute at most, in case of a fault in all of this.
//!
//! # Why the cache never refuses
//!
//! Activity at other gateways changes only the touch, which is not pushed, as every request would
//! be. A cached touch can therefore be too old, and a timeout too early. A refusal, an end or a
//! write is decided again on a load.
//!
//! Memory and embedded stores push nothing and need no proof: they are read for every request, and
//! the cache saves only the decryption.

mod combined_freshness;
mod entry;
mod freshness;
mod observed;
#[cfg(test)]
mod tests;

use std::cmp;
use std::convert::Infallible;
use std::ops::DerefMut;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use quick_cache::unsync::Cache;

pub(super) use self::combined_freshness::{CombinedFreshness, PrimaryFreshness};
pub(crate) use self::entry::SessionState;
use self::entry::{ByteWeighter, CachedSession, CachedUser, Proof};
pub use self::entry::{CachedRecord, PendingLoad, VerifiedSession};
pub use self::freshness::DualInstant;
pub(super) use self::freshness::Freshness;

use super::types::{Loaded, Slot, StoreChange};
use crate::clock::UnixMillis;
use crate::session::{RevocationCutoff, SessionKey, UserTag};

const SHARDS: usize = 64;
/// Approximate size limit of all sessions in bytes.
const MAX_SESSION_BYTES: u64 = 128 * 1024 * 1024;
/// Maximum number of users.
const MAX_USERS: usize = 64 * 1024;

/// Maximum clock difference between gateways. A later activity time is not trusted.
pub(crate) const MAX_CLOCK_SKEW: Duration = Duration::from_mins(2);

/// The cache of a process, shared by all workers.
pub struct SessionCache {
    shards: Vec<Mutex<CacheShard>>,
    /// Whether the store pushes its changes, so that a proof is possible.
    is_followed: bool,
    /// Number of flushes. Proofs of an older generation do not count.
    generation: AtomicU64,
    next_load_id: AtomicU64,
    /// The last heartbeat that proves that changes arrive.
    pub(super) freshness: Arc<Freshness>,
    /// The operator's cutoff for all sessions, and its last read.
    global_cutoff: AtomicU64,
    global_cutoff_read: Freshness,
    flush_counts: [AtomicU64; FlushCause::ALL.len()],
}

/// The sessions and cutoffs of some users.
struct CacheShard {
    sessions: Cache<SessionKey, CachedSession, ByteWeighter>,
    users: Cache<UserTag, CachedUser>,
    hits: u64,
    misses: u64,
}

/// Cause of a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushCause {
    /// A new connection: earlier changes were missed.
    Connected,
    /// The connection broke or timed out.
    ConnectionLost,
    /// The store was emptied, or a push could not be parsed.
    StoreEmptied,
    /// The global cutoff moved.
    GlobalCutoff,
}

impl FlushCause {
    /// All causes.
    pub const ALL: [FlushCause; 4] = [
        FlushCause::Connected,
        FlushCause::ConnectionLost,
        FlushCause::StoreEmptied,
        FlushCause::GlobalCutoff,
    ];

    /// Returns the label for metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            FlushCause::Connected => "subscribed",
            FlushCause::ConnectionLost => "subscription-lost",
            FlushCause::StoreEmptied => "store-flushed",
            FlushCause::GlobalCutoff => "global-revocation",
        }
    }
}

/// Counters and gauges since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    pub hits: u64,
    pub misses: u64,
    pub entries: usize,
    pub bytes: u64,
    /// Flushes by cause, in the order of [`FlushCause::ALL`].
    pub flushes: [u64; FlushCause::ALL.len()],
}

impl SessionCache {
    /// Creates the cache. `is_followed` states that the store pushes its changes.
    pub fn new(is_followed: bool) -> SessionCache {
        SessionCache {
            shards: std::iter::repeat_with(CacheShard::new).map(Mutex::new).take(SHARDS).collect(),
            is_followed,
            generation: AtomicU64::new(0),
            next_load_id: AtomicU64::new(0),
            freshness: Arc::default(),
            global_cutoff: AtomicU64::new(0),
            global_cutoff_read: Freshness::default(),
            flush_counts: Default::default(),
        }
    }

    /// Returns a session that may admit a request. `at` is a time before the call, so that a
    /// stalled process does not overestimate the freshness.
    pub fn lookup(&self, key: &SessionKey, at: DualInstant) -> Option<VerifiedSession> {
        if !self.is_followed {
            return None;
        }
        // In this order: a new connection flushes before it confirms freshness.
        let is_fresh = self.freshness.is_fresh(at);
        let generation = self.generation.load(Ordering::Acquire);
        let mut shard = self.shard(&key.tag);
        let found = if is_fresh { shard.proven(key, generation, at) } else { None };
        let count = if found.is_some() { &mut shard.hits } else { &mut shard.misses };
        *count += 1;
        found
    }

    /// Marks record and cutoff as pending. Call it before the load is sent.
    pub fn start_load(&self, key: &SessionKey, at: DualInstant) -> PendingLoad {
        if !self.is_followed || !self.freshness.is_fresh(at) {
            return PendingLoad { at, id: None };
        }
        let generation = self.generation.load(Ordering::Acquire);
        let load = PendingLoad { at, id: Some(self.next_load_id.fetch_add(1, Ordering::Relaxed)) };
        let mut shard = self.shard(&key.tag);
        if let Some(mut session) = shard.session(key) {
            session.proof.start(&load, generation);
        }
        if let Some(mut user) = shard.user(&key.tag) {
            user.proof.start(&load, generation);
        }
        load
    }

    /// Confirms a response that equals the cached state, as most do; `None` in any other case.
    pub fn confirm_unchanged(
        &self,
        key: &SessionKey,
        load: &PendingLoad,
        loaded: &Loaded,
    ) -> Option<VerifiedSession> {
        let Slot::Live { revision, sealed } = &loaded.slot else { return None };
        let mut shard = self.shard(&key.tag);
        let user_cutoff = shard.cutoff(&key.tag);
        if user_cutoff != loaded.user_cutoff || is_in_future(loaded.touched, load.at) {
            return None;
        }
        let mut session = shard.sessions.get_mut(key)?;
        if !session.record()?.is_same(*revision, sealed) {
            return None;
        }
        session.confirm(load, cmp::Ordering::Equal, loaded.touched);
        let verified = session.verified(user_cutoff);
        drop(session);
        if load.id.is_some()
            && let Some(mut user) = shard.users.peek_mut(&key.tag)
        {
            user.proof.complete(load, cmp::Ordering::Equal);
        }
        verified
    }

    /// Caches the verified record of a response, unless the session ended in the meantime.
    pub fn insert_loaded(
        &self,
        key: &SessionKey,
        load: &PendingLoad,
        cached: CachedRecord,
        touched: UnixMillis,
    ) {
        if let Some(mut session) = self.shard(&key.tag).session(key) {
            let is_same = |before: &CachedRecord| before.is_same(cached.revision, &cached.sealed);
            let response = match session.record().is_some_and(is_same) {
                true => cmp::Ordering::Equal,
                false => cmp::Ordering::Greater,
            };
            if response == cmp::Ordering::Greater {
                session.replace(SessionState::Live(cached));
            }
            session.confirm(load, response, touched);
        }
    }

    /// Keeps the cached record, because the response has an older one.
    pub(crate) fn keep_newer(&self, key: &SessionKey, load: &PendingLoad, touched: UnixMillis) {
        if let Some(mut session) = self.shard(&key.tag).sessions.peek_mut(key) {
            session.confirm(load, cmp::Ordering::Less, touched);
        }
    }

    /// Caches the user's cutoff of a response. Returns the latest one.
    pub fn insert_loaded_cutoff(
        &self,
        tag: &UserTag,
        load: &PendingLoad,
        cutoff: RevocationCutoff,
    ) -> RevocationCutoff {
        let mut shard = self.shard(tag);
        if load.id.is_none() && cutoff == RevocationCutoff::default() {
            return shard.cutoff(tag);
        }
        let Some(mut user) = shard.user(tag) else { return cutoff };
        let response = user.advance(cutoff);
        user.proof.complete(load, response);
        user.cutoff
    }

    /// Removes the proofs that a change concerns, and cancels loads in progress.
    pub(super) fn invalidate(&self, change: StoreChange) {
        match change {
            StoreChange::Session(key) => self.remove_proof(&key),
            StoreChange::UserCutoff(tag) => {
                if let Some(mut user) = self.shard(&tag).users.peek_mut(&tag) {
                    user.proof = Proof::Missing;
                }
            }
            // The cutoff itself is read again by maintenance.
            StoreChange::GlobalCutoff => self.flush(FlushCause::GlobalCutoff),
            StoreChange::Everything => self.flush(FlushCause::StoreEmptied),
        }
    }

    /// Removes the proof of a session, and cancels loads in progress.
    pub fn remove_proof(&self, key: &SessionKey) {
        if let Some(mut session) = self.shard(&key.tag).sessions.peek_mut(key) {
            session.proof = Proof::Missing;
        }
    }

    /// Removes all proofs, and cancels all loads in progress.
    pub(super) fn flush(&self, cause: FlushCause) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        let index = FlushCause::ALL.iter().position(|other| *other == cause);
        if let Some(count) = index.and_then(|index| self.flush_counts.get(index)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Records a touch after the store has recorded it.
    pub(super) fn update_touch(&self, key: &SessionKey, at: UnixMillis) {
        if let Some(mut session) = self.shard(&key.tag).sessions.peek_mut(key) {
            session.touched = session.touched.max(at);
        }
    }

    /// Returns the statistics, if lookups can succeed.
    pub(super) fn stats(&self) -> Option<CacheStats> {
        let mut stats = CacheStats {
            flushes: self.flush_counts.each_ref().map(|count| count.load(Ordering::Relaxed)),
            ..CacheStats::default()
        };
        for shard in self.shards.iter().map(Mutex::lock) {
            stats.hits += shard.hits;
            stats.misses += shard.misses;
            stats.entries += shard.sessions.len();
            stats.bytes += shard.sessions.weight();
        }
        self.is_followed.then_some(stats)
    }

    /// All entries of a user are in one shard.
    fn shard(&self, tag: &UserTag) -> MutexGuard<'_, CacheShard> {
        self.shards[usize::from(tag.0[0]) % SHARDS].lock()
    }
}

impl CacheShard {
    fn new() -> CacheShard {
        let bytes = MAX_SESSION_BYTES / SHARDS as u64;
        let sessions = usize::try_from(bytes / entry::ENTRY_BYTES / 4).unwrap_or(usize::MAX);
        CacheShard {
            sessions: Cache::with_weighter(sessions, bytes, ByteWeighter),
            users: Cache::new(MAX_USERS / SHARDS),
            hits: 0,
            misses: 0,
        }
    }

    /// Returns the session if its record and its user's cutoff are proven.
    fn proven(
        &mut self,
        key: &SessionKey,
        generation: u64,
        at: DualInstant,
    ) -> Option<VerifiedSession> {
        let user = self.users.get(&key.tag).filter(|user| user.proof.is_valid(generation, at))?;
        let mut session = self.sessions.get_mut(key)?;
        if !session.proof.is_valid(generation, at) || is_in_future(session.touched, at) {
            return None;
        }
        session.confirmed = Some(at);
        session.verified(user.cutoff)
    }

    /// Returns the entry of a session, new if there is none. `None` if the cache is full.
    fn session(&mut self, key: &SessionKey) -> Option<impl DerefMut<Target = CachedSession>> {
        let new = || Ok::<_, Infallible>(CachedSession::default());
        let Ok(entry) = self.sessions.get_mut_or_insert_with(key, new);
        entry
    }

    /// Returns the entry of a user, new if there is none. `None` if the cache is full.
    fn user(&mut self, tag: &UserTag) -> Option<impl DerefMut<Target = CachedUser>> {
        let Ok(entry) =
            self.users.get_mut_or_insert_with(tag, || Ok::<_, Infallible>(CachedUser::default()));
        entry
    }

    fn cutoff(&self, tag: &UserTag) -> RevocationCutoff {
        self.users.peek(tag).map_or(RevocationCutoff::default(), |user| user.cutoff)
    }
}

fn is_in_future(touched: UnixMillis, at: DualInstant) -> bool {
    touched > at.wall.plus(MAX_CLOCK_SKEW)
}
