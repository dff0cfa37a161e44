//! Registry entry of one session.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock::UnixMillis;
use crate::route::{Route, RouteTable};
use crate::session::{
    Record, RoutePolicy, SessionDeadlines, SessionFacts, SessionId, SessionPolicy,
};

use super::close_handle::CloseState;
use super::snapshot::{ConnectionPolicy, RouteOrigin, SessionSnapshot};
use super::stall_detector::{CheckedAt, StallDetector};

/// A session with tracked connections.
pub(super) struct TrackedSession {
    pub(super) record: Arc<Record>,
    pub(super) touched: UnixMillis,
    /// Time of the last confirmed store command.
    pub(super) verified_at: Instant,
    /// The same time, shared with the connections.
    pub(super) checked_at: CheckedAt,
    /// Time of the last change notification without a check since.
    pub(super) stale_since: Option<Instant>,
    pub(super) connections: Vec<TrackedConnection>,
}

pub(super) struct TrackedConnection {
    pub(super) id: u64,
    pub(super) state: Arc<CloseState>,
    pub(super) policy: RoutePolicy,
    pub(super) opened_at: Instant,
    pub(super) max_age: Option<Duration>,
    pub(super) origin: Option<RouteOrigin>,
}

impl TrackedConnection {
    pub(super) fn new(
        id: u64,
        state: &Arc<CloseState>,
        terms: ConnectionPolicy<'_>,
    ) -> TrackedConnection {
        TrackedConnection {
            id,
            state: Arc::clone(state),
            policy: terms.policy.cloned().unwrap_or_default(),
            opened_at: Instant::now(),
            max_age: terms.max_age,
            origin: terms.origin.cloned(),
        }
    }

    /// Returns whether the connection reached the `max_connection_age` of its route.
    pub(super) fn is_too_old(&self, now: Instant) -> bool {
        self.max_age.is_some_and(|age| self.opened_at + age <= now)
    }

    /// Judges the connection by the current routes, if another table admitted it. Returns false if its
    /// route was removed or no longer admits the user; else the connection takes over the route's policy.
    pub(super) fn judge(
        &mut self,
        routes: &Arc<RouteTable>,
        admits: impl Fn(&Route) -> bool,
    ) -> bool {
        let Some(origin) = &mut self.origin else { return true };
        if origin.routes.is_copy_of(routes) {
            return true;
        }
        let successor = routes.successor(&origin.routes, &origin.route);
        let Some(route) = successor.filter(|route| admits(route)) else { return false };
        self.policy = route.policy.clone();
        self.max_age = route.max_connection_age;
        *origin = RouteOrigin { routes: Arc::clone(routes), route: Arc::clone(route) };
        true
    }
}

impl TrackedSession {
    pub(super) fn new(
        snapshot: &SessionSnapshot,
        stall_detector: &StallDetector,
    ) -> TrackedSession {
        let checked_at = CheckedAt::default();
        stall_detector.mark_checked(&checked_at, snapshot.verified_at);
        TrackedSession {
            record: Arc::clone(&snapshot.record),
            touched: snapshot.touched,
            verified_at: snapshot.verified_at,
            checked_at,
            stale_since: None,
            connections: Vec::new(),
        }
    }

    /// Marks the session as stale. Returns whether it was not before.
    pub(super) fn mark_stale(&mut self) -> bool {
        self.stale_since.replace(Instant::now()).is_none()
    }

    /// Records a confirmation requested at `requested_at`. It clears only older change
    /// notifications, because the response may precede newer ones.
    pub(super) fn confirm(
        &mut self,
        record: &Arc<Record>,
        touched: UnixMillis,
        requested_at: Instant,
    ) {
        self.record = Arc::clone(record);
        self.touched = self.touched.max(touched);
        self.verified_at = self.verified_at.max(requested_at);
        self.stale_since = self.stale_since.filter(|stale_since| *stale_since >= requested_at);
    }

    /// Returns the deadlines by cached activity. Another gateway may have stored a later activity.
    pub(super) fn deadlines(&self, id: SessionId, policy: &SessionPolicy) -> SessionDeadlines {
        let facts = SessionFacts { touched: self.touched, ..SessionFacts::default() };
        SessionDeadlines::new(id, &self.record, &facts, policy)
    }

    /// Returns whether the session may have expired, by cached activity.
    pub(super) fn is_due(&self, deadlines: &SessionDeadlines, now: UnixMillis) -> bool {
        deadlines.expiry(now).is_some() || self.expired_by_route(deadlines, now).next().is_some()
    }

    /// Returns the connections that their routes no longer allow. `max_auth_age` is not among the
    /// reasons: it applies only when a connection opens.
    pub(super) fn expired_by_route(
        &self,
        deadlines: &SessionDeadlines,
        now: UnixMillis,
    ) -> impl Iterator<Item = &TrackedConnection> {
        let (deadlines, now) = (*deadlines, deadlines.session_time(now));
        self.connections.iter().filter(move |it| deadlines.on_route(&it.policy) <= now)
    }
}
