//! The current primaries, and push connections to them.
//!
//! The list contains the nodes that receive writes: a single node, the master that sentinels
//! report, or all primaries of a cluster. It is empty until they are discovered. It changes
//! *before* a command goes to a new primary. Invalidation then closes its connections and opens new
//! ones. Slots that move between known primaries do not change the list.

use std::sync::Arc;

use ::redis::{PushInfo, RedisError};
use tokio::sync::watch;

use super::connection::RedisConnection;
use super::connector::Connector;
use super::errors::RedisUnavailable;
use super::node::RedisNode;

/// A node that accepts writes.
#[derive(Clone)]
pub(crate) struct Primary {
    connector: Arc<Connector>,
    node: Arc<RedisNode>,
}

impl Primary {
    /// Returns the address, for logs.
    pub(crate) fn address(&self) -> &str {
        &self.node.address
    }

    /// Opens a RESP3 connection. `on_push` gets every push in order of arrival, and a
    /// [`Disconnection`](::redis::PushKind::Disconnection) when the connection breaks. It must not
    /// block. Commands have no deadline of their own.
    pub(crate) async fn open_push(
        &self,
        on_push: impl Fn(PushInfo) + Send + Sync + 'static,
    ) -> Result<RedisConnection, RedisUnavailable> {
        let connected = self.connector.connect_push(&self.node.target, on_push).await;
        connected.map_err(|error| self.to_unavailable(&error))
    }

    /// Converts an error of a command.
    pub(crate) fn to_unavailable(&self, error: &RedisError) -> RedisUnavailable {
        self.connector.to_unavailable(&self.node.address, error)
    }
}

/// The list of primaries and its changes.
pub(crate) struct Primaries {
    connector: Arc<Connector>,
    nodes: watch::Receiver<Arc<[Arc<RedisNode>]>>,
}

impl Primaries {
    pub(super) fn new(
        connector: Arc<Connector>,
        nodes: watch::Receiver<Arc<[Arc<RedisNode>]>>,
    ) -> Primaries {
        Primaries { connector, nodes }
    }

    /// Returns the current list. Later changes wake [`Primaries::changed`].
    pub(crate) fn current(&mut self) -> Vec<Primary> {
        let nodes = Arc::clone(&self.nodes.borrow_and_update());
        let primary = |node: &Arc<RedisNode>| Primary {
            connector: Arc::clone(&self.connector),
            node: Arc::clone(node),
        };
        nodes.iter().map(primary).collect()
    }

    /// Waits for a change; possibly forever.
    pub(crate) async fn changed(&mut self) {
        if self.nodes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
