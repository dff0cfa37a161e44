//! State that all workers of a process share.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::{Mutex, Notify};

use crate::audit::AuditLog;
use crate::clock::{Clock, UnixMillis};
use crate::connections::{ConnectionRegistry, TrackingLimits};
use crate::identity::LoginMethods;
use crate::message::CookieNames;
use crate::notify::Notifier;
use crate::rate_limit::LoginLimits;
use crate::risk::{GeoIp, RiskSettings};
use crate::secret::KeyRing;
use crate::session::{
    EndReason, Identity, Record, RevocationCutoff, SessionDeadlines, SessionFacts, SessionKey,
    SessionPolicy,
};
use crate::store::{LoginCounters, SessionCache};
use crate::telemetry::events::EventContext;
use crate::telemetry::{Metrics, SessionEvent};

use super::events::Events;
use super::expiry_schedule::ExpiryWatch;
use super::outage::Outage;
use super::pending_ends::PendingEnds;

/// State that all workers share.
pub struct Shared {
    pub keys: ArcSwap<KeyRing>,
    pub clock: Clock,
    pub policy: SessionPolicy,
    /// Maximum number of sessions per user; zero for no limit.
    pub max_per_user: usize,
    pub cookies: CookieNames,
    pub login_methods: LoginMethods,
    pub login_limits: LoginLimits,
    /// Counts failed logins while the store is unavailable.
    pub(super) login_fallback: LoginCounters,
    pub metrics: Metrics,
    pub events: Events,
    pub connections: ConnectionRegistry,
    pub risk: RiskState,
    pub outage: Outage,
    pub(crate) cache: Arc<SessionCache>,
    /// Held during a read of the global cutoff, so that concurrent requests share one.
    pub(super) global_cutoff_read: Mutex<()>,
    /// Requests a read, because another gateway may have advanced the global cutoff.
    pub(super) global_cutoff_changed: Notify,
    pub(crate) pending_ends: PendingEnds,
    pub(super) expiry_watch: ExpiryWatch,
}

/// Settings and databases of the risk assessment.
pub struct RiskState {
    pub settings: RiskSettings,
    pub geoip: ArcSwap<GeoIp>,
}

/// Parts of [`Shared`].
pub struct SharedParts {
    /// [`crate::store::Store::session_cache`] of the store.
    pub cache: Arc<SessionCache>,
    pub keys: KeyRing,
    pub clock: Clock,
    pub policy: SessionPolicy,
    pub max_per_user: usize,
    pub cookies: CookieNames,
    pub login_methods: LoginMethods,
    pub login_limits: LoginLimits,
    pub metrics: Metrics,
    pub connection_limits: TrackingLimits,
    pub audit: Option<AuditLog>,
    pub notifier: Option<Notifier>,
    pub risk: RiskSettings,
}

impl Shared {
    /// Creates the state of a process.
    pub fn new(parts: SharedParts) -> Shared {
        let (metrics, clock) = (parts.metrics, parts.clock);
        let limits = parts.connection_limits;
        Shared {
            connections: ConnectionRegistry::new(limits, &parts.policy, metrics.clone()),
            events: Events {
                audit: parts.audit,
                notifier: parts.notifier,
                metrics: metrics.clone(),
                clock: clock.clone(),
            },
            risk: RiskState { settings: parts.risk, geoip: ArcSwap::default() },
            outage: Outage::new(metrics.clone(), clock.clone()),
            cache: parts.cache,
            global_cutoff_read: Mutex::default(),
            global_cutoff_changed: Notify::new(),
            pending_ends: PendingEnds::default(),
            expiry_watch: ExpiryWatch::default(),
            keys: ArcSwap::from_pointee(parts.keys),
            policy: parts.policy,
            max_per_user: parts.max_per_user,
            cookies: parts.cookies,
            login_methods: parts.login_methods,
            login_limits: parts.login_limits,
            login_fallback: LoginCounters::default(),
            metrics,
            clock,
        }
    }

    /// Counts, audits, notifies and logs a session event.
    pub fn emit(&self, event: SessionEvent, context: EventContext<'_>) {
        self.events.emit(event, context);
    }

    /// Advances the global cutoff and closes the connections of revoked sessions.
    pub(super) fn advance_global_cutoff(&self, at: UnixMillis) {
        if self.cache.advance_global_cutoff(at) {
            self.connections.revoked(None, RevocationCutoff { at, except: None });
        }
    }

    /// Returns the current groups and address from the users file, not those at login. A removed or
    /// disabled account, or a changed password, ends its sessions at their next request.
    pub(crate) fn current_identity(&self, record: &Record) -> Result<Arc<Identity>, EndReason> {
        self.login_methods.current_identity(record)
    }

    /// Returns whether the session is revoked or expired at `now`.
    pub(super) fn is_record_expired(
        &self,
        key: &SessionKey,
        record: &Record,
        facts: &SessionFacts,
        now: UnixMillis,
    ) -> bool {
        let facts = SessionFacts { global_cutoff: self.cache.global_cutoff(), ..*facts };
        let deadlines = SessionDeadlines::new(key.id, record, &facts, &self.policy);
        deadlines.expiry(now).is_some() || self.current_identity(record).is_err()
    }
}
