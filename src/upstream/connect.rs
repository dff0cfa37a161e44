//! From an address to a connection that speaks HTTP: name, TCP, TLS, protocol.

use std::net::SocketAddr;
use std::sync::Arc;

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::message::Endpoint;
use crate::message::endpoint::Transport;

use super::body::{Outgoing, RequestBody};
use super::error::UpstreamError;
use super::plain::Plain;
use super::shared::{Http2, Stream};
use super::socket::{Look, Socket};

/// The most bytes of an answer's head, and the most that are buffered on one connection.
const BUFFER: usize = 64 * 1024;
const H2: &[u8] = b"h2";
const HTTP_1_1: &[u8] = b"http/1.1";

/// TLS settings for the two ways to ask, made once.
#[derive(Clone)]
pub(super) struct Tls {
    either: TlsConnector,
    http1: TlsConnector,
}

impl Tls {
    pub(super) fn new(config: &rustls::ClientConfig) -> Tls {
        Tls { either: offering(config, &[H2, HTTP_1_1]), http1: offering(config, &[HTTP_1_1]) }
    }
}

fn offering(config: &rustls::ClientConfig, protocols: &[&[u8]]) -> TlsConnector {
    let mut config = config.clone();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    Arc::new(config).into()
}

/// What an exchange runs on.
pub(super) enum Connection<B: RequestBody> {
    Plain(Box<Plain>),
    Http1(Http1<B>),
    Http2(Stream<B>),
}

/// A connection that stands.
pub(super) enum Dialed<B: RequestBody> {
    /// For one exchange at a time.
    Alone(Connection<B>),
    Shared(Http2<B>),
}

/// One HTTP/1.1 connection of the HTTP library's: one exchange at a time.
pub(super) struct Http1<B: RequestBody> {
    pub(super) sender: http1::SendRequest<Outgoing<B>>,
    /// Aborting the driver closes the socket at once, mid-message or not.
    pub(super) driver: AbortHandle,
    /// Before each further exchange.
    pub(super) look: Look,
}

/// What the request needs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// To send a head and no body.
    Head,
    /// To send a body too.
    Body,
    /// An HTTP/1.1 connection that can become a tunnel.
    Tunnel,
}

/// Opens a connection. Where it is driven by a task of its own, that ends with it.
pub(super) async fn dial<B: RequestBody>(
    endpoint: &Endpoint,
    tls: &Tls,
    need: Need,
) -> Result<Dialed<B>, UpstreamError> {
    let stream = Socket::new(tcp(endpoint).await?);
    let look = stream.look();
    match (endpoint.transport(), need) {
        (Transport::Http1, Need::Head) => Ok(plain(Plain::tcp(stream))),
        (Transport::Http1, Need::Body | Need::Tunnel) => over_http1(stream, need, look).await,
        (Transport::Http2, Need::Head | Need::Body) => {
            Http2::open(stream).await.map(Dialed::Shared)
        }
        (Transport::Http2, Need::Tunnel) => Err(UpstreamError::UpgradeUnsupported),
        (Transport::Tls, Need::Tunnel) => {
            over_http1(secure(endpoint, &tls.http1, stream).await?, need, look).await
        }
        (Transport::Tls, Need::Head | Need::Body) => {
            let stream = secure(endpoint, &tls.either, stream).await?;
            match (stream.get_ref().1.alpn_protocol(), need) {
                (Some(H2), _) => Http2::open(stream).await.map(Dialed::Shared),
                (Some(_) | None, Need::Head) => Ok(plain(Plain::tls(stream))),
                (Some(_) | None, Need::Body | Need::Tunnel) => over_http1(stream, need, look).await,
            }
        }
    }
}

async fn tcp(endpoint: &Endpoint) -> Result<TcpStream, UpstreamError> {
    let named = (endpoint.host(), endpoint.port());
    let addresses = tokio::net::lookup_host(named)
        .await
        .map_err(|error| UpstreamError::Dns(error.to_string()))?;
    let mut failure = UpstreamError::Dns("no address".to_owned());
    for address in addresses {
        match tcp_to(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = UpstreamError::connecting(&error),
        }
    }
    Err(failure)
}

async fn tcp_to(address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn secure(
    endpoint: &Endpoint,
    connector: &TlsConnector,
    stream: Socket,
) -> Result<TlsStream<Socket>, UpstreamError> {
    let name = ServerName::try_from(endpoint.host().to_owned())
        .map_err(|error| UpstreamError::TlsCertificate(error.to_string()))?;
    let secured = connector.connect(name, stream).await;
    secured.map_err(|error| UpstreamError::handshaking(&error))
}

fn plain<B: RequestBody>(plain: Plain) -> Dialed<B> {
    Dialed::Alone(Connection::Plain(Box::new(plain)))
}

async fn over_http1<B, T>(stream: T, need: Need, look: Look) -> Result<Dialed<B>, UpstreamError>
where
    B: RequestBody,
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let handshake = http1::Builder::new().max_buf_size(BUFFER).handshake(TokioIo::new(stream));
    let (sender, connection) = handshake.await.map_err(|error| UpstreamError::from(&error))?;
    let driver = match need {
        Need::Head | Need::Body => tokio::spawn(drive(connection)),
        Need::Tunnel => tokio::spawn(drive(connection.with_upgrades())),
    };
    let driver = driver.abort_handle();
    Ok(Dialed::Alone(Connection::Http1(Http1 { sender, driver, look })))
}

/// Whoever waits for an answer gets the connection's error; without one it has nobody to tell.
async fn drive(connection: impl Future<Output = hyper::Result<()>>) {
    let _ = connection.await;
}
