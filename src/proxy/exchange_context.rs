//! What the exchanges of one worker share.

use std::sync::Arc;

use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::{Auth, Permit};
use crate::connections::{
    CloseReason, ConnectionGuard, LimitExceeded, RouteOrigin, SessionSnapshot,
};
use crate::route::RouteTable;
use crate::upstream::Caller;

use super::UpstreamHead;
use super::activity_reporter::ActivityReporter;
use super::body::{DelayedTracking, Tracking};
use super::upstream_clusters::UpstreamClusters;

/// Delay before an exchange is registered as a tracked connection: once for the response head, once more
/// for the body. Shorter exchanges never touch the registry.
pub(super) const TRACK_AFTER: Duration = Duration::from_millis(500);

/// Upstream connections, tracked connections and tunnels.
pub struct ExchangeContext {
    pub auth: Auth,
    pub routes: Arc<RouteTable>,
    pub upstreams: UpstreamClusters,
    pub tunnels: Tunnels,
}

/// The tasks of one worker that outlive their requests. A drain waits for `tracker`; `stop` closes the
/// tunnels, which have no end of their own.
#[derive(Clone)]
pub struct Tunnels {
    pub tracker: TaskTracker,
    pub stop: CancellationToken,
    /// Closes the tunnels of public routes, when a reload restricts such a route.
    pub public_stop: CancellationToken,
}

/// A request ready for the upstream.
pub(super) struct OutgoingRequest {
    pub(super) head: UpstreamHead,
    pub(super) caller: Caller,
    /// Whether the transfer of its bodies is activity of the session.
    pub(super) is_activity: bool,
}

impl ExchangeContext {
    /// Registers a tracked connection. `None` on a public route, which has no session.
    pub(super) fn track(&self, permit: &Permit) -> Result<Option<ConnectionGuard>, LimitExceeded> {
        let Some(session) = permit.snapshot() else { return Ok(None) };
        let origin = self.route_origin(permit);
        self.auth.shared().connections.register(session, (&origin).into()).map(Some)
    }

    /// Registers a short response later, if its body takes longer than [`TRACK_AFTER`].
    pub(super) fn track_delayed(
        &self,
        permit: &Permit,
        reporter: impl FnOnce() -> Option<ActivityReporter>,
    ) -> Option<Tracking> {
        let delayed = |session: &SessionSnapshot| DelayedTracking {
            registry: self.auth.shared().connections.clone(),
            session: session.clone(),
            origin: self.route_origin(permit),
            activity: reporter(),
            due: Instant::now() + TRACK_AFTER,
            timer: None,
        };
        permit.snapshot().map(|session| Tracking::Delayed(Box::new(delayed(session))))
    }

    fn route_origin(&self, permit: &Permit) -> RouteOrigin {
        RouteOrigin { routes: Arc::clone(&self.routes), route: Arc::clone(permit.route()) }
    }

    /// `None` on a public route.
    pub(super) fn activity_reporter(&self, permit: &Permit) -> Option<ActivityReporter> {
        let session = permit.snapshot()?;
        Some(ActivityReporter::new(&self.auth, session.key, session.touched))
    }
}

/// Waits until a tracked connection must close.
pub(super) async fn closed(tracked: &mut Option<ConnectionGuard>) -> CloseReason {
    match tracked {
        Some(tracked) => tracked.closed().await,
        None => std::future::pending().await,
    }
}
