//! Listening sockets, one set per worker.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};
use tracing::warn;

/// What the kernel keeps of an answer that a client does not take, in bytes; by itself it would keep
/// megabytes of each, where no limit of ours sees them. More than this is enough for a fast line, for it
/// counts what is not yet on its way.
#[cfg(target_os = "linux")]
const UNSENT: u32 = 128 * 1024;

/// A client that is gone without a word is found out after two minutes: it may be at the other end of a
/// tunnel that nobody says anything through.
const SILENCE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(60))
    .with_interval(Duration::from_secs(15))
    .with_retries(4);

/// Connections that wait in the kernel until a worker takes them.
const BACKLOG: i32 = 1024;

/// The sockets of one address, one for each worker, and the address they really have.
pub struct Sockets {
    pub address: SocketAddr,
    pub per_worker: Vec<StdListener>,
}

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen on {address}: {error}; is the port taken, or below 1024 without the right to use it?"
)]
pub struct BindError {
    pub address: SocketAddr,
    pub error: io::Error,
}

/// Binds `address` once for each worker. Port 0 takes a free one.
pub fn bind(address: SocketAddr, workers: usize) -> Result<Sockets, BindError> {
    let failed = |error| BindError { address, error };
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
    socket.set_nonblocking(true)?;
    // Accepted connections have these from their listener.
    socket.set_tcp_keepalive(&SILENCE)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_notsent_lowat(UNSENT)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// The next connection. An error (too many open files) is a pause, not the end of the listener.
pub async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => {
                warn!(%error, "cannot accept a connection; waiting a moment");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use socket2::SockRef;

    #[test]
    fn slow_read_what_a_client_does_not_take_stays_with_the_app_and_dead_clients_are_found_out() {
        let sockets = bind(SocketAddr::from(([127, 0, 0, 1], 0)), 1).expect("bound");
        let listener = sockets.per_worker.first().expect("one");
        listener.set_nonblocking(false).expect("set");
        let _client = std::net::TcpStream::connect(sockets.address).expect("connected");
        let (accepted, _) = listener.accept().expect("accepted");
        let accepted = SockRef::from(&accepted);
        assert_eq!(accepted.tcp_notsent_lowat().expect("told"), UNSENT);
        assert!(accepted.keepalive().expect("told"));
        assert_eq!(accepted.tcp_keepalive_time().expect("told"), Duration::from_secs(60));
    }
}
