//! The admin API: health and metrics on a loopback port, commands on a Unix socket.
//!
//! | listener | request | response |
//! | --- | --- | --- |
//! | port | `GET /live`, `/ready`, `/metrics` | health and metrics; contains no user data |
//! | socket (0600) | `GET /sessions[?user=U]`, `GET /sessions/HANDLE` | lists sessions |
//! | socket | `POST /revoke?user=U`, `?session=HANDLE`, `?all` | ends sessions |
//! | socket | `POST /forget?user=U` | deletes the history and the notices of a user |
//! | socket | `GET /tokens?user=U` | lists the personal access tokens of a user |
//! | socket | `POST /tokens?user=U&name=N&days=D[&routes=…&methods=…&networks=…]` | creates one |
//! | socket | `POST /tokens/delete?user=U&token=HANDLE` | deletes one |
//! | socket | `GET /upstreams` | lists the endpoints of all routes |
//! | socket | `POST /reload[?dry_run]` | reloads the configuration, or reports what would change |

mod api;
mod reload;
mod tokens;

use std::convert::Infallible;
use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use data_encoding::HEXLOWER;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::secret::random_bytes;
use crate::sessions::Sessions;
use crate::upstream::EndpointReport;

pub use api::SessionView;
pub use reload::{Reload, ReloadMode, ReloadReport};
pub use tokens::TokenView;

/// The admin API.
#[derive(Clone)]
pub struct Admin {
    /// Session services under the current configuration.
    sessions: Arc<ArcSwap<Sessions>>,
    reload: Reload,
    endpoints: Endpoints,
    /// Cancelled when the gateway begins to stop.
    draining: CancellationToken,
}

/// Returns the state of the endpoints of all routes.
pub type Endpoints = Arc<dyn Fn() -> Vec<EndpointReport> + Send + Sync>;

/// The requests that a listener permits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// Health and metrics, for every process of this machine.
    Monitor,
    /// Everything, for processes that may open the socket.
    /// `uid` is the user ID of the process.
    Operator { uid: Option<u32> },
}

/// A socket file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error(
        "{path}: in use by another doorward; stop it first, or set another admin.socket for this one"
    )]
    InUse { path: PathBuf },
    #[error("{path}: {error}")]
    File { path: PathBuf, error: io::Error },
}

impl Admin {
    pub fn new(
        sessions: Arc<ArcSwap<Sessions>>,
        reload: Reload,
        endpoints: Endpoints,
        draining: CancellationToken,
    ) -> Admin {
        Admin { sessions, reload, endpoints, draining }
    }

    fn sessions(&self) -> Arc<Sessions> {
        self.sessions.load_full()
    }

    /// Serves monitors on a port until the task is dropped.
    pub async fn serve_port(self, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => self.spawn(stream, Scope::Monitor),
                Err(error) => back_off(&error).await,
            }
        }
    }

    /// Serves commands on a socket file until the task is dropped.
    pub async fn serve_socket(self, listener: UnixListener) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let uid = stream.peer_cred().ok().map(|peer| peer.uid());
                    self.spawn(stream, Scope::Operator { uid });
                }
                Err(error) => back_off(&error).await,
            }
        }
    }

    fn spawn<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(&self, stream: S, scope: Scope) {
        let admin = Arc::new(self.clone());
        let service = service_fn(move |request| {
            let admin = Arc::clone(&admin);
            async move { Ok::<_, Infallible>(admin.handle(request, scope).await) }
        });
        tokio::spawn(async move {
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(10));
            if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
                debug!(%error, "admin connection ended");
            }
        });
    }
}

/// Creates the socket file with mode 0600, and its directory if missing. Replaces a socket file that a
/// crashed process left behind.
///
/// The file is created in a private directory and moved to its place with its final mode. Otherwise
/// other users could connect between its creation and the change of the mode.
pub async fn bind_socket(path: &Path) -> Result<UnixListener, SocketError> {
    let failed = |error| SocketError::File { path: path.to_owned(), error };
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    if tokio::net::UnixStream::connect(path).await.is_ok() {
        return Err(SocketError::InUse { path: path.to_owned() });
    }
    bind_private(path).map_err(failed)
}

fn bind_private(path: &Path) -> io::Result<UnixListener> {
    if std::fs::symlink_metadata(path).is_ok_and(|file| !file.file_type().is_socket()) {
        let message = "exists and is not a socket; set another admin.socket";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
    }
    // A short name, because the path of a socket is limited to about 100 bytes.
    let private = path.with_file_name(format!(".{}", HEXLOWER.encode(&random_bytes::<3>())));
    DirBuilder::new().mode(0o700).create(&private)?;
    let socket = private.join("s");
    let listener = bind_and_move(&socket, path);
    // Left over only if the socket was not moved.
    std::fs::remove_file(&socket).unwrap_or_default();
    std::fs::remove_dir(&private)?;
    listener
}

fn bind_and_move(socket: &Path, path: &Path) -> io::Result<UnixListener> {
    let listener = UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, Permissions::from_mode(0o600))?;
    std::fs::rename(socket, path)?;
    Ok(listener)
}

async fn back_off(error: &io::Error) {
    warn!(event = "listener.accept-failed", %error, "cannot accept an admin connection; retrying in 50 ms");
    tokio::time::sleep(Duration::from_millis(50)).await;
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::sync::atomic::{AtomicBool, Ordering};

    use rustix::fs::Mode;

    use super::*;

    #[tokio::test]
    async fn no_other_user_can_ever_open_the_socket() {
        // Process-wide; each test runs in a process of its own.
        rustix::process::umask(Mode::empty());
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("admin.sock");
        let stopped = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let watched = scope.spawn(|| {
                let mut modes = Vec::new();
                while !stopped.load(Ordering::Relaxed) {
                    modes.extend(std::fs::symlink_metadata(&path).map(|file| file.mode() & 0o777));
                }
                modes
            });
            for _ in 0..300 {
                let bound = futures_util::FutureExt::now_or_never(bind_socket(&path));
                drop(bound.expect("no wait").expect("bound"));
            }
            stopped.store(true, Ordering::Relaxed);
            let modes = watched.join().expect("watched");
            assert!(modes.len() > 100, "{}", modes.len());
            assert_eq!(modes.iter().find(|mode| **mode != 0o600), None);
        });
        assert_eq!(std::fs::read_dir(directory.path()).expect("readable").count(), 1);
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_kept() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("precious");
        std::fs::write(&path, "data").expect("written");
        let text = bind_socket(&path).await.expect_err("no socket").to_string();
        assert!(text.contains("is not a socket"), "{text}");
        assert_eq!(std::fs::read_to_string(&path).expect("readable"), "data");
    }
}
