//! The request pipeline. A request passes four phases:
//!
//! | phase | function | result |
//! | --- | --- | --- |
//! | parse | `Authorizer::parse` | a checked head, or a 400 |
//! | authorize | `Authorizer::authorize` | a permit, a local response, or a page of the portal |
//! | forward | `Forwarder::forward` | the response of the upstream |
//! | respond | `Responder::respond` | all response headers, metrics |
//!
//! Every response leaves through `Responder::respond`. The access log entry is written when the exchange has
//! ended, by [`ExchangeRecord`].

mod access_log;
mod activity_reporter;
mod assertion;
mod authorize;
mod body;
mod body_bytes;
mod client_addr;
mod connection_info;
mod cors;
mod dropped_headers;
mod endpoint_check;
mod exchange_context;
mod exchange_record;
mod forward;
mod forwarded_headers;
mod frame_rhythm;
mod health_checks;
mod local_response;
// Public for fuzzing and for the regression tests of its findings only.
#[doc(hidden)]
pub mod frames;
mod overload;
mod progress_timeout;
mod refused_head;
mod rendered_identity;
mod respond;
mod session_control;
mod shared_endpoints;
mod upstream_clusters;
mod upstream_head;
mod upstream_origin;
mod upstream_path;
mod websocket;

pub use assertion::Assertions;
pub use authorize::Authorizer;
pub(crate) use authorize::{Action, Authorization};
pub use body::{ConnectionClosed, InboundBody, RequestBodyError, ResponseBody, ResponseBodyError};
pub use body_bytes::BodyBytes;
pub use client_addr::{ClientSource, TrustedProxies};
pub use connection_info::{ConnectionInfo, PresentedCertificate};
pub use dropped_headers::DroppedHeaders;
pub use exchange_context::{ExchangeContext, Tunnels};
pub use exchange_record::ExchangeRecord;
pub use forward::Forwarder;
pub use health_checks::HealthChecks;
pub(crate) use local_response::LocalResponse;
pub use overload::{LoadLevel, MemoryLoad, OverloadMonitor};
pub use progress_timeout::ProgressTimeout;
pub use respond::Responder;
pub use shared_endpoints::SharedEndpoints;
pub use upstream_clusters::UpstreamClusters;
pub use upstream_head::UpstreamHead;

use std::net::IpAddr;
use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};

use crate::auth::{Auth, Permit};
use crate::connections::{ClientBody, ClientUpgrade};
use crate::message::forwarded::ChainError;
use crate::message::{BadRequest, InboundHead, Intent, RequestContext, RequestId, RequestIds};
use crate::portal;
use crate::route::Route;
use crate::telemetry::Limit;

use access_log::AccessLogEntry;
use forward::IncomingBody;
use respond::{LocalHeaders, PendingResponse};
use session_control::{PendingExchange, SessionControl};

/// The request handler of one worker.
pub struct Proxy {
    pub authorizer: Authorizer,
    pub auth: Auth,
    pub forwarder: Arc<Forwarder>,
    pub trusted_proxies: Arc<TrustedProxies>,
    /// Maximum number of headers in a request.
    pub max_headers: usize,
    /// Maximum size of a request head in bytes.
    pub max_header_bytes: usize,
    /// Generates request IDs.
    pub request_ids: RequestIds,
    pub responder: Arc<Responder>,
}

/// Each request allocates the future of [`Proxy::handle`] once (`server/connection.rs`). Rarely awaited
/// futures are boxed, here and in the layers below, to keep it small.
impl Proxy {
    /// Handles one request received over TLS. The record must live as long as the response body.
    pub async fn handle(
        &self,
        request: Request<ClientBody>,
        upgrade: Option<Box<ClientUpgrade>>,
        connection: &Arc<ConnectionInfo>,
    ) -> (Response<ResponseBody>, ExchangeRecord) {
        let client = self.trusted_proxies.client(connection.peer, request.headers());
        if connection.is_first_request() {
            self.trusted_proxies.report_untrusted(connection.peer, request.headers());
        }
        let context =
            self.request_context(connection, client.unwrap_or(connection.peer), request.headers());
        let is_h2_head = request.method() == Method::HEAD && request.version() == Version::HTTP_2;
        let entry = AccessLogEntry::new(&request, &context, self.responder.access_log.is_some());
        let mut record = ExchangeRecord::new(&self.responder, entry);
        let pending = match self.reject_early(&request, client) {
            Some(bad) => {
                let intent = Intent::from_request(request.method(), request.headers());
                self.malformed(bad, intent, &mut record.entry)
            }
            None => self.process(request, upgrade, context, connection, &mut record.entry).await,
        };
        let response = match pending.token {
            None => self.responder.finish(pending, &record.entry),
            Some(_) => Box::pin(self.responder.respond(pending, &record.entry)).await,
        };
        record.respond(response.status());
        let response =
            if is_h2_head { local_response::without_content(response) } else { response };
        (response, record)
    }

    /// Rejects a request by its headers alone, before its target is parsed.
    fn reject_early<B>(
        &self,
        request: &Request<B>,
        client: Result<IpAddr, ChainError>,
    ) -> Option<BadRequest> {
        match client {
            // The HTTP library enforces these limits on HTTP/1.1.
            _ if self.has_too_many(request.headers()) || self.is_large_h2_head(request) => {
                self.auth.shared().metrics.limit(Limit::Headers, client.ok());
                Some(BadRequest::TooManyHeaders)
            }
            Ok(_) => None,
            Err(why) => Some(BadRequest::Chain(why)),
        }
    }

    /// All `Cookie` headers count as one: browsers send one per cookie over HTTP/2 (RFC 9113 8.2.3), and
    /// `limits.header_bytes` limits their size.
    fn has_too_many(&self, headers: &HeaderMap) -> bool {
        headers.len() > self.max_headers && {
            let cookies = headers.get_all(header::COOKIE).iter().count();
            headers.len() - cookies.saturating_sub(1) > self.max_headers
        }
    }

    /// The HTTP/2 library accepts twice this size, so that nearly all large heads get a response and an access
    /// log entry.
    fn is_large_h2_head<B>(&self, request: &Request<B>) -> bool {
        // RFC 9113 10.5.1.
        const OVERHEAD: usize = 32;
        let size = |(name, value): (&HeaderName, &HeaderValue)| {
            name.as_str().len() + value.len() + OVERHEAD
        };
        request.version() == Version::HTTP_2
            && request.uri().path_and_query().map_or(0, |path| path.as_str().len())
                + request.headers().iter().map(size).sum::<usize>()
                > self.max_header_bytes
    }

    /// Client address, fingerprint and request ID. The ID of a trusted proxy is kept.
    fn request_context(
        &self,
        connection: &ConnectionInfo,
        client: IpAddr,
        headers: &HeaderMap,
    ) -> RequestContext {
        let from_proxy = self
            .trusted_proxies
            .trusts_headers(connection.peer)
            .then(|| RequestId::from_trusted_proxy(headers))
            .flatten();
        RequestContext {
            client,
            fingerprint: connection.fingerprint(),
            request: from_proxy.unwrap_or_else(|| self.request_ids.next()),
        }
    }

    async fn process(
        &self,
        request: Request<ClientBody>,
        upgrade: Option<Box<ClientUpgrade>>,
        context: RequestContext,
        connection: &Arc<ConnectionInfo>,
        entry: &mut AccessLogEntry,
    ) -> PendingResponse {
        let (mut parts, body) = request.into_parts();
        if is_health_check(&parts) {
            entry.set_verdict("health");
            return PendingResponse::local(local_response::no_content(), LocalHeaders::default());
        }
        // Before the target is parsed: that is the most expensive work for a request without a session.
        if let Some(limit) = self.authorizer.shed_reason(&parts.headers) {
            return self.shed(limit, &parts, entry);
        }
        let head = match self.authorizer.parse(&mut parts, context) {
            Ok(head) => head,
            Err(bad) => {
                let intent = Intent::from_request(&parts.method, &parts.headers);
                return self.malformed(bad, intent, entry);
            }
        };
        entry.set_host(&head.host);
        let authorization = self.authorizer.authorize(&head, connection).await;
        let session = authorization.permit().and_then(Permit::session).map(|key| key.id);
        let (route, user) = (authorization.route(), authorization.user());
        entry.set_authorization(authorization.verdict(), route, session, user);
        if authorization.permit().is_some_and(|permit| permit.session().is_some()) {
            connection.mark_authenticated();
        }
        let Authorization { action, token } = authorization;
        let permit = match action {
            Action::Forward(permit) => permit,
            Action::Respond(response, route) => {
                let mut pending = self.respond_locally(&head, &response, route.as_deref(), entry);
                if let Some(route) = route {
                    let headers = pending.response.headers_mut();
                    cors::allow_origin(&route.cross_origin, &head.headers, headers);
                }
                return pending.with_token(token);
            }
            Action::ServePortal => {
                let page = Box::pin(self.forwarder.portal.serve(head, body)).await;
                return PendingResponse::local(
                    page.map(ResponseBody::Local),
                    LocalHeaders::default(),
                );
            }
        };
        if let Some(control) = SessionControl::for_request(&self.forwarder, &head, permit.route()) {
            let connection = Arc::clone(connection);
            let exchange = PendingExchange { head, body, upgrade, connection, permit, token };
            return Box::pin(control.run_detached(exchange, entry)).await;
        }
        let incoming = IncomingBody { body, upgrade, connection };
        self.forwarder.forward(head, incoming, &permit, entry).await.with_token(token)
    }

    fn respond_locally(
        &self,
        head: &InboundHead,
        response: &LocalResponse,
        route: Option<&Route>,
        entry: &mut AccessLogEntry,
    ) -> PendingResponse {
        if let Some(detail) = response.detail(head) {
            entry.set_detail(detail);
        }
        PendingResponse::local(
            response.render(&self.forwarder.portal, head, route),
            response.headers(),
        )
    }

    fn shed(
        &self,
        limit: Limit,
        parts: &http::request::Parts,
        entry: &mut AccessLogEntry,
    ) -> PendingResponse {
        entry.set_verdict("overloaded");
        entry.set_detail(limit.as_str().to_owned());
        self.auth.shared().metrics.limit(limit, Some(entry.client()));
        let intent = Intent::from_request(&parts.method, &parts.headers);
        local_response::overloaded(&self.forwarder.portal, &entry.requester(intent))
    }

    /// Records a request that the HTTP library refused because it could not read its head.
    pub fn log_unreadable(
        &self,
        client: IpAddr,
        protocol: Version,
        status: StatusCode,
        detail: &str,
    ) {
        let request_id = self.request_ids.next();
        self.responder.log_unreadable(client, &request_id, protocol, status, detail);
    }

    /// Responds to a request whose head was not accepted.
    fn malformed(
        &self,
        bad: BadRequest,
        intent: Intent,
        entry: &mut AccessLogEntry,
    ) -> PendingResponse {
        entry.set_detail(bad.to_string());
        let requester = entry.requester(intent);
        let response = local_response::bad_request(&self.forwarder.portal, &requester, bad);
        PendingResponse::local(response, local_response::bad_request_headers(bad))
    }
}

/// Whether a load balancer checks this listener. It may send its own address as the host, or none.
fn is_health_check(parts: &http::request::Parts) -> bool {
    parts.uri.path() == portal::HEALTH && matches!(parts.method, Method::GET | Method::HEAD)
}
