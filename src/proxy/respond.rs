//! Writes the headers of every response, then its metrics.
//!
//! A new response header belongs into `Responder::write_headers`. Its steps, in their order:
//!
//! | step | responses | headers |
//! | --- | --- | --- |
//! | 1 | from an upstream | removes hop-by-hop headers, server banners, our cookies and `Doorward-*` |
//! | 2 | from an upstream, with a session | `Cache-Control: private` if absent |
//! | 3 | from an upstream, during a store outage | `Doorward-Store` |
//! | 4 | 101 | `Connection` and `Upgrade`; no `Content-Length` |
//! | 5 | local | `Proxy-Status`, `Retry-After`, `Connection: close` |
//! | 6 | local and 101 | `X-Request-Id`; `Cache-Control: no-store` if absent |
//! | 7 | all | removes `Proxy-Status` unless configured |
//! | 8 | that end the session | clears the cookie and the site data; forbids storing |
//! | 9 | with a token | `Set-Cookie`; forbids storing |
//! | 10 | all | `Strict-Transport-Security`, if configured |
//!
//! `forward` translates `Location` before that. Pages of the portal come with headers for their content, such as `Content-Type`, `Location` and
//! `Content-Security-Policy`. Trailers are sanitized with the response body.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode, Version};
use http_body::Body;

use crate::auth::{Auth, Permit};
use crate::message::request_id::X_REQUEST_ID;
use crate::message::{RequestId, response_headers};
use crate::sessions::NewToken;
use crate::telemetry::{AccessLog, RouteMetricsTable};

use super::access_log::{self, AccessLogEntry, MALFORMED};
use super::body::ResponseBody;

/// RFC 9209.
const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// Set on responses that were authorized by a cached session during a store outage.
const STORE_STATE: HeaderName = HeaderName::from_static("doorward-store");

/// A token older than this is checked against the store before it is sent.
const RECHECK_AFTER: Duration = Duration::from_secs(5);

/// A response whose headers are not written yet.
pub(super) struct PendingResponse {
    pub(super) response: Response<ResponseBody>,
    pub(super) source: Source,
    /// The token to set as the session cookie.
    pub(super) token: Option<NewToken>,
    /// Host of the request if its session has ended.
    pub(super) ended_at: Option<String>,
}

/// Origin of a response, with the facts that its headers depend on.
pub(super) enum Source {
    Upstream {
        has_session: bool,
        /// Whether the request was authorized without the store.
        is_stale: bool,
    },
    /// A 101 from an upstream.
    Upgrade,
    Local(LocalHeaders),
}

/// Headers of a local response besides those of its content.
#[derive(Clone, Copy, Default)]
pub(super) struct LocalHeaders {
    /// Error type of RFC 9209.
    pub(super) proxy_status: Option<&'static str>,
    /// Seconds until a retry.
    pub(super) retry_after: Option<u16>,
    /// Whether the connection must not be reused. HTTP/2 has no such header.
    pub(super) close: bool,
}

impl PendingResponse {
    pub(super) fn from_upstream(
        response: Response<ResponseBody>,
        permit: &Permit,
    ) -> PendingResponse {
        let mut response = response;
        // An HTTP/1.0 app would otherwise lower the version of the response, which ends keep-alive.
        *response.version_mut() = Version::HTTP_11;
        let is_stale = permit.snapshot().is_some_and(|session| session.stale);
        let source = Source::Upstream { has_session: permit.identity().is_some(), is_stale };
        PendingResponse { response, source, token: None, ended_at: None }
    }

    pub(super) fn upgrade(response: Response<ResponseBody>) -> PendingResponse {
        PendingResponse { response, source: Source::Upgrade, token: None, ended_at: None }
    }

    pub(super) fn local(
        response: Response<ResponseBody>,
        headers: LocalHeaders,
    ) -> PendingResponse {
        let source = Source::Local(headers);
        PendingResponse { response, source, token: None, ended_at: None }
    }

    pub(super) fn with_token(self, token: Option<NewToken>) -> PendingResponse {
        PendingResponse { token, ..self }
    }
}

/// Writes the headers and the metrics of responses.
pub struct Responder {
    pub auth: Auth,
    /// Value of `Strict-Transport-Security`; `None` omits the header.
    pub hsts: Option<HeaderValue>,
    /// Whether responses carry `Proxy-Status`.
    pub proxy_status: bool,
    /// Access log; `None` disables it.
    pub access_log: Option<Arc<AccessLog>>,
    pub route_metrics: RouteMetricsTable,
}

impl Responder {
    /// Completes a response. Every response leaves through this function or [`Responder::finish`].
    pub(super) async fn respond(
        &self,
        mut pending: PendingResponse,
        entry: &AccessLogEntry,
    ) -> Response<ResponseBody> {
        let status = pending.response.status();
        if let Some(token) = &pending.token
            && !self.is_token_current(token, status).await
        {
            pending.token = None;
        }
        self.finish(pending, entry)
    }

    /// As [`Responder::respond`], for a response without a token.
    pub(super) fn finish(
        &self,
        pending: PendingResponse,
        entry: &AccessLogEntry,
    ) -> Response<ResponseBody> {
        let response = self.write_headers(pending, entry);
        self.auth.shared().metrics.request(entry.verdict(), response.status().as_u16());
        response
    }

    /// Writes the access log entry and the metrics of a request without a readable head.
    pub(super) fn log_unreadable(
        &self,
        client: IpAddr,
        request_id: &RequestId,
        protocol: Version,
        status: StatusCode,
        detail: &str,
    ) {
        self.auth.shared().metrics.request(MALFORMED, status.as_u16());
        if let Some(log) = &self.access_log {
            access_log::write_unreadable(log, client, request_id, protocol, status, detail);
        }
    }

    fn write_headers(
        &self,
        pending: PendingResponse,
        entry: &AccessLogEntry,
    ) -> Response<ResponseBody> {
        let PendingResponse { mut response, source, token, ended_at } = pending;
        let cookies = &self.auth.settings().cookies;
        let headers = response.headers_mut();
        match source {
            Source::Upstream { has_session, is_stale } => {
                response_headers::sanitize(headers, cookies);
                if has_session {
                    default_cache_control(headers, const { HeaderValue::from_static("private") });
                }
                if is_stale {
                    headers.insert(STORE_STATE, HeaderValue::from_static("away"));
                }
            }
            Source::Upgrade => {
                response_headers::sanitize(headers, cookies);
                set_upgrade_headers(headers);
                set_own_headers(headers, entry);
            }
            Source::Local(local) => {
                local.write_to(headers);
                set_own_headers(headers, entry);
            }
        }
        if entry.is_http_10() {
            end_with_connection(&mut response);
        }
        let headers = response.headers_mut();
        if !self.proxy_status {
            headers.remove(PROXY_STATUS);
        }
        if let Some(host) = ended_at {
            response_headers::set_logout_headers(headers, cookies, &host);
        }
        if let Some(cookie) = token.and_then(|token| cookies.set_session(&token.text, token.left()))
        {
            headers.append(header::SET_COOKIE, cookie);
            // A cached copy would hand this user's token to another client.
            response_headers::set_no_store(headers);
        }
        // HSTS ignores ports: on localhost it would break plain HTTP on every other port.
        if let Some(hsts) = self.hsts.as_ref().filter(|_| !entry.is_local()) {
            headers.insert(header::STRICT_TRANSPORT_SECURITY, hsts.clone());
        }
        response
    }

    /// Whether `token` is still the one to send. After a slow response a newer token may exist, and an
    /// older cookie would overwrite it in the browser.
    async fn is_token_current(&self, token: &NewToken, status: StatusCode) -> bool {
        if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
            return false;
        }
        let shared = self.auth.shared();
        let elapsed = shared.clock.now().since(token.issued_at);
        elapsed < self.auth.settings().policy.grace().min(RECHECK_AFTER)
            || self.auth.is_successor_current(token).await
    }
}

impl LocalHeaders {
    fn write_to(self, headers: &mut HeaderMap) {
        let status = self.proxy_status.map(|token| format!("doorward; error={token}"));
        if let Some(Ok(status)) = status.map(HeaderValue::try_from) {
            headers.insert(PROXY_STATUS, status);
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.close {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }
}

/// HTTP/1.0 has no chunks: a body of unknown length ends with the connection. hyper closes the connection after a
/// response of this version, and otherwise keeps it if the client asks for it.
fn end_with_connection(response: &mut Response<ResponseBody>) {
    if response.body().size_hint().exact().is_none() {
        *response.version_mut() = Version::HTTP_10;
    }
}

/// Headers of responses that the proxy creates, such as the 101 of a tunnel.
fn set_own_headers(headers: &mut HeaderMap, entry: &AccessLogEntry) {
    headers.insert(X_REQUEST_ID, entry.request_id().value().clone());
    default_cache_control(headers, const { HeaderValue::from_static("no-store") });
}

fn default_cache_control(headers: &mut HeaderMap, value: HeaderValue) {
    headers.entry(header::CACHE_CONTROL).or_insert(value);
}

fn set_upgrade_headers(headers: &mut HeaderMap) {
    // A 101 response has no content (RFC 9110 8.6).
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_9110_8_6_a_101_response_has_no_content_length() {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("5"));
        headers.insert("x-app", HeaderValue::from_static("1"));
        set_upgrade_headers(&mut headers);
        assert_eq!(headers.get(header::CONTENT_LENGTH), None);
        assert_eq!(headers.get("x-app"), Some(&HeaderValue::from_static("1")));
    }
}
