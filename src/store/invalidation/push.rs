//! Push messages of an invalidation connection, and what they invalidate or confirm.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ::redis::{FromRedisValue, PushInfo, PushKind, Value};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::store::cache::{DualInstant, FlushCause, PrimaryFreshness};
use crate::store::redis::SharedState;
use crate::store::redis::keys::parse_change;
use crate::store::types::StoreChange;

/// The push handler of one connection.
pub(super) struct PushHandler {
    shared: Arc<SharedState>,
    freshness: PrimaryFreshness,
    prefix: Vec<u8>,
    pending: Mutex<Option<PendingHeartbeat>>,
    heartbeat_received: Notify,
    is_broken: AtomicBool,
    broken: Notify,
}

/// A heartbeat that was sent, with its time.
struct PendingHeartbeat {
    name: Vec<u8>,
    sent: DualInstant,
}

impl PushHandler {
    pub(super) fn new(
        shared: Arc<SharedState>,
        freshness: PrimaryFreshness,
        prefix: String,
    ) -> PushHandler {
        PushHandler {
            shared,
            freshness,
            prefix: prefix.into_bytes(),
            pending: Mutex::new(None),
            heartbeat_received: Notify::new(),
            is_broken: AtomicBool::new(false),
            broken: Notify::new(),
        }
    }

    /// Registers a heartbeat. Call it before sending: the time of this call is what its push
    /// confirms.
    pub(super) fn expect_heartbeat(&self, name: Vec<u8>) {
        let sent = DualInstant::now();
        *self.pending.lock() = Some(PendingHeartbeat { name, sent });
    }

    pub(super) async fn heartbeat_received(&self) {
        self.heartbeat_received.notified().await;
    }

    pub(super) async fn broken(&self) {
        if !self.is_broken.load(Ordering::Acquire) {
            self.broken.notified().await;
        }
    }

    pub(super) fn on_push(&self, push: PushInfo) {
        if self.is_broken.load(Ordering::Acquire) {
            return;
        }
        match parse_push(push) {
            PushEvent::UserKeys(names) => names.iter().for_each(|name| self.on_key(name)),
            PushEvent::All => {
                self.shared.invalidate(StoreChange::Everything);
                self.shared.rollback_suspected.notify_one();
            }
            PushEvent::Disconnected => self.connection_lost(),
            PushEvent::Unrelated => {}
        }
    }

    fn on_key(&self, name: &[u8]) {
        if name.starts_with(&self.prefix) {
            self.on_heartbeat(name);
        } else if let Some(change) = parse_change(name) {
            self.shared.invalidate(change);
        }
    }

    fn on_heartbeat(&self, name: &[u8]) {
        let mut pending = self.pending.lock();
        if let Some(beat) = pending.take_if(|beat| beat.name == name) {
            self.freshness.confirm(beat.sent);
            self.heartbeat_received.notify_one();
        }
    }

    /// Flushes the cache and drops the freshness that this connection confirmed.
    fn connection_lost(&self) {
        if !self.is_broken.swap(true, Ordering::AcqRel) {
            self.freshness.reset();
            self.shared.cache.flush(FlushCause::ConnectionLost);
            self.broken.notify_one();
        }
    }
}

pub(super) struct LostOnDrop(pub(super) Arc<PushHandler>);

impl Drop for LostOnDrop {
    fn drop(&mut self) {
        self.0.connection_lost();
    }
}

/// The content of a push.
enum PushEvent {
    UserKeys(Vec<Vec<u8>>),
    /// The store was emptied, or the push could not be parsed.
    All,
    Disconnected,
    /// Not an invalidation.
    Unrelated,
}

#[allow(clippy::wildcard_enum_match_arm, reason = "not our enum, and it grows")]
fn parse_push(push: PushInfo) -> PushEvent {
    match push.kind {
        PushKind::Invalidate => parse_keys(push.data).map_or(PushEvent::All, PushEvent::UserKeys),
        PushKind::Disconnection => PushEvent::Disconnected,
        _ => PushEvent::Unrelated,
    }
}

/// Returns the keys of one push. `None` marks a flush of the whole database.
fn parse_keys(data: Vec<Value>) -> Option<Vec<Vec<u8>>> {
    let [keys] = <[Value; 1]>::try_from(data).ok()?;
    if keys == Value::Nil {
        return None;
    }
    Vec::<Vec<u8>>::from_redis_value(keys).ok()
}
