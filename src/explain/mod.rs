//! Explains how the proxy would handle a request, and why.
//!
//! The request passes the real checks, route table, auth and sanitizer, with a session seeded in a memory
//! store and a fixed clock. No upstream is contacted and no store of the installation is opened.

mod labels;
mod report;
mod risk;
mod session_rules;

pub use report::{Explanation, ResponseExplanation, RouteExplanation};
pub use risk::RiskExplanation;
pub use session_rules::{ActivityRules, SessionEffects, SessionRules};

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Uri};
use zeroize::Zeroizing;

use crate::auth::{Auth, DenyReason};
use crate::clock::{Clock, UnixMillis};
use crate::config::Config;
use crate::message::{BadRequest, InboundHead, Intent, RequestContext, RequestIds, SanitizedHead};
use crate::portal::Portal;
use crate::proxy::{Action, Authorizer, ConnectionInfo, LocalResponse, UpstreamHead};
use crate::risk::GeoIp;
use crate::route::{Access, Route};
use crate::secret::{KeyRing, random_bytes};
use crate::session::{
    ClientContext, Identity, Record, Refusal, SessionId, SessionKey, Token, UserTag,
};
use crate::sessions::{Sessions, Shared, SharedParts};
use crate::store::{Store, Unavailable};

use labels::{access, humanize, of_methods, programs, response, stricter, upstream_headers};

/// Lifetime of the seeded record. Longer than the simulation runs.
const SEED_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// A hypothetical request.
#[derive(Clone, Debug)]
pub struct Hypothesis {
    pub method: Method,
    /// Absolute URL with scheme and host.
    pub url: Uri,
    pub client: IpAddr,
    /// Request headers besides `Host` and the session cookie.
    pub headers: HeaderMap,
    /// `None` sends no session cookie.
    pub session: Option<HypotheticalSession>,
    pub now: UnixMillis,
}

/// A hypothetical session.
#[derive(Clone, Debug)]
pub struct HypotheticalSession {
    pub identity: Identity,
    /// Time since the session was created.
    pub age: Duration,
    /// Time since its last activity.
    pub idle: Duration,
    /// Time since the user last authenticated.
    pub auth_age: Duration,
    /// Client that created the session and used it until now.
    pub from: ClientContext,
}

/// Simulates the request. Needs a runtime, but neither network nor disk.
///
/// # Errors
/// If the session cannot be seeded, which does not happen with a memory store.
pub async fn explain(
    config: &Config,
    geoip: GeoIp,
    hypothesis: &Hypothesis,
) -> Result<Explanation, Unavailable> {
    let simulation = Simulation::new(config, geoip, hypothesis);
    let seeded = match &hypothesis.session {
        Some(session) => Some(simulation.seed(session).await?),
        None => None,
    };
    Ok(simulation.run(seeded.as_ref()).await)
}

/// The hypothetical session in the store of the simulation.
struct SeededSession {
    token: Zeroizing<String>,
    record: Record,
}

struct Simulation<'a> {
    config: &'a Config,
    hypothesis: &'a Hypothesis,
    authorizer: Authorizer,
    portal: Portal,
}

impl<'a> Simulation<'a> {
    fn new(config: &'a Config, geoip: GeoIp, hypothesis: &'a Hypothesis) -> Simulation<'a> {
        let clock = Clock::manual(hypothesis.now);
        let store = Store::memory(clock.clone());
        // No login methods, because the hypothesis contains the identity.
        let keys = KeyRing::generate("thrown away");
        let shared = Shared::new(SharedParts::new(&store, keys, clock, config.into()));
        shared.geoip.store(Arc::new(geoip));
        let auth = Auth::new(Sessions::new(store, Arc::new(shared), Arc::new(config.into())));
        let routes = Arc::new(config.routes.clone());
        let portal = Portal::new(auth.clone(), None, Arc::default(), Arc::clone(&routes));
        let authorizer = Authorizer {
            auth,
            routes,
            certificates: None,
            client_auth: Vec::new(),
            overload: Arc::default(),
            max_in_flight: usize::MAX,
        };
        Simulation { config, hypothesis, authorizer, portal }
    }

    /// Creates the record of a session last used `idle` ago, with its first token.
    async fn seed(&self, session: &HypotheticalSession) -> Result<SeededSession, Unavailable> {
        let shared = self.authorizer.auth.shared();
        let (keys, now) = (shared.keys.load_full(), self.hypothesis.now);
        let tag = UserTag(keys.user_tag(session.identity.account()));
        let key = SessionKey { tag, id: SessionId(random_bytes()) };
        let token = Token::new(keys.signing_key().0, key, 0, random_bytes());
        let created_at = now.minus(session.age);
        let end = created_at.plus(self.authorizer.auth.settings().policy.absolute());
        let from = session.from.clone();
        let mut record = Record::new(session.identity.clone(), &token, created_at, end, from);
        record.authenticated = now.minus(session.auth_age);
        record.last_active = now.minus(session.idle);
        let sealed = record.seal(&keys, &key);
        self.authorizer
            .auth
            .sessions()
            .store()
            .create(&key, &sealed, created_at, now.plus(SEED_TTL))
            .await?;
        let token = token.encode(&keys);
        let token = token.ok_or_else(|| Unavailable("the signing key is missing".to_owned()))?;
        Ok(SeededSession { token, record })
    }

    async fn run(&self, seeded: Option<&SeededSession>) -> Explanation {
        let token = seeded.map(|seeded| seeded.token.as_str());
        let (client, request) = (self.hypothesis.client, RequestIds::new(random_bytes()).next());
        let context = RequestContext { client, fingerprint: None, request };
        let mut head = match self.authorizer.parse(&mut self.parts(token), context) {
            Ok(head) => head,
            Err(bad) => return self.malformed(bad),
        };
        let mut out = self.empty(&head);
        let decision = self.authorizer.authorize(&head, &ConnectionInfo::new(client)).await;
        out.verdict = decision.verdict();
        out.rotates = decision.token.is_some();
        if let Some(route) = decision.route() {
            self.add_route(&mut out, &head, route, seeded);
        }
        match decision.action {
            Action::Forward(permit) => {
                out.why = match (permit.identity(), permit.route().requires_session()) {
                    (Some(_), _) => ADMITTED,
                    (None, false) => "the route is public",
                    (None, true) => "the app checks the credentials in Authorization",
                }
                .into();
                let cookies = &self.authorizer.auth.settings().cookies;
                head.host.retain_port(&self.config.server.public_ports());
                let head = SanitizedHead::new(head, permit.route().headers.reserved(), cookies);
                let head = UpstreamHead::new(head, &permit);
                out.upstream_headers = upstream_headers(head, permit.route());
            }
            Action::Respond(response, route) => {
                out.why = self.why(&response, &head, route.as_deref(), out.risk.as_ref());
                out.responses = self.responses(head, &response);
            }
            Action::ServePortal => {
                out.why = "doorward serves /.doorward/ itself, on every host of a route".into();
            }
        }
        out
    }

    /// Adds the route and its effects on the session.
    fn add_route(
        &self,
        out: &mut Explanation,
        head: &InboundHead,
        route: &Route,
        seeded: Option<&SeededSession>,
    ) {
        out.route = Some(self.explain_route(route));
        out.effects = SessionEffects::for_request(head, route);
        out.risk = seeded
            .filter(|_| route.access != Access::Public)
            .map(|SeededSession { record, .. }| self.assess_risk(record, head, route));
    }

    fn assess_risk(&self, record: &Record, head: &InboundHead, route: &Route) -> RiskExplanation {
        let shared = self.authorizer.auth.shared();
        let geoip = shared.geoip.load();
        let locations = risk::LocationPair {
            geoip: &geoip,
            settings: &self.authorizer.auth.settings().risk,
            record,
            context: &head.client_context(),
            now: self.hypothesis.now,
        };
        locations.explanation(route.policy.signals)
    }

    /// The request head as a browser sends it over HTTP/1.1.
    fn parts(&self, token: Option<&str>) -> http::request::Parts {
        let (mut parts, ()) = Request::new(()).into_parts();
        let url = &self.hypothesis.url;
        parts.method = self.hypothesis.method.clone();
        parts.headers = self.hypothesis.headers.clone();
        parts.uri = url.path_and_query().cloned().map(Uri::from).unwrap_or_default();
        let host = url.authority().map(|authority| HeaderValue::from_str(authority.as_str()));
        if let Some(Ok(host)) = host {
            parts.headers.insert(header::HOST, host);
        }
        let name = &self.authorizer.auth.settings().cookies.session;
        let cookie = token.map(|token| HeaderValue::try_from(format!("{name}={token}")));
        if let Some(Ok(cookie)) = cookie {
            parts.headers.append(header::COOKIE, cookie);
        }
        parts
    }

    fn empty(&self, head: &InboundHead) -> Explanation {
        Explanation {
            method: head.method.to_string(),
            host: head.host.to_string(),
            path: head.target.path().to_owned(),
            route: None,
            verdict: "",
            why: String::new(),
            rotates: false,
            effects: None,
            risk: None,
            responses: Vec::new(),
            upstream_headers: Vec::new(),
        }
    }

    fn malformed(&self, bad: BadRequest) -> Explanation {
        let url = &self.hypothesis.url;
        Explanation {
            method: self.hypothesis.method.to_string(),
            host: url.host().unwrap_or_default().to_owned(),
            path: url.path().to_owned(),
            route: None,
            verdict: "malformed",
            why: malformed_because(bad),
            rotates: false,
            effects: None,
            risk: None,
            responses: vec![response("any client", bad.status(), None)],
            upstream_headers: Vec::new(),
        }
    }

    /// The response to a browser and to a program. A 400 is the same for both.
    fn responses(&self, mut head: InboundHead, local: &LocalResponse) -> Vec<ResponseExplanation> {
        let intents = match local {
            LocalResponse::BadRequest(_) => &[(Intent::Fetch, "any client")][..],
            LocalResponse::Misdirected
            | LocalResponse::NoRoute
            | LocalResponse::Preflight
            | LocalResponse::CrossSite
            | LocalResponse::Denied(_)
            | LocalResponse::MaxForwardsExhausted(_) => {
                &[(Intent::Navigation, "a browser"), (Intent::Fetch, "a program")][..]
            }
        };
        let explained = intents.iter().map(|(intent, to)| {
            head.requester.intent = *intent;
            let rendered = local.render(&self.portal, &head, None);
            response(to, rendered.status(), rendered.headers().get(header::LOCATION))
        });
        explained.collect()
    }

    fn explain_route(&self, route: &Route) -> RouteExplanation {
        RouteExplanation {
            label: route.label(),
            upstreams: route.upstreams.iter().map(ToString::to_string).collect(),
            access: access(&route.access) + &programs(route),
            limits: self.limits(route),
            session: SessionRules::for_route(route),
        }
    }

    /// The effective limits: the stricter of session and route.
    fn limits(&self, route: &Route) -> Vec<(&'static str, String)> {
        if route.access == Access::Public {
            return Vec::new();
        }
        let (session, own) = (&self.config.session.policy, &route.policy);
        let mut limits = vec![
            ("idle_timeout", stricter(own.idle, session.idle())),
            ("absolute_timeout", stricter(own.absolute, session.absolute())),
        ];
        if let Some(age) = own.max_auth_age {
            limits.push(("max_auth_age", humanize(age) + &of_methods(&route.auth_age_methods)));
        }
        let rotate_after = route.rotation.then(|| humanize(session.rotate_after()));
        limits.push((
            "rotate_after",
            rotate_after.unwrap_or_else(|| "never, on this route".to_owned()),
        ));
        limits
    }

    fn why(
        &self,
        response: &LocalResponse,
        head: &InboundHead,
        route: Option<&Route>,
        risk: Option<&RiskExplanation>,
    ) -> String {
        match (response, route) {
            (LocalResponse::Denied(reason), Some(route)) => self.why_denied(reason, route, risk),
            (LocalResponse::BadRequest(bad), _) => malformed_because(*bad),
            (LocalResponse::Preflight, _) => {
                "a preflight of a site in `origins` is answered without a session".to_owned()
            }
            (LocalResponse::NoRoute, _) => "no [[route]] has this host and path".to_owned(),
            (LocalResponse::MaxForwardsExhausted(_), _) => {
                "Max-Forwards is exhausted, so the request ends here".to_owned()
            }
            (
                LocalResponse::Misdirected | LocalResponse::CrossSite | LocalResponse::Denied(_),
                _,
            ) => response.detail(head).unwrap_or_default(),
        }
    }

    fn why_denied(
        &self,
        reason: &DenyReason,
        route: &Route,
        risk: Option<&RiskExplanation>,
    ) -> String {
        match reason {
            DenyReason::NoSession => {
                "the route requires a session and the request has none".to_owned()
            }
            DenyReason::Forbidden { user } => {
                format!(
                    "{user} has a valid session, but the route allows {}",
                    access(&route.access)
                )
            }
            DenyReason::Refused(refusal) => self.refused(*refusal, route, risk),
            DenyReason::Token(refusal) => format!(
                "the access token is refused ({}); this command verifies no tokens, so it can only show that the route checks them",
                refusal.as_str()
            ),
            DenyReason::SecondFactor => {
                "the session has no second factor, which the route or `login.second_factor` requires"
                    .to_owned()
            }
            DenyReason::DuplicateCookie
            | DenyReason::Forged
            | DenyReason::UnknownSession
            | DenyReason::Ended(_)
            | DenyReason::Undecryptable
            | DenyReason::ProviderUnavailable
            | DenyReason::Unavailable(_) => reason.as_str().to_owned(),
        }
    }

    fn refused(&self, refusal: Refusal, route: &Route, risk: Option<&RiskExplanation>) -> String {
        let policy = &self.config.session.policy;
        match refusal {
            Refusal::Idle => {
                format!("the session was idle for {} or longer", humanize(policy.idle()))
            }
            Refusal::Absolute => {
                format!(
                    "the session reached its absolute timeout of {}",
                    humanize(policy.absolute())
                )
            }
            Refusal::Reauthenticate => self.wants_login(route, risk),
            Refusal::Theft if risk.is_some_and(|risk| risk.action == "end") => {
                "its risk score ends the session as stolen".to_owned()
            }
            Refusal::Revoked
            | Refusal::Superseded
            | Refusal::Theft
            | Refusal::RestoredAfterCrash
            | Refusal::RotationIgnored
            | Refusal::UnknownGeneration
            | Refusal::SecretMismatch => refusal.as_str().to_owned(),
        }
    }

    /// Names the limit of the route that was reached.
    fn wants_login(&self, route: &Route, risk: Option<&RiskExplanation>) -> String {
        let Some(session) = &self.hypothesis.session else { return String::new() };
        let policy = route.policy_for(std::iter::once(&self.hypothesis.method), false);
        let limits = [
            ("its last activity", session.idle, policy.idle),
            ("it", session.age, policy.absolute),
            ("its last login", session.auth_age, policy.max_auth_age),
        ];
        let reached = limits.into_iter().find_map(|(what, is, limit)| {
            let limit = limit.filter(|limit| is >= *limit)?;
            Some(format!("{what} is {} old; this route allows {}", humanize(is), humanize(limit)))
        });
        let reached = reached.unwrap_or_else(|| match risk.filter(|risk| risk.action == "login") {
            Some(risk) => {
                format!("its risk score ({}) requires reauthentication", risk.score)
            }
            None => "its user must log in again".to_owned(),
        });
        format!("the session is valid, but {reached}")
    }
}

fn malformed_because(bad: BadRequest) -> String {
    format!("{bad}; such a request is ambiguous")
}

const ADMITTED: &str = "the session is valid and its user may use this route";
