//! What an operator set up that will hurt: looked for at start, every hour, and when primaries change.
//!
//! Nothing here changes what the gateway does; it says what to change, once, and in a metric.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use ::redis::{FromRedisValue, InfoDict, Value, cmd, from_redis_value};
use tracing::{info, warn};

use super::Redis;
use super::link::{Ask, Place};
use super::server::Server;
use crate::clock::{Clock, UnixMillis};
use crate::store::Unavailable;

const EVERY: Duration = Duration::from_hours(1);
/// When a server did not say.
const AGAIN: Duration = Duration::from_secs(10);
/// Sessions that one gateway begins and another ends are compared by their clocks.
const CLOCKS_APART: Duration = Duration::from_secs(2);
const OLDEST: u32 = 6;

/// Something to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Redis drops keys when it is full: sessions, and revocations with them.
    Evicts,
    /// Redis is older than 6.
    Old,
    /// It copies another server and takes no writes.
    Replica,
    /// Its clock and ours differ.
    Clock,
    /// A failover would leave it behind, and it would go on taking writes.
    Unfenced,
}

impl Advice {
    pub const ALL: [Advice; 5] =
        [Advice::Evicts, Advice::Old, Advice::Replica, Advice::Clock, Advice::Unfenced];

    /// The word for metrics.
    pub fn word(self) -> &'static str {
        match self {
            Advice::Evicts => "eviction",
            Advice::Old => "version",
            Advice::Replica => "replica",
            Advice::Clock => "clock",
            Advice::Unfenced => "min-replicas",
        }
    }

    fn bit(self) -> u8 {
        match self {
            Advice::Evicts => 1,
            Advice::Old => 2,
            Advice::Replica => 4,
            Advice::Clock => 8,
            Advice::Unfenced => 16,
        }
    }

    fn remedy(self) -> &'static str {
        match self {
            Advice::Evicts => {
                "a full Redis drops sessions and revocations; set maxmemory-policy noeviction"
            }
            Advice::Old => "doorward needs Redis 6 or later, or Valkey",
            Advice::Replica => "it takes no writes; the store must name the master",
            Advice::Clock => "who is right? keep both by NTP",
            Advice::Unfenced => {
                "cut off from its replicas it goes on taking writes while another one is promoted, and a \
                 gateway on its side is told of no revocation; set min-replicas-to-write 1"
            }
        }
    }
}

/// What was found, by all servers together.
#[derive(Debug, Default)]
pub(super) struct Advised(AtomicU8);

impl Advised {
    pub(super) fn has(&self, advice: Advice) -> bool {
        self.0.load(Ordering::Relaxed) & advice.bit() != 0
    }
}

/// What one server says of itself.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    version: String,
    policy: Option<String>,
    role: Option<String>,
    /// How far our clocks are apart at least.
    apart: Duration,
    /// Replicas that may be promoted, where it takes writes without any.
    unfenced: Option<String>,
}

/// One thing to change at one server.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    advice: Advice,
    value: String,
}

impl Redis {
    /// For ever.
    pub(in crate::store) async fn inspect_often(&self) {
        let mut told = Vec::new();
        let mut primaries = self.primaries();
        loop {
            let servers = self.shared.topology.map().primaries.clone();
            primaries.now();
            let found = self.inspect(&servers).await;
            let pause = if found.is_ok() && !servers.is_empty() { EVERY } else { AGAIN };
            if let Ok(found) = found {
                self.tell(&found, &mut told);
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = primaries.changed() => {}
            }
        }
    }

    async fn inspect(&self, servers: &[Arc<Server>]) -> Result<Vec<(String, Found)>, Unavailable> {
        let mut out = Vec::new();
        for server in servers {
            let said = self.said(server).await?;
            out.extend(judge(&said).into_iter().map(|found| (server.address.clone(), found)));
        }
        Ok(out)
    }

    async fn said(&self, server: &Arc<Server>) -> Result<Said, Unavailable> {
        let place = Place::At(server);
        let value: Value = self.ask(place, Ask::Command(&cmd("INFO"))).await?;
        let info = InfoDict::from_redis_value(value).map_err(|_| self.strange("INFO"))?;
        let before = Clock::System.now();
        let (seconds, micros): (u64, u64) = self.ask(place, Ask::Command(&cmd("TIME"))).await?;
        let theirs = UnixMillis(seconds.saturating_mul(1_000).saturating_add(micros / 1_000));
        Ok(Said {
            version: text(&info, "redis_version").unwrap_or_default(),
            policy: text(&info, "maxmemory_policy"),
            role: text(&info, "role"),
            apart: apart(theirs, before, Clock::System.now()),
            unfenced: unfenced(&info).filter(|_| !self.shared.topology.is_fixed()),
        })
    }

    /// Says what is new, once.
    fn tell(&self, found: &[(String, Found)], told: &mut Vec<String>) {
        let bits = found.iter().fold(0, |bits, (_, found)| bits | found.advice.bit());
        self.shared.advised.0.store(bits, Ordering::Relaxed);
        let key = |(address, found): &(String, Found)| format!("{address} {}", found.advice.word());
        for one in found.iter().filter(|one| !told.contains(&key(one))) {
            let (redis, what) = (&one.0, one.1.advice.word());
            let value = &one.1.value;
            warn!(event = "store-advice", redis, what, value, "{}", one.1.advice.remedy());
        }
        if found.is_empty() && !told.is_empty() {
            info!(event = "store-advice-over");
        }
        *told = found.iter().map(key).collect();
    }
}

fn judge(said: &Said) -> Vec<Found> {
    let mut out = Vec::new();
    let mut find = |advice, value: String| out.push(Found { advice, value });
    if let Some(policy) = said.policy.as_deref().filter(|policy| *policy != "noeviction") {
        find(Advice::Evicts, policy.to_owned());
    }
    let major = said.version.split('.').next().and_then(|major| major.parse().ok());
    if major.is_some_and(|major: u32| major < OLDEST) {
        find(Advice::Old, said.version.clone());
    }
    if let Some(role) = said.role.as_deref().filter(|role| *role != "master") {
        find(Advice::Replica, role.to_owned());
    }
    if said.apart > CLOCKS_APART {
        find(Advice::Clock, format!("{} ms", said.apart.as_millis()));
    }
    if let Some(replicas) = &said.unfenced {
        find(Advice::Unfenced, replicas.clone());
    }
    out
}

/// How far `theirs` lies outside the time of the question.
fn apart(theirs: UnixMillis, before: UnixMillis, after: UnixMillis) -> Duration {
    before.since(theirs).max(theirs.since(after))
}

/// A master says how many good replicas it has only where it asks for some.
fn unfenced(info: &InfoDict) -> Option<String> {
    let replicas = text(info, "connected_slaves").filter(|replicas| replicas != "0")?;
    text(info, "min_slaves_good_slaves").is_none().then_some(replicas)
}

fn text(info: &InfoDict, name: &str) -> Option<String> {
    info.find(&name).and_then(|value| from_redis_value(value.clone()).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn well() -> Said {
        let own = |text: &str| Some(text.to_owned());
        Said {
            version: "7.0.15".to_owned(),
            policy: own("noeviction"),
            role: own("master"),
            apart: CLOCKS_APART,
            unfenced: None,
        }
    }

    fn advice(said: &Said) -> Vec<Advice> {
        judge(said).into_iter().map(|found| found.advice).collect()
    }

    #[test]
    fn what_will_hurt_is_found_and_what_is_well_is_not() {
        assert_eq!(advice(&well()), []);
        let ill = Said {
            version: "5.0.14".to_owned(),
            policy: Some("allkeys-lru".to_owned()),
            role: Some("slave".to_owned()),
            apart: CLOCKS_APART + Duration::from_millis(1),
            unfenced: Some("2".to_owned()),
        };
        assert_eq!(advice(&ill), Advice::ALL);
        let silent = Said { version: String::new(), policy: None, role: None, ..well() };
        assert_eq!(advice(&silent), [], "what is not said is no fault");
    }

    #[test]
    fn a_master_with_replicas_that_takes_writes_without_them_is_not_fenced() {
        let said = |info: &str| unfenced(&InfoDict::new(info));
        let two = "role:master\r\nconnected_slaves:2\r\n";
        assert_eq!(said(two).as_deref(), Some("2"));
        assert_eq!(said(&format!("{two}min_slaves_good_slaves:2\r\n")), None);
        assert_eq!(said("role:master\r\nconnected_slaves:0\r\n"), None, "none could be promoted");
        assert_eq!(said(""), None, "what is not said is no fault");
    }

    #[test]
    fn a_slow_answer_is_no_wrong_clock() {
        let at = UnixMillis;
        assert_eq!(apart(at(5_000), at(1_000), at(9_000)), Duration::ZERO);
        assert_eq!(apart(at(500), at(1_000), at(9_000)), Duration::from_millis(500));
        assert_eq!(apart(at(9_900), at(1_000), at(9_000)), Duration::from_millis(900));
    }
}
