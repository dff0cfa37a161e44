//! Listening sockets that systemd opened (`LISTEN_FDS`). They outlive the process, so that a restart refuses no
//! connection: new ones wait in the queue of the socket.

use std::io;
use std::net::{SocketAddr, TcpListener};

use listenfd::ListenFd;
use socket2::SockRef;

use super::socket_options::set_options;

/// Sockets of the service manager that no listener has taken yet.
#[derive(Debug, Default)]
pub struct InheritedSockets(Vec<(SocketAddr, TcpListener)>);

/// Inherited sockets that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InheritedError {
    #[error(
        "a socket of the service manager is not a listening TCP socket: {0}; write ListenStream= in the socket unit"
    )]
    NotTcp(io::Error),
    #[error(
        "the socket unit listens on {0}, and the configuration does not; write https = [\"{0}\"] in [server], or \
         remove it from the socket unit"
    )]
    Unused(SocketAddr),
}

impl InheritedSockets {
    /// Takes the sockets of the environment. Call it once, before any thread starts.
    ///
    /// # Errors
    /// If one of them is not a listening TCP socket.
    pub fn from_environment() -> Result<InheritedSockets, InheritedError> {
        let mut inherited = ListenFd::from_env();
        let mut sockets = Vec::new();
        for index in 0..inherited.len() {
            let socket = inherited.take_tcp_listener(index).map_err(InheritedError::NotTcp)?;
            sockets.extend(socket.map(with_address).transpose().map_err(InheritedError::NotTcp)?);
        }
        Ok(InheritedSockets(sockets))
    }

    /// Takes the socket of an address.
    pub(super) fn take(&mut self, address: SocketAddr) -> Option<TcpListener> {
        let index = self.0.iter().position(|(bound, _)| *bound == address)?;
        Some(self.0.swap_remove(index).1)
    }

    /// Returns an error for a socket that no listener took. Its connections would wait forever.
    pub fn expect_none_left(&self) -> Result<(), InheritedError> {
        match self.0.first() {
            Some((address, _)) => Err(InheritedError::Unused(*address)),
            None => Ok(()),
        }
    }
}

fn with_address(socket: TcpListener) -> io::Result<(SocketAddr, TcpListener)> {
    set_options(&SockRef::from(&socket))?;
    Ok((socket.local_addr()?, socket))
}
