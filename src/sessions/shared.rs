//! State that all workers of a process share. It outlives every configuration.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::{Mutex, Notify};

use crate::audit::AuditLog;
use crate::clock::{Clock, UnixMillis};
use crate::connections::{ConnectionRegistry, TrackingSettings};
use crate::identity::LoginMethods;
use crate::notify::Notifier;
use crate::risk::GeoIp;
use crate::secret::KeyRing;
use crate::session::{EndReason, Identity, Record, RevocationCutoff, UserTag};
use crate::store::{LoginCounters, SessionCache, Store};
use crate::telemetry::events::EventContext;
use crate::telemetry::{Metrics, SessionEvent};

use super::events::Events;
use super::expiry_schedule::ExpiryWatch;
use super::outage::StoreOutage;
use super::pending_ends::PendingEnds;
use super::recheck_attempts::RecheckAttempts;
use super::user_ref::UserRef;

/// State that all workers share.
pub struct Shared {
    pub keys: ArcSwap<KeyRing>,
    pub clock: Clock,
    pub login_methods: LoginMethods,
    /// Counts failed logins while the store is unavailable.
    pub(super) login_fallback: LoginCounters,
    pub metrics: Metrics,
    pub events: Events,
    pub connections: ConnectionRegistry,
    pub geoip: ArcSwap<GeoIp>,
    pub outage: StoreOutage,
    pub(crate) cache: Arc<SessionCache>,
    /// Held during a read of the global cutoff, so that concurrent requests share one.
    pub(super) global_cutoff_read: Mutex<()>,
    /// Requests a read, because another gateway may have advanced the global cutoff.
    pub(super) global_cutoff_changed: Notify,
    pub(crate) pending_ends: PendingEnds,
    pub(super) expiry_watch: ExpiryWatch,
    pub(super) rechecks: RecheckAttempts,
}

/// Parts of [`Shared`].
pub struct SharedParts {
    /// [`crate::store::Store::session_cache`] of the store.
    pub cache: Arc<SessionCache>,
    pub keys: KeyRing,
    pub clock: Clock,
    /// Initial settings of tracked connections.
    pub tracking: TrackingSettings,
    pub login_methods: LoginMethods,
    pub metrics: Metrics,
    pub audit: Option<AuditLog>,
    pub notifier: Option<Notifier>,
}

impl SharedParts {
    /// Returns parts without login methods, audit log and notifier.
    pub fn new(
        store: &Store,
        keys: KeyRing,
        clock: Clock,
        tracking: TrackingSettings,
    ) -> SharedParts {
        SharedParts {
            cache: store.session_cache(),
            keys,
            clock,
            tracking,
            login_methods: LoginMethods::default(),
            metrics: Metrics::default(),
            audit: None,
            notifier: None,
        }
    }
}

impl Shared {
    /// Creates the state of a process.
    pub fn new(parts: SharedParts) -> Shared {
        let (metrics, clock) = (parts.metrics, parts.clock);
        Shared {
            connections: ConnectionRegistry::new(parts.tracking, metrics.clone()),
            events: Events {
                audit: parts.audit,
                notifier: parts.notifier,
                metrics: metrics.clone(),
                clock: clock.clone(),
            },
            geoip: ArcSwap::default(),
            outage: StoreOutage::new(metrics.clone(), clock.clone()),
            cache: parts.cache,
            global_cutoff_read: Mutex::default(),
            global_cutoff_changed: Notify::new(),
            pending_ends: PendingEnds::default(),
            expiry_watch: ExpiryWatch::default(),
            rechecks: RecheckAttempts::default(),
            keys: ArcSwap::from_pointee(parts.keys),
            login_methods: parts.login_methods,
            login_fallback: LoginCounters::default(),
            metrics,
            clock,
        }
    }

    /// Returns the tag of an account ([`Identity::account`]); a user of the users file has their name.
    pub fn user_tag(&self, account: &str) -> UserTag {
        UserTag(self.keys.load().user_tag(account))
    }

    /// Returns the user of the users file with this name.
    pub(crate) fn user_ref<'a>(&self, name: &'a str) -> UserRef<'a> {
        UserRef { tag: self.user_tag(name), user: name }
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
}
