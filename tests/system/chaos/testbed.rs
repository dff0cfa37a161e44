//! Redis or a file, gateways, browsers, a thief, and the faults, one after another.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use doorward::identity::users_file_editor::UsersFileEditor;
use doorward::identity::{Cost, Credential};
use doorward::session::Identity;
use doorward::tls::dev_ca;
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::chaos::actors;
use crate::chaos::backend::{Backend, GATEWAYS, Store, blocking};
use crate::chaos::browsers::{PASSWORD, Profile, STALE_READ_PATH, Scenario, Tab};
use crate::chaos::checker::Bounds;
use crate::chaos::client;
use crate::chaos::faults::Fault;
use crate::chaos::gateway_process::{self, GatewayProcess, SessionTime};
use crate::chaos::history::{Event, FaultWindow, Millis, Recorder};
use crate::chaos::streams;
use crate::chaos::upstream::RecordingUpstream;
use test_support::seeded_rng::SeededRng;

const USERS: [&str; 6] = ["ada", "bea", "cyd", "dan", "eve", "fay"];
/// Profiles of the first users, beside the one that everybody has.
const USERS_WITH_TWO_PROFILES: usize = 2;
const TABS: usize = 2;
/// The answers of Redis that a gateway waits for.
const TIMEOUT: &str = "300ms";

/// This and what follows is time of the history.
const ROTATE_AFTER: Duration = Duration::from_secs(6);
const GRACE: Duration = Duration::from_secs(3);
/// For how long a session is served that the store cannot vouch for.
const SERVE_STALE_FOR: Duration = Duration::from_secs(1);

/// How a history is made.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub store: Store,
    pub pace: Pace,
    pub faults: Vec<Fault>,
    /// How long a fault lasts, where it is not the fault's own affair.
    pub lasts: Duration,
}

/// How session time runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Twenty times as fast as time: as if hours went by between a fault and the next.
    Fast,
    /// As time does. What is kept for seconds is kept as long as it is elsewhere.
    Real,
}

impl Pace {
    fn scale(self) -> u64 {
        match self {
            Pace::Fast => 20,
            Pace::Real => 1,
        }
    }

    /// How long a session lives, if no fault lasts long.
    fn life(self) -> Duration {
        match self {
            Pace::Fast => Duration::from_secs(24),
            // Activity is noted 60 times in an idle time. Each note ends what is known of a session that is
            // over: it has to come as seldom as elsewhere.
            Pace::Real => Duration::from_mins(10),
        }
    }

    /// Before the first fault.
    fn warm_up(self) -> Duration {
        match self {
            // Logins, and a first round of pages.
            Pace::Fast => Duration::from_secs(1),
            // And ends, while nothing keeps their word from arriving.
            Pace::Real => Duration::from_secs(4),
        }
    }
}

impl Plan {
    /// The longest that one of the faults lasts.
    fn longest(&self) -> Duration {
        self.faults.iter().map(|fault| fault.duration(self.lasts)).max().unwrap_or_default()
    }
}

/// What is running.
pub struct Testbed {
    scenario: Arc<Scenario>,
    pub backend: Backend,
    _app: RecordingUpstream,
    _directory: TempDir,
}

/// Plays one history.
pub async fn play(plan: &Plan, report: &(dyn Fn(Fault) + Sync)) -> (Vec<Event>, Bounds) {
    let mut chance = SeededRng::new(plan.seed, 0);
    let testbed = Testbed::build(plan).await;
    let actors = testbed.spawn_actors(plan.seed);
    tokio::time::sleep(plan.pace.warm_up()).await;
    let mut faults = plan.faults.clone();
    chance.shuffle(&mut faults);
    for fault in faults {
        report(fault);
        testbed.apply_fault(fault, plan.lasts).await;
        // Two seconds to recover, where there is something to, and a while in which all has to work.
        let allowed = fault.allowed();
        let outage = allowed.unavailable || allowed.gateway_down;
        let pause = if outage { 2_400 } else { 1_000 };
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    testbed.scenario.finished.store(true, Ordering::SeqCst);
    actors.join_all().await;
    (testbed.scenario.recorder.history(), bounds(testbed.scenario.time))
}

fn bounds(time: SessionTime) -> Bounds {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Bounds {
        epoch: time.epoch,
        scale: time.scale,
        grace: millis(GRACE),
        serve_stale_for: millis(SERVE_STALE_FOR),
        revocation_bound: 1_000,
        revocation_bound_in_fault: 3_000,
        deadline: 3_000,
        recovery: 2_000,
        slack: 400,
    }
}

impl Testbed {
    async fn build(plan: &Plan) -> Testbed {
        let directory = tempfile::tempdir().expect("a temporary directory");
        prepare(directory.path());
        let recorder = Recorder::new();
        let time = SessionTime { epoch: gateway_process::unix_millis(), scale: plan.pace.scale() };
        let app = RecordingUpstream::start(recorder.clone()).await;
        let backend = Backend::start(plan.store, plan.seed).await;
        let fleet = start_fleet(directory.path(), app.address, &backend, &Times::new(plan, time));
        let people = USERS.iter().chain(&USERS[..USERS_WITH_TWO_PROFILES]).enumerate();
        let people = people.map(|(number, user)| Profile::new(number, (*user).to_owned()));
        let scenario = Scenario {
            fleet,
            time,
            trust: client::trust(&directory.path().join("ca.pem")),
            profiles: people.collect(),
            finished: AtomicBool::new(false),
            last_id: AtomicU64::new(1),
            recorder,
        };
        Testbed { scenario: Arc::new(scenario), backend, _app: app, _directory: directory }
    }

    /// Everybody who does something by himself.
    fn spawn_actors(&self, seed: u64) -> JoinSet<()> {
        let mut all = JoinSet::new();
        for profile in &self.scenario.profiles {
            for tab in 0..TABS {
                let actor = (profile.number * TABS + tab) as u64 + 100;
                let tab = Tab::new(&self.scenario, profile.from, SeededRng::new(seed, actor));
                all.spawn(tab.browse(profile.number));
            }
            let chance = SeededRng::new(seed, profile.number as u64 + 50);
            all.spawn(streams::hold_streams(Arc::clone(&self.scenario), profile.number, chance));
        }
        all.spawn(actors::revoke(Arc::clone(&self.scenario), SeededRng::new(seed, 1)));
        all.spawn(actors::steal(Arc::clone(&self.scenario), SeededRng::new(seed, 2)));
        all.spawn(actors::replay_superseded(Arc::clone(&self.scenario), SeededRng::new(seed, 3)));
        all.spawn(actors::poll_session_lists(Arc::clone(&self.scenario)));
        all
    }

    async fn apply_fault(&self, fault: Fault, lasts: Duration) {
        let recorder = &self.scenario.recorder;
        let began = recorder.now();
        let store_silent_until = fault.inject(self, fault.duration(lasts)).await;
        let gateway = fault.gateway().map(|number| number % self.scenario.fleet.len());
        let ended = recorder.now();
        let (fault, allowed) = (fault.as_str(), fault.allowed());
        recorder.add(Event::Fault(FaultWindow {
            fault,
            gateway,
            began,
            ended,
            allowed,
            store_silent_until,
        }));
    }

    pub fn now(&self) -> Millis {
        self.scenario.recorder.now()
    }

    /// Something that blocks, done to one gateway.
    pub async fn gateway(&self, number: usize, act: impl FnOnce(&GatewayProcess) + Send + 'static) {
        let scenario = Arc::clone(&self.scenario);
        blocking(move || act(&scenario.fleet[number % scenario.fleet.len()])).await;
    }
}

/// The times of a history as a gateway is told them.
struct Times {
    session: SessionTime,
    /// Of a session: what a fault takes from it is given back.
    life: Duration,
}

impl Times {
    fn new(plan: &Plan, session: SessionTime) -> Times {
        Times { session, life: plan.pace.life() + plan.longest() }
    }

    /// A time of the history, in session time.
    fn text(&self, time: Duration) -> String {
        format!("{}s", time.as_secs() * self.session.scale)
    }
}

fn start_fleet(
    directory: &Path,
    app: SocketAddr,
    backend: &Backend,
    times: &Times,
) -> Vec<GatewayProcess> {
    let number = if let Backend::Embedded = backend { 1 } else { GATEWAYS };
    let member = |number: usize| {
        let embedded = || format!("embedded:{}", directory.join("state").display());
        let url = backend.url(number).unwrap_or_else(embedded);
        let config = directory.join(format!("gateway-{number}.toml"));
        let socket = directory.join(format!("admin-{number}.sock"));
        std::fs::write(&config, configuration(directory, &socket, &url, app, times))
            .expect("written");
        GatewayProcess::start(config, socket, times.session)
    };
    (0..number).map(member).collect()
}

fn configuration(
    directory: &Path,
    socket: &Path,
    url: &str,
    app: SocketAddr,
    times: &Times,
) -> String {
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
serve_known_for = "{serve_stale_for}"
[session]
idle_timeout = "{life}"
absolute_timeout = "{life}"
rotate_after = "{rotate_after}"
rotation_grace = "{grace}"
[live]
unchecked_for = "1h"
[login.password]
users = "{users}"
[[route]]
host = "{host}"
path = "/"
upstream = "http://{app}"
access = "session"
[[route]]
host = "{host}"
path = "{STALE_READ_PATH}"
upstream = "http://{app}"
access = "session"
on_outage = "serve-known"
"#,
        socket = socket.display(),
        keys = at("keys.toml"),
        cert = at("doorward.pem"),
        key = at("doorward.key"),
        users = at("users.toml"),
        life = times.text(times.life),
        rotate_after = times.text(ROTATE_AFTER),
        grace = times.text(GRACE),
        serve_stale_for = times.text(SERVE_STALE_FOR),
        host = client::HOST,
    )
}

/// Certificates and users. The passwords are hashed cheaply: these tests are not about argon2.
fn prepare(directory: &Path) {
    dev_ca::make(directory, &[client::HOST.to_owned()]).expect("certificates");
    let mut users =
        UsersFileEditor::open_or_new(&directory.join("users.toml")).expect("a users file");
    let hash = Credential::hash(PASSWORD, Cost::Argon2id { m: 256, t: 1, p: 1 }).expect("a hash");
    for user in USERS {
        let identity = Identity { user: user.to_owned(), ..Identity::default() };
        users.add(&identity, &hash).expect("a new user");
    }
    users.save().expect("saved");
}
