//! What comes on a connection that follows changes, and what that ends or proves.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ::redis::{FromRedisValue, PushInfo, PushKind, Value};
use tokio::sync::Notify;

use super::super::Change;
use super::super::cache::{Cleared, Moment, Part};
use super::super::distributed::Beside;
use super::super::redis::names::changed;

/// One connection, as its pushes see it.
pub(super) struct Link {
    beside: Arc<Beside>,
    part: Part,
    prefix: Vec<u8>,
    awaited: Mutex<Option<Awaited>>,
    proven: Notify,
    is_broken: AtomicBool,
    broken: Notify,
}

/// A beat that was sent, and when.
struct Awaited {
    name: Vec<u8>,
    sent: Moment,
}

impl Link {
    pub(super) fn new(beside: Arc<Beside>, part: Part, prefix: String) -> Link {
        Link {
            beside,
            part,
            prefix: prefix.into_bytes(),
            awaited: Mutex::new(None),
            proven: Notify::new(),
            is_broken: AtomicBool::new(false),
            broken: Notify::new(),
        }
    }

    /// To be called before the beat is sent: its time is what will be proven.
    pub(super) fn expect(&self, name: Vec<u8>) {
        let sent = self.beside.stopwatch.now();
        *self.awaited() = Some(Awaited { name, sent });
    }

    pub(super) async fn proven(&self) {
        self.proven.notified().await;
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
        match read(push) {
            Pushed::Names(names) => names.iter().for_each(|name| self.named(name)),
            Pushed::Everything => {
                self.beside.changed(Change::All);
                self.beside.behind.notify_one();
            }
            Pushed::Disconnected => self.lose(),
            Pushed::Foreign => {}
        }
    }

    fn named(&self, name: &[u8]) {
        if name.starts_with(&self.prefix) {
            self.beat(name);
        } else if let Some(change) = changed(name) {
            self.beside.changed(change);
        }
    }

    fn beat(&self, name: &[u8]) {
        let mut awaited = self.awaited();
        if let Some(beat) = awaited.take_if(|beat| beat.name == name) {
            self.part.prove(beat.sent);
            self.proven.notify_one();
        }
    }

    /// Nothing that was known by this connection is known any more.
    fn lose(&self) {
        if !self.is_broken.swap(true, Ordering::AcqRel) {
            self.part.withdraw();
            if let Some(cache) = &self.beside.cache {
                cache.clear(Cleared::Lost);
            }
            self.broken.notify_one();
        }
    }

    fn awaited(&self) -> MutexGuard<'_, Option<Awaited>> {
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) struct Lost(pub(super) Arc<Link>);

impl Drop for Lost {
    fn drop(&mut self) {
        self.0.lose();
    }
}

/// What a push says.
enum Pushed {
    Names(Vec<Vec<u8>>),
    /// The store was emptied; or a push that we cannot read, which might have been anything.
    Everything,
    Disconnected,
    /// Not about changes.
    Foreign,
}

#[allow(clippy::wildcard_enum_match_arm, reason = "not our enum, and it grows")]
fn read(push: PushInfo) -> Pushed {
    match push.kind {
        PushKind::Invalidate => names(push.data).map_or(Pushed::Everything, Pushed::Names),
        PushKind::Disconnection => Pushed::Disconnected,
        _ => Pushed::Foreign,
    }
}

/// The keys of one push; it may carry many. `None` is what a FLUSHALL sends.
fn names(data: Vec<Value>) -> Option<Vec<Vec<u8>>> {
    let [keys] = <[Value; 1]>::try_from(data).ok()?;
    if keys == Value::Nil {
        return None;
    }
    Vec::<Vec<u8>>::from_redis_value(keys).ok()
}
