//! Redis or a file, gateways, browsers, a thief, and the faults, one after another.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use doorward::login::edit::UsersEdit;
use doorward::login::{Cost, Credential};
use doorward::session::Identity;
use doorward::tls::dev_ca;
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::chance::Chance;
use crate::checker::Terms;
use crate::faults::Fault;
use crate::fleet::{self, Member, SCALE};
use crate::history::{Event, Recorder, Window};
use crate::people::{PASSWORD, Profile, Scene, Tab};
use crate::proxy::{Mode, Proxy};
use crate::radio;
use crate::redis::{How, RedisServer};
use crate::unrest;
use crate::upstream::App;
use crate::wire;

/// Three gateways that share a Redis, or one with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    Redis,
    Embedded,
}

const GATEWAYS: usize = 3;
const USERS: [&str; 6] = ["ada", "bea", "cyd", "dan", "eve", "fay"];
/// Profiles of the first users, beside the one that everybody has.
const SECOND: usize = 2;
const TABS: usize = 2;
/// The answers of Redis that a gateway waits for.
const TIMEOUT: &str = "300ms";
/// In session time: three seconds of the history.
const GRACE: Duration = Duration::from_secs(60);

/// How a history is made.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub store: Store,
    pub faults: Vec<Fault>,
    /// How long a fault lasts, where it is not the fault's own affair.
    pub lasts: Duration,
}

/// What is running.
pub struct World {
    scene: Arc<Scene>,
    redis: Option<Redis>,
    _app: App,
    _directory: TempDir,
}

/// A master and its replica, and the wires between them and the gateways.
struct Redis {
    /// The master first.
    servers: Arc<Mutex<[RedisServer; 2]>>,
    links: Vec<Proxy>,
    replication: Proxy,
}

/// Plays one history.
pub async fn play(plan: &Plan, tell: &(dyn Fn(Fault) + Sync)) -> (Vec<Event>, Terms) {
    let mut chance = Chance::new(plan.seed, 0);
    let world = World::build(plan).await;
    let epoch = world.scene.epoch;
    let everybody = world.set_off(plan.seed);
    // Logins, and a first round of pages.
    tokio::time::sleep(Duration::from_millis(1_000)).await;
    let mut faults = plan.faults.clone();
    chance.shuffle(&mut faults);
    for fault in faults {
        tell(fault);
        world.suffer(fault, plan.lasts).await;
        // Two seconds to recover, where there is something to, and a while in which all has to work.
        let may = fault.may();
        let outage = may.refuse || may.silence;
        let pause = if outage { 2_400 } else { 1_000 };
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    world.scene.over.store(true, Ordering::SeqCst);
    everybody.join_all().await;
    (world.scene.recorder.history(), terms(epoch))
}

fn terms(epoch: u64) -> Terms {
    Terms {
        epoch,
        scale: SCALE,
        grace: u64::try_from(GRACE.as_millis()).unwrap_or(u64::MAX),
        prompt: 1_000,
        at_worst: 3_000,
        deadline: 3_000,
        recovery: 2_000,
        slack: 400,
    }
}

impl World {
    async fn build(plan: &Plan) -> World {
        let directory = tempfile::tempdir().expect("a temporary directory");
        prepare(directory.path());
        let recorder = Recorder::new();
        let epoch = fleet::wall();
        let app = App::start(recorder.clone()).await;
        let redis = match plan.store {
            Store::Redis => Some(Redis::start(plan.seed).await),
            Store::Embedded => None,
        };
        let fleet = start_fleet(directory.path(), app.address, redis.as_ref(), epoch);
        let people = USERS.iter().chain(&USERS[..SECOND]).enumerate();
        let people = people.map(|(number, user)| Profile::new(number, (*user).to_owned()));
        let scene = Scene {
            fleet,
            epoch,
            trust: wire::trust(&directory.path().join("ca.pem")),
            people: people.collect(),
            over: AtomicBool::new(false),
            last_id: AtomicU64::new(1),
            recorder,
        };
        World { scene: Arc::new(scene), redis, _app: app, _directory: directory }
    }

    /// Everybody who does something by himself.
    fn set_off(&self, seed: u64) -> JoinSet<()> {
        let mut all = JoinSet::new();
        for profile in &self.scene.people {
            for tab in 0..TABS {
                let actor = (profile.number * TABS + tab) as u64 + 100;
                let tab = Tab::new(&self.scene, profile.from, Chance::new(seed, actor));
                all.spawn(tab.browse(profile.number));
            }
            let chance = Chance::new(seed, profile.number as u64 + 50);
            all.spawn(radio::listen(Arc::clone(&self.scene), profile.number, chance));
        }
        all.spawn(unrest::revoke(Arc::clone(&self.scene), Chance::new(seed, 1)));
        all.spawn(unrest::steal(Arc::clone(&self.scene), Chance::new(seed, 2)));
        all.spawn(unrest::observe(Arc::clone(&self.scene)));
        all
    }

    async fn suffer(&self, fault: Fault, lasts: Duration) {
        let recorder = &self.scene.recorder;
        let began = recorder.now();
        // Longer than a gateway may go on without hearing of a revocation.
        let least = if fault == Fault::OneCutOff { Duration::from_millis(4_500) } else { lasts };
        let lasts = lasts.max(least);
        fault.happen(self, lasts).await;
        let gateway = fault.gateway().map(|number| number % self.scene.fleet.len());
        let ended = recorder.now();
        let (fault, may) = (fault.word(), fault.may());
        recorder.add(Event::Fault(Window { fault, gateway, began, ended, may }));
    }

    pub fn all_links(&self, mode: Mode) {
        self.redis().links.iter().for_each(|link| link.set(mode));
    }

    pub fn link(&self, gateway: usize, mode: Mode) {
        self.redis().links[gateway].set(mode);
    }

    /// Something that blocks, done to the master.
    pub async fn master(&self, act: impl FnOnce(&mut RedisServer) + Send + 'static) {
        let servers = Arc::clone(&self.redis().servers);
        let done = tokio::task::spawn_blocking(move || {
            act(&mut servers.lock().unwrap_or_else(PoisonError::into_inner)[0]);
        });
        done.await.expect("no panic");
    }

    /// Commands for the master, one a line; returns when all are answered.
    pub async fn tell_master(&self, lines: String) {
        let address = self.redis().master_address();
        let told = tokio::task::spawn_blocking(move || tell(address, &lines)).await;
        told.expect("no panic").expect("the master answers");
    }

    /// Something that blocks, done to one gateway.
    pub async fn gateway(&self, number: usize, act: impl FnOnce(&Member) + Send + 'static) {
        let scene = Arc::clone(&self.scene);
        let done = tokio::task::spawn_blocking(move || {
            act(&scene.fleet[number % scene.fleet.len()]);
        });
        done.await.expect("no panic");
    }

    /// The replica hears nothing for a while, then takes over.
    pub async fn fail_over(&self, lasts: Duration) {
        let redis = self.redis();
        redis.replication.set(Mode::Swallow);
        tokio::time::sleep(lasts).await;
        self.master(RedisServer::kill).await;
        redis.servers.lock().unwrap_or_else(PoisonError::into_inner).swap(0, 1);
        self.tell_master("REPLICAOF NO ONE".to_owned()).await;
        let address = redis.master_address();
        redis.links.iter().for_each(|link| link.retarget(address));
        redis.replication.set(Mode::Pass);
        redis.replication.retarget(address);
        let servers = Arc::clone(&redis.servers);
        let port = redis.replication.address.port().to_string();
        let restarted = tokio::task::spawn_blocking(move || {
            let mut servers = servers.lock().unwrap_or_else(PoisonError::into_inner);
            servers[1].restart();
            servers[1].command(&["REPLICAOF", "127.0.0.1", &port]);
        });
        restarted.await.expect("no panic");
    }

    fn redis(&self) -> &Redis {
        self.redis.as_ref().expect("a world with a Redis")
    }
}

impl Redis {
    async fn start(seed: u64) -> Redis {
        // What is written is handed to the kernel before it is answered: a killed process loses nothing.
        let how = How::with(&[
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
        let replication = Proxy::start(master, seed).await;
        let port = replication.address.port().to_string();
        let servers = tokio::task::spawn_blocking(move || {
            servers[1].command(&["REPLICAOF", "127.0.0.1", &port]);
            servers
        });
        let servers = servers.await.expect("no panic");
        let mut links = Vec::new();
        for gateway in 0..GATEWAYS as u64 {
            links.push(Proxy::start(master, seed.wrapping_add(gateway)).await);
        }
        Redis { servers: Arc::new(Mutex::new(servers)), links, replication }
    }

    fn master_address(&self) -> SocketAddr {
        address(&self.servers.lock().unwrap_or_else(PoisonError::into_inner)[0])
    }
}

fn address(server: &RedisServer) -> SocketAddr {
    let url = server.settings().url;
    url.trim_start_matches("redis://").parse().expect("an address")
}

/// Inline commands, one a line.
fn tell(to: SocketAddr, lines: &str) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(format!("{lines}\r\n").as_bytes())?;
    let (mut answers, mut byte) = (0, [0]);
    while answers < lines.split("\r\n").count() {
        // A command may kill the connection that it came on.
        if stream.read(&mut byte)? == 0 {
            break;
        }
        answers += usize::from(byte == *b"\n");
    }
    Ok(())
}

fn start_fleet(
    directory: &Path,
    app: SocketAddr,
    redis: Option<&Redis>,
    epoch: u64,
) -> Vec<Member> {
    let number = if redis.is_some() { GATEWAYS } else { 1 };
    let member = |number: usize| {
        let url = match redis {
            Some(redis) => format!("redis://{}", redis.links[number].address),
            None => format!("embedded:{}", directory.join("state").display()),
        };
        let config = directory.join(format!("gateway-{number}.toml"));
        let socket = directory.join(format!("admin-{number}.sock"));
        std::fs::write(&config, configuration(directory, &socket, &url, app)).expect("written");
        Member::start(config, socket, epoch)
    };
    (0..number).map(member).collect()
}

fn configuration(directory: &Path, socket: &Path, url: &str, app: SocketAddr) -> String {
    let at = |name: &str| directory.join(name).display().to_string();
    format!(
        r#"
[server]
https = ["127.0.0.1:0"]
workers = 1
drain = "2s"
[limits]
connection_rate = 1000000
[admin]
listen = ""
socket = "{socket}"
[keys]
file = "{keys}"
[[tls.certificate]]
cert = "{cert}"
key = "{key}"
[store]
url = "{url}"
response_timeout = "{TIMEOUT}"
[session]
idle_timeout = "8m"
absolute_timeout = "8m"
rotate_after = "120s"
rotation_grace = "{grace}s"
[live]
unchecked_for = "1h"
[login.password]
users = "{users}"
[[route]]
host = "{host}"
path = "/"
upstream = "http://{app}"
access = "session"
"#,
        socket = socket.display(),
        keys = at("keys.toml"),
        cert = at("doorward.pem"),
        key = at("doorward.key"),
        users = at("users.toml"),
        grace = GRACE.as_secs(),
        host = wire::HOST,
    )
}

/// Certificates and users. The passwords are hashed cheaply: these tests are not about argon2.
fn prepare(directory: &Path) {
    dev_ca::make(directory, &[wire::HOST.to_owned()]).expect("certificates");
    let mut users = UsersEdit::open_or_new(&directory.join("users.toml")).expect("a users file");
    let hash = Credential::hash(PASSWORD, Cost::Argon2id { m: 256, t: 1, p: 1 }).expect("a hash");
    for user in USERS {
        let identity = Identity { user: user.to_owned(), ..Identity::default() };
        users.add(&identity, &hash).expect("a new user");
    }
    users.save().expect("saved");
}
