//! The topology at one moment, and the result of a discovery.

use std::collections::HashMap;
use std::sync::Arc;

use super::node::RedisNode;
use super::slots::HashSlot;
use crate::config::HostPort;

/// The primaries and their slots.
#[derive(Debug, Default)]
pub(super) struct TopologyMap {
    /// Incremented by each change.
    pub(super) version: u64,
    /// The epoch reported by sentinels or cluster nodes.
    pub(super) epoch: u64,
    pub(super) primaries: Vec<Arc<RedisNode>>,
    /// On a cluster: for each slot an index into `primaries`, or [`UNASSIGNED`].
    pub(super) owners: Vec<u16>,
    /// On a cluster with TLS: announced names by address. Redirects contain addresses, but
    /// certificates contain names.
    pub(super) names: Arc<HashMap<HostPort, HostPort>>,
}

/// A slot without a primary.
pub(super) const UNASSIGNED: u16 = u16::MAX;

/// The result of a discovery.
pub(super) struct DiscoveredTopology {
    pub(super) epoch: u64,
    pub(super) primaries: Vec<HostPort>,
    /// On a cluster: first slot, last slot, and an index into `primaries`.
    pub(super) ranges: Vec<(u16, u16, u16)>,
    /// Announced names by address, also of nodes without slots.
    pub(super) names: HashMap<HostPort, HostPort>,
    /// Whether a majority responded and no response is newer. An older epoch is then accepted,
    /// because the sentinels or nodes may have been reinstalled.
    pub(super) has_quorum: bool,
}

impl TopologyMap {
    pub(super) fn owner(&self, slot: HashSlot) -> Option<&Arc<RedisNode>> {
        if self.owners.is_empty() {
            return self.primaries.first();
        }
        let owner = *self.owners.get(usize::from(slot.0))?;
        self.primaries.get(usize::from(owner))
    }

    /// Returns the announced name of an address, or the address.
    pub(super) fn announced_name<'a>(&'a self, at: &'a HostPort) -> &'a HostPort {
        self.names.get(at).unwrap_or(at)
    }

    pub(super) fn is_equivalent(&self, other: &TopologyMap) -> bool {
        let same = |(a, b): (&Arc<RedisNode>, &Arc<RedisNode>)| a.address == b.address;
        self.primaries.len() == other.primaries.len()
            && self.primaries.iter().zip(&other.primaries).all(same)
            && self.owners == other.owners
            && self.names == other.names
    }
}
