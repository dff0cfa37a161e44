//! Who has which slot, as the nodes of a cluster say.
//!
//! A few nodes are asked at once, those known and those named in the configuration. The answer that
//! counts the greatest epoch is the newest; what it does not know yet, `MOVED` will say.

use std::collections::{HashMap, HashSet};

use ::redis::{RedisError, cmd};
use tokio::task::JoinSet;

use super::connection::Target;
use super::dial::{Dialer, Patience};
use super::topology::{Found, Map};
use super::trouble::redirected;
use crate::config::HostPort;
use crate::store::Unavailable;

/// Nodes that one look asks.
const ASKED: usize = 6;
/// Primaries that a cluster may have.
const MOST_PRIMARIES: usize = 1_000;
/// Nodes of which the names are kept.
const MOST_NODES: usize = 8 * MOST_PRIMARIES;

pub(super) async fn find(
    dialer: &Dialer,
    seeds: &[HostPort],
    before: &Map,
) -> Result<Found, Unavailable> {
    let mut asked = JoinSet::new();
    for (address, target) in sources(dialer, seeds, before) {
        asked.spawn(ask(target, dialer.patience(), address, dialer.is_tls()));
    }
    let number = asked.len();
    let (mut newest, mut heard): (Option<Found>, usize) = (None, 0);
    let mut trouble = String::new();
    while let Some(answer) = asked.join_next().await {
        match answer {
            Ok(Ok(found)) => {
                heard += 1;
                if newest.as_ref().is_none_or(|newest| newest.epoch < found.epoch) {
                    newest = Some(found);
                }
            }
            Ok(Err(error)) => trouble = error,
            Err(error) => trouble = error.to_string(),
        }
        // One that remembers less is believed only when nobody knows better.
        let is_newest = newest.as_ref().is_some_and(|newest| newest.epoch >= before.epoch);
        if is_newest && heard * 2 > number {
            break;
        }
    }
    let by_most = heard * 2 > number;
    newest.map(|found| Found { by_most, ..found }).ok_or_else(|| {
        let trouble = dialer.without_secrets(trouble);
        Unavailable(format!("no node of the cluster answers: {trouble}"))
    })
}

/// Whom to ask, each once.
fn sources(dialer: &Dialer, seeds: &[HostPort], before: &Map) -> Vec<(String, Target)> {
    let known =
        before.primaries.iter().map(|server| (server.address.clone(), server.target.clone()));
    let named = seeds.iter().map(|at| (at.to_string(), dialer.target(at)));
    let mut seen = HashSet::new();
    // Half of either: the known ones may all be gone, and so may the named ones.
    let known: Vec<_> = known.take(ASKED / 2).collect();
    let all = known.into_iter().chain(named);
    all.filter(|(address, _)| seen.insert(address.clone())).take(ASKED).collect()
}

async fn ask(
    target: Target,
    patience: Patience,
    address: String,
    tls: bool,
) -> Result<Found, String> {
    let told = |error: RedisError| format!("{address}: {error}");
    let mut connection = patience.connect(&target).await.map_err(told)?;
    let mut command = cmd("CLUSTER");
    command.arg("NODES");
    let text: String = command.query_async(&mut connection).await.map_err(told)?;
    let host = redirected(&address, "").map(|at| at.host).unwrap_or_default();
    read(&text, &host, tls).ok_or_else(|| format!("{address} knows of no primary"))
}

/// Reads `CLUSTER NODES`: one line for each node, of which the primaries matter, and with TLS the names of all.
fn read(text: &str, asked: &str, tls: bool) -> Option<Found> {
    let (primaries, ranges, names) = (Vec::new(), Vec::new(), HashMap::new());
    let mut found = Found { epoch: 0, primaries, ranges, names, by_most: false };
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [_, address, flags, _, _, _, epoch, _, slots @ ..] = words.as_slice() else {
            continue;
        };
        let Some((at, name)) = node(address, asked) else { continue };
        let called = name.filter(|_| tls).unwrap_or_else(|| at.clone());
        if called != at && found.names.len() < MOST_NODES {
            found.names.insert(at, called.clone());
        }
        // One without slots keeps nothing yet.
        let keeps = slots.iter().any(|range| slot_range(range).is_some());
        if !keeps || !is_primary(flags) || found.primaries.len() >= MOST_PRIMARIES {
            continue;
        }
        let owner = u16::try_from(found.primaries.len()).ok()?;
        found.primaries.push(called);
        found.epoch = found.epoch.max(epoch.parse().unwrap_or(0));
        let ranges = slots.iter().filter_map(|range| slot_range(range));
        found.ranges.extend(ranges.map(|(first, last)| (first, last, owner)));
    }
    (!found.primaries.is_empty()).then_some(found)
}

fn is_primary(flags: &str) -> bool {
    let flags: Vec<&str> = flags.split(',').collect();
    let gone = ["noaddr", "handshake", "fail"];
    flags.contains(&"master") && !gone.iter().any(|flag| flags.contains(flag))
}

/// `IP:PORT@BUSPORT[,HOSTNAME][,…]`: the address, and the name if there is one. A certificate names hosts rather
/// than addresses.
fn node(text: &str, asked: &str) -> Option<(HostPort, Option<HostPort>)> {
    let mut parts = text.split(',');
    let address = parts.next()?.split('@').next()?;
    let at = redirected(address, asked)?;
    let name = parts.next().filter(|name| !name.is_empty() && !name.contains('='));
    let name = name.map(|name| HostPort { host: name.to_owned(), port: at.port });
    Some((at, name))
}

/// `5461-10922` or `5461`; a slot on its way, `[93->-ID]`, still is where it was.
fn slot_range(text: &str) -> Option<(u16, u16)> {
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
    fn primaries_and_their_slots_are_read() {
        let found = read(NODES, "asked", false).expect("primaries");
        let names: Vec<String> = found.primaries.iter().map(HostPort::to_string).collect();
        assert_eq!(names, ["127.0.0.1:30002", "asked:30003"]);
        assert_eq!(found.ranges, [(5461, 10922, 0), (10923, 16383, 1), (3, 3, 1)]);
        assert_eq!(found.epoch, 7);
    }

    #[test]
    fn with_tls_a_node_is_called_by_its_name() {
        let found = read(NODES, "asked", true).expect("primaries");
        assert_eq!(found.primaries[0].to_string(), "host2:30002");
        let name = |port| found.names.get(&redirected(&format!("127.0.0.1:{port}"), "")?);
        assert_eq!(name(30002).map(HostPort::to_string).as_deref(), Some("host2:30002"));
        assert_eq!(
            name(30004).map(HostPort::to_string).as_deref(),
            Some("host4:30004"),
            "a replica"
        );
        assert_eq!(name(30006), None, "it announces none");
        assert!(read(NODES, "asked", false).expect("primaries").names.is_empty());
    }

    #[test]
    fn foreign_text_has_no_primary() {
        for text in ["", "a b c d e f g h i", "x :0@1 master - 0 0 1 connected 1"] {
            assert!(read(text, "", false).is_none(), "{text}");
        }
        for range in ["", "-", "5-4", "0-16384", "[93-<-292f8b3]", "x-1"] {
            assert_eq!(slot_range(range), None, "{range}");
        }
    }
}
