//! Explains how the proxy would handle a request, and why.
//!
//! The request passes the real checks, route table, authentication and sanitizer, with a session seeded in a memory
//! store and a fixed clock. No upstream is contacted and no store of the installation is opened.

mod labels;
mod report;
mod session_rules;
mod signals;

pub use report::{Explanation, ResponseExplanation, RouteExplanation};
pub use session_rules::{ActivityRules, SessionEffects, SessionRules};
pub use signals::RiskExplanation;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{self, HeaderValue};
use http::{Method, Request, Response, Uri};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use zeroize::Zeroizing;

use crate::auth::{Auth, AuthOutcome, DenyReason};
use crate::clock::{Clock, UnixMillis};
use crate::config::Config;
use crate::message::{
    BadRequest, CookieNames, InboundHead, Intent, RequestContext, RequestIds, ReservedHeaders,
    SanitizedHead, TargetError,
};
use crate::portal::{self, Portal};
use crate::risk::GeoIp;
use crate::route::{Access, Route};
use crate::secret::{KeyRing, random_bytes};
use crate::session::{
    ClientContext, Identity, Record, Refusal, SessionId, SessionKey, Token, UserTag,
};
use crate::sessions::{Sessions, Shared, SharedParts};
use crate::store::{Store, Unavailable};
use crate::telemetry::Metrics;

use labels::{access, humanize, of_methods, response, stricter, upstream_headers};

use super::{OverloadMonitor, Proxy, TrustedProxies, Tunnels, UpstreamClusters, UpstreamHead};

/// Lifetime of the seeded record. Longer than the simulation runs.
const SEED_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// A hypothetical request.
#[derive(Clone, Debug)]
pub struct Hypothesis {
    pub method: Method,
    /// Absolute URL with scheme and host.
    pub url: Uri,
    pub client: IpAddr,
    /// `User-Agent`; empty omits the header.
    pub agent: String,
    pub language: String,
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
    proxy: Proxy,
}

impl<'a> Simulation<'a> {
    fn new(config: &'a Config, geoip: GeoIp, hypothesis: &'a Hypothesis) -> Simulation<'a> {
        let clock = Clock::manual(hypothesis.now);
        let shared = Shared::new(SharedParts {
            keys: KeyRing::generate("thrown away"),
            clock: clock.clone(),
            policy: config.session.policy.clone(),
            max_per_user: 0,
            cookies: CookieNames::new(config.session.domain.as_deref()),
            // The hypothesis contains the identity.
            directory: None,
            metrics: Metrics::default(),
            connection_limits: config.long_lived.into(),
            audit: None,
            notifier: None,
            risk: config.signals.settings.clone(),
        });
        shared.risk.geoip.store(Arc::new(geoip));
        let auth = Auth::new(Sessions::new(Store::memory(clock), Arc::new(shared)));
        let routes = Arc::new(config.routes.clone());
        let proxy = Proxy {
            portal: Portal::new(auth.clone(), None, Arc::default(), Arc::clone(&routes)),
            auth,
            routes,
            reserved_headers: Arc::new(ReservedHeaders::new(
                config.routes.iter().map(|route| &route.identity),
            )),
            upstreams: UpstreamClusters::default(),
            trusted_proxies: Arc::new(TrustedProxies::default()),
            max_headers: config.limits.headers,
            overload: OverloadMonitor::new(usize::MAX, Arc::default()),
            tunnels: Tunnels { tracker: TaskTracker::new(), stop: CancellationToken::new() },
            certificates: None,
            request_ids: RequestIds::new(random_bytes()),
            hsts: None,
            proxy_status: config.server.proxy_status,
            access_log: None,
        };
        Simulation { config, hypothesis, proxy }
    }

    /// Creates the record of a session last used `idle` ago, with its first token.
    async fn seed(&self, session: &HypotheticalSession) -> Result<SeededSession, Unavailable> {
        let shared = self.proxy.auth.shared();
        let (keys, now) = (shared.keys.load_full(), self.hypothesis.now);
        let tag = UserTag(keys.user_tag(&session.identity.user));
        let key = SessionKey { tag, id: SessionId(random_bytes()) };
        let token = Token::new(keys.signing_key().0, key, 0, random_bytes());
        let created_at = now.minus(session.age);
        let end = created_at.plus(shared.policy.absolute());
        let from = session.from.clone();
        let mut record = Record::new(session.identity.clone(), &token, created_at, end, from);
        record.authenticated = now.minus(session.auth_age);
        record.last_active = now.minus(session.idle);
        let sealed = record.seal(&keys, &key);
        self.proxy
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
        let (client, request) = (self.hypothesis.client, self.proxy.request_ids.next());
        let context = RequestContext { client, fingerprint: None, request };
        let parsed = InboundHead::parse_with(self.parts(token), context, |host, paths| {
            self.proxy.allows_ambiguous_path(host, paths)
        });
        let head = match parsed {
            Ok(head) => head,
            Err(bad) => return self.malformed(bad),
        };
        let mut out = self.empty(&head);
        if portal::is_own_path(head.target.path()) && self.proxy.routes.serves_host(&head.host) {
            out.verdict = "portal";
            out.why = "doorward serves /.doorward/ itself, on every host of a route".into();
            return out;
        }
        let Some(route) = self.proxy.routes.find(&head.host, head.target.path()) else {
            return self.without_route(out, head);
        };
        if self.proxy.routes.shadows_stricter_route(route, head.target.path()) {
            return self.malformed(BadRequest::Target(TargetError::ShadowsRoute));
        }
        out.route = Some(self.explain_route(route));
        out.effects = SessionEffects::for_request(&head, route);
        out.signals = seeded
            .filter(|_| route.access != Access::Public)
            .map(|SeededSession { record, .. }| self.signals(record, &head, route));
        let AuthOutcome { permit: verdict, token } = self.proxy.authenticate(&head, route).await;
        out.renews = token.is_some();
        match verdict {
            Ok(permit) => {
                let public = permit.identity().is_none();
                out.verdict = if public { "public" } else { "admit" };
                out.why = if public { "the route is public" } else { ADMITTED }.into();
                let cookies = &self.proxy.auth.shared().cookies;
                let head = SanitizedHead::new(head, &self.proxy.reserved_headers, cookies);
                out.upstream_headers = upstream_headers(UpstreamHead::new(head, &permit, route));
            }
            Err(denial) => {
                out.verdict = denial.as_str();
                out.why = self.why(&denial, route, out.signals.as_ref());
                out.answers = self.responses(head, |head| self.proxy.portal.deny(head, &denial));
            }
        }
        out
    }

    fn signals(&self, record: &Record, head: &InboundHead, route: &Route) -> RiskExplanation {
        let shared = self.proxy.auth.shared();
        let geoip = shared.risk.geoip.load();
        let locations = signals::LocationPair {
            geoip: &geoip,
            settings: &shared.risk.settings,
            record,
            context: &super::client_context(head),
            now: self.hypothesis.now,
        };
        locations.explanation(route.policy.signals)
    }

    /// The request head as a browser sends it over HTTP/1.1.
    fn parts(&self, token: Option<&str>) -> http::request::Parts {
        let (mut parts, ()) = Request::new(()).into_parts();
        let url = &self.hypothesis.url;
        parts.method = self.hypothesis.method.clone();
        parts.uri = url.path_and_query().cloned().map(Uri::from).unwrap_or_default();
        let host = url.authority().map(|authority| HeaderValue::from_str(authority.as_str()));
        if let Some(Ok(host)) = host {
            parts.headers.insert(header::HOST, host);
        }
        let headers = [
            (header::USER_AGENT, &self.hypothesis.agent),
            (header::ACCEPT_LANGUAGE, &self.hypothesis.language),
        ];
        for (name, text) in headers.into_iter().filter(|(_, text)| !text.is_empty()) {
            if let Ok(value) = HeaderValue::from_str(text) {
                parts.headers.insert(name, value);
            }
        }
        let name = &self.proxy.auth.shared().cookies.session;
        let cookie = token.map(|token| HeaderValue::try_from(format!("{name}={token}")));
        if let Some(Ok(cookie)) = cookie {
            parts.headers.insert(header::COOKIE, cookie);
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
            renews: false,
            effects: None,
            signals: None,
            answers: Vec::new(),
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
            why: format!("{bad}; such a request is ambiguous"),
            renews: false,
            effects: None,
            signals: None,
            answers: vec![response("any client", bad.status(), None)],
            upstream_headers: Vec::new(),
        }
    }

    fn without_route(&self, mut out: Explanation, head: InboundHead) -> Explanation {
        out.verdict = "no-route";
        out.why = "no [[route]] has this host and path".into();
        out.answers = self.responses(head, |head| {
            self.proxy.portal.problem(&head.requester, portal::Problem::NoRoute)
        });
        out
    }

    fn responses<B>(
        &self,
        mut head: InboundHead,
        make: impl Fn(&InboundHead) -> Response<B>,
    ) -> Vec<ResponseExplanation> {
        [(Intent::Navigation, "a browser"), (Intent::Fetch, "a program")]
            .into_iter()
            .map(|(intent, to)| {
                head.requester.intent = intent;
                let made = make(&head);
                response(to, made.status(), made.headers().get(header::LOCATION))
            })
            .collect()
    }

    fn explain_route(&self, route: &Route) -> RouteExplanation {
        RouteExplanation {
            label: route.label(),
            upstreams: route.upstreams.iter().map(ToString::to_string).collect(),
            access: access(&route.access),
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

    fn why(&self, denial: &DenyReason, route: &Route, risk: Option<&RiskExplanation>) -> String {
        match denial {
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
            DenyReason::DuplicateCookie
            | DenyReason::Forged
            | DenyReason::UnknownSession
            | DenyReason::Ended(_)
            | DenyReason::Undecryptable
            | DenyReason::Unavailable(_) => denial.as_str().to_owned(),
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
            Refusal::Theft if risk.is_some_and(|risk| risk.answer == "end") => {
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
        let policy = route.policy_for(&self.hypothesis.method, false);
        let limits = [
            ("its last activity", session.idle, policy.idle),
            ("it", session.age, policy.absolute),
            ("its last login", session.auth_age, policy.max_auth_age),
        ];
        let reached = limits.into_iter().find_map(|(what, is, limit)| {
            let limit = limit.filter(|limit| is >= *limit)?;
            Some(format!("{what} is {} old; this route allows {}", humanize(is), humanize(limit)))
        });
        let reached = reached.unwrap_or_else(|| match risk.filter(|risk| risk.answer == "login") {
            Some(risk) => {
                format!("its risk score ({}) requires reauthentication", risk.score)
            }
            None => "its user must log in again".to_owned(),
        });
        format!("the session is valid, but {reached}")
    }
}

const ADMITTED: &str = "the session is valid and its user may use this route";
