//! Discovery of a cluster: the owner of each slot, from `CLUSTER NODES`.
//!
//! It queries a few nodes at once, known ones and configured ones. The response with the greatest
//! epoch is the newest. `MOVED` redirects correct what it misses.

use std::collections::{HashMap, HashSet};

use ::redis::{RedisError, cmd};
use tokio::task::JoinSet;

use super::connection::ConnectTarget;
use super::connector::{Connector, RedisTimeouts};
use super::errors::{RedisUnavailable, parse_redirect};
use super::topology_map::{DiscoveredTopology, TopologyMap};
use crate::config::HostPort;

/// Nodes queried by one discovery.
const MAX_QUERIED_NODES: usize = 6;
/// Maximum primaries of a cluster.
const MAX_PRIMARIES: usize = 1_000;
/// Maximum nodes whose announced names are kept.
const MAX_NAMED_NODES: usize = 8 * MAX_PRIMARIES;

pub(super) async fn discover(
    connector: &Connector,
    seeds: &[HostPort],
    before: &TopologyMap,
) -> Result<DiscoveredTopology, RedisUnavailable> {
    let mut queries = JoinSet::new();
    for (address, target) in nodes_to_query(connector, seeds, before) {
        queries.spawn(query_node(target, connector.timeouts(), address, connector.is_tls()));
    }
    let total = queries.len();
    let (mut newest, mut responses): (Option<DiscoveredTopology>, usize) = (None, 0);
    let mut last_error = String::new();
    while let Some(response) = queries.join_next().await {
        match response {
            Ok(Ok(found)) => {
                responses += 1;
                if newest.as_ref().is_none_or(|newest| newest.epoch < found.epoch) {
                    newest = Some(found);
                }
            }
            Ok(Err(error)) => last_error = error,
            Err(error) => last_error = error.to_string(),
        }
        // An older epoch is accepted only if no response is newer.
        let is_newest = newest.as_ref().is_some_and(|newest| newest.epoch >= before.epoch);
        if is_newest && responses * 2 > total {
            break;
        }
    }
    let has_quorum = responses * 2 > total;
    newest.map(|found| DiscoveredTopology { has_quorum, ..found }).ok_or_else(|| {
        let last_error = connector.redact(last_error);
        RedisUnavailable(format!("no node of the cluster responds: {last_error}"))
    })
}

/// Returns the nodes to query, each once.
fn nodes_to_query(
    connector: &Connector,
    seeds: &[HostPort],
    before: &TopologyMap,
) -> Vec<(String, ConnectTarget)> {
    let known =
        before.primaries.iter().map(|server| (server.address.clone(), server.target.clone()));
    let configured = seeds.iter().map(|at| (at.to_string(), connector.target(at)));
    let mut unique = HashSet::new();
    // At most half are known nodes: those may all be gone, and so may the configured ones.
    let known: Vec<_> = known.take(MAX_QUERIED_NODES / 2).collect();
    let all = known.into_iter().chain(configured);
    all.filter(|(address, _)| unique.insert(address.clone())).take(MAX_QUERIED_NODES).collect()
}

async fn query_node(
    target: ConnectTarget,
    timeouts: RedisTimeouts,
    address: String,
    tls: bool,
) -> Result<DiscoveredTopology, String> {
    let describe = |error: RedisError| format!("{address}: {error}");
    let mut connection = timeouts.connect(&target).await.map_err(describe)?;
    let mut command = cmd("CLUSTER");
    command.arg("NODES");
    let text: String = command.query_async(&mut connection).await.map_err(describe)?;
    let host = parse_redirect(&address, "").map(|at| at.host).unwrap_or_default();
    parse_nodes(&text, &host, tls).ok_or_else(|| format!("{address} reports no primary"))
}

/// Parses `CLUSTER NODES`: one line per node. Keeps the primaries, and with TLS the names of all
/// nodes.
fn parse_nodes(text: &str, responder: &str, tls: bool) -> Option<DiscoveredTopology> {
    let (primaries, ranges, names) = (Vec::new(), Vec::new(), HashMap::new());
    let mut found = DiscoveredTopology { epoch: 0, primaries, ranges, names, has_quorum: false };
    for line in text.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let [_, address, flags, _, _, _, epoch, _, slots @ ..] = fields.as_slice() else {
            continue;
        };
        let Some((at, name)) = parse_address(address, responder) else { continue };
        let announced = name.filter(|_| tls).unwrap_or_else(|| at.clone());
        if announced != at && found.names.len() < MAX_NAMED_NODES {
            found.names.insert(at, announced.clone());
        }
        // A primary without slots stores nothing yet.
        let has_slots = slots.iter().any(|range| parse_slot_range(range).is_some());
        if !has_slots || !is_primary(flags) || found.primaries.len() >= MAX_PRIMARIES {
            continue;
        }
        let owner = u16::try_from(found.primaries.len()).ok()?;
        found.primaries.push(announced);
        found.epoch = found.epoch.max(epoch.parse().unwrap_or(0));
        let ranges = slots.iter().filter_map(|range| parse_slot_range(range));
        found.ranges.extend(ranges.map(|(first, last)| (first, last, owner)));
    }
    (!found.primaries.is_empty()).then_some(found)
}

fn is_primary(flags: &str) -> bool {
    let flags: Vec<&str> = flags.split(',').collect();
    let gone = ["noaddr", "handshake", "fail"];
    flags.contains(&"master") && !gone.iter().any(|flag| flags.contains(flag))
}

/// Parses `IP:PORT@BUSPORT[,HOSTNAME][,…]` into the address and the optional name. Certificates
/// usually name hosts, not addresses.
fn parse_address(text: &str, responder: &str) -> Option<(HostPort, Option<HostPort>)> {
    let mut parts = text.split(',');
    let address = parts.next()?.split('@').next()?;
    let at = parse_redirect(address, responder)?;
    let name = parts.next().filter(|name| !name.is_empty() && !name.contains('='));
    let name = name.map(|name| HostPort { host: name.to_owned(), port: at.port });
    Some((at, name))
}

/// Parses `5461-10922` or `5461`. A migrating slot, `[93->-ID]`, still belongs to its source.
fn parse_slot_range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last && last < 16_384).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODES: &str = "\
07c37df 127.0.0.1:30004@31004,host4 slave e7d1eec 0 1426238317239 4 connected
67ed2db 127.0.0.1:30002@31002,host2 master - 0 1426238316232 2 connected 5461-10922 [93-<-292f8b3]
292f8b3 :30003@31003 myself,master - 0 0 7 connected 10923-16383 3
6ec2391 127.0.0.1:30006@31006 master - 0 1426238316232 1 connected
6ec2392 127.0.0.1:30005@31005 master,fail - 0 1426238316232 9 connected 0-2
bad
";

    #[test]
    fn primaries_and_their_slots_are_parsed() {
        let found = parse_nodes(NODES, "host", false).expect("primaries");
        let names: Vec<String> = found.primaries.iter().map(HostPort::to_string).collect();
        assert_eq!(names, ["127.0.0.1:30002", "host:30003"]);
        assert_eq!(found.ranges, [(5461, 10922, 0), (10923, 16383, 1), (3, 3, 1)]);
        assert_eq!(found.epoch, 7);
    }

    #[test]
    fn with_tls_a_node_uses_its_announced_name() {
        let found = parse_nodes(NODES, "host", true).expect("primaries");
        assert_eq!(found.primaries[0].to_string(), "host2:30002");
        let name = |port| found.names.get(&parse_redirect(&format!("127.0.0.1:{port}"), "")?);
        assert_eq!(name(30002).map(HostPort::to_string).as_deref(), Some("host2:30002"));
        assert_eq!(
            name(30004).map(HostPort::to_string).as_deref(),
            Some("host4:30004"),
            "a replica"
        );
        assert_eq!(name(30006), None, "announces no name");
        assert!(parse_nodes(NODES, "host", false).expect("primaries").names.is_empty());
    }

    #[test]
    fn foreign_text_yields_no_primary() {
        for text in ["", "a b c d e f g h i", "x :0@1 master - 0 0 1 connected 1"] {
            assert!(parse_nodes(text, "", false).is_none(), "{text}");
        }
        for range in ["", "-", "5-4", "0-16384", "[93-<-292f8b3]", "x-1"] {
            assert_eq!(parse_slot_range(range), None, "{range}");
        }
    }
}
