//! Connection establishment: DNS, TCP, TLS, protocol.

use std::sync::Arc;

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::AbortHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::message::Endpoint;
use crate::message::endpoint::Transport;

use super::addresses::Addresses;
use super::early_response::EarlyResponseStream;
use super::error::UpstreamError;
use super::h2_connections::{Http2Connection, Http2Stream};
use super::http1_connection::Http1Connection;
use super::liveness_probe::{LivenessProbe, ProbedSocket};
use super::request_body::{OutgoingBody, RequestBody};
use super::settings::HeadLimits;

/// Minimum size of hyper's buffer per connection in bytes.
const MIN_BUFFER: usize = 64 * 1024;
const H2: &[u8] = b"h2";
const HTTP_1_1: &[u8] = b"http/1.1";

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
    HyperHttp1(HyperConnection<B>),
    Http2(Http2Stream<B>),
}

/// A newly established connection.
pub(super) enum NewConnection<B: RequestBody> {
    /// Carries one exchange at a time.
    Exclusive(Connection<B>),
    Shared(Http2Connection<B>),
}

/// An HTTP/1.1 connection that hyper drives; it carries one exchange at a time.
pub(super) struct HyperConnection<B: RequestBody> {
    pub(super) sender: http1::SendRequest<OutgoingBody<B>>,
    /// Aborting the driver closes the socket at once, even in the middle of a message.
    pub(super) driver: AbortHandle,
    /// Must be requested before each further exchange.
    pub(super) probe: LivenessProbe,
}

/// Requirements of a request on its connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ConnectionPurpose {
    /// A request without a body.
    HeadOnly,
    /// A request with a body.
    Body,
    /// A request that authenticates its connection, with or without a body. HTTP/1.1 where the
    /// endpoint allows it, and never shared.
    Authentication,
    /// A request for an upgrade: HTTP/1.1 only.
    Tunnel,
}

impl ConnectionPurpose {
    /// Whether the connection must not be shared with other requests.
    pub(super) fn is_exclusive(self) -> bool {
        match self {
            ConnectionPurpose::HeadOnly | ConnectionPurpose::Body => false,
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

/// Opens a connection. A driver task ends together with its connection.
pub(super) async fn connect<B: RequestBody>(
    target: &EndpointTarget,
    purpose: ConnectionPurpose,
) -> Result<NewConnection<B>, UpstreamError> {
    let EndpointTarget { endpoint, tls, addresses, head_limits } = target;
    let limits = *head_limits;
    let stream = ProbedSocket::new(addresses.connect(endpoint).await?);
    let probe = stream.probe();
    match (endpoint.transport(), purpose) {
        (Transport::Http1, ConnectionPurpose::HeadOnly) => {
            Ok(exclusive_http1(Http1Connection::tcp(stream)))
        }
        (
            Transport::Http1,
            ConnectionPurpose::Body | ConnectionPurpose::Authentication | ConnectionPurpose::Tunnel,
        ) => start_hyper(stream, purpose, probe, limits).await,
        (Transport::Http2, ConnectionPurpose::HeadOnly | ConnectionPurpose::Body) => {
            Http2Connection::open(stream, limits).await.map(NewConnection::Shared)
        }
        (Transport::Http2, ConnectionPurpose::Authentication) => {
            let stream = Http2Connection::open(stream, limits).await?.into_stream();
            Ok(NewConnection::Exclusive(Connection::Http2(stream)))
        }
        (Transport::Http2, ConnectionPurpose::Tunnel) => Err(UpstreamError::UpgradeUnsupported),
        (Transport::Tls, ConnectionPurpose::Authentication | ConnectionPurpose::Tunnel) => {
            start_hyper(handshake_tls(target, &tls.http1, stream).await?, purpose, probe, limits)
                .await
        }
        (Transport::Tls, ConnectionPurpose::HeadOnly | ConnectionPurpose::Body) => {
            let stream = handshake_tls(target, &tls.any_version, stream).await?;
            match (stream.get_ref().1.alpn_protocol(), purpose) {
                (Some(H2), _) => {
                    Http2Connection::open(stream, limits).await.map(NewConnection::Shared)
                }
                (Some(_) | None, ConnectionPurpose::HeadOnly) => {
                    Ok(exclusive_http1(Http1Connection::tls(stream)))
                }
                (Some(_) | None, _) => start_hyper(stream, purpose, probe, limits).await,
            }
        }
    }
}

async fn handshake_tls(
    target: &EndpointTarget,
    connector: &TlsConnector,
    stream: ProbedSocket,
) -> Result<TlsStream<ProbedSocket>, UpstreamError> {
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

async fn start_hyper<B, T>(
    stream: T,
    purpose: ConnectionPurpose,
    probe: LivenessProbe,
    limits: HeadLimits,
) -> Result<NewConnection<B>, UpstreamError>
where
    B: RequestBody,
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let handshake = http1::Builder::new()
        .max_buf_size(limits.bytes.max(MIN_BUFFER))
        .max_headers(limits.headers)
        .allow_spaces_after_header_name_in_responses(true)
        .title_case_headers(true)
        .handshake(TokioIo::new(EarlyResponseStream::new(stream)));
    let (sender, connection) = handshake.await.map_err(|error| UpstreamError::from(&error))?;
    let driver = match purpose {
        ConnectionPurpose::HeadOnly | ConnectionPurpose::Body => {
            tokio::spawn(run_connection(connection))
        }
        ConnectionPurpose::Authentication | ConnectionPurpose::Tunnel => {
            tokio::spawn(run_connection(connection.with_upgrades()))
        }
    };
    let driver = driver.abort_handle();
    Ok(NewConnection::Exclusive(Connection::HyperHttp1(HyperConnection { sender, driver, probe })))
}

/// The caller that awaits a response receives the connection's error. An idle connection has no
/// caller.
async fn run_connection(connection: impl Future<Output = hyper::Result<()>>) {
    let _ = connection.await;
}
