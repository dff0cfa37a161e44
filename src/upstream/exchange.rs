//! One request and its answer over a lent connection, with at most one retry.
//!
//! A retry happens in three cases only. Two are for a connection that others used before and that
//! the upstream may therefore have been closing (RFC 9110 9.2.2):
//! - nothing of the request was written: any method;
//! - it broke before an answer, the method is idempotent and the body empty.
//!
//! The third is for HTTP/2, whose upstreams say so when they did not look at a request
//! (RFC 9113 6.8, 8.7): any method, when the body is empty. Each planned restart of an upstream
//! would cost somebody an answer otherwise.
//!
//! Nothing else is ever sent twice: an order must not be placed twice.

use std::error::Error;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use http::header::{HOST, TRANSFER_ENCODING};
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use tokio::time::timeout;

use crate::message::Endpoint;
use crate::message::endpoint::Transport;

use super::answer::framing;
use super::body::{Outgoing, Progress, RequestBody, UpstreamBody, blame};
use super::connect::Connection;
use super::error::UpstreamError;
use super::plain::{Question, Trouble};
use super::pool::Lease;

/// What to make of one exchange.
pub(super) enum Outcome<B: RequestBody> {
    Answered(Response<UpstreamBody<B>>),
    /// May be sent once more, on a new connection.
    Again(Request<Outgoing<B>>),
    Failed(UpstreamError),
}

/// Sends a request and waits for the answer's head.
pub(super) async fn exchange<B: RequestBody>(
    mut lease: Lease<B>,
    request: Request<Outgoing<B>>,
) -> Outcome<B> {
    if let Some(Connection::Plain(_)) = lease.connection() {
        return ask(lease, request).await;
    }
    let progress = request.body().progress();
    let spare = spare(&request, &mut lease);
    let is_head = request.method() == Method::HEAD;
    match attempt(&mut lease, request, progress.as_deref()).await {
        Attempt::Answered(response) => accept(response, is_head, lease, progress),
        Attempt::Unsent(request) if lease.reused() => Outcome::Again(request),
        Attempt::Unsent(_) => Outcome::Failed(closed_at_once()),
        Attempt::Unprocessed(error) => spare.map_or(Outcome::Failed(error), Outcome::Again),
        Attempt::Broken(error) => match spare {
            Some(spare) if lease.reused() && may_repeat(&spare, &error) => Outcome::Again(spare),
            Some(_) | None => Outcome::Failed(error),
        },
        Attempt::Late => {
            lease.give_up();
            Outcome::Failed(UpstreamError::ResponseTimeout)
        }
    }
}

/// The same for a request without a body, on a connection that is driven here.
async fn ask<B: RequestBody>(mut lease: Lease<B>, mut request: Request<Outgoing<B>>) -> Outcome<B> {
    if let Err(error) = address(&mut request, &mut lease) {
        return Outcome::Failed(error);
    }
    let limit = lease.settings().response_timeout;
    let reused = lease.reused();
    let question = Question::new(&request);
    let Some(plain) = lease.plain() else { return Outcome::Again(request) };
    match timeout(limit, plain.ask(&question)).await {
        Ok(Ok((response, unread))) => {
            Outcome::Answered(response.map(|()| UpstreamBody::plain(unread, lease)))
        }
        Ok(Err(Trouble::Unsent(_))) if reused => Outcome::Again(request),
        Ok(Err(Trouble::Broken(error))) if reused && may_repeat(&request, &error) => {
            Outcome::Again(request)
        }
        Ok(Err(Trouble::Unsent(error) | Trouble::Broken(error))) => Outcome::Failed(error),
        Err(_) => Outcome::Failed(UpstreamError::ResponseTimeout),
    }
}

impl<B: RequestBody> Outcome<B> {
    /// The end, whatever it is.
    pub(super) fn last(self) -> Result<Response<UpstreamBody<B>>, UpstreamError> {
        match self {
            Outcome::Answered(response) => Ok(response),
            Outcome::Again(_) => Err(closed_at_once()),
            Outcome::Failed(error) => Err(error),
        }
    }
}

/// How one sending ended.
pub(super) enum Attempt<B> {
    Answered(Response<Incoming>),
    /// The connection was gone before the first byte; here is the request.
    Unsent(Request<Outgoing<B>>),
    /// The upstream has it, and said that it did nothing with it.
    Unprocessed(UpstreamError),
    Broken(UpstreamError),
    Late,
}

pub(super) async fn attempt<B: RequestBody>(
    lease: &mut Lease<B>,
    mut request: Request<Outgoing<B>>,
    progress: Option<&Progress>,
) -> Attempt<B> {
    let limit = lease.settings().response_timeout;
    if let Err(error) = address(&mut request, lease) {
        return Attempt::Broken(error);
    }
    if progress.is_some() {
        request.body_mut().hold(lease.share());
    }
    let sent = match lease.connection() {
        Some(Connection::Http1(connection)) => {
            in_time(pin!(connection.sender.try_send_request(request)), limit, progress).await
        }
        Some(Connection::Http2(stream)) => {
            in_time(pin!(stream.sender.try_send_request(request)), limit, progress).await
        }
        Some(Connection::Plain(_)) | None => return Attempt::Unsent(request),
    };
    match sent {
        Some(Ok(response)) => Attempt::Answered(response),
        Some(Err(error)) => failed(error, progress),
        None => Attempt::Late,
    }
}

/// A client that uploads slowly is not a slow upstream: the wait begins anew while the body moves.
/// (A client that stops is for whoever reads it to cut.)
async fn in_time<F: Future>(
    mut answer: Pin<&mut F>,
    limit: Duration,
    progress: Option<&Progress>,
) -> Option<F::Output> {
    loop {
        match timeout(limit, answer.as_mut()).await {
            Ok(output) => return Some(output),
            Err(_) if progress.is_some_and(Progress::take_moved) => {}
            Err(_) => return None,
        }
    }
}

fn failed<B: RequestBody>(
    mut error: TrySendError<Request<Outgoing<B>>>,
    progress: Option<&Progress>,
) -> Attempt<B> {
    if let Some(mut request) = error.take_message() {
        request.body_mut().hold(None);
        return Attempt::Unsent(request);
    }
    let error = error.into_error();
    let blamed = blame(&error, progress);
    if is_unprocessed(&error) { Attempt::Unprocessed(blamed) } else { Attempt::Broken(blamed) }
}

/// REFUSED_STREAM, or a GOAWAY that stops before our stream; streams before its end do not get it as
/// their error.
fn is_unprocessed(error: &hyper::Error) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<h2::Error>());
    cause.is_some_and(|cause| {
        let refused = cause.is_reset() && cause.reason() == Some(h2::Reason::REFUSED_STREAM);
        cause.is_remote() && (refused || cause.is_go_away())
    })
}

/// A switch of protocols that nobody asked for would make a tunnel out of a request.
fn accept<B: RequestBody>(
    mut response: Response<Incoming>,
    is_head: bool,
    lease: Lease<B>,
    progress: Option<Arc<Progress>>,
) -> Outcome<B> {
    if let Err(error) = framing(is_head, &mut response) {
        return Outcome::Failed(error);
    }
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Outcome::Failed(UpstreamError::Protocol("101 without a request for it".to_owned()));
    }
    Outcome::Answered(response.map(|incoming| UpstreamBody::new(incoming, lease, progress)))
}

pub(super) fn closed_at_once() -> UpstreamError {
    UpstreamError::ConnectionTerminated("before the request was sent".to_owned())
}

fn may_repeat<B>(request: &Request<B>, error: &UpstreamError) -> bool {
    request.method().is_idempotent() && matches!(error, UpstreamError::ConnectionTerminated(_))
}

/// The head again, for a request without a body that may have to be sent twice.
fn spare<B: RequestBody>(
    request: &Request<Outgoing<B>>,
    lease: &mut Lease<B>,
) -> Option<Request<Outgoing<B>>> {
    let may_be_refused = matches!(lease.connection(), Some(Connection::Http2(_)));
    let may_be_stale = lease.reused() && request.method().is_idempotent();
    if request.body().progress().is_some() || !(may_be_refused || may_be_stale) {
        return None;
    }
    let mut spare = Request::new(Outgoing::empty());
    *spare.method_mut() = request.method().clone();
    *spare.uri_mut() = request.uri().clone();
    *spare.headers_mut() = request.headers().clone();
    Some(spare)
}

/// Puts target, host and version into the form of the connection's protocol. Applied a second time,
/// also for the other protocol, it keeps their meaning.
fn address<B: RequestBody>(
    request: &mut Request<Outgoing<B>>,
    lease: &mut Lease<B>,
) -> Result<(), UpstreamError> {
    match lease.connection() {
        Some(Connection::Http2(_)) => address_http2(request, lease.endpoint()),
        Some(Connection::Plain(_) | Connection::Http1(_)) | None => {
            say_framing(request);
            address_http1(request, lease.endpoint())
        }
    }
}

/// hyper would leave out the body of a GET whose length it does not know, unless the head says that
/// one comes: the app would answer another question than was asked.
fn say_framing<B: Body>(request: &mut Request<B>) {
    let body = request.body();
    if !body.is_end_stream() && body.size_hint().exact().is_none() {
        request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// Origin form, and a Host.
fn address_http1<B>(request: &mut Request<B>, endpoint: &Endpoint) -> Result<(), UpstreamError> {
    *request.version_mut() = Version::HTTP_11;
    if !request.headers().contains_key(HOST) {
        let host = request.uri().authority().unwrap_or(endpoint.authority());
        let host = HeaderValue::from_str(host.as_str()).map_err(|_| unspeakable())?;
        request.headers_mut().insert(HOST, host);
    }
    if request.uri().authority().is_some() {
        let target = request.uri().path_and_query().cloned();
        *request.uri_mut() = Uri::from(target.unwrap_or(PathAndQuery::from_static("/")));
    }
    Ok(())
}

/// `:scheme` and `:authority`; the authority is the Host that was set, and Host itself goes.
fn address_http2<B>(request: &mut Request<B>, endpoint: &Endpoint) -> Result<(), UpstreamError> {
    *request.version_mut() = Version::HTTP_2;
    request.headers_mut().remove(TRANSFER_ENCODING);
    let authority = match request.headers_mut().remove(HOST) {
        Some(host) => Authority::try_from(host.as_bytes()).map_err(|_| unspeakable())?,
        None => request.uri().authority().unwrap_or(endpoint.authority()).clone(),
    };
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.authority = Some(authority);
    parts.scheme = Some(match endpoint.transport() {
        Transport::Tls => Scheme::HTTPS,
        Transport::Http1 | Transport::Http2 => Scheme::HTTP,
    });
    parts.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from_parts(parts).map_err(|_| unspeakable())?;
    Ok(())
}

fn unspeakable() -> UpstreamError {
    UpstreamError::Protocol("the request's host or target cannot be written".to_owned())
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
    fn http1_gets_origin_form_and_keeps_the_host_that_was_set() {
        let endpoint = Endpoint::parse("http://127.0.0.1:1").expect("endpoint");
        for uri in ["/a?b=1", "https://other.test/a?b=1"] {
            let mut request = request(uri);
            address_http1(&mut request, &endpoint).expect("addressed");
            assert_eq!(request.uri(), "/a?b=1");
            assert_eq!(request.headers()[HOST], "wiki.test");
        }
    }

    #[test]
    fn http2_gets_the_hosts_authority_and_the_endpoints_scheme() {
        for (endpoint, scheme) in [("h2c://127.0.0.1:1", "http"), ("https://app.test", "https")] {
            let mut request = request("/a?b=1");
            address_http2(&mut request, &Endpoint::parse(endpoint).expect(endpoint))
                .expect("addressed");
            assert_eq!(request.uri().to_string(), format!("{scheme}://wiki.test/a?b=1"));
            assert!(!request.headers().contains_key(HOST));
        }
    }

    #[test]
    fn a_request_addressed_for_http2_can_still_go_by_http1() {
        let endpoint = Endpoint::parse("https://app.test").expect("endpoint");
        let mut request = request("/a?b=1");
        address_http2(&mut request, &endpoint).expect("addressed");
        address_http1(&mut request, &endpoint).expect("addressed");
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
                uploading.note_moved();
            }
        });
        let answer = pin!(tokio::time::sleep(11 * second));
        assert!(in_time(answer, 2 * second, Some(&progress)).await.is_some());
        upload.await.expect("upload");
        let silence = pin!(tokio::time::sleep(11 * second));
        assert!(in_time(silence, 2 * second, Some(&progress)).await.is_none());
    }
}
