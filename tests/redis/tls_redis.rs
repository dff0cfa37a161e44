//! Groups of TLS-only servers, which also use TLS among themselves. All share a CA and require client
//! certificates.

use std::path::Path;

use doorward::store::RedisSettings;

use test_support::redis_fleet::eventually;
use test_support::redis_server::{RedisOptions, RedisServer};

/// The name under which the sentinel monitors the master.
const MASTER_NAME: &str = "gate";

/// Three primaries without replicas.
pub struct TlsCluster {
    pub servers: Vec<RedisServer>,
    name: &'static str,
}

impl TlsCluster {
    /// Starts a cluster whose certificates have this name. Nodes announce it unless it is an address.
    pub fn start(name: &'static str) -> TlsCluster {
        let mut servers: Vec<RedisServer> = Vec::new();
        for _ in 0..3 {
            let bus = test_support::redis_server::free_port().to_string();
            let mut how =
                RedisOptions::with_args(&["--cluster-enabled", "yes", "--tls-cluster", "yes"]);
            how.args.extend(["--cluster-port".to_owned(), bus]);
            if name.parse::<std::net::IpAddr>().is_err() {
                how.args.extend(["--cluster-announce-hostname".to_owned(), name.to_owned()]);
            }
            servers.push(RedisServer::start(with_shared_ca(how, name, servers.first())));
        }
        let cluster = TlsCluster { servers, name };
        cluster.join();
        cluster
    }

    fn join(&self) {
        let shares = [("0", "5460"), ("5461", "10922"), ("10923", "16383")];
        for (server, (first, last)) in self.servers.iter().zip(shares) {
            assert_eq!(server.command(&["CLUSTER", "ADDSLOTSRANGE", first, last]), "+OK");
            let (port, bus) = (server.port().to_string(), server.argument("--cluster-port"));
            let met = self.servers[0].command(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
            assert_eq!(met, "+OK");
        }
        eventually("the cluster is whole, and all know the names of all", || {
            self.servers.iter().all(|server| {
                let nodes = server.command(&["CLUSTER", "NODES"]);
                server.command(&["CLUSTER", "INFO"]).contains("cluster_state:ok")
                    && nodes.matches("connected").count() == 3
                    && nodes.matches(self.name).count() >= 3
            })
        });
    }

    /// Returns settings that list one of the three nodes; the store discovers the others.
    pub fn settings(&self) -> RedisSettings {
        let url = format!("rediss+cluster://{}:{}", self.name, self.servers[0].port());
        RedisSettings { url, ..self.servers[0].settings() }
    }

    /// Moves a slot to the next server, without its keys.
    pub fn move_slot(&self, slot: u16, from: usize) -> usize {
        let to = (from + 1) % self.servers.len();
        let id = |at: usize| self.servers[at].command(&["CLUSTER", "MYID"]);
        let set = |at: usize, how: &str, id: &str| {
            let words = ["CLUSTER", "SETSLOT", &slot.to_string(), how, id];
            assert_eq!(self.servers[at].command(&words), "+OK");
        };
        set(to, "IMPORTING", &id(from));
        set(from, "MIGRATING", &id(to));
        set(to, "NODE", &id(to));
        set(from, "NODE", &id(to));
        to
    }
}

/// A master, a replica and one sentinel.
pub struct TlsSentinelGroup {
    pub servers: Vec<RedisServer>,
    sentinel: RedisServer,
}

impl TlsSentinelGroup {
    pub fn start() -> TlsSentinelGroup {
        let address = "127.0.0.1";
        let how = RedisOptions::with_args(&[
            "--tls-replication",
            "yes",
            "--repl-diskless-sync-delay",
            "0",
        ]);
        let master = RedisServer::start(with_shared_ca(how.clone(), address, None));
        let port = master.port().to_string();
        let mut follows = how;
        follows.args.extend(["--replicaof", address, &port].map(str::to_owned));
        let replica = RedisServer::start(with_shared_ca(follows, address, Some(&master)));
        // The sentinel rewrites its configuration file.
        let file = replica.directory().join("sentinel.conf");
        std::fs::write(&file, "").expect("a writable directory");
        let sentinel = RedisServer::start(with_shared_ca(sentinel(&file), address, Some(&master)));
        let watched = TlsSentinelGroup { servers: vec![master, replica], sentinel };
        watched.monitor(&port);
        watched
    }

    fn monitor(&self, port: &str) {
        let monitored =
            self.sentinel.command(&["SENTINEL", "MONITOR", MASTER_NAME, "127.0.0.1", port, "1"]);
        assert_eq!(monitored, "+OK");
        eventually("the sentinel has discovered the replica", || {
            self.sentinel.command(&["INFO", "sentinel"]).contains("status=ok")
                && self.sentinel.command(&["INFO", "sentinel"]).contains("slaves=1")
        });
    }

    pub fn settings(&self) -> RedisSettings {
        let url = format!("rediss+sentinel://127.0.0.1:{}/{MASTER_NAME}", self.sentinel.port());
        RedisSettings { url, ..self.sentinel.settings() }
    }

    /// Fails over to the replica.
    pub fn force_failover(&self) {
        eventually("a failover begins", || {
            self.sentinel.command(&["SENTINEL", "FAILOVER", MASTER_NAME]) == "+OK"
        });
        eventually("the replica is the master", || {
            let info = self.servers[1].try_command(&["INFO", "replication"]);
            info.is_some_and(|text| text.contains("role:master"))
        });
    }
}

fn sentinel(file: &Path) -> RedisOptions {
    let mut how = RedisOptions::with_args(&["--tls-replication", "yes", "--sentinel"]);
    how.config_file = Some(file.to_owned());
    how
}

fn with_shared_ca(how: RedisOptions, name: &str, first: Option<&RedisServer>) -> RedisOptions {
    let certificates = first.map(|first| first.directory().to_owned());
    RedisOptions { tls: true, name: name.to_owned(), certificates, ..how }
}
