//! Answers in the form that fits the asker: a page for a person, JSON for a program.

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::guard::Denial;
use crate::message::{Asker, BadRequest, InboundHead, Intent};
use crate::session::Refusal;

use super::forms::{self, TARGET};
use super::pages::{self, ErrorKind, ErrorPage};
use super::{Page, Portal};

/// What went wrong, other than a missing session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    BadRequest(BadRequest),
    BrokenForm,
    TooLong,
    TooSlow,
    CrossSite,
    NoRoute,
    /// The connection was opened for another host.
    Misdirected,
    /// With those that are.
    MethodNotAllowed(&'static str),
    /// It ended while the request was under way.
    SessionEnded,
    /// The store did not say for too long whether the session lives.
    StoreAway,
    /// Too many connections of a kind are open; the status says whose.
    Crowded(StatusCode),
    /// There are too many requests to serve this one.
    Busy,
    /// The upstream gave no answer; the status says how.
    Upstream(StatusCode),
}

const FORWARDED_METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

const LOGIN: &str = "/.doorward/login";

/// Nothing from elsewhere, nothing inline, in nobody's frame.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

impl Portal {
    /// The answer to a request that the guard did not admit. It never deletes a cookie: a request that
    /// lost a race would log out one that won it.
    pub fn deny(&self, head: &InboundHead, denial: &Denial) -> Page {
        match denial {
            Denial::Unavailable(_) => self.unavailable(&head.asker),
            Denial::Forbidden { user } => self.forbidden(&head.asker, user),
            Denial::NoSession
            | Denial::SeveralCookies
            | Denial::Forged
            | Denial::Unknown
            | Denial::Ended(_)
            | Denial::Refused(_)
            | Denial::Poisoned => self.log_in(head, denial),
        }
    }

    /// The answer to a request that nobody could serve.
    pub fn problem(&self, asker: &Asker, problem: Problem) -> Page {
        let (status, word, kind) = match problem {
            Problem::SessionEnded => {
                return unauthenticated("session-ended", "unauthenticated", LOGIN);
            }
            Problem::StoreAway => return self.unavailable(asker),
            Problem::Crowded(status) => (status, "too-many-connections", ErrorKind::Crowded),
            Problem::BadRequest(bad) => (bad.status(), "bad-request", ErrorKind::BadRequest),
            Problem::BrokenForm => (StatusCode::BAD_REQUEST, "bad-form", ErrorKind::BadRequest),
            Problem::TooLong => (StatusCode::PAYLOAD_TOO_LARGE, "too-long", ErrorKind::TooLong),
            Problem::TooSlow => (StatusCode::REQUEST_TIMEOUT, "too-slow", ErrorKind::BadRequest),
            Problem::CrossSite => (StatusCode::FORBIDDEN, "cross-site", ErrorKind::CrossSite),
            Problem::NoRoute => (StatusCode::NOT_FOUND, "no-route", ErrorKind::NotFound),
            Problem::Misdirected => {
                (StatusCode::MISDIRECTED_REQUEST, "misdirected", ErrorKind::NoSuchSite)
            }
            Problem::MethodNotAllowed(_) => {
                (StatusCode::METHOD_NOT_ALLOWED, "method", ErrorKind::MethodNotAllowed)
            }
            Problem::Busy => (StatusCode::SERVICE_UNAVAILABLE, "busy", ErrorKind::Busy),
            Problem::Upstream(status) if status == StatusCode::GATEWAY_TIMEOUT => {
                (status, "upstream-slow", ErrorKind::UpstreamSlow)
            }
            Problem::Upstream(status) if status.is_client_error() => {
                (status, "bad-request", ErrorKind::BadRequest)
            }
            Problem::Upstream(status) => (status, "upstream-down", ErrorKind::UpstreamDown),
        };
        let detail = match problem {
            Problem::BadRequest(bad) => bad.to_string(),
            Problem::BrokenForm
            | Problem::TooLong
            | Problem::TooSlow
            | Problem::CrossSite
            | Problem::NoRoute
            | Problem::Misdirected
            | Problem::MethodNotAllowed(_)
            | Problem::SessionEnded
            | Problem::StoreAway
            | Problem::Crowded(_)
            | Problem::Busy
            | Problem::Upstream(_) => String::new(),
        };
        let mut page =
            self.formed(asker, status, &kind, json!({ "error": word, "reason": detail }));
        if let Some(methods) = allowed(problem) {
            page.headers_mut().insert(header::ALLOW, HeaderValue::from_static(methods));
        }
        page
    }

    /// A page of ours: never cached, strictly contained.
    pub(super) fn page(&self, status: StatusCode, html: String) -> Page {
        let mut page = Response::new(Full::from(html));
        *page.status_mut() = status;
        let headers = page.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        headers.insert(
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static(CONTENT_SECURITY_POLICY),
        );
        headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
        headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
        // No window that opened ours keeps a handle on it, and no other site draws it as a picture.
        let alone = HeaderValue::from_static("same-origin");
        headers.insert("cross-origin-opener-policy", alone.clone());
        headers.insert("cross-origin-resource-policy", alone);
        guard_headers(headers);
        page
    }

    fn log_in(&self, head: &InboundHead, denial: &Denial) -> Page {
        match head.asker.intent {
            // 303: the form is fetched by GET, whatever the first request was (RFC 9700 4.12).
            Intent::Navigation => see_other(&self.login_for(head, denial)),
            Intent::Fetch => {
                unauthenticated(denial.word(), error_of(denial), &self.login_for(head, denial))
            }
        }
    }

    /// The login that leads back to where the user was.
    fn login_for(&self, head: &InboundHead, denial: &Denial) -> String {
        let shared = self.guard.shared();
        let mut query = form_urlencoded::Serializer::new(String::new());
        let (host, now) = (head.host.to_string(), shared.clock.now());
        let target = forms::page_of(head);
        if let Some(kept) =
            target.and_then(|target| forms::keep_target(&shared.keys.load(), &host, &target, now))
        {
            query.append_pair(TARGET, &kept);
        }
        if !matches!(denial, Denial::NoSession) {
            query.append_pair("why", denial.word());
        }
        match query.finish() {
            query if query.is_empty() => LOGIN.to_owned(),
            query => format!("{LOGIN}?{query}"),
        }
    }

    /// 503: the store does not answer, and nothing was decided.
    pub fn unavailable(&self, asker: &Asker) -> Page {
        let body = json!({ "error": "unavailable", "reason": "store-unavailable" });
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let mut page = self.formed(asker, status, &ErrorKind::StoreAway, body);
        page.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
        page
    }

    fn forbidden(&self, asker: &Asker, user: &str) -> Page {
        let body = json!({ "error": "forbidden", "reason": "not-allowed" });
        let kind = ErrorKind::Forbidden { user: user.to_owned() };
        self.formed(asker, StatusCode::FORBIDDEN, &kind, body)
    }

    /// In both forms the answer names the request, so that whoever complains can say which it was.
    fn formed(&self, asker: &Asker, status: StatusCode, kind: &ErrorKind, mut body: Value) -> Page {
        let (site, request) = (self.look.name.as_str(), asker.request.as_str());
        match asker.intent {
            Intent::Navigation => {
                self.page(status, pages::error_page(&ErrorPage { site, status, kind, request }))
            }
            Intent::Fetch => {
                body["request"] = request.into();
                json_page(status, &body)
            }
        }
    }
}

/// What a 405 has to say (RFC 9110 15.5.6).
fn allowed(problem: Problem) -> Option<&'static str> {
    match problem {
        Problem::MethodNotAllowed(methods) => Some(methods),
        // Which of these an app takes is for the app to say.
        Problem::BadRequest(BadRequest::Method) => Some(FORWARDED_METHODS),
        Problem::BadRequest(_)
        | Problem::BrokenForm
        | Problem::TooLong
        | Problem::TooSlow
        | Problem::CrossSite
        | Problem::NoRoute
        | Problem::Misdirected
        | Problem::SessionEnded
        | Problem::StoreAway
        | Problem::Crowded(_)
        | Problem::Busy
        | Problem::Upstream(_) => None,
    }
}

/// 401 instead of a redirect: a program that followed it would read the form as its data.
fn unauthenticated(reason: &str, error: &str, login: &str) -> Page {
    let body = json!({ "error": error, "reason": reason, "login": login });
    let mut page = json_page(StatusCode::UNAUTHORIZED, &body);
    let challenge = HeaderValue::from_static("Doorward login=\"/.doorward/login\"");
    page.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    page
}

fn error_of(denial: &Denial) -> &'static str {
    match denial {
        Denial::Refused(Refusal::Reauthenticate) => "reauthenticate",
        Denial::NoSession
        | Denial::SeveralCookies
        | Denial::Forged
        | Denial::Unknown
        | Denial::Ended(_)
        | Denial::Refused(_)
        | Denial::Poisoned
        | Denial::Forbidden { .. }
        | Denial::Unavailable(_) => "unauthenticated",
    }
}

pub(super) fn json_page(status: StatusCode, body: &Value) -> Page {
    let mut page = Response::new(Full::from(Bytes::from(body.to_string())));
    *page.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    page.headers_mut().insert(header::CONTENT_TYPE, json);
    guard_headers(page.headers_mut());
    page
}

pub(super) fn see_other(target: &str) -> Page {
    let mut page = Response::new(Full::default());
    *page.status_mut() = StatusCode::SEE_OTHER;
    let location = HeaderValue::from_str(target).unwrap_or_else(|_| HeaderValue::from_static("/"));
    page.headers_mut().insert(header::LOCATION, location);
    guard_headers(page.headers_mut());
    page
}

fn guard_headers(headers: &mut http::HeaderMap) {
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}
