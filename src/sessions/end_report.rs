//! Reports ended sessions to the audit log: which, why, by whom, and how long they lived.

use std::collections::HashMap;
use std::time::Duration;

use crate::clock::UnixMillis;
use crate::session::{
    EndReason, Expiry, Record, RevocationCutoff, SessionDeadlines, SessionFacts, SessionId,
    SessionKey, SessionPolicy, UserTag,
};
use crate::store::SessionListing;
use crate::telemetry::SessionEvent;
use crate::telemetry::events::{Actor, EventContext, SessionLifetime};

use super::end_cause::{EndCause, SessionInfo};
use super::verified_store::VerifiedStore;

/// Reports the end of one session.
pub(super) fn report_end(store: &VerifiedStore, session: &SessionInfo, cause: &EndCause) {
    let lifetime = SessionLifetime {
        created: session.record.created,
        last_active: session.last_active,
        ended: store.now(),
        limit: None,
    };
    let user = &session.record.identity.user;
    let context = context(user, Some(session.key.id), &cause.actor);
    let context = EventContext { lifetime: Some(lifetime), ..context };
    store.shared.emit(SessionEvent::Ended(cause.reason), context);
}

/// Reports that the sessions of a user, or of all users (`*`), were revoked.
pub(super) fn report_user(store: &VerifiedStore, user: &str, ended: usize, cause: &EndCause) {
    let context = context(user, None, &cause.actor);
    let context = EventContext { count: u64::try_from(ended).ok(), ..context };
    store.shared.emit(SessionEvent::UserRevoked(cause.reason), context);
}

/// Reports the sessions that a revocation of their user ended. `listed` are the user's sessions before
/// it. A session that had expired before is reported as expired. Returns the number of the others.
pub(crate) fn report_revoked(
    store: &VerifiedStore,
    tag: &UserTag,
    listed: &[SessionListing],
    ended: &[SessionId],
    cause: &EndCause,
) -> usize {
    let keys = store.shared.keys.load_full();
    let listed: HashMap<SessionId, &SessionListing> =
        listed.iter().map(|entry| (entry.key.id, entry)).collect();
    let mut revoked = 0;
    for id in ended {
        let entry = listed.get(id);
        let record = entry.and_then(|entry| Record::open(&keys, &entry.key, &entry.sealed).ok());
        let (Some(entry), Some(record)) = (entry, record) else {
            // Not readable here, but ended all the same.
            store
                .shared
                .emit(SessionEvent::Ended(cause.reason), context("", Some(*id), &cause.actor));
            revoked += 1;
            continue;
        };
        let key = SessionKey { tag: *tag, id: *id };
        if let Some((reason, lifetime)) = expired(store, &key, &record, entry.touched) {
            report_expired(store, &key, &record, reason, lifetime);
            continue;
        }
        let last_active = record.last_active.max(entry.touched);
        report_end(store, &SessionInfo { key, record: record.into(), last_active }, cause);
        revoked += 1;
    }
    revoked
}

/// Reports a session that ended by a timeout without a request.
pub(crate) fn report_expired(
    store: &VerifiedStore,
    key: &SessionKey,
    record: &Record,
    reason: EndReason,
    lifetime: SessionLifetime,
) {
    let context = context(&record.identity.user, Some(key.id), &Actor::Gateway);
    let context = EventContext { lifetime: Some(lifetime), ..context };
    store.shared.emit(SessionEvent::Ended(reason), context);
}

/// Returns the timeout that has ended a session, if one has.
fn expired(
    store: &VerifiedStore,
    key: &SessionKey,
    record: &Record,
    touched: UnixMillis,
) -> Option<(EndReason, SessionLifetime)> {
    let facts = SessionFacts { touched, ..SessionFacts::default() };
    let policy = &store.settings.policy;
    let deadlines = SessionDeadlines::new(key.id, record, &facts, policy);
    let expiry = deadlines.expiry(store.now())?;
    Some(lifetime(record, &deadlines, expiry, policy))
}

/// Returns the reason and the times of an end by a timeout.
pub(crate) fn lifetime(
    record: &Record,
    deadlines: &SessionDeadlines,
    expiry: Expiry,
    policy: &SessionPolicy,
) -> (EndReason, SessionLifetime) {
    let (reason, ended, limit): (_, _, Option<(_, Duration)>) = match expiry {
        Expiry::Revoked => (EndReason::Revoked, deadlines.last_active, None),
        Expiry::Idle => {
            (EndReason::Idle, deadlines.idle, Some(("session.idle_timeout", policy.idle())))
        }
        Expiry::Absolute => {
            let limit = ("session.absolute_timeout", policy.absolute());
            (EndReason::Absolute, deadlines.absolute, Some(limit))
        }
    };
    let (created, last_active) = (record.created, deadlines.last_active);
    (reason, SessionLifetime { created, last_active, ended, limit })
}

/// Counts the sessions that were live before a global revocation, up to `limit`.
pub(super) async fn count_live(
    store: &VerifiedStore,
    before: RevocationCutoff,
    limit: usize,
) -> usize {
    let keys = store.shared.keys.load_full();
    let listed = store.raw.list_all(limit).await.unwrap_or_default();
    let is_live = |entry: &&SessionListing| {
        let Ok(record) = Record::open(&keys, &entry.key, &entry.sealed) else { return false };
        let facts = SessionFacts {
            touched: entry.touched,
            global_cutoff: before,
            ..SessionFacts::default()
        };
        let policy = &store.settings.policy;
        SessionDeadlines::new(entry.key.id, &record, &facts, policy).expiry(store.now()).is_none()
    };
    listed.iter().filter(is_live).count()
}

fn context<'a>(user: &'a str, session: Option<SessionId>, actor: &'a Actor) -> EventContext<'a> {
    let client = actor.client();
    EventContext {
        user,
        session,
        client: client.map(|client| client.address),
        agent: client.map_or("", |client| client.user_agent.as_str()),
        fingerprint: client.and_then(|client| client.fingerprint),
        actor: Some(actor),
        ..EventContext::default()
    }
}
