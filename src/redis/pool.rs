//! A worker's connections to one node.
//!
//! A write that waits for replicas blocks later commands on its connection. Such writes therefore
//! use separate connections, one at a time each. A write that finds no free connection within the
//! replica timeout is sent without a wait. With missing replicas, a burst of logins thus costs each
//! login that timeout once, and the queue does not look like an unresponsive node.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::connector::{Connector, RedisTimeouts};
use super::node::{NodeConnection, NodeError, NodeReply, NodeRequest, RedisNode, ReplicaWait};

/// Maximum writes of one worker that wait for the replicas of one node.
const MAX_WAITING_WRITES: usize = 4;

/// Minimum wait. Redis waits without limit for zero.
const MIN_REPLICA_WAIT: Duration = Duration::from_millis(1);

/// The shared connection, and the connections for writes that wait for replicas.
pub(super) struct NodePool {
    shared: NodeConnection,
    permits: Semaphore,
    /// Idle connections for waiting writes.
    idle: Mutex<Vec<NodeConnection>>,
    timeouts: RedisTimeouts,
}

impl NodePool {
    pub(super) fn new(node: Arc<RedisNode>, timeouts: RedisTimeouts) -> NodePool {
        let shared = NodeConnection::new(node, timeouts);
        NodePool {
            shared,
            permits: Semaphore::new(MAX_WAITING_WRITES),
            idle: Mutex::default(),
            timeouts,
        }
    }

    pub(super) fn node(&self) -> &Arc<RedisNode> {
        &self.shared.node
    }

    /// Sends once. The wait for a connection and the wait for replicas share one timeout.
    pub(super) async fn send(
        &self,
        connector: &Arc<Connector>,
        sent: NodeRequest<'_>,
    ) -> Result<NodeReply, NodeError> {
        let Some(wait) = sent.wait else {
            return self.shared.send(connector, sent).await;
        };
        let deadline = Instant::now() + wait.timeout;
        let Ok(Ok(pooled)) = tokio::time::timeout_at(deadline, self.checkout(wait)).await else {
            return self.shared.send(connector, NodeRequest { wait: None, ..sent }).await;
        };
        let left = deadline.saturating_duration_since(Instant::now()).max(MIN_REPLICA_WAIT);
        let wait = Some(ReplicaWait { timeout: left, ..wait });
        let reply = pooled.connection.send(connector, NodeRequest { wait, ..sent }).await;
        self.idle.lock().push(pooled.connection);
        reply
    }

    /// Returns a connection for a waiting write. The caller returns it after the reply. If the
    /// caller is cancelled, it is dropped, because the node may still wait for replicas.
    async fn checkout(
        &self,
        wait: ReplicaWait,
    ) -> Result<WaitingConnection<'_>, tokio::sync::AcquireError> {
        let permit = self.permits.acquire().await?;
        let idle = self.idle.lock().pop();
        let connection = idle.unwrap_or_else(|| {
            let mut timeouts = self.timeouts;
            timeouts.response = timeouts.response.saturating_add(wait.timeout);
            NodeConnection::new(Arc::clone(self.node()), timeouts)
        });
        Ok(WaitingConnection { connection, _permit: permit })
    }
}

struct WaitingConnection<'a> {
    connection: NodeConnection,
    _permit: SemaphorePermit<'a>,
}
