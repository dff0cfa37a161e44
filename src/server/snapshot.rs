//! The snapshot of one worker.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::proxy::Proxy;

use super::limits::ServerLimits;
use super::redirect::Redirect;

/// Everything that one worker derives from one configuration. Immutable.
pub struct WorkerSnapshot {
    pub proxy: Arc<Proxy>,
    pub redirect: Arc<Redirect>,
    pub limits: Arc<ServerLimits>,
    /// Time limit of the drain after a stop.
    pub drain: Duration,
}

/// The current snapshot of one worker. Each request loads it once, so a reload never mixes two
/// configurations in one request.
pub type CurrentSnapshot = Arc<ArcSwap<WorkerSnapshot>>;
