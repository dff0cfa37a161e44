//! A node, and a worker's connection to it.
//!
//! All workers share a [`RedisNode`] with its circuit breaker. A [`NodeConnection`] belongs to one
//! worker. It connects at the first command and after a failure, with one attempt at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{fmt, io};

use ::redis::{
    Cmd, ErrorKind, Pipeline, RedisError, RedisResult, ServerErrorKind, Value, cmd, pipe,
};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::breaker::{CircuitBreaker, CircuitOpen};
use super::connection::{ConnectTarget, RedisConnection};
use super::connector::{Connector, RedisTimeouts};
use super::errors::{is_timeout_error, must_reconnect};

/// A server that stores data.
pub(crate) struct RedisNode {
    pub(crate) address: String,
    pub(super) target: ConnectTarget,
    pub(super) breaker: CircuitBreaker,
    /// Whether sentinels chose the node. Each new connection then checks its role, because a
    /// demoted master closes connections and a replica would return stale data.
    verifies_role: bool,
}

impl RedisNode {
    pub(super) fn new(
        address: String,
        target: ConnectTarget,
        verifies_role: bool,
    ) -> Arc<RedisNode> {
        Arc::new(RedisNode { address, target, breaker: CircuitBreaker::default(), verifies_role })
    }
}

impl fmt::Debug for RedisNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
}

/// Number of replicas to wait for, and the timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReplicaWait {
    pub(super) replicas: u32,
    pub(super) timeout: Duration,
}

/// One command and its options.
#[derive(Clone, Copy)]
pub(super) struct NodeRequest<'a> {
    pub(super) command: &'a Cmd,
    /// Whether to send ASKING first, for a node that is importing the slot.
    pub(super) asking: bool,
    pub(super) wait: Option<ReplicaWait>,
    /// Counter of sent commands.
    pub(super) round_trips: &'a AtomicU64,
}

/// The reply.
#[derive(Debug)]
pub(super) struct NodeReply {
    pub(super) value: Value,
    /// Replicas that acknowledged the write, if requested.
    pub(super) replicas: Option<u32>,
}

/// Error of one attempt.
#[derive(Debug)]
pub(super) enum NodeError {
    Redis(RedisError),
    /// The circuit breaker is open.
    CircuitOpen(CircuitOpen),
}

/// One connection of one worker.
pub(super) struct NodeConnection {
    pub(super) node: Arc<RedisNode>,
    state: Arc<Mutex<ConnectionState>>,
    /// The connection attempt in progress, which all callers share.
    pending: Arc<Mutex<Option<PendingConnect>>>,
    timeouts: RedisTimeouts,
}

/// The connection, its number, and the breaker's open count at its creation.
#[derive(Default)]
struct ConnectionState {
    connection: Option<RedisConnection>,
    id: u64,
    open_count: u64,
    /// Timeouts in a row.
    consecutive_timeouts: u32,
}

/// A connection with its number, or the error.
type ConnectResult = RedisResult<(RedisConnection, u64)>;

/// A connection attempt and the number of its waiters.
#[derive(Clone)]
struct PendingConnect {
    result: watch::Receiver<Option<ConnectResult>>,
    waiters: Arc<AtomicU32>,
}

/// Timeouts in a row after which the connection is replaced. Behind a proxy, its server may be
/// gone.
const MAX_CONSECUTIVE_TIMEOUTS: u32 = 2;

impl NodeConnection {
    pub(super) fn new(node: Arc<RedisNode>, timeouts: RedisTimeouts) -> NodeConnection {
        NodeConnection { node, state: Arc::default(), pending: Arc::default(), timeouts }
    }

    /// Sends once. If the caller is dropped, its reply is read and discarded.
    pub(super) async fn send(
        &self,
        connector: &Arc<Connector>,
        sent: NodeRequest<'_>,
    ) -> Result<NodeReply, NodeError> {
        let permit = self.node.breaker.admit(Instant::now()).map_err(NodeError::CircuitOpen)?;
        let (reply, id) = match self.connection(connector).await {
            Ok((mut connection, id)) => (send_request(&mut connection, sent).await, Some(id)),
            Err(error) => (Err(error), None),
        };
        let describe = |error: &RedisError| connector.to_unavailable(&self.node.address, error).0;
        match &reply {
            Err(error) if id.is_none() && error.is_io_error() => {
                permit.connect_failed(|| describe(error), Instant::now());
            }
            Err(error) if is_timeout_error(error) => {
                permit.timed_out(|| describe(error), Instant::now())
            }
            // A broken connection is inconclusive; the next attempt decides.
            Err(error) if !error.is_io_error() => permit.succeeded(),
            Err(_) => {}
            Ok(_) => permit.succeeded(),
        }
        if let Some(id) = id {
            self.update_state(id, &reply);
        }
        reply.map_err(NodeError::Redis)
    }

    async fn connection(&self, connector: &Arc<Connector>) -> ConnectResult {
        if let Some(state) = self.current() {
            return Ok(state);
        }
        let mut pending = self.join_connect(connector);
        match pending.result.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(result)) => result.clone(),
            Ok(None) | Err(_) => Err(io::Error::from(io::ErrorKind::BrokenPipe).into()),
        }
    }

    /// Joins the attempt in progress or starts one. It is a task of its own with its own deadline:
    /// callers may be cancelled before the failure is certain, and the breaker must count it.
    fn join_connect(&self, connector: &Arc<Connector>) -> PendingConnect {
        let mut current = self.pending.lock();
        if let Some(pending) = current.as_ref().filter(|pending| pending.is_under_way()) {
            pending.waiters.fetch_add(1, Ordering::AcqRel);
            return pending.clone();
        }
        let (reply, result) = watch::channel(None);
        let pending = PendingConnect { result, waiters: Arc::new(AtomicU32::new(1)) };
        let task = ConnectTask {
            node: Arc::clone(&self.node),
            state: Arc::clone(&self.state),
            pending: Arc::clone(&self.pending),
            timeouts: self.timeouts,
        };
        tokio::spawn(task.run(Arc::clone(connector), Arc::clone(&pending.waiters), reply));
        *current = Some(pending.clone());
        pending
    }

    /// Returns the connection unless the breaker opened after its creation. Its peer may be gone
    /// without a notice.
    fn current(&self) -> Option<(RedisConnection, u64)> {
        let state = self.state.lock();
        let connection = state.connection.as_ref()?;
        (state.open_count == self.node.breaker.open_count()).then(|| (connection.clone(), state.id))
    }

    /// Keeps or drops the connection, unless it was already replaced.
    fn update_state(&self, id: u64, reply: &RedisResult<NodeReply>) {
        let mut state = self.state.lock();
        if state.id != id {
            return;
        }
        match reply {
            Err(error) if is_timeout_error(error) => {
                state.consecutive_timeouts = state.consecutive_timeouts.saturating_add(1)
            }
            Ok(_) | Err(_) => state.consecutive_timeouts = 0,
        }
        if state.consecutive_timeouts >= MAX_CONSECUTIVE_TIMEOUTS
            || reply.as_ref().is_err_and(must_reconnect)
        {
            state.connection = None;
        }
    }
}

impl PendingConnect {
    /// Returns `false` also if the task panicked or its runtime ended.
    fn is_under_way(&self) -> bool {
        self.result.borrow().is_none() && self.result.has_changed().is_ok()
    }
}

/// A connection attempt.
struct ConnectTask {
    node: Arc<RedisNode>,
    state: Arc<Mutex<ConnectionState>>,
    pending: Arc<Mutex<Option<PendingConnect>>>,
    timeouts: RedisTimeouts,
}

impl ConnectTask {
    async fn run(
        self,
        connector: Arc<Connector>,
        waiters: Arc<AtomicU32>,
        reply: watch::Sender<Option<ConnectResult>>,
    ) {
        let result = self.connect().await;
        // From here on, callers find the connection or start a new attempt.
        *self.pending.lock() = None;
        if let Err(error) = &result
            && error.is_io_error()
        {
            let describe = || connector.to_unavailable(&self.node.address, error).0;
            let waiters = waiters.load(Ordering::Acquire);
            self.node.breaker.record_connect_failures(waiters, describe, Instant::now());
        }
        reply.send_replace(Some(result));
    }

    async fn connect(&self) -> ConnectResult {
        let open_count = self.node.breaker.open_count();
        let mut connection = self.timeouts.connect(&self.node.target).await?;
        if self.node.verifies_role {
            verify_master(&mut connection).await?;
        }
        let mut state = self.state.lock();
        let id = state.id.wrapping_add(1);
        *state = ConnectionState {
            connection: Some(connection.clone()),
            id,
            open_count,
            consecutive_timeouts: 0,
        };
        Ok((connection, id))
    }
}

/// # Errors
/// READONLY, as a write to a replica would return.
pub(super) async fn verify_master(connection: &mut RedisConnection) -> RedisResult<()> {
    let role: Vec<Value> = cmd("ROLE").query_async(connection).await?;
    match role.first() {
        Some(Value::BulkString(role)) if role == b"master" => Ok(()),
        Some(_) | None => Err((
            ErrorKind::Server(ServerErrorKind::ReadOnly),
            "ROLE reports that it is not a master",
        ))?,
    }
}

async fn send_request(
    connection: &mut RedisConnection,
    sent: NodeRequest<'_>,
) -> RedisResult<NodeReply> {
    sent.round_trips.fetch_add(1, Ordering::Relaxed);
    if !sent.asking && sent.wait.is_none() {
        let value = sent.command.query_async(connection).await?;
        return Ok(NodeReply { value, replicas: None });
    }
    let (pipeline, count) = to_pipeline(sent);
    let mut values = connection.send_pipeline(&pipeline, count).await?.into_iter();
    if sent.asking {
        values.next();
    }
    let value = values.next().unwrap_or(Value::Nil).extract_error()?;
    Ok(NodeReply { value, replicas: sent.wait.map(|_| acknowledged_replicas(values.next())) })
}

/// Sends all parts as one, so that no other command comes between.
fn to_pipeline(sent: NodeRequest<'_>) -> (Pipeline, usize) {
    let mut pipeline = pipe();
    let mut count = 1;
    if sent.asking {
        pipeline.add_command(cmd("ASKING"));
        count += 1;
    }
    pipeline.add_command(sent.command.clone());
    if let Some(wait) = sent.wait {
        let timeout = u64::try_from(wait.timeout.as_millis()).unwrap_or(u64::MAX);
        pipeline.cmd("WAIT").arg(wait.replicas).arg(timeout);
        count += 1;
    }
    (pipeline, count)
}

/// Returns zero if the reply is not a number.
fn acknowledged_replicas(value: Option<Value>) -> u32 {
    match value {
        Some(Value::Int(replicas)) => u32::try_from(replicas).unwrap_or(0),
        Some(_) | None => 0,
    }
}
