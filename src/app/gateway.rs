//! The parts of a running gateway, and its current snapshot.

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, ConfigError, Warning};
use crate::sessions::Sessions;
use crate::store::Store;

use super::components::Components;
use super::snapshot::Snapshot;
use super::start_error::StartError;
use super::worker::{ListenerPorts, Worker};

/// Loads the configuration again.
pub type ConfigSource = Box<dyn Fn() -> Result<(Config, Vec<Warning>), ConfigError> + Send + Sync>;

/// Long-lived parts, and the snapshot that a reload replaces.
pub(super) struct Gateway {
    pub(super) components: Components,
    pub(super) snapshot: ArcSwap<Snapshot>,
    pub(super) workers: Vec<Arc<Worker>>,
    /// Session services of the maintenance thread under the current configuration.
    pub(super) sessions: Arc<ArcSwap<Sessions>>,
    /// Store handle of the maintenance thread.
    store: Store,
    /// `None` until the gateway can be reloaded.
    pub(super) source: OnceLock<ConfigSource>,
    /// Serializes reloads.
    pub(super) reloading: Mutex<()>,
}

impl Gateway {
    /// Builds the workers. `stop` ends their listeners.
    ///
    /// # Errors
    /// A CA file of a route cannot be read.
    pub(super) fn new(
        components: Components,
        snapshot: Snapshot,
        stop: &CancellationToken,
        ports: &ListenerPorts,
    ) -> Result<Gateway, StartError> {
        // One child token for each worker: every connection polls it at every wake-up, and a shared token
        // is one lock for all cores.
        let worker =
            |_| Worker::new(&components, &snapshot, stop.child_token(), ports).map(Arc::new);
        let workers = (0..snapshot.workers).map(worker).collect::<Result<_, _>>()?;
        let store = components.store.for_worker();
        let sessions = sessions(&components, &store, &snapshot);
        Ok(Gateway {
            sessions: Arc::new(ArcSwap::from_pointee(sessions)),
            store,
            components,
            snapshot: ArcSwap::from_pointee(snapshot),
            workers,
            source: OnceLock::new(),
            reloading: Mutex::default(),
        })
    }

    /// Makes a snapshot the current one, except for the workers.
    pub(super) fn set_snapshot(&self, snapshot: Snapshot) {
        let sessions = sessions(&self.components, &self.store, &snapshot);
        self.sessions.store(Arc::new(sessions));
        self.snapshot.store(Arc::new(snapshot));
    }
}

fn sessions(components: &Components, store: &Store, snapshot: &Snapshot) -> Sessions {
    let (shared, settings) = (Arc::clone(&components.shared), Arc::clone(&snapshot.sessions));
    Sessions::new(store.clone(), shared, settings)
}
