//! The store of several gateways: Redis, and what this gateway keeps beside it.
//!
//! - the [validity cache](super::cache): what need not be asked again
//! - the [journal](super::journal): what ended here, held against a store that went backwards
//! - the changes, as Redis tells them ([`super::follow`])
//!
//! Invariant: when a write has answered, whatever it answered, nothing that was known before it is known
//! still. A write that failed may have happened.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Notify, broadcast};

use super::cache::{Cache, CacheFigures, Proof, Stopwatch};
use super::journal::{Ended, Journal};
use super::redis::{Advice, Redis, RedisSettings};
use super::{Change, Commit, Durability, Listed, Loaded, OpenError, Unavailable, follow};
use crate::clock::UnixMillis;
use crate::session::{EndReason, NotBefore, SessionId, SessionKey, UserTag};

/// Changes that wait for a slow listener; one that misses some is told so, and looks at everything.
const CHANGES_WAITING: usize = 4_096;

/// Redis with what is kept beside it. A clone shares the connection; a worker has its own.
#[derive(Clone)]
pub struct Distributed {
    redis: Redis,
    beside: Arc<Beside>,
}

/// What all workers of this process keep beside Redis.
pub(super) struct Beside {
    pub(super) cache: Option<Cache>,
    pub(super) journal: Journal,
    pub(super) proof: Arc<Proof>,
    pub(super) stopwatch: Arc<Stopwatch>,
    /// The store may have gone backwards: what the journal holds has to be written again.
    pub(super) behind: Notify,
    changes: broadcast::Sender<Change>,
}

impl std::fmt::Debug for Distributed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.redis.fmt(f)
    }
}

impl Distributed {
    pub(super) fn new(settings: &RedisSettings) -> Result<Distributed, OpenError> {
        let (proof, stopwatch) = (Arc::new(Proof::default()), Arc::new(Stopwatch::start()));
        let cache =
            settings.local_cache.then(|| Cache::new(Arc::clone(&proof), Arc::clone(&stopwatch)));
        let beside = Beside {
            cache,
            journal: Journal::default(),
            proof,
            stopwatch,
            behind: Notify::new(),
            changes: broadcast::Sender::new(CHANGES_WAITING),
        };
        Ok(Distributed { redis: Redis::new(settings)?, beside: Arc::new(beside) })
    }

    pub(super) fn for_worker(&self) -> Distributed {
        Distributed { redis: self.redis.for_worker(), beside: Arc::clone(&self.beside) }
    }

    /// What is known without asking.
    pub(super) fn known(&self, key: &SessionKey) -> Option<Loaded> {
        self.beside.cache.as_ref()?.known(key)
    }

    pub(super) fn changes(&self) -> broadcast::Receiver<Change> {
        self.beside.changes.subscribe()
    }

    pub(super) async fn follow(&self) {
        follow::follow(self.redis.for_worker(), Arc::clone(&self.beside)).await;
    }

    pub(super) fn figures(&self) -> DistributedFigures {
        DistributedFigures {
            round_trips: self.redis.round_trips(),
            shed: self.redis.shed(),
            left_alone: self.redis.left_alone(),
            advice: Advice::ALL.map(|advice| self.redis.advises(advice)),
            cache: self.beside.cache.as_ref().map(Cache::figures),
            proof_age: self.beside.proof.age(self.beside.stopwatch.now()),
        }
    }

    pub(super) fn patience(&self) -> Duration {
        self.redis.patience()
    }

    pub(super) async fn load(&self, key: &SessionKey) -> Result<Loaded, Unavailable> {
        let Some(cache) = &self.beside.cache else {
            return self.ask(key).await;
        };
        let loading = cache.begin(key);
        let loaded = self.ask(key).await?;
        cache.finish(key, &loading, &loaded);
        Ok(loaded)
    }

    async fn ask(&self, key: &SessionKey) -> Result<Loaded, Unavailable> {
        Ok(self.beside.journal.over(key, self.redis.load(key).await?))
    }

    pub(super) async fn create(
        &self,
        key: &SessionKey,
        sealed: &[u8],
        created: UnixMillis,
        forget_at: UnixMillis,
    ) -> Result<Durability, Unavailable> {
        let _own = self.own(Change::Session(*key));
        self.redis.create(key, sealed, created, forget_at).await
    }

    pub(super) async fn commit(
        &self,
        key: &SessionKey,
        expected: u64,
        sealed: &[u8],
        forget_at: UnixMillis,
    ) -> Result<Commit, Unavailable> {
        let _own = self.own(Change::Session(*key));
        self.redis.commit(key, expected, sealed, forget_at).await
    }

    /// What is known learns of the touch, or goes: nobody may be told that he was active later than the
    /// store will say.
    pub(super) async fn touch(
        &self,
        key: &SessionKey,
        at: UnixMillis,
        forget_at: UnixMillis,
    ) -> Result<(), Unavailable> {
        let own = self.own(Change::Session(*key));
        self.redis.touch(key, at, forget_at).await?;
        own.keep();
        if let Some(cache) = &self.beside.cache {
            cache.touched(key, at);
        }
        Ok(())
    }

    pub(super) async fn end(
        &self,
        key: &SessionKey,
        reason: EndReason,
        at: UnixMillis,
        forget_at: UnixMillis,
    ) -> Result<Durability, Unavailable> {
        let _own = self.own(Change::Session(*key));
        let durability = self.redis.end(key, reason, at, forget_at).await?;
        self.note(Ended::Session { key: *key, reason, at, forget_at });
        Ok(durability)
    }

    pub(super) async fn revoke_user(
        &self,
        tag: &UserTag,
        now: UnixMillis,
        except: Option<SessionId>,
    ) -> Result<(NotBefore, Durability), Unavailable> {
        let _own = self.own(Change::User(*tag));
        let (line, durability) = self.redis.revoke_user(tag, now, except).await?;
        self.note(Ended::User { tag: *tag, line });
        Ok((line, durability))
    }

    pub(super) async fn not_before(&self, tag: &UserTag) -> Result<NotBefore, Unavailable> {
        Ok(self.beside.journal.line(tag, self.redis.not_before(tag).await?))
    }

    pub(super) async fn memo(&self, tag: &UserTag) -> Result<Option<Bytes>, Unavailable> {
        self.redis.memo(tag).await
    }

    pub(super) async fn swap_memo(
        &self,
        tag: &UserTag,
        expected: &[u8],
        sealed: &[u8],
        forget_at: UnixMillis,
    ) -> Result<Commit, Unavailable> {
        self.redis.swap_memo(tag, expected, sealed, forget_at).await
    }

    pub(super) async fn revoke_everyone(
        &self,
        now: UnixMillis,
    ) -> Result<(UnixMillis, Durability), Unavailable> {
        let _own = self.own(Change::Everyone);
        let (line, durability) = self.redis.revoke_everyone(now).await?;
        self.note(Ended::Everyone { line });
        Ok((line, durability))
    }

    pub(super) async fn restore_everyone(&self, line: UnixMillis) -> Result<(), Unavailable> {
        let _own = self.own(Change::Everyone);
        self.redis.restore_everyone(line).await
    }

    pub(super) async fn everyone_line(&self) -> Result<UnixMillis, Unavailable> {
        Ok(self.beside.journal.everyone(self.redis.everyone_line().await?))
    }

    pub(super) async fn sessions_of(&self, tag: &UserTag) -> Result<Vec<Listed>, Unavailable> {
        self.redis.sessions_of(tag).await
    }

    pub(super) async fn all(&self, limit: usize) -> Result<Vec<Listed>, Unavailable> {
        self.redis.all(limit).await
    }

    pub(super) async fn find(
        &self,
        is_it: impl Fn(&SessionId) -> bool + Send + Sync,
    ) -> Result<Option<SessionKey>, Unavailable> {
        self.redis.find(is_it).await
    }

    pub(super) async fn ping(&self) -> Result<(), Unavailable> {
        self.redis.ping().await
    }

    pub(super) fn round_trips(&self) -> u64 {
        self.redis.round_trips()
    }

    fn note(&self, ended: Ended) {
        self.beside.journal.note(ended, Instant::now());
    }

    fn own(&self, change: Change) -> OwnWrite<'_> {
        OwnWrite { beside: &self.beside, change: Some(change) }
    }
}

/// What the store of several gateways did, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DistributedFigures {
    pub round_trips: u64,
    /// Questions that were refused because too many waited.
    pub shed: u64,
    /// Servers that are left alone because they do not answer.
    pub left_alone: usize,
    /// What an operator should change, in the order of [`Advice::ALL`].
    pub advice: [bool; Advice::ALL.len()],
    /// `None` when it is off.
    pub cache: Option<CacheFigures>,
    /// How long ago all changes were known to have arrived.
    pub proof_age: Option<std::time::Duration>,
}

impl Beside {
    /// Something changed: what was known of it is not, and who listens hears of it.
    pub(super) fn changed(&self, change: Change) {
        if let Some(cache) = &self.cache {
            cache.forget(change);
        }
        self.tell(change);
    }

    /// Tells those who listen, if anybody does.
    pub(super) fn tell(&self, change: Change) {
        self.changes.send(change).unwrap_or_default();
    }
}

/// A write of our own under way. However it ends, also by its request being dropped, what was known
/// before it is forgotten: Redis' word of it comes later than the answer.
struct OwnWrite<'a> {
    beside: &'a Beside,
    change: Option<Change>,
}

impl OwnWrite<'_> {
    /// It changed nothing of what is known.
    fn keep(mut self) {
        self.change = None;
    }
}

impl Drop for OwnWrite<'_> {
    fn drop(&mut self) {
        if let (Some(cache), Some(change)) = (&self.beside.cache, self.change) {
            cache.forget(change);
        }
    }
}
