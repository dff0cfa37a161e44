//! Ends and reports sessions whose timeout passes without another request.
//!
//! A request to such a session would end it, but its user may never come back. Each gateway watches the
//! sessions that it has seen, and once an hour looks for others, such as those of a gateway that
//! stopped. When a session may have expired, one load decides: it has, or it was used since and is
//! watched further. The store ends it only if it has not changed since that load, and returns true to
//! exactly one gateway. That gateway reports the end.
//!
//! With Redis this costs each gateway one load for each session and idle timeout, and one write for
//! each session that ends this way.

use crate::session::{Expiry, SessionDeadlines, SessionFacts, SessionKey};
use crate::store::{ExpiredSession, Unavailable, VerifiedSession};

use super::end_report::{lifetime, report_expired};
use super::expiry_schedule::{REPORT_DELAY, next_check};
use super::global_revocation;
use super::verified_store::{LoadError, VerifiedStore};

/// Checks the sessions that may have expired. Call it about once a second.
pub(super) async fn run(store: &VerifiedStore) -> Result<(), Unavailable> {
    // Records of other keys would look tampered with.
    if store.shared.keys.load().is_provisional() {
        return Ok(());
    }
    if store.shared.expiry_watch.begins_search() {
        search(store).await?;
    }
    global_revocation::read_fresh(store, store.instant()).await?;
    for key in store.shared.expiry_watch.take_due(store.now()) {
        if let Err(error) = check(store, &key).await {
            store.shared.expiry_watch.add(key, store.now().plus(REPORT_DELAY));
            return Err(error);
        }
    }
    Ok(())
}

/// Watches all sessions of the store. Only their keys are read, so the checks are spread over one idle
/// timeout.
async fn search(store: &VerifiedStore) -> Result<(), Unavailable> {
    let (now, spread) = (store.now(), store.settings.policy.idle());
    let found = store.raw.find_session(|key| {
        let [share, ..] = key.id.0;
        let wait = spread.mul_f64(f64::from(share) / 256.0);
        store.shared.expiry_watch.add(*key, now.plus(wait));
        false
    });
    found.await.map(drop)
}

async fn check(store: &VerifiedStore, key: &SessionKey) -> Result<(), Unavailable> {
    let (load, loaded) = store.load_latest(key).await?;
    let keys = store.shared.keys.load_full();
    let session = match store.verify(&keys, key, &load, loaded) {
        Ok(session) => session,
        Err(LoadError::Unavailable(error)) => return Err(error),
        // Reported where it ended.
        Err(LoadError::Missing | LoadError::Ended(_) | LoadError::Undecryptable) => return Ok(()),
    };
    let facts = SessionFacts {
        touched: session.touched,
        user_cutoff: session.user_cutoff,
        global_cutoff: store.shared.cache.global_cutoff(),
    };
    let policy = &store.settings.policy;
    let deadlines = SessionDeadlines::new(key.id, &session.record, &facts, policy);
    match deadlines.expiry(store.now().minus(REPORT_DELAY)) {
        None => store.shared.expiry_watch.add(*key, next_check(&deadlines)),
        // Reported when it was revoked.
        Some(Expiry::Revoked) => {}
        Some(expiry) => end(store, key, &session, &deadlines, expiry).await?,
    }
    Ok(())
}

async fn end(
    store: &VerifiedStore,
    key: &SessionKey,
    session: &VerifiedSession,
    deadlines: &SessionDeadlines,
    expiry: Expiry,
) -> Result<(), Unavailable> {
    let record = &session.record;
    let (reason, lifetime) = lifetime(record, deadlines, expiry, &store.settings.policy);
    let expired = ExpiredSession {
        key: *key,
        revision: session.revision,
        touched: session.touched,
        due: lifetime.ended,
        retain_until: record.absolute_end,
    };
    if store.raw.expire(&expired, reason, store.now()).await? {
        store.shared.cache.insert_end(key, reason, record.absolute_end);
        store.shared.connections.session_ended(key);
        report_expired(store, key, record, reason, lifetime);
    } else {
        // Used or ended since the load, or ended by another gateway: the next check decides.
        store.shared.expiry_watch.add(*key, store.now().plus(REPORT_DELAY));
    }
    Ok(())
}
