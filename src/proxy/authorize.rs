//! Authorizes a request: one function from a checked head to a decision.
//!
//! The request handler and `doorward explain` both call [`Authorizer::authorize`], so they cannot disagree. It
//! contacts no upstream and sends no response. A worker that sheds load does so before the head is parsed.
//! The checks, in their order:
//!
//! 1. 421 if the TLS certificate of the connection is not the one of the host.
//! 2. A page of the portal, which authenticates its own requests.
//! 3. 404 without a route; 400 if the path could also mean a stricter route, or cannot be mapped to the upstream.
//! 4. 204 for the CORS preflight of a listed origin.
//! 5. 403 for cross-site requests.
//! 6. The session and the access rule of the route.
//! 7. 204 if `Max-Forwards` is exhausted.

use std::sync::Arc;

use http::Method;
use http::header::HeaderMap;

use crate::auth::{Auth, AuthOutcome, AuthRequest, DenyReason, Permit, TokenRequest, Undecided};
use crate::config::ClientCertificates;
use crate::message::token_credentials::TokenCredentials;
use crate::message::{BadRequest, CookieLookup, Host, InboundHead, RequestContext, TargetError};
use crate::portal;
use crate::route::{Access, Route, RouteTable};
use crate::session::{ClientContext, RotationTiming, RoutePolicy};
use crate::sessions::NewToken;
use crate::telemetry::Limit;
use crate::tls::Certificates;

use super::access_log::permit_verdict;
use super::connection_info::ConnectionInfo;
use super::local_response::LocalResponse;
use super::overload::{LoadLevel, OverloadMonitor};

/// Authorizes requests with the state that follows from the configuration.
pub struct Authorizer {
    pub auth: Auth,
    pub routes: Arc<RouteTable>,
    /// Certificates of the listeners; `None` disables the 421 check.
    pub certificates: Option<Arc<Certificates>>,
    /// Hosts with client certificates.
    pub client_auth: Vec<ClientCertificates>,
    pub overload: Arc<OverloadMonitor>,
    /// Maximum number of requests of this worker in flight.
    pub max_in_flight: usize,
}

/// A request whose authentication has to wait.
struct UndecidedRequest<'a> {
    route: &'a Arc<Route>,
    /// `None` if the request may have a token of a program.
    session: Option<Undecided>,
}

/// The result of [`Authorizer::authorize`].
pub(crate) struct Authorization {
    pub(crate) action: Action,
    /// The token to set with the response.
    pub(crate) token: Option<NewToken>,
}

/// What to do with a request.
pub(crate) enum Action {
    /// Forwards it to the upstream of the permit's route.
    Forward(Permit),
    /// Sends a response of the proxy. The route is `None` if none was selected.
    Respond(LocalResponse, Option<Arc<Route>>),
    /// Serves a page of the portal.
    ServePortal,
}

impl Authorization {
    /// Name of the decision in the access log.
    pub(crate) fn verdict(&self) -> &'static str {
        match &self.action {
            Action::Forward(permit) => permit_verdict(permit),
            Action::Respond(response, _) => response.verdict(),
            Action::ServePortal => "portal",
        }
    }

    /// The permit, even if it was not needed because `Max-Forwards` is exhausted.
    pub(crate) fn permit(&self) -> Option<&Permit> {
        match &self.action {
            Action::Forward(permit)
            | Action::Respond(LocalResponse::MaxForwardsExhausted(permit), _) => Some(permit),
            Action::Respond(..) | Action::ServePortal => None,
        }
    }

    /// The user, where known.
    pub(super) fn user(&self) -> Option<&str> {
        match &self.action {
            Action::Respond(LocalResponse::Denied(DenyReason::Forbidden { user }), _) => Some(user),
            Action::Forward(_) | Action::Respond(..) | Action::ServePortal => {
                self.permit()?.identity().map(|identity| identity.user.as_str())
            }
        }
    }

    /// The selected route.
    pub(crate) fn route(&self) -> Option<&Arc<Route>> {
        match &self.action {
            Action::Forward(permit) => Some(permit.route()),
            Action::Respond(_, route) => route.as_ref(),
            Action::ServePortal => None,
        }
    }
}

impl From<Action> for Authorization {
    fn from(action: Action) -> Authorization {
        Authorization { action, token: None }
    }
}

impl Authorizer {
    /// Checks the syntax of a request head.
    pub(crate) fn parse(
        &self,
        parts: &mut http::request::Parts,
        context: RequestContext,
    ) -> Result<InboundHead, BadRequest> {
        InboundHead::parse_with(parts, context, |host, path| {
            self.routes.allows_ambiguous(host, path, portal::is_own_path)
        })
    }

    /// Decides what to do with a request. See the module documentation for the order of the checks.
    pub(crate) async fn authorize(
        &self,
        head: &InboundHead,
        connection: &ConnectionInfo,
    ) -> Authorization {
        match self.authorize_now(head, connection) {
            Ok(authorization) => authorization,
            // Boxed because it is rare: it would enlarge the future of every request.
            Err(undecided) => Box::pin(self.authorize_later(head, connection, undecided)).await,
        }
    }

    /// Decides as far as that needs no waiting, as for most requests.
    #[allow(
        clippy::result_large_err,
        reason = "the decision goes on with it; a box would cost an allocation"
    )]
    fn authorize_now<'a>(
        &'a self,
        head: &InboundHead,
        connection: &ConnectionInfo,
    ) -> Result<Authorization, UndecidedRequest<'a>> {
        if !self.is_authoritative(&head.host, connection) {
            return Ok(Action::Respond(LocalResponse::Misdirected, None).into());
        }
        let path = head.target.path();
        if self.is_portal_path(path) && self.routes.serves_host(&head.host) {
            return Ok(Action::ServePortal.into());
        }
        let Some(route) = self.routes.find(&head.host, path) else {
            return Ok(self.without_route(head).into());
        };
        let respond = |response| Action::Respond(response, Some(Arc::clone(route)));
        if self.routes.shadows_stricter_route(route, path) {
            let bad = BadRequest::Target(TargetError::ShadowsRoute);
            return Ok(respond(LocalResponse::BadRequest(bad)).into());
        }
        if !route.maps_path(head.target.raw().as_str()) {
            let bad = BadRequest::Target(TargetError::EncodedPrefix);
            return Ok(respond(LocalResponse::BadRequest(bad)).into());
        }
        if route.requires_session() && route.cross_origin.is_preflight(&head.method, &head.headers)
        {
            return Ok(respond(LocalResponse::Preflight).into());
        }
        if !self.passes_csrf(head, route, connection) {
            return Ok(respond(LocalResponse::CrossSite).into());
        }
        match self.authenticate_now(head, route) {
            Ok(outcome) => Ok(to_authorization(head, route, outcome)),
            Err(session) => Err(UndecidedRequest { route, session }),
        }
    }

    async fn authorize_later(
        &self,
        head: &InboundHead,
        connection: &ConnectionInfo,
        UndecidedRequest { route, session }: UndecidedRequest<'_>,
    ) -> Authorization {
        let outcome = match session {
            None => self.authenticate_program(head, route, connection).await,
            Some(session) => {
                let (cookie, context) = (self.session_cookie(head), head.client_context());
                let policy = route.policy_for(head.methods(), head.websocket);
                let request = auth_request(head, route, &cookie, &context, &policy);
                self.auth.authorize_later(route, &request, session).await
            }
        };
        to_authorization(head, route, outcome)
    }

    fn is_portal_path(&self, path: &str) -> bool {
        let is_change = path == portal::WELL_KNOWN_CHANGE_PASSWORD;
        portal::is_own_path(path) || is_change && self.auth.shared().login_methods.is_changeable()
    }

    /// A host whose routes all have a path prefix has a start page.
    fn without_route(&self, head: &InboundHead) -> Action {
        match head.target.path() == "/" && self.routes.serves_host(&head.host) {
            true => Action::ServePortal,
            false => Action::Respond(LocalResponse::NoRoute, None),
        }
    }

    /// Whether the certificate of this connection is also the one for `host` (RFC 9110 7.4). Otherwise
    /// the request would be served under the rules of a host that the TLS handshake did not select.
    fn is_authoritative(&self, host: &Host, connection: &ConnectionInfo) -> bool {
        if !self.client_auth.is_empty()
            && let Some(rule) = self.client_auth(host)
        {
            // A handshake for another name did not ask for the certificate of this host.
            let is_same = connection.server_name() == Some(host.name());
            return is_same && (!rule.is_required || connection.certificate().is_some());
        }
        let (Some(certificates), Some(server_name)) =
            (&self.certificates, connection.server_name())
        else {
            return true;
        };
        server_name == host.name() || certificates.share_certificate(server_name, host.name())
    }

    fn client_auth(&self, host: &Host) -> Option<&ClientCertificates> {
        let matching = self.client_auth.iter().filter(|rule| rule.host.matches(host.name()));
        matching.min_by_key(|rule| rule.host.rank())
    }

    /// Whether the request is safe from cross-site request forgery. A request without a session cookie
    /// passes: it cannot act for a user and gets the login response. A browser sends a client certificate with
    /// requests of any site.
    fn passes_csrf(&self, head: &InboundHead, route: &Route, connection: &ConnectionInfo) -> bool {
        match &route.access {
            Access::Public => true,
            Access::Session(_) => {
                let allows = |method| {
                    route.cross_origin.allows(method, head.websocket, &head.headers, &head.host)
                };
                let has_certificate =
                    || route.accepts_certificates && connection.certificate().is_some();
                head.methods().all(allows)
                    || self.session_cookie(head) == CookieLookup::Missing && !has_certificate()
            }
        }
    }

    /// Returns the limit for which this request is shed, if any. Under high load, requests with a
    /// validly signed session cookie pass; the MAC check needs no store.
    pub(super) fn shed_reason(&self, headers: &HeaderMap) -> Option<Limit> {
        let (level, limit) = self.overload.level(self.max_in_flight)?;
        let has_valid_cookie = || self.auth.has_valid_mac(&self.auth.session_cookie(headers));
        (level == LoadLevel::Overloaded || !has_valid_cookie()).then_some(limit)
    }

    /// Authenticates and authorizes the request, if that needs no waiting. Public routes skip the session. The error
    /// is `None` if the request may have a token of a program.
    #[allow(
        clippy::result_large_err,
        reason = "the decision goes on with it; a box would cost an allocation"
    )]
    fn authenticate_now(
        &self,
        head: &InboundHead,
        route: &Arc<Route>,
    ) -> Result<AuthOutcome, Option<Undecided>> {
        if let Some(permit) = Permit::public(route) {
            return Ok(AuthOutcome { permit: Ok(permit), token: None });
        }
        let cookie = self.session_cookie(head);
        if cookie == CookieLookup::Missing && route.accepts_programs() {
            return Err(None);
        }
        if cookie == CookieLookup::Missing
            && let Some(permit) = Permit::for_app_credentials(route, &head.headers)
        {
            return Ok(AuthOutcome { permit: Ok(permit), token: None });
        }
        let policy = route.policy_for(head.methods(), head.websocket);
        let context = head.client_context();
        let request = auth_request(head, route, &cookie, &context, &policy);
        self.auth.authorize_now(route, &request).map_err(Some)
    }

    /// Authenticates a request without a session.
    async fn authenticate_program(
        &self,
        head: &InboundHead,
        route: &Arc<Route>,
        connection: &ConnectionInfo,
    ) -> AuthOutcome {
        let permit = match self.authorize_program(head, route, connection).await {
            Some(permit) => permit,
            None => Permit::for_app_credentials(route, &head.headers).ok_or(DenyReason::NoSession),
        };
        AuthOutcome { permit, token: None }
    }

    /// `None` without a token and without a client certificate.
    async fn authorize_program(
        &self,
        head: &InboundHead,
        route: &Arc<Route>,
        connection: &ConnectionInfo,
    ) -> Option<Result<Permit, DenyReason>> {
        let policy = route.policy_for(head.methods(), head.websocket);
        let methods: Vec<&str> = head.methods().map(Method::as_str).collect();
        let request = TokenRequest {
            methods: &methods,
            client: head.client,
            needs_session: head.websocket
                || policy.max_auth_age.is_some()
                || route.requires_second_factor(),
        };
        if route.accepts_tokens {
            let credentials = TokenCredentials::find(&head.headers, route.token_header.as_ref());
            let permit = self.auth.authorize_token(route, credentials, &request).await;
            if permit.is_some() {
                return permit;
            }
        }
        if !route.bearer.is_empty() {
            let credentials = TokenCredentials::find_bearer(&head.headers);
            let permit = self.auth.authorize_bearer(route, credentials, &request).await;
            if permit.is_some() {
                return permit;
            }
        }
        let certificate = connection.certificate().filter(|_| route.accepts_certificates)?;
        let identity = Arc::clone(certificate.identity.as_ref()?);
        Some(Auth::admit_program(route, identity, certificate.id, &request))
    }

    /// Looks up the session cookie.
    pub(super) fn session_cookie(&self, head: &InboundHead) -> CookieLookup {
        self.auth.session_cookie(&head.headers)
    }
}

/// What the session of a request is authenticated with.
fn auth_request<'a>(
    head: &InboundHead,
    route: &Route,
    cookie: &'a CookieLookup,
    context: &'a ClientContext,
    policy: &'a RoutePolicy,
) -> AuthRequest<'a> {
    let timing = match route.rotation {
        true => RotationTiming::WhenDue,
        false => RotationTiming::Never,
    };
    let (path, intent) = (head.target.path(), head.requester.intent);
    AuthRequest {
        cookie,
        context,
        policy,
        timing,
        is_activity: route.activity.counts(&head.method, path, intent),
        // A safe request changes nothing if its session has ended on another instance.
        serve_stale_for: route
            .serve_stale_for
            .filter(|_| head.methods().all(Method::is_safe) && !head.websocket),
    }
}

fn to_authorization(head: &InboundHead, route: &Arc<Route>, outcome: AuthOutcome) -> Authorization {
    let AuthOutcome { permit, token } = outcome;
    let respond = |response| Action::Respond(response, Some(Arc::clone(route)));
    let action = match permit {
        Ok(permit) if head.max_forwards_exhausted() => {
            respond(LocalResponse::MaxForwardsExhausted(permit))
        }
        Ok(permit) => Action::Forward(permit),
        Err(reason) => respond(LocalResponse::Denied(reason)),
    };
    Authorization { action, token }
}
