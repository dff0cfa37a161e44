//! The admin API: health and metrics on a loopback port, commands on a Unix socket.
//!
//! | listener | request | response |
//! | --- | --- | --- |
//! | port | `GET /live`, `/ready`, `/metrics` | health and metrics; contains no user data |
//! | socket (0600) | `GET /sessions[?user=U]`, `GET /sessions/HANDLE` | lists sessions |
//! | socket | `POST /revoke?user=U`, `?session=HANDLE`, `?all` | ends sessions |
//! | socket | `POST /forget?user=U` | deletes the history and the notices of a user |

mod api;

use std::convert::Infallible;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tracing::{debug, warn};

use crate::sessions::Sessions;

pub use api::SessionView;

/// The admin API.
#[derive(Clone)]
pub struct Admin {
    sessions: Sessions,
}

/// The requests that a listener permits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// Health and metrics, for every process of this machine.
    Monitor,
    /// Everything, for processes that may open the socket.
    Operator,
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
    pub fn new(sessions: Sessions) -> Admin {
        Admin { sessions }
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
                Ok((stream, _)) => self.spawn(stream, Scope::Operator),
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
pub async fn bind_socket(path: &Path) -> Result<UnixListener, SocketError> {
    let failed = |error| SocketError::File { path: path.to_owned(), error };
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    if tokio::net::UnixStream::connect(path).await.is_ok() {
        return Err(SocketError::InUse { path: path.to_owned() });
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

async fn back_off(error: &io::Error) {
    warn!(event = "listener.accept-failed", %error, "cannot accept an admin connection; retrying in 50 ms");
    tokio::time::sleep(Duration::from_millis(50)).await;
}
