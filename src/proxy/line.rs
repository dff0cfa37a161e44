//! One line per request: who asked for what, what was decided, how it ended.

use std::net::IpAddr;
use std::time::Instant;

use http::{Method, Request, StatusCode};

use crate::guard::Permit;
use crate::message::{Arrival, Asker, Host, Intent, RequestId};
use crate::session::SessionId;
use crate::telemetry::{ADMIT, RequestLine, RequestLog};

/// Longest path in a line, in bytes. The query stays out: it may hold anything, tokens included.
const PATH_LIMIT: usize = 512;

/// What is known of a request so far.
#[derive(Clone)]
pub(super) struct Line {
    /// Absent where no line will be written.
    began: Option<Instant>,
    request: RequestId,
    method: Method,
    host: String,
    path: String,
    client: IpAddr,
    /// Whether it was for the machine that the browser runs on.
    local: bool,
    verdict: &'static str,
    user: String,
    session: Option<SessionId>,
    upstream_ms: Option<u64>,
    detail: String,
}

impl Line {
    /// `written`: whether the line will be; one that only counts copies no text.
    pub(super) fn begin<B>(request: &Request<B>, arrival: &Arrival, written: bool) -> Line {
        let (host, path) = if written {
            (asked(request).map(cut).unwrap_or_default(), cut(request.uri().path()))
        } else {
            Default::default()
        };
        Line {
            began: written.then(Instant::now),
            request: arrival.request.clone(),
            method: request.method().clone(),
            host,
            path,
            local: asked(request).is_some_and(Host::looks_local),
            client: arrival.client,
            verdict: "malformed",
            user: String::new(),
            session: None,
            upstream_ms: None,
            detail: String::new(),
        }
    }

    /// For an answer before anything is known of the asker.
    pub(super) fn asker(&self, intent: Intent) -> Asker {
        Asker { intent, request: self.request.clone() }
    }

    pub(super) fn request(&self) -> &RequestId {
        &self.request
    }

    pub(super) fn host(&mut self, host: &Host) {
        self.local = host.is_local();
    }

    pub(super) fn is_local(&self) -> bool {
        self.local
    }

    pub(super) fn verdict(&mut self, word: &'static str) {
        self.verdict = word;
    }

    pub(super) fn permit(&mut self, permit: &Permit) {
        self.verdict = match permit.sight() {
            None => "public",
            Some(sight) if sight.unasked => "admit-known",
            Some(_) => ADMIT,
        };
        self.session = permit.session().map(|key| key.id);
        let user = permit.identity().filter(|_| self.began.is_some()).map(|who| who.user.clone());
        self.user = user.unwrap_or_default();
    }

    pub(super) fn upstream_answered(&mut self) {
        let took = self.began.map(|began| began.elapsed());
        self.upstream_ms = took.and_then(|took| u64::try_from(took.as_millis()).ok());
    }

    pub(super) fn detail(&mut self, detail: String) {
        self.detail = detail;
    }

    pub(super) fn word(&self) -> &'static str {
        self.verdict
    }

    pub(super) fn write(&self, log: &RequestLog, status: StatusCode) {
        let Some(began) = self.began else { return };
        log.write(&RequestLine {
            request: self.request.as_str(),
            client: self.client,
            method: self.method.as_str(),
            host: &self.host,
            path: &self.path,
            verdict: self.verdict,
            user: &self.user,
            session: self.session.map(|id| id.handle()),
            status: status.as_u16(),
            upstream_ms: self.upstream_ms,
            took_us: u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX),
            detail: &self.detail,
        });
    }
}

fn asked<B>(request: &Request<B>) -> Option<&str> {
    let field = || request.headers().get(http::header::HOST).and_then(|host| host.to_str().ok());
    request.uri().host().or_else(field)
}

fn cut(text: &str) -> String {
    text.get(..text.floor_char_boundary(PATH_LIMIT)).unwrap_or_default().to_owned()
}
