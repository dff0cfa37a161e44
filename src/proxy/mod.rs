//! The request pipeline. Every response leaves through `Proxy::finish`.
//!
//! ```text
//! parse head ─ own page? ─ route ─ authenticate (cookie → record → decide → swap) ─ permit
//!      └ 400      └ portal   └ 404      └ login, 401, 403, 503                         │
//!              sanitize request ─ identity headers ─ forward ─ sanitize response ─ finish: cookie, log entry, metrics
//! ```

mod body;
mod connection_info;
mod explain;
mod forward;
mod local_response;
// Public for fuzzing and for the regression tests of its findings only.
mod access_log;
mod client_addr;
mod forwarded_headers;
#[doc(hidden)]
pub mod frames;
mod overload;
mod progress_timeout;
mod session_control;
mod upstream_clusters;
mod upstream_head;
mod websocket;

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

use crate::auth::{Auth, AuthOutcome, AuthRequest, DenyReason, Permit};
use crate::message::forwarded::ChainError;
use crate::message::request_id::X_REQUEST_ID;
use crate::message::{
    BadRequest, CookieLookup, Host, InboundHead, Interpretations, RequestContext, RequestId,
    RequestIds, ReservedHeaders, TargetError, cookies, response_headers,
};
use crate::portal::{self, Portal, Problem};
use crate::route::{Access, AccessRule, Route, RouteTable};
use crate::session::{ClientContext, RotationTiming};
use crate::sessions::NewToken;
use crate::telemetry::{AccessLog, Limit};
use crate::tls::Certificates;

use access_log::AccessLogEntry;
use forward::{IncomingBody, Upgrade};
use session_control::{PendingExchange, SessionControl};

/// The request handler of one worker.
pub struct Proxy {
    pub auth: Auth,
    pub portal: Portal,
    pub routes: Arc<RouteTable>,
    pub reserved_headers: Arc<ReservedHeaders>,
    pub upstreams: UpstreamClusters,
    pub trusted_proxies: Arc<TrustedProxies>,
    /// Maximum number of headers in a request.
    pub max_headers: usize,
    pub overload: OverloadMonitor,
    pub tunnels: Tunnels,
    /// Certificates of the listeners; `None` disables the 421 check.
    pub certificates: Option<Arc<Certificates>>,
    /// Generates request IDs.
    pub request_ids: RequestIds,
    /// Value of `Strict-Transport-Security`; `None` omits the header.
    pub hsts: Option<HeaderValue>,
    /// Whether responses carry `Proxy-Status`.
    pub proxy_status: bool,
    /// Access log; `None` disables it.
    pub access_log: Option<Arc<AccessLog>>,
}

/// A response before `Proxy::finish`.
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
            Some(bad) => {
                self.without_token(local_response::bad_request(&self.portal, bad, &mut entry))
            }
            None => self.process(request, context, connection, &mut entry).await,
        };
        self.finish(pending, entry).await
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
        let parsed = InboundHead::parse_with(parts, context, |host, paths| {
            self.allows_ambiguous_path(host, paths)
        });
        let head = match parsed {
            Ok(head) => head,
            Err(bad) => {
                return self.without_token(local_response::bad_request(&self.portal, bad, entry));
            }
        };
        entry.set_host(&head.host);
        if !self.is_authoritative(&head.host, connection) {
            return self.without_token(local_response::misdirected(&self.portal, &head, entry));
        }
        if let Some(limit) = self.shed_reason(&head) {
            return self.without_token(self.shed_response(&head, limit, entry));
        }
        if portal::is_own_path(head.target.path()) && self.routes.serves_host(&head.host) {
            entry.set_verdict("portal");
            let page = Box::pin(self.portal.serve(head, body)).await;
            return self.without_token(page.map(ResponseBody::Local));
        }
        let Some(route) = self.routes.find(&head.host, head.target.path()) else {
            return self.without_token(local_response::no_route(&self.portal, &head, entry));
        };
        if self.routes.shadows_stricter_route(route, head.target.path()) {
            let bad = BadRequest::Target(TargetError::ShadowsRoute);
            return self.without_token(local_response::bad_request(&self.portal, bad, entry));
        }
        if !self.passes_csrf(&head, route) {
            return self.without_token(local_response::cross_site(&self.portal, &head, entry));
        }
        let auth = self.authenticate(&head, route).await;
        let permit = match auth.permit {
            Ok(permit) => permit,
            Err(denial) => {
                let response = self.deny(&head, denial, entry);
                return PendingResponse { response, token: auth.token };
            }
        };
        if permit.session().is_some() {
            connection.mark_authenticated();
        }
        if let Some(control) = SessionControl::for_request(self, &head, route) {
            let (connection, token) = (Arc::clone(connection), auth.token);
            let exchange = PendingExchange { head, body, upgrade, connection, permit, token };
            return Box::pin(self.run_detached(exchange, control, entry)).await;
        }
        let incoming = IncomingBody { body, upgrade, connection };
        let response = self.forward(head, incoming, route, &permit, entry).await;
        PendingResponse { response, token: auth.token }
    }

    /// Whether the certificate of this connection is also the one for `host` (RFC 9110 7.4). Otherwise
    /// the request would be served under the rules of a host that the TLS handshake did not select.
    fn is_authoritative(&self, host: &Host, connection: &ConnectionInfo) -> bool {
        let (Some(certificates), Some(server_name)) =
            (&self.certificates, connection.server_name())
        else {
            return true;
        };
        server_name == host.name() || certificates.share_certificate(server_name, host.name())
    }

    /// Whether an ambiguous path is harmless: no interpretation is one of our own pages, and the route
    /// table allows all of them.
    fn allows_ambiguous_path(&self, host: &Host, interpretations: &Interpretations) -> bool {
        !interpretations.paths.iter().any(|path| portal::is_own_path(path))
            && self.routes.allows_ambiguous(host, interpretations)
    }

    /// Whether the request is safe from cross-site request forgery. A request without a session cookie
    /// passes: it cannot act for a user and gets the login response.
    fn passes_csrf(&self, head: &InboundHead, route: &Route) -> bool {
        match &route.access {
            Access::Public => true,
            Access::Session(_) => {
                route.cross_origin.allows(&head.method, head.websocket, &head.headers, &head.host)
                    || self.session_cookie(head) == CookieLookup::Missing
            }
        }
    }

    fn session_cookie(&self, head: &InboundHead) -> CookieLookup {
        cookies::find(&head.headers, &self.auth.shared().cookies.session)
    }

    /// Authenticates and authorizes the request. Public routes skip the session.
    async fn authenticate(&self, head: &InboundHead, route: &Route) -> AuthOutcome {
        let requirement = match (&route.access, Permit::public(route)) {
            (Access::Public, Some(permit)) => {
                return AuthOutcome { permit: Ok(permit), token: None };
            }
            (Access::Session(requirement), _) => requirement,
            (Access::Public, None) => &AccessRule::default(),
        };
        let cookie = self.session_cookie(head);
        let timing = match route.rotation {
            true => RotationTiming::WhenDue,
            false => RotationTiming::Never,
        };
        let auth_request = AuthRequest {
            cookie: &cookie,
            context: &client_context(head),
            policy: &route.policy_for(&head.method, head.websocket),
            requirement,
            timing,
            is_activity: route.activity.counts(
                &head.method,
                head.target.path(),
                head.requester.intent,
            ),
            // A safe request changes nothing if its session has ended on another instance.
            serve_stale_for: route
                .serve_stale_for
                .filter(|_| head.method.is_safe() && !head.websocket),
        };
        self.auth.authorize(&auth_request).await
    }

    fn deny(
        &self,
        head: &InboundHead,
        denial: DenyReason,
        entry: &mut AccessLogEntry,
    ) -> Response<ResponseBody> {
        entry.set_verdict(denial.as_str());
        self.portal.deny(head, &denial).map(ResponseBody::Local)
    }

    /// Returns the limit for which this request is shed, if any. Under high load, requests with a
    /// validly signed session cookie pass; the MAC check needs no store.
    fn shed_reason(&self, head: &InboundHead) -> Option<Limit> {
        let (level, limit) = self.overload.level()?;
        let has_valid_cookie = || {
            let name = &self.auth.shared().cookies.session;
            self.auth.has_valid_mac(&cookies::find(&head.headers, name))
        };
        (level == LoadLevel::Overloaded || !has_valid_cookie()).then_some(limit)
    }

    fn shed_response(
        &self,
        head: &InboundHead,
        limit: Limit,
        entry: &mut AccessLogEntry,
    ) -> Response<ResponseBody> {
        entry.set_verdict("overloaded");
        entry.set_detail(limit.as_str().to_owned());
        self.auth.shared().metrics.limit(limit, Some(head.client));
        let mut response =
            self.portal.problem(&head.requester, Problem::Overloaded).map(ResponseBody::Local);
        let headers = response.headers_mut();
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
        // Frees the connection for another client. HTTP/2 has no such header; its idle timeout applies.
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        response
    }

    fn without_token(&self, response: Response<ResponseBody>) -> PendingResponse {
        PendingResponse { response, token: None }
    }

    /// Writes the cookie, the common headers, the log entry and the metrics of every response.
    async fn finish(
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

fn client_context(head: &InboundHead) -> ClientContext {
    let agent = head.headers.get(header::USER_AGENT).map_or(&b""[..], HeaderValue::as_bytes);
    let language = head.headers.get(header::ACCEPT_LANGUAGE);
    ClientContext::new(head.client, agent)
        .with_language(language.map_or(&b""[..], HeaderValue::as_bytes))
        .with_fingerprint(head.fingerprint)
}
