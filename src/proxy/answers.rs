//! Answers for requests that no upstream answered.

use http::{HeaderName, HeaderValue, Response, StatusCode};

use crate::guard::{Cut, Full};
use crate::message::{Asker, BadRequest, InboundHead, Intent};
use crate::portal::{Portal, Problem};
use crate::telemetry::Limit;
use crate::upstream::UpstreamError;

use super::body::ResponseBody;
use super::line::Line;
use super::pace::{Deadline, Late};

/// RFC 9209.
pub(super) const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

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
    #[error("not answered within request_timeout")]
    Late,
    #[error("{0}")]
    Full(#[from] Full),
}

impl From<Deadline> for ForwardError {
    /// What passed before the answer began.
    fn from(deadline: Deadline) -> ForwardError {
        match deadline.why {
            Late::Request => ForwardError::Late,
            Late::Age => ForwardError::Cut(Cut::TooOld),
        }
    }
}

impl ForwardError {
    /// The limit that was reached, where it is counted.
    pub(super) fn limit(&self) -> Option<Limit> {
        match self {
            ForwardError::Upstream(UpstreamError::ConnectionLimit) => {
                Some(Limit::UpstreamConnections)
            }
            ForwardError::BodyTooSlow => Some(Limit::Body),
            ForwardError::BodyTooLong => Some(Limit::MaxBody),
            ForwardError::Late => Some(Limit::Request),
            ForwardError::Upstream(_)
            | ForwardError::BadHandshake
            | ForwardError::Cut(_)
            | ForwardError::Full(_) => None,
        }
    }

    /// Whether the app has as many connections as it may have.
    fn is_for_connections(&self) -> bool {
        matches!(self, ForwardError::Upstream(UpstreamError::ConnectionLimit))
    }
}

pub(super) fn bad_request(
    portal: &Portal,
    bad: BadRequest,
    line: &mut Line,
) -> Response<ResponseBody> {
    line.detail(bad.to_string());
    let asker = line.asker(Intent::Fetch);
    let mut response = portal.problem(&asker, Problem::BadRequest(bad)).map(ResponseBody::Own);
    if bad == BadRequest::Loop {
        let status = HeaderValue::from_static("doorward; error=proxy_loop_detected");
        response.headers_mut().insert(PROXY_STATUS, status);
    }
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
    portal.problem(&head.asker, Problem::NoRoute).map(ResponseBody::Own)
}

/// RFC 9110 15.5.20: the client may ask again on a connection of the right host.
pub(super) fn misdirected(
    portal: &Portal,
    head: &InboundHead,
    line: &mut Line,
) -> Response<ResponseBody> {
    line.verdict("misdirected");
    line.detail("the TLS handshake was for a host with another certificate".to_owned());
    portal.problem(&head.asker, Problem::Misdirected).map(ResponseBody::Own)
}

/// A page of another site made the browser send this. The log says what to write if it may.
pub(super) fn cross_site(
    portal: &Portal,
    head: &InboundHead,
    line: &mut Line,
) -> Response<ResponseBody> {
    line.verdict("cross-site");
    let origin = head.headers.get(http::header::ORIGIN).and_then(|origin| origin.to_str().ok());
    let origin: String = origin.unwrap_or("unknown").chars().take(100).collect();
    line.detail(format!("sent by {origin}, which is not in this route's `origins`"));
    portal.problem(&head.asker, Problem::CrossSite).map(ResponseBody::Own)
}

/// Max-Forwards is used up: the answer is ours, and no word about the app (RFC 9110 7.6.2).
pub(super) fn end_of_the_way() -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::Own(http_body_util::Full::default()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// RFC 9209: whose fault it was, in one field.
pub(super) fn upstream_failed(
    portal: &Portal,
    asker: &Asker,
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
        ForwardError::Cut(Cut::TooOld) | ForwardError::Late => {
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
    let mut response = portal.problem(asker, problem).map(ResponseBody::Own);
    let value = format!("doorward; error={token}");
    if let Ok(value) = HeaderValue::from_str(&value) {
        response.headers_mut().insert(PROXY_STATUS, value);
    }
    if comes_back(error) {
        response.headers_mut().insert(http::header::RETRY_AFTER, HeaderValue::from_static("5"));
    }
    if leaves_a_rest(error) {
        // The rest of the body is not wanted.
        response.headers_mut().insert(http::header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Whether there is no room, and may be soon.
fn comes_back(error: &ForwardError) -> bool {
    error.is_for_connections() || matches!(error, ForwardError::Full(_))
}

/// Whether the client may still be sending.
fn leaves_a_rest(error: &ForwardError) -> bool {
    match error {
        ForwardError::BodyTooLong
        | ForwardError::BodyTooSlow
        | ForwardError::Cut(_)
        | ForwardError::Late
        | ForwardError::Full(_) => true,
        ForwardError::Upstream(_) | ForwardError::BadHandshake => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_finds_no_connection_to_the_app_free_is_asked_to_come_back() {
        assert!(comes_back(&ForwardError::Upstream(UpstreamError::ConnectionLimit)));
        assert!(!comes_back(&ForwardError::Upstream(UpstreamError::ConnectionRefused)));
    }
}
