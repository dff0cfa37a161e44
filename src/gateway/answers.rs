//! Answers for requests that no upstream answered.

use http::{HeaderValue, Response, StatusCode};

use crate::guard::{Cut, Full};
use crate::http::{BadRequest, InboundHead, Intent};
use crate::portal::{Portal, Problem};
use crate::upstream::UpstreamError;

use super::body::ResponseBody;
use super::line::Line;

/// Why a permitted request has no answer of its upstream.
#[derive(Debug, thiserror::Error)]
pub(super) enum ForwardError {
    #[error("{0}")]
    Upstream(#[from] UpstreamError),
    #[error("the upstream's WebSocket answer does not match the handshake")]
    BadHandshake,
    #[error("the client's body is longer than max_body")]
    BodyTooLong,
    #[error("the client's body comes too slowly")]
    BodyTooSlow,
    #[error("cut before its answer: {}", .0.word())]
    Cut(Cut),
    #[error("{0}")]
    Full(#[from] Full),
}

pub(super) fn bad_request(
    portal: &Portal,
    bad: BadRequest,
    line: &mut Line,
) -> Response<ResponseBody> {
    line.detail(bad.to_string());
    let mut response =
        portal.problem(Intent::Fetch, Problem::BadRequest(bad)).map(ResponseBody::Own);
    // Where framing is in doubt, nothing more is read from this connection.
    response.headers_mut().insert(http::header::CONNECTION, HeaderValue::from_static("close"));
    response
}

pub(super) fn no_route(
    portal: &Portal,
    head: &InboundHead,
    line: &mut Line,
) -> Response<ResponseBody> {
    line.verdict("no-route");
    portal.problem(head.intent, Problem::NoRoute).map(ResponseBody::Own)
}

/// RFC 9209: whose fault it was, in one field.
pub(super) fn upstream_failed(
    portal: &Portal,
    intent: Intent,
    error: &ForwardError,
    line: &mut Line,
) -> Response<ResponseBody> {
    line.detail(error.to_string());
    let (problem, token) = match error {
        ForwardError::Upstream(error) => (Problem::Upstream(error.status()), error.token()),
        ForwardError::BadHandshake => {
            (Problem::Upstream(StatusCode::BAD_GATEWAY), "http_upgrade_failed")
        }
        ForwardError::BodyTooLong => (Problem::TooLong, "http_request_error"),
        ForwardError::BodyTooSlow => (Problem::TooSlow, "http_request_error"),
        ForwardError::Cut(Cut::SessionEnded) => (Problem::SessionEnded, "http_request_denied"),
        ForwardError::Cut(Cut::TooOld) => {
            (Problem::Upstream(StatusCode::GATEWAY_TIMEOUT), "http_response_timeout")
        }
        ForwardError::Cut(Cut::Unchecked) => (Problem::StoreAway, "http_request_denied"),
        ForwardError::Full(Full::Total) => {
            (Problem::Crowded(StatusCode::SERVICE_UNAVAILABLE), "connection_limit_reached")
        }
        ForwardError::Full(Full::Session) => {
            (Problem::Crowded(StatusCode::TOO_MANY_REQUESTS), "connection_limit_reached")
        }
    };
    let mut response = portal.problem(intent, problem).map(ResponseBody::Own);
    let value = format!("doorward; error={token}");
    if let Ok(value) = HeaderValue::from_str(&value) {
        response.headers_mut().insert("proxy-status", value);
    }
    if matches!(error, ForwardError::Full(_)) {
        response.headers_mut().insert(http::header::RETRY_AFTER, HeaderValue::from_static("5"));
    }
    if leaves_a_rest(error) {
        // The rest of the body is not wanted.
        response.headers_mut().insert(http::header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Whether the client may still be sending.
fn leaves_a_rest(error: &ForwardError) -> bool {
    match error {
        ForwardError::BodyTooLong
        | ForwardError::BodyTooSlow
        | ForwardError::Cut(_)
        | ForwardError::Full(_) => true,
        ForwardError::Upstream(_) | ForwardError::BadHandshake => false,
    }
}
