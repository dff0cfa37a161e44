//! Composition root: builds the gateway from a checked configuration, and contains no rules.
//!
//! ```text
//! main thread        binds all sockets, starts the threads, waits for a signal
//! worker 1 … n       one current-thread runtime each: listeners, proxy, connection pool, store handle
//! invalidation       with a Redis store: receives the changes of other gateways
//! maintenance        admin listeners, reloads, sweeps, close of connections whose session ended
//! notify             with [notify]: delivery of notifications
//! ```

mod components;
mod gateway;
mod geoip_files;
mod keys;
mod ldap;
mod maintenance;
mod memory;
pub mod notify;
mod oidc;
mod preflight;
mod reload;
mod rlimit;
mod runtime;
mod secrets;
mod snapshot;
mod start_error;
mod worker;

pub use gateway::ConfigSource;
pub use geoip_files::read_geoip_databases;
pub use keys::{KeysError, signing_key, signs_from};
pub use preflight::Preflight;
pub use start_error::StartError;

use std::net::SocketAddr;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::admin::{ReloadMode, ReloadReport};
use crate::clock::Clock;
use crate::config::Config;
use crate::identity::private_file::create_private_directory;
use crate::server::{self, InheritedSockets, Sockets};
use crate::sessions::{SessionSettings, Shared};
use crate::telemetry::AccessLogWriter;

use components::Components;
use gateway::Gateway;
use runtime::runtime;
use snapshot::Snapshot;
use worker::{ListenerPorts, WorkerSockets};

/// A running gateway. Dropping it stops it at once; [`Running::stop`] drains first.
pub struct Running {
    pub https: Vec<SocketAddr>,
    pub http: Vec<SocketAddr>,
    pub admin: Option<SocketAddr>,
    /// Cancelled first: `/ready` responds with 503 from then on.
    draining: CancellationToken,
    drain_delay: Duration,
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
    gateway: Arc<Gateway>,
}

/// Starts a gateway. Returns once every socket listens and every worker runs.
///
/// Requests are logged to `access_log` if it is given and `log.requests` is on.
pub fn start(
    config: Config,
    clock: Clock,
    access_log: Option<AccessLogWriter>,
) -> Result<Running, StartError> {
    start_on(InheritedSockets::default(), config, clock, access_log)
}

/// Like [`start`], with listening sockets of the service manager.
pub fn start_on(
    mut inherited: InheritedSockets,
    config: Config,
    clock: Clock,
    access_log: Option<AccessLogWriter>,
) -> Result<Running, StartError> {
    create_state_dir(&config)?;
    let snapshot = Snapshot::build(config, &clock, None)?;
    let components = Components::build(&snapshot, clock, access_log)?;
    let workers = snapshot.workers;
    let https = bind_all(&snapshot.config.server.https, workers, &mut inherited)?;
    let http = bind_all(&snapshot.config.server.http, workers, &mut inherited)?;
    inherited.expect_none_left()?;
    let stop = CancellationToken::new();
    let ports = ListenerPorts::new(&https, &http);
    let mut running = Running {
        https: https.iter().map(|sockets| sockets.address).collect(),
        http: http.iter().map(|sockets| sockets.address).collect(),
        admin: None,
        draining: CancellationToken::new(),
        drain_delay: snapshot.config.server.drain_delay,
        gateway: Arc::new(Gateway::new(components, snapshot, &stop, &ports)?),
        stop,
        force_shutdown: CancellationToken::new(),
        workers: Vec::new(),
        background_stop: CancellationToken::new(),
        maintenance: None,
        invalidation: None,
    };
    running.start_workers(https, http)?;
    running.start_invalidation()?;
    running.start_maintenance()?;
    running.log_listeners();
    Ok(running)
}

/// Creates the state directory, if the gateway writes to it.
fn create_state_dir(config: &Config) -> Result<(), StartError> {
    let path = &config.server.state_dir;
    let is_used = config.written_paths().any(|file| file.starts_with(path));
    let created = if is_used { create_private_directory(path) } else { Ok(()) };
    created.map_err(|error| StartError::File { path: path.clone(), error })
}

fn bind_all(
    addresses: &[SocketAddr],
    workers: usize,
    inherited: &mut InheritedSockets,
) -> Result<Vec<Sockets>, StartError> {
    addresses.iter().map(|address| Ok(server::bind(*address, workers, inherited)?)).collect()
}

impl Running {
    /// Reports that the gateway is not ready, goes on for `server.drain_delay`, stops accepting, drains for
    /// at most `server.drain`, and returns when all threads have ended.
    pub fn stop(mut self) {
        self.draining.cancel();
        self.wait_for_load_balancers();
        self.stop.cancel();
        for thread in self.workers.drain(..) {
            join(thread);
        }
        self.background_stop.cancel();
        for thread in self.maintenance.take().into_iter().chain(self.invalidation.take()) {
            join(thread);
        }
        if let Some(audit) = &self.shared().events.audit {
            audit.close();
        }
        if let Some(notifier) = &self.shared().events.notifier {
            notifier.close(&self.force_shutdown);
        }
    }

    /// Waits until load balancers have seen that `/ready` fails. A second signal ends the wait.
    fn wait_for_load_balancers(&self) {
        let end = Instant::now() + self.drain_delay;
        while Instant::now() < end && !self.force_shutdown.is_cancelled() {
            let left = end.saturating_duration_since(Instant::now());
            std::thread::sleep(left.min(Duration::from_millis(50)));
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

    /// Allows reloads, which load the configuration with `source`.
    pub fn allow_reload(&self, source: ConfigSource) {
        // A second source is ignored.
        self.gateway.source.set(source).unwrap_or_default();
    }

    /// Loads the configuration again. The report states why it could not be applied, if so. Blocks while
    /// files are read.
    pub fn reload(&self, mode: ReloadMode) -> ReloadReport {
        self.gateway.reload(mode)
    }

    /// Returns the text of the running configuration if `server.watch` is on.
    pub fn watched_config(&self) -> Option<String> {
        let snapshot = self.gateway.snapshot.load();
        snapshot.config.server.watch.then(|| snapshot.config.source.clone())
    }

    /// Returns the state that all workers share, for commands and tests.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.gateway.components.shared
    }

    /// Returns the session settings of the current configuration, for tests.
    pub fn session_settings(&self) -> Arc<SessionSettings> {
        Arc::clone(&self.gateway.snapshot.load().sessions)
    }

    fn start_workers(&mut self, https: Vec<Sockets>, http: Vec<Sockets>) -> std::io::Result<()> {
        let workers = self.gateway.workers.iter().map(Arc::clone);
        let sockets = WorkerSockets::per_worker(https, http, self.gateway.workers.len());
        for (number, (worker, sockets)) in workers.zip(sockets).enumerate() {
            self.workers.push(worker.start(number, sockets, self.force_shutdown.clone())?);
        }
        Ok(())
    }

    /// Starts a separate thread, so that a long session listing in maintenance does not delay invalidation.
    fn start_invalidation(&mut self) -> Result<(), StartError> {
        let store = &self.gateway.components.store;
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

    fn start_maintenance(&mut self) -> Result<(), StartError> {
        let gateway = Arc::clone(&self.gateway);
        let (stop, draining) = (self.background_stop.clone(), self.draining.clone());
        let (ready, started) = mpsc::channel();
        let runtime = runtime()?;
        let thread = std::thread::Builder::new().name("maintenance".to_owned());
        self.maintenance = Some(thread.spawn(move || {
            runtime.block_on(maintenance::run(gateway, [stop, draining], ready));
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
