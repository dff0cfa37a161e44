//! Connection establishment: DNS, TCP or a Unix socket, TLS, protocol.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::sleep;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::message::Endpoint;
use crate::message::endpoint::Transport;

use super::addresses::Addresses;
use super::error::UpstreamError;
use super::h2_connections::{Http2Connection, Http2Stream};
use super::http1_connection::Http1Connection;
use super::liveness_probe::ProbedSocket;
use super::request_body::RequestBody;
use super::settings::HeadLimits;

const H2: &[u8] = b"h2";
const HTTP_1_1: &[u8] = b"http/1.1";

/// Time between two attempts to connect to a Unix socket whose queue is full. The kernel does not wait.
const FULL_QUEUE: Duration = Duration::from_millis(10);

/// TLS connectors for the two ALPN offers.
#[derive(Clone)]
pub(super) struct TlsConnectors {
    any_version: TlsConnector,
    http1: TlsConnector,
    /// `None` expects the host of the endpoint.
    pub(super) server_name: Option<ServerName<'static>>,
}

impl TlsConnectors {
    pub(super) fn new(config: &rustls::ClientConfig) -> TlsConnectors {
        TlsConnectors {
            any_version: with_alpn(config, &[H2, HTTP_1_1]),
            http1: with_alpn(config, &[HTTP_1_1]),
            server_name: None,
        }
    }
}

fn with_alpn(config: &rustls::ClientConfig, protocols: &[&[u8]]) -> TlsConnector {
    let mut config = config.clone();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    Arc::new(config).into()
}

/// A connection for one exchange.
pub(super) enum Connection<B: RequestBody> {
    Http1(Box<Http1Connection>),
    Http2(Http2Stream<B>),
}

/// A newly established connection.
pub(super) enum NewConnection<B: RequestBody> {
    /// Carries one exchange at a time.
    Exclusive(Connection<B>),
    Shared(Http2Connection<B>),
}

/// Requirements of a request on its connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ConnectionPurpose {
    /// A request that may share a connection.
    Request,
    /// A request that authenticates its connection. HTTP/1.1 where the endpoint allows it, and
    /// never shared.
    Authentication,
    /// A request for an upgrade: HTTP/1.1 only.
    Tunnel,
}

impl ConnectionPurpose {
    /// Whether the connection must not be shared with other requests.
    pub(super) fn is_exclusive(self) -> bool {
        match self {
            ConnectionPurpose::Request => false,
            ConnectionPurpose::Authentication | ConnectionPurpose::Tunnel => true,
        }
    }
}

/// An endpoint with everything that its connections need.
pub(super) struct EndpointTarget {
    pub(super) endpoint: Endpoint,
    pub(super) tls: TlsConnectors,
    pub(super) addresses: Addresses,
    pub(super) head_limits: HeadLimits,
}

/// Opens a connection.
pub(super) async fn connect<B: RequestBody>(
    target: &EndpointTarget,
    purpose: ConnectionPurpose,
) -> Result<NewConnection<B>, UpstreamError> {
    let EndpointTarget { endpoint, tls, addresses, head_limits } = target;
    let limits = *head_limits;
    if let Some(path) = endpoint.socket() {
        let stream = ProbedSocket::new(connect_unix(path).await?);
        return Ok(exclusive_http1(Http1Connection::unix(stream)));
    }
    let stream = addresses.connect(endpoint).await?;
    let peer = stream.peer_addr().ok();
    let stream = ProbedSocket::new(stream);
    let shared = |mut connection: Http2Connection<B>| {
        connection.peer = peer;
        NewConnection::Shared(connection)
    };
    match (endpoint.transport(), purpose) {
        (Transport::Http1, _) => Ok(exclusive_http1(Http1Connection::tcp(stream))),
        (Transport::Http2, ConnectionPurpose::Request) => {
            Http2Connection::open(stream, limits).await.map(shared)
        }
        (Transport::Http2, ConnectionPurpose::Authentication) => {
            let stream = Http2Connection::open(stream, limits).await?.into_stream();
            Ok(NewConnection::Exclusive(Connection::Http2(stream)))
        }
        (Transport::Http2, ConnectionPurpose::Tunnel) => Err(UpstreamError::UpgradeUnsupported),
        (Transport::Tls, ConnectionPurpose::Authentication | ConnectionPurpose::Tunnel) => {
            let stream = handshake_tls(target, &tls.http1, stream).await?;
            Ok(exclusive_http1(Http1Connection::tls(stream)))
        }
        (Transport::Tls, ConnectionPurpose::Request) => {
            let stream = handshake_tls(target, &tls.any_version, stream).await?;
            match stream.get_ref().1.alpn_protocol() {
                Some(H2) => Http2Connection::open(stream, limits).await.map(shared),
                Some(_) | None => Ok(exclusive_http1(Http1Connection::tls(stream))),
            }
        }
    }
}

/// Connects to a Unix socket. If its queue is full, tries again until the caller's deadline.
async fn connect_unix(path: &Path) -> Result<UnixStream, UpstreamError> {
    loop {
        match UnixStream::connect(path).await {
            Ok(stream) => return Ok(stream),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(FULL_QUEUE).await,
            Err(error) => return Err(UpstreamError::from_connect(&error)),
        }
    }
}

async fn handshake_tls(
    target: &EndpointTarget,
    connector: &TlsConnector,
    stream: ProbedSocket<TcpStream>,
) -> Result<TlsStream<ProbedSocket<TcpStream>>, UpstreamError> {
    let name = match &target.tls.server_name {
        Some(name) => name.clone(),
        None => ServerName::try_from(target.endpoint.host().to_owned())
            .map_err(|error| UpstreamError::TlsCertificate(error.to_string()))?,
    };
    let secured = connector.connect(name, stream).await;
    secured.map_err(|error| UpstreamError::from_tls_handshake(&error))
}

fn exclusive_http1<B: RequestBody>(connection: Http1Connection) -> NewConnection<B> {
    NewConnection::Exclusive(Connection::Http1(Box::new(connection)))
}
