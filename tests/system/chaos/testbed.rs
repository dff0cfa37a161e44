//! Starts a store, gateways and actors, and injects one fault after another.

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
/// Number of users with a second profile.
const USERS_WITH_TWO_PROFILES: usize = 2;
const TABS: usize = 2;
/// Longest wait of a gateway for a reply of Redis.
const TIMEOUT: &str = "300ms";

/// The following durations are in history time.
const ROTATE_AFTER: Duration = Duration::from_secs(6);
const GRACE: Duration = Duration::from_secs(3);
/// How long sessions are served from the cache in an outage.
const SERVE_STALE_FOR: Duration = Duration::from_secs(1);

/// Parameters of a history.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub store: Store,
    pub pace: Pace,
    pub faults: Vec<Fault>,
    /// Duration of each fault without a fixed duration.
    pub lasts: Duration,
}

/// Speed of session time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Session time runs twenty times as fast, as if faults were hours apart.
    Fast,
    /// Session time is real time, so caches behave as in production.
    Real,
}

impl Pace {
    fn scale(self) -> u64 {
        match self {
            Pace::Fast => 20,
            Pace::Real => 1,
        }
    }

    /// Session lifetime, before the duration of faults is added.
    fn life(self) -> Duration {
        match self {
            Pace::Fast => Duration::from_secs(24),
            // Activity is written 60 times per idle timeout. Each write invalidates the cached session, so it must be as
            // rare as in production.
            Pace::Real => Duration::from_mins(10),
        }
    }

    /// Time before the first fault.
    fn warm_up(self) -> Duration {
        match self {
            // Time for logins and a first round of pages.
            Pace::Fast => Duration::from_secs(1),
            // Time for revocations that invalidations can reach undisturbed.
            Pace::Real => Duration::from_secs(4),
        }
    }
}

impl Plan {
    /// Returns the longest duration of the planned faults.
    fn longest(&self) -> Duration {
        self.faults.iter().map(|fault| fault.duration(self.lasts)).max().unwrap_or_default()
    }
}

/// The running store, gateways and upstream.
pub struct Testbed {
    scenario: Arc<Scenario>,
    pub backend: Backend,
    _app: RecordingUpstream,
    _directory: TempDir,
}

/// Runs a history and returns its events and bounds.
pub async fn run_history(plan: &Plan, report: &(dyn Fn(Fault) + Sync)) -> (Vec<Event>, Bounds) {
    let mut chance = SeededRng::new(plan.seed, 0);
    let testbed = Testbed::build(plan).await;
    let actors = testbed.spawn_actors(plan.seed);
    tokio::time::sleep(plan.pace.warm_up()).await;
    let mut faults = plan.faults.clone();
    chance.shuffle(&mut faults);
    for fault in faults {
        report(fault);
        testbed.apply_fault(fault, plan.lasts).await;
        // Two seconds to recover from an outage, and some time in which everything has to work.
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
        let named = USERS.iter().chain(&USERS[..USERS_WITH_TWO_PROFILES]).enumerate();
        let profiles = named.map(|(number, user)| Profile::new(number, (*user).to_owned()));
        let scenario = Scenario {
            fleet,
            time,
            trust: client::trust(&directory.path().join("ca.pem")),
            profiles: profiles.collect(),
            finished: AtomicBool::new(false),
            last_id: AtomicU64::new(1),
            recorder,
        };
        Testbed { scenario: Arc::new(scenario), backend, _app: app, _directory: directory }
    }

    /// Spawns all actors.
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

    /// Runs a blocking function on one gateway.
    pub async fn gateway(&self, number: usize, act: impl FnOnce(&GatewayProcess) + Send + 'static) {
        let scenario = Arc::clone(&self.scenario);
        blocking(move || act(&scenario.fleet[number % scenario.fleet.len()])).await;
    }
}

/// Durations for the configuration of a gateway.
struct Times {
    session: SessionTime,
    /// Session lifetime, extended by the longest fault.
    life: Duration,
}

impl Times {
    fn new(plan: &Plan, session: SessionTime) -> Times {
        Times { session, life: plan.pace.life() + plan.longest() }
    }

    /// Formats a duration of history time in session time.
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

/// Creates certificates and users. Passwords use a cheap Argon2 cost to save time.
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
