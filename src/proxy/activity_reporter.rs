//! Reports traffic of a connection as activity of its session.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::auth::Auth;
use crate::clock::{Clock, UnixMillis};
use crate::session::SessionKey;
use crate::sessions::SessionUpdater;

/// Reports the activity of one direction of a connection.
pub(super) struct ActivityReporter {
    updater: SessionUpdater,
    clock: Clock,
    session: SessionKey,
    interval: Duration,
    last: AtomicU64,
}

impl ActivityReporter {
    /// `last` is the latest activity that the store has.
    pub(super) fn new(auth: &Auth, session: SessionKey, last: UnixMillis) -> ActivityReporter {
        let shared = auth.shared();
        ActivityReporter {
            updater: auth.sessions().updater.clone(),
            clock: shared.clock.clone(),
            session,
            interval: auth.settings().policy.touch_interval(),
            last: AtomicU64::new(last.0),
        }
    }

    pub(super) fn now(&self) -> UnixMillis {
        self.clock.now()
    }

    /// Records activity at most once per interval, which is the same as for requests.
    pub(super) fn touch(&self) {
        let now = self.now();
        if now.since(UnixMillis(self.last.load(Ordering::Relaxed))) < self.interval {
            return;
        }
        self.last.store(now.0, Ordering::Relaxed);
        let (updater, session) = (self.updater.clone(), self.session);
        // The store counts failures; later data retries.
        tokio::spawn(async move { updater.touch(&session).await.unwrap_or_default() });
    }
}
