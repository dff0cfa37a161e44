//! Session snapshots, and the terms under which connections are tracked.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock::UnixMillis;
use crate::config::Config;
use crate::route::{Route, RouteTable};
use crate::session::{Record, RoutePolicy, SessionKey, SessionPolicy};

/// Settings of tracked connections in one configuration.
#[derive(Clone, Debug)]
pub struct TrackingSettings {
    pub limits: TrackingLimits,
    /// Supplies the session timeouts.
    pub policy: SessionPolicy,
    /// Judges connections that were admitted by another table.
    pub routes: Arc<RouteTable>,
}

impl From<&Config> for TrackingSettings {
    fn from(config: &Config) -> TrackingSettings {
        let live = config.long_lived;
        let limits = TrackingLimits {
            total: live.max_connections,
            per_session: live.max_per_session,
            unchecked_for: live.unchecked_for,
        };
        let (policy, routes) = (config.session.policy.clone(), Arc::new(config.routes.clone()));
        TrackingSettings { limits, policy, routes }
    }
}

/// Limits of tracked connections.
#[derive(Clone, Copy, Debug)]
pub struct TrackingLimits {
    pub total: usize,
    pub per_session: usize,
    /// How long a connection may continue during a store outage.
    pub unchecked_for: Duration,
}

/// The limit that rejects a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitExceeded {
    #[error("the gateway has reached live.max_connections")]
    Total,
    #[error("the session has reached live.max_per_session")]
    Session,
}

/// Reason for closing a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// The session ended, or expired under its route's policy.
    SessionEnded,
    /// The connection reached the route's `max_connection_age`.
    MaxAge,
    /// The store was unavailable for `live.unchecked_for`.
    Unchecked,
    /// A reload removed the connection's route, or made it stricter.
    RouteChanged,
}

/// A position in the log of ends, taken before a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndSeq(pub(super) u64);

/// A session as verified for a request.
#[derive(Clone)]
pub struct SessionSnapshot {
    pub key: SessionKey,
    pub record: Arc<Record>,
    pub touched: UnixMillis,
    pub(crate) end_seq: EndSeq,
    /// Time of the confirmation by the store.
    pub(crate) verified_at: Instant,
    /// Served from the cache during a store outage.
    pub stale: bool,
}

/// Policy of a route for its connections.
#[derive(Clone, Copy, Debug, Default)]
pub struct ConnectionPolicy<'a> {
    pub policy: Option<&'a RoutePolicy>,
    pub max_age: Option<Duration>,
    /// `None` exempts the connection from changes of the routes.
    pub origin: Option<&'a RouteOrigin>,
}

/// The route that admitted a connection, and its table.
#[derive(Clone, Debug)]
pub struct RouteOrigin {
    pub routes: Arc<RouteTable>,
    pub route: Arc<Route>,
}

impl<'a> From<&'a RouteOrigin> for ConnectionPolicy<'a> {
    fn from(origin: &'a RouteOrigin) -> ConnectionPolicy<'a> {
        let route = &origin.route;
        ConnectionPolicy {
            policy: Some(&route.policy),
            max_age: route.max_connection_age,
            origin: Some(origin),
        }
    }
}

impl CloseReason {
    /// Returns the label for metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            CloseReason::SessionEnded => "session-ended",
            CloseReason::MaxAge => "max-age",
            CloseReason::Unchecked => "unchecked",
            CloseReason::RouteChanged => "route-changed",
        }
    }
}

impl fmt::Debug for SessionSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionSnapshot({}, {:?})", self.key.id.handle(), self.end_seq)
    }
}
