//! Behaviour during a store outage.
//!
//! With `deny`, requests get a 503. With `serve-known`, a session that the store confirmed within
//! `serve_known_for` may read: GET, HEAD and OPTIONS, without rotation, activity or writes. Cached
//! timeouts and revocations still apply, and a session whose end was requested here is not served.
//! An outage never deletes a cookie.
//!
//! A store can answer reads and reject writes. That is an outage too, and an outage ends only after a
//! time without a failure. Otherwise it would be reported anew every second.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use crate::clock::{Clock, UnixMillis};
use crate::store::Unavailable;
use crate::telemetry::Metrics;

/// Shorter outages are not reported on the login page.
const REPORT_AFTER: Duration = Duration::from_secs(1);

/// Time without a failure after which an outage is over.
const QUIET_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// The same for an outage that began within this time after the previous one.
const QUIET_WHEN_FLAPPING: Duration = Duration::from_secs(60);

/// The current outage, if any.
pub struct StoreOutage {
    /// Start of the outage in Unix milliseconds; zero if there is none.
    since: AtomicU64,
    /// Last failure, and end of the previous outage, in milliseconds since `start`; zero if there is
    /// none.
    last_failure: AtomicU64,
    previous_end: AtomicU64,
    is_flapping: AtomicBool,
    start: Instant,
    refused: AtomicU64,
    served: AtomicU64,
    metrics: Metrics,
    clock: Clock,
}

impl StoreOutage {
    pub(super) fn new(metrics: Metrics, clock: Clock) -> StoreOutage {
        let [since, last_failure, previous_end, refused, served] =
            std::array::from_fn(|_| AtomicU64::new(0));
        let (is_flapping, start) = (AtomicBool::new(false), Instant::now());
        StoreOutage {
            since,
            last_failure,
            previous_end,
            is_flapping,
            start,
            refused,
            served,
            metrics,
            clock,
        }
    }

    /// Records that the store did not respond.
    pub fn begin(&self, error: &Unavailable) {
        let now = self.clock.now().0.max(1);
        let begins =
            self.since.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        self.last_failure.store(self.elapsed_millis(Instant::now()), Ordering::Relaxed);
        if begins {
            self.is_flapping.store(self.follows_another(Instant::now()), Ordering::Relaxed);
            self.metrics.store_unavailable.set(1);
            warn!(event = "store.unavailable", %error, "sessions cannot be verified; no session is ended");
        }
    }

    /// Returns whether there is an outage.
    pub fn is_active(&self) -> bool {
        self.since.load(Ordering::Relaxed) > 0
    }

    /// Records that the store accepted a write. The outage is over after a time without a failure.
    pub fn end(&self) {
        self.end_at(Instant::now());
    }

    fn end_at(&self, now: Instant) {
        if !self.is_active() || !self.is_quiet(now) {
            return;
        }
        let since = self.since.swap(0, Ordering::Relaxed);
        self.previous_end.store(self.elapsed_millis(now), Ordering::Relaxed);
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

    fn is_quiet(&self, now: Instant) -> bool {
        let quiet = match self.is_flapping.load(Ordering::Relaxed) {
            true => QUIET_WHEN_FLAPPING,
            false => QUIET_AFTER_FAILURE,
        };
        self.elapsed_since(&self.last_failure, now) >= quiet
    }

    fn follows_another(&self, now: Instant) -> bool {
        self.previous_end.load(Ordering::Relaxed) > 0
            && self.elapsed_since(&self.previous_end, now) < QUIET_WHEN_FLAPPING
    }

    fn elapsed_since(&self, at: &AtomicU64, now: Instant) -> Duration {
        let elapsed = self.elapsed_millis(now).saturating_sub(at.load(Ordering::Relaxed));
        Duration::from_millis(elapsed)
    }

    fn elapsed_millis(&self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.start).as_millis();
        u64::try_from(elapsed).unwrap_or(u64::MAX).max(1)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_ends_after_a_time_without_a_failure() {
        let outage = StoreOutage::new(Metrics::default(), Clock::manual(UnixMillis(1)));
        let at = |seconds| Instant::now() + Duration::from_secs(seconds);
        outage.begin(&Unavailable("x".to_owned()));
        outage.end_at(at(0));
        assert!(outage.is_active(), "the store failed just now");
        outage.end_at(at(2));
        assert!(!outage.is_active());
        outage.begin(&Unavailable("again".to_owned()));
        outage.end_at(at(59));
        assert!(outage.is_active(), "a store that fails again and again is reported once");
        outage.end_at(at(61));
        assert!(!outage.is_active());
    }
}
