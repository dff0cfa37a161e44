//! Answers for requests that no upstream answered.

use http::{HeaderValue, Response, StatusCode};

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
    #[error("the session ended while the client was sending")]
    SessionEnded,
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
    let (status, token) = match error {
        ForwardError::Upstream(error) => (error.status(), error.token()),
        ForwardError::BadHandshake => (StatusCode::BAD_GATEWAY, "http_upgrade_failed"),
        ForwardError::SessionEnded => (StatusCode::UNAUTHORIZED, "http_request_denied"),
    };
    let mut response = portal.problem(intent, Problem::Upstream(status)).map(ResponseBody::Own);
    let value = format!("doorward; error={token}");
    if let Ok(value) = HeaderValue::from_str(&value) {
        response.headers_mut().insert("proxy-status", value);
    }
    if matches!(error, ForwardError::SessionEnded) {
        // The rest of the body is not wanted.
        response.headers_mut().insert(http::header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
