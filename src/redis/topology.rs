//! The topology: which node serves a command.
//!
//! ```text
//! map      the primaries, and on a cluster the owner of each slot; replaced as a whole, read without a lock
//! refresh  queries sentinels or cluster nodes for a newer map; one at a time per process
//! MOVED    corrects one slot at once, before the command follows it
//! ```
//!
//! Invariants: a map contains only primaries, as far as known. A map is never replaced by one with
//! an older epoch, unless a majority reports it. Subscribers get a new primary before any command
//! goes to it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::connector::Connector;
use super::errors::RedisUnavailable;
use super::node::RedisNode;
use super::slots::{HashSlot, SLOT_COUNT};
use super::topology_map::{DiscoveredTopology, TopologyMap, UNASSIGNED};
use super::{cluster, sentinel};
use crate::config::{HostPort, RedisServers};

/// Minimum interval of refreshes caused by errors.
const MIN_REFRESH_INTERVAL: Duration = Duration::from_millis(250);

pub(super) struct Topology {
    servers: RedisServers,
    map: ArcSwap<TopologyMap>,
    primaries: watch::Sender<Arc<[Arc<RedisNode>]>>,
    /// Nodes by address, so that a node keeps its circuit breaker across maps.
    nodes: Mutex<HashMap<String, Arc<RedisNode>>>,
    last_refresh: tokio::sync::Mutex<LastRefresh>,
}

/// The last refresh: its time and its error.
#[derive(Default)]
struct LastRefresh {
    at: Option<Instant>,
    error: Option<RedisUnavailable>,
}

impl Topology {
    pub(super) fn new(servers: RedisServers, connector: &Connector) -> Topology {
        let only = match &servers {
            RedisServers::One(at) => Some((at.to_string(), connector.target(at))),
            RedisServers::Unix(path) => Some((path.display().to_string(), connector.unix(path))),
            RedisServers::Sentinel { .. } | RedisServers::Cluster(_) => None,
        };
        let mut map = TopologyMap::default();
        if let Some((address, target)) = only {
            map.primaries.push(RedisNode::new(address, target, false));
        }
        Topology {
            servers,
            primaries: watch::Sender::new(Arc::from(map.primaries.as_slice())),
            map: ArcSwap::from_pointee(map),
            nodes: Mutex::default(),
            last_refresh: tokio::sync::Mutex::default(),
        }
    }

    pub(super) fn map(&self) -> Arc<TopologyMap> {
        self.map.load_full()
    }

    pub(super) fn primaries(&self) -> watch::Receiver<Arc<[Arc<RedisNode>]>> {
        self.primaries.subscribe()
    }

    pub(super) fn is_cluster(&self) -> bool {
        matches!(self.servers, RedisServers::Cluster(_))
    }

    /// Reports whether the primary is configured and cannot change.
    pub(super) fn is_fixed(&self) -> bool {
        matches!(self.servers, RedisServers::One(_) | RedisServers::Unix(_))
    }

    /// Refreshes the topology unless it changed since version `since` or a refresh just ran. Returns
    /// whether it changed.
    pub(super) async fn refresh(
        &self,
        connector: &Connector,
        since: u64,
    ) -> Result<bool, RedisUnavailable> {
        if self.is_fixed() {
            return Ok(false);
        }
        let mut last = self.last_refresh.lock().await;
        if self.map.load().version != since {
            return Ok(true);
        }
        if last.at.is_none_or(|at| at.elapsed() > MIN_REFRESH_INTERVAL) {
            self.discover(connector, &mut last).await;
        }
        let is_newer = self.map.load().version != since;
        match &last.error {
            Some(error) if !is_newer => Err(error.clone()),
            Some(_) | None => Ok(is_newer),
        }
    }

    /// As [`Topology::refresh`], but returns at once if a refresh is in progress.
    pub(super) async fn try_refresh(&self, connector: &Connector, since: u64) -> bool {
        if self.is_fixed() || self.last_refresh.try_lock().is_err() {
            return false;
        }
        self.refresh(connector, since).await.unwrap_or(false)
    }

    /// Refreshes unconditionally: sentinels may report another master while the old a still
    /// responds.
    pub(super) async fn refresh_now(&self, connector: &Connector) -> Result<(), RedisUnavailable> {
        if self.is_fixed() {
            return Ok(());
        }
        let mut last = self.last_refresh.lock().await;
        self.discover(connector, &mut last).await;
        last.error.clone().map_or(Ok(()), Err)
    }

    async fn discover(&self, connector: &Connector, last: &mut LastRefresh) {
        let found = match &self.servers {
            RedisServers::One(_) | RedisServers::Unix(_) => return,
            RedisServers::Sentinel { sentinels, master } => {
                sentinel::discover(connector, sentinels, master, &self.map()).await
            }
            RedisServers::Cluster(seeds) => cluster::discover(connector, seeds, &self.map()).await,
        };
        last.error = found.map(|found| self.install(connector, found)).err();
        last.at = Some(Instant::now());
    }

    /// Installs a discovered map, unless it is older.
    fn install(&self, connector: &Connector, found: DiscoveredTopology) {
        let current = self.map();
        if found.epoch < current.epoch && !found.has_quorum {
            return;
        }
        let mut primaries = Vec::with_capacity(found.primaries.len());
        for at in &found.primaries {
            primaries.push(self.node(connector, at));
        }
        let mut owners = Vec::new();
        if self.is_cluster() {
            owners = vec![UNASSIGNED; SLOT_COUNT];
            for (first, last, owner) in found.ranges {
                if let Some(range) = owners.get_mut(usize::from(first)..=usize::from(last)) {
                    range.fill(owner);
                }
            }
        }
        let names = Arc::new(found.names);
        self.replace(TopologyMap { version: 0, epoch: found.epoch, primaries, owners, names });
    }

    /// Applies a MOVED redirect.
    pub(super) fn apply_moved(&self, connector: &Connector, slot: HashSlot, at: &HostPort) {
        let current = self.map();
        let node = self.node(connector, current.announced_name(at));
        let mut primaries = current.primaries.clone();
        let index = index_or_insert(&mut primaries, &node);
        let mut owners = current.owners.clone();
        if let Some(owner) = owners.get_mut(usize::from(slot.0)) {
            *owner = index;
        }
        let names = Arc::clone(&current.names);
        self.replace(TopologyMap { version: 0, epoch: current.epoch, primaries, owners, names });
    }

    /// Returns the node of an ASK redirect.
    pub(super) fn importing_node(&self, connector: &Connector, at: &HostPort) -> Arc<RedisNode> {
        let current = self.map();
        let node = self.node(connector, current.announced_name(at));
        let mut primaries = current.primaries.clone();
        index_or_insert(&mut primaries, &node);
        self.replace(TopologyMap {
            version: 0,
            epoch: current.epoch,
            primaries,
            owners: current.owners.clone(),
            names: Arc::clone(&current.names),
        });
        node
    }

    /// Publishes new primaries before a command can use them.
    fn replace(&self, mut map: TopologyMap) {
        let mut nodes = self.nodes.lock();
        let before = self.map.load();
        if before.is_equivalent(&map) {
            return;
        }
        map.version = before.version.wrapping_add(1);
        let primaries: Arc<[Arc<RedisNode>]> = Arc::from(map.primaries.as_slice());
        self.primaries.send_if_modified(|current| {
            let is_new = !same_nodes(current, &primaries);
            if is_new {
                *current = primaries;
            }
            is_new
        });
        nodes.retain(|address, _| map.primaries.iter().any(|other| other.address == *address));
        self.map.store(Arc::new(map));
    }

    fn node(&self, connector: &Connector, at: &HostPort) -> Arc<RedisNode> {
        let address = at.to_string();
        let mut nodes = self.nodes.lock();
        if let Some(node) = nodes.get(&address) {
            return Arc::clone(node);
        }
        let node =
            RedisNode::new(address.clone(), connector.target(at), self.servers.is_sentinel());
        nodes.insert(address, Arc::clone(&node));
        node
    }
}

/// Returns the index of `node`, and appends it if missing.
fn index_or_insert(primaries: &mut Vec<Arc<RedisNode>>, node: &Arc<RedisNode>) -> u16 {
    let at = primaries.iter().position(|other| other.address == node.address);
    let at = at.unwrap_or_else(|| {
        primaries.push(Arc::clone(node));
        primaries.len() - 1
    });
    u16::try_from(at).unwrap_or(UNASSIGNED)
}

fn same_nodes(a: &[Arc<RedisNode>], b: &[Arc<RedisNode>]) -> bool {
    let has = |list: &[Arc<RedisNode>], node: &Arc<RedisNode>| {
        list.iter().any(|other| other.address == node.address)
    };
    a.len() == b.len() && a.iter().all(|node| has(b, node))
}
