//! Groups of real Redis servers: a master with replicas and sentinels, and a cluster.

use std::collections::HashMap;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use doorward::store::RedisSettings;
use redis::{Connection, FromRedisValue};
use tempfile::TempDir;

use crate::redis_server::{RedisOptions, RedisServer};

/// The Redis user of the gateway; it has exactly the documented_commands permissions.
const USERNAME: &str = "gate";
const PASSWORD: &str = "of the gate";
const SENTINEL_PASSWORD: &str = "of the gate, for sentinels";

/// The name under which sentinels monitor the master.
pub const MASTER_NAME: &str = "gate";

/// A master, two replicas and three sentinels.
pub struct SentinelGroup {
    pub servers: Vec<RedisServer>,
    sentinels: Vec<Sentinel>,
}

struct Sentinel {
    port: u16,
    child: Child,
    _directory: TempDir,
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl SentinelGroup {
    /// Starts the servers and waits until every sentinel has found all others.
    pub fn start() -> SentinelGroup {
        let master =
            RedisServer::start(RedisOptions::with_args(&["--repl-diskless-sync-delay", "0"]));
        let port = master.port().to_string();
        let follow = ["--repl-diskless-sync-delay", "0", "--replicaof", "127.0.0.1", &port];
        let mut servers = vec![master];
        servers.extend((0..2).map(|_| RedisServer::start(RedisOptions::with_args(&follow))));
        let sentinels = (0..3).map(|_| sentinel(&port)).collect();
        let watched = SentinelGroup { servers, sentinels };
        eventually("the sentinels find each other", || {
            let whole = |of: &HashMap<String, String>| {
                of.get("num-slaves").is_some_and(|number| number == "2")
                    && of.get("num-other-sentinels").is_some_and(|number| number == "2")
            };
            watched.sentinels.iter().all(|one| one.master().as_ref().is_some_and(whole))
        });
        eventually("the replicas are in step", || {
            query::<String>(watched.servers[0].port(), &["INFO", "replication"])
                .is_some_and(|text| text.matches("state=online").count() == 2)
        });
        for server in &watched.servers {
            grant(server.port(), PASSWORD, &documented_commands());
        }
        for sentinel in &watched.sentinels {
            grant(sentinel.port, SENTINEL_PASSWORD, &["+sentinel|master"]);
        }
        watched
    }

    pub fn settings(&self) -> RedisSettings {
        let hosts: Vec<String> =
            self.sentinels.iter().map(|one| format!("127.0.0.1:{}", one.port)).collect();
        let url = format!("redis+sentinel://{}/{MASTER_NAME}", hosts.join(","));
        RedisSettings {
            sentinel_username: Some(USERNAME.to_owned()),
            sentinel_password: Some(SENTINEL_PASSWORD.to_owned().into()),
            ..settings(url)
        }
    }

    /// Returns the port of the master that most sentinels report.
    pub fn master(&self) -> u16 {
        let mut votes: HashMap<u16, usize> = HashMap::new();
        for master in self.sentinels.iter().filter_map(Sentinel::master) {
            if let Some(port) = master.get("port").and_then(|port| port.parse().ok()) {
                *votes.entry(port).or_default() += 1;
            }
        }
        votes.into_iter().max_by_key(|(_, number)| *number).expect("a sentinel replies").0
    }

    /// Kills the master and waits until the sentinels have elected another one.
    pub fn kill_master(&mut self) -> u16 {
        let old = self.master();
        let lost = self.servers.iter_mut().find(|server| server.port() == old);
        lost.expect("one of ours").kill();
        eventually("a failover", || self.master() != old);
        self.master()
    }

    /// Orders a failover while the old master is healthy.
    pub fn force_failover(&self) -> u16 {
        let old = self.master();
        eventually("a failover begins", || {
            query::<String>(self.sentinels[0].port, &["SENTINEL", "FAILOVER", MASTER_NAME])
                .is_some()
        });
        eventually("a failover", || self.master() != old);
        self.master()
    }
}

impl Sentinel {
    fn master(&self) -> Option<HashMap<String, String>> {
        query(self.port, &["SENTINEL", "MASTER", MASTER_NAME])
    }
}

fn sentinel(master: &str) -> Sentinel {
    let directory = TempDir::new().expect("a temporary directory");
    let port = free_port();
    let text = format!(
        "port {port}\nbind 127.0.0.1\nlogfile log\ndir {}\n\
         sentinel monitor {MASTER_NAME} 127.0.0.1 {master} 2\n\
         sentinel down-after-milliseconds {MASTER_NAME} 600\n\
         sentinel failover-timeout {MASTER_NAME} 3000\n",
        directory.path().display()
    );
    let file: PathBuf = directory.path().join("sentinel.conf");
    std::fs::write(&file, text).expect("a writable directory");
    let mut command = Command::new("redis-server");
    command.arg(&file).arg("--sentinel").stdout(Stdio::null());
    let child = command.spawn().expect("redis-server starts; install the package redis-server");
    Sentinel { port, child, _directory: directory }
}

/// Three primaries with one replica each.
pub struct Cluster {
    pub servers: Vec<RedisServer>,
}

/// Number of a cluster hash slot.
pub type Slot = u16;

impl Cluster {
    pub fn start() -> Cluster {
        let servers: Vec<RedisServer> = (0..6).map(|_| cluster_node()).collect();
        let mut command = Command::new("redis-cli");
        command.args(["--cluster", "create", "--cluster-replicas", "1", "--cluster-yes"]);
        command.args(servers.iter().map(|server| format!("127.0.0.1:{}", server.port())));
        let made = command.output().expect("redis-cli runs; install the package redis-tools");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stdout));
        let cluster = Cluster { servers };
        eventually("the cluster is whole", || {
            cluster.servers.iter().all(|server| {
                let info: Option<String> = query(server.port(), &["CLUSTER", "INFO"]);
                info.is_some_and(|text| text.contains("cluster_state:ok"))
            }) && cluster.nodes().values().all(|node| node.links_are_up)
        });
        eventually("the replicas are in step", || {
            let primaries = cluster.nodes().into_values().filter(|node| node.is_primary);
            primaries.into_iter().all(|node| {
                query::<String>(node.port, &["INFO", "replication"])
                    .is_some_and(|text| text.contains("state=online"))
            })
        });
        for server in &cluster.servers {
            grant(server.port(), PASSWORD, &documented_commands());
        }
        cluster
    }

    /// Returns settings that list two of the six nodes; the store discovers the others.
    pub fn settings(&self) -> RedisSettings {
        let url = format!(
            "redis+cluster://127.0.0.1:{},127.0.0.1:{}",
            self.servers[0].port(),
            self.servers[5].port()
        );
        settings(url)
    }

    pub fn server(&mut self, port: u16) -> &mut RedisServer {
        self.servers.iter_mut().find(|server| server.port() == port).expect("one of ours")
    }

    /// Returns the port of the primary that owns the slot.
    pub fn owner(&self, slot: Slot) -> u16 {
        let nodes = self.nodes();
        let owner = nodes.values().find(|node| {
            node.is_primary && node.ranges.iter().any(|(from, to)| (*from..=*to).contains(&slot))
        });
        owner.expect("every slot has an owner").port
    }

    /// Returns the hash slot of a key.
    pub fn slot(&self, key: &str) -> Slot {
        query(self.servers[0].port(), &["CLUSTER", "KEYSLOT", key]).expect("a slot")
    }

    /// Returns the port of a primary that does not own the slot.
    pub fn other_primary(&self, slot: Slot) -> u16 {
        let owner = self.owner(slot);
        let nodes = self.nodes();
        let other = nodes.values().find(|node| node.is_primary && node.port != owner);
        other.expect("three primaries").port
    }

    /// Starts a slot migration: from here on, keys of the slot can be on either node.
    pub fn begin_migration(&self, slot: Slot, from: u16, to: u16) {
        let number = slot.to_string();
        let id = |port| query::<String>(port, &["CLUSTER", "MYID"]).expect("an id");
        execute(to, &["CLUSTER", "SETSLOT", &number, "IMPORTING", &id(from)]);
        execute(from, &["CLUSTER", "SETSLOT", &number, "MIGRATING", &id(to)]);
    }

    /// Moves up to `most` keys of the slot and returns their number.
    pub fn move_keys(&self, slot: Slot, from: u16, to: u16, most: usize) -> usize {
        let names: Vec<String> =
            query(from, &["CLUSTER", "GETKEYSINSLOT", &slot.to_string(), &most.to_string()])
                .expect("names");
        for name in &names {
            execute(from, &["MIGRATE", "127.0.0.1", &to.to_string(), name, "0", "5000"]);
        }
        names.len()
    }

    /// Ends a slot migration: `to` owns the slot.
    pub fn end_migration(&self, slot: Slot, from: u16, to: u16) {
        let id: String = query(to, &["CLUSTER", "MYID"]).expect("an id");
        for port in [to, from] {
            execute(port, &["CLUSTER", "SETSLOT", &slot.to_string(), "NODE", &id]);
        }
    }

    /// Returns the cluster nodes as reported by the first node that replies.
    fn nodes(&self) -> HashMap<String, Node> {
        let text = self
            .servers
            .iter()
            .find_map(|server| query::<String>(server.port(), &["CLUSTER", "NODES"]));
        text.expect("a node replies").lines().map(parse_node).collect()
    }

    /// Waits until the replica of a primary has all acknowledged writes, kills the primary and waits for failover.
    pub fn kill_primary(&mut self, slot: Slot) -> u16 {
        let old = self.owner(slot);
        // Redis acknowledges a write before the replica has it.
        let offsets = |of: &str| -> Vec<u64> {
            let info = query::<String>(old, &["INFO", "replication"]).unwrap_or_default();
            let parts = info.split([',', '\r', '\n']).filter_map(|part| part.strip_prefix(of));
            parts.filter_map(|number| number.parse().ok()).collect()
        };
        let written = offsets("master_repl_offset:");
        assert_eq!(written.len(), 1, "a primary reports its replication offset");
        eventually("the replica is in sync", || {
            offsets("offset=").iter().any(|has| *has >= written[0])
        });
        self.server(old).kill();
        eventually("a failover", || {
            let nodes = self.nodes();
            nodes.values().any(|node| {
                node.is_primary
                    && node.port != old
                    && node.ranges.iter().any(|(from, to)| (*from..=*to).contains(&slot))
            })
        });
        old
    }
}

struct Node {
    port: u16,
    is_primary: bool,
    links_are_up: bool,
    ranges: Vec<(Slot, Slot)>,
}

fn parse_node(line: &str) -> (String, Node) {
    let parts: Vec<&str> = line.split(' ').collect();
    let address = parts[1].split('@').next().expect("an address");
    let port = address.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let range = |text: &&str| {
        let (from, to) = text.split_once('-').unwrap_or((text, text));
        Some((from.parse().ok()?, to.parse().ok()?))
    };
    let node = Node {
        port,
        is_primary: parts[2].contains("master") && !parts[2].contains("fail"),
        links_are_up: parts[7] == "connected",
        ranges: parts[8..].iter().filter_map(range).collect(),
    };
    (parts[0].to_owned(), node)
}

fn cluster_node() -> RedisServer {
    let bus = free_port().to_string();
    RedisServer::start(RedisOptions::with_args(&[
        "--cluster-enabled",
        "yes",
        "--cluster-port",
        &bus,
        "--cluster-node-timeout",
        "1500",
        "--cluster-replica-validity-factor",
        "0",
        "--repl-diskless-sync-delay",
        "0",
    ]))
}

fn settings(url: String) -> RedisSettings {
    RedisSettings {
        url,
        username: Some(USERNAME.to_owned()),
        password: Some(PASSWORD.to_owned().into()),
        ..RedisSettings::default()
    }
}

/// Returns the permissions that the module docs of the Redis store list.
fn documented_commands() -> Vec<&'static str> {
    let lines = include_str!("../../../src/store/redis/mod.rs").lines().take(30);
    lines
        .flat_map(|line| line.split([' ', '`', '.']))
        .filter(|part| part.starts_with('+'))
        .collect()
}

fn grant(port: u16, password: &str, commands: &[&str]) {
    let secret = format!(">{password}");
    execute(port, &[&["ACL", "SETUSER", USERNAME, "on", &secret, "~dw:*"], commands].concat());
}

fn connect(port: u16) -> Option<Connection> {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}")).expect("an address");
    client.get_connection_with_timeout(Duration::from_secs(2)).ok()
}

/// Sends one command; returns `None` without a readable reply.
pub fn query<T: FromRedisValue>(port: u16, parts: &[&str]) -> Option<T> {
    let mut command = redis::cmd(parts[0]);
    command.arg(&parts[1..]);
    command.query(&mut connect(port)?).ok()
}

pub fn execute(port: u16, parts: &[&str]) {
    let mut connection = connect(port).expect("the server replies");
    let mut command = redis::cmd(parts[0]);
    let votes = command.arg(&parts[1..]).query::<redis::Value>(&mut connection);
    votes.unwrap_or_else(|error| panic!("{parts:?}: {error}"));
}

/// Polls until the condition holds, for up to a minute.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound").port()
}
