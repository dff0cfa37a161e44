//! A permitted request on its way to its app, and the answer on its way back.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::header::{self, HeaderName, HeaderValue};
use http::{Extensions, Request, Response, StatusCode};
use hyper::body::{Body as _, Incoming};
use hyper::upgrade::OnUpgrade;
use tokio::time::{Instant, timeout, timeout_at};

use crate::guard::{Cut, Permit, Sight, Terms, Watched};
use crate::message::{InboundHead, SanitizedHead, hygiene};
use crate::portal::Problem;
use crate::route::Route;
use crate::telemetry::Limit;
use crate::upstream::Claim;

use super::answers::{self, ForwardError};
use super::body::{Fate, Outbound, RequestBody, ResponseBody, Soon, UpstreamBody, Watch};
use super::line::Line;
use super::pace::{Deadline, Late};
use super::{Caller, Gateway, Seat, UpstreamHead, steer};

/// On answers that were given without asking the store.
const STORE_STATE: HeaderName = HeaderName::from_static("doorward-store");

/// How long an answer's head may take before its session is watched, and as long again the rest of it.
const PATIENCE: Duration = Duration::from_millis(500);

/// The longest answer, in bytes, that is not watched from its head on: most are in the client's socket at once.
const SHORT: u64 = 64 * 1024;

/// What an app is asked.
pub(super) struct Asked {
    pub(super) head: UpstreamHead,
    pub(super) claim: Claim,
}

/// What came with a request's head.
pub(super) struct Inbound<'a> {
    pub(super) body: Incoming,
    pub(super) upgrade: Option<Upgrade>,
    pub(super) caller: &'a Arc<Caller>,
}

/// A client's connection, should it become a tunnel.
pub(super) struct Upgrade {
    pub(super) on: OnUpgrade,
    pub(super) seat: Option<Seat>,
}

impl Upgrade {
    pub(super) fn of(extensions: &mut Extensions) -> Option<Upgrade> {
        let on = extensions.remove()?;
        Some(Upgrade { on, seat: extensions.remove() })
    }
}

impl Gateway {
    /// Sends a permitted request upstream and cleans the answer.
    pub(super) async fn forward(
        &self,
        head: InboundHead,
        inbound: Inbound<'_>,
        route: &Route,
        permit: &Permit,
        line: &mut Line,
    ) -> Response<ResponseBody> {
        line.permit(permit);
        let max = route.limits.max;
        if max > 0 && inbound.body.size_hint().lower() > max {
            self.guard.shared().metrics.limit(Limit::MaxBody, None);
            return self.portal.problem(&head.asker, Problem::TooLong).map(ResponseBody::Own);
        }
        if head.is_at_its_end() {
            return answers::end_of_the_way();
        }
        let cookies = &self.guard.shared().cookies;
        let asker = head.asker.clone();
        let claim = self.claim(&head, permit);
        let head = SanitizedHead::new(head, &self.owned, cookies);
        let websocket = head.is_websocket();
        let way = inbound.caller.way(&head);
        let asked = Asked { head: UpstreamHead::by(&way, head, permit, route), claim };
        let sent = match inbound.upgrade {
            Some(upgrade) if websocket => {
                Box::pin(self.tunnel(asked, upgrade, route, permit, line)).await
            }
            Some(_) | None => self.fetch(asked, inbound, route, permit, line).await,
        };
        sent.unwrap_or_else(|error| {
            if let Some(limit) = error.limit() {
                self.guard.shared().metrics.limit(limit, None);
            }
            answers::upstream_failed(&self.portal, &asker, &error, line)
        })
    }

    /// A session on a route for everybody is not looked up; that we made its cookie is enough here.
    fn claim(&self, head: &InboundHead, permit: &Permit) -> Claim {
        match permit.session().is_some() || self.guard.recognises(&self.presented(head)) {
            true => Claim::Known,
            false => Claim::Stranger,
        }
    }

    async fn fetch(
        &self,
        asked: Asked,
        inbound: Inbound<'_>,
        route: &Route,
        permit: &Permit,
        line: &mut Line,
    ) -> Result<Response<ResponseBody>, ForwardError> {
        let Inbound { body, caller, .. } = inbound;
        let watched = match body.is_end_stream() {
            true => None,
            false => self.watch(permit, route)?,
        };
        let ending = watched.as_ref().map(Watched::ending);
        let body = RequestBody::new(body, &route.limits, caller, ending);
        let fate = body.fate();
        let request = asked.head.into_request(body);
        let ends = Ends::of(route, permit);
        // Pinned where it stands: moved into one of two arms, it would be in the request's future twice.
        let sent = pin!(self.send(request, asked.claim, route, permit, watched));
        let sent = match ends.first() {
            Some(end) => {
                Box::pin(timeout_at(end.at, sent)).await.unwrap_or_else(|_| Err(end.into()))
            }
            None => sent.await,
        };
        let (mut response, watched) = sent.map_err(|error| blame(error, fate.as_deref()))?;
        line.upstream_answered();
        self.clean(&mut response);
        keep_private(&mut response, permit);
        mark_unasked(&mut response, permit);
        let watch = match watched {
            Some(watched) => Some(Watch::Now(watched)),
            None if is_long(&response) => self.watch(permit, route)?.map(Watch::Now),
            None if response.body().is_end_stream() => None,
            None => self.watch_soon(permit, route),
        };
        let end = if is_events(&response) { ends.age } else { ends.first() };
        Ok(response.map(|body| outbound(body, route, watch, end)))
    }

    /// Waits for the answer's head. Who waits long is watched: an app that lets its clients wait for
    /// news must not tell them to somebody who has logged out meanwhile.
    async fn send(
        &self,
        request: Request<RequestBody>,
        claim: Claim,
        route: &Route,
        permit: &Permit,
        mut watched: Option<Watched>,
    ) -> Result<(Response<UpstreamBody>, Option<Watched>), ForwardError> {
        let mut sent = pin!(self.upstreams.of(route)?.send(claim, &route.upstreams, request));
        if watched.is_none() && permit.sight().is_some() {
            if let Ok(sent) = timeout(PATIENCE, sent.as_mut()).await {
                return Ok((sent?, None));
            }
            watched = self.watch(permit, route)?;
        }
        let sent = tokio::select! {
            biased;
            why = session_end(&mut watched) => return Err(ForwardError::Cut(why)),
            sent = sent => sent?,
        };
        if let Some(watched) = &mut watched {
            watched.on().await.map_err(ForwardError::Cut)?;
        }
        Ok((sent, watched))
    }

    /// Takes out of an app's answer what is not its to say to a client.
    pub(super) fn clean<B>(&self, response: &mut Response<B>) {
        steer::take_word(response);
        hygiene::clean(response.headers_mut(), &self.guard.shared().cookies);
    }

    /// Registers what outlives its request; nothing on a route for everybody.
    pub(super) fn watch(
        &self,
        permit: &Permit,
        route: &Route,
    ) -> Result<Option<Watched>, ForwardError> {
        let terms = Terms { policy: Some(&route.policy), max_age: route.max_connection_age };
        let live = &self.guard.shared().live;
        Ok(permit.sight().map(|sight| live.watch(sight, terms)).transpose()?)
    }

    /// The same for a short answer whose end has not come yet, should that take long.
    fn watch_soon(&self, permit: &Permit, route: &Route) -> Option<Watch> {
        let soon = |sight: &Sight| Soon {
            live: self.guard.shared().live.clone(),
            sight: sight.clone(),
            policy: route.policy.clone(),
            max_age: route.max_connection_age,
            due: Instant::now() + PATIENCE,
            timer: None,
        };
        permit.sight().map(|sight| Watch::Soon(Box::new(soon(sight))))
    }
}

/// A client whose own body broke a limit is told which.
fn blame(error: ForwardError, fate: Option<&Fate>) -> ForwardError {
    match fate.and_then(Fate::status) {
        Some(StatusCode::REQUEST_TIMEOUT) => ForwardError::BodyTooSlow,
        Some(_) => ForwardError::BodyTooLong,
        None => error,
    }
}

/// When a request has to be over, with its answer.
#[derive(Clone, Copy)]
pub(super) struct Ends {
    request: Option<Deadline>,
    pub(super) age: Option<Deadline>,
}

impl Ends {
    /// Of a request that begins now.
    pub(super) fn of(route: &Route, permit: &Permit) -> Ends {
        // The register knows the age of what has a session.
        let age = route.max_connection_age.filter(|_| permit.sight().is_none());
        Ends {
            request: Deadline::after(route.limits.request, Late::Request),
            age: age.and_then(|age| Deadline::after(age, Late::Age)),
        }
    }

    pub(super) fn first(self) -> Option<Deadline> {
        Deadline::first(self.request, self.age)
    }
}

/// An upstream's body on its way to the client.
pub(super) fn outbound(
    body: UpstreamBody,
    route: &Route,
    watch: Option<Watch>,
    end: Option<Deadline>,
) -> ResponseBody {
    let outbound = Outbound::new(body, route.limits.upstream_idle, end);
    match watch {
        Some(watch) => ResponseBody::Watched(outbound, watch),
        None => ResponseBody::Upstream(outbound),
    }
}

/// An answer to a logged-in user is nobody else's, unless the app says how it may be kept.
pub(super) fn keep_private<B>(response: &mut Response<B>, permit: &Permit) {
    if permit.session().is_some() && !response.headers().contains_key(header::CACHE_CONTROL) {
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("private"));
    }
}

/// Says to whoever looks into it that the store was away.
fn mark_unasked<B>(response: &mut Response<B>, permit: &Permit) {
    if permit.sight().is_some_and(|sight| sight.unasked) {
        response.headers_mut().insert(STORE_STATE, HeaderValue::from_static("away"));
    }
}

/// Answers without an end in sight, which have to be cut when their session ends. What they say they
/// are is no measure: an app may stream in any type.
fn is_long<B: hyper::body::Body>(response: &Response<B>) -> bool {
    let body = response.body();
    !body.is_end_stream() && body.size_hint().exact().is_none_or(|length| length > SHORT)
}

/// An event stream is meant to go on: its age is what may be limited.
fn is_events<B>(response: &Response<B>) -> bool {
    const EVENTS: &str = "text/event-stream";
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default();
    kind.trim().eq_ignore_ascii_case(EVENTS)
}

pub(super) async fn session_end(watched: &mut Option<Watched>) -> Cut {
    match watched {
        Some(watched) => watched.cut().await,
        None => std::future::pending().await,
    }
}
