//! Registry of tracked connections.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use arc_swap::ArcSwap;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use crate::clock::UnixMillis;
use crate::route::Route;
use crate::session::{Expiry, Record, RevocationCutoff, SessionDeadlines, SessionKey, UserTag};
use crate::telemetry::Metrics;

use super::close_handle::{CloseHandle, CloseState};
use super::end_log::{EndEvent, EndLog, Missed};
use super::snapshot::{
    CloseReason, ConnectionPolicy, EndSeq, LimitExceeded, SessionSnapshot, TrackingSettings,
};
use super::stall_detector::StallDetector;
use super::tracked::{TrackedConnection, TrackedSession};

/// Number of shards, so that a sweep does not block all workers.
const SHARDS: usize = 16;

/// All tracked connections of a process.
#[derive(Clone)]
pub struct ConnectionRegistry {
    inner: Arc<Inner>,
}

struct Inner {
    settings: ArcSwap<TrackingSettings>,
    metrics: Metrics,
    shards: [Mutex<HashMap<SessionKey, TrackedSession>>; SHARDS],
    open: AtomicUsize,
    next_id: AtomicU64,
    end_log: EndLog,
    /// Stale sessions without a check so far, each once.
    stale: Mutex<VecDeque<SessionKey>>,
    check_needed: Notify,
    /// Notified when a session has no connection left.
    session_released: Notify,
    stall_detector: Arc<StallDetector>,
}

/// A registered connection. Dropping it removes it from the registry.
pub struct ConnectionGuard {
    registry: ConnectionRegistry,
    key: SessionKey,
    id: u64,
    end: CloseHandle,
}

impl ConnectionRegistry {
    /// Creates an empty registry.
    pub fn new(settings: TrackingSettings, metrics: Metrics) -> ConnectionRegistry {
        let inner = Inner {
            settings: ArcSwap::from_pointee(settings),
            metrics,
            shards: std::array::from_fn(|_| Mutex::default()),
            open: AtomicUsize::new(0),
            next_id: AtomicU64::new(0),
            end_log: EndLog::default(),
            stale: Mutex::default(),
            check_needed: Notify::new(),
            session_released: Notify::new(),
            stall_detector: Arc::new(StallDetector::new(Instant::now())),
        };
        ConnectionRegistry { inner: Arc::new(inner) }
    }

    /// Replaces the settings. Limits apply to connections that register later, the policy to all.
    pub fn configure(&self, settings: TrackingSettings) {
        self.inner.settings.store(Arc::new(settings));
    }

    /// Returns the position in the log of ends. Take it before the store command.
    pub fn end_seq(&self) -> EndSeq {
        self.inner.end_log.end_seq()
    }

    /// Registers a connection of a session that was checked after `snapshot.end_seq`.
    pub fn register(
        &self,
        snapshot: &SessionSnapshot,
        terms: ConnectionPolicy<'_>,
    ) -> Result<ConnectionGuard, LimitExceeded> {
        let slot = OpenSlot::acquire(self)?;
        let id = self.inner.next_id.fetch_add(1, Ordering::Relaxed);
        let mut shard = self.shard(&snapshot.key);
        let stall_detector = &self.inner.stall_detector;
        let entry = shard
            .entry(snapshot.key)
            .or_insert_with(|| TrackedSession::new(snapshot, stall_detector));
        let state = Arc::new(CloseState::new(entry.checked_at.clone()));
        let connection = TrackedConnection::new(id, &state, terms);
        if entry.connections.len() >= self.inner.settings.load().limits.per_session {
            self.inner.metrics.tracked_connection_rejected("session");
            return Err(LimitExceeded::Session);
        }
        entry.connections.push(connection);
        match self.inner.end_log.missed(snapshot) {
            Missed::None => {}
            Missed::Ended => state.close(CloseReason::SessionEnded, &self.inner.metrics),
            Missed::Unknown => {
                entry.mark_stale();
                self.queue_checks([snapshot.key]);
            }
        }
        drop(shard);
        slot.retain();
        let end = CloseHandle::new(Arc::clone(&self.inner.stall_detector), state);
        Ok(ConnectionGuard { registry: self.clone(), key: snapshot.key, id, end })
    }

    /// Returns whether the session has open connections.
    pub fn is_tracked(&self, key: &SessionKey) -> bool {
        self.shard(key).get(key).is_some_and(|entry| !entry.connections.is_empty())
    }

    /// Waits until the session has no open connection.
    pub(crate) async fn released(&self, key: &SessionKey) {
        loop {
            let released = self.inner.session_released.notified();
            if !self.is_tracked(key) {
                return;
            }
            released.await;
        }
    }

    /// Closes the connections of an ended session, including those about to register.
    pub fn session_ended(&self, key: &SessionKey) {
        self.inner.end_log.record(EndEvent::Session(*key));
        self.close_session(key, CloseReason::SessionEnded);
    }

    /// Closes the connections of sessions revoked by a cutoff, of one user or of all.
    pub fn revoked(&self, tag: Option<UserTag>, line: RevocationCutoff) {
        let end = EndEvent::Cutoff(tag, line);
        self.inner.end_log.record(end);
        for shard in &self.inner.shards {
            for (key, entry) in shard.lock().iter() {
                if end.affects(key, entry.record.created) {
                    self.close_all(entry, CloseReason::SessionEnded);
                }
            }
        }
    }

    /// Marks a session as stale: it may have changed at another gateway and is checked soon.
    pub(crate) fn mark_stale(&self, key: &SessionKey) {
        let is_new = self.shard(key).get_mut(key).is_some_and(TrackedSession::mark_stale);
        self.queue_checks(is_new.then_some(*key));
    }

    /// Marks all matching sessions as stale.
    pub(crate) fn mark_stale_matching(&self, matches: impl Fn(&SessionKey) -> bool) {
        for shard in &self.inner.shards {
            let mut shard = shard.lock();
            let meant = shard.iter_mut().filter(|(key, _)| matches(key));
            let new = meant.filter_map(|(key, entry)| entry.mark_stale().then_some(*key));
            self.queue_checks(new.collect::<Vec<_>>());
        }
    }

    /// Queues checks. A session that becomes stale again during its check is found by
    /// [`ConnectionRegistry::due_for_check`].
    fn queue_checks(&self, keys: impl IntoIterator<Item = SessionKey>) {
        let mut stale = self.inner.stale.lock();
        stale.extend(keys);
        if !stale.is_empty() {
            self.inner.check_needed.notify_one();
        }
    }

    /// Waits for a stale session.
    pub(crate) async fn stale_queued(&self) {
        self.inner.check_needed.notified().await;
    }

    /// Returns the next stale session that was not confirmed since, oldest first.
    pub(crate) fn next_stale(&self) -> Option<SessionKey> {
        loop {
            let key = self.inner.stale.lock().pop_front()?;
            if self.shard(&key).get(&key).is_some_and(|entry| entry.stale_since.is_some()) {
                return Some(key);
            }
        }
    }

    /// Returns the number of open connections.
    pub fn open(&self) -> usize {
        self.inner.open.load(Ordering::Relaxed)
    }

    /// Returns the sessions to check: stale ones, then those that may have expired or were last
    /// checked before `before`, oldest first. Closes connections that need no check.
    pub(crate) fn due_for_check(&self, now: UnixMillis, before: Instant) -> Vec<SessionKey> {
        let (mut due, clock) = (Vec::new(), Instant::now());
        let settings = self.inner.settings.load();
        for shard in &self.inner.shards {
            for (key, entry) in shard.lock().iter() {
                let deadlines = entry.deadlines(key.id, &settings.policy);
                self.close_expired(entry, &deadlines, now, clock);
                if entry.stale_since.is_some()
                    || entry.verified_at < before
                    || entry.is_due(&deadlines, now)
                {
                    due.push((entry.stale_since.is_none(), entry.verified_at, *key));
                }
            }
        }
        due.sort_unstable_by_key(|(is_certain, checked, _)| (*is_certain, *checked));
        due.into_iter().map(|(_, _, key)| key).collect()
    }

    /// Judges connections that were admitted before the last reload by the current routes, and closes
    /// those that the routes no longer admit.
    pub(crate) fn judge_routes(&self, admits: impl Fn(&Record, &Route) -> bool) {
        let settings = self.inner.settings.load();
        for shard in &self.inner.shards {
            for entry in shard.lock().values_mut() {
                let TrackedSession { record, connections, .. } = entry;
                for connection in connections {
                    if !connection.judge(&settings.routes, |route| admits(record, route)) {
                        connection.state.close(CloseReason::RouteChanged, &self.inner.metrics);
                    }
                }
            }
        }
    }

    /// Records that the revalidator is running.
    pub(crate) fn heartbeat(&self, now: Instant, wall: UnixMillis) {
        self.inner.stall_detector.heartbeat(now, wall);
    }

    /// Returns when the process stalled, if input received during that time may still be unread.
    pub(crate) fn stalled_since(&self, now: Instant) -> Option<UnixMillis> {
        self.inner.stall_detector.stalled_since(now)
    }

    /// Records a confirmation by the store, requested at `requested_at`.
    pub(crate) fn confirm(
        &self,
        key: &SessionKey,
        record: &Arc<Record>,
        touched: UnixMillis,
        requested_at: Instant,
    ) {
        if let Some(entry) = self.shard(key).get_mut(key) {
            entry.confirm(record, touched, requested_at);
            self.inner.stall_detector.mark_checked(&entry.checked_at, requested_at);
        }
    }

    /// Closes the connections of a live session that expired under their route's policy.
    pub(crate) fn close_by_route(&self, key: &SessionKey, now: UnixMillis) {
        if let Some(entry) = self.shard(key).get(key) {
            let deadlines = entry.deadlines(key.id, &self.inner.settings.load().policy);
            let expired = entry.expired_by_route(&deadlines, now);
            expired.for_each(|it| it.state.close(CloseReason::SessionEnded, &self.inner.metrics));
        }
    }

    /// Closes all connections of a session.
    pub(crate) fn close_session(&self, key: &SessionKey, reason: CloseReason) {
        // The entry remains until its connections are dropped.
        if let Some(entry) = self.shard(key).get(key) {
            self.close_all(entry, reason);
        }
    }

    fn close_all(&self, entry: &TrackedSession, reason: CloseReason) {
        entry
            .connections
            .iter()
            .for_each(|connection| connection.state.close(reason, &self.inner.metrics));
    }

    /// Closes connections for reasons that need no store: their age, the absolute timeout, and a
    /// long outage.
    fn close_expired(
        &self,
        entry: &TrackedSession,
        deadlines: &SessionDeadlines,
        now: UnixMillis,
        clock: Instant,
    ) {
        match deadlines.expiry(now) {
            Some(Expiry::Absolute | Expiry::Revoked) => {
                return self.close_all(entry, CloseReason::SessionEnded);
            }
            // The session may be in use on another gateway.
            Some(Expiry::Idle) | None => {}
        }
        if clock.duration_since(entry.verified_at)
            >= self.inner.settings.load().limits.unchecked_for
        {
            return self.close_all(entry, CloseReason::Unchecked);
        }
        let old = |c: &&TrackedConnection| c.is_too_old(clock);
        entry
            .connections
            .iter()
            .filter(old)
            .for_each(|c| c.state.close(CloseReason::MaxAge, &self.inner.metrics));
    }

    fn release(&self, key: &SessionKey, id: u64) {
        let mut shard = self.shard(key);
        if let Some(entry) = shard.get_mut(key) {
            entry.connections.retain(|connection| connection.id != id);
            if entry.connections.is_empty() {
                shard.remove(key);
                self.inner.session_released.notify_waiters();
            }
        }
        drop(shard);
        self.decrement_open();
    }

    fn decrement_open(&self) {
        self.inner.open.fetch_sub(1, Ordering::Relaxed);
        self.inner.metrics.tracked_connections.dec();
    }

    fn shard(&self, key: &SessionKey) -> MutexGuard<'_, HashMap<SessionKey, TrackedSession>> {
        // Session IDs are random, so the first byte spreads evenly.
        let at = usize::from(key.id.0[0]) % SHARDS;
        self.inner.shards[at].lock()
    }
}

impl ConnectionGuard {
    /// As [`CloseHandle::poll_allowed`].
    pub fn poll_allowed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CloseReason>> {
        self.end.poll_allowed(cx)
    }

    /// As [`CloseHandle::allowed`].
    pub async fn allowed(&mut self) -> Result<(), CloseReason> {
        self.end.allowed().await
    }

    /// Waits until the connection must close.
    pub async fn closed(&mut self) -> CloseReason {
        std::future::poll_fn(|cx| self.end.poll_closed(cx)).await
    }

    /// Creates another handle of the same connection.
    pub fn close_handle(&self) -> CloseHandle {
        self.end.another()
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.registry.release(&self.key, self.id);
    }
}

/// A slot of the total limit, released on drop unless retained.
struct OpenSlot<'a> {
    registry: Option<&'a ConnectionRegistry>,
}

impl<'a> OpenSlot<'a> {
    fn acquire(registry: &'a ConnectionRegistry) -> Result<OpenSlot<'a>, LimitExceeded> {
        let open = registry.inner.open.fetch_add(1, Ordering::Relaxed);
        registry.inner.metrics.tracked_connections.inc();
        let slot = OpenSlot { registry: Some(registry) };
        if open >= registry.inner.settings.load().limits.total {
            registry.inner.metrics.tracked_connection_rejected("total");
            return Err(LimitExceeded::Total);
        }
        Ok(slot)
    }

    fn retain(mut self) {
        self.registry = None;
    }
}

impl Drop for OpenSlot<'_> {
    fn drop(&mut self) {
        if let Some(registry) = self.registry {
            registry.decrement_open();
        }
    }
}

#[cfg(test)]
mod tests;
