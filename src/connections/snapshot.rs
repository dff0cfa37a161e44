//! Session snapshots, and the terms under which connections are tracked.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock::UnixMillis;
use crate::config;
use crate::session::{Record, RoutePolicy, SessionKey};

/// Limits of tracked connections.
#[derive(Clone, Copy, Debug)]
pub struct TrackingLimits {
    pub total: usize,
    pub per_session: usize,
    /// How long a connection may continue during a store outage.
    pub unchecked_for: Duration,
}

impl From<config::LongLived> for TrackingLimits {
    fn from(live: config::LongLived) -> TrackingLimits {
        TrackingLimits {
            total: live.max_connections,
            per_session: live.max_per_session,
            unchecked_for: live.unchecked_for,
        }
    }
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
}

impl CloseReason {
    /// Returns the label for metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            CloseReason::SessionEnded => "session-ended",
            CloseReason::MaxAge => "max-age",
            CloseReason::Unchecked => "unchecked",
        }
    }
}

impl fmt::Debug for SessionSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionSnapshot({}, {:?})", self.key.id.handle(), self.end_seq)
    }
}
