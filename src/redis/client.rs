//! The client: executes each command until its reply or its deadline.
//!
//! Each attempt selects the node from the current topology. An error may change the topology
//! ([`ErrorAction`]), and the command follows it. Invariants:
//! - all attempts together have one deadline
//! - a worker has at most [`MAX_IN_FLIGHT`] commands in flight; one more fails at once
//! - a command that may have been applied is repeated only because every command is idempotent

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ::redis::{Cmd, ErrorKind, FromRedisValue, RedisError, ServerErrorKind, from_redis_value};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::breaker::CircuitOpen;
use super::connector::{self, Connector};
use super::errors::{ErrorAction, InvalidSettings, RedisUnavailable, action_for, parse_redirect};
use super::node::{NodeError, NodeReply, NodeRequest, RedisNode, ReplicaWait};
use super::pool::NodePool;
use super::primaries::Primaries;
use super::refresh;
use super::script::ScriptCall;
use super::settings::RedisSettings;
use super::slots::HashSlot;
use super::topology::Topology;
use super::topology_map::TopologyMap;
use crate::config::RedisUrl;

/// Maximum commands of one worker in flight.
const MAX_IN_FLIGHT: usize = 1_024;
/// Maximum attempts of one command. It matters only if nodes redirect in a cycle.
const MAX_ATTEMPTS: usize = 64;
/// Delay between attempts while a slot is migrating.
const MIGRATION_RETRY_DELAY: Duration = Duration::from_millis(15);

/// A handle with its own connections. Clones share them.
#[derive(Clone)]
pub(crate) struct RedisClient {
    shared: Arc<ClientState>,
    connections: Arc<WorkerConnections>,
}

/// State shared by all workers.
struct ClientState {
    /// Name of the servers, for errors.
    name: String,
    connector: Arc<Connector>,
    topology: Topology,
    wait: Option<ReplicaWait>,
    round_trips: AtomicU64,
    rejected: AtomicU64,
}

/// The connections of one worker.
struct WorkerConnections {
    in_flight: Semaphore,
    pools: Mutex<Pools>,
}

/// RedisConnection pools by node, keyed by the address of its `Arc`, which the pool keeps alive.
#[derive(Default)]
struct Pools {
    version: u64,
    by_node: HashMap<usize, Arc<NodePool>>,
}

impl Default for WorkerConnections {
    fn default() -> WorkerConnections {
        WorkerConnections { in_flight: Semaphore::new(MAX_IN_FLIGHT), pools: Mutex::default() }
    }
}

/// The destination of a command.
#[derive(Clone, Copy)]
pub(crate) enum CommandTarget<'a> {
    /// The owner of a slot.
    Slot(HashSlot),
    /// A specific node.
    Node(&'a Arc<RedisNode>),
}

/// A command or a script call.
#[derive(Clone, Copy)]
pub(crate) enum CommandRef<'a> {
    Command(&'a Cmd),
    Script(&'a ScriptCall<'a>),
}

impl CommandRef<'_> {
    fn to_command(self, sends_script_text: bool) -> Cmd {
        match self {
            CommandRef::Command(command) => command.clone(),
            CommandRef::Script(call) if sends_script_text => call.eval(),
            CommandRef::Script(call) => call.evalsha(),
        }
    }
}

/// Replicas that acknowledged a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Replication {
    pub(crate) requested: u32,
    pub(crate) acknowledged: u32,
}

/// Error of a command.
#[derive(Debug)]
pub(crate) enum CommandError {
    /// Some keys of the slot have moved and others have not.
    SlotMigrating,
    Unavailable(RedisUnavailable),
}

impl From<CommandError> for RedisUnavailable {
    fn from(error: CommandError) -> RedisUnavailable {
        match error {
            CommandError::SlotMigrating => {
                RedisUnavailable("Redis is moving these keys".to_owned())
            }
            CommandError::Unavailable(unavailable) => unavailable,
        }
    }
}

impl fmt::Debug for RedisClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redis({})", self.shared.name)
    }
}

impl RedisClient {
    /// Creates a client. The first command connects.
    ///
    /// # Errors
    /// If the URL or a certificate file is invalid.
    pub(crate) fn new(settings: &RedisSettings) -> Result<RedisClient, InvalidSettings> {
        let url = RedisUrl::parse(&settings.url).map_err(InvalidSettings)?;
        let connector = Arc::new(Connector::new(&url, settings)?);
        let wait = ReplicaWait { replicas: settings.wait_replicas, timeout: settings.wait_timeout };
        let shared = ClientState {
            name: connector::display_name(&url.servers),
            topology: Topology::new(url.servers, &connector),
            connector,
            wait: (wait.replicas > 0).then_some(wait),
            round_trips: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
        };
        Ok(RedisClient { shared: Arc::new(shared), connections: Arc::default() })
    }

    /// Returns a handle with its own connections.
    pub(crate) fn for_worker(&self) -> RedisClient {
        RedisClient { shared: Arc::clone(&self.shared), connections: Arc::default() }
    }

    pub(crate) fn round_trips(&self) -> u64 {
        self.shared.round_trips.load(Ordering::Relaxed)
    }

    /// Returns the commands rejected because too many were in flight.
    pub(crate) fn rejected(&self) -> u64 {
        self.shared.rejected.load(Ordering::Relaxed)
    }

    /// Returns the number of primaries with an open circuit.
    pub(crate) fn open_circuits(&self) -> usize {
        self.nodes().iter().filter(|node| node.breaker.is_open()).count()
    }

    /// Returns the current primaries; none before the first discovery.
    pub(crate) fn nodes(&self) -> Vec<Arc<RedisNode>> {
        self.shared.topology.map().primaries.clone()
    }

    /// Returns the primaries with their changes.
    pub(crate) fn primaries(&self) -> Primaries {
        let connector = Arc::clone(&self.shared.connector);
        Primaries::new(connector, self.shared.topology.primaries())
    }

    /// Reports whether the primary is configured and cannot change.
    pub(crate) fn is_fixed(&self) -> bool {
        self.shared.topology.is_fixed()
    }

    /// Refreshes the topology periodically. Never returns, except for a fixed topology.
    pub(crate) async fn run_topology_refresh(&self) {
        refresh::run(&self.shared.topology, &self.shared.connector).await;
    }

    /// Sends a command and parses its reply.
    pub(crate) async fn query<T: FromRedisValue>(
        &self,
        target: CommandTarget<'_>,
        command: CommandRef<'_>,
    ) -> Result<T, RedisUnavailable> {
        let reply = self.execute(PendingCommand::new(target, command)).await?;
        self.parse_reply(reply)
    }

    /// As [`RedisClient::query`], but fails at once if the slot is migrating.
    pub(crate) async fn query_unless_migrating<T: FromRedisValue>(
        &self,
        target: CommandTarget<'_>,
        command: CommandRef<'_>,
    ) -> Result<T, CommandError> {
        let pending =
            PendingCommand { waits_for_migration: false, ..PendingCommand::new(target, command) };
        let reply = self.execute(pending).await?;
        self.parse_reply(reply).map_err(CommandError::Unavailable)
    }

    /// Sends a write. Returns the replicas that acknowledged it, if any were requested.
    pub(crate) async fn write_replicated<T: FromRedisValue>(
        &self,
        target: CommandTarget<'_>,
        command: CommandRef<'_>,
    ) -> Result<(T, Option<Replication>), RedisUnavailable> {
        let wait = self.shared.wait;
        let pending = PendingCommand { wait, ..PendingCommand::new(target, command) };
        let reply = self.execute(pending).await?;
        let acknowledged = reply.replicas.unwrap_or(0);
        let replication = wait.map(|wait| Replication { requested: wait.replicas, acknowledged });
        Ok((self.parse_reply(reply)?, replication))
    }

    fn parse_reply<T: FromRedisValue>(&self, reply: NodeReply) -> Result<T, RedisUnavailable> {
        from_redis_value(reply.value).map_err(|error| self.unexpected_reply(&error.to_string()))
    }

    async fn execute(&self, mut pending: PendingCommand<'_>) -> Result<NodeReply, CommandError> {
        let Ok(_permit) = self.connections.in_flight.try_acquire() else {
            self.shared.rejected.fetch_add(1, Ordering::Relaxed);
            return Err(CommandError::Unavailable(RedisUnavailable(format!(
                "{MAX_IN_FLIGHT} commands of this worker are already in flight to Redis at {}",
                self.shared.name
            ))));
        };
        let limit = self.deadline(&pending);
        match tokio::time::timeout(limit, self.run_attempts(&mut pending)).await {
            Ok(reply) => reply,
            Err(_) => {
                let timeout = || self.shared.connector.timeout_error(&self.shared.name, limit);
                Err(CommandError::Unavailable(pending.migration_error.unwrap_or_else(timeout)))
            }
        }
    }

    fn deadline(&self, pending: &PendingCommand<'_>) -> Duration {
        let connector = &self.shared.connector;
        let wait = pending.wait.map_or(Duration::ZERO, |wait| wait.timeout);
        connector.connect_timeout().saturating_add(connector.response_timeout).saturating_add(wait)
    }

    /// Returns the total deadline of dependent commands: one connection attempt, `replies` slow
    /// replies, and `waits` waits for replicas.
    pub(crate) fn total_deadline(&self, replies: u32, waits: u32) -> Duration {
        let connector = &self.shared.connector;
        let wait = self.shared.wait.map_or(Duration::ZERO, |wait| wait.timeout);
        let replies = connector.response_timeout.saturating_mul(replies);
        connector
            .connect_timeout()
            .saturating_add(replies)
            .saturating_add(wait.saturating_mul(waits))
    }

    /// Returns an error for a reply with foreign content.
    pub(crate) fn unexpected_reply(&self, detail: &str) -> RedisUnavailable {
        RedisUnavailable(format!(
            "Redis at {} sent an unexpected reply: {detail}",
            self.shared.name
        ))
    }

    /// Removes secrets from a text.
    #[cfg(test)]
    pub(crate) fn redact(&self, text: String) -> String {
        self.shared.connector.redact(text)
    }

    async fn run_attempts(
        &self,
        pending: &mut PendingCommand<'_>,
    ) -> Result<NodeReply, CommandError> {
        let mut last = None;
        while pending.attempts < MAX_ATTEMPTS {
            pending.attempts += 1;
            let map = self.shared.topology.map();
            let node = match self.select_node(&map, pending) {
                Some(node) => node,
                None => {
                    self.refresh_topology(&map, None).await?;
                    continue;
                }
            };
            let failure = match self.send(&map, &node, pending).await {
                Ok(reply) => return Ok(reply),
                Err(failure) => failure,
            };
            pending.ask_redirect = None;
            match failure {
                NodeError::CircuitOpen(open) => self.failover(&map, &node, &open).await?,
                NodeError::Redis(error) => {
                    self.handle_error(&map, &node, pending, &error).await?;
                    last = Some((node, error));
                }
            }
        }
        let error = last.map(|(node, error)| self.to_unavailable(&node, &error));
        Err(CommandError::Unavailable(
            error.unwrap_or_else(|| self.unexpected_reply("a redirect cycle")),
        ))
    }

    fn select_node(
        &self,
        map: &TopologyMap,
        pending: &mut PendingCommand<'_>,
    ) -> Option<Arc<RedisNode>> {
        match (&pending.ask_redirect, pending.target) {
            (Some(node), _) => Some(Arc::clone(node)),
            (None, CommandTarget::Node(node)) => Some(Arc::clone(node)),
            (None, CommandTarget::Slot(slot)) => map.owner(slot).map(Arc::clone),
        }
    }

    async fn send(
        &self,
        map: &TopologyMap,
        node: &Arc<RedisNode>,
        pending: &PendingCommand<'_>,
    ) -> Result<NodeReply, NodeError> {
        let command = pending.command.to_command(pending.sends_script_text);
        let sent = NodeRequest {
            command: &command,
            asking: pending.ask_redirect.is_some(),
            wait: pending.wait,
            round_trips: &self.shared.round_trips,
        };
        let pool = self.pool(map, node);
        pool.send(&self.shared.connector, sent).await
    }

    /// Prepares the next attempt, or returns the final error.
    async fn handle_error(
        &self,
        map: &TopologyMap,
        node: &RedisNode,
        pending: &mut PendingCommand<'_>,
        error: &RedisError,
    ) -> Result<(), CommandError> {
        let failed = || CommandError::Unavailable(self.to_unavailable(node, error));
        if matches!(error.kind(), ErrorKind::Server(ServerErrorKind::NoScript)) {
            let is_new = !std::mem::replace(&mut pending.sends_script_text, true);
            return if is_new { Ok(()) } else { Err(failed()) };
        }
        let (topology, connector) = (&self.shared.topology, &self.shared.connector);
        let host = parse_redirect(&node.address, "").map(|at| at.host).unwrap_or_default();
        match (action_for(error, &host), pending.target) {
            (ErrorAction::Moved(at), CommandTarget::Slot(slot)) if topology.is_cluster() => {
                topology.apply_moved(connector, slot, &at);
            }
            (ErrorAction::Ask(at), CommandTarget::Slot(_)) if topology.is_cluster() => {
                pending.ask_redirect = Some(topology.importing_node(connector, &at));
            }
            (ErrorAction::Wait, _) if !pending.waits_for_migration => {
                return Err(CommandError::SlotMigrating);
            }
            (ErrorAction::Wait, _) => {
                pending.migration_error = Some(self.to_unavailable(node, error));
                tokio::time::sleep(MIGRATION_RETRY_DELAY).await;
                // This is no redirect cycle. The deadline limits it.
                pending.attempts = 0;
            }
            (ErrorAction::Retry, _) if !std::mem::replace(&mut pending.was_disconnected, true) => {}
            (ErrorAction::RefreshTopology | ErrorAction::Retry, CommandTarget::Slot(_)) => {
                self.refresh_topology(map, Some(failed())).await?;
            }
            (
                ErrorAction::Moved(_)
                | ErrorAction::Ask(_)
                | ErrorAction::RefreshTopology
                | ErrorAction::Retry,
                _,
            )
            | (ErrorAction::Fail, _) => return Err(failed()),
        }
        Ok(())
    }

    /// Refreshes the topology. Returns an error unless it changed.
    async fn refresh_topology(
        &self,
        map: &TopologyMap,
        failed: Option<CommandError>,
    ) -> Result<(), CommandError> {
        match (self.shared.topology.refresh(&self.shared.connector, map.version).await, failed) {
            (Ok(true), _) => Ok(()),
            (_, Some(failed)) => Err(failed),
            (Ok(false), None) => Err(CommandError::Unavailable(RedisUnavailable(format!(
                "Redis at {} has no primary for these keys; check CLUSTER INFO",
                self.shared.name
            )))),
            (Err(error), None) => Err(CommandError::Unavailable(error)),
        }
    }

    /// Handles an open circuit: one caller checks for a failover.
    async fn failover(
        &self,
        map: &TopologyMap,
        node: &RedisNode,
        open: &CircuitOpen,
    ) -> Result<(), CommandError> {
        let topology = &self.shared.topology;
        if topology.try_refresh(&self.shared.connector, map.version).await {
            return Ok(());
        }
        Err(CommandError::Unavailable(RedisUnavailable(format!(
            "{} (circuit open: {})",
            open.cause, node.address
        ))))
    }

    fn to_unavailable(&self, node: &RedisNode, error: &RedisError) -> RedisUnavailable {
        self.shared.connector.to_unavailable(&node.address, error)
    }

    /// Returns the worker's connections to a node.
    fn pool(&self, map: &TopologyMap, node: &Arc<RedisNode>) -> Arc<NodePool> {
        let mut pools = self.connections.pools.lock();
        if pools.version < map.version {
            pools.version = map.version;
            let stays =
                |pool: &NodePool| map.primaries.iter().any(|node| Arc::ptr_eq(node, pool.node()));
            pools.by_node.retain(|_, pool| stays(pool));
        }
        let entry = pools.by_node.entry(Arc::as_ptr(node).addr());
        let new = || Arc::new(NodePool::new(Arc::clone(node), self.shared.connector.timeouts()));
        Arc::clone(entry.or_insert_with(new))
    }
}

/// A command in execution.
struct PendingCommand<'a> {
    target: CommandTarget<'a>,
    command: CommandRef<'a>,
    wait: Option<ReplicaWait>,
    /// Whether to wait for a migrating slot.
    waits_for_migration: bool,
    /// The importing node for the next attempt.
    ask_redirect: Option<Arc<RedisNode>>,
    sends_script_text: bool,
    /// Whether a connection already broke during this command.
    was_disconnected: bool,
    /// Attempts since the last wait.
    attempts: usize,
    /// The reason of the last wait, reported after the deadline.
    migration_error: Option<RedisUnavailable>,
}

impl<'a> PendingCommand<'a> {
    fn new(target: CommandTarget<'a>, command: CommandRef<'a>) -> PendingCommand<'a> {
        PendingCommand {
            target,
            command,
            wait: None,
            waits_for_migration: true,
            ask_redirect: None,
            sends_script_text: false,
            was_disconnected: false,
            attempts: 0,
            migration_error: None,
        }
    }
}
