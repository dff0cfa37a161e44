//! One request and its response over a leased connection, with at most one retry.
//!
//! A retry happens in three cases. Two concern a reused connection that the upstream may have been
//! closing (RFC 9110 9.2.2):
//! - nothing of the request was written: any method;
//! - the connection broke before a response, the method is idempotent and the body is empty.
//!
//! The third concerns HTTP/2, where an upstream can state that it did not process a request (RFC
//! 9113 6.8, 8.7): any method with an empty body. Without it, each planned restart of an upstream
//! would fail a request.
//!
//! No other request is sent twice: a repeated order would be placed twice.

use std::error::Error;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, HOST, TE, UPGRADE};
use http::uri::{Authority, Scheme, Uri};
use http::{HeaderValue, Method, Request, Response, Version};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;

use crate::message::endpoint::Transport;
use crate::message::{Endpoint, HeaderLines};

use super::coarse_timer::CoarseTimer;
use super::connect::Connection;
use super::error::UpstreamError;
use super::http1_connection::{ResponseBodyState, SendError};
use super::pool::Lease;
use super::request::UpstreamRequest;
use super::request_body::{OutgoingBody, Progress, RequestBody, attribute_error};
use super::response_body::UpstreamBody;
use super::response_head::framing;

/// Outcome of one exchange.
pub(super) enum ExchangeOutcome<B: RequestBody> {
    Response(Response<UpstreamBody<B>>),
    /// The request may be sent once more, on a new connection.
    Retry(UpstreamRequest<OutgoingBody<B>>),
    Failed(UpstreamError),
}

/// Sends a request and waits for the response head.
pub(super) async fn exchange<B: RequestBody>(
    mut lease: Lease<B>,
    request: UpstreamRequest<OutgoingBody<B>>,
) -> ExchangeOutcome<B> {
    if let Some(Connection::Http2(_)) = lease.connection() {
        return exchange_http2(lease, request).await;
    }
    match send_http1(lease, request).await {
        Http1Outcome::Response(response, state, lease) => {
            with_first_bytes(response.map(|()| UpstreamBody::from_http1(state, lease))).await
        }
        Http1Outcome::Retry(request) => ExchangeOutcome::Retry(request),
        Http1Outcome::Failed(error) => ExchangeOutcome::Failed(error),
    }
}

/// Outcome of sending a request over HTTP/1.1.
pub(super) enum Http1Outcome<B: RequestBody> {
    Response(Response<()>, ResponseBodyState, Lease<B>),
    Retry(UpstreamRequest<OutgoingBody<B>>),
    Failed(UpstreamError),
}

/// Sends a request on the leased HTTP/1.1 connection.
pub(super) async fn send_http1<B: RequestBody>(
    mut lease: Lease<B>,
    mut request: UpstreamRequest<OutgoingBody<B>>,
) -> Http1Outcome<B> {
    if let Err(error) = set_http1_target(&mut request, lease.endpoint()) {
        return Http1Outcome::Failed(error);
    }
    let (limit, head_limits) = (lease.settings().response_timeout, lease.settings().response_head);
    let timer = lease.timer();
    let reused = lease.reused();
    let (own, shared) = (Progress::default(), request.body.progress());
    let is_repeatable = shared.is_none() && request.method.is_idempotent();
    let progress = shared.as_deref().unwrap_or(&own);
    let Some(connection) = lease.http1() else { return Http1Outcome::Retry(request) };
    let sent = with_response_timeout(
        &timer,
        pin!(connection.send(&mut request, head_limits, progress)),
        limit,
        Some(progress),
    )
    .await;
    match sent {
        Some(Ok((response, mut state))) => {
            lease.restrict(response.headers());
            if request.lenient_close {
                state.accept_truncation();
            }
            Http1Outcome::Response(response, state, lease)
        }
        Some(Err(SendError::Unsent(_))) if reused => Http1Outcome::Retry(request),
        Some(Err(SendError::Failed(UpstreamError::ConnectionTerminated(_))))
            if reused && is_repeatable =>
        {
            Http1Outcome::Retry(request)
        }
        Some(Err(SendError::Unsent(error) | SendError::Failed(error))) => {
            Http1Outcome::Failed(error)
        }
        None => Http1Outcome::Failed(UpstreamError::ResponseTimeout),
    }
}

async fn exchange_http2<B: RequestBody>(
    mut lease: Lease<B>,
    request: UpstreamRequest<OutgoingBody<B>>,
) -> ExchangeOutcome<B> {
    let progress = request.body.progress();
    let copy = retry_copy(&request);
    let is_head = request.method == Method::HEAD;
    match send_http2(&mut lease, request, progress.as_deref()).await {
        SendOutcome::Response(response) => {
            accept_response(response, is_head, progress, lease).await
        }
        SendOutcome::Unsent(request) if lease.reused() => ExchangeOutcome::Retry(request),
        SendOutcome::Unsent(_) => ExchangeOutcome::Failed(closed_before_request()),
        SendOutcome::Unprocessed(error) => {
            copy.map_or(ExchangeOutcome::Failed(error), ExchangeOutcome::Retry)
        }
        SendOutcome::Failed(error) => match copy {
            Some(copy) if lease.reused() && is_retryable(&copy, &error) => {
                ExchangeOutcome::Retry(copy)
            }
            Some(_) | None => ExchangeOutcome::Failed(error),
        },
        SendOutcome::TimedOut => {
            lease.fail();
            ExchangeOutcome::Failed(UpstreamError::ResponseTimeout)
        }
    }
}

impl<B: RequestBody> ExchangeOutcome<B> {
    /// Converts the outcome of the last attempt.
    pub(super) fn into_result(self) -> Result<Response<UpstreamBody<B>>, UpstreamError> {
        match self {
            ExchangeOutcome::Response(response) => Ok(response),
            ExchangeOutcome::Retry(_) => Err(closed_before_request()),
            ExchangeOutcome::Failed(error) => Err(error),
        }
    }
}

/// Outcome of sending a request once over HTTP/2.
enum SendOutcome<B> {
    Response(Response<Incoming>),
    /// The connection closed before the first byte was written; contains the request.
    Unsent(UpstreamRequest<OutgoingBody<B>>),
    /// The upstream received the request and reported that it did not process it.
    Unprocessed(UpstreamError),
    Failed(UpstreamError),
    TimedOut,
}

async fn send_http2<B: RequestBody>(
    lease: &mut Lease<B>,
    request: UpstreamRequest<OutgoingBody<B>>,
    progress: Option<&Progress>,
) -> SendOutcome<B> {
    let (limit, lenient_close) = (lease.settings().response_timeout, request.lenient_close);
    let timer = lease.timer();
    let mut request = match to_http2(request, lease.endpoint()) {
        Ok(request) => request,
        Err(error) => return SendOutcome::Failed(error),
    };
    if progress.is_some() {
        request.body_mut().set_stream_guard(lease.share_permit());
    }
    let Some(Connection::Http2(stream)) = lease.connection() else {
        return SendOutcome::Unsent(UpstreamRequest { lenient_close, ..request.into() });
    };
    let sent = pin!(stream.sender.try_send_request(request));
    match with_response_timeout(&timer, sent, limit, progress).await {
        Some(Ok(response)) => SendOutcome::Response(response),
        Some(Err(error)) => send_failed(error, lenient_close, progress),
        None => SendOutcome::TimedOut,
    }
}

/// Restarts the timeout while the request body makes progress or interim responses arrive: a slow upload
/// is not a slow upstream. The proxy's body reader limits a stalled upload.
async fn with_response_timeout<F: Future>(
    timer: &CoarseTimer,
    mut response: Pin<&mut F>,
    limit: Duration,
    progress: Option<&Progress>,
) -> Option<F::Output> {
    loop {
        match timer.timeout(limit, response.as_mut()).await {
            Some(output) => return Some(output),
            None if progress.is_some_and(Progress::take_progress) => {}
            None => return None,
        }
    }
}

fn send_failed<B: RequestBody>(
    mut error: TrySendError<Request<OutgoingBody<B>>>,
    lenient_close: bool,
    progress: Option<&Progress>,
) -> SendOutcome<B> {
    if let Some(mut request) = error.take_message() {
        request.body_mut().set_stream_guard(None);
        return SendOutcome::Unsent(UpstreamRequest { lenient_close, ..request.into() });
    }
    let error = error.into_error();
    let attributed = attribute_error(progress, || UpstreamError::from(&error));
    if is_unprocessed(&error) {
        SendOutcome::Unprocessed(attributed)
    } else {
        SendOutcome::Failed(attributed)
    }
}

/// Whether the error is REFUSED_STREAM, or a GOAWAY whose last stream precedes ours. Streams at or
/// before the last stream do not get the GOAWAY as their error.
fn is_unprocessed(error: &hyper::Error) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<h2::Error>());
    cause.is_some_and(|cause| {
        let refused = cause.is_reset() && cause.reason() == Some(h2::Reason::REFUSED_STREAM);
        cause.is_remote() && (refused || cause.is_go_away())
    })
}

async fn accept_response<B: RequestBody>(
    mut response: Response<Incoming>,
    is_head: bool,
    progress: Option<Arc<Progress>>,
    mut lease: Lease<B>,
) -> ExchangeOutcome<B> {
    lease.restrict(response.headers());
    let limits = lease.settings().response_head;
    let checked = limits.check(response.headers()).and_then(|()| framing(is_head, &mut response));
    match checked {
        Ok(_) => {
            let body = |incoming| UpstreamBody::from_http2(incoming, lease, progress);
            with_first_bytes(response.map(body)).await
        }
        Err(error) => ExchangeOutcome::Failed(error),
    }
}

/// Reads the body as far as it arrived together with the head. No retry if it is broken: the
/// upstream has processed the request.
async fn with_first_bytes<B: RequestBody>(
    mut response: Response<UpstreamBody<B>>,
) -> ExchangeOutcome<B> {
    match response.body_mut().prefetch().await {
        Ok(()) => ExchangeOutcome::Response(response),
        Err(error) => ExchangeOutcome::Failed(error),
    }
}

pub(super) fn closed_before_request() -> UpstreamError {
    UpstreamError::ConnectionTerminated("before the request was sent".to_owned())
}

fn is_retryable<B>(request: &UpstreamRequest<B>, error: &UpstreamError) -> bool {
    request.method.is_idempotent() && matches!(error, UpstreamError::ConnectionTerminated(_))
}

/// Returns a copy of a request without a body, which can be sent again.
fn retry_copy<B: RequestBody>(
    request: &UpstreamRequest<OutgoingBody<B>>,
) -> Option<UpstreamRequest<OutgoingBody<B>>> {
    if request.body.progress().is_some() {
        return None;
    }
    let UpstreamRequest { method, target, headers, lenient_close, .. } = request;
    let (method, target, headers) = (method.clone(), target.clone(), headers.clone());
    let (body, lenient_close) = (OutgoingBody::empty(), *lenient_close);
    Some(UpstreamRequest { method, target, headers, body, lenient_close })
}

/// Nominates `TE`, which applies to one connection (RFC 9110 10.1.4).
fn nominate_te(headers: &mut HeaderLines) {
    if !headers.contains(&TE) {
        return;
    }
    let is_upgrade = headers.contains(&UPGRADE);
    let value = if is_upgrade { "Upgrade, TE" } else { "TE" };
    headers.set(CONNECTION, HeaderValue::from_static(value));
}

/// Sets `Host` and nominates `TE`.
fn set_http1_target<B>(
    request: &mut UpstreamRequest<B>,
    endpoint: &Endpoint,
) -> Result<(), UpstreamError> {
    nominate_te(&mut request.headers);
    if !request.headers.contains(&HOST) {
        let host = HeaderValue::from_str(endpoint.authority().as_str());
        request.headers.append(HOST, host.map_err(|_| invalid_target())?);
    }
    Ok(())
}

/// Sets `:scheme` and `:authority`. The authority is the value of `Host`, which is removed.
fn to_http2<B>(
    request: UpstreamRequest<B>,
    endpoint: &Endpoint,
) -> Result<Request<B>, UpstreamError> {
    let mut request = Request::from(request);
    *request.version_mut() = Version::HTTP_2;
    request.headers_mut().remove(CONNECTION);
    let authority = match request.headers_mut().remove(HOST) {
        Some(host) => Authority::try_from(host.as_bytes()).map_err(|_| invalid_target())?,
        None => endpoint.authority().clone(),
    };
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.authority = Some(authority);
    parts.scheme = Some(match endpoint.transport() {
        Transport::Tls => Scheme::HTTPS,
        Transport::Http1 | Transport::Http2 => Scheme::HTTP,
    });
    *request.uri_mut() = Uri::from_parts(parts).map_err(|_| invalid_target())?;
    Ok(request)
}

fn invalid_target() -> UpstreamError {
    UpstreamError::Protocol("the request has an invalid host or target".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(uri: &str) -> UpstreamRequest<()> {
        let mut request = Request::new(());
        *request.uri_mut() = uri.parse().expect("uri");
        request.headers_mut().insert(HOST, HeaderValue::from_static("wiki.test"));
        request.into()
    }

    #[test]
    fn http1_uses_origin_form_and_keeps_the_host() {
        let endpoint = Endpoint::parse("http://127.0.0.1:1").expect("endpoint");
        for uri in ["/a?b=1", "https://other.test/a?b=1"] {
            let mut request = request(uri);
            set_http1_target(&mut request, &endpoint).expect("addressed");
            assert_eq!(request.target, "/a?b=1");
            assert_eq!(request.headers.get(&HOST).expect("a host"), "wiki.test");
        }
    }

    #[test]
    fn http2_uses_the_host_as_authority_and_the_endpoint_scheme() {
        for (endpoint, scheme) in [("h2c://127.0.0.1:1", "http"), ("https://app.test", "https")] {
            let endpoint = Endpoint::parse(endpoint).expect(endpoint);
            let request = to_http2(request("/a?b=1"), &endpoint).expect("addressed");
            assert_eq!(request.uri().to_string(), format!("{scheme}://wiki.test/a?b=1"));
            assert!(!request.headers().contains_key(HOST));
        }
    }

    #[test]
    fn a_request_prepared_for_http2_can_be_sent_over_http1() {
        let endpoint = Endpoint::parse("https://app.test").expect("endpoint");
        let request = to_http2(request("/a?b=1"), &endpoint).expect("addressed");
        let mut request = UpstreamRequest::from(request);
        set_http1_target(&mut request, &endpoint).expect("addressed");
        assert_eq!(request.target, "/a?b=1");
        assert_eq!(request.headers.get(&HOST).expect("a host"), "wiki.test");
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_upload_is_not_a_slow_upstream() {
        let second = Duration::from_secs(1);
        let progress = Arc::new(Progress::default());
        let uploading = Arc::clone(&progress);
        let upload = tokio::spawn(async move {
            for _ in 0..10 {
                tokio::time::sleep(second).await;
                uploading.record_progress();
            }
        });
        let (timer, limit) = (CoarseTimer::default(), 2 * second);
        let response = pin!(tokio::time::sleep(11 * second));
        let ended = with_response_timeout(&timer, response, limit, Some(&progress)).await;
        assert!(ended.is_some());
        upload.await.expect("upload");
        let silence = pin!(tokio::time::sleep(11 * second));
        let ended = with_response_timeout(&timer, silence, limit, Some(&progress)).await;
        assert!(ended.is_none());
    }
}
