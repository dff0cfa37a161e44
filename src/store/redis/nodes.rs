//! Where the primaries are, and how to open a connection of one's own to each.
//!
//! What is promised: the list always names the servers that writes go to now, one for a single server
//! or a master that sentinels name, all of a cluster; it is empty until they are found. It changes
//! *before* a command goes to another one. Who follows changes drops its connections when it does, and
//! opens new ones. Slots that move between known primaries do not change it.

use std::sync::Arc;

use ::redis::{PushInfo, RedisError};
use tokio::sync::watch;

use super::connection::Connection;
use super::server::Server;
use super::{Redis, Shared};
use crate::store::Unavailable;

/// A server that takes writes.
#[derive(Clone)]
pub(in crate::store) struct Primary {
    shared: Arc<Shared>,
    server: Arc<Server>,
}

impl Primary {
    /// For logs.
    pub(in crate::store) fn address(&self) -> &str {
        &self.server.address
    }

    /// A new RESP3 connection. `on_push` gets every push in the order of arrival, and a
    /// [`Disconnection`](::redis::PushKind::Disconnection) when the connection breaks; it must not block.
    /// Commands on it have no deadline but their caller's.
    pub(in crate::store) async fn open_push(
        &self,
        on_push: impl Fn(PushInfo) + Send + Sync + 'static,
    ) -> Result<Connection, Unavailable> {
        let connected = self.shared.dialer.connect_push(&self.server.target, on_push).await;
        connected.map_err(|error| self.unavailable(&error))
    }

    /// What a failed command means to an operator.
    pub(in crate::store) fn unavailable(&self, error: &RedisError) -> Unavailable {
        self.shared.dialer.told(&self.server.address, error)
    }
}

/// The primaries, as they are and as they change.
pub(in crate::store) struct Primaries {
    shared: Arc<Shared>,
    servers: watch::Receiver<Arc<[Arc<Server>]>>,
}

impl Primaries {
    /// As they are now. What changes from here on wakes [`Primaries::changed`].
    pub(in crate::store) fn now(&mut self) -> Vec<Primary> {
        let servers = Arc::clone(&self.servers.borrow_and_update());
        let primary = |server: &Arc<Server>| Primary {
            shared: Arc::clone(&self.shared),
            server: Arc::clone(server),
        };
        servers.iter().map(primary).collect()
    }

    /// Until they are others; for ever if they never are.
    pub(in crate::store) async fn changed(&mut self) {
        if self.servers.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Redis {
    pub(in crate::store) fn primaries(&self) -> Primaries {
        Primaries { shared: Arc::clone(&self.shared), servers: self.shared.topology.primaries() }
    }
}
