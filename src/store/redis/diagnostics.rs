//! Diagnostics of the Redis configuration, at startup, hourly and after a change of primaries.
//!
//! They change no behavior. Each finding is logged once and exported as a metric.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use ::redis::{FromRedisValue, InfoDict, Value, cmd, from_redis_value};
use tracing::{info, warn};

use crate::clock::{Clock, UnixMillis};
use crate::redis::{CommandRef, CommandTarget, RedisClient, RedisNode, RedisUnavailable};

const INTERVAL: Duration = Duration::from_hours(1);
/// Interval after a node did not respond.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);
/// Maximum clock skew. Gateways compare session times by their own clocks.
const MAX_CLOCK_SKEW: Duration = Duration::from_secs(2);
const MIN_MAJOR_VERSION: u32 = 6;

/// Advice for the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Redis evicts keys when memory is full, including sessions and revocations.
    Eviction,
    /// Redis is older than version 6.
    OutdatedVersion,
    /// The server is a replica and accepts no writes.
    Replica,
    /// Its clock differs from the gateway's.
    ClockSkew,
    /// After a failover the old master would continue to accept writes.
    MinReplicas,
}

impl Advice {
    pub const ALL: [Advice; 5] = [
        Advice::Eviction,
        Advice::OutdatedVersion,
        Advice::Replica,
        Advice::ClockSkew,
        Advice::MinReplicas,
    ];

    /// Returns the label for metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Advice::Eviction => "eviction",
            Advice::OutdatedVersion => "version",
            Advice::Replica => "replica",
            Advice::ClockSkew => "clock",
            Advice::MinReplicas => "min-replicas",
        }
    }

    fn bit(self) -> u8 {
        match self {
            Advice::Eviction => 1,
            Advice::OutdatedVersion => 2,
            Advice::Replica => 4,
            Advice::ClockSkew => 8,
            Advice::MinReplicas => 16,
        }
    }

    fn remedy(self) -> &'static str {
        match self {
            Advice::Eviction => {
                "a full Redis drops sessions and revocations; set maxmemory-policy noeviction"
            }
            Advice::OutdatedVersion => "doorward requires Redis 6 or later, or Valkey",
            Advice::Replica => "it accepts no writes; the store must name the master",
            Advice::ClockSkew => "its clock and the gateway's differ; synchronize both by NTP",
            Advice::MinReplicas => {
                "cut off from its replicas it would accept writes while another master is promoted, and a \
                 gateway on its side would miss revocations; set min-replicas-to-write 1"
            }
        }
    }
}

/// Active advice of all nodes, as a bit set.
#[derive(Debug, Default)]
pub(super) struct AdviceFlags(AtomicU8);

impl AdviceFlags {
    pub(super) fn contains(&self, advice: Advice) -> bool {
        self.0.load(Ordering::Relaxed) & advice.bit() != 0
    }
}

/// Properties reported by one node.
#[derive(Debug, PartialEq, Eq)]
struct ServerReport {
    version: String,
    policy: Option<String>,
    role: Option<String>,
    /// Minimum clock skew.
    clock_skew: Duration,
    /// Connected replicas, if the node accepts writes without any.
    unfenced_replicas: Option<String>,
}

/// One finding about one node.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    advice: Advice,
    value: String,
}

/// Runs diagnostics; never returns.
pub(super) async fn run(client: &RedisClient, flags: &AdviceFlags) {
    let mut reported = Vec::new();
    let mut primaries = client.primaries();
    loop {
        let nodes = client.nodes();
        primaries.current();
        let found = inspect(client, &nodes).await;
        let pause = if found.is_ok() && !nodes.is_empty() { INTERVAL } else { RETRY_INTERVAL };
        if let Ok(found) = found {
            report_findings(flags, &found, &mut reported);
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = primaries.changed() => {}
        }
    }
}

async fn inspect(
    client: &RedisClient,
    nodes: &[Arc<RedisNode>],
) -> Result<Vec<(String, Finding)>, RedisUnavailable> {
    let mut out = Vec::new();
    for node in nodes {
        let report = query_report(client, node).await?;
        out.extend(evaluate(&report).into_iter().map(|found| (node.address.clone(), found)));
    }
    Ok(out)
}

async fn query_report(
    client: &RedisClient,
    node: &Arc<RedisNode>,
) -> Result<ServerReport, RedisUnavailable> {
    let target = CommandTarget::Node(node);
    let value: Value = client.query(target, CommandRef::Command(&cmd("INFO"))).await?;
    let info = InfoDict::from_redis_value(value).map_err(|_| client.unexpected_reply("INFO"))?;
    let before = Clock::System.now();
    let (seconds, micros): (u64, u64) =
        client.query(target, CommandRef::Command(&cmd("TIME"))).await?;
    let theirs = UnixMillis(seconds.saturating_mul(1_000).saturating_add(micros / 1_000));
    Ok(ServerReport {
        version: info_field(&info, "redis_version").unwrap_or_default(),
        policy: info_field(&info, "maxmemory_policy"),
        role: info_field(&info, "role"),
        clock_skew: clock_skew(theirs, before, Clock::System.now()),
        unfenced_replicas: unfenced_replicas(&info).filter(|_| !client.is_fixed()),
    })
}

/// Logs new findings once.
fn report_findings(flags: &AdviceFlags, found: &[(String, Finding)], reported: &mut Vec<String>) {
    let bits = found.iter().fold(0, |bits, (_, found)| bits | found.advice.bit());
    flags.0.store(bits, Ordering::Relaxed);
    let key = |(address, found): &(String, Finding)| format!("{address} {}", found.advice.as_str());
    for new in found.iter().filter(|finding| !reported.contains(&key(finding))) {
        let (redis, check) = (&new.0, new.1.advice.as_str());
        let value = &new.1.value;
        warn!(event = "store.config-warning", redis, check, value, "{}", new.1.advice.remedy());
    }
    if found.is_empty() && !reported.is_empty() {
        info!(event = "store.config-recovered");
    }
    *reported = found.iter().map(key).collect();
}

fn evaluate(report: &ServerReport) -> Vec<Finding> {
    let mut out = Vec::new();
    let mut find = |advice, value: String| out.push(Finding { advice, value });
    if let Some(policy) = report.policy.as_deref().filter(|policy| *policy != "noeviction") {
        find(Advice::Eviction, policy.to_owned());
    }
    let major = report.version.split('.').next().and_then(|major| major.parse().ok());
    if major.is_some_and(|major: u32| major < MIN_MAJOR_VERSION) {
        find(Advice::OutdatedVersion, report.version.clone());
    }
    if let Some(role) = report.role.as_deref().filter(|role| *role != "master") {
        find(Advice::Replica, role.to_owned());
    }
    if report.clock_skew > MAX_CLOCK_SKEW {
        find(Advice::ClockSkew, format!("{} ms", report.clock_skew.as_millis()));
    }
    if let Some(replicas) = &report.unfenced_replicas {
        find(Advice::MinReplicas, replicas.clone());
    }
    out
}

/// Returns by how much `theirs` lies outside the duration of the query.
fn clock_skew(theirs: UnixMillis, before: UnixMillis, after: UnixMillis) -> Duration {
    before.since(theirs).max(theirs.since(after))
}

/// Returns the number of replicas if the master does not require any. Redis reports good replicas
/// only if it does.
fn unfenced_replicas(info: &InfoDict) -> Option<String> {
    let replicas = info_field(info, "connected_slaves").filter(|replicas| replicas != "0")?;
    info_field(info, "min_slaves_good_slaves").is_none().then_some(replicas)
}

fn info_field(info: &InfoDict, name: &str) -> Option<String> {
    info.find(&name).and_then(|value| from_redis_value(value.clone()).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn healthy() -> ServerReport {
        let own = |info_field: &str| Some(info_field.to_owned());
        ServerReport {
            version: "7.0.15".to_owned(),
            policy: own("noeviction"),
            role: own("master"),
            clock_skew: MAX_CLOCK_SKEW,
            unfenced_replicas: None,
        }
    }

    fn advice(report: &ServerReport) -> Vec<Advice> {
        evaluate(report).into_iter().map(|found| found.advice).collect()
    }

    #[test]
    fn each_misconfiguration_is_found_and_a_good_one_is_not() {
        assert_eq!(advice(&healthy()), []);
        let misconfigured = ServerReport {
            version: "5.0.14".to_owned(),
            policy: Some("allkeys-lru".to_owned()),
            role: Some("slave".to_owned()),
            clock_skew: MAX_CLOCK_SKEW + Duration::from_millis(1),
            unfenced_replicas: Some("2".to_owned()),
        };
        assert_eq!(advice(&misconfigured), Advice::ALL);
        let incomplete =
            ServerReport { version: String::new(), policy: None, role: None, ..healthy() };
        assert_eq!(advice(&incomplete), [], "missing values are no finding");
    }

    #[test]
    fn a_master_that_needs_no_replica_for_writes_is_unfenced() {
        let report = |info: &str| unfenced_replicas(&InfoDict::new(info));
        let two = "role:master\r\nconnected_slaves:2\r\n";
        assert_eq!(report(two).as_deref(), Some("2"));
        assert_eq!(report(&format!("{two}min_slaves_good_slaves:2\r\n")), None);
        assert_eq!(report("role:master\r\nconnected_slaves:0\r\n"), None, "no replica to promote");
        assert_eq!(report(""), None, "missing values are no finding");
    }

    #[test]
    fn a_slow_response_is_no_clock_skew() {
        let at = UnixMillis;
        assert_eq!(clock_skew(at(5_000), at(1_000), at(9_000)), Duration::ZERO);
        assert_eq!(clock_skew(at(500), at(1_000), at(9_000)), Duration::from_millis(500));
        assert_eq!(clock_skew(at(9_900), at(1_000), at(9_000)), Duration::from_millis(900));
    }
}
