//! Listening sockets, one set per worker.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tracing::warn;

use super::inherited::InheritedSockets;
use super::socket_options::set_options;

/// Connections queued in the kernel before `accept`.
const BACKLOG: i32 = 1024;

/// The sockets of one address, one per worker, with the bound address.
pub struct Sockets {
    pub address: SocketAddr,
    pub per_worker: Vec<StdListener>,
}

/// A failed bind.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen on {address}: {error}; {}", remedy(.error)
)]
pub struct BindError {
    pub address: SocketAddr,
    pub error: io::Error,
}

/// Returns what to do about an address that cannot be used.
#[allow(clippy::wildcard_enum_match_arm, reason = "not our enum, and it grows")]
fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another program has this port; stop it (`ss -ltnp` names it), or write another port"
        }
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need a right: with systemd AmbientCapabilities=CAP_NET_BIND_SERVICE, or write a port above 1023"
        }
        io::ErrorKind::AddrNotAvailable => {
            "this machine does not have the address; write one of its own, or 0.0.0.0"
        }
        _ => "write another address",
    }
}

/// Binds `address` once per worker. Port 0 selects a free port. If the service manager already listens on the
/// address, all workers accept from its socket.
pub fn bind(
    address: SocketAddr,
    workers: usize,
    inherited: &mut InheritedSockets,
) -> Result<Sockets, BindError> {
    let failed = |error| BindError { address, error };
    if let Some(socket) = inherited.take(address) {
        let per_worker = (0..workers).map(|_| socket.try_clone()).collect::<io::Result<_>>();
        return Ok(Sockets { address, per_worker: per_worker.map_err(failed)? });
    }
    let first = socket(address).map_err(failed)?;
    let address = first.local_addr().map_err(failed)?;
    let mut per_worker = vec![first];
    for _ in 1..workers {
        per_worker.push(socket(address).map_err(failed)?);
    }
    Ok(Sockets { address, per_worker })
}

fn socket(address: SocketAddr) -> io::Result<StdListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_port(true)?;
    socket.set_reuse_address(true)?;
    set_options(&SockRef::from(&socket))?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Returns the next connection. After an error, such as too many open files, it pauses and retries.
pub async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => {
                warn!(event = "listener.accept-failed", %error, "cannot accept a connection; retrying");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

#[cfg(target_os = "linux")]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::socket_options::NOTSENT_LOWAT;

    #[test]
    fn accepted_sockets_have_notsent_lowat_and_keepalive() {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let sockets = bind(address, 1, &mut InheritedSockets::default()).expect("bound");
        let listener = sockets.per_worker.first().expect("one");
        listener.set_nonblocking(false).expect("set");
        let _client = std::net::TcpStream::connect(sockets.address).expect("connected");
        let (accepted, _) = listener.accept().expect("accepted");
        let accepted = SockRef::from(&accepted);
        assert_eq!(accepted.tcp_notsent_lowat().expect("a value"), NOTSENT_LOWAT);
        assert!(accepted.keepalive().expect("a value"));
        assert_eq!(accepted.tcp_keepalive_time().expect("a value"), Duration::from_secs(60));
    }
}
