//! Redis or a file, gateways, browsers, a thief, and the faults, one after another.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use doorward::login::edit::UsersEdit;
use doorward::login::{Cost, Credential};
use doorward::session::Identity;
use doorward::tls::dev_ca;
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::backend::{Backend, GATEWAYS, Store, blocking};
use crate::chance::Chance;
use crate::checker::Terms;
use crate::faults::Fault;
use crate::fleet::{self, Member, SCALE};
use crate::history::{Event, Recorder, Window};
use crate::people::{PASSWORD, Profile, Scene, Tab};
use crate::radio;
use crate::unrest;
use crate::upstream::App;
use crate::wire;

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
    pub backend: Backend,
    _app: App,
    _directory: TempDir,
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
        let backend = Backend::start(plan.store, plan.seed).await;
        let fleet = start_fleet(directory.path(), app.address, &backend, epoch);
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
        World { scene: Arc::new(scene), backend, _app: app, _directory: directory }
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
        all.spawn(unrest::hoard(Arc::clone(&self.scene), Chance::new(seed, 3)));
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

    /// Something that blocks, done to one gateway.
    pub async fn gateway(&self, number: usize, act: impl FnOnce(&Member) + Send + 'static) {
        let scene = Arc::clone(&self.scene);
        blocking(move || act(&scene.fleet[number % scene.fleet.len()])).await;
    }
}

fn start_fleet(directory: &Path, app: SocketAddr, backend: &Backend, epoch: u64) -> Vec<Member> {
    let number = if let Backend::Embedded = backend { 1 } else { GATEWAYS };
    let member = |number: usize| {
        let embedded = || format!("embedded:{}", directory.join("state").display());
        let url = backend.url(number).unwrap_or_else(embedded);
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
