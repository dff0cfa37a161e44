//! Authenticates requests and manages sessions.
//!
//! Only this module creates a [`Permit`], and only a permit lets a request reach an upstream. It
//! does so for public routes, and after [`decide`](crate::session::decide()) admitted a live
//! session and the store holds the change. A store outage is [`DenyReason::Unavailable`]: it admits
//! no request and deletes no cookie.

mod authenticate;
mod connections;
mod deny_reason;
mod global_revocation;
mod outage;
mod permit;
mod revalidator;
mod rollback;
mod session_actions;
mod session_cache;
mod sessions;
mod user_history;

pub use authenticate::{AuthOutcome, AuthRequest, AuthenticatedSession};
pub use connections::{
    CloseHandle, CloseReason, ConnectionGuard, ConnectionPolicy, ConnectionRegistry, LimitExceeded,
    SessionSnapshot, TrackingLimits,
};
pub use deny_reason::DenyReason;
pub use permit::{NewToken, Permit};
pub use sessions::{NewSession, RecoverableSession, Remaining, SessionInfo};

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::clock::{Clock, UnixMillis};
use crate::identity::Directory;
use crate::message::CookieNames;
use crate::risk::{GeoIp, RiskSettings};
use crate::secret::KeyRing;
use crate::session::{ClientContext, RevocationCutoff, SessionId, SessionPolicy};
use crate::store::{Store, Unavailable};
use crate::telemetry::events::EventContext;
use crate::telemetry::{AuditLog, Metrics, Notifier, SessionEvent};

use global_revocation::GlobalCutoff;
use outage::Outage;
use session_cache::SessionCache;

/// Session operations of one worker, over its own store connection.
#[derive(Clone)]
pub struct Guard {
    store: Store,
    shared: Arc<Shared>,
}

/// State shared by all workers.
pub struct Shared {
    pub keys: ArcSwap<KeyRing>,
    pub clock: Clock,
    pub policy: SessionPolicy,
    pub max_per_user: usize,
    pub cookies: CookieNames,
    pub directory: Option<Arc<Directory>>,
    pub metrics: Metrics,
    pub audit: Option<AuditLog>,
    pub notifier: Option<Notifier>,
    pub connections: ConnectionRegistry,
    pub risk: RiskSettings,
    pub geoip: ArcSwap<GeoIp>,
    global_cutoff: GlobalCutoff,
    cache: SessionCache,
    outage: Outage,
}

/// Parts of [`Shared`].
pub struct SharedParts {
    pub keys: KeyRing,
    pub clock: Clock,
    pub policy: SessionPolicy,
    pub max_per_user: usize,
    pub cookies: CookieNames,
    pub directory: Option<Arc<Directory>>,
    pub metrics: Metrics,
    pub connection_limits: TrackingLimits,
    pub audit: Option<AuditLog>,
    pub notifier: Option<Notifier>,
    pub risk: RiskSettings,
}

impl Shared {
    /// Creates the state of a process.
    pub fn new(parts: SharedParts) -> Shared {
        let connections =
            ConnectionRegistry::new(parts.connection_limits, &parts.policy, parts.metrics.clone());
        Shared {
            keys: ArcSwap::from_pointee(parts.keys),
            clock: parts.clock,
            policy: parts.policy,
            max_per_user: parts.max_per_user,
            cookies: parts.cookies,
            directory: parts.directory,
            metrics: parts.metrics,
            connections,
            audit: parts.audit,
            notifier: parts.notifier,
            risk: parts.risk,
            geoip: ArcSwap::default(),
            global_cutoff: GlobalCutoff::new(),
            cache: SessionCache::new(),
            outage: Outage::default(),
        }
    }

    /// Counts, audits, notifies and logs a session event.
    pub fn emit(&self, event: SessionEvent, context: EventContext<'_>) {
        self.metrics.event(event);
        if let Some(audit) = self.audit.as_ref().filter(|_| event.is_audited()) {
            audit.record(event, &context, self.clock.now());
        }
        if let Some(notifier) = &self.notifier {
            notifier.event(event, &context, self.clock.now());
        }
        event.log(context);
    }

    /// Advances the global cutoff and closes the connections of revoked sessions.
    fn advance_global_cutoff(&self, at: UnixMillis) {
        if self.global_cutoff.advance(at) {
            self.connections.revoked(None, RevocationCutoff { at, except: None });
        }
    }
}

impl Guard {
    /// Creates the operations of one worker.
    pub fn new(store: Store, shared: Arc<Shared>) -> Guard {
        Guard { store, shared }
    }

    /// What all workers share.
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Returns the store, for readiness checks and maintenance.
    pub fn store(&self) -> &Store {
        &self.store
    }

    fn now(&self) -> UnixMillis {
        self.shared.clock.now()
    }

    fn unavailable(&self, error: Unavailable) -> DenyReason {
        self.shared.metrics.store_error();
        DenyReason::Unavailable(error)
    }
}

fn event_context<'a>(
    user: &'a str,
    session: SessionId,
    from: &'a ClientContext,
) -> EventContext<'a> {
    let (client, agent) = (Some(from.address), from.user_agent.as_str());
    let (session, fingerprint) = (Some(session), from.fingerprint);
    let language = from.language.as_str();
    EventContext { user, session, client, agent, language, fingerprint, ..EventContext::default() }
}
