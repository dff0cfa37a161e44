//! The local validity cache: what this gateway knows of sessions in Redis without asking again.
//!
//! A hot session costs no round trip, and a revocation is still prompt, because Redis tells of every
//! change ([`super::follow`]). Invariants:
//! - nothing is known of a session while the last proof that all changes arrive is three seconds old or
//!   older, whatever stopped: the connection, Redis, this process, the machine
//! - an answer from before a change is never kept, whichever arrives first ([`shard`])
//! - a lost connection, an emptied store and a change of topology forget everything, at once
//! - a user's sessions and line lie under one lock
//!
//! What is known may *admit*. The guard refuses, ends and writes only on a load.

mod proof;
mod proofs;
mod shard;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(super) use self::proof::{Moment, Proof, Stopwatch};
pub(super) use self::proofs::{Part, Proofs};
use self::shard::{Shard, Ticket};

use super::{Change, Loaded};
use crate::clock::UnixMillis;
use crate::session::{SessionKey, UserTag};

const SHARDS: usize = 64;
/// Bytes that all that is known may take, about.
const MOST_BYTES: u64 = 64 * 1024 * 1024;

/// What is known of sessions, by all workers of this process.
pub(super) struct Cache {
    shards: Vec<Mutex<Shard>>,
    /// Raised to forget everything at once: a value of another era is none.
    era: AtomicU64,
    nonce: AtomicU64,
    proof: Arc<Proof>,
    stopwatch: Arc<Stopwatch>,
    cleared: [AtomicU64; Cleared::ALL.len()],
}

/// A load under way, to be given back with its answer.
pub(super) struct Loading(Option<Ticket>);

/// Why everything was forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cleared {
    /// A new connection: changes before it were missed.
    Connected,
    /// The connection broke or fell silent.
    Lost,
    /// The store was emptied, or said something that we do not understand.
    Emptied,
    /// The line of all users moved.
    Everyone,
}

impl Cleared {
    /// All causes.
    pub const ALL: [Cleared; 4] =
        [Cleared::Connected, Cleared::Lost, Cleared::Emptied, Cleared::Everyone];

    /// The word for metrics.
    pub fn word(self) -> &'static str {
        match self {
            Cleared::Connected => "connected",
            Cleared::Lost => "lost",
            Cleared::Emptied => "emptied",
            Cleared::Everyone => "everyone",
        }
    }
}

/// What the cache did since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheFigures {
    pub hits: u64,
    pub misses: u64,
    pub entries: usize,
    pub bytes: u64,
    /// How often everything was forgotten, by cause in the order of [`Cleared::ALL`].
    pub cleared: [u64; Cleared::ALL.len()],
}

impl Cache {
    pub(super) fn new(proof: Arc<Proof>, stopwatch: Arc<Stopwatch>) -> Cache {
        let bytes = MOST_BYTES / SHARDS as u64;
        Cache {
            shards: std::iter::repeat_with(|| Mutex::new(Shard::new(bytes))).take(SHARDS).collect(),
            era: AtomicU64::new(0),
            nonce: AtomicU64::new(0),
            proof,
            stopwatch,
            cleared: Default::default(),
        }
    }

    /// What is known of a session, if anything.
    pub(super) fn known(&self, key: &SessionKey) -> Option<Loaded> {
        let now = self.stopwatch.now();
        let mut shard = self.shard(&key.tag)?;
        if !self.proof.holds(now) {
            shard.misses += 1;
            return None;
        }
        shard.known(key, self.era.load(Ordering::Acquire), now.run)
    }

    /// To be called before the store is asked.
    pub(super) fn begin(&self, key: &SessionKey) -> Loading {
        let now = self.stopwatch.now();
        if !self.proof.holds(now) {
            return Loading(None);
        }
        let nonce = self.nonce.fetch_add(1, Ordering::Relaxed);
        let ticket = Ticket { nonce, era: self.era.load(Ordering::Acquire), at: now.run };
        self.with(&key.tag, |shard| shard.begin(key, ticket));
        Loading(Some(ticket))
    }

    /// To be called with the answer.
    pub(super) fn finish(&self, key: &SessionKey, loading: &Loading, loaded: &Loaded) {
        // One of an era that is over is kept as that era's, and so never found.
        if let Some(ticket) = loading.0 {
            self.with(&key.tag, |shard| shard.finish(key, ticket, loaded));
        }
    }

    /// Activity that the store has noted.
    pub(super) fn touched(&self, key: &SessionKey, at: UnixMillis) {
        self.with(&key.tag, |shard| shard.touched(key, at));
    }

    /// Forgets what a change is about.
    pub(super) fn forget(&self, change: Change) {
        match change {
            Change::Session(key) => self.with(&key.tag, |shard| shard.forget(&key)),
            Change::User(tag) => self.with(&tag, |shard| shard.forget_line(&tag)),
            // Who is out by it must be asked for again: the line itself is kept elsewhere.
            Change::Everyone => self.clear(Cleared::Everyone),
            Change::All => self.clear(Cleared::Emptied),
        }
    }

    /// Forgets everything, and the loads that are under way.
    pub(super) fn clear(&self, cause: Cleared) {
        self.era.fetch_add(1, Ordering::AcqRel);
        let place = Cleared::ALL.iter().position(|known| *known == cause);
        if let Some(count) = place.and_then(|place| self.cleared.get(place)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn figures(&self) -> CacheFigures {
        let mut figures = CacheFigures {
            cleared: std::array::from_fn(|at| {
                self.cleared.get(at).map_or(0, |count| count.load(Ordering::Relaxed))
            }),
            ..CacheFigures::default()
        };
        for shard in self.shards.iter().map(lock) {
            figures.hits += shard.hits;
            figures.misses += shard.misses;
            figures.entries += shard.entries();
            figures.bytes += shard.bytes();
        }
        figures
    }

    fn with(&self, tag: &UserTag, what: impl FnOnce(&mut Shard)) {
        if let Some(mut shard) = self.shard(tag) {
            what(&mut shard);
        }
    }

    fn shard(&self, tag: &UserTag) -> Option<MutexGuard<'_, Shard>> {
        self.shards.get(usize::from(tag.0[0]) % SHARDS).map(lock)
    }
}

/// Every change under the lock is one insert or one remove: a panic cannot leave it half done.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}
