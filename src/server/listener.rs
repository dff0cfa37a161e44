//! Listening sockets, one set per worker.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tracing::warn;

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
