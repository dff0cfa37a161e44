//! A gateway's store that follows its Redis, and what tests ask of it.

use std::time::{Duration, Instant};

use doorward::secret::random_bytes;
use doorward::session::{SessionId, SessionKey, UserTag};
use doorward::store::{Change, Loaded, RedisSettings, Slot, Store};
use tokio::sync::broadcast::Receiver;
use tokio::task::JoinSet;

/// What the design promises: nothing is believed for longer.
pub const BOUND: Duration = Duration::from_secs(3);

const PATIENCE: Duration = Duration::from_secs(60);

/// A gateway's store, following its server until it is dropped.
pub struct Gateway {
    pub store: Store,
    pub changes: Receiver<Change>,
    _following: JoinSet<()>,
}

impl Gateway {
    pub async fn on(settings: &RedisSettings) -> Gateway {
        let store = Store::redis(settings).expect("good settings");
        let changes = store.changes().expect("several gateways");
        let mut following = JoinSet::new();
        let followed = store.clone();
        following.spawn(async move { followed.follow().await });
        let gateway = Gateway { store, changes, _following: following };
        gateway.follows().await;
        gateway
    }

    /// Waits until a proof has come.
    pub async fn follows(&self) {
        until(|| self.age().is_some_and(|age| age < BOUND)).await;
    }

    pub fn age(&self) -> Option<Duration> {
        self.store.figures().expect("a shared store").proof_age
    }

    pub fn known(&self, key: &SessionKey) -> Option<Loaded> {
        self.store.known(key)
    }

    pub async fn load(&self, key: &SessionKey) -> Loaded {
        self.store.load(key).await.expect("available")
    }

    /// Loads until it stays known: the word of what was done before may still be on its way.
    pub async fn knows(&self, key: &SessionKey) {
        let deadline = Instant::now() + PATIENCE;
        while self.known(key).is_none() {
            assert!(Instant::now() < deadline, "it never stays known");
            self.load(key).await;
        }
    }

    /// What was told so far is not what is waited for from here on.
    pub fn listens(&mut self) {
        while self.changes.try_recv().is_ok() {}
    }

    /// Waits for the word of a change; by then it has been taken in.
    pub async fn hears(&mut self, change: Change) {
        let heard = async { while self.changes.recv().await.expect("not that many") != change {} };
        tokio::time::timeout(PATIENCE, heard).await.expect("the word comes");
    }
}

pub async fn until(mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "it does not happen");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub fn key() -> SessionKey {
    SessionKey { tag: UserTag(random_bytes()), id: SessionId(random_bytes()) }
}

pub fn revision(loaded: Option<Loaded>) -> Option<u64> {
    match loaded?.slot {
        Slot::Live { revision, .. } => Some(revision),
        Slot::Absent | Slot::Ended { .. } => None,
    }
}
