//! The store is away: who is served all the same, and what the operator hears.
//!
//! `deny` answers 503. `serve-known` lets a session pass that this gateway has seen alive within
//! `serve_known_for`, read-only: GET, HEAD and OPTIONS, no renewal, no activity, no write. Never beyond
//! its timeouts by what is known here, never a session that somebody here wanted to end, and never by a
//! refusal: who cannot be served is told to come back, and keeps his cookie.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::timeout;
use tracing::{info, warn};

use super::Guard;
use crate::clock::UnixMillis;
use crate::store::Unavailable;

/// A hiccup that is over by then is not worth a word on the login page.
const HICCUP: Duration = Duration::from_secs(1);

/// The outage under way, if any.
#[derive(Default)]
pub(super) struct Outage {
    /// When it was noticed; zero when there is none.
    since: AtomicU64,
    refused: AtomicU64,
    served: AtomicU64,
}

impl Guard {
    /// What is asked of the store for one end, as a whole: each question has its own deadline, and waits
    /// for those before it. What was on its way when this one was over may have happened, as ever.
    pub(super) async fn in_time<T, E: From<Unavailable>>(
        &self,
        asked: Pin<&mut impl Future<Output = Result<T, E>>>,
    ) -> Result<T, E> {
        let Some(patience) = self.store.patience() else { return asked.await };
        let answer = Box::pin(timeout(patience, asked)).await;
        answer.unwrap_or_else(|_| {
            let millis = patience.as_millis();
            let error = Unavailable(format!("the store had no answer to all within {millis} ms"));
            self.store_is_away(&error);
            self.shared.metrics.store_error();
            Err(error.into())
        })
    }

    /// The store did not answer.
    pub fn store_is_away(&self, error: &Unavailable) {
        let outage = &self.shared.outage;
        let now = self.now().0.max(1);
        let begins =
            outage.since.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if begins {
            self.shared.metrics.store_away.set(1);
            warn!(event = "store.away", %error, "sessions cannot be checked; nobody is logged out");
        }
    }

    /// A request cannot be decided for it.
    pub(super) fn refused_for_it(&self) {
        self.shared.outage.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Or can: it is served by what is known.
    pub(super) fn served_known(&self) {
        self.shared.outage.served.fetch_add(1, Ordering::Relaxed);
        self.shared.metrics.served_known.inc();
    }

    /// The store answers; housekeeping says so.
    pub fn store_is_back(&self) {
        let outage = &self.shared.outage;
        let since = outage.since.swap(0, Ordering::Relaxed);
        if since == 0 {
            return;
        }
        self.shared.metrics.store_away.set(0);
        let seconds = self.now().since(UnixMillis(since)).as_secs();
        let refused = outage.refused.swap(0, Ordering::Relaxed);
        let served = outage.served.swap(0, Ordering::Relaxed);
        info!(event = "store.back", seconds, refused, served);
    }

    /// Whether nobody can log in right now.
    pub fn is_store_away(&self) -> bool {
        let since = self.shared.outage.since.load(Ordering::Relaxed);
        since > 0 && self.now().since(UnixMillis(since)) >= HICCUP
    }
}
