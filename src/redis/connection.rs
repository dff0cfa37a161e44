//! Connections to a node: name resolution, TCP or Unix socket, TLS.
//!
//! The client library could connect by itself, but then no [`super::bounded_stream`] would protect
//! the process from oversized replies.

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

use super::bounded_stream::BoundedStream;
use crate::config::HostPort;

/// Time after which the kernel drops a connection whose peer acknowledges nothing.
#[cfg(target_os = "linux")]
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(2);
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);
/// Maximum addresses of one name to try.
const MAX_ADDRESSES: usize = 16;

/// A server and the credentials for it.
#[derive(Clone)]
pub(super) struct ConnectTarget {
    pub(super) address: NodeAddress,
    pub(super) redis: RedisConnectionInfo,
}

/// The address of a server.
#[derive(Clone)]
pub(super) enum NodeAddress {
    Tcp(HostPort),
    /// The certificate must name the host.
    Tls(HostPort, TlsConnector),
    Unix(PathBuf),
}

/// A connection. Clones share it; dropping the last one closes it.
#[derive(Clone)]
pub(crate) struct RedisConnection {
    commands: MultiplexedConnection,
    _driver: Arc<AbortOnDropHandle<()>>,
}

impl RedisConnection {
    /// Connects and authenticates. Has no deadline.
    pub(super) async fn open(
        target: &ConnectTarget,
        config: AsyncConnectionConfig,
    ) -> RedisResult<RedisConnection> {
        match &target.address {
            NodeAddress::Tcp(at) => {
                RedisConnection::from_stream(connect_tcp(at).await?, target, config).await
            }
            NodeAddress::Tls(at, connector) => {
                let name = ServerName::try_from(at.host.clone())
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
                let stream = connector.connect(name, connect_tcp(at).await?).await?;
                RedisConnection::from_stream(stream, target, config).await
            }
            NodeAddress::Unix(path) => {
                RedisConnection::from_stream(UnixStream::connect(path).await?, target, config).await
            }
        }
    }

    async fn from_stream<S>(
        stream: S,
        target: &ConnectTarget,
        config: AsyncConnectionConfig,
    ) -> RedisResult<RedisConnection>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let stream = BoundedStream::new(stream);
        let opened = MultiplexedConnection::new_with_config(&target.redis, stream, config).await?;
        let (commands, driver) = opened;
        let driver = AbortOnDropHandle::new(tokio::spawn(driver));
        Ok(RedisConnection { commands, _driver: Arc::new(driver) })
    }

    /// Sends `count` commands as one and returns a reply for each.
    pub(super) async fn send_pipeline(
        &mut self,
        pipeline: &Pipeline,
        count: usize,
    ) -> RedisResult<Vec<Value>> {
        self.commands.send_packed_commands(pipeline, 0, count).await
    }
}

impl ConnectionLike for RedisConnection {
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

/// Connects to all addresses of the name at once. The first connection wins.
async fn connect_tcp(at: &HostPort) -> io::Result<TcpStream> {
    let mut attempts = JoinSet::new();
    let addresses = tokio::net::lookup_host((at.host.as_str(), at.port)).await?;
    for address in addresses.take(MAX_ADDRESSES) {
        attempts.spawn(connect_tcp_address(address));
    }
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    while let Some(connected) = attempts.join_next().await {
        match connected.map_err(io::Error::other).flatten() {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

async fn connect_tcp_address(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let socket = SockRef::from(&stream);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(TCP_KEEPALIVE))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(TCP_USER_TIMEOUT))?;
    Ok(stream)
}
