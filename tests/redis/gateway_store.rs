//! The Redis store of a gateway with invalidation, and helpers for its tests.

use std::sync::Arc;
use std::time::{Duration, Instant};

use doorward::clock::UnixMillis;
use doorward::secret::random_bytes;
use doorward::session::{ClientContext, Identity, Record, SessionId, SessionKey, Token, UserTag};
use doorward::store::{
    CachedRecord, DualInstant, Loaded, RedisSettings, Slot, Store, StoreChange, Unavailable,
    VerifiedSession,
};
use tokio::sync::broadcast::Receiver;
use tokio::task::JoinSet;

/// The documented bound on staleness of the cache.
pub const MAX_STALENESS: Duration = Duration::from_secs(3);

const TIMEOUT: Duration = Duration::from_secs(60);

/// The store of a gateway, with invalidation until dropped.
pub struct GatewayStore {
    pub store: Store,
    pub changes: Receiver<StoreChange>,
    _invalidation: JoinSet<()>,
}

impl GatewayStore {
    pub async fn connect(settings: &RedisSettings) -> GatewayStore {
        let store = Store::redis(settings).expect("good settings");
        let changes = store.subscribe().expect("several gateways");
        let mut following = JoinSet::new();
        let followed = store.clone();
        following.spawn(async move { followed.run_invalidation().await });
        let gateway = GatewayStore { store, changes, _invalidation: following };
        gateway.wait_for_heartbeat().await;
        gateway
    }

    /// Waits until a heartbeat has arrived.
    pub async fn wait_for_heartbeat(&self) {
        wait_until(|| self.staleness().is_some_and(|age| age < MAX_STALENESS)).await;
    }

    pub fn staleness(&self) -> Option<Duration> {
        self.store.stats().expect("a shared store").staleness
    }

    pub fn cached(&self, key: &SessionKey) -> Option<VerifiedSession> {
        self.store.session_cache().lookup(key, DualInstant::now())
    }

    pub async fn load(&self, key: &SessionKey) -> Loaded {
        load_and_cache(&self.store, key).await.expect("available")
    }

    /// Loads until the session stays cached; the invalidation of an earlier write can still be in flight.
    pub async fn load_until_cached(&self, key: &SessionKey) {
        let deadline = Instant::now() + TIMEOUT;
        while self.cached(key).is_none() {
            assert!(Instant::now() < deadline, "it never stays known");
            self.load(key).await;
        }
    }

    /// Discards the changes received so far.
    pub fn discard_changes(&mut self) {
        while self.changes.try_recv().is_ok() {}
    }

    /// Waits until a change has been received and applied.
    pub async fn wait_for_change(&mut self, change: StoreChange) {
        let received =
            async { while self.changes.recv().await.expect("not that many") != change {} };
        tokio::time::timeout(TIMEOUT, received).await.expect("the change arrives");
    }
}

/// Loads a session and caches it, as a request does. The record is not verified, so that tests can store any
/// bytes.
pub async fn load_and_cache(store: &Store, key: &SessionKey) -> Result<Loaded, Unavailable> {
    let cache = store.session_cache();
    let load = cache.start_load(key, DualInstant::now());
    let loaded = store.load(key).await?;
    cache.insert_loaded_cutoff(&key.tag, &load, loaded.user_cutoff);
    match loaded.slot.clone() {
        Slot::Live { revision, sealed } => {
            let cached = CachedRecord { revision, sealed, record: any_record(*key) };
            cache.insert_loaded(key, &load, cached, loaded.touched);
        }
        Slot::Ended { reason, .. } => cache.insert_end(key, reason, UnixMillis(u64::MAX)),
        Slot::Absent => cache.remove_proof(key),
    }
    Ok(loaded)
}

fn any_record(key: SessionKey) -> Arc<Record> {
    let (from, token) =
        (ClientContext::new([127, 0, 0, 1].into(), b"test"), Token::new(1, key, 0, [3; 32]));
    Arc::new(Record::new(Identity::default(), &token, UnixMillis(1), UnixMillis(u64::MAX), from))
}

pub async fn wait_until(mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    while !done() {
        assert!(Instant::now() < deadline, "it does not happen");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub fn random_key() -> SessionKey {
    SessionKey { tag: UserTag(random_bytes()), id: SessionId(random_bytes()) }
}

pub fn cached_revision(cached: Option<VerifiedSession>) -> Option<u64> {
    cached.map(|session| session.revision)
}

pub fn live_revision(loaded: Loaded) -> Option<u64> {
    match loaded.slot {
        Slot::Live { revision, .. } => Some(revision),
        Slot::Absent | Slot::Ended { .. } => None,
    }
}
