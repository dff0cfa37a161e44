//! The composition root: builds everything from a checked configuration and decides nothing.
//!
//! ```text
//! main thread        checks, binds all sockets, then waits
//! worker 1 … n       one current-thread runtime each: listeners, gateway, upstream pool, store handle
//! changes            with a Redis store: follows what other gateways change
//! housekeeping       one runtime: admin listeners, reloads, sweeps, cutting what ended
//! notify             with [notify]: one runtime that tells of thefts
//! ```

mod atlas;
mod files;
mod housekeeping;
mod keys;
mod memory;
pub mod notify;

pub use atlas::read_atlas;
pub use keys::KeysError;

use atlas::AtlasFiles;

use std::net::{SocketAddr, TcpListener as StdListener};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};
use zeroize::Zeroizing;

use crate::clock::Clock;
use crate::config::{Config, RedisLocation, StoreLocation};
use crate::guard::{Guard, Shared, SharedParts};
use crate::identity::{Directory, PasswordLogin, Settings};
use crate::message::{CookieNames, OwnedFields, RequestIds};
use crate::portal::{Look, Portal};
use crate::proxy::{Gateway, MemoryStrain, Pressure, TrustedProxies, Tunnels, UpstreamGroups};
use crate::secret::random_bytes;
use crate::server::{self, Limits, Places, Redirect, Room, Sockets};
use crate::session::Watch;
use crate::store::{RedisSettings, Store};
use crate::telemetry::audit::AuditFileError;
use crate::telemetry::requests::FLUSH_EVERY;
use crate::telemetry::{Audit, Metrics, RequestLines, RequestLog};
use crate::tls::{Acceptor, Certificates};

/// Where no file is named, the passwords of the store are looked for here.
const STORE_PASSWORD: &str = "DOORWARD_STORE_PASSWORD";
const SENTINEL_PASSWORD: &str = "DOORWARD_SENTINEL_PASSWORD";

/// Why the gateway does not start. Each names the file or address and what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Keys(#[from] KeysError),
    #[error(transparent)]
    Tls(#[from] crate::tls::TlsError),
    #[error(transparent)]
    Users(#[from] crate::identity::UsersError),
    #[error("the password login cannot be set up: {0}")]
    Login(String),
    #[error(transparent)]
    Store(#[from] crate::store::OpenError),
    #[error(transparent)]
    Audit(#[from] AuditFileError),
    #[error(transparent)]
    Bind(#[from] server::listener::BindError),
    #[error(transparent)]
    Socket(#[from] crate::admin::SocketError),
    #[error("{path}: {error}")]
    File { path: PathBuf, error: std::io::Error },
    #[error("a thread or runtime cannot be started: {0}")]
    Runtime(#[from] std::io::Error),
}

/// A gateway that runs. Dropping it stops it at once; [`Running::stop`] drains first.
pub struct Running {
    pub https: Vec<SocketAddr>,
    pub http: Vec<SocketAddr>,
    pub admin: Option<SocketAddr>,
    stop: CancellationToken,
    /// Ends the drain before its time.
    hurry: CancellationToken,
    threads: Vec<JoinHandle<()>>,
    /// Ends after the workers: what they finish while they drain is still written.
    closing: CancellationToken,
    housekeeping: Option<JoinHandle<()>>,
    /// Follows what changes in a shared store.
    changes: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
}

/// What every worker is made of.
struct Parts {
    config: Config,
    shared: Arc<Shared>,
    store: Store,
    certificates: Arc<Certificates>,
    /// One for all workers: a ticket of one is taken by the others.
    acceptor: Acceptor,
    login: Option<Arc<PasswordLogin>>,
    look: Arc<Look>,
    owned: Arc<OwnedFields>,
    trusted: Arc<TrustedProxies>,
    limits: Arc<Limits>,
    memory: Arc<MemoryStrain>,
    lines: Option<RequestLines>,
    atlas: Mutex<AtlasFiles>,
}

/// Starts a gateway. Returns once every socket listens and every worker runs.
///
/// `lines` is where requests are logged; without it, or with `log.requests` off, they are not.
pub fn start(
    config: Config,
    clock: Clock,
    lines: Option<RequestLines>,
) -> Result<Running, StartError> {
    let workers = workers(&config);
    let parts = Arc::new(Parts::build(config, clock, lines)?);
    let https = bind_all(&parts.config.server.https, workers)?;
    let http = bind_all(&parts.config.server.http, workers)?;
    let mut running = Running {
        https: https.iter().map(|sockets| sockets.address).collect(),
        http: http.iter().map(|sockets| sockets.address).collect(),
        admin: None,
        stop: CancellationToken::new(),
        hurry: CancellationToken::new(),
        threads: Vec::new(),
        closing: CancellationToken::new(),
        housekeeping: None,
        changes: None,
        shared: Arc::clone(&parts.shared),
    };
    let port = running.https.first().map_or(443, SocketAddr::port);
    let mut sets = Listening::per_worker(https, http, workers);
    for (number, listening) in sets.drain(..).enumerate() {
        // A token of its own: every connection looks at it on every turn, and one for all workers
        // would be a lock between the cores.
        let stop = running.stop.child_token();
        let hurry = running.hurry.clone();
        let worker = Worker { parts: Arc::clone(&parts), stop, hurry, port };
        running.threads.push(worker.start(number, listening)?);
    }
    running.start_following(&parts.store)?;
    running.start_housekeeping(parts)?;
    running.announce();
    Ok(running)
}

impl Running {
    /// Stops accepting, lets what is under way end within `server.drain`, and returns when all
    /// threads are gone.
    pub fn stop(mut self) {
        self.stop.cancel();
        for thread in self.threads.drain(..) {
            join(thread);
        }
        self.closing.cancel();
        for thread in self.housekeeping.take().into_iter().chain(self.changes.take()) {
            join(thread);
        }
        if let Some(audit) = &self.shared.audit {
            audit.close();
        }
        if let Some(hook) = &self.shared.hook {
            hook.close(&self.hurry);
        }
    }

    /// Cancelled, it ends a drain at once: what is under way is cut.
    pub fn hurry(&self) -> CancellationToken {
        self.hurry.clone()
    }

    /// Whether every thread still runs; one that is gone leaves its listeners deaf.
    pub fn is_whole(&self) -> bool {
        let beside = self.housekeeping.iter().chain(&self.changes);
        self.threads.iter().chain(beside).all(|thread| !thread.is_finished())
    }

    /// What all workers share, for the commands and tests of this process.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// On a thread of its own: a long listing in housekeeping must not make changes wait.
    fn start_following(&mut self, store: &Store) -> Result<(), StartError> {
        if store.changes().is_none() {
            return Ok(());
        }
        let (store, stop) = (store.clone(), self.closing.clone());
        let runtime = runtime()?;
        let thread = std::thread::Builder::new().name("changes".to_owned());
        self.changes = Some(thread.spawn(move || {
            runtime.block_on(stop.run_until_cancelled_owned(store.follow()));
        })?);
        Ok(())
    }

    fn start_housekeeping(&mut self, parts: Arc<Parts>) -> Result<(), StartError> {
        let stop = self.closing.clone();
        let (ready, started) = mpsc::channel();
        let runtime = runtime()?;
        let thread = std::thread::Builder::new().name("housekeeping".to_owned());
        self.housekeeping = Some(thread.spawn(move || {
            runtime.block_on(housekeeping::run(parts, stop, ready));
            // A database that is still being read must not hold up the stop.
            runtime.shutdown_background();
        })?);
        self.admin = started.recv().map_err(std::io::Error::other)??;
        Ok(())
    }

    fn announce(&self) {
        let all = self
            .https
            .iter()
            .map(|at| ("https", at))
            .chain(self.http.iter().map(|at| ("http", at)));
        for (scheme, address) in all.chain(self.admin.iter().map(|at| ("admin", at))) {
            info!(event = "listening", scheme, address = %address);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
        self.closing.cancel();
    }
}

fn join(thread: JoinHandle<()>) {
    if thread.join().is_err() {
        warn!("a worker ended by a panic");
    }
}

impl Parts {
    fn build(
        config: Config,
        clock: Clock,
        lines: Option<RequestLines>,
    ) -> Result<Parts, StartError> {
        let directory = match &config.login.password {
            Some(login) => Some(Arc::new(Directory::open(&login.users)?)),
            None => None,
        };
        let keys = keys::load_or_make(&config.keys_file)?;
        let audit = match &config.audit.file {
            Some(path) => Some(Audit::open(path.clone(), keys.audit().clone(), clock.clone())?),
            None => None,
        };
        let metrics = Metrics::default();
        let hook = notify::start(&config, &metrics)?;
        let shared = Arc::new(Shared::new(SharedParts {
            keys,
            clock: clock.clone(),
            policy: config.session.policy.clone(),
            max_per_user: config.session.max_per_user,
            cookies: CookieNames::new(config.session.domain.as_deref()),
            directory: directory.clone(),
            metrics,
            live: config.live.into(),
            audit,
            hook,
            signals: config.signals.settings.clone(),
        }));
        let mut atlas = AtlasFiles::new(&config.signals);
        shared.atlas.store(Arc::new(atlas.changed().unwrap_or_default()));
        let login = directory.map(|users| password_login(users, &clock)).transpose()?;
        let certificates = Certificates::load(&config.certificates)?;
        Ok(Parts {
            store: open_store(&config, clock)?,
            acceptor: Acceptor::new(certificates.server_config()?),
            certificates,
            login,
            look: Arc::new(look(&config)?),
            owned: Arc::new(OwnedFields::new(config.routes.iter().map(|route| &route.identity))),
            trusted: Arc::new(TrustedProxies::new(config.server.trusted_proxies.clone())),
            limits: Arc::new(limits(&config)),
            memory: Arc::default(),
            lines: lines.filter(|_| config.log.requests),
            atlas: Mutex::new(atlas),
            shared,
            config,
        })
    }

    /// Reads the databases of countries and operators that changed.
    fn reload_atlas(&self) {
        let mut files = self.atlas.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(atlas) = files.changed() {
            self.shared.atlas.store(Arc::new(atlas));
        }
    }

    /// A guard with a store handle for the runtime that asks.
    fn guard(&self) -> Guard {
        Guard::new(self.store.for_worker(), Arc::clone(&self.shared))
    }
}

fn password_login(users: Arc<Directory>, clock: &Clock) -> Result<Arc<PasswordLogin>, StartError> {
    let login = PasswordLogin::new(users, Settings::default(), clock);
    login.map(Arc::new).map_err(|error| StartError::Login(error.to_string()))
}

fn limits(config: &Config) -> Limits {
    let allowed = config.limits.clone();
    let room = Room {
        connections: files::connections(allowed.connections),
        per_network: allowed.connections_per_network,
        rate: allowed.connection_rate,
    };
    let proxy_protocol = config.server.proxy_protocol;
    let fingerprints = config.routes.iter().any(|route| route.policy.signals != Watch::Off);
    Limits { places: Arc::new(Places::new(room)), allowed, proxy_protocol, fingerprints }
}

fn look(config: &Config) -> Result<Look, StartError> {
    let style = match &config.portal.style {
        None => String::new(),
        Some(path) => std::fs::read_to_string(path)
            .map_err(|error| StartError::File { path: path.clone(), error })?,
    };
    Ok(Look { name: config.portal.name.clone(), style })
}

fn open_store(config: &Config, clock: Clock) -> Result<Store, StartError> {
    match &config.store.location {
        StoreLocation::Memory => Ok(Store::memory(clock)),
        StoreLocation::Embedded(directory) => Ok(Store::embedded(directory, clock)?),
        StoreLocation::Redis(location) => {
            Ok(Store::redis(&redis_settings(location, config.store.response_timeout)?)?)
        }
    }
}

fn redis_settings(
    location: &RedisLocation,
    timeout: Duration,
) -> Result<RedisSettings, StartError> {
    let secret = |file: &Option<PathBuf>, variable: &str| match file {
        Some(path) => read_secret(path).map(Some),
        // Set and empty is not set: that is how a unit file takes a variable back.
        None => {
            Ok(std::env::var(variable).ok().filter(|text| !text.is_empty()).map(Zeroizing::new))
        }
    };
    Ok(RedisSettings {
        url: location.url.clone(),
        ca: location.ca.clone(),
        client_cert: location.client_cert.clone(),
        client_key: location.client_key.clone(),
        username: location.username.clone(),
        password: secret(&location.password_file, STORE_PASSWORD)?,
        sentinel_username: location.sentinel_username.clone(),
        sentinel_password: secret(&location.sentinel_password_file, SENTINEL_PASSWORD)?,
        wait_replicas: location.wait_replicas,
        wait_timeout: location.wait_timeout,
        response_timeout: timeout,
        local_cache: location.local_cache,
    })
}

fn read_secret(path: &Path) -> Result<Zeroizing<String>, StartError> {
    let text = std::fs::read_to_string(path)
        .map(Zeroizing::new)
        .map_err(|error| StartError::File { path: path.to_owned(), error })?;
    Ok(Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned()))
}

fn workers(config: &Config) -> usize {
    match config.server.workers {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get),
        number => number,
    }
}

fn bind_all(addresses: &[SocketAddr], workers: usize) -> Result<Vec<Sockets>, StartError> {
    addresses.iter().map(|address| Ok(server::bind(*address, workers)?)).collect()
}

/// The sockets of one worker.
#[derive(Default)]
struct Listening {
    https: Vec<StdListener>,
    http: Vec<StdListener>,
}

impl Listening {
    fn per_worker(https: Vec<Sockets>, http: Vec<Sockets>, workers: usize) -> Vec<Listening> {
        let mut sets: Vec<Listening> =
            std::iter::repeat_with(Listening::default).take(workers).collect();
        for sockets in https {
            sets.iter_mut()
                .zip(sockets.per_worker)
                .for_each(|(set, socket)| set.https.push(socket));
        }
        for sockets in http {
            sets.iter_mut().zip(sockets.per_worker).for_each(|(set, socket)| set.http.push(socket));
        }
        sets
    }
}

/// One core's share of the work.
struct Worker {
    parts: Arc<Parts>,
    stop: CancellationToken,
    hurry: CancellationToken,
    port: u16,
}

impl Worker {
    fn start(self, number: usize, listening: Listening) -> Result<JoinHandle<()>, StartError> {
        // What can fail fails here, before anything serves.
        let upstreams = UpstreamGroups::new(self.parts.config.routes.iter())?;
        let runtime = runtime()?;
        let thread = std::thread::Builder::new().name(format!("worker {}", number + 1));
        Ok(thread.spawn(move || {
            runtime.block_on(self.run(listening, upstreams));
            // Tunnels are cut when the drain is over.
            runtime.shutdown_timeout(Duration::from_millis(100));
        })?)
    }

    async fn run(self, listening: Listening, upstreams: UpstreamGroups) {
        let tracker = TaskTracker::new();
        let tunnels = Tunnels { tracker: tracker.clone(), stop: self.stop.clone() };
        let gateway = Arc::new(self.gateway(upstreams, tunnels));
        let watched = Arc::clone(&gateway);
        tokio::spawn(async move { watched.pressure.watch().await });
        let redirect = Arc::new(Redirect { routes: Arc::clone(&gateway.routes), port: self.port });
        if let Some(log) = gateway.log.clone() {
            tokio::spawn(flush_often(log));
        }
        let limits = &self.parts.limits;
        for listener in listening.https.into_iter().filter_map(registered) {
            let (gateway, limits) = (Arc::clone(&gateway), Arc::clone(limits));
            let (stop, tasks) = (self.stop.clone(), tracker.clone());
            let acceptor = self.parts.acceptor.clone();
            tracker.spawn(server::serve_https(listener, acceptor, gateway, limits, stop, tasks));
        }
        for listener in listening.http.into_iter().filter_map(registered) {
            let (redirect, limits) = (Arc::clone(&redirect), Arc::clone(limits));
            tracker.spawn(server::serve_redirects(
                listener,
                redirect,
                Arc::clone(&gateway),
                limits,
                self.stop.clone(),
                tracker.clone(),
            ));
        }
        self.drain(tracker).await;
    }

    fn gateway(&self, upstreams: UpstreamGroups, tunnels: Tunnels) -> Gateway {
        let parts = &self.parts;
        let (guard, routes) = (parts.guard(), Arc::new(parts.config.routes.clone()));
        let (login, look) = (parts.login.clone(), Arc::clone(&parts.look));
        Gateway {
            portal: Portal::new(guard.clone(), login, look, Arc::clone(&routes)),
            guard,
            routes,
            owned: Arc::clone(&parts.owned),
            upstreams,
            trusted: Arc::clone(&parts.trusted),
            most_fields: parts.limits.allowed.headers,
            pressure: Pressure::new(self.most_requests(), Arc::clone(&parts.memory)),
            tunnels,
            certificates: Some(Arc::clone(&parts.certificates)),
            ids: RequestIds::new(random_bytes()),
            hsts: parts.config.server.hsts.clone(),
            proxy_status: parts.config.server.proxy_status,
            log: parts.lines.clone().map(|lines| Arc::new(RequestLog::new(lines))),
        }
    }

    /// This worker's share.
    fn most_requests(&self) -> usize {
        self.parts.limits.allowed.requests.div_ceil(workers(&self.parts.config))
    }

    /// Waits for the stop, then for what is under way, but no longer than `server.drain`, and no more
    /// once somebody is in a hurry.
    async fn drain(&self, tracker: TaskTracker) {
        self.stop.cancelled().await;
        tracker.close();
        let drained = self.hurry.run_until_cancelled(tracker.wait());
        let drained = tokio::time::timeout(self.parts.config.server.drain, drained).await;
        if !matches!(drained, Ok(Some(()))) {
            warn!(
                event = "drain-cut",
                left = tracker.len(),
                "the drain is over; cutting what is left"
            );
        }
    }
}

/// No line waits long for company.
async fn flush_often(log: Arc<RequestLog>) {
    let mut tick = tokio::time::interval(FLUSH_EVERY);
    loop {
        tick.tick().await;
        log.flush();
    }
}

fn registered(listener: StdListener) -> Option<TcpListener> {
    TcpListener::from_std(listener)
        .inspect_err(|error| warn!(%error, "a listener cannot be used"))
        .ok()
}

/// Tasks that a worker runs before it looks for news from its sockets. By itself it would be 61: while
/// thousands of tasks are ready, whoever becomes so then waits for as many, and only then gets in line.
const EVENTS_EVERY: u32 = 8;

fn runtime() -> Result<Runtime, std::io::Error> {
    Builder::new_current_thread().enable_all().event_interval(EVENTS_EVERY).build()
}
