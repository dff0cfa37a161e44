//! Session stores of the gateways: a file, Redis behind fault proxies, sentinels or a cluster.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use test_support::fault_proxy::{FaultMode, FaultProxy};
use test_support::redis_fleet::{Cluster, SentinelGroup};
use test_support::redis_server::{RedisOptions, RedisServer};

/// Kind of store: one gateway with a file, or three gateways with a shared store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    Embedded,
    Redis,
    Sentinel,
    Cluster,
}

/// Number of gateways that share a Redis.
pub const GATEWAYS: usize = 3;

/// A running store.
pub enum Backend {
    Embedded,
    Redis(Redis),
    Sentinel(Arc<Mutex<SentinelGroup>>),
    Cluster(Arc<Mutex<Cluster>>),
}

impl Backend {
    pub async fn start(store: Store, seed: u64) -> Backend {
        match store {
            Store::Embedded => Backend::Embedded,
            Store::Redis => Backend::Redis(Redis::start(seed).await),
            Store::Sentinel => Backend::Sentinel(shared(blocking(SentinelGroup::start).await)),
            Store::Cluster => Backend::Cluster(shared(blocking(Cluster::start).await)),
        }
    }

    /// Returns the store URL of a gateway; `None` for the embedded store.
    pub fn url(&self, gateway: usize) -> Option<String> {
        match self {
            Backend::Embedded => None,
            Backend::Redis(redis) => Some(format!("redis://{}", redis.links[gateway].address)),
            Backend::Sentinel(watched) => Some(watched.lock().settings().url),
            Backend::Cluster(cluster) => Some(cluster.lock().settings().url),
        }
    }

    /// Returns the single Redis; panics for other stores.
    pub fn redis(&self) -> &Redis {
        let Backend::Redis(redis) = self else { panic!("this fault is for a single Redis") };
        redis
    }

    /// Fails over to another master, with the old one killed or healthy.
    pub async fn change_master(&self, lost: bool) {
        let Backend::Sentinel(watched) = self else { panic!("this fault is for sentinels") };
        let watched = Arc::clone(watched);
        blocking(move || match lost {
            true => watched.lock().kill_master(),
            false => watched.lock().force_failover(),
        })
        .await;
    }

    /// Kills the primary that stores the global revocation cutoff.
    pub async fn kill_primary(&self) {
        let Backend::Cluster(cluster) = self else { panic!("this fault is for a cluster") };
        let cluster = Arc::clone(cluster);
        blocking(move || {
            let mut cluster = cluster.lock();
            let slot = cluster.slot("dw:everyone");
            cluster.kill_primary(slot)
        })
        .await;
    }
}

fn shared<T>(value: T) -> Arc<Mutex<T>> {
    Arc::new(Mutex::new(value))
}

/// Runs a blocking function outside the async runtime.
pub async fn blocking<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(act).await.expect("no panic")
}

/// A master and its replica with fault proxies between them and to the gateways.
pub struct Redis {
    /// The master is first.
    servers: Arc<Mutex<[RedisServer; 2]>>,
    links: Vec<FaultProxy>,
    replication: FaultProxy,
}

impl Redis {
    async fn start(seed: u64) -> Redis {
        // The append-only file reaches the kernel before the reply, so a killed process loses no write.
        let how = RedisOptions::with_args(&[
            "--appendonly",
            "yes",
            "--appendfsync",
            "no",
            "--enable-debug-command",
            "yes",
            "--repl-diskless-sync-delay",
            "0",
        ]);
        let servers = [RedisServer::start(how.clone()), RedisServer::start(how)];
        let master = address(&servers[0]);
        let replication = FaultProxy::start(master, seed).await;
        let port = replication.address.port().to_string();
        let servers = blocking(move || {
            servers[1].command(&["REPLICAOF", "127.0.0.1", &port]);
            servers
        });
        let servers = shared(servers.await);
        let mut links = Vec::new();
        for gateway in 0..GATEWAYS as u64 {
            links.push(FaultProxy::start(master, seed.wrapping_add(gateway)).await);
        }
        Redis { servers, links, replication }
    }

    pub fn all_links(&self, mode: FaultMode) {
        self.links.iter().for_each(|link| link.set(mode));
    }

    pub fn link(&self, gateway: usize, mode: FaultMode) {
        self.links[gateway].set(mode);
    }

    /// Runs a blocking function on the master.
    pub async fn master(&self, act: impl FnOnce(&mut RedisServer) + Send + 'static) {
        let servers = Arc::clone(&self.servers);
        blocking(move || act(&mut servers.lock()[0])).await;
    }

    /// Sends commands to the master, one per line, and waits for all replies.
    pub async fn command_master(&self, lines: String) {
        self.command_busy_master(lines, Duration::ZERO).await;
    }

    /// Sends commands that keep the master busy for this long and waits for all replies.
    pub async fn command_busy_master(&self, lines: String, busy: Duration) {
        let address = self.master_address();
        let timeout = Duration::from_secs(20) + busy * 2;
        let received = blocking(move || send_inline(address, &lines, timeout)).await;
        received.expect("the primary responds");
    }

    /// Cuts replication for a while, kills the master and promotes the replica.
    pub async fn fail_over(&self, lasts: Duration) {
        self.replication.set(FaultMode::Blackhole);
        tokio::time::sleep(lasts).await;
        self.master(RedisServer::kill).await;
        self.servers.lock().swap(0, 1);
        self.command_master("REPLICAOF NO ONE".to_owned()).await;
        let address = self.master_address();
        self.links.iter().for_each(|link| link.retarget(address));
        self.replication.set(FaultMode::Pass);
        self.replication.retarget(address);
        let (servers, port) = (Arc::clone(&self.servers), self.replication.address.port());
        blocking(move || {
            let mut servers = servers.lock();
            servers[1].restart();
            servers[1].command(&["REPLICAOF", "127.0.0.1", &port.to_string()]);
        })
        .await;
    }

    fn master_address(&self) -> SocketAddr {
        address(&self.servers.lock()[0])
    }
}

fn address(server: &RedisServer) -> SocketAddr {
    let url = server.settings().url;
    url.trim_start_matches("redis://").parse().expect("an address")
}

/// Sends inline commands, one per line.
fn send_inline(to: SocketAddr, lines: &str, timeout: Duration) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.write_all(format!("{lines}\r\n").as_bytes())?;
    let (mut responses, mut byte) = (0, [0]);
    while responses < lines.split("\r\n").count() {
        // A command can close its own connection.
        if stream.read(&mut byte)? == 0 {
            break;
        }
        responses += usize::from(byte == *b"\n");
    }
    Ok(())
}
