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
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::header::{CONNECTION, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use tokio::time::timeout;

use crate::message::Endpoint;
use crate::message::endpoint::Transport;

use super::connect::Connection;
use super::error::UpstreamError;
use super::http1_connection::{RequestHead, SendError};
use super::pool::Lease;
use super::request_body::{LenientClose, OutgoingBody, Progress, RequestBody, attribute_error};
use super::response_body::UpstreamBody;
use super::response_head::{Framing, MAX_INTERIM, framing};

/// Outcome of one exchange.
pub(super) enum ExchangeOutcome<B: RequestBody> {
    Response(Response<UpstreamBody<B>>),
    /// The request may be sent once more, on a new connection.
    Retry(Request<OutgoingBody<B>>),
    Failed(UpstreamError),
}

/// Sends a request and waits for the response head.
pub(super) async fn exchange<B: RequestBody>(
    mut lease: Lease<B>,
    request: Request<OutgoingBody<B>>,
) -> ExchangeOutcome<B> {
    if let Some(Connection::Http1(_)) = lease.connection() {
        return exchange_http1(lease, request).await;
    }
    let progress = request.body().progress();
    let copy = retry_copy(&request, &mut lease);
    let expected = Expected {
        is_head: request.method() == Method::HEAD,
        is_lenient: is_lenient(&request),
        progress: progress.clone(),
    };
    match send_once(&mut lease, request, progress.as_deref()).await {
        SendOutcome::Response(response) => accept_response(response, expected, lease).await,
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

/// As [`exchange`], for a request without a body on a connection that this task drives.
async fn exchange_http1<B: RequestBody>(
    mut lease: Lease<B>,
    mut request: Request<OutgoingBody<B>>,
) -> ExchangeOutcome<B> {
    if let Err(error) = set_target(&mut request, &mut lease) {
        return ExchangeOutcome::Failed(error);
    }
    let (limit, head_limits) = (lease.settings().response_timeout, lease.settings().response_head);
    let reused = lease.reused();
    let head = RequestHead::new(&request);
    let Some(connection) = lease.http1() else { return ExchangeOutcome::Retry(request) };
    let progress = Progress::default();
    let sent = with_response_timeout(
        pin!(connection.send(&head, head_limits, &progress)),
        limit,
        Some(&progress),
    )
    .await;
    match sent {
        Some(Ok((response, mut state))) => {
            lease.restrict(response.headers());
            if is_lenient(&request) {
                state.accept_truncation();
            }
            with_first_bytes(response.map(|()| UpstreamBody::from_http1(state, lease))).await
        }
        Some(Err(SendError::Unsent(_))) if reused => ExchangeOutcome::Retry(request),
        Some(Err(SendError::Failed(error))) if reused && is_retryable(&request, &error) => {
            ExchangeOutcome::Retry(request)
        }
        Some(Err(SendError::Unsent(error) | SendError::Failed(error))) => {
            ExchangeOutcome::Failed(error)
        }
        None => ExchangeOutcome::Failed(UpstreamError::ResponseTimeout),
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

/// Outcome of sending a request once.
pub(super) enum SendOutcome<B> {
    Response(Response<Incoming>),
    /// The connection closed before the first byte was written; contains the request.
    Unsent(Request<OutgoingBody<B>>),
    /// The upstream received the request and reported that it did not process it.
    Unprocessed(UpstreamError),
    Failed(UpstreamError),
    TimedOut,
}

pub(super) async fn send_once<B: RequestBody>(
    lease: &mut Lease<B>,
    mut request: Request<OutgoingBody<B>>,
    progress: Option<&Progress>,
) -> SendOutcome<B> {
    let limit = lease.settings().response_timeout;
    if let Err(error) = set_target(&mut request, lease) {
        return SendOutcome::Failed(error);
    }
    if let Some(progress) = request.body().progress() {
        extend_timeout(&mut request, progress);
        request.body_mut().set_stream_guard(lease.share_permit());
    }
    let sent = match lease.connection() {
        Some(Connection::HyperHttp1(connection)) => {
            with_response_timeout(
                pin!(connection.sender.try_send_request(request)),
                limit,
                progress,
            )
            .await
        }
        Some(Connection::Http2(stream)) => {
            with_response_timeout(pin!(stream.sender.try_send_request(request)), limit, progress)
                .await
        }
        Some(Connection::Http1(_)) | None => return SendOutcome::Unsent(request),
    };
    match sent {
        Some(Ok(response)) => SendOutcome::Response(response),
        Some(Err(error)) => send_failed(error, progress),
        None => SendOutcome::TimedOut,
    }
}

/// Counts interim responses as progress, up to the limit of the other connections. hyper reports
/// them for HTTP/1.1 only.
fn extend_timeout<B>(request: &mut Request<B>, progress: Arc<Progress>) {
    let interim = AtomicUsize::new(0);
    hyper::ext::on_informational(request, move |_| {
        if interim.fetch_add(1, Ordering::Relaxed) < MAX_INTERIM {
            progress.record_progress();
        }
    });
}

/// Restarts the timeout while the request body makes progress or interim responses arrive: a slow upload
/// is not a slow upstream. The proxy's body reader limits a stalled upload.
async fn with_response_timeout<F: Future>(
    mut response: Pin<&mut F>,
    limit: Duration,
    progress: Option<&Progress>,
) -> Option<F::Output> {
    loop {
        match timeout(limit, response.as_mut()).await {
            Ok(output) => return Some(output),
            Err(_) if progress.is_some_and(Progress::take_progress) => {}
            Err(_) => return None,
        }
    }
}

fn send_failed<B: RequestBody>(
    mut error: TrySendError<Request<OutgoingBody<B>>>,
    progress: Option<&Progress>,
) -> SendOutcome<B> {
    if let Some(mut request) = error.take_message() {
        request.body_mut().set_stream_guard(None);
        return SendOutcome::Unsent(request);
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

/// Facts about a request that its response depends on.
struct Expected {
    is_head: bool,
    is_lenient: bool,
    progress: Option<Arc<Progress>>,
}

fn is_lenient<B>(request: &Request<B>) -> bool {
    request.extensions().get::<LenientClose>().is_some()
}

/// Rejects an unsolicited 101, which would turn a request into a tunnel.
async fn accept_response<B: RequestBody>(
    mut response: Response<Incoming>,
    expected: Expected,
    mut lease: Lease<B>,
) -> ExchangeOutcome<B> {
    lease.restrict(response.headers());
    let limits = lease.settings().response_head;
    if let Err(error) = limits.check(response.headers()) {
        return ExchangeOutcome::Failed(error);
    }
    let framing = match framing(expected.is_head, &mut response) {
        Ok(framing) => framing,
        Err(error) => return ExchangeOutcome::Failed(error),
    };
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return ExchangeOutcome::Failed(UpstreamError::Protocol(
            "101 without a request for it".to_owned(),
        ));
    }
    let is_lenient = expected.is_lenient && framing == Framing::UntilClose;
    let progress = expected.progress;
    with_first_bytes(
        response.map(|incoming| UpstreamBody::new(incoming, lease, progress, is_lenient)),
    )
    .await
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

fn is_retryable<B>(request: &Request<B>, error: &UpstreamError) -> bool {
    request.method().is_idempotent() && matches!(error, UpstreamError::ConnectionTerminated(_))
}

/// Returns a copy of the head of a request without a body, if a retry is possible.
fn retry_copy<B: RequestBody>(
    request: &Request<OutgoingBody<B>>,
    lease: &mut Lease<B>,
) -> Option<Request<OutgoingBody<B>>> {
    let may_be_refused = matches!(lease.connection(), Some(Connection::Http2(_)));
    let may_be_stale = lease.reused() && request.method().is_idempotent();
    if request.body().progress().is_some() || !(may_be_refused || may_be_stale) {
        return None;
    }
    let mut copy = Request::new(OutgoingBody::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    *copy.extensions_mut() = request.extensions().clone();
    Some(copy)
}

/// Sets target, host and version for the connection's protocol. Applying it again, for either
/// protocol, keeps the meaning.
fn set_target<B: RequestBody>(
    request: &mut Request<OutgoingBody<B>>,
    lease: &mut Lease<B>,
) -> Result<(), UpstreamError> {
    match lease.connection() {
        Some(Connection::Http2(_)) => set_http2_target(request, lease.endpoint()),
        Some(Connection::Http1(_) | Connection::HyperHttp1(_)) | None => {
            set_chunked(request);
            set_http1_target(request, lease.endpoint())
        }
    }
}

/// hyper omits the body of a GET of unknown length unless the head announces one. The upstream
/// would then receive a different request.
fn set_chunked<B: Body>(request: &mut Request<B>) {
    let body = request.body();
    if !body.is_end_stream() && body.size_hint().exact().is_none() {
        request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// Nominates `TE`, which applies to one connection (RFC 9110 10.1.4).
fn nominate_te(headers: &mut HeaderMap) {
    if !headers.contains_key(TE) {
        return;
    }
    let is_upgrade = headers.contains_key(UPGRADE);
    let value = if is_upgrade { "Upgrade, TE" } else { "TE" };
    headers.insert(CONNECTION, HeaderValue::from_static(value));
}

/// Sets origin form and `Host`.
fn set_http1_target<B>(request: &mut Request<B>, endpoint: &Endpoint) -> Result<(), UpstreamError> {
    *request.version_mut() = Version::HTTP_11;
    nominate_te(request.headers_mut());
    if !request.headers().contains_key(HOST) {
        let host = request.uri().authority().unwrap_or(endpoint.authority());
        let host = HeaderValue::from_str(host.as_str()).map_err(|_| invalid_target())?;
        request.headers_mut().insert(HOST, host);
    }
    if request.uri().authority().is_some() {
        let target = request.uri().path_and_query().cloned();
        *request.uri_mut() = Uri::from(target.unwrap_or(PathAndQuery::from_static("/")));
    }
    Ok(())
}

/// Sets `:scheme` and `:authority`. The authority is the value of `Host`, which is removed.
fn set_http2_target<B>(request: &mut Request<B>, endpoint: &Endpoint) -> Result<(), UpstreamError> {
    *request.version_mut() = Version::HTTP_2;
    request.headers_mut().remove(TRANSFER_ENCODING);
    request.headers_mut().remove(CONNECTION);
    let authority = match request.headers_mut().remove(HOST) {
        Some(host) => Authority::try_from(host.as_bytes()).map_err(|_| invalid_target())?,
        None => request.uri().authority().unwrap_or(endpoint.authority()).clone(),
    };
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.authority = Some(authority);
    parts.scheme = Some(match endpoint.transport() {
        Transport::Tls => Scheme::HTTPS,
        Transport::Http1 | Transport::Http2 => Scheme::HTTP,
    });
    parts.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from_parts(parts).map_err(|_| invalid_target())?;
    Ok(())
}

fn invalid_target() -> UpstreamError {
    UpstreamError::Protocol("the request has an invalid host or target".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(uri: &str) -> Request<()> {
        let mut request = Request::new(());
        *request.uri_mut() = uri.parse().expect("uri");
        request.headers_mut().insert(HOST, HeaderValue::from_static("wiki.test"));
        request
    }

    #[test]
    fn http1_uses_origin_form_and_keeps_the_host() {
        let endpoint = Endpoint::parse("http://127.0.0.1:1").expect("endpoint");
        for uri in ["/a?b=1", "https://other.test/a?b=1"] {
            let mut request = request(uri);
            set_http1_target(&mut request, &endpoint).expect("addressed");
            assert_eq!(request.uri(), "/a?b=1");
            assert_eq!(request.headers()[HOST], "wiki.test");
        }
    }

    #[test]
    fn http2_uses_the_host_as_authority_and_the_endpoint_scheme() {
        for (endpoint, scheme) in [("h2c://127.0.0.1:1", "http"), ("https://app.test", "https")] {
            let mut request = request("/a?b=1");
            set_http2_target(&mut request, &Endpoint::parse(endpoint).expect(endpoint))
                .expect("addressed");
            assert_eq!(request.uri().to_string(), format!("{scheme}://wiki.test/a?b=1"));
            assert!(!request.headers().contains_key(HOST));
        }
    }

    #[test]
    fn a_request_prepared_for_http2_can_be_sent_over_http1() {
        let endpoint = Endpoint::parse("https://app.test").expect("endpoint");
        let mut request = request("/a?b=1");
        set_http2_target(&mut request, &endpoint).expect("addressed");
        set_http1_target(&mut request, &endpoint).expect("addressed");
        assert_eq!(request.uri(), "/a?b=1");
        assert_eq!(request.headers()[HOST], "wiki.test");
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
        let response = pin!(tokio::time::sleep(11 * second));
        assert!(with_response_timeout(response, 2 * second, Some(&progress)).await.is_some());
        upload.await.expect("upload");
        let silence = pin!(tokio::time::sleep(11 * second));
        assert!(with_response_timeout(silence, 2 * second, Some(&progress)).await.is_none());
    }
}
