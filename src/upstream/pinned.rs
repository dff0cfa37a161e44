//! Connections that an upstream has authenticated (NTLM, Kerberos), reserved for one session on one
//! client connection.
//!
//! Invariants:
//! - A connection on which credentials for the connection were sent never enters the pool.
//! - It serves only its owner: the session and the client connection of the request that opened it.
//! - It closes with the client connection, which owns it.

use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::session::SessionKey;

use super::balance::Affinity;
use super::http1_connection::Http1Connection;
use super::settings::Priority;

/// Maximum number of pinned connections per client connection, which needs one per upstream.
const MAX_PINNED: usize = 4;

/// The pinned connections of one client connection. Empty and without allocation for nearly all.
#[derive(Default)]
pub struct PinnedConnections(OnceLock<Arc<Pins>>);

/// Oldest first. Never locked across an await, and used by one worker.
type Pins = Mutex<Vec<PinnedConnection>>;

/// An idle authenticated connection.
struct PinnedConnection {
    connection: Box<Http1Connection>,
    session: Option<SessionKey>,
    /// Holds the pool's semaphore, by which the pool is recognised.
    permit: OwnedSemaphorePermit,
}

/// The only client that may use a connection after its authentication.
#[derive(Clone)]
pub struct ConnectionOwner {
    pins: Weak<Pins>,
    session: Option<SessionKey>,
}

/// The client of a request as the upstream connections see it.
pub struct Caller {
    pub priority: Priority,
    /// Owner of connections that this request authenticates. `None` closes them after use.
    pub owner: Option<ConnectionOwner>,
    /// `None` lets the request go to any endpoint.
    pub affinity: Option<Affinity>,
}

impl PinnedConnections {
    /// Whether a connection was ever pinned or is about to be.
    pub fn is_used(&self) -> bool {
        self.0.get().is_some()
    }

    /// Returns the owner for requests of `session` on this client connection.
    pub fn owner(&self, session: Option<SessionKey>) -> ConnectionOwner {
        ConnectionOwner { pins: Arc::downgrade(self.0.get_or_init(Arc::default)), session }
    }
}

impl ConnectionOwner {
    /// Removes the owner's connection of the pool with these permits.
    pub(super) fn take(&self, permits: &Arc<Semaphore>) -> Option<Box<Http1Connection>> {
        let pins = self.pins.upgrade()?;
        let mut pins = pins.lock();
        let at = pins.iter().rposition(|pinned| {
            pinned.session == self.session && Arc::ptr_eq(pinned.permit.semaphore(), permits)
        })?;
        Some(pins.remove(at).connection)
    }

    /// Keeps the connection for the owner. Closes it if the client has disconnected, or if the pool has no
    /// permit left.
    pub(super) fn keep(&self, connection: Box<Http1Connection>, permits: &Arc<Semaphore>) {
        let permit = Arc::clone(permits).try_acquire_owned().ok();
        let (Some(pins), Some(permit)) = (self.pins.upgrade(), permit) else { return };
        let session = self.session;
        let mut pins = pins.lock();
        pins.push(PinnedConnection { connection, session, permit });
        let surplus = pins.len().saturating_sub(MAX_PINNED);
        pins.drain(..surplus);
    }
}

impl From<Priority> for Caller {
    fn from(priority: Priority) -> Self {
        Caller { priority, owner: None, affinity: None }
    }
}

impl std::fmt::Debug for PinnedConnections {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PinnedConnections").field("used", &self.is_used()).finish_non_exhaustive()
    }
}
