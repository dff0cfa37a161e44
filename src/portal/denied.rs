//! Responses to denied requests and errors: pages for browsers, JSON for scripts.

use http::StatusCode;
use http::header::{self, HeaderValue};
use serde_json::{Value, json};

use crate::auth::DenyReason;
use crate::message::{InboundHead, Intent, Requester, intent};
use crate::session::{Refusal, TokenRefusal};

use super::forms::{self, LOGIN, LoginState, RETURN_URL, SECOND_FACTORS};
use super::pages::{self, ErrorKind, ErrorPage, FramedPage};
use super::responses::{Page, html_page, json_page, see_other};
use super::{Portal, Problem};

impl Portal {
    /// Builds the response for a denied request. It never deletes the cookie: a request that lost a
    /// race would log out the one that won it.
    pub fn deny(&self, head: &InboundHead, denial: &DenyReason) -> Page {
        match denial {
            DenyReason::Unavailable(_) => self.unavailable(&head.requester),
            DenyReason::ProviderUnavailable => {
                self.problem(&head.requester, Problem::ProviderUnavailable)
            }
            DenyReason::Forbidden { user } => self.forbidden(&head.requester, user),
            DenyReason::Token(refusal) => self.token_refused(&head.requester, *refusal),
            DenyReason::NoSession
            | DenyReason::DuplicateCookie
            | DenyReason::Forged
            | DenyReason::UnknownSession
            | DenyReason::Ended(_)
            | DenyReason::Refused(_)
            | DenyReason::SecondFactor
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
        if problem == Problem::SessionEnded {
            return unauthenticated("session-ended", "unauthenticated", LOGIN);
        }
        let (status, code, kind) = problem.response();
        let body = json!({ "error": code, "reason": problem.reason() });
        let mut page = self.error_response(requester, status, &kind, body);
        let headers = page.headers_mut();
        if let Some(methods) = problem.allow_header() {
            headers.insert(header::ALLOW, HeaderValue::from_static(methods));
        }
        if matches!(problem, Problem::StoreUnavailable | Problem::ProviderUnavailable) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
        }
        page
    }

    /// Builds a page that frames of this origin may show. It must not have a form. Its stylesheet is
    /// inline, because it may belong to a host that has no other page.
    fn framable_page(&self, status: StatusCode, html: String) -> Page {
        let mut page = html_page(status, html);
        let headers = page.headers_mut();
        headers.insert(header::CONTENT_SECURITY_POLICY, self.styles.inline_policy.clone());
        headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("SAMEORIGIN"));
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

    /// Returns the URL of the login form, or of the page with the second factors, with the sealed state.
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
        let page = if *denial == DenyReason::SecondFactor { SECOND_FACTORS } else { LOGIN };
        match state.seal(&shared.keys.load(), &host, shared.clock.now()) {
            Some(sealed) => format!("{page}?{RETURN_URL}={sealed}"),
            None => page.to_owned(),
        }
    }

    /// Builds the 503 response for a store outage.
    pub fn unavailable(&self, requester: &Requester) -> Page {
        self.problem(requester, Problem::StoreUnavailable)
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
        | DenyReason::SecondFactor
        | DenyReason::Undecryptable
        | DenyReason::Token(_)
        | DenyReason::Forbidden { .. }
        | DenyReason::ProviderUnavailable
        | DenyReason::Unavailable(_) => denial.as_str(),
    }
}

fn error_code(denial: &DenyReason) -> &'static str {
    match denial {
        DenyReason::Refused(Refusal::Reauthenticate) => "reauthenticate",
        DenyReason::SecondFactor => "second-factor",
        DenyReason::NoSession
        | DenyReason::DuplicateCookie
        | DenyReason::Forged
        | DenyReason::UnknownSession
        | DenyReason::Ended(_)
        | DenyReason::Refused(_)
        | DenyReason::Undecryptable
        | DenyReason::Token(_)
        | DenyReason::Forbidden { .. }
        | DenyReason::ProviderUnavailable
        | DenyReason::Unavailable(_) => "unauthenticated",
    }
}
