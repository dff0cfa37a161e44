//! From a target to a connection on which commands can be sent: name, TCP or a socket file, TLS.
//!
//! The client library could dial too, but then nothing would stand between the network and its memory; see
//! [`super::bounded`].

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ::redis::aio::{ConnectionLike, MultiplexedConnection};
use ::redis::{
    AsyncConnectionConfig, Cmd, Pipeline, RedisConnectionInfo, RedisFuture, RedisResult, Value,
};
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use super::bounded::Bounded;
use crate::config::HostPort;

/// How long the kernel keeps a connection whose peer acknowledges nothing.
#[cfg(target_os = "linux")]
const USER_TIMEOUT: Duration = Duration::from_secs(2);
const KEEPALIVE: Duration = Duration::from_secs(30);
/// Addresses of one name that are tried.
const MOST_ADDRESSES: usize = 16;

/// A server, and who we are to it. Nothing is connected by making one.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) place: Place,
    pub(super) redis: RedisConnectionInfo,
}

/// Where a server is.
#[derive(Clone)]
pub(super) enum Place {
    Tcp(HostPort),
    /// Its certificate has to name the host.
    Tls(HostPort, TlsConnector),
    Unix(PathBuf),
}

/// A connection; its clones share it, and the last one ends it.
#[derive(Clone)]
pub(in crate::store) struct Connection {
    commands: MultiplexedConnection,
    _driver: Arc<AbortOnDropHandle<()>>,
}

impl Connection {
    /// Connects and introduces us. Has no deadline.
    pub(super) async fn open(
        target: &Target,
        config: AsyncConnectionConfig,
    ) -> RedisResult<Connection> {
        match &target.place {
            Place::Tcp(at) => Connection::over(tcp(at).await?, target, config).await,
            Place::Tls(at, connector) => {
                let name = ServerName::try_from(at.host.clone())
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
                let stream = connector.connect(name, tcp(at).await?).await?;
                Connection::over(stream, target, config).await
            }
            Place::Unix(path) => {
                Connection::over(UnixStream::connect(path).await?, target, config).await
            }
        }
    }

    async fn over<S>(
        stream: S,
        target: &Target,
        config: AsyncConnectionConfig,
    ) -> RedisResult<Connection>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let stream = Bounded::new(stream);
        let opened = MultiplexedConnection::new_with_config(&target.redis, stream, config).await?;
        let (commands, driver) = opened;
        let driver = AbortOnDropHandle::new(tokio::spawn(driver));
        Ok(Connection { commands, _driver: Arc::new(driver) })
    }

    /// Sends so many commands as one, and answers with an answer to each.
    pub(super) async fn together(
        &mut self,
        pipeline: &Pipeline,
        count: usize,
    ) -> RedisResult<Vec<Value>> {
        self.commands.send_packed_commands(pipeline, 0, count).await
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        self.commands.req_packed_command(command)
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        self.commands.req_packed_commands(pipeline, offset, count)
    }

    fn get_db(&self) -> i64 {
        self.commands.get_db()
    }
}

/// To all addresses of the name at once; the first that answers has it.
async fn tcp(at: &HostPort) -> io::Result<TcpStream> {
    let mut dialing = JoinSet::new();
    let addresses = tokio::net::lookup_host((at.host.as_str(), at.port)).await?;
    for address in addresses.take(MOST_ADDRESSES) {
        dialing.spawn(tcp_to(address));
    }
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    while let Some(dialed) = dialing.join_next().await {
        match dialed.map_err(io::Error::other).flatten() {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

async fn tcp_to(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let socket = SockRef::from(&stream);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    Ok(stream)
}
