//! The Redis store of a gateway with invalidation, and helpers for its tests.

use std::time::{Duration, Instant};

use doorward::secret::random_bytes;
use doorward::session::{SessionId, SessionKey, UserTag};
use doorward::store::{Loaded, RedisSettings, Slot, Store, StoreChange};
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

    pub fn cached(&self, key: &SessionKey) -> Option<Loaded> {
        self.store.cached(key)
    }

    pub async fn load(&self, key: &SessionKey) -> Loaded {
        self.store.load(key).await.expect("available")
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
        let heard = async { while self.changes.recv().await.expect("not that many") != change {} };
        tokio::time::timeout(TIMEOUT, heard).await.expect("the word comes");
    }
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

pub fn live_revision(loaded: Option<Loaded>) -> Option<u64> {
    match loaded?.slot {
        Slot::Live { revision, .. } => Some(revision),
        Slot::Absent | Slot::Ended { .. } => None,
    }
}
