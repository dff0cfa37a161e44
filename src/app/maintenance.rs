//! Maintenance thread: admin listeners, background tasks, and reloads of changed files once a second.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet, spawn_blocking};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};
use zeroize::Zeroizing;

use crate::admin::{self, Admin};
use crate::identity::AccountChange;
use crate::oidc::{OidcProvider, ProviderStatus};
use crate::proxy::HealthChecks;
use crate::secret::sha256;
use crate::server::listener::BindError;
use crate::sessions::{self, EndCause, Sessions};
use crate::telemetry::SessionEvent;
use crate::telemetry::events::EventContext;

use super::gateway::Gateway;
use super::keys::{self, KeysError};
use super::memory;
use super::snapshot::Snapshot;
use super::start_error::StartError;

const TICK: Duration = Duration::from_secs(1);

/// Runs until `stop` is cancelled; `/ready` fails once `draining` is. Sends the address of the admin port, or the start error, on `ready`.
pub(super) async fn run(
    gateway: Arc<Gateway>,
    [stop, draining]: [CancellationToken; 2],
    ready: Sender<Result<Option<SocketAddr>, StartError>>,
) {
    let listening = listen(&gateway, draining).await;
    let failed = listening.is_err();
    if ready.send(listening).is_err() || failed {
        return;
    }
    let mut maintenance = Maintenance {
        gateway: Arc::clone(&gateway),
        keys_hash: [0; 32],
        last_error: String::new(),
        geoip_reload: None,
        expiry_check: None,
        keys_check: None,
        keys_error: String::new(),
        providers: Vec::new(),
        health_checks: HealthChecks::default(),
    };
    // Separate tasks: a slow file must not delay the close of a revoked session's connections.
    let mut tasks = JoinSet::new();
    let sessions = Arc::clone(&gateway.sessions);
    tasks.spawn(async move { sessions::revalidate_connections(&sessions).await });
    let sessions = gateway.sessions.load_full();
    tasks.spawn(async move { sessions::follow_changes(&sessions).await });
    tasks.spawn(watch_memory(Arc::clone(&gateway)));
    let mut tick = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = tick.tick() => maintenance.run().await,
        }
    }
    tasks.abort_all();
    if let Err(error) = gateway.components.store.close().await {
        error!(event = "store.close-failed", %error, "the store did not close cleanly");
    }
    remove_socket(&gateway.snapshot.load());
}

async fn confirm_keys(gateway: Arc<Gateway>) -> Result<(), KeysError> {
    let (shared, sessions) = (&gateway.components.shared, gateway.sessions.load_full());
    let path = gateway.snapshot.load().config.keys_file.clone();
    let ring = shared.keys.load_full();
    if let Some(confirmed) = keys::confirm(&ring, &path, sessions.store()).await? {
        shared.keys.store(Arc::new(confirmed));
    }
    Ok(())
}

async fn watch_memory(gateway: Arc<Gateway>) {
    let components = &gateway.components;
    let (overload, limiter) =
        (Arc::clone(&components.memory_load), Arc::clone(&components.limiter));
    let limit = || gateway.snapshot.load().memory_limit;
    memory::MemoryMonitor { overload, limiter }.run(limit).await;
}

async fn listen(
    gateway: &Arc<Gateway>,
    draining: CancellationToken,
) -> Result<Option<SocketAddr>, StartError> {
    let reloaded = Arc::clone(gateway);
    let reload = Arc::new(move |mode| reloaded.reload(mode));
    let reported = Arc::clone(gateway);
    let endpoints = Arc::new(move || {
        let routes = Arc::clone(&reported.snapshot.load().routes);
        reported.components.endpoints.reports(&routes)
    });
    let admin = Admin::new(Arc::clone(&gateway.sessions), reload, endpoints, draining);
    let snapshot = gateway.snapshot.load_full();
    if let Some(path) = &snapshot.config.admin.socket {
        tokio::spawn(admin.clone().serve_socket(admin::bind_socket(path).await?));
    }
    let Some(address) = snapshot.config.admin.listen else { return Ok(None) };
    let failed = |error| BindError { address, error };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    tokio::spawn(admin.serve_port(listener));
    Ok(Some(bound))
}

fn remove_socket(snapshot: &Snapshot) {
    if let Some(path) = &snapshot.config.admin.socket {
        // A leftover socket is harmless: the next start replaces it.
        std::fs::remove_file(path).unwrap_or_default();
    }
}

/// Periodic work. If a file cannot be read, the values loaded before stay in use.
struct Maintenance {
    gateway: Arc<Gateway>,
    /// SHA-256 of the keys file as loaded last; zeros before the first load.
    keys_hash: [u8; 32],
    /// Errors logged last, so that a broken file is logged once and not every second.
    last_error: String,
    /// Reload in progress: the databases may be large or on a slow disk.
    geoip_reload: Option<JoinHandle<()>>,
    expiry_check: Option<JoinHandle<()>>,
    keys_check: Option<JoinHandle<Result<(), KeysError>>>,
    /// Why provisional keys cannot be confirmed, as logged last.
    keys_error: String,
    /// Tasks that fetch the metadata and keys of the configured providers. A task ends when it is dropped.
    providers: Vec<(Arc<OidcProvider>, JoinSet<()>)>,
    health_checks: HealthChecks,
}

impl Maintenance {
    fn sessions(&self) -> Arc<Sessions> {
        self.gateway.sessions.load_full()
    }

    async fn run(&mut self) {
        let mut errors = Vec::new();
        self.follow_providers();
        self.follow_routes(&mut errors);
        self.reload_users().await;
        self.sessions().revoker.retry_pending().await;
        self.reload_keys(&mut errors);
        self.confirm_keys().await;
        match self.gateway.components.certificates.reload() {
            Ok(true) => {
                info!(event = "certificates.reloaded");
                self.gateway.components.report_certificates();
            }
            Ok(false) => {}
            Err(error) => errors.push(error.to_string()),
        }
        self.check_store().await;
        self.end_expired();
        self.reload_geoip();
        self.gateway.components.store.sweep();
        self.gateway.components.shared.metrics.flush_limit_log();
        self.report(errors.join("; "));
    }

    /// Keeps the providers of the current configuration up to date, and reports whether they respond.
    fn follow_providers(&mut self) {
        let snapshot = self.gateway.snapshot.load();
        let configured = &snapshot.login_providers.providers;
        let is_configured = |client: &Arc<OidcProvider>| {
            configured.iter().any(|it| Arc::ptr_eq(&it.client, client))
        };
        self.providers.retain(|(client, _)| is_configured(client));
        for provider in configured.iter() {
            let metrics = &self.gateway.components.shared.metrics.providers;
            metrics.up(&provider.settings.name, provider.client.status() == ProviderStatus::Up);
            let mut followed = self.providers.iter();
            if !followed.any(|(client, _)| Arc::ptr_eq(client, &provider.client)) {
                let (client, mut task) = (Arc::clone(&provider.client), JoinSet::new());
                task.spawn(async move { client.keep_current().await });
                self.providers.push((Arc::clone(&provider.client), task));
            }
        }
    }

    /// Checks the endpoints of the current routes.
    fn follow_routes(&mut self, errors: &mut Vec<String>) {
        let (snapshot, components) = (self.gateway.snapshot.load(), &self.gateway.components);
        let followed = self.health_checks.follow(&snapshot.routes, &components.endpoints);
        errors.extend(followed.err().map(|error| error.to_string()));
    }

    /// Ends expired sessions in the background, because the search of a large store takes long.
    fn end_expired(&mut self) {
        if self.expiry_check.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let sessions = self.sessions();
        self.expiry_check = Some(tokio::spawn(async move {
            if sessions.end_expired().await.is_err() {
                sessions.shared().metrics.store_error();
            }
        }));
    }

    /// Reads the global cutoff. During an outage it also checks that the store accepts writes.
    async fn check_store(&self) {
        let sessions = self.sessions();
        let outage = &sessions.shared().outage;
        match sessions.refresh_global_cutoff().await {
            Err(error) => outage.begin(&error),
            Ok(()) if !outage.is_active() => {}
            Ok(()) => match sessions.store().ping().await {
                Err(error) => outage.begin(&error),
                Ok(()) => outage.end(),
            },
        }
    }

    /// Reloads in the background, so that revocations do not wait for a large file.
    fn reload_geoip(&mut self) {
        if self.geoip_reload.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let gateway = Arc::clone(&self.gateway);
        self.geoip_reload = Some(spawn_blocking(move || gateway.components.reload_geoip()));
    }

    /// Reloads the users file. The directory returns the error of a broken file only once.
    async fn reload_users(&self) {
        let Some(login) = self.gateway.components.shared.login_methods.password() else { return };
        match login.directory().reload_if_changed() {
            Ok(changes) => {
                for change in changes {
                    self.on_account_change(&change).await;
                }
            }
            Err(error) => {
                error!(event = "reload.failed", "{error}; the accounts loaded before stay in use")
            }
        }
    }

    /// Revokes the sessions, so that they do not return when the account is enabled again. A revocation
    /// that fails is reported and kept by the revoker.
    async fn on_account_change(&self, AccountChange { user, kind }: &AccountChange) {
        let context = EventContext { user, ..EventContext::default() };
        self.gateway.components.shared.emit(SessionEvent::AccountChanged(kind.as_str()), context);
        if let Some(reason) = kind.end_reason() {
            let cause = EndCause::gateway(reason);
            self.sessions()
                .revoker
                .revoke_user_sessions(self.sessions().shared().user_ref(user), None, cause)
                .await
                .map(drop)
                .unwrap_or_default();
        }
    }

    fn reload_keys(&mut self, errors: &mut Vec<String>) {
        let snapshot = self.gateway.snapshot.load();
        let path = &snapshot.config.keys_file;
        let ring = self.gateway.components.shared.keys.load();
        let Ok(text) = std::fs::read_to_string(path).map(Zeroizing::new) else {
            if ring.is_provisional() {
                return;
            }
            errors.push(format!(
                "{}: the keys file is missing; restore it before the next start",
                path.display()
            ));
            return;
        };
        let hash = sha256(text.as_bytes());
        let signing_key = keys::signing_key(&ring, Timestamp::now());
        if hash == self.keys_hash && ring.signing_key().0 == signing_key {
            return;
        }
        match keys::load(path) {
            Ok(ring) => {
                self.gateway.components.shared.keys.store(Arc::new(ring));
                self.keys_hash = hash;
                info!(event = "keys.loaded", signing_key);
            }
            Err(error) => errors.push(error.to_string()),
        }
    }

    /// Confirms provisional keys in the background, because the search of a large store takes long.
    async fn confirm_keys(&mut self) {
        if !self.gateway.components.shared.keys.load().is_provisional() {
            return;
        }
        match self.keys_check.take() {
            Some(task) if !task.is_finished() => self.keys_check = Some(task),
            Some(task) => self.report_keys(task.await.unwrap_or(Ok(()))),
            None => self.keys_check = Some(tokio::spawn(confirm_keys(Arc::clone(&self.gateway)))),
        }
    }

    fn report_keys(&mut self, result: Result<(), KeysError>) {
        let error = result.err().map(|error| error.to_string()).unwrap_or_default();
        if !error.is_empty() && error != self.keys_error {
            error!(event = "keys.lost", "{error}; until then no session is accepted or created");
        }
        self.keys_error = error;
    }

    fn report(&mut self, errors: String) {
        self.gateway.components.shared.metrics.reload(!errors.is_empty());
        if !errors.is_empty() && errors != self.last_error {
            error!(event = "reload.failed", "{errors}; the values loaded before stay in use");
        }
        if errors.is_empty() && !self.last_error.is_empty() {
            info!(event = "reload.recovered");
        }
        self.last_error = errors;
    }
}
