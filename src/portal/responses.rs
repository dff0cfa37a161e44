//! Responses for browsers (HTML) and for scripts (JSON).

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::auth::DenyReason;
use crate::message::{BadRequest, InboundHead, Intent, Requester, intent};
use crate::session::{Refusal, TokenRefusal};

use super::forms::{self, LOGIN, LoginState, RETURN_URL};
use super::pages::{self, ErrorKind, ErrorPage, FramedPage};
use super::{Page, Portal};

/// Reason for an error response, other than a denied session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    BadRequest(BadRequest),
    MalformedForm,
    BodyTooLarge,
    BodyTimeout,
    CrossSite,
    NoRoute,
    /// The connection is not authoritative for the host (421).
    Misdirected,
    /// Holds the allowed methods.
    MethodNotAllowed(&'static str),
    /// The session ended during the request.
    SessionEnded,
    /// The store was unavailable for longer than the session may go unchecked.
    StoreUnavailable,
    /// A connection limit is reached; holds the status.
    TooManyConnections(StatusCode),
    /// The gateway is overloaded.
    Overloaded,
    /// The upstream sent no usable response; holds the status.
    Upstream(StatusCode),
}

const FORWARDED_METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// Forbids external resources, inline code and framing.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// As above, with our own script files, which request our own JSON.
const SCRIPTED_POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self'; script-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

impl Portal {
    /// Builds the response for a denied request. It never deletes the cookie: a request that lost a
    /// race would log out the one that won it.
    pub fn deny(&self, head: &InboundHead, denial: &DenyReason) -> Page {
        match denial {
            DenyReason::Unavailable(_) => self.unavailable(&head.requester),
            DenyReason::Forbidden { user } => self.forbidden(&head.requester, user),
            DenyReason::Token(refusal) => self.token_refused(&head.requester, *refusal),
            DenyReason::NoSession
            | DenyReason::DuplicateCookie
            | DenyReason::Forged
            | DenyReason::UnknownSession
            | DenyReason::Ended(_)
            | DenyReason::Refused(_)
            | DenyReason::Undecryptable => self.login_required(head, denial),
        }
    }

    /// Builds the response to a program whose token is refused.
    fn token_refused(&self, asker: &Requester, refusal: TokenRefusal) -> Page {
        let wait = if let TokenRefusal::Throttled { wait } = refusal { Some(wait) } else { None };
        let status = match (wait, refusal.is_out_of_scope()) {
            (Some(_), _) => StatusCode::TOO_MANY_REQUESTS,
            (None, true) => StatusCode::FORBIDDEN,
            (None, false) => StatusCode::UNAUTHORIZED,
        };
        let body = json!({ "error": "token", "reason": refusal.as_str() });
        let mut page = self.error_response(asker, status, &ErrorKind::BadRequest, body);
        if let Some(wait) = wait {
            let seconds = HeaderValue::from(wait.as_secs().max(1));
            page.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        if status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Bearer error=\"invalid_token\"");
            page.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        page
    }

    /// Builds an error response.
    pub fn problem(&self, requester: &Requester, problem: Problem) -> Page {
        let (status, word, kind) = match problem {
            Problem::SessionEnded => {
                return unauthenticated("session-ended", "unauthenticated", LOGIN);
            }
            Problem::StoreUnavailable => return self.unavailable(requester),
            Problem::TooManyConnections(status) => {
                (status, "too-many-connections", ErrorKind::TooManyConnections)
            }
            Problem::BadRequest(BadRequest::TooManyHeaders) => {
                let status = BadRequest::TooManyHeaders.status();
                (status, "bad-request", ErrorKind::TooManyHeaders)
            }
            Problem::BadRequest(bad) => (bad.status(), "bad-request", ErrorKind::BadRequest),
            Problem::MalformedForm => (StatusCode::BAD_REQUEST, "bad-form", ErrorKind::BadRequest),
            Problem::BodyTooLarge => {
                (StatusCode::PAYLOAD_TOO_LARGE, "too-long", ErrorKind::BodyTooLarge)
            }
            Problem::BodyTimeout => {
                (StatusCode::REQUEST_TIMEOUT, "too-slow", ErrorKind::BadRequest)
            }
            Problem::CrossSite => (StatusCode::FORBIDDEN, "cross-site", ErrorKind::CrossSite),
            Problem::NoRoute => (StatusCode::NOT_FOUND, "no-route", ErrorKind::NotFound),
            Problem::Misdirected => {
                (StatusCode::MISDIRECTED_REQUEST, "misdirected", ErrorKind::NoSuchSite)
            }
            Problem::MethodNotAllowed(_) => {
                (StatusCode::METHOD_NOT_ALLOWED, "method", ErrorKind::MethodNotAllowed)
            }
            Problem::Overloaded => (StatusCode::SERVICE_UNAVAILABLE, "busy", ErrorKind::Overloaded),
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
            Problem::MalformedForm
            | Problem::BodyTooLarge
            | Problem::BodyTimeout
            | Problem::CrossSite
            | Problem::NoRoute
            | Problem::Misdirected
            | Problem::MethodNotAllowed(_)
            | Problem::SessionEnded
            | Problem::StoreUnavailable
            | Problem::TooManyConnections(_)
            | Problem::Overloaded
            | Problem::Upstream(_) => String::new(),
        };
        let mut page = self.error_response(
            requester,
            status,
            &kind,
            json!({ "error": word, "reason": detail }),
        );
        if let Some(methods) = allow_header(problem) {
            page.headers_mut().insert(header::ALLOW, HeaderValue::from_static(methods));
        }
        page
    }

    /// Builds a page that frames of this origin may show. It must not have a form. Its stylesheet is
    /// inline, because it may belong to a host that has no other page.
    fn framable_page(&self, status: StatusCode, html: String) -> Page {
        let mut page = self.page(status, html);
        let headers = page.headers_mut();
        headers.insert(header::CONTENT_SECURITY_POLICY, self.styles.inline_policy.clone());
        headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("SAMEORIGIN"));
        page
    }

    /// Builds a page with the script that shows local times.
    pub(super) fn scripted_page(&self, html: String) -> Page {
        let mut page = self.page(StatusCode::OK, html);
        let policy = HeaderValue::from_static(SCRIPTED_POLICY);
        page.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
        page
    }

    /// Builds an HTML response with `no-store` and the security headers.
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
        // Isolates the page from windows that opened it, and from embedding by other sites.
        let alone = HeaderValue::from_static("same-origin");
        headers.insert("cross-origin-opener-policy", alone.clone());
        headers.insert("cross-origin-resource-policy", alone);
        set_page_headers(headers);
        page
    }

    fn login_required(&self, head: &InboundHead, denial: &DenyReason) -> Page {
        let login = self.login_for(head, denial);
        match head.requester.intent {
            // The login page refuses frames, so a frame shows a link that leaves it.
            Intent::Navigation if intent::is_framed(&head.headers) => {
                let html = pages::render(&FramedPage {
                    site: &self.branding.name,
                    style: &self.styles.css,
                    login: &login,
                });
                self.framable_page(StatusCode::UNAUTHORIZED, html)
            }
            // 303 makes the browser fetch the form with GET, whatever the first method was (RFC
            // 9700 4.12).
            Intent::Navigation => see_other(&login),
            Intent::Fetch => unauthenticated(denial.as_str(), error_code(denial), &login),
        }
    }

    /// Returns the URL of the login form, with the sealed state.
    fn login_for(&self, head: &InboundHead, denial: &DenyReason) -> String {
        let shared = self.auth.shared();
        let is_form = head.requester.intent == Intent::Navigation && !head.method.is_safe();
        let state = LoginState {
            reason: login_reason(denial).to_owned(),
            refused: self.presented_session(head).unwrap_or_default(),
            is_unsaved: is_form,
            ..LoginState::default()
        };
        let state = state.with_target(forms::return_url(head));
        let host = head.host.to_string();
        match state.seal(&shared.keys.load(), &host, shared.clock.now()) {
            Some(sealed) => format!("{LOGIN}?{RETURN_URL}={sealed}"),
            None => LOGIN.to_owned(),
        }
    }

    /// Builds the 503 response for a store outage.
    pub fn unavailable(&self, requester: &Requester) -> Page {
        let body = json!({ "error": "unavailable", "reason": "store-unavailable" });
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let mut page = self.error_response(requester, status, &ErrorKind::StoreUnavailable, body);
        page.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
        page
    }

    fn forbidden(&self, requester: &Requester, user: &str) -> Page {
        let body = json!({ "error": "forbidden", "reason": "not-allowed" });
        let kind = ErrorKind::Forbidden { user: user.to_owned() };
        self.error_response(requester, StatusCode::FORBIDDEN, &kind, body)
    }

    /// Builds an error response as HTML or JSON. Both contain the request ID, which users can quote
    /// to the operator.
    fn error_response(
        &self,
        requester: &Requester,
        status: StatusCode,
        kind: &ErrorKind,
        mut body: Value,
    ) -> Page {
        let (site, request) = (self.branding.name.as_str(), requester.request.as_str());
        match requester.intent {
            Intent::Navigation => {
                let (style, help) = (self.styles.css.as_str(), self.branding.help.as_ref());
                let page = ErrorPage { site, style, status, kind, request, help };
                self.framable_page(status, pages::render(&page))
            }
            Intent::Fetch => {
                body["request"] = request.into();
                json_page(status, &body)
            }
        }
    }
}

/// Returns the `Allow` header of a 405 response (RFC 9110 15.5.6).
fn allow_header(problem: Problem) -> Option<&'static str> {
    match problem {
        Problem::MethodNotAllowed(methods) => Some(methods),
        // The upstream decides which of these it accepts.
        Problem::BadRequest(BadRequest::Method) => Some(FORWARDED_METHODS),
        Problem::BadRequest(_)
        | Problem::MalformedForm
        | Problem::BodyTooLarge
        | Problem::BodyTimeout
        | Problem::CrossSite
        | Problem::NoRoute
        | Problem::Misdirected
        | Problem::SessionEnded
        | Problem::StoreUnavailable
        | Problem::TooManyConnections(_)
        | Problem::Overloaded
        | Problem::Upstream(_) => None,
    }
}

/// Builds a 401 response for scripts. With a redirect they would read the login form as data.
fn unauthenticated(reason: &str, error: &str, login: &str) -> Page {
    let body = json!({ "error": error, "reason": reason, "login": login });
    let mut page = json_page(StatusCode::UNAUTHORIZED, &body);
    let challenge = HeaderValue::from_static("Doorward login=\"/.doorward/login\"");
    page.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    page
}

/// Returns the code of the reason that the login page explains; empty for a first visit.
fn login_reason(denial: &DenyReason) -> &'static str {
    match denial {
        DenyReason::NoSession => "",
        DenyReason::DuplicateCookie
        | DenyReason::Forged
        | DenyReason::UnknownSession
        | DenyReason::Ended(_)
        | DenyReason::Refused(_)
        | DenyReason::Undecryptable
        | DenyReason::Token(_)
        | DenyReason::Forbidden { .. }
        | DenyReason::Unavailable(_) => denial.as_str(),
    }
}

fn error_code(denial: &DenyReason) -> &'static str {
    match denial {
        DenyReason::Refused(Refusal::Reauthenticate) => "reauthenticate",
        DenyReason::NoSession
        | DenyReason::DuplicateCookie
        | DenyReason::Forged
        | DenyReason::UnknownSession
        | DenyReason::Ended(_)
        | DenyReason::Refused(_)
        | DenyReason::Undecryptable
        | DenyReason::Token(_)
        | DenyReason::Forbidden { .. }
        | DenyReason::Unavailable(_) => "unauthenticated",
    }
}

pub(super) fn json_page(status: StatusCode, body: &Value) -> Page {
    let mut page = Response::new(Full::from(Bytes::from(body.to_string())));
    *page.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    page.headers_mut().insert(header::CONTENT_TYPE, json);
    set_page_headers(page.headers_mut());
    page
}

pub(super) fn see_other(target: &str) -> Page {
    let mut page = Response::new(Full::default());
    *page.status_mut() = StatusCode::SEE_OTHER;
    let location = HeaderValue::from_str(target).unwrap_or_else(|_| HeaderValue::from_static("/"));
    page.headers_mut().insert(header::LOCATION, location);
    set_page_headers(page.headers_mut());
    page
}

fn set_page_headers(headers: &mut http::HeaderMap) {
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}
