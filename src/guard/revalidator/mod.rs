//! Closes tracked connections whose session expired, ended at another gateway, or lost its account.
//!
//! A store outage closes none before `live.unchecked_for`: an outage logs no one out, but
//! does not admit without limit either.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::time::{MissedTickBehavior, interval};

use crate::clock::UnixMillis;
use crate::session::{Record, RevocationCutoff, SessionFacts, SessionKey};
use crate::store::{Loaded, StoreChange};

use super::rollback::VerifiedSession;
use super::{CloseReason, ConnectionRegistry, Guard};

/// Interval of sweeps, and so the precision of timeouts.
const SWEEP_INTERVAL: Duration = Duration::from_millis(200);

/// Interval of checks, for stores without change notifications.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Maximum number of concurrent checks; more would only lengthen the queue of Redis.
const MAX_CONCURRENT_CHECKS: usize = 64;

/// Result of a check.
enum CheckOutcome {
    Ended,
    Alive(Arc<Record>, UnixMillis),
    /// The keys file of this gateway lacks the key of the record.
    Unreadable,
}

impl Guard {
    /// Checks sessions with tracked connections: stale ones at once, all others periodically. Never
    /// returns.
    pub async fn revalidate_connections(&self) {
        let check = |key| async move {
            self.check(&key).await;
            key
        };
        run_checks(&self.shared.connections, || self.now(), check).await;
    }

    /// Receives change notifications of other gateways. Never returns. They only hasten checks, and
    /// periodic checks continue without them. This runs beside the checks, because a receiver that
    /// lags marks all sessions as stale.
    pub async fn follow_changes(&self) {
        if let Some(changes) = self.store.subscribe() {
            self.listen_for_changes(changes).await;
        }
    }

    async fn listen_for_changes(&self, mut changes: broadcast::Receiver<StoreChange>) {
        let listening = async {
            loop {
                self.on_change(next_change(&mut changes).await);
            }
        };
        tokio::select! {
            () = listening => {}
            () = self.refresh_global_cutoff_on_change() => {}
        }
    }

    /// Marks the sessions as stale that a change concerns.
    fn on_change(&self, change: StoreChange) {
        let live = &self.shared.connections;
        match change {
            StoreChange::Session(key) => live.mark_stale(&key),
            StoreChange::UserCutoff(tag) => live.mark_stale_matching(|key| key.tag == tag),
            StoreChange::GlobalCutoff | StoreChange::Everything => {
                self.shared.global_cutoff.invalidate();
                live.mark_stale_matching(|_| true);
            }
        }
    }

    async fn check(&self, key: &SessionKey) {
        // The response reflects the time of the command. A later time could expire a session that
        // was active at another gateway.
        let (requested_at, now) = (Instant::now(), self.now());
        let Ok(loaded) = self.load_latest(key).await else { return };
        let live = &self.shared.connections;
        match self.evaluate(key, loaded, requested_at, now) {
            CheckOutcome::Ended => live.close_session(key, CloseReason::SessionEnded),
            CheckOutcome::Alive(record, touched) => {
                live.confirm(key, &record, touched, requested_at);
                live.close_by_route(key, now);
            }
            CheckOutcome::Unreadable => {}
        }
    }

    fn evaluate(
        &self,
        key: &SessionKey,
        loaded: Loaded,
        requested_at: Instant,
        now: UnixMillis,
    ) -> CheckOutcome {
        let keys = self.shared.keys.load_full();
        let VerifiedSession { record, touched, user_cutoff, .. } =
            match self.verify(&keys, key, loaded, requested_at) {
                Ok(verified) => verified,
                Err(reason) if reason.is_transient() => return CheckOutcome::Unreadable,
                Err(_) => return CheckOutcome::Ended,
            };
        // The global cutoff closes connections when it is read.
        let facts =
            SessionFacts { touched, user_cutoff, global_cutoff: RevocationCutoff::default() };
        // Reauthentication creates another session, so these connections must end.
        match record.reauth_required || self.is_record_expired(key, &record, &facts, now) {
            true => CheckOutcome::Ended,
            false => CheckOutcome::Alive(record, touched),
        }
    }
}

/// Runs up to [`MAX_CONCURRENT_CHECKS`] checks. Stale sessions come first, even before the rest of
/// a sweep. A hanging check runs until the store's deadline, which reports the failure, and no
/// session has two checks in a sweep.
async fn run_checks<Check: Future<Output = SessionKey>>(
    live: &ConnectionRegistry,
    now: impl Fn() -> UnixMillis,
    check: impl Fn(SessionKey) -> Check,
) {
    let mut queue = CheckQueue::default();
    let mut checks = FuturesUnordered::new();
    let mut tick = interval(SWEEP_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {
                let clock = Instant::now();
                let before = clock.checked_sub(CHECK_INTERVAL).unwrap_or(clock);
                queue.round = live.due_for_check(now(), before).into();
            }
            Some(key) = checks.next() => { queue.in_progress.remove(&key); }
            () = live.stale_queued() => {}
        }
        // Before the checks start, so that their commands count as sent after a stall.
        live.heartbeat(Instant::now(), now());
        while checks.len() < MAX_CONCURRENT_CHECKS
            && let Some(key) = queue.next(live)
        {
            queue.in_progress.insert(key);
            checks.push(check(key));
        }
    }
}

#[derive(Default)]
struct CheckQueue {
    /// Sessions of the last sweep without a check.
    round: VecDeque<SessionKey>,
    /// Sessions with a check in progress.
    in_progress: HashSet<SessionKey>,
}

impl CheckQueue {
    fn next(&mut self, live: &ConnectionRegistry) -> Option<SessionKey> {
        // Also during a check: its response may precede the change.
        live.next_stale().or_else(|| {
            std::iter::from_fn(|| self.round.pop_front())
                .find(|key| !self.in_progress.contains(key))
        })
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
mod tests;
