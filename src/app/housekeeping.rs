//! What happens beside requests: the admin listeners, and once a second a look at what changed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};
use zeroize::Zeroizing;

use crate::admin::{self, Admin};
use crate::guard::Guard;
use crate::identity::{AccountChange, ChangeKind, Directory};
use crate::secret::sha256;
use crate::server::listener::BindError;

use super::{Parts, StartError, keys, memory};

const TICK: Duration = Duration::from_secs(1);

/// Runs until `stop`; says on `ready` where the admin port is, or why it cannot be had.
pub(super) async fn run(
    parts: Arc<Parts>,
    stop: CancellationToken,
    ready: Sender<Result<Option<SocketAddr>, StartError>>,
) {
    let guard = parts.guard();
    let listening = listen(&parts, &guard).await;
    let failed = listening.is_err();
    if ready.send(listening).is_err() || failed {
        return;
    }
    let mut chores = Chores {
        parts: Arc::clone(&parts),
        guard,
        keys_seen: [0; 32],
        to_end: Vec::new(),
        trouble: String::new(),
        reading: None,
    };
    // Beside the chores: a slow file must not keep an ended session's connections open.
    let (patrolling, hearing) = (chores.guard.clone(), chores.guard.clone());
    let patrol = tokio::spawn(async move { patrolling.patrol().await });
    let hearing = tokio::spawn(async move { hearing.hear().await });
    if let Some(most) = memory::limit(parts.limits.allowed.memory) {
        let (strain, places) = (Arc::clone(&parts.memory), Arc::clone(&parts.limits.places));
        tokio::spawn(memory::Watch { most, strain, places }.run());
    }
    let mut tick = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = tick.tick() => chores.run().await,
        }
    }
    patrol.abort();
    hearing.abort();
    if let Err(error) = parts.store.close().await {
        error!(%error, "the store did not close cleanly");
    }
    remove_socket(&parts);
}

async fn listen(parts: &Parts, guard: &Guard) -> Result<Option<SocketAddr>, StartError> {
    let admin = Admin::new(guard.clone());
    if let Some(path) = &parts.config.admin.socket {
        tokio::spawn(admin.clone().serve_socket(admin::bind_socket(path).await?));
    }
    let Some(address) = parts.config.admin.listen else { return Ok(None) };
    let failed = |error| BindError { address, error };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    tokio::spawn(admin.serve_port(listener));
    Ok(Some(bound))
}

fn remove_socket(parts: &Parts) {
    if let Some(path) = &parts.config.admin.socket {
        // Left behind it does no harm: the next start sees that nobody answers.
        std::fs::remove_file(path).unwrap_or_default();
    }
}

/// Once a second. Files that cannot be read leave in force what was read before.
struct Chores {
    parts: Arc<Parts>,
    guard: Guard,
    keys_seen: [u8; 32],
    /// Users whose sessions have to end.
    to_end: Vec<String>,
    /// The last trouble told, so that a broken file makes one line and not one a second.
    trouble: String,
    /// The databases, which may be large and lie far away.
    reading: Option<JoinHandle<()>>,
}

impl Chores {
    async fn run(&mut self) {
        let mut trouble = Vec::new();
        self.reload_users();
        self.end_changed(&mut trouble).await;
        self.reload_keys(&mut trouble);
        match self.parts.certificates.reload() {
            Ok(true) => info!(event = "certificates-reloaded"),
            Ok(false) => {}
            Err(error) => trouble.push(error.to_string()),
        }
        match self.guard.refresh_everyone().await {
            Ok(()) => self.guard.store_is_back(),
            Err(error) => {
                self.guard.store_is_away(&error);
                trouble.push(error.to_string());
            }
        }
        self.reload_atlas();
        self.parts.store.sweep();
        self.parts.shared.metrics.tell_limits();
        self.tell(trouble.join("; "));
    }

    /// Beside the chores: whoever lost his account or was logged out does not wait for a gibibyte.
    fn reload_atlas(&mut self) {
        if self.reading.as_ref().is_some_and(|reading| !reading.is_finished()) {
            return;
        }
        let parts = Arc::clone(&self.parts);
        self.reading = Some(spawn_blocking(move || parts.reload_atlas()));
    }

    /// The directory tells of a broken file once.
    fn reload_users(&mut self) {
        let Some(directory) = &self.parts.shared.directory else { return };
        match Directory::reload_if_changed(directory) {
            Ok(changes) => changes.into_iter().for_each(|change| self.note(change)),
            Err(error) => {
                error!(event = "trouble", "{error}; the accounts read before stay in force")
            }
        }
    }

    fn note(&mut self, change: AccountChange) {
        tell_change(&change);
        match change.kind {
            ChangeKind::Disabled | ChangeKind::Removed | ChangeKind::PasswordChanged => {
                self.to_end.push(change.user);
            }
            ChangeKind::Other => {}
        }
    }

    /// Ends their sessions for good, so that an account enabled again does not bring them back. Who
    /// could not be ended now is ended when the store is back; until then each request is refused.
    async fn end_changed(&mut self, trouble: &mut Vec<String>) {
        for user in std::mem::take(&mut self.to_end) {
            if let Err(error) = self.guard.end_all(&user, None).await {
                trouble.push(error.to_string());
                self.to_end.push(user);
            }
        }
    }

    fn reload_keys(&mut self, trouble: &mut Vec<String>) {
        let path = &self.parts.config.keys_file;
        let Ok(text) = std::fs::read_to_string(path).map(Zeroizing::new) else {
            trouble.push(format!(
                "{}: the keys file is gone; put it back before the next start",
                path.display()
            ));
            return;
        };
        let seen = sha256(text.as_bytes());
        let ring = self.parts.shared.keys.load();
        let minting = keys::minting(&ring, Timestamp::now());
        if seen == self.keys_seen && ring.newest().0 == minting {
            return;
        }
        match keys::load(path) {
            Ok(ring) => {
                self.parts.shared.keys.store(Arc::new(ring));
                self.keys_seen = seen;
                info!(event = "keys-loaded", minting);
            }
            Err(error) => trouble.push(error.to_string()),
        }
    }

    fn tell(&mut self, trouble: String) {
        if !trouble.is_empty() && trouble != self.trouble {
            error!(event = "trouble", "{trouble}; what was read before stays in force");
        }
        if trouble.is_empty() && !self.trouble.is_empty() {
            info!(event = "trouble-over");
        }
        self.trouble = trouble;
    }
}

fn tell_change(change: &AccountChange) {
    let what = match change.kind {
        ChangeKind::Disabled => "disabled",
        ChangeKind::Removed => "removed",
        ChangeKind::PasswordChanged => "password-changed",
        ChangeKind::Other => "changed",
    };
    info!(target: "session", event = "account.changed", user = change.user, what);
}
