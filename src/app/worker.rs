//! Worker threads: each has its own runtime, listeners, proxy and upstream connections.

use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::auth::Auth;
use crate::config;
use crate::identity::PasswordLogin;
use crate::message::RequestIds;
use crate::portal::Portal;
use crate::proxy::{
    Assertions, Authorizer, ExchangeContext, Forwarder, OverloadMonitor, Proxy, Responder,
    SharedEndpoints, Tunnels, UpstreamClusters,
};
use crate::route::RouteTable;
use crate::secret::random_bytes;
use crate::server::{
    self, ConnectionLimiter, CurrentSnapshot, Redirect, RedirectPort, Sockets, WorkerSnapshot,
};
use crate::sessions::{Sessions, Shared};
use crate::store::Store;
use crate::telemetry::access_log::FLUSH_INTERVAL;
use crate::telemetry::{AccessLog, RouteMetricsTable};
use crate::tls::{Certificates, HandshakeAcceptor};

use super::components::Components;
use super::runtime::runtime;
use super::snapshot::Snapshot;
use super::start_error::StartError;

/// The sockets of one worker.
#[derive(Default)]
pub(super) struct WorkerSockets {
    https: Vec<StdListener>,
    http: Vec<StdListener>,
}

impl WorkerSockets {
    /// Distributes the sockets of every address over the workers.
    pub(super) fn per_worker(
        https: Vec<Sockets>,
        http: Vec<Sockets>,
        workers: usize,
    ) -> Vec<WorkerSockets> {
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

/// A worker thread: one runtime with its own listeners and upstream connections.
pub(super) struct Worker {
    parts: WorkerParts,
    current: CurrentSnapshot,
}

/// The long-lived parts of one worker.
struct WorkerParts {
    shared: Arc<Shared>,
    /// Store handle of the worker's runtime.
    store: Store,
    certificates: Arc<Certificates>,
    acceptor: HandshakeAcceptor,
    login: Option<Arc<PasswordLogin>>,
    limiter: Arc<ConnectionLimiter>,
    overload: Arc<OverloadMonitor>,
    endpoints: Arc<SharedEndpoints>,
    access_log: Option<Arc<AccessLog>>,
    tracker: TaskTracker,
    stop: CancellationToken,
    ports: ListenerPorts,
}

/// Ports of the listeners. They outlive every configuration.
#[derive(Clone, Debug)]
pub(super) struct ListenerPorts {
    https: Vec<u16>,
    has_http_80: bool,
}

impl ListenerPorts {
    pub(super) fn new(https: &[Sockets], http: &[Sockets]) -> ListenerPorts {
        ListenerPorts {
            https: https.iter().map(|sockets| sockets.address.port()).collect(),
            has_http_80: http.iter().any(|sockets| sockets.address.port() == 80),
        }
    }

    /// Returns the ports of https URLs.
    fn public(&self, server: &config::Server) -> Arc<[u16]> {
        self.https.iter().copied().chain(server.public_port).collect()
    }

    fn redirect(&self, server: &config::Server) -> RedirectPort {
        RedirectPort {
            public: server.public_port,
            https: self.https.first().copied().unwrap_or(443),
            has_http_80: self.has_http_80,
        }
    }
}

/// Parts of a worker's snapshot that the next one may keep.
struct KeptParts<'a> {
    upstreams: &'a UpstreamClusters,
    route_metrics: &'a RouteMetricsTable,
    public_stop: CancellationToken,
}

impl WorkerParts {
    fn new(components: &Components, stop: CancellationToken, ports: ListenerPorts) -> WorkerParts {
        WorkerParts {
            shared: Arc::clone(&components.shared),
            store: components.store.for_worker(),
            certificates: Arc::clone(&components.certificates),
            acceptor: components.acceptor.clone(),
            login: components.login.clone(),
            limiter: Arc::clone(&components.limiter),
            overload: Arc::new(OverloadMonitor::new(Arc::clone(&components.memory_load))),
            endpoints: Arc::clone(&components.endpoints),
            access_log: components.access_log.clone().map(|lines| Arc::new(AccessLog::new(lines))),
            tracker: TaskTracker::new(),
            stop,
            ports,
        }
    }

    /// Derives the worker's part of a snapshot.
    ///
    /// # Errors
    /// A CA file of a route cannot be read.
    fn snapshot(
        &self,
        snapshot: &Snapshot,
        kept: KeptParts<'_>,
    ) -> Result<WorkerSnapshot, StartError> {
        // A copy for each worker: requests count references to routes, and workers would contend for them.
        let routes = Arc::new(RouteTable::clone(&snapshot.routes));
        let (limiter, metrics) = (Arc::clone(&self.limiter), self.shared.metrics.clone());
        let redirect = self.ports.redirect(&snapshot.config.server);
        Ok(WorkerSnapshot {
            proxy: Arc::new(self.proxy(snapshot, &routes, kept)?),
            redirect: Arc::new(Redirect { routes, port: redirect }),
            limits: Arc::new(snapshot.server_limits(limiter, metrics)),
            drain: snapshot.config.server.drain,
        })
    }

    fn proxy(
        &self,
        snapshot: &Snapshot,
        routes: &Arc<RouteTable>,
        kept: KeptParts<'_>,
    ) -> Result<Proxy, StartError> {
        let server = &snapshot.config.server;
        let (shared, settings) = (Arc::clone(&self.shared), Arc::clone(&snapshot.sessions));
        let auth = Auth::new(Sessions::new(self.store.clone(), shared, settings));
        let (login, branding) = (self.login.clone(), Arc::clone(&snapshot.branding));
        let context = ExchangeContext {
            auth: auth.clone(),
            routes: Arc::clone(routes),
            upstreams: UpstreamClusters::new(routes, kept.upstreams, &self.endpoints)?,
            tunnels: Tunnels {
                tracker: self.tracker.clone(),
                stop: self.stop.clone(),
                public_stop: kept.public_stop,
            },
        };
        Ok(Proxy {
            forwarder: Arc::new(Forwarder {
                context,
                portal: Portal::new(auth.clone(), login, branding, Arc::clone(routes)),
                dropped_headers: Arc::clone(&snapshot.dropped_headers),
                trusted_proxies: Arc::clone(&snapshot.trusted_proxies),
                public_ports: self.ports.public(server),
                assertions: Assertions::default(),
            }),
            authorizer: Authorizer {
                auth: auth.clone(),
                routes: Arc::clone(routes),
                certificates: Some(Arc::clone(&self.certificates)),
                client_auth: snapshot.config.client_auth.clone(),
                overload: Arc::clone(&self.overload),
                max_in_flight: snapshot.requests_per_worker(),
            },
            responder: Arc::new(Responder {
                auth: auth.clone(),
                hsts: server.hsts.clone(),
                proxy_status: server.proxy_status,
                access_log: self.access_log.clone(),
                route_metrics: self.shared.metrics.routes(routes, kept.route_metrics),
            }),
            auth,
            trusted_proxies: Arc::clone(&snapshot.trusted_proxies),
            max_headers: snapshot.config.limits.headers,
            max_header_bytes: snapshot.config.limits.header_bytes,
            request_ids: RequestIds::new(random_bytes()),
        })
    }
}

impl Worker {
    /// Builds everything that can fail, before the thread serves requests.
    ///
    /// # Errors
    /// A CA file of a route cannot be read.
    pub(super) fn new(
        components: &Components,
        snapshot: &Snapshot,
        stop: CancellationToken,
        ports: &ListenerPorts,
    ) -> Result<Worker, StartError> {
        let public_stop = stop.child_token();
        let parts = WorkerParts::new(components, stop, ports.clone());
        let (upstreams, route_metrics) =
            (&UpstreamClusters::default(), &RouteMetricsTable::default());
        let kept = KeptParts { upstreams, route_metrics, public_stop };
        let current = Arc::new(ArcSwap::from_pointee(parts.snapshot(snapshot, kept)?));
        Ok(Worker { parts, current })
    }

    /// Derives the worker's part of a new snapshot. Upstream connections stay in use. Open tunnels of
    /// public routes do so too, unless the snapshot `restricts` such a route.
    ///
    /// # Errors
    /// A CA file of a route cannot be read.
    pub(super) fn prepare(
        &self,
        snapshot: &Snapshot,
        restricts: bool,
    ) -> Result<WorkerSnapshot, StartError> {
        let current = self.current.load();
        let public_stop = match restricts {
            true => self.parts.stop.child_token(),
            false => current.proxy.forwarder.context.tunnels.public_stop.clone(),
        };
        let upstreams = &current.proxy.forwarder.context.upstreams;
        let route_metrics = &current.proxy.responder.route_metrics;
        self.parts.snapshot(snapshot, KeptParts { upstreams, route_metrics, public_stop })
    }

    /// Makes a prepared snapshot the current one. Requests in progress keep theirs.
    pub(super) fn install(&self, new: WorkerSnapshot, restricts: bool) {
        let proxy = Arc::clone(&new.proxy);
        let old = self.current.swap(Arc::new(new));
        proxy.forwarder.context.upstreams.drop_unused_pools(&proxy.authorizer.routes);
        if restricts {
            // Also closes tunnels that requests in progress are about to open.
            old.proxy.forwarder.context.tunnels.public_stop.cancel();
        }
    }

    /// Starts the thread.
    pub(super) fn start(
        self: Arc<Self>,
        number: usize,
        sockets: WorkerSockets,
        force_shutdown: CancellationToken,
    ) -> std::io::Result<JoinHandle<()>> {
        let runtime = runtime()?;
        let thread = std::thread::Builder::new().name(format!("worker {}", number + 1));
        thread.spawn(move || {
            runtime.block_on(self.run(sockets, force_shutdown));
            // Closes the tunnels that are left after the drain.
            runtime.shutdown_timeout(Duration::from_millis(100));
        })
    }

    async fn run(&self, sockets: WorkerSockets, force_shutdown: CancellationToken) {
        let overload = Arc::clone(&self.parts.overload);
        tokio::spawn(async move { overload.watch_lag().await });
        if let Some(log) = self.parts.access_log.clone() {
            tokio::spawn(flush_periodically(log));
        }
        self.serve(sockets);
        self.drain(&force_shutdown).await;
    }

    fn serve(&self, sockets: WorkerSockets) {
        let WorkerParts { tracker, stop, .. } = &self.parts;
        for listener in sockets.https.into_iter().filter_map(into_tokio) {
            let (current, acceptor) = (Arc::clone(&self.current), self.parts.acceptor.clone());
            let (stop, tasks) = (stop.clone(), tracker.clone());
            tracker.spawn(server::serve_https(listener, acceptor, current, stop, tasks));
        }
        for listener in sockets.http.into_iter().filter_map(into_tokio) {
            let current = Arc::clone(&self.current);
            let (stop, tasks) = (stop.clone(), tracker.clone());
            tracker.spawn(server::serve_redirects(listener, current, stop, tasks));
        }
    }

    /// Waits for the stop, then until all connections have ended, `server.drain` has passed or the
    /// shutdown is forced.
    async fn drain(&self, force_shutdown: &CancellationToken) {
        let WorkerParts { tracker, stop, .. } = &self.parts;
        stop.cancelled().await;
        tracker.close();
        let drained = force_shutdown.run_until_cancelled(tracker.wait());
        let drained = tokio::time::timeout(self.current.load().drain, drained).await;
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
