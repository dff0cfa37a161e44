//! Discovery of the master through sentinels.
//!
//! It queries all sentinels at once. Among the responses of a majority, or of all that responded in
//! time, the greatest epoch belongs to the last failover. A sentinel that was cut off has an older
//! one. The role of a new master is verified, because it may still be a replica for a moment.

use std::collections::HashMap;

use ::redis::{Value, cmd, from_redis_value};
use tokio::task::JoinSet;

use super::connection::ConnectTarget;
use super::connector::{Connector, RedisTimeouts};
use super::errors::RedisUnavailable;
use super::node;
use super::topology_map::{DiscoveredTopology, TopologyMap};
use crate::config::HostPort;

/// The response of one sentinel.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ReportedMaster {
    address: HostPort,
    epoch: u64,
}

/// Discovers the master. Verifies its role unless it is already known.
pub(super) async fn discover(
    connector: &Connector,
    sentinels: &[HostPort],
    master: &str,
    before: &TopologyMap,
) -> Result<DiscoveredTopology, RedisUnavailable> {
    let (reported, has_quorum) =
        query_sentinels(connector, sentinels, master, before.epoch).await?;
    let address = reported.address.to_string();
    if before.primaries.iter().all(|server| server.address != address) {
        verify_master(connector, &reported.address).await?;
    }
    let (epoch, primaries) = (reported.epoch, vec![reported.address]);
    Ok(DiscoveredTopology {
        epoch,
        primaries,
        ranges: Vec::new(),
        names: HashMap::new(),
        has_quorum,
    })
}

/// Returns the newest response, and whether a majority responded.
async fn query_sentinels(
    connector: &Connector,
    sentinels: &[HostPort],
    master: &str,
    epoch: u64,
) -> Result<(ReportedMaster, bool), RedisUnavailable> {
    let mut queries = JoinSet::new();
    for at in sentinels {
        queries.spawn(query_sentinel(
            connector.sentinel(at),
            connector.timeouts(),
            at.clone(),
            master.to_owned(),
        ));
    }
    let (mut newest, mut responses): (Option<ReportedMaster>, usize) = (None, 0);
    let mut last_error = String::new();
    while let Some(response) = queries.join_next().await {
        match response {
            Ok(Ok(reported)) => {
                responses += 1;
                if newest.as_ref().is_none_or(|newest| newest.epoch < reported.epoch) {
                    newest = Some(reported);
                }
            }
            Ok(Err(error)) => last_error = error,
            Err(error) => last_error = error.to_string(),
        }
        // An older epoch is accepted only if no response is newer.
        let is_newest = newest.as_ref().is_some_and(|newest| newest.epoch >= epoch);
        if is_newest && responses * 2 > sentinels.len() {
            break;
        }
    }
    let has_quorum = responses * 2 > sentinels.len();
    newest.map(|newest| (newest, has_quorum)).ok_or_else(|| {
        let last_error = connector.redact(last_error);
        RedisUnavailable(format!("no sentinel reports a master named {master}: {last_error}"))
    })
}

async fn query_sentinel(
    target: ConnectTarget,
    timeouts: RedisTimeouts,
    address: HostPort,
    master: String,
) -> Result<ReportedMaster, String> {
    let describe = |error: ::redis::RedisError| format!("sentinel {address}: {error}");
    let mut connection = timeouts.connect(&target).await.map_err(describe)?;
    let mut command = cmd("SENTINEL");
    command.arg("MASTER").arg(&master);
    let reply: Value = command.query_async(&mut connection).await.map_err(describe)?;
    parse_master(reply, &address.host)
        .ok_or_else(|| format!("sentinel {address} sent an unexpected reply"))
}

fn parse_master(reply: Value, responder: &str) -> Option<ReportedMaster> {
    let fields: HashMap<String, String> = from_redis_value(reply).ok()?;
    let host = fields.get("ip").filter(|host| !host.is_empty()).map_or(responder, String::as_str);
    let port = fields.get("port")?.parse().ok().filter(|port| *port > 0)?;
    let epoch = fields.get("config-epoch").and_then(|epoch| epoch.parse().ok()).unwrap_or(0);
    Some(ReportedMaster { address: HostPort { host: host.to_owned(), port }, epoch })
}

async fn verify_master(connector: &Connector, at: &HostPort) -> Result<(), RedisUnavailable> {
    let address = at.to_string();
    let describe = |error: ::redis::RedisError| connector.to_unavailable(&address, &error);
    let mut connection =
        connector.timeouts().connect(&connector.target(at)).await.map_err(describe)?;
    node::verify_master(&mut connection).await.map_err(|error| {
        let RedisUnavailable(detail) = describe(error);
        RedisUnavailable(format!("the failover is still in progress: {detail}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn sentinel_replies_are_parsed_and_foreign_text_is_rejected() {
        let pairs = ["name", "m", "ip", "10.0.0.1", "port", "7000", "config-epoch", "4"];
        let master = parse_master(Value::Array(pairs.map(bulk).to_vec()), "host").expect("valid");
        assert_eq!((master.address.to_string(), master.epoch), ("10.0.0.1:7000".to_owned(), 4));
        for foreign in [Value::Nil, Value::Array(vec![bulk("ip")]), bulk("x")] {
            assert_eq!(parse_master(foreign, "host"), None);
        }
        let portless = ["ip", "10.0.0.1", "port", "0"];
        assert_eq!(parse_master(Value::Array(portless.map(bulk).to_vec()), "host"), None);
    }
}
