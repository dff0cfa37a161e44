//! The access log entry of a request.

use std::net::IpAddr;
use std::time::Instant;

use http::{Method, Request, StatusCode};

use crate::auth::Permit;
use crate::message::{Host, Intent, RequestContext, RequestId, Requester};
use crate::session::SessionId;
use crate::telemetry::{ADMIT, AccessLog, AccessLogFields};

/// Maximum length of host and path in bytes. The query is never logged because it may contain tokens.
const MAX_FIELD_BYTES: usize = 512;

/// Collects the fields of an entry while the request is processed.
#[derive(Clone)]
pub(super) struct AccessLogEntry {
    /// `None` if the access log is disabled.
    started: Option<Instant>,
    request_id: RequestId,
    method: Method,
    host: String,
    path: String,
    client: IpAddr,
    /// Whether the requested host is the loopback host.
    local: bool,
    verdict: &'static str,
    user: String,
    session: Option<SessionId>,
    upstream_us: Option<u64>,
    detail: String,
}

impl AccessLogEntry {
    /// If the access log is not `enabled`, the entry copies no text and serves the metrics only.
    pub(super) fn new<B>(
        request: &Request<B>,
        context: &RequestContext,
        enabled: bool,
    ) -> AccessLogEntry {
        let (host, path) = if enabled {
            (
                requested_host(request).map(truncate).unwrap_or_default(),
                truncate(request.uri().path()),
            )
        } else {
            Default::default()
        };
        AccessLogEntry {
            started: enabled.then(Instant::now),
            request_id: context.request.clone(),
            method: request.method().clone(),
            host,
            path,
            local: requested_host(request).is_some_and(Host::is_localhost_header),
            client: context.client,
            verdict: "malformed",
            user: String::new(),
            session: None,
            upstream_us: None,
            detail: String::new(),
        }
    }

    /// Requester for a response before the head is parsed.
    pub(super) fn requester(&self, intent: Intent) -> Requester {
        Requester { intent, request: self.request_id.clone() }
    }

    pub(super) fn client(&self) -> IpAddr {
        self.client
    }

    pub(super) fn request_id(&self) -> &RequestId {
        &self.request_id
    }

    pub(super) fn set_host(&mut self, host: &Host) {
        self.local = host.is_localhost();
    }

    pub(super) fn is_local(&self) -> bool {
        self.local
    }

    /// Sets the verdict, and the session and user of a permit.
    pub(super) fn set_verdict(&mut self, verdict: &'static str, permit: Option<&Permit>) {
        self.verdict = verdict;
        let Some(permit) = permit else { return };
        self.session = permit.session().map(|key| key.id);
        let identity = permit.identity().filter(|_| self.started.is_some());
        self.user = identity.map(|identity| identity.user.clone()).unwrap_or_default();
    }

    pub(super) fn record_upstream_time(&mut self) {
        let elapsed = self.started.map(|started| started.elapsed());
        self.upstream_us = elapsed.and_then(|elapsed| u64::try_from(elapsed.as_micros()).ok());
    }

    pub(super) fn set_detail(&mut self, detail: String) {
        self.detail = detail;
    }

    pub(super) fn verdict(&self) -> &'static str {
        self.verdict
    }

    pub(super) fn write(&self, log: &AccessLog, status: StatusCode) {
        let Some(started) = self.started else { return };
        log.write(&AccessLogFields {
            request_id: self.request_id.as_str(),
            client: self.client,
            method: self.method.as_str(),
            host: &self.host,
            path: &self.path,
            verdict: self.verdict,
            user: &self.user,
            session: self.session.map(|id| id.handle()),
            status: status.as_u16(),
            upstream_us: self.upstream_us,
            duration_us: u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX),
            detail: &self.detail,
        });
    }
}

/// Verdict of a permitted request.
pub(super) fn permit_verdict(permit: &Permit) -> &'static str {
    match permit.snapshot() {
        None => "public",
        Some(session) if session.stale => "admit-stale",
        Some(_) => ADMIT,
    }
}

fn requested_host<B>(request: &Request<B>) -> Option<&str> {
    let header = || request.headers().get(http::header::HOST).and_then(|host| host.to_str().ok());
    request.uri().host().or_else(header)
}

fn truncate(text: &str) -> String {
    text.get(..text.floor_char_boundary(MAX_FIELD_BYTES)).unwrap_or_default().to_owned()
}
