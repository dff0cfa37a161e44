//! Worker threads: each has its own runtime, listeners, proxy and upstream connections.

use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::auth::Auth;
use crate::message::RequestIds;
use crate::portal::Portal;
use crate::proxy::{Authorizer, OverloadMonitor, Proxy, Responder, Tunnels, UpstreamClusters};
use crate::route::RouteTable;
use crate::secret::random_bytes;
use crate::server::{self, Redirect, RedirectPort, Sockets};
use crate::telemetry::AccessLog;
use crate::telemetry::access_log::FLUSH_INTERVAL;

use super::components::Components;
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

/// A worker thread: one runtime with its own proxy and upstream connections.
pub(super) struct Worker {
    pub(super) components: Arc<Components>,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) stop: CancellationToken,
    pub(super) force_shutdown: CancellationToken,
    /// Ports of https URLs.
    pub(super) public_ports: Arc<[u16]>,
    pub(super) redirect_port: RedirectPort,
}

impl Worker {
    /// Starts the thread.
    ///
    /// # Errors
    /// A CA file of a route cannot be read, or the thread cannot be started.
    pub(super) fn start(
        self,
        number: usize,
        sockets: WorkerSockets,
    ) -> Result<JoinHandle<()>, StartError> {
        // Everything that can fail is built before the thread serves requests.
        let upstreams = UpstreamClusters::new(self.snapshot.routes.iter())?;
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
        let routes = Arc::clone(&self.snapshot.routes);
        let redirect = Arc::new(Redirect { routes, port: self.redirect_port });
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
        let Worker { components, snapshot, .. } = self;
        // A copy for each worker: requests count references to routes, and workers would contend for them.
        let routes = Arc::new(RouteTable::clone(&snapshot.routes));
        let auth = Auth::new(components.sessions());
        let (login, branding) = (components.login.clone(), Arc::clone(&snapshot.branding));
        let overload = OverloadMonitor::new(
            snapshot.requests_per_worker(),
            Arc::clone(&components.memory_load),
        );
        let certificates = Some(Arc::clone(&components.certificates));
        let responder = Responder {
            auth: auth.clone(),
            hsts: snapshot.config.server.hsts.clone(),
            proxy_status: snapshot.config.server.proxy_status,
            access_log: components.access_log.clone().map(|lines| Arc::new(AccessLog::new(lines))),
        };
        Proxy {
            portal: Portal::new(auth.clone(), login, branding, Arc::clone(&routes)),
            authorizer: Authorizer { auth: auth.clone(), routes, certificates, overload },
            auth,
            dropped_headers: Arc::clone(&snapshot.dropped_headers),
            upstreams,
            trusted_proxies: Arc::clone(&snapshot.trusted_proxies),
            public_ports: Arc::clone(&self.public_ports),
            max_headers: snapshot.config.limits.headers,
            tunnels,
            request_ids: RequestIds::new(random_bytes()),
            responder,
        }
    }

    /// Waits for the stop, then until all connections have ended, `server.drain` has passed or the
    /// shutdown is forced.
    async fn drain(&self, tracker: TaskTracker) {
        self.stop.cancelled().await;
        tracker.close();
        let drained = self.force_shutdown.run_until_cancelled(tracker.wait());
        let drained = tokio::time::timeout(self.snapshot.config.server.drain, drained).await;
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

/// Builds a runtime for the current thread.
pub(super) fn runtime() -> Result<Runtime, std::io::Error> {
    Builder::new_current_thread().enable_all().event_interval(EVENT_INTERVAL).build()
}
