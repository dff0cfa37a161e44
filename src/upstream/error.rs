//! Upstream failures and how they are reported to the client and the operator.

use std::error::Error;
use std::io;

use http::StatusCode;

/// Reason for a missing or incomplete response. Each has a status ([`UpstreamError::status`]) and a
/// Proxy-Status error type ([`UpstreamError::proxy_status`], RFC 9209 2.3).
///
/// The texts are for the operator's log. They contain addresses and must never reach a client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    /// The route has no endpoint.
    #[error("the route has no upstream")]
    NoEndpoint,
    #[error("the upstream's name did not resolve: {0}")]
    Dns(String),
    #[error("the upstream refused the connection")]
    ConnectionRefused,
    #[error("the upstream is unreachable: {0}")]
    Unroutable(String),
    #[error("the upstream did not accept a connection in time")]
    ConnectionTimeout,
    /// The endpoint's limit was reached and no exchange ended in time.
    #[error("too many requests in flight at the upstream")]
    ConnectionLimit,
    #[error("the upstream's certificate was not accepted: {0}")]
    TlsCertificate(String),
    #[error("TLS with the upstream failed: {0}")]
    TlsProtocol(String),
    /// The connection closed or broke before the response head.
    #[error("the upstream closed the connection: {0}")]
    ConnectionTerminated(String),
    /// The connection or the stream ended after the response head and before the end of the body.
    #[error("the upstream's response is incomplete: {0}")]
    ResponseIncomplete(String),
    #[error("the upstream did not respond in time")]
    ResponseTimeout,
    /// The upstream sent something that is not HTTP, or not a response to this request.
    #[error("the upstream violated the protocol: {0}")]
    Protocol(String),
    /// A WebSocket needs HTTP/1.1, but the endpoint is `h2c://`.
    #[error("an h2c upstream cannot upgrade to WebSocket; write http:// for it")]
    UpgradeUnsupported,
    /// Not the upstream's fault: the client's request body failed while it was forwarded.
    #[error("the client's request body ended early")]
    ClientBody,
}

impl UpstreamError {
    /// Returns the response status to send if none has been sent yet.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::ConnectionTimeout | Self::ResponseTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::NoEndpoint | Self::ConnectionLimit => StatusCode::SERVICE_UNAVAILABLE,
            Self::ClientBody => StatusCode::BAD_REQUEST,
            Self::Dns(_)
            | Self::ConnectionRefused
            | Self::Unroutable(_)
            | Self::TlsCertificate(_)
            | Self::TlsProtocol(_)
            | Self::ConnectionTerminated(_)
            | Self::ResponseIncomplete(_)
            | Self::Protocol(_)
            | Self::UpgradeUnsupported => StatusCode::BAD_GATEWAY,
        }
    }

    /// Returns the error type for `Proxy-Status`.
    pub fn proxy_status(&self) -> &'static str {
        match self {
            Self::NoEndpoint => "destination_unavailable",
            Self::Dns(_) => "dns_error",
            Self::ConnectionRefused => "connection_refused",
            Self::Unroutable(_) => "destination_ip_unroutable",
            Self::ConnectionTimeout => "connection_timeout",
            Self::ConnectionLimit => "connection_limit_reached",
            Self::TlsCertificate(_) => "tls_certificate_error",
            Self::TlsProtocol(_) => "tls_protocol_error",
            Self::ConnectionTerminated(_) => "connection_terminated",
            Self::ResponseIncomplete(_) => "http_response_incomplete",
            Self::ResponseTimeout => "http_response_timeout",
            Self::Protocol(_) => "http_protocol_error",
            Self::UpgradeUnsupported => "http_upgrade_failed",
            Self::ClientBody => "http_request_error",
        }
    }

    /// Whether the connection was never established. Nothing was sent, so another endpoint may be
    /// tried for any method.
    pub(super) fn is_connect_failure(&self) -> bool {
        match self {
            Self::Dns(_)
            | Self::ConnectionRefused
            | Self::Unroutable(_)
            | Self::ConnectionTimeout
            | Self::TlsCertificate(_)
            | Self::TlsProtocol(_) => true,
            Self::NoEndpoint
            | Self::ConnectionLimit
            | Self::ConnectionTerminated(_)
            | Self::ResponseIncomplete(_)
            | Self::ResponseTimeout
            | Self::Protocol(_)
            | Self::UpgradeUnsupported
            | Self::ClientBody => false,
        }
    }

    /// Classifies an error of a response body that hyper reads.
    pub(super) fn of_body(error: &hyper::Error) -> UpstreamError {
        if is_stream_end(error) {
            return Self::ResponseIncomplete(with_source(error));
        }
        UpstreamError::from(error).in_body()
    }

    /// Converts an error that occurred after the response head.
    pub(super) fn in_body(self) -> UpstreamError {
        if let Self::ConnectionTerminated(why) = self {
            return Self::ResponseIncomplete(why);
        }
        self
    }

    /// Classifies a failed read or write on an established connection.
    pub(super) fn from_io(error: &io::Error) -> UpstreamError {
        if [io::ErrorKind::InvalidData, io::ErrorKind::InvalidInput].contains(&error.kind()) {
            Self::Protocol(error.to_string())
        } else {
            Self::ConnectionTerminated(error.to_string())
        }
    }

    /// Classifies a failed TCP connection attempt.
    #[allow(clippy::wildcard_enum_match_arm, reason = "not our enum, and it grows")]
    pub(super) fn from_connect(error: &io::Error) -> UpstreamError {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::ConnectionRefused,
            io::ErrorKind::TimedOut => Self::ConnectionTimeout,
            _ => Self::Unroutable(error.to_string()),
        }
    }

    /// Classifies a failed TLS handshake.
    pub(super) fn from_tls_handshake(error: &io::Error) -> UpstreamError {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidCertificate(why)) => Self::TlsCertificate(why.to_string()),
            Some(other) => Self::TlsProtocol(other.to_string()),
            None => Self::TlsProtocol(error.to_string()),
        }
    }
}

impl From<&hyper::Error> for UpstreamError {
    /// Classifies the error as a disconnect ([`UpstreamError::ConnectionTerminated`]) or a protocol
    /// violation ([`UpstreamError::Protocol`]).
    fn from(error: &hyper::Error) -> UpstreamError {
        if is_disconnect(error) {
            Self::ConnectionTerminated(with_source(error))
        } else {
            Self::Protocol(with_source(error))
        }
    }
}

fn is_disconnect(error: &hyper::Error) -> bool {
    if let Some(cause) = error.source().and_then(|cause| cause.downcast_ref::<io::Error>()) {
        return !matches!(cause.kind(), io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput);
    }
    error.is_incomplete_message() || error.is_closed() || error.is_canceled()
}

/// Whether the upstream reset the stream, or its connection ended (HTTP/2).
fn is_stream_end(error: &hyper::Error) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<h2::Error>());
    cause.is_some_and(|cause| cause.is_remote() || cause.is_io())
}

fn with_source(error: &hyper::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
