//! The story of a request, from a checked head to one exit.
//!
//! ```text
//! head checked ─ own page? ─ route ─ guard (cookie → record → decide → swap) ─ permit
//!      └ 400        └ portal   └ 404      └ login, 401, 403, 503                 │
//!                                       sanitise ─ identity ─ forward ─ hygiene ─┴─ one exit: cookie, log line, metrics
//! ```

mod answers;
mod body;
mod caller;
mod explain;
mod forward;
// For fuzzing and the replay of what it found; nothing else outside builds on it.
#[doc(hidden)]
pub mod frames;
mod line;
mod origin;
mod pace;
mod pressure;
mod steer;
mod upstream_head;
mod upstreams;
mod way;
mod websocket;

pub use body::{RequestBody, RequestBodyError, ResponseBody, ResponseBodyError, WasCut};
pub use caller::Caller;
pub use explain::{
    ActivityRules, AnswerExplained, Effects, Explanation, Hypothesis, HypotheticalSession,
    RouteExplained, SessionRules, SignalsExplained, explain,
};
pub use origin::TrustedProxies;
pub use pace::Pace;
pub use pressure::{MemoryStrain, Pressure, Strain};
pub use upstream_head::UpstreamHead;
pub use upstreams::UpstreamGroups;
pub use websocket::{Hold, Seat, Tunnels};

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderValue};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;

use crate::guard::{Denial, Entry, Guard, NewToken, Permit, Visit};
use crate::message::forwarded::ChainError;
use crate::message::request_id::X_REQUEST_ID;
use crate::message::{
    Arrival, BadRequest, Host, InboundHead, OwnedFields, Presented, Readings, RequestId,
    RequestIds, TargetError, cookies, hygiene,
};
use crate::portal::{self, Portal, Problem};
use crate::route::{Access, Requirement, Route, RouteTable};
use crate::session::{ClientContext, Timing};
use crate::telemetry::{Limit, RequestLog};
use crate::tls::Certificates;

use forward::{Inbound, Upgrade};
use line::Line;
use steer::{Exchange, Steered};

/// One worker's gateway.
pub struct Gateway {
    pub guard: Guard,
    pub portal: Portal,
    pub routes: Arc<RouteTable>,
    pub owned: Arc<OwnedFields>,
    pub upstreams: UpstreamGroups,
    pub trusted: Arc<TrustedProxies>,
    /// How many fields a request may have.
    pub most_fields: usize,
    pub pressure: Pressure,
    pub tunnels: Tunnels,
    /// What connections were opened with; absent where there are none.
    pub certificates: Option<Arc<Certificates>>,
    /// Names for requests.
    pub ids: RequestIds,
    /// What browsers are told about https.
    pub hsts: Option<HeaderValue>,
    /// Whether anybody is told why an app gave no answer.
    pub proxy_status: bool,
    /// Where each request makes a line, if it does.
    pub log: Option<Arc<RequestLog>>,
}

/// An answer before the exit.
struct Answer {
    response: Response<ResponseBody>,
    /// The token that goes with it.
    token: Option<NewToken>,
}

/// The future of [`Gateway::handle`] is moved once for each request, into its box (`server/connection.rs`):
/// what it seldom awaits is boxed too, here and in the layers below, so that it stays small.
impl Gateway {
    /// Answers one request that came over TLS. Every answer leaves through `Gateway::leave`.
    pub async fn handle(
        self: &Arc<Self>,
        request: Request<Incoming>,
        caller: &Arc<Caller>,
    ) -> Response<ResponseBody> {
        let client = self.trusted.client(caller.peer, request.headers());
        let arrival = self.arrival(caller, client.unwrap_or(caller.peer), request.headers());
        let mut line = Line::begin(&request, &arrival, self.log.is_some());
        let answer = match self.refused_unread(request.headers(), client) {
            Some(bad) => self.without_token(answers::bad_request(&self.portal, bad, &mut line)),
            None => self.story(request, arrival, caller, &mut line).await,
        };
        self.leave(answer, line).await
    }

    /// What is wrong with a request whatever it asks for.
    fn refused_unread(
        &self,
        headers: &HeaderMap,
        client: Result<IpAddr, ChainError>,
    ) -> Option<BadRequest> {
        match client {
            // On HTTP/1.1 the library stops at them by itself.
            _ if headers.len() > self.most_fields => {
                self.guard.shared().metrics.limit(Limit::Headers, client.ok());
                Some(BadRequest::TooManyFields)
            }
            Ok(_) => None,
            Err(why) => Some(BadRequest::Chain(why)),
        }
    }

    /// Who sent it, and what it is called: by the one before us, if that is a proxy of the operator's.
    fn arrival(&self, caller: &Caller, client: IpAddr, headers: &HeaderMap) -> Arrival {
        let told = self.trusted.trusts(caller.peer).then(|| RequestId::told(headers)).flatten();
        Arrival {
            client,
            fingerprint: caller.fingerprint(),
            request: told.unwrap_or_else(|| self.ids.next()),
        }
    }

    async fn story(
        self: &Arc<Self>,
        request: Request<Incoming>,
        arrival: Arrival,
        caller: &Arc<Caller>,
        line: &mut Line,
    ) -> Answer {
        let (mut parts, body) = request.into_parts();
        let upgrade = Upgrade::of(&mut parts.extensions);
        let judged = InboundHead::judged(parts, arrival, |host, paths| self.bears(host, paths));
        let head = match judged {
            Ok(head) => head,
            Err(bad) => return self.without_token(answers::bad_request(&self.portal, bad, line)),
        };
        line.host(&head.host);
        if !self.is_meant(&head.host, caller) {
            return self.without_token(answers::misdirected(&self.portal, &head, line));
        }
        if let Some(limit) = self.sheds(&head) {
            return self.without_token(self.shed(&head, limit, line));
        }
        if portal::owns(head.target.path()) && self.routes.knows(&head.host) {
            line.verdict("own-page");
            let page = Box::pin(self.portal.serve(head, body)).await;
            return self.without_token(page.map(ResponseBody::Own));
        }
        let Some(route) = self.routes.find(&head.host, head.target.path()) else {
            return self.without_token(answers::no_route(&self.portal, &head, line));
        };
        if self.routes.is_disguised(route, head.target.path()) {
            let bad = BadRequest::Target(TargetError::Disguised);
            return self.without_token(answers::bad_request(&self.portal, bad, line));
        }
        if !self.may_act(&head, route) {
            return self.without_token(answers::cross_site(&self.portal, &head, line));
        }
        let entry = self.enter(&head, route).await;
        let permit = match entry.verdict {
            Ok(permit) => permit,
            Err(denial) => {
                let response = self.deny(&head, denial, line);
                return Answer { response, token: entry.token };
            }
        };
        if permit.session().is_some() {
            caller.is_known_now();
        }
        if let Some(steered) = Steered::of(self, &head, route) {
            let (caller, token) = (Arc::clone(caller), entry.token);
            let exchange = Exchange { head, body, upgrade, caller, permit, token };
            return Box::pin(self.to_its_end(exchange, steered, line)).await;
        }
        let inbound = Inbound { body, upgrade, caller };
        let response = self.forward(head, inbound, route, &permit, line).await;
        Answer { response, token: entry.token }
    }

    /// Whether this connection is for this host: the certificate that the client saw is the host's own.
    /// Another one would be answered by rules that the handshake did not choose (RFC 9110 7.4).
    fn is_meant(&self, host: &Host, caller: &Caller) -> bool {
        let (Some(certificates), Some(asked)) = (&self.certificates, caller.server_name()) else {
            return true;
        };
        asked == host.name() || certificates.are_one(asked, host.name())
    }

    /// Whether a path in doubt is harmless: no page of ours is meant in any of its readings.
    fn bears(&self, host: &Host, readings: &Readings) -> bool {
        !readings.paths.iter().any(|path| portal::owns(path)) && self.routes.bears(host, readings)
    }

    /// Whether no page of another site acts here with the session of its visitor. Without a session
    /// there is nothing to act with, and the answer is a login as for everybody.
    fn may_act(&self, head: &InboundHead, route: &Route) -> bool {
        match &route.access {
            Access::Public => true,
            Access::Session(_) => {
                route.origins.allow(&head.method, head.websocket, &head.headers, &head.host)
                    || self.presented(head) == Presented::Nothing
            }
        }
    }

    fn presented(&self, head: &InboundHead) -> Presented {
        cookies::find(&head.headers, &self.guard.shared().cookies.session)
    }

    /// Asks the guard, unless the route is for everybody.
    async fn enter(&self, head: &InboundHead, route: &Route) -> Entry {
        let requirement = match (&route.access, Permit::public(route)) {
            (Access::Public, Some(permit)) => return Entry { verdict: Ok(permit), token: None },
            (Access::Session(requirement), _) => requirement,
            (Access::Public, None) => &Requirement::default(),
        };
        let presented = self.presented(head);
        let timing = match route.renewal {
            true => Timing::Prompt,
            false => Timing::Never,
        };
        let visit = Visit {
            presented: &presented,
            context: &context(head),
            policy: &route.policy_for(&head.method, head.websocket),
            requirement,
            timing,
            activity: route.activity.counts(&head.method, head.target.path(), head.asker.intent),
            // Who reads changes nothing, should his session have ended elsewhere meanwhile.
            serve_known_for: route
                .serve_known_for
                .filter(|_| head.method.is_safe() && !head.websocket),
        };
        self.guard.enter(&visit).await
    }

    fn deny(&self, head: &InboundHead, denial: Denial, line: &mut Line) -> Response<ResponseBody> {
        line.verdict(denial.word());
        self.portal.deny(head, &denial).map(ResponseBody::Own)
    }

    /// Whether this request has to be turned away so that others can be served. A cookie that we made
    /// is told from any other by its MAC, without a look at the store.
    fn sheds(&self, head: &InboundHead) -> Option<Limit> {
        let (strain, limit) = self.pressure.strain()?;
        let is_known = || {
            let name = &self.guard.shared().cookies.session;
            self.guard.recognises(&cookies::find(&head.headers, name))
        };
        (strain == Strain::Full || !is_known()).then_some(limit)
    }

    fn shed(&self, head: &InboundHead, limit: Limit, line: &mut Line) -> Response<ResponseBody> {
        line.verdict("shed");
        line.detail(limit.word().to_owned());
        self.guard.shared().metrics.limit(limit, Some(head.client));
        let mut response = self.portal.problem(&head.asker, Problem::Busy).map(ResponseBody::Own);
        let headers = response.headers_mut();
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
        // The connection is room for somebody else (HTTP/2 ignores it, and its idle time runs).
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        response
    }

    fn without_token(&self, response: Response<ResponseBody>) -> Answer {
        Answer { response, token: None }
    }

    /// The one exit: the cookie, the log line and the counters.
    async fn leave(&self, answer: Answer, line: Line) -> Response<ResponseBody> {
        let Answer { mut response, token } = answer;
        if let Some(token) = token
            && self.may_send(&token, &response).await
        {
            self.attach(&mut response, &token);
        }
        self.label(&mut response, &line);
        let shared = self.guard.shared();
        shared.metrics.request(line.word(), response.status().as_u16());
        if let Some(log) = &self.log {
            line.write(log, response.status());
        }
        response
    }

    /// What every answer says of the way that it took.
    fn label(&self, response: &mut Response<ResponseBody>, line: &Line) {
        let own = match response.body() {
            ResponseBody::Own(_) => true,
            ResponseBody::Upstream(_) | ResponseBody::Watched(..) => false,
        };
        if own {
            let headers = response.headers_mut();
            headers.insert(X_REQUEST_ID, line.request().value().clone());
            // What does not say how it may be kept is not kept.
            headers
                .entry(header::CACHE_CONTROL)
                .or_insert(const { HeaderValue::from_static("no-store") });
        }
        if !self.proxy_status {
            response.headers_mut().remove(answers::PROXY_STATUS);
        }
        // On the developer's own machine it would turn every other port's http into https.
        if let Some(hsts) = self.hsts.as_ref().filter(|_| !line.is_local()) {
            response.headers_mut().insert(header::STRICT_TRANSPORT_SECURITY, hsts.clone());
        }
    }

    /// A token offered before a slow answer may be an old one by now, and would overwrite a newer one
    /// in the browser: ask again.
    async fn may_send(&self, token: &NewToken, response: &Response<ResponseBody>) -> bool {
        if response.status().is_informational()
            && response.status() != StatusCode::SWITCHING_PROTOCOLS
        {
            return false;
        }
        let shared = self.guard.shared();
        let waited = shared.clock.now().since(token.made);
        waited < shared.policy.grace().min(LATE) || self.guard.offer_stands(token).await
    }

    fn attach(&self, response: &mut Response<ResponseBody>, token: &NewToken) {
        let Some(cookie) = self.guard.shared().cookies.set_session(&token.text) else { return };
        response.headers_mut().append(header::SET_COOKIE, cookie);
        // A cache that kept this answer would hand one user's token to another.
        hygiene::never_store(response.headers_mut());
    }
}

/// An answer that took longer than this is asked about again before it carries a token.
const LATE: Duration = Duration::from_secs(5);

fn context(head: &InboundHead) -> ClientContext {
    let agent = head.headers.get(header::USER_AGENT).map_or(&b""[..], HeaderValue::as_bytes);
    let language = head.headers.get(header::ACCEPT_LANGUAGE);
    ClientContext::new(head.client, agent)
        .speaking(language.map_or(&b""[..], HeaderValue::as_bytes))
        .shaking_hands(head.fingerprint)
}
