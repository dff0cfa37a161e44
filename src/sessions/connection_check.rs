//! Checks sessions with tracked connections against the store.

use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::sync::broadcast::{self, error::RecvError};

use crate::clock::UnixMillis;
use crate::connections::{CloseReason, run_checks};
use crate::route::Route;
use crate::session::{Provider, Record, RevocationCutoff, SessionFacts, SessionKey};
use crate::store::{Loaded, PendingLoad, StoreChange, VerifiedSession};

use super::global_revocation;
use super::service::Sessions;
use super::verified_store::{LoadError, VerifiedStore};

/// Result of a check.
enum CheckOutcome {
    Ended,
    Alive(VerifiedSession),
    /// The keys file of this gateway lacks the key of the record.
    Unreadable,
}

/// Checks sessions with tracked connections under the current configuration: stale ones at once, all
/// others periodically. Never returns.
pub async fn revalidate_connections(current: &ArcSwap<Sessions>) {
    let check_one = |key| {
        let sessions = current.load_full();
        async move {
            if let Some(record) = check(sessions.verified_store(), &key).await
                && record.identity.provider != Provider::Password
            {
                tokio::spawn(async move { sessions.recheck(&key, &record).await });
            }
            key
        }
    };
    let sweep = || judge_routes(current.load().verified_store());
    let shared = Arc::clone(&current.load().verified_store().shared);
    run_checks(&shared.connections, || shared.clock.now(), sweep, check_one).await;
}

/// Judges connections by the routes of the last reload. Needs no store, so an outage delays nothing.
fn judge_routes(store: &VerifiedStore) {
    let admits = |record: &Record, route: &Route| {
        store.shared.current_identity(record).is_ok_and(|identity| {
            let policy = &store.settings.second_factor;
            route.accepts_login(&identity.provider)
                && route.admits(&identity)
                && !policy.is_missing(record, &identity, route.requires_second_factor())
        })
    };
    store.shared.connections.judge_routes(admits);
}

/// Receives change notifications of other gateways. Never returns. They only hasten checks, and
/// periodic checks continue without them. This runs beside the checks, because a receiver that
/// lags marks all sessions as stale.
pub async fn follow_changes(sessions: &Sessions) {
    let store = sessions.verified_store();
    if let Some(changes) = store.raw.subscribe() {
        listen_for_changes(store, changes).await;
    }
}

async fn listen_for_changes(store: &VerifiedStore, mut changes: broadcast::Receiver<StoreChange>) {
    let listening = async {
        loop {
            on_change(store, next_change(&mut changes).await);
        }
    };
    tokio::select! {
        () = listening => {}
        () = global_revocation::refresh_on_change(store) => {}
    }
}

/// Marks the sessions as stale that a change concerns.
fn on_change(store: &VerifiedStore, change: StoreChange) {
    let connections = &store.shared.connections;
    match change {
        StoreChange::Session(key) => connections.mark_stale(&key),
        StoreChange::UserCutoff(tag) => connections.mark_stale_matching(|key| key.tag == tag),
        StoreChange::GlobalCutoff | StoreChange::Everything => {
            store.shared.global_cutoff_changed.notify_one();
            connections.mark_stale_matching(|_| true);
        }
    }
}

/// Returns the record of a live session.
async fn check(store: &VerifiedStore, key: &SessionKey) -> Option<Arc<Record>> {
    // The response reflects the time of the command. A later time could expire a session that was
    // active at another gateway.
    let (requested_at, now) = (Instant::now(), store.now());
    let (load, loaded) = store.load_latest(key).await.ok()?;
    let connections = &store.shared.connections;
    match evaluate(store, key, &load, loaded, now) {
        CheckOutcome::Ended => {
            connections.close_session(key, CloseReason::SessionEnded);
            None
        }
        CheckOutcome::Alive(session) => {
            connections.confirm(key, &session.record, session.touched, requested_at);
            connections.close_by_route(key, now);
            Some(session.record)
        }
        CheckOutcome::Unreadable => None,
    }
}

fn evaluate(
    store: &VerifiedStore,
    key: &SessionKey,
    load: &PendingLoad,
    loaded: Loaded,
    now: UnixMillis,
) -> CheckOutcome {
    let keys = store.shared.keys.load_full();
    let session = match store.verify(&keys, key, load, loaded) {
        Ok(session) => session,
        Err(LoadError::Unavailable(_)) => return CheckOutcome::Unreadable,
        Err(LoadError::Missing | LoadError::Ended(_) | LoadError::Undecryptable) => {
            return CheckOutcome::Ended;
        }
    };
    // The global cutoff closes connections when it is read.
    let facts = SessionFacts {
        touched: session.touched,
        user_cutoff: session.user_cutoff,
        global_cutoff: RevocationCutoff::default(),
    };
    let record = &session.record;
    // Reauthentication creates another session, so these connections must end.
    match record.reauth_required || store.is_record_expired(key, record, &facts, now) {
        true => CheckOutcome::Ended,
        false => CheckOutcome::Alive(session),
    }
}

async fn next_change(changes: &mut broadcast::Receiver<StoreChange>) -> StoreChange {
    match changes.recv().await {
        Ok(change) => change,
        Err(RecvError::Lagged(_)) => StoreChange::Everything,
        Err(RecvError::Closed) => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::sleep;

    use super::*;
    use crate::clock::Clock;
    use crate::connections::ConnectionPolicy;
    use crate::sessions::test_support::{sessions, snapshot};
    use crate::store::{RedisSettings, Store};

    /// A receiver that lags marks all sessions as stale.
    #[tokio::test]
    async fn change_notifications_do_not_wait_for_the_store() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("redis://{}", silent.local_addr().expect("an address"));
        let response_timeout = Duration::from_secs(60);
        let settings = RedisSettings { url, response_timeout, ..RedisSettings::default() };
        let unresponsive = Store::redis(&settings).expect("settings");
        let clock = Clock::manual(UnixMillis(1_000_000));
        let sessions = sessions(&unresponsive, &clock);
        let snapshot = snapshot(&sessions);
        let connections = &sessions.shared().connections;
        let _guard = connections.register(&snapshot, ConnectionPolicy::default()).expect("a slot");
        let (sender, changes) = broadcast::channel(16);
        let listening = sessions.verified_store().clone();
        let task = tokio::spawn(async move { listen_for_changes(&listening, changes).await });
        for change in [StoreChange::Everything, StoreChange::Session(snapshot.key)] {
            sender.send(change).expect("a receiver");
            let started = Instant::now();
            while connections.next_stale() != Some(snapshot.key) {
                assert!(started.elapsed() < Duration::from_secs(10), "{change:?} is not handled");
                sleep(Duration::from_millis(1)).await;
            }
            connections.confirm(
                &snapshot.key,
                &snapshot.record,
                UnixMillis(1_000_000),
                Instant::now(),
            );
        }
        task.abort();
    }
}
