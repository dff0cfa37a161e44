//! The request pipeline. A request passes four phases:
//!
//! | phase | function | result |
//! | --- | --- | --- |
//! | admit | `Authorizer::admit` | a checked head, or a 400 |
//! | authorize | `Authorizer::authorize` | a permit, a local response, or a page of the portal |
//! | forward | `Proxy::forward` | the sanitized response of the upstream |
//! | respond | `Proxy::respond` | cookie, common headers, access log entry, metrics |
//!
//! Every response leaves through `Proxy::respond`.

mod access_log;
mod authorize;
mod body;
mod client_addr;
mod connection_info;
mod explain;
mod forward;
mod forwarded_headers;
mod local_response;
// Public for fuzzing and for the regression tests of its findings only.
#[doc(hidden)]
pub mod frames;
mod overload;
mod progress_timeout;
mod session_control;
mod upstream_clusters;
mod upstream_head;
mod websocket;

pub use authorize::Authorizer;
pub use body::{ConnectionClosed, RequestBody, RequestBodyError, ResponseBody, ResponseBodyError};
pub use client_addr::TrustedProxies;
pub use connection_info::ConnectionInfo;
pub use explain::{
    ActivityRules, Explanation, Hypothesis, HypotheticalSession, ResponseExplanation,
    RiskExplanation, RouteExplanation, SessionEffects, SessionRules, explain,
};
pub use overload::{LoadLevel, MemoryLoad, OverloadMonitor};
pub use progress_timeout::ProgressTimeout;
pub use upstream_clusters::UpstreamClusters;
pub use upstream_head::UpstreamHead;
pub use websocket::{Evictable, TunnelPermit, Tunnels};

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderValue};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;

use crate::auth::Auth;
use crate::message::forwarded::ChainError;
use crate::message::request_id::X_REQUEST_ID;
use crate::message::{
    BadRequest, InboundHead, Intent, RequestContext, RequestId, RequestIds, ReservedHeaders,
    response_headers,
};
use crate::portal::Portal;
use crate::sessions::NewToken;
use crate::telemetry::{AccessLog, Limit};

use access_log::AccessLogEntry;
use authorize::{Action, Authorization};
use forward::{IncomingBody, Upgrade};
use local_response::LocalResponse;
use session_control::{PendingExchange, SessionControl};

/// The request handler of one worker.
pub struct Proxy {
    pub authorizer: Authorizer,
    pub auth: Auth,
    pub portal: Portal,
    pub reserved_headers: Arc<ReservedHeaders>,
    pub upstreams: UpstreamClusters,
    pub trusted_proxies: Arc<TrustedProxies>,
    /// Maximum number of headers in a request.
    pub max_headers: usize,
    pub tunnels: Tunnels,
    /// Generates request IDs.
    pub request_ids: RequestIds,
    /// Value of `Strict-Transport-Security`; `None` omits the header.
    pub hsts: Option<HeaderValue>,
    /// Whether responses carry `Proxy-Status`.
    pub proxy_status: bool,
    /// Access log; `None` disables it.
    pub access_log: Option<Arc<AccessLog>>,
}

/// A response before `Proxy::respond`.
struct PendingResponse {
    response: Response<ResponseBody>,
    /// The token to set as the session cookie.
    token: Option<NewToken>,
}

/// Each request allocates the future of [`Proxy::handle`] once (`server/connection.rs`). Rarely awaited
/// futures are boxed, here and in the layers below, to keep it small.
impl Proxy {
    /// Handles one request received over TLS.
    pub async fn handle(
        self: &Arc<Self>,
        request: Request<Incoming>,
        connection: &Arc<ConnectionInfo>,
    ) -> Response<ResponseBody> {
        let client = self.trusted_proxies.client(connection.peer, request.headers());
        let context =
            self.request_context(connection, client.unwrap_or(connection.peer), request.headers());
        let mut entry = AccessLogEntry::new(&request, &context, self.access_log.is_some());
        let pending = match self.reject_early(request.headers(), client) {
            Some(bad) => self.malformed(bad, &mut entry),
            None => self.process(request, context, connection, &mut entry).await,
        };
        self.respond(pending, entry).await
    }

    /// Rejects a request by its headers alone, before its target is parsed.
    fn reject_early(
        &self,
        headers: &HeaderMap,
        client: Result<IpAddr, ChainError>,
    ) -> Option<BadRequest> {
        match client {
            // hyper enforces this limit on HTTP/1.1 only.
            _ if headers.len() > self.max_headers => {
                self.auth.shared().metrics.limit(Limit::Headers, client.ok());
                Some(BadRequest::TooManyHeaders)
            }
            Ok(_) => None,
            Err(why) => Some(BadRequest::Chain(why)),
        }
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
            .trusts(connection.peer)
            .then(|| RequestId::from_trusted_proxy(headers))
            .flatten();
        RequestContext {
            client,
            fingerprint: connection.fingerprint(),
            request: from_proxy.unwrap_or_else(|| self.request_ids.next()),
        }
    }

    async fn process(
        self: &Arc<Self>,
        request: Request<Incoming>,
        context: RequestContext,
        connection: &Arc<ConnectionInfo>,
        entry: &mut AccessLogEntry,
    ) -> PendingResponse {
        let (mut parts, body) = request.into_parts();
        let upgrade = Upgrade::from_extensions(&mut parts.extensions);
        let head = match self.authorizer.admit(parts, context) {
            Ok(head) => head,
            Err(bad) => return self.malformed(bad, entry),
        };
        entry.set_host(&head.host);
        let authorization = self.authorizer.authorize(&head, connection).await;
        entry.set_verdict(authorization.verdict(), authorization.permit());
        if authorization.permit().is_some_and(|permit| permit.session().is_some()) {
            connection.mark_authenticated();
        }
        let Authorization { action, token } = authorization;
        let permit = match action {
            Action::Forward(permit) => permit,
            Action::Respond(response, _) => {
                let response = self.respond_locally(&head, &response, entry);
                return PendingResponse { response, token };
            }
            Action::ServePortal => {
                let page = Box::pin(self.portal.serve(head, body)).await;
                return self.without_token(page.map(ResponseBody::Local));
            }
        };
        if let Some(control) = SessionControl::for_request(self, &head, permit.route()) {
            let connection = Arc::clone(connection);
            let exchange = PendingExchange { head, body, upgrade, connection, permit, token };
            return Box::pin(self.run_detached(exchange, control, entry)).await;
        }
        let incoming = IncomingBody { body, upgrade, connection };
        let response = self.forward(head, incoming, &permit, entry).await;
        PendingResponse { response, token }
    }

    fn respond_locally(
        &self,
        head: &InboundHead,
        response: &LocalResponse,
        entry: &mut AccessLogEntry,
    ) -> Response<ResponseBody> {
        if let Some(detail) = response.detail(head) {
            entry.set_detail(detail);
        }
        if let LocalResponse::Overloaded(limit) = response {
            self.auth.shared().metrics.limit(*limit, Some(head.client));
        }
        response.render(&self.portal, head)
    }

    /// Responds to a request whose head was not accepted.
    fn malformed(&self, bad: BadRequest, entry: &mut AccessLogEntry) -> PendingResponse {
        entry.set_detail(bad.to_string());
        let requester = entry.requester(Intent::Fetch);
        self.without_token(local_response::bad_request(&self.portal, &requester, bad))
    }

    fn without_token(&self, response: Response<ResponseBody>) -> PendingResponse {
        PendingResponse { response, token: None }
    }

    /// Writes the cookie, the common headers, the log entry and the metrics of every response.
    async fn respond(
        &self,
        pending: PendingResponse,
        entry: AccessLogEntry,
    ) -> Response<ResponseBody> {
        let PendingResponse { mut response, token } = pending;
        if let Some(token) = token
            && self.is_token_current(&token, &response).await
        {
            self.set_session_cookie(&mut response, &token);
        }
        self.set_common_headers(&mut response, &entry);
        let shared = self.auth.shared();
        shared.metrics.request(entry.verdict(), response.status().as_u16());
        if let Some(log) = &self.access_log {
            entry.write(log, response.status());
        }
        response
    }

    /// Sets the headers that do not depend on the request's outcome.
    fn set_common_headers(&self, response: &mut Response<ResponseBody>, entry: &AccessLogEntry) {
        let own = match response.body() {
            ResponseBody::Local(_) => true,
            ResponseBody::Upstream(_) | ResponseBody::Tracked(..) => false,
        };
        if own {
            let headers = response.headers_mut();
            headers.insert(X_REQUEST_ID, entry.request_id().value().clone());
            // Defaults to `no-store`.
            headers
                .entry(header::CACHE_CONTROL)
                .or_insert(const { HeaderValue::from_static("no-store") });
        }
        if !self.proxy_status {
            response.headers_mut().remove(local_response::PROXY_STATUS);
        }
        // HSTS ignores ports: on localhost it would break plain HTTP on every other port.
        if let Some(hsts) = self.hsts.as_ref().filter(|_| !entry.is_local()) {
            response.headers_mut().insert(header::STRICT_TRANSPORT_SECURITY, hsts.clone());
        }
    }

    /// Whether `token` is still the one to send. After a slow response a newer token may exist, and an
    /// older cookie would overwrite it in the browser.
    async fn is_token_current(&self, token: &NewToken, response: &Response<ResponseBody>) -> bool {
        if response.status().is_informational()
            && response.status() != StatusCode::SWITCHING_PROTOCOLS
        {
            return false;
        }
        let shared = self.auth.shared();
        let elapsed = shared.clock.now().since(token.issued_at);
        elapsed < shared.policy.grace().min(RECHECK_AFTER)
            || self.auth.is_successor_current(token).await
    }

    fn set_session_cookie(&self, response: &mut Response<ResponseBody>, token: &NewToken) {
        let Some(cookie) = self.auth.shared().cookies.set_session(&token.text) else { return };
        response.headers_mut().append(header::SET_COOKIE, cookie);
        // A cached copy would hand this user's token to another client.
        response_headers::set_no_store(response.headers_mut());
    }
}

/// A token older than this is checked against the store before it is sent.
const RECHECK_AFTER: Duration = Duration::from_secs(5);
