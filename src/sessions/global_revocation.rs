//! Reads the operator's cutoff for all sessions from the store.
//!
//! It has a key of its own there, so loading a session does not load it.

use crate::session::RevocationCutoff;
use crate::store::{DualInstant, Unavailable};
use crate::telemetry::SessionEvent;
use crate::telemetry::events::EventContext;

use super::verified_store::VerifiedStore;

/// Returns the cutoff if it is fresh at `at`, or reads it.
pub(crate) async fn read_fresh(
    store: &VerifiedStore,
    at: DualInstant,
) -> Result<RevocationCutoff, Unavailable> {
    let cache = &store.shared.cache;
    if let Some(cutoff) = cache.fresh_global_cutoff(at) {
        return Ok(cutoff);
    }
    let _reading = store.shared.global_cutoff_read.lock().await;
    if cache.fresh_global_cutoff(store.instant()).is_none() {
        refresh(store).await?;
    }
    Ok(cache.global_cutoff())
}

/// Reads the cutoff whenever it was invalidated. Never returns.
pub(super) async fn refresh_on_change(store: &VerifiedStore) {
    loop {
        store.shared.global_cutoff_changed.notified().await;
        // Maintenance retries within a second and reports the failure.
        if refresh(store).await.is_err() {
            store.shared.metrics.store_error();
        }
    }
}

/// Reads the cutoff. Runs every second and on each change notification.
pub(super) async fn refresh(store: &VerifiedStore) -> Result<(), Unavailable> {
    let cache = &store.shared.cache;
    // Taken before the command, so that the response time counts as age.
    let requested_at = store.instant();
    let at = store.raw.global_cutoff().await?;
    store.shared.advance_global_cutoff(at);
    cache.confirm_global_cutoff(requested_at);
    let latest = cache.global_cutoff().at;
    if at < latest {
        if store.shared.pending_ends.concerns_everyone() {
            return Ok(());
        }
        let context = EventContext { user: "*", ..EventContext::default() };
        store.shared.emit(SessionEvent::RolledBack, context);
        store.raw.restore_global_cutoff(latest).await?;
    }
    Ok(())
}
