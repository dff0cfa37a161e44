//! Forwards a permitted request to its upstream and the response to the client.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use http::header;
use http::{Response, StatusCode, Version};
use http_body::Body;
use tokio::time::{Instant, timeout_at};

use crate::auth::Permit;
use crate::connections::{ClientBody, ClientUpgrade, ConnectionGuard};
use crate::message::endpoint::{Endpoint, Transport};
use crate::message::{HeaderLines, InboundHead, SanitizedHead, connection_auth, forwarded};
use crate::portal::{Portal, Problem};
use crate::route::Route;
use crate::telemetry::Limit;
use crate::upstream::{
    self, Affinity, Caller, ConnectionOwner, Priority, UpstreamError, UpstreamRequest,
};

use super::access_log::AccessLogEntry;
use super::assertion::Assertions;
use super::body::{
    BodyOutcome, BufferLimits, InboundBody, ResponseBody, TimedBody, Tracking, UpstreamBody,
};
use super::exchange_context::{ExchangeContext, OutgoingRequest, TRACK_AFTER, closed};
use super::local_response::{self, ForwardError};
use super::progress_timeout::Deadlines;
use super::respond::{LocalHeaders, PendingResponse};
use super::{
    ConnectionInfo, DroppedHeaders, TrustedProxies, UpstreamHead, upstream_origin, upstream_path,
    websocket,
};

/// Largest response body in bytes that is not tracked from its head on. Most fit into the socket buffer.
const UNTRACKED_MAX: u64 = 64 * 1024;

/// The start of a request body of unknown length that is read before the request is forwarded, in bytes, and the
/// longest time for it. Programs send small bodies at once; a longer time would delay those that wait for a
/// response before they go on.
const BUFFERED_BYTES: usize = 64 * 1024;
const BUFFERING_TIME: Duration = Duration::from_millis(250);

/// The client's side of an exchange, apart from the request head.
pub(super) struct IncomingBody<'a> {
    pub(super) body: ClientBody,
    pub(super) upgrade: Option<Box<ClientUpgrade>>,
    pub(super) connection: &'a Arc<ConnectionInfo>,
}

/// Forwards permitted requests.
pub struct Forwarder {
    pub context: ExchangeContext,
    pub portal: Portal,
    pub dropped_headers: Arc<DroppedHeaders>,
    pub trusted_proxies: Arc<TrustedProxies>,
    /// Ports of https URLs; an upstream sees no other.
    pub public_ports: Arc<[u16]>,
    pub assertions: Assertions,
}

impl Forwarder {
    /// Sends a permitted request upstream.
    pub(super) async fn forward(
        &self,
        mut head: InboundHead,
        incoming: IncomingBody<'_>,
        permit: &Permit,
        entry: &mut AccessLogEntry,
    ) -> PendingResponse {
        head.host.retain_port(&self.public_ports);
        let max = permit.route().limits.max_bytes;
        if max > 0 && incoming.body.size_hint().lower() > max {
            self.context.auth.shared().metrics.limit(Limit::MaxBody, None);
            let page = self.portal.problem(&head.requester, Problem::BodyTooLarge);
            return PendingResponse::local(page.map(ResponseBody::Local), LocalHeaders::default());
        }
        let cookies = &self.context.auth.settings().cookies;
        let requester = head.requester.clone();
        let caller = Caller {
            priority: self.priority(&head, permit),
            owner: self.connection_owner(&head, permit, incoming.connection),
            affinity: permit.route().upstream_options.sticky.then(|| affinity(permit)).flatten(),
        };
        let activity = &permit.route().activity;
        let (path, intent) = (head.target.path(), head.requester.intent);
        let is_activity = activity.transfers && activity.counts(&head.method, path, intent);
        let head = SanitizedHead::new(head, permit.route().headers.reserved(), cookies);
        self.dropped_headers.report(permit.route(), head.dropped());
        let websocket = head.is_websocket();
        let forwarded_headers = incoming.connection.forwarded_headers(&head);
        let identity = &incoming.connection.identity;
        let mut head = UpstreamHead::with_rendered(&forwarded_headers, identity, head, permit);
        if permit.route().assertion {
            self.add_assertion(&mut head, permit);
        }
        let outgoing = OutgoingRequest { head, caller, is_activity };
        let sent = match incoming.upgrade {
            Some(upgrade) if websocket => {
                Box::pin(websocket::open(&self.context, outgoing, *upgrade, permit, entry)).await
            }
            Some(_) | None => self.fetch(outgoing, incoming, permit, entry).await,
        };
        let sent = sent.map(|mut pending| {
            let headers = pending.response.headers_mut();
            let (host, route) = (forwarded_headers.host(), permit.route());
            upstream_origin::translate_response(headers, host, &route.upstreams);
            if let Some(mapping) = route.response_path_mapping() {
                upstream_path::map_response(headers, host, mapping);
            }
            pending
        });
        sent.unwrap_or_else(|error| {
            if let Some(limit) = error.limit() {
                self.context.auth.shared().metrics.limit(limit, None);
            }
            local_response::upstream_failed(&self.portal, &requester, &error, entry)
        })
    }

    #[cold]
    fn add_assertion(&self, head: &mut UpstreamHead, permit: &Permit) {
        let shared = self.context.auth.shared();
        let assertion = self.assertions.of(permit, &shared.keys.load(), shared.clock.now());
        head.set_assertion(assertion);
    }

    /// Public routes do not load the session, so a valid cookie MAC suffices for priority.
    fn priority(&self, head: &InboundHead, permit: &Permit) -> Priority {
        match permit.identity().is_some()
            || self.context.auth.has_valid_mac(&self.context.auth.session_cookie(&head.headers))
        {
            true => Priority::Authenticated,
            false => Priority::Anonymous,
        }
    }

    /// Returns the owner of upstream connections that the request authenticates (NTLM, Kerberos): its
    /// session on its client connection.
    ///
    /// `None` closes them after use, and so do two cases in which one client connection may carry
    /// requests of several users: HTTP/2, where browsers do not use such authentication, and requests
    /// without a session that another proxy forwarded.
    fn connection_owner(
        &self,
        head: &InboundHead,
        permit: &Permit,
        connection: &ConnectionInfo,
    ) -> Option<ConnectionOwner> {
        let pinned = &connection.pinned;
        if !pinned.is_used() && !connection_auth::is_in_request(&head.headers) {
            return None;
        }
        let session = permit.session().or_else(|| {
            self.context.auth.session_of(&self.context.auth.session_cookie(&head.headers))
        });
        let is_direct = !self.trusted_proxies.trusts(connection.peer)
            && !forwarded::is_from_proxy(&head.headers);
        let is_one_user = session.is_some() || is_direct;
        (is_one_user && head.version != Version::HTTP_2).then(|| pinned.owner(session))
    }

    async fn fetch(
        &self,
        outgoing: OutgoingRequest,
        incoming: IncomingBody<'_>,
        permit: &Permit,
        entry: &mut AccessLogEntry,
    ) -> Result<PendingResponse, ForwardError> {
        let IncomingBody { body, connection, .. } = incoming;
        let route = permit.route();
        let tracked = match body.is_end_stream() {
            true => None,
            false => self.context.track(permit)?,
        };
        let close = tracked.as_ref().map(ConnectionGuard::close_handle);
        let reporter =
            || outgoing.is_activity.then(|| self.context.activity_reporter(permit)).flatten();
        let received = connection.body_byte_counter();
        let body = InboundBody::new(body, &route.limits, received, close).with_activity(reporter);
        let outcome = body.outcome();
        let mut request = outgoing.head.into_upstream_request(body);
        request.lenient_close = !route.requires_close_notify;
        let deadlines = Deadlines::new(permit);
        let now = Instant::now();
        entry.record_forwarded(now.into_std());
        // Pinned here because a move into either arm would store it in the future twice.
        let sent = pin!(self.send(
            request,
            outgoing.caller,
            permit,
            tracked,
            now + TRACK_AFTER - upstream::TICK
        ));
        let sent = match deadlines.earliest() {
            Some(deadline) => Box::pin(timeout_at(deadline.at, sent))
                .await
                .unwrap_or_else(|_| Err(deadline.into())),
            None => sent.await,
        };
        let (response, tracked) = sent.map_err(|error| client_fault(error, outcome.as_deref()))?;
        entry.record_upstream_response(response.body().endpoint());
        let is_event_stream = is_event_stream(&response);
        let (deadline, is_activity) = match is_event_stream {
            // Programs keep event streams open without any action of the user.
            true => (deadlines.connection_age, false),
            false => (deadlines.earliest(), outgoing.is_activity),
        };
        let reporter = || is_activity.then(|| self.context.activity_reporter(permit)).flatten();
        let tracking = match tracked {
            Some(tracked) => Some(Tracking::now(tracked, reporter())),
            None if is_long(&response) => {
                self.context.track(permit)?.map(|tracked| Tracking::now(tracked, reporter()))
            }
            None if response.body().is_end_stream() => None,
            None => self.context.track_delayed(permit, reporter),
        };
        let stop = is_event_stream.then(|| self.context.tunnels.stop.clone());
        let timed = |body| TimedBody::new(body, route.limits.upstream_idle, deadline).until(stop);
        let response = response.map(|body| ResponseBody::from_upstream(timed(body), tracking));
        Ok(PendingResponse::from_upstream(response, permit))
    }

    /// Waits for the response head. A slow exchange becomes a tracked connection: a long poll must not
    /// deliver data after its session has ended.
    async fn send(
        &self,
        mut request: UpstreamRequest<InboundBody>,
        caller: Caller,
        permit: &Permit,
        mut tracked: Option<ConnectionGuard>,
        track_at: Instant,
    ) -> Result<(Response<UpstreamBody>, Option<ConnectionGuard>), ForwardError> {
        let route = permit.route();
        if request.body.size_hint().exact().is_none()
            && let Some(limits) = buffer_limits(route, &request.headers)
        {
            Box::pin(request.body.buffer(limits)).await?;
        }
        let upstreams = self.context.upstreams.get(route)?;
        let mut sent = pin!(upstreams.send(caller, &route.upstreams, request));
        if tracked.is_none() && permit.snapshot().is_some() {
            if let Some(sent) = upstreams.timer().timeout_at(track_at, sent.as_mut()).await {
                return Ok((sent?, None));
            }
            tracked = self.context.track(permit)?;
        }
        Box::pin(await_tracked(sent, tracked)).await
    }
}

/// Waits for the response to a tracked request.
async fn await_tracked(
    sent: Pin<&mut impl Future<Output = Result<Response<UpstreamBody>, UpstreamError>>>,
    mut tracked: Option<ConnectionGuard>,
) -> Result<(Response<UpstreamBody>, Option<ConnectionGuard>), ForwardError> {
    let sent = tokio::select! {
        biased;
        reason = closed(&mut tracked) => return Err(ForwardError::Closed(reason)),
        sent = sent => sent,
    };
    // The close also ends the request body, so the exchange can fail first.
    let sent = sent.map_err(|error| match closed(&mut tracked).now_or_never() {
        Some(reason) => ForwardError::Closed(reason),
        None => error.into(),
    })?;
    if let Some(tracked) = &mut tracked {
        tracked.allowed().await.map_err(ForwardError::Closed)?;
    }
    Ok((sent, tracked))
}

/// Returns the number that all requests of a session have.
fn affinity(permit: &Permit) -> Option<Affinity> {
    let [a, b, c, d, e, f, g, h, ..] = permit.session()?.id.0;
    Some(Affinity(u64::from_be_bytes([a, b, c, d, e, f, g, h])))
}

/// Returns how much of a body of unknown length to read before the request is forwarded. Many HTTP/1.1 apps
/// (WSGI, CGI) take such a body for an empty one. `None` where a length has no use, or the parts of the body are
/// answered one by one.
fn buffer_limits(route: &Route, headers: &HeaderLines) -> Option<BufferLimits> {
    let is_http2 = |upstream: &Endpoint| upstream.transport() == Transport::Http2;
    let content_type = headers.get(&header::CONTENT_TYPE);
    let is_grpc = content_type.is_some_and(|it| it.as_bytes().starts_with(b"application/grpc"));
    if is_grpc || route.upstreams.iter().all(is_http2) {
        return None;
    }
    Some(match route.buffer_requests {
        Some(bytes) => BufferLimits { bytes, time: None },
        None => BufferLimits { bytes: BUFFERED_BYTES, time: Some(BUFFERING_TIME) },
    })
}

/// Replaces an upstream error that the request body caused by the limit that the body exceeded.
fn client_fault(error: ForwardError, outcome: Option<&BodyOutcome>) -> ForwardError {
    match outcome.and_then(BodyOutcome::error_status) {
        Some(StatusCode::REQUEST_TIMEOUT) => ForwardError::BodyTooSlow,
        Some(_) => ForwardError::BodyTooLong,
        None => error,
    }
}

/// Whether the response may outlast its session by far. Decided by length: an upstream may stream with any
/// content type.
fn is_long<B: Body>(response: &Response<B>) -> bool {
    let body = response.body();
    !body.is_end_stream() && body.size_hint().exact().is_none_or(|length| length > UNTRACKED_MAX)
}

/// Event streams are endless by design: only `max_connection_age` limits them.
fn is_event_stream<B>(response: &Response<B>) -> bool {
    const EVENTS: &str = "text/event-stream";
    let content_type = response
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|content_type| content_type.to_str().ok());
    let content_type =
        content_type.and_then(|content_type| content_type.split(';').next()).unwrap_or_default();
    content_type.trim().eq_ignore_ascii_case(EVENTS)
}
