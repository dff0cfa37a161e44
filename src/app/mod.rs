//! Composition root: builds the gateway from a checked configuration, and contains no rules.
//!
//! ```text
//! main thread        binds all sockets, starts the threads, waits for a signal
//! worker 1 … n       one current-thread runtime each: listeners, proxy, connection pool, store handle
//! invalidation       with a Redis store: receives the changes of other gateways
//! maintenance        admin listeners, reloads, sweeps, close of connections whose session ended
//! notify             with [notify]: delivery of notifications
//! ```

mod geoip_files;
mod keys;
mod maintenance;
mod memory;
pub mod notify;
mod rlimit;

pub use geoip_files::read_geoip_databases;
pub use keys::KeysError;

use geoip_files::GeoIpFiles;

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

use crate::audit::{AuditFileError, AuditLog};
use crate::auth::Auth;
use crate::clock::Clock;
use crate::config::{Config, RedisLocation, StoreLocation};
use crate::identity::{Directory, LoginMethod, LoginMethods, PasswordLogin, PasswordSettings};
use crate::message::{CookieNames, RequestIds, ReservedHeaders};
use crate::portal::{Branding, Portal};
use crate::proxy::{
    Authorizer, MemoryLoad, OverloadMonitor, Proxy, Responder, TrustedProxies, Tunnels,
    UpstreamClusters,
};
use crate::secret::random_bytes;
use crate::server::{self, ConnectionLimiter, ConnectionLimits, Redirect, ServerLimits, Sockets};
use crate::session::SignalsMode;
use crate::sessions::{Sessions, Shared, SharedParts};
use crate::store::{RedisSettings, Store};
use crate::telemetry::access_log::FLUSH_INTERVAL;
use crate::telemetry::{AccessLog, AccessLogWriter, Metrics};
use crate::tls::{Certificates, HandshakeAcceptor};

/// Environment variables that hold the store passwords if no file is configured.
const STORE_PASSWORD: &str = "DOORWARD_STORE_PASSWORD";
const SENTINEL_PASSWORD: &str = "DOORWARD_SENTINEL_PASSWORD";

/// Start error. The text names the file or address, and what to do.
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

/// A running gateway. Dropping it stops it at once; [`Running::stop`] drains first.
pub struct Running {
    pub https: Vec<SocketAddr>,
    pub http: Vec<SocketAddr>,
    pub admin: Option<SocketAddr>,
    stop: CancellationToken,
    /// Ends the drain early.
    force_shutdown: CancellationToken,
    workers: Vec<JoinHandle<()>>,
    /// Stops maintenance and invalidation. Cancelled after the workers have ended, because their last
    /// requests still write to the store.
    background_stop: CancellationToken,
    maintenance: Option<JoinHandle<()>>,
    /// None unless the store is shared.
    invalidation: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
}

/// The parts that all workers share.
struct Components {
    config: Config,
    shared: Arc<Shared>,
    store: Store,
    certificates: Arc<Certificates>,
    /// Shared, so that every worker resumes the TLS sessions of the others.
    acceptor: HandshakeAcceptor,
    login: Option<Arc<PasswordLogin>>,
    branding: Arc<Branding>,
    reserved_headers: Arc<ReservedHeaders>,
    trusted_proxies: Arc<TrustedProxies>,
    limits: Arc<ServerLimits>,
    memory_load: Arc<MemoryLoad>,
    access_log: Option<AccessLogWriter>,
    geoip_files: Mutex<GeoIpFiles>,
}

/// Starts a gateway. Returns once every socket listens and every worker runs.
///
/// Requests are logged to `access_log` if it is given and `log.requests` is on.
pub fn start(
    config: Config,
    clock: Clock,
    access_log: Option<AccessLogWriter>,
) -> Result<Running, StartError> {
    let workers = workers(&config);
    let components = Arc::new(Components::build(config, clock, access_log)?);
    let https = bind_all(&components.config.server.https, workers)?;
    let http = bind_all(&components.config.server.http, workers)?;
    let mut running = Running {
        https: https.iter().map(|sockets| sockets.address).collect(),
        http: http.iter().map(|sockets| sockets.address).collect(),
        admin: None,
        stop: CancellationToken::new(),
        force_shutdown: CancellationToken::new(),
        workers: Vec::new(),
        background_stop: CancellationToken::new(),
        maintenance: None,
        invalidation: None,
        shared: Arc::clone(&components.shared),
    };
    let port = running.https.first().map_or(443, SocketAddr::port);
    let mut sets = WorkerSockets::per_worker(https, http, workers);
    for (number, sockets) in sets.drain(..).enumerate() {
        // One child token for each worker: every connection polls it at every wake-up, and a shared token
        // is one lock for all cores.
        let stop = running.stop.child_token();
        let force_shutdown = running.force_shutdown.clone();
        let worker = Worker { components: Arc::clone(&components), stop, force_shutdown, port };
        running.workers.push(worker.start(number, sockets)?);
    }
    running.start_invalidation(&components.store)?;
    running.start_maintenance(components)?;
    running.log_listeners();
    Ok(running)
}

impl Running {
    /// Stops accepting, drains for at most `server.drain`, and returns when all threads have ended.
    pub fn stop(mut self) {
        self.stop.cancel();
        for thread in self.workers.drain(..) {
            join(thread);
        }
        self.background_stop.cancel();
        for thread in self.maintenance.take().into_iter().chain(self.invalidation.take()) {
            join(thread);
        }
        if let Some(audit) = &self.shared.events.audit {
            audit.close();
        }
        if let Some(notifier) = &self.shared.events.notifier {
            notifier.close(&self.force_shutdown);
        }
    }

    /// Returns a token whose cancellation ends the drain and closes all connections.
    pub fn force_shutdown(&self) -> CancellationToken {
        self.force_shutdown.clone()
    }

    /// Returns whether every thread still runs. The listeners of an ended worker accept no connections.
    pub fn all_threads_alive(&self) -> bool {
        let background = self.maintenance.iter().chain(&self.invalidation);
        self.workers.iter().chain(background).all(|thread| !thread.is_finished())
    }

    /// Returns the state that all workers share, for commands and tests.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Starts a separate thread, so that a long session listing in maintenance does not delay invalidation.
    fn start_invalidation(&mut self, store: &Store) -> Result<(), StartError> {
        if store.subscribe().is_none() {
            return Ok(());
        }
        let (store, stop) = (store.clone(), self.background_stop.clone());
        let runtime = runtime()?;
        let thread = std::thread::Builder::new().name("invalidation".to_owned());
        self.invalidation = Some(thread.spawn(move || {
            runtime.block_on(stop.run_until_cancelled_owned(store.run_invalidation()));
        })?);
        Ok(())
    }

    fn start_maintenance(&mut self, components: Arc<Components>) -> Result<(), StartError> {
        let stop = self.background_stop.clone();
        let (ready, started) = mpsc::channel();
        let runtime = runtime()?;
        let thread = std::thread::Builder::new().name("maintenance".to_owned());
        self.maintenance = Some(thread.spawn(move || {
            runtime.block_on(maintenance::run(components, stop, ready));
            // Does not wait for a GeoIP database that is still loading.
            runtime.shutdown_background();
        })?);
        self.admin = started.recv().map_err(std::io::Error::other)??;
        Ok(())
    }

    fn log_listeners(&self) {
        let all = self
            .https
            .iter()
            .map(|at| ("https", at))
            .chain(self.http.iter().map(|at| ("http", at)));
        for (scheme, address) in all.chain(self.admin.iter().map(|at| ("admin", at))) {
            info!(event = "gateway.listening", scheme, address = %address);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
        self.background_stop.cancel();
    }
}

fn join(thread: JoinHandle<()>) {
    if thread.join().is_err() {
        warn!(event = "worker.panicked", "a thread panicked");
    }
}

impl Components {
    fn build(
        config: Config,
        clock: Clock,
        access_log: Option<AccessLogWriter>,
    ) -> Result<Components, StartError> {
        let login = match &config.login.password {
            Some(login) => Some(password_login(Arc::new(Directory::open(&login.users)?), &clock)?),
            None => None,
        };
        let keys = keys::load_or_create(&config.keys_file)?;
        let audit = match &config.audit.file {
            Some(path) => Some(AuditLog::open(path.clone(), keys.audit().clone(), clock.clone())?),
            None => None,
        };
        let metrics = Metrics::default();
        let notifier = notify::start(&config, &metrics)?;
        let shared = Arc::new(Shared::new(SharedParts {
            keys,
            clock: clock.clone(),
            policy: config.session.policy.clone(),
            max_per_user: config.session.max_per_user,
            cookies: CookieNames::new(config.session.domain.as_deref()),
            login_methods: LoginMethods::new(
                login.clone().map(LoginMethod::Password).into_iter().collect(),
            ),
            metrics,
            connection_limits: config.long_lived.into(),
            audit,
            notifier,
            risk: config.signals.settings.clone(),
        }));
        let mut geoip_files = GeoIpFiles::new(&config.signals);
        shared.risk.geoip.store(Arc::new(geoip_files.reload_if_changed().unwrap_or_default()));
        let certificates = Certificates::load(&config.certificates)?;
        Ok(Components {
            store: open_store(&config, clock)?,
            acceptor: HandshakeAcceptor::new(certificates.server_config()?),
            certificates,
            login,
            branding: Arc::new(branding(&config)?),
            reserved_headers: Arc::new(ReservedHeaders::new(
                config.routes.iter().map(|route| &route.identity),
            )),
            trusted_proxies: Arc::new(TrustedProxies::new(config.server.trusted_proxies.clone())),
            limits: Arc::new(limits(&config)),
            memory_load: Arc::default(),
            access_log: access_log.filter(|_| config.log.requests),
            geoip_files: Mutex::new(geoip_files),
            shared,
            config,
        })
    }

    /// Reloads the GeoIP databases that changed.
    fn reload_geoip(&self) {
        let mut files = self.geoip_files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(geoip) = files.reload_if_changed() {
            self.shared.risk.geoip.store(Arc::new(geoip));
        }
    }

    /// Returns session services with a store handle for the calling runtime.
    fn sessions(&self) -> Sessions {
        Sessions::new(self.store.for_worker(), Arc::clone(&self.shared))
    }
}

fn password_login(users: Arc<Directory>, clock: &Clock) -> Result<Arc<PasswordLogin>, StartError> {
    let login = PasswordLogin::new(users, PasswordSettings::default(), clock);
    login.map(Arc::new).map_err(|error| StartError::Login(error.to_string()))
}

fn limits(config: &Config) -> ServerLimits {
    let configured = config.limits.clone();
    let connection_limits = ConnectionLimits {
        connections: rlimit::max_connections(configured.connections),
        per_network: configured.connections_per_network,
        rate: configured.connection_rate,
    };
    let proxy_protocol = config.server.proxy_protocol;
    let fingerprints = config.routes.iter().any(|route| route.policy.signals != SignalsMode::Off);
    ServerLimits {
        limiter: Arc::new(ConnectionLimiter::new(connection_limits)),
        configured,
        proxy_protocol,
        fingerprints,
    }
}

fn branding(config: &Config) -> Result<Branding, StartError> {
    let style = match &config.portal.style {
        None => String::new(),
        Some(path) => std::fs::read_to_string(path)
            .map_err(|error| StartError::File { path: path.clone(), error })?,
    };
    Ok(Branding { name: config.portal.name.clone(), style })
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
        // An empty variable counts as unset: a systemd unit resets a variable that way.
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
struct WorkerSockets {
    https: Vec<StdListener>,
    http: Vec<StdListener>,
}

impl WorkerSockets {
    fn per_worker(https: Vec<Sockets>, http: Vec<Sockets>, workers: usize) -> Vec<WorkerSockets> {
        let mut sets: Vec<WorkerSockets> =
            std::iter::repeat_with(WorkerSockets::default).take(workers).collect();
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

/// A worker thread: one runtime with its own proxy and upstream connections.
struct Worker {
    components: Arc<Components>,
    stop: CancellationToken,
    force_shutdown: CancellationToken,
    port: u16,
}

impl Worker {
    fn start(self, number: usize, sockets: WorkerSockets) -> Result<JoinHandle<()>, StartError> {
        // Everything that can fail is built before the thread serves requests.
        let upstreams = UpstreamClusters::new(self.components.config.routes.iter())?;
        let runtime = runtime()?;
        let thread = std::thread::Builder::new().name(format!("worker {}", number + 1));
        Ok(thread.spawn(move || {
            runtime.block_on(self.run(sockets, upstreams));
            // Closes the tunnels that are left after the drain.
            runtime.shutdown_timeout(Duration::from_millis(100));
        })?)
    }

    async fn run(self, sockets: WorkerSockets, upstreams: UpstreamClusters) {
        let tracker = TaskTracker::new();
        let tunnels = Tunnels { tracker: tracker.clone(), stop: self.stop.clone() };
        let proxy = Arc::new(self.proxy(upstreams, tunnels));
        let monitored = Arc::clone(&proxy);
        tokio::spawn(async move { monitored.authorizer.overload.watch_lag().await });
        let routes = Arc::clone(&proxy.authorizer.routes);
        let redirect = Arc::new(Redirect { routes, port: self.port });
        if let Some(log) = proxy.responder.access_log.clone() {
            tokio::spawn(flush_periodically(log));
        }
        let limits = &self.components.limits;
        for listener in sockets.https.into_iter().filter_map(into_tokio) {
            let (proxy, limits) = (Arc::clone(&proxy), Arc::clone(limits));
            let (stop, tasks) = (self.stop.clone(), tracker.clone());
            let acceptor = self.components.acceptor.clone();
            tracker.spawn(server::serve_https(listener, acceptor, proxy, limits, stop, tasks));
        }
        for listener in sockets.http.into_iter().filter_map(into_tokio) {
            let (redirect, limits) = (Arc::clone(&redirect), Arc::clone(limits));
            tracker.spawn(server::serve_redirects(
                listener,
                redirect,
                Arc::clone(&proxy),
                limits,
                self.stop.clone(),
                tracker.clone(),
            ));
        }
        self.drain(tracker).await;
    }

    fn proxy(&self, upstreams: UpstreamClusters, tunnels: Tunnels) -> Proxy {
        let components = &self.components;
        let (auth, routes) =
            (Auth::new(components.sessions()), Arc::new(components.config.routes.clone()));
        let (login, branding) = (components.login.clone(), Arc::clone(&components.branding));
        let overload =
            OverloadMonitor::new(self.max_requests(), Arc::clone(&components.memory_load));
        let certificates = Some(Arc::clone(&components.certificates));
        let responder = Responder {
            auth: auth.clone(),
            hsts: components.config.server.hsts.clone(),
            proxy_status: components.config.server.proxy_status,
            access_log: components.access_log.clone().map(|lines| Arc::new(AccessLog::new(lines))),
        };
        Proxy {
            portal: Portal::new(auth.clone(), login, branding, Arc::clone(&routes)),
            authorizer: Authorizer { auth: auth.clone(), routes, certificates, overload },
            auth,
            reserved_headers: Arc::clone(&components.reserved_headers),
            upstreams,
            trusted_proxies: Arc::clone(&components.trusted_proxies),
            max_headers: components.limits.configured.headers,
            tunnels,
            request_ids: RequestIds::new(random_bytes()),
            responder,
        }
    }

    /// Returns this worker's share of `limits.requests`.
    fn max_requests(&self) -> usize {
        self.components.limits.configured.requests.div_ceil(workers(&self.components.config))
    }

    /// Waits for the stop, then until all connections have ended, `server.drain` has passed or the
    /// shutdown is forced.
    async fn drain(&self, tracker: TaskTracker) {
        self.stop.cancelled().await;
        tracker.close();
        let drained = self.force_shutdown.run_until_cancelled(tracker.wait());
        let drained = tokio::time::timeout(self.components.config.server.drain, drained).await;
        if !matches!(drained, Ok(Some(()))) {
            warn!(
                event = "gateway.drain-timed-out",
                remaining = tracker.len(),
                "drain ended early; closing the remaining connections"
            );
        }
    }
}

/// Flushes buffered access log entries, so that none is delayed for long.
async fn flush_periodically(log: Arc<AccessLog>) {
    let mut tick = tokio::time::interval(FLUSH_INTERVAL);
    loop {
        tick.tick().await;
        log.flush();
    }
}

fn into_tokio(listener: StdListener) -> Option<TcpListener> {
    TcpListener::from_std(listener)
        .inspect_err(|error| warn!(event = "listener.failed", %error, "a listener cannot be used"))
        .ok()
}

/// Tasks that a worker polls before it polls its sockets. With tokio's default of 61 and thousands of ready
/// tasks, a newly readable socket waits too long for its turn.
const EVENT_INTERVAL: u32 = 8;

fn runtime() -> Result<Runtime, std::io::Error> {
    Builder::new_current_thread().enable_all().event_interval(EVENT_INTERVAL).build()
}
