//! Error responses: why, with which status, code and page.

use http::StatusCode;

use crate::message::BadRequest;

use super::pages::ErrorKind;

/// Reason for an error response, other than a denied session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    BadRequest(BadRequest),
    MalformedForm,
    BodyTooLarge,
    BodyTimeout,
    CrossSite,
    NoRoute,
    /// The connection is not authoritative for the host (421).
    Misdirected,
    /// Holds the allowed methods.
    MethodNotAllowed(&'static str),
    /// The session ended during the request.
    SessionEnded,
    /// The store was unavailable for longer than the session may go unchecked.
    StoreUnavailable,
    /// The keys of the provider that issued an access token are unavailable.
    ProviderUnavailable,
    /// A connection limit is reached; holds the status.
    TooManyConnections(StatusCode),
    /// The gateway is overloaded.
    Overloaded,
    /// The upstream sent no usable response; holds the status.
    Upstream(StatusCode),
}

const FORWARDED_METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

impl Problem {
    /// Returns the status, the code for scripts and the page for people.
    pub(super) fn response(self) -> (StatusCode, &'static str, ErrorKind) {
        match self {
            Problem::SessionEnded => {
                (StatusCode::UNAUTHORIZED, "unauthenticated", ErrorKind::BadRequest)
            }
            Problem::StoreUnavailable | Problem::ProviderUnavailable => {
                (StatusCode::SERVICE_UNAVAILABLE, "unavailable", ErrorKind::StoreUnavailable)
            }
            Problem::TooManyConnections(status) => {
                (status, "too-many-connections", ErrorKind::TooManyConnections)
            }
            Problem::BadRequest(BadRequest::TooManyHeaders) => {
                let status = BadRequest::TooManyHeaders.status();
                (status, "bad-request", ErrorKind::TooManyHeaders)
            }
            Problem::BadRequest(bad) => (bad.status(), "bad-request", ErrorKind::BadRequest),
            Problem::MalformedForm => (StatusCode::BAD_REQUEST, "bad-form", ErrorKind::BadRequest),
            Problem::BodyTooLarge => {
                (StatusCode::PAYLOAD_TOO_LARGE, "too-long", ErrorKind::BodyTooLarge)
            }
            Problem::BodyTimeout => {
                (StatusCode::REQUEST_TIMEOUT, "too-slow", ErrorKind::BadRequest)
            }
            Problem::CrossSite => (StatusCode::FORBIDDEN, "cross-site", ErrorKind::CrossSite),
            Problem::NoRoute => (StatusCode::NOT_FOUND, "no-route", ErrorKind::NotFound),
            Problem::Misdirected => {
                (StatusCode::MISDIRECTED_REQUEST, "misdirected", ErrorKind::NoSuchSite)
            }
            Problem::MethodNotAllowed(_) => {
                (StatusCode::METHOD_NOT_ALLOWED, "method", ErrorKind::MethodNotAllowed)
            }
            Problem::Overloaded => (StatusCode::SERVICE_UNAVAILABLE, "busy", ErrorKind::Overloaded),
            Problem::Upstream(status) if status == StatusCode::GATEWAY_TIMEOUT => {
                (status, "upstream-slow", ErrorKind::UpstreamSlow)
            }
            Problem::Upstream(status) if status.is_client_error() => {
                (status, "bad-request", ErrorKind::BadRequest)
            }
            Problem::Upstream(status) => (status, "upstream-down", ErrorKind::UpstreamDown),
        }
    }

    /// Returns the reason, for scripts; empty if the code says it.
    pub(super) fn reason(self) -> String {
        match self {
            Problem::BadRequest(bad) => bad.to_string(),
            Problem::StoreUnavailable => "store-unavailable".to_owned(),
            Problem::ProviderUnavailable => "provider-unavailable".to_owned(),
            Problem::MalformedForm
            | Problem::BodyTooLarge
            | Problem::BodyTimeout
            | Problem::CrossSite
            | Problem::NoRoute
            | Problem::Misdirected
            | Problem::MethodNotAllowed(_)
            | Problem::SessionEnded
            | Problem::TooManyConnections(_)
            | Problem::Overloaded
            | Problem::Upstream(_) => String::new(),
        }
    }

    /// Returns the `Allow` header of a 405 response (RFC 9110 15.5.6).
    pub(super) fn allow_header(self) -> Option<&'static str> {
        match self {
            Problem::MethodNotAllowed(methods) => Some(methods),
            // The upstream decides which of these it accepts.
            Problem::BadRequest(BadRequest::Method) => Some(FORWARDED_METHODS),
            Problem::BadRequest(_)
            | Problem::MalformedForm
            | Problem::BodyTooLarge
            | Problem::BodyTimeout
            | Problem::CrossSite
            | Problem::NoRoute
            | Problem::Misdirected
            | Problem::SessionEnded
            | Problem::StoreUnavailable
            | Problem::ProviderUnavailable
            | Problem::TooManyConnections(_)
            | Problem::Overloaded
            | Problem::Upstream(_) => None,
        }
    }
}
