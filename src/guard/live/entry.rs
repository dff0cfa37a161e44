//! What the register holds of one session.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock::UnixMillis;
use crate::session::{Record, RoutePolicy};

use super::pulse::{Looked, Pulse};
use super::{Sight, Signal};

/// One session with live connections.
pub(super) struct Entry {
    pub(super) record: Arc<Record>,
    pub(super) touched: UnixMillis,
    /// When the store was asked about it, and vouched for it.
    pub(super) checked: Instant,
    /// The same, for its connections.
    pub(super) looked: Looked,
    /// When something was heard of it: to be looked at soon.
    pub(super) doubted: Option<Instant>,
    pub(super) connections: Vec<Connection>,
}

pub(super) struct Connection {
    pub(super) number: u64,
    pub(super) signal: Arc<Signal>,
    pub(super) policy: RoutePolicy,
    pub(super) too_old: Option<Instant>,
}

impl Entry {
    pub(super) fn of(sight: &Sight, pulse: &Pulse) -> Entry {
        let looked = Looked::default();
        pulse.looked(&looked, sight.checked);
        Entry {
            record: Arc::clone(&sight.record),
            touched: sight.touched,
            checked: sight.checked,
            looked,
            doubted: None,
            connections: Vec::new(),
        }
    }

    /// To be looked at soon; whether that is new.
    pub(super) fn doubt(&mut self) -> bool {
        self.doubted.replace(Instant::now()).is_none()
    }

    /// The store vouched for what it was asked at `asked`. Only what is asked after a doubt settles it:
    /// an answer may be older than what was heard, and have waited here as long as this process did.
    pub(super) fn vouched(&mut self, record: &Arc<Record>, touched: UnixMillis, asked: Instant) {
        self.record = Arc::clone(record);
        self.touched = self.touched.max(touched);
        self.checked = self.checked.max(asked);
        self.doubted = self.doubted.filter(|doubted| *doubted >= asked);
    }

    pub(super) fn active(&self) -> UnixMillis {
        self.record.active.max(self.touched)
    }

    /// Whether something of it may be over, as far as this gateway knows.
    pub(super) fn is_due(&self, now: UnixMillis, idle: Duration) -> bool {
        let active = self.active();
        let by_route = |connection| self.route_end(connection, active) <= now;
        active.plus(idle) <= now || self.connections.iter().any(by_route)
    }

    /// `max_auth_age` is asked when a connection opens and not again: it is about what begins.
    pub(super) fn route_end(&self, connection: &Connection, active: UnixMillis) -> UnixMillis {
        let never = UnixMillis(u64::MAX);
        let RoutePolicy { idle, absolute, max_auth_age: _, signals: _ } = connection.policy;
        let idle = idle.map_or(never, |idle| active.plus(idle));
        absolute.map_or(idle, |absolute| self.record.created.plus(absolute).min(idle))
    }
}
