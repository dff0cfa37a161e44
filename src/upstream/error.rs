//! What can go wrong towards an upstream, and what to tell the client and the operator about it.

use std::error::Error;
use std::io;

use http::StatusCode;

/// Why there is no answer, or no whole answer. Each knows its status ([`UpstreamError::status`])
/// and its Proxy-Status error type ([`UpstreamError::token`], RFC 9209 2.3).
///
/// The texts in it are for the operator's log. They name addresses: never show them to a client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    /// A route without any endpoint.
    #[error("no upstream to send to")]
    NoEndpoint,
    #[error("the upstream's name did not resolve: {0}")]
    Dns(String),
    #[error("the upstream refused the connection")]
    ConnectionRefused,
    #[error("no way to the upstream: {0}")]
    Unroutable(String),
    #[error("the upstream did not accept a connection in time")]
    ConnectionTimeout,
    /// As many exchanges in flight as allowed, and none ended in time.
    #[error("too many requests in flight at the upstream")]
    ConnectionLimit,
    #[error("the upstream's certificate was not accepted: {0}")]
    TlsCertificate(String),
    #[error("no TLS with the upstream: {0}")]
    TlsProtocol(String),
    /// Closed or broken before the answer was whole.
    #[error("the upstream closed the connection: {0}")]
    ConnectionTerminated(String),
    #[error("the upstream did not answer in time")]
    ResponseTimeout,
    /// It said something that is not HTTP, or not an answer to what was asked.
    #[error("the upstream broke the protocol: {0}")]
    Protocol(String),
    /// It cannot switch protocols: a WebSocket needs HTTP/1.1, the endpoint is `h2c://`.
    #[error("an h2c upstream cannot be asked to switch protocols; write http:// for it")]
    UpgradeUnsupported,
    /// Not the upstream's fault: the client's own body broke while it was forwarded.
    #[error("the client's request body broke off")]
    ClientBody,
}

impl UpstreamError {
    /// The answer's status, when none has been sent yet.
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
            | Self::Protocol(_)
            | Self::UpgradeUnsupported => StatusCode::BAD_GATEWAY,
        }
    }

    /// The error type for `Proxy-Status`.
    pub fn token(&self) -> &'static str {
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
            Self::ResponseTimeout => "http_response_timeout",
            Self::Protocol(_) => "http_protocol_error",
            Self::UpgradeUnsupported => "http_upgrade_failed",
            Self::ClientBody => "http_request_error",
        }
    }

    /// Whether it happened before a connection stood: nothing of the request was sent, so another
    /// endpoint may be tried whatever the method.
    pub(super) fn is_before_connection(&self) -> bool {
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
            | Self::ResponseTimeout
            | Self::Protocol(_)
            | Self::UpgradeUnsupported
            | Self::ClientBody => false,
        }
    }

    /// A TCP connection that did not come to be.
    #[allow(clippy::wildcard_enum_match_arm, reason = "not our enum, and it grows")]
    pub(super) fn connecting(error: &io::Error) -> UpstreamError {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::ConnectionRefused,
            io::ErrorKind::TimedOut => Self::ConnectionTimeout,
            _ => Self::Unroutable(error.to_string()),
        }
    }

    /// A TLS handshake that failed.
    pub(super) fn handshaking(error: &io::Error) -> UpstreamError {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidCertificate(why)) => Self::TlsCertificate(why.to_string()),
            Some(other) => Self::TlsProtocol(other.to_string()),
            None => Self::TlsProtocol(error.to_string()),
        }
    }
}

impl From<&hyper::Error> for UpstreamError {
    /// The other side left ([`UpstreamError::ConnectionTerminated`]) or spoke wrongly
    /// ([`UpstreamError::Protocol`]).
    fn from(error: &hyper::Error) -> UpstreamError {
        if left(error) {
            Self::ConnectionTerminated(chain(error))
        } else {
            Self::Protocol(chain(error))
        }
    }
}

fn left(error: &hyper::Error) -> bool {
    if let Some(cause) = error.source().and_then(|cause| cause.downcast_ref::<io::Error>()) {
        return !matches!(cause.kind(), io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput);
    }
    error.is_incomplete_message() || error.is_closed() || error.is_canceled()
}

fn chain(error: &hyper::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
