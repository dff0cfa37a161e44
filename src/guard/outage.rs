//! Behaviour during a store outage.
//!
//! With `deny`, requests get a 503. With `serve-known`, a session that the store confirmed within
//! `serve_known_for` may read: GET, HEAD and OPTIONS, without rotation, activity or writes. Cached
//! timeouts and revocations still apply, and a session whose end was requested here is not served.
//! An outage never deletes a cookie.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::timeout;
use tracing::{info, warn};

use super::Guard;
use crate::clock::UnixMillis;
use crate::store::Unavailable;

/// Shorter outages are not reported on the login page.
const REPORT_AFTER: Duration = Duration::from_secs(1);

/// The current outage, if any.
#[derive(Default)]
pub(super) struct Outage {
    /// Start of the outage in Unix milliseconds; zero if there is none.
    since: AtomicU64,
    refused: AtomicU64,
    served: AtomicU64,
}

impl Guard {
    /// Limits a sequence of store commands to the store's deadline. Each command has a deadline of
    /// its own and may wait for others. After a timeout the commands may still have taken effect.
    pub(super) async fn with_deadline<T, E: From<Unavailable>>(
        &self,
        operation: Pin<&mut impl Future<Output = Result<T, E>>>,
    ) -> Result<T, E> {
        let Some(deadline) = self.store.request_deadline() else { return operation.await };
        let answer = Box::pin(timeout(deadline, operation)).await;
        answer.unwrap_or_else(|_| {
            let millis = deadline.as_millis();
            let error =
                Unavailable(format!("the store did not complete the operation within {millis} ms"));
            self.mark_store_unavailable(&error);
            self.shared.metrics.store_error();
            Err(error.into())
        })
    }

    /// Records that the store did not respond.
    pub fn mark_store_unavailable(&self, error: &Unavailable) {
        let outage = &self.shared.outage;
        let now = self.now().0.max(1);
        let begins =
            outage.since.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if begins {
            self.shared.metrics.store_unavailable.set(1);
            warn!(event = "store.unavailable", %error, "sessions cannot be verified; no session is ended");
        }
    }

    /// Counts a request denied because of the outage.
    pub(super) fn count_refused(&self) {
        self.shared.outage.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request served from a stale session.
    pub(super) fn count_served_stale(&self) {
        self.shared.outage.served.fetch_add(1, Ordering::Relaxed);
        self.shared.metrics.stale_sessions_served.inc();
    }

    /// Records the end of an outage.
    pub fn mark_store_available(&self) {
        let outage = &self.shared.outage;
        let since = outage.since.swap(0, Ordering::Relaxed);
        if since == 0 {
            return;
        }
        self.shared.metrics.store_unavailable.set(0);
        let seconds = self.now().since(UnixMillis(since)).as_secs();
        let refused = outage.refused.swap(0, Ordering::Relaxed);
        let served = outage.served.swap(0, Ordering::Relaxed);
        info!(
            event = "store.recovered",
            outage_seconds = seconds,
            requests_refused = refused,
            requests_served_stale = served
        );
    }

    /// Returns whether an outage prevents logins.
    pub fn is_store_unavailable(&self) -> bool {
        let since = self.shared.outage.since.load(Ordering::Relaxed);
        since > 0 && self.now().since(UnixMillis(since)) >= REPORT_AFTER
    }
}
