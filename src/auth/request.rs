//! Input and results of an authentication.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::connections::EndSeq;
use crate::message::CookieLookup;
use crate::session::{
    ClientContext, Identity, Record, RotationTiming, RoutePolicy, SessionFacts, SessionKey,
};
use crate::sessions::NewToken;

use super::deny_reason::DenyReason;
use super::permit::Permit;

/// A request to authenticate.
pub struct AuthRequest<'a> {
    pub cookie: &'a CookieLookup,
    pub context: &'a ClientContext,
    pub policy: &'a RoutePolicy,
    pub timing: RotationTiming,
    /// Whether it counts as activity for the idle timeout.
    pub is_activity: bool,
    /// How long after its last confirmation a session may be served during an outage; `None` for
    /// never.
    pub serve_stale_for: Option<Duration>,
}

/// Result for a request. Either way the response carries the token.
pub struct AuthOutcome {
    pub permit: Result<Permit, DenyReason>,
    pub token: Option<NewToken>,
}

/// A session after the decision.
pub struct AuthenticatedSession {
    /// Current identity of the user.
    pub identity: Arc<Identity>,
    pub record: Arc<Record>,
    pub key: SessionKey,
    pub facts: SessionFacts,
    pub token: Option<NewToken>,
    pub(super) end_seq: EndSeq,
    pub(super) verified_at: Instant,
    /// Served from the cache during a store outage.
    pub(super) stale: bool,
}
