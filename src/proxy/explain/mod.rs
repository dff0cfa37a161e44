//! What this gateway would do with a request, and why.
//!
//! Nothing is judged twice: the request goes through the same checks, the same route table, the same
//! guard and the same cleaning as a real one, with a session planted in a store of its own and a
//! clock that stands still. No upstream is asked, no store of the installation is opened.

mod rules;
mod signals;
mod told;
mod words;

pub use rules::{ActivityRules, Effects, SessionRules};
pub use signals::SignalsExplained;
pub use told::{AnswerExplained, Explanation, RouteExplained};

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{self, HeaderValue};
use http::{Method, Request, Response, Uri};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use zeroize::Zeroizing;

use crate::clock::{Clock, UnixMillis};
use crate::config::Config;
use crate::guard::{Denial, Entry, Guard, Shared, SharedParts};
use crate::message::{
    Arrival, BadRequest, CookieNames, InboundHead, Intent, OwnedFields, RequestIds, SanitizedHead,
    TargetError,
};
use crate::portal::{self, Portal};
use crate::risk::Atlas;
use crate::route::{Access, Route};
use crate::secret::{KeyRing, random_bytes};
use crate::session::{
    ClientContext, Identity, Record, Refusal, SessionId, SessionKey, Token, UserTag,
};
use crate::store::{Store, Unavailable};
use crate::telemetry::Metrics;

use words::{access, answer, fields, of_methods, spoken, stricter};

use super::{Gateway, Pressure, TrustedProxies, Tunnels, UpstreamGroups, UpstreamHead};

/// Longer than the planted session is needed.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// A request that nobody made.
#[derive(Clone, Debug)]
pub struct Hypothesis {
    pub method: Method,
    /// With a scheme and a host.
    pub url: Uri,
    pub client: IpAddr,
    /// What it says of itself; empty where nothing.
    pub agent: String,
    pub language: String,
    /// Without one the request carries no cookie.
    pub session: Option<HypotheticalSession>,
    pub now: UnixMillis,
}

/// A session that nobody has.
#[derive(Clone, Debug)]
pub struct HypotheticalSession {
    pub identity: Identity,
    /// Since it began.
    pub age: Duration,
    /// Since its last activity.
    pub idle: Duration,
    /// Since the user last proved who he is.
    pub auth_age: Duration,
    /// Where it was begun, and used until now.
    pub from: ClientContext,
}

/// Plays the request through, with what `atlas` knows of addresses. It needs a runtime, and neither network nor disk.
///
/// # Errors
/// When the planted session cannot be kept, which a store in memory has no reason for.
pub async fn explain(
    config: &Config,
    atlas: Atlas,
    hypothesis: &Hypothesis,
) -> Result<Explanation, Unavailable> {
    let play = Play::new(config, atlas, hypothesis);
    let planted = match &hypothesis.session {
        Some(session) => Some(play.plant(session).await?),
        None => None,
    };
    Ok(play.run(planted.as_ref()).await)
}

/// A session that stands in the store of a play.
struct Planted {
    token: Zeroizing<String>,
    record: Record,
}

struct Play<'a> {
    config: &'a Config,
    hypothesis: &'a Hypothesis,
    gateway: Gateway,
}

impl<'a> Play<'a> {
    fn new(config: &'a Config, atlas: Atlas, hypothesis: &'a Hypothesis) -> Play<'a> {
        let clock = Clock::manual(hypothesis.now);
        let shared = Shared::new(SharedParts {
            keys: KeyRing::generate("thrown away"),
            clock: clock.clone(),
            policy: config.session.policy.clone(),
            max_per_user: 0,
            cookies: CookieNames::new(config.session.domain.as_deref()),
            // The hypothesis says who the user is.
            directory: None,
            metrics: Metrics::default(),
            live: config.live.into(),
            audit: None,
            hook: None,
            signals: config.signals.settings.clone(),
        });
        shared.atlas.store(Arc::new(atlas));
        let guard = Guard::new(Store::memory(clock), Arc::new(shared));
        let routes = Arc::new(config.routes.clone());
        let gateway = Gateway {
            portal: Portal::new(guard.clone(), None, Arc::default(), Arc::clone(&routes)),
            guard,
            routes,
            owned: Arc::new(OwnedFields::new(config.routes.iter().map(|route| &route.identity))),
            upstreams: UpstreamGroups::default(),
            trusted: Arc::new(TrustedProxies::default()),
            most_fields: config.limits.headers,
            pressure: Pressure::new(usize::MAX, Arc::default()),
            tunnels: Tunnels { tracker: TaskTracker::new(), stop: CancellationToken::new() },
            certificates: None,
            ids: RequestIds::new(random_bytes()),
            hsts: None,
            proxy_status: config.server.proxy_status,
            log: None,
        };
        Play { config, hypothesis, gateway }
    }

    /// A session as if it had been used until `idle` ago, with the token that it began with.
    async fn plant(&self, session: &HypotheticalSession) -> Result<Planted, Unavailable> {
        let shared = self.gateway.guard.shared();
        let (keys, now) = (shared.keys.load_full(), self.hypothesis.now);
        let tag = UserTag(keys.tag_of(&session.identity.user));
        let key = SessionKey { tag, id: SessionId(random_bytes()) };
        let token = Token::new(keys.newest().0, key, 0, random_bytes());
        let began = now.minus(session.age);
        let end = began.plus(shared.policy.absolute());
        let from = session.from.clone();
        let mut record = Record::begin(session.identity.clone(), &token, began, end, from);
        record.authenticated = now.minus(session.auth_age);
        record.active = now.minus(session.idle);
        let sealed = record.seal(&keys, &key);
        self.gateway.guard.store().create(&key, &sealed, began, now.plus(KEPT)).await?;
        let token = token.text(&keys);
        let token = token.ok_or_else(|| Unavailable("the key vanished".to_owned()))?;
        Ok(Planted { token, record })
    }

    async fn run(&self, planted: Option<&Planted>) -> Explanation {
        let token = planted.map(|planted| planted.token.as_str());
        let (client, request) = (self.hypothesis.client, self.gateway.ids.next());
        let arrival = Arrival { client, fingerprint: None, request };
        let judged = InboundHead::judged(self.parts(token), arrival, |host, paths| {
            self.gateway.bears(host, paths)
        });
        let head = match judged {
            Ok(head) => head,
            Err(bad) => return self.malformed(bad),
        };
        let mut out = self.blank(&head);
        if portal::owns(head.target.path()) && self.gateway.routes.knows(&head.host) {
            out.verdict = "own-page";
            out.why = "doorward answers below /.doorward/ itself, on every host of a route".into();
            return out;
        }
        let Some(route) = self.gateway.routes.find(&head.host, head.target.path()) else {
            return self.without_route(out, head);
        };
        if self.gateway.routes.is_disguised(route, head.target.path()) {
            return self.malformed(BadRequest::Target(TargetError::Disguised));
        }
        out.route = Some(self.explain_route(route));
        out.effects = Effects::of(&head, route);
        out.signals = planted
            .filter(|_| route.access != Access::Public)
            .map(|Planted { record, .. }| self.signals(record, &head, route));
        let Entry { verdict, token } = self.gateway.enter(&head, route).await;
        out.renews = token.is_some();
        match verdict {
            Ok(permit) => {
                let public = permit.identity().is_none();
                out.verdict = if public { "public" } else { "admit" };
                out.why = if public { "everybody may use this route" } else { ADMITTED }.into();
                let cookies = &self.gateway.guard.shared().cookies;
                let head = SanitizedHead::new(head, &self.gateway.owned, cookies);
                out.upstream_headers = fields(UpstreamHead::new(head, &permit, route));
            }
            Err(denial) => {
                out.verdict = denial.word();
                out.why = self.why(&denial, route, out.signals.as_ref());
                out.answers = self.answers(head, |head| self.gateway.portal.deny(head, &denial));
            }
        }
        out
    }

    fn signals(&self, record: &Record, head: &InboundHead, route: &Route) -> SignalsExplained {
        let shared = self.gateway.guard.shared();
        let atlas = shared.atlas.load();
        let places = signals::Places {
            atlas: &atlas,
            settings: &shared.signals,
            record,
            context: &super::context(head),
            now: self.hypothesis.now,
        };
        places.explained(route.policy.signals)
    }

    /// As a browser would send it, over HTTP/1.1.
    fn parts(&self, token: Option<&str>) -> http::request::Parts {
        let (mut parts, ()) = Request::new(()).into_parts();
        let url = &self.hypothesis.url;
        parts.method = self.hypothesis.method.clone();
        parts.uri = url.path_and_query().cloned().map(Uri::from).unwrap_or_default();
        let host = url.authority().map(|authority| HeaderValue::from_str(authority.as_str()));
        if let Some(Ok(host)) = host {
            parts.headers.insert(header::HOST, host);
        }
        let said = [
            (header::USER_AGENT, &self.hypothesis.agent),
            (header::ACCEPT_LANGUAGE, &self.hypothesis.language),
        ];
        for (name, text) in said.into_iter().filter(|(_, text)| !text.is_empty()) {
            if let Ok(value) = HeaderValue::from_str(text) {
                parts.headers.insert(name, value);
            }
        }
        let name = &self.gateway.guard.shared().cookies.session;
        let cookie = token.map(|token| HeaderValue::try_from(format!("{name}={token}")));
        if let Some(Ok(cookie)) = cookie {
            parts.headers.insert(header::COOKIE, cookie);
        }
        parts
    }

    fn blank(&self, head: &InboundHead) -> Explanation {
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
            why: format!("{bad}; two programs could read it in two ways"),
            renews: false,
            effects: None,
            signals: None,
            answers: vec![answer("anybody", bad.status(), None)],
            upstream_headers: Vec::new(),
        }
    }

    fn without_route(&self, mut out: Explanation, head: InboundHead) -> Explanation {
        out.verdict = "no-route";
        out.why = "no [[route]] has this host and path".into();
        out.answers = self.answers(head, |head| {
            self.gateway.portal.problem(&head.asker, portal::Problem::NoRoute)
        });
        out
    }

    fn answers<B>(
        &self,
        mut head: InboundHead,
        make: impl Fn(&InboundHead) -> Response<B>,
    ) -> Vec<AnswerExplained> {
        [(Intent::Navigation, "a browser"), (Intent::Fetch, "a program")]
            .into_iter()
            .map(|(intent, to)| {
                head.asker.intent = intent;
                let made = make(&head);
                answer(to, made.status(), made.headers().get(header::LOCATION))
            })
            .collect()
    }

    fn explain_route(&self, route: &Route) -> RouteExplained {
        RouteExplained {
            label: route.label(),
            upstreams: route.upstreams.iter().map(ToString::to_string).collect(),
            access: access(&route.access),
            limits: self.limits(route),
            session: SessionRules::of(route),
        }
    }

    /// The times that hold here: the route's where it is stricter.
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
            limits.push(("max_auth_age", spoken(age) + &of_methods(&route.auth_age_methods)));
        }
        let renewal = route.renewal.then(|| spoken(session.rotate_after()));
        limits.push(("rotate_after", renewal.unwrap_or_else(|| "never, on this route".to_owned())));
        limits
    }

    fn why(&self, denial: &Denial, route: &Route, moved: Option<&SignalsExplained>) -> String {
        match denial {
            Denial::NoSession => "the route wants a session and the request has none".to_owned(),
            Denial::Forbidden { user } => {
                format!("{user} has a live session; the route is for {}", access(&route.access))
            }
            Denial::Refused(refusal) => self.refused(*refusal, route, moved),
            Denial::SeveralCookies
            | Denial::Forged
            | Denial::Unknown
            | Denial::Ended(_)
            | Denial::Poisoned
            | Denial::Unavailable(_) => denial.word().to_owned(),
        }
    }

    fn refused(&self, refusal: Refusal, route: &Route, moved: Option<&SignalsExplained>) -> String {
        let policy = &self.config.session.policy;
        match refusal {
            Refusal::Idle => {
                format!("idle for {} or longer ends a session", spoken(policy.idle()))
            }
            Refusal::Absolute => {
                format!("no session lives longer than {}", spoken(policy.absolute()))
            }
            Refusal::Reauthenticate => self.wants_login(route, moved),
            Refusal::Theft if moved.is_some_and(|moved| moved.answer == "end") => {
                "its signals end the session as stolen".to_owned()
            }
            Refusal::Revoked
            | Refusal::Superseded
            | Refusal::Theft
            | Refusal::AfterCrash
            | Refusal::NotRenewing
            | Refusal::Future
            | Refusal::Mismatch => refusal.word().to_owned(),
        }
    }

    /// Which of the route's own limits was reached.
    fn wants_login(&self, route: &Route, moved: Option<&SignalsExplained>) -> String {
        let Some(session) = &self.hypothesis.session else { return String::new() };
        let policy = route.policy_for(&self.hypothesis.method, false);
        let limits = [
            ("its last activity", session.idle, policy.idle),
            ("it", session.age, policy.absolute),
            ("its last login", session.auth_age, policy.max_auth_age),
        ];
        let reached = limits.into_iter().find_map(|(what, is, limit)| {
            let limit = limit.filter(|limit| is >= *limit)?;
            Some(format!("{what} is {} old; this route allows {}", spoken(is), spoken(limit)))
        });
        let reached =
            reached.unwrap_or_else(|| match moved.filter(|moved| moved.answer == "login") {
                Some(moved) => {
                    format!(
                        "its signals ({}) ask for a fresh login before anything else",
                        moved.score
                    )
                }
                None => "its user has to log in again".to_owned(),
            });
        format!("the session lives, but {reached}")
    }
}

const ADMITTED: &str = "the session lives and its user may use this route";
