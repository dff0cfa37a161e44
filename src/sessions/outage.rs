//! Behaviour during a store outage.
//!
//! With `deny`, requests get a 503. With `serve-known`, a session that the store confirmed within
//! `serve_known_for` may read: GET, HEAD and OPTIONS, without rotation, activity or writes. Cached
//! timeouts and revocations still apply, and a session whose end was requested here is not served.
//! An outage never deletes a cookie.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tracing::{info, warn};

use crate::clock::{Clock, UnixMillis};
use crate::store::Unavailable;
use crate::telemetry::Metrics;

/// Shorter outages are not reported on the login page.
const REPORT_AFTER: Duration = Duration::from_secs(1);

/// The current outage, if any.
pub struct Outage {
    /// Start of the outage in Unix milliseconds; zero if there is none.
    since: AtomicU64,
    refused: AtomicU64,
    served: AtomicU64,
    metrics: Metrics,
    clock: Clock,
}

impl Outage {
    pub(super) fn new(metrics: Metrics, clock: Clock) -> Outage {
        let [since, refused, served] = std::array::from_fn(|_| AtomicU64::new(0));
        Outage { since, refused, served, metrics, clock }
    }

    /// Records that the store did not respond.
    pub fn begin(&self, error: &Unavailable) {
        let now = self.clock.now().0.max(1);
        let begins =
            self.since.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if begins {
            self.metrics.store_unavailable.set(1);
            warn!(event = "store.unavailable", %error, "sessions cannot be verified; no session is ended");
        }
    }

    /// Records the end of an outage.
    pub fn end(&self) {
        let since = self.since.swap(0, Ordering::Relaxed);
        if since == 0 {
            return;
        }
        self.metrics.store_unavailable.set(0);
        let seconds = self.clock.now().since(UnixMillis(since)).as_secs();
        let refused = self.refused.swap(0, Ordering::Relaxed);
        let served = self.served.swap(0, Ordering::Relaxed);
        info!(
            event = "store.recovered",
            outage_seconds = seconds,
            requests_refused = refused,
            requests_served_stale = served
        );
    }

    /// Returns whether an outage prevents logins.
    pub fn prevents_login(&self) -> bool {
        let since = self.since.load(Ordering::Relaxed);
        since > 0 && self.clock.now().since(UnixMillis(since)) >= REPORT_AFTER
    }

    /// Records a failed store command, as the start of an outage and in the metrics.
    pub(crate) fn record_failure(&self, error: &Unavailable) {
        self.begin(error);
        self.metrics.store_error();
    }

    /// Counts a request denied because of the outage.
    pub(crate) fn count_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request served from a stale session.
    pub(crate) fn count_served_stale(&self) {
        self.served.fetch_add(1, Ordering::Relaxed);
        self.metrics.stale_sessions_served.inc();
    }
}
