//! Reads the global cutoff from the store.

use std::time::Instant;

use crate::clock::UnixMillis;
use crate::session::RevocationCutoff;
use crate::store::Unavailable;
use crate::telemetry::SessionEvent;
use crate::telemetry::events::EventContext;

use super::verified_store::VerifiedStore;

/// Returns the cutoff, after a read if it is not fresh.
pub(crate) async fn read_fresh(store: &VerifiedStore) -> Result<RevocationCutoff, Unavailable> {
    if let Some(cutoff) = if_fresh(store, Instant::now(), store.now()) {
        return Ok(cutoff);
    }
    let _refreshing = store.shared.global_cutoff.refreshing.lock().await;
    if if_fresh(store, Instant::now(), store.now()).is_none() {
        refresh(store).await?;
    }
    Ok(store.shared.global_cutoff.get())
}

/// Returns the cutoff if it is fresh by the monotonic clock at `at` and by the wall clock.
pub(crate) fn if_fresh(
    store: &VerifiedStore,
    at: Instant,
    now: UnixMillis,
) -> Option<RevocationCutoff> {
    let cutoff = &store.shared.global_cutoff;
    cutoff.is_fresh(at, now).then(|| cutoff.get())
}

/// Reads the cutoff whenever it was invalidated. Never returns.
pub(super) async fn refresh_on_change(store: &VerifiedStore) {
    loop {
        store.shared.global_cutoff.invalidated.notified().await;
        // Maintenance retries within a second and reports the failure.
        if refresh(store).await.is_err() {
            store.shared.metrics.store_error();
        }
    }
}

/// Reads the cutoff. Runs every second and on each change notification.
pub(super) async fn refresh(store: &VerifiedStore) -> Result<(), Unavailable> {
    let cutoff = &store.shared.global_cutoff;
    // Taken before the command, so that the response time counts as age.
    let (elapsed_millis, now) = (cutoff.elapsed_millis(Instant::now()), store.now());
    let at = store.raw.global_cutoff().await?;
    store.shared.advance_global_cutoff(at);
    cutoff.mark_read(elapsed_millis, now);
    let cached = cutoff.get().at;
    if at < cached {
        let context = EventContext { user: "*", ..EventContext::default() };
        store.shared.emit(SessionEvent::RolledBack, context);
        store.raw.restore_global_cutoff(cached).await?;
    }
    Ok(())
}
