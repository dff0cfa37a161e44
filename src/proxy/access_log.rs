//! The access log entry of a request.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Method, Request, StatusCode, Version};

use crate::auth::Permit;
use crate::message::{Endpoint, Host, Intent, RequestContext, RequestId, Requester};
use crate::route::Route;
use crate::session::SessionId;
use crate::telemetry::{ADMIT, AccessLog, AccessLogFields, Phase, RouteMetricsTable};

/// Verdict of a request whose head was not accepted.
pub(super) const MALFORMED: &str = "malformed";

/// Maximum length of host and path in bytes. The query is never logged because it may contain tokens.
const MAX_FIELD_BYTES: usize = 512;

/// Collects the fields of an entry while the request is processed.
#[derive(Clone)]
pub(super) struct AccessLogEntry {
    /// Whether the access log is enabled.
    is_logged: bool,
    started: Instant,
    /// When the request was forwarded.
    forwarded: Option<Instant>,
    /// When the response head of the upstream arrived.
    upstream_responded: Option<Instant>,
    request_id: RequestId,
    method: Method,
    protocol: Version,
    host: String,
    path: String,
    client: IpAddr,
    /// Whether the requested host is the loopback host.
    local: bool,
    verdict: &'static str,
    user: String,
    session: Option<SessionId>,
    route: Option<Arc<Route>>,
    /// The endpoint that responded.
    upstream: Option<Endpoint>,
    /// Error type of RFC 9209 if the upstream is the cause of an error.
    upstream_failure: Option<&'static str>,
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
            is_logged: enabled,
            started: Instant::now(),
            forwarded: None,
            upstream_responded: None,
            request_id: context.request.clone(),
            method: request.method().clone(),
            protocol: request.version(),
            host,
            path,
            local: requested_host(request).is_some_and(Host::is_localhost_header),
            client: context.client,
            verdict: MALFORMED,
            user: String::new(),
            session: None,
            route: None,
            upstream: None,
            upstream_failure: None,
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

    /// Whether the request is HEAD.
    pub(super) fn is_head(&self) -> bool {
        self.method == Method::HEAD
    }

    /// Whether the client speaks HTTP/1.0.
    pub(super) fn is_http_10(&self) -> bool {
        self.protocol == Version::HTTP_10
    }

    pub(super) fn is_local(&self) -> bool {
        self.local
    }

    /// Sets the verdict of a request that needs no authorization.
    pub(super) fn set_verdict(&mut self, verdict: &'static str) {
        self.verdict = verdict;
    }

    /// Sets the verdict, the route, the session and the user.
    pub(super) fn set_authorization(
        &mut self,
        verdict: &'static str,
        route: Option<&Arc<Route>>,
        session: Option<SessionId>,
        user: Option<&str>,
    ) {
        self.verdict = verdict;
        self.route = route.cloned();
        self.session = session;
        self.user = user.filter(|_| self.is_logged).unwrap_or_default().to_owned();
    }

    /// Records that a response head arrived from this endpoint.
    pub(super) fn record_upstream_response(&mut self, endpoint: &Endpoint) {
        self.upstream = Some(endpoint.clone());
        self.upstream_responded = Some(Instant::now());
    }

    /// Records that the request is forwarded now.
    pub(super) fn record_forwarded(&mut self, now: Instant) {
        self.forwarded = Some(now);
    }

    /// Records that the upstream failed. `cause` is an error type of RFC 9209.
    pub(super) fn set_upstream_failure(&mut self, cause: &'static str) {
        self.upstream_failure = Some(cause);
    }

    pub(super) fn set_detail(&mut self, detail: String) {
        self.detail = detail;
    }

    /// The endpoint that responded. If none did, all that the request may have been sent to.
    fn upstreams(&self) -> &[Endpoint] {
        match (&self.upstream, &self.route) {
            (Some(endpoint), _) => std::slice::from_ref(endpoint),
            (None, Some(route)) if self.upstream_failure.is_some() => &route.upstreams,
            (None, _) => &[],
        }
    }

    pub(super) fn verdict(&self) -> &'static str {
        self.verdict
    }

    /// Records the durations of an exchange that ended at `end`, and the failure of its upstream.
    pub(super) fn count(&self, routes: &RouteMetricsTable, end: Instant) {
        let Some(counts) = self.route.as_ref().and_then(|route| routes.get(route)) else { return };
        let forwarded = self.forwarded.unwrap_or(end);
        counts.observe(Phase::Gateway, forwarded.duration_since(self.started));
        if self.forwarded.is_some() {
            let responded = self.upstream_responded.unwrap_or(end);
            counts.observe(Phase::Upstream, responded.duration_since(forwarded));
        }
        if let Some(responded) = self.upstream_responded {
            counts.observe(Phase::Response, end.duration_since(responded));
        }
        if let Some(cause) = self.upstream_failure {
            counts.upstream_error(cause);
        }
    }

    pub(super) fn write(&self, log: &AccessLog, end: &End) {
        let End { time, status, bytes, cut } = *end;
        let since_start = |time: Instant| micros(time.duration_since(self.started));
        let route = self.route.as_ref();
        log.write(&AccessLogFields {
            is_warning: self.upstream_failure.is_some(),
            request_id: self.request_id.as_str(),
            client: self.client,
            protocol: protocol_name(self.protocol),
            method: self.method.as_str(),
            host: &self.host,
            path: &self.path,
            route: route.map(|route| (&route.host, &route.path)),
            verdict: self.verdict,
            user: &self.user,
            session: self.session.map(|id| id.handle()),
            status,
            bytes,
            cut,
            upstreams: self.upstreams(),
            upstream_us: self.upstream_responded.map(since_start),
            duration_us: since_start(time),
            detail: &self.detail,
        });
    }
}

/// The end of an exchange.
pub(super) struct End {
    pub(super) time: Instant,
    pub(super) status: u16,
    /// The part of the response body that the client connection has taken.
    pub(super) bytes: u64,
    /// Why the exchange ended early.
    pub(super) cut: Option<&'static str>,
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Name of the protocol version in the access log.
fn protocol_name(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    }
}

/// Writes the entry of a request without a readable head: method, host and path are unknown.
pub(super) fn write_unreadable(
    log: &AccessLog,
    client: IpAddr,
    request_id: &RequestId,
    protocol: Version,
    status: StatusCode,
    detail: &str,
) {
    log.write(&AccessLogFields {
        is_warning: false,
        request_id: request_id.as_str(),
        client,
        protocol: protocol_name(protocol),
        method: "",
        host: "",
        path: "",
        route: None,
        verdict: MALFORMED,
        user: "",
        session: None,
        status: status.as_u16(),
        bytes: 0,
        cut: None,
        upstreams: &[],
        upstream_us: None,
        duration_us: 0,
        detail,
    });
}

/// Verdict of a permitted request.
pub(super) fn permit_verdict(permit: &Permit) -> &'static str {
    match permit.snapshot() {
        None if permit.token().is_some() => "admit-token",
        None => "public",
        Some(session) if session.stale => "admit-stale",
        Some(_) => ADMIT,
    }
}

/// The requested host without its port, on either protocol.
fn requested_host<B>(request: &Request<B>) -> Option<&str> {
    let header = || request.headers().get(http::header::HOST).and_then(|host| host.to_str().ok());
    request.uri().host().or_else(|| header().map(without_port))
}

fn without_port(host: &str) -> &str {
    // The colons of an IPv6 address are in brackets.
    match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => name,
        Some(_) | None => host,
    }
}

fn truncate(text: &str) -> String {
    text.get(..text.floor_char_boundary(MAX_FIELD_BYTES)).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logged_host_has_no_port() {
        for (host, name) in [
            ("app.test:8443", "app.test"),
            ("app.test", "app.test"),
            ("[::1]:8443", "[::1]"),
            ("[::1]", "[::1]"),
            ("", ""),
        ] {
            assert_eq!(without_port(host), name);
        }
    }
}
