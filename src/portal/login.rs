//! Login and logout.

use data_encoding::BASE64URL_NOPAD;
use http::StatusCode;
use http::header;
use serde_json::json;

use crate::auth::{AuthenticatedSession, DenyReason};
use crate::identity::VerifiedLogin;
use crate::message::{CookieLookup, InboundHead, Intent, cookies, intent, response_headers};
use crate::secret::{random_bytes, sha256};
use crate::session::{EndReason, SessionKey, Token};
use crate::sessions::{EndCause, RecoverableSession, SessionInfo};
use crate::telemetry::SessionEvent;
use crate::telemetry::events::EventContext;

use super::form_login::LoginDenial;
use super::forms::{self, CSRF, FormFields, LoginState, RETURN_URL};
use super::pages::{self, ConfirmLogoutPage, LoggedOutPage, LoginNotice, LoginPage};
use super::responses::{Page, html_page, json_page, see_other, with_retry_after};
use super::{Portal, Problem};

/// Purpose of the login form's CSRF token.
const PURPOSE: &str = "login form";

impl Portal {
    /// Shows the login form, with the reason for it. A logged-in user goes on to their page.
    pub(super) async fn show_login(&self, head: &InboundHead) -> Page {
        // A login would fail after the user has typed the password.
        if self.auth.shared().outage.prevents_login() {
            return self.problem(&head.requester, Problem::StoreUnavailable);
        }
        let query = FormFields::parse(head.target.query().unwrap_or_default().to_owned().into());
        let sealed = query.text(RETURN_URL);
        let state = self.login_state(head, sealed);
        let user = self.logged_in_user(head, &state).await;
        match &state.target {
            Some(target) if user.is_some() && !state.is_unsaved => see_other(target),
            _ => match self.only_provider(head, &state).filter(|_| user.is_none()) {
                Some(provider) => self.start_login(head, provider, sealed).await,
                None => {
                    let notice = login_notice(&state.reason);
                    self.login_page(head, StatusCode::OK, notice, sealed, "", user)
                }
            },
        }
    }

    /// Returns the user of the live session of this browser. A session that was refused is not enough:
    /// its page would send the user back here.
    async fn logged_in_user(&self, head: &InboundHead, state: &LoginState) -> Option<String> {
        let presented = self.presented_session(head)?;
        if presented == state.refused {
            return None;
        }
        let session = self.authenticate_for_logout(head).await.ok()?;
        Some(session.record.identity.user.clone())
    }

    /// Returns the hash of the ID of the session that the browser presents, live or not.
    pub(super) fn presented_session(&self, head: &InboundHead) -> Option<[u8; 8]> {
        let CookieLookup::One(value) = self.session_cookie(head) else { return None };
        let token = Token::parse(&self.auth.shared().keys.load(), &value).ok()?;
        sha256(&token.key.id.0).first_chunk().copied()
    }

    /// Opens the state of a login; empty if the gateway did not seal it.
    pub(super) fn login_state(&self, head: &InboundHead, sealed: &str) -> LoginState {
        let (shared, host) = (self.auth.shared(), head.host.to_string());
        let state = LoginState::open(&shared.keys.load(), &host, sealed, shared.clock.now());
        state.unwrap_or_default()
    }

    fn login_page(
        &self,
        head: &InboundHead,
        status: StatusCode,
        notice: Option<LoginNotice>,
        sealed: &str,
        username: &str,
        user: Option<String>,
    ) -> Page {
        let shared = self.auth.shared();
        let (nonce, fresh) = self.nonce(head);
        let csrf =
            forms::csrf_token(&shared.keys.load(), PURPOSE, nonce.as_bytes(), shared.clock.now());
        let state = self.login_state(head, sealed);
        let html = pages::render(&LoginPage {
            site: &self.branding.name,
            host: head.host.name(),
            notice,
            user: user.as_deref(),
            continue_at: state.target.as_deref().unwrap_or("/"),
            is_unsaved: state.is_unsaved,
            is_too_long: state.is_too_long,
            csrf: &csrf,
            target: sealed,
            username,
            providers: self.provider_buttons(head, &state, sealed),
            has_password: self.offers_password(head, &state),
            help: self.branding.help.as_ref(),
        });
        self.with_login_cookie(html_page(status, html), &nonce, fresh)
    }

    /// Adds the cookie that binds logins to this browser, if the browser does not have it.
    pub(super) fn with_login_cookie(&self, mut page: Page, nonce: &str, fresh: bool) -> Page {
        if fresh && let Some(cookie) = self.auth.settings().cookies.set_login(nonce) {
            page.headers_mut().append(header::SET_COOKIE, cookie);
        }
        page
    }

    /// Returns the nonce that binds the form to this browser, and whether it is new.
    pub(super) fn nonce(&self, head: &InboundHead) -> (String, bool) {
        if let CookieLookup::One(value) =
            cookies::find(&head.headers, &self.auth.settings().cookies.login)
            && BASE64URL_NOPAD.decode(&value).is_ok_and(|bytes| bytes.len() == 16)
            && let Ok(text) = String::from_utf8(value)
        {
            return (text, false);
        }
        (BASE64URL_NOPAD.encode(&random_bytes::<16>()), true)
    }

    /// Handles a login attempt. Unknown users get the same response after the same work as known
    /// ones.
    pub(super) async fn try_login(&self, head: &InboundHead, fields: FormFields) -> Page {
        let shared = self.auth.shared();
        let (nonce, fresh) = self.nonce(head);
        let now = shared.clock.now();
        let token = fields.text(CSRF);
        let is_valid =
            forms::verify_csrf_token(&shared.keys.load(), PURPOSE, nonce.as_bytes(), token, now);
        if fresh || !is_valid {
            // The page set the cookie, so a form without it comes from a browser that blocks cookies.
            let notice = match fresh && !token.is_empty() {
                true => LoginNotice::NoCookies,
                false => LoginNotice::Stale,
            };
            return self.show_login_error(head, &fields, StatusCode::BAD_REQUEST, notice);
        }
        if !self.has_form_login() {
            return self.problem(&head.requester, Problem::NoRoute);
        }
        let password = fields.one("password").cloned().unwrap_or_default();
        match self.verify_form(head, fields.text("username"), password).await {
            Ok(login) => self.after_password(head, fields.text(RETURN_URL), login).await,
            Err(denial) => self.deny_login(head, &fields, denial),
        }
    }

    fn deny_login(&self, head: &InboundHead, fields: &FormFields, denial: LoginDenial) -> Page {
        if let Some(event) = denial.event() {
            self.login_event(event, head, fields);
        }
        let (status, notice, retry_after) = denial.response();
        let page = self.show_login_error(head, fields, status, notice);
        match retry_after {
            Some(wait) => with_retry_after(page, wait),
            None => page,
        }
    }

    /// Creates the session and redirects to the return URL of the sealed state.
    pub(super) async fn complete_login(
        &self,
        head: &InboundHead,
        sealed: &str,
        login: &VerifiedLogin,
    ) -> Page {
        let created = self
            .auth
            .sessions()
            .create_session(login, &self.session_cookie(head), head.client_context())
            .await;
        let created = match created {
            Ok(created) => created,
            Err(error) => return self.deny(head, &DenyReason::Unavailable(error)),
        };
        let is_person =
            head.requester.intent == Intent::Navigation || intent::accepts_html(&head.headers);
        let mut page = if created.has_notices && is_person {
            see_other(&self.sessions_page(head, sealed, ""))
        } else {
            let target = self.return_url(head, sealed);
            see_other(target.as_deref().unwrap_or("/"))
        };
        let cookies = &self.auth.settings().cookies;
        let cookie = cookies.set_session(&created.token, created.left);
        for line in cookies.clear_others(head.host.name()).into_iter().chain(cookie) {
            page.headers_mut().append(header::SET_COOKIE, line);
        }
        page
    }

    /// Opens a sealed return URL; `None` if the gateway did not seal it.
    pub(super) fn return_url(&self, head: &InboundHead, sealed: &str) -> Option<String> {
        self.login_state(head, sealed).target
    }

    /// Shows the form again, or returns JSON to scripts.
    fn show_login_error(
        &self,
        head: &InboundHead,
        fields: &FormFields,
        status: StatusCode,
        notice: LoginNotice,
    ) -> Page {
        if forms::is_script(head) {
            return json_page(status, &json!({ "error": "login", "reason": notice.as_str() }));
        }
        let (sealed, username) = (fields.text(RETURN_URL), fields.text("username"));
        self.login_page(head, status, Some(notice), sealed, username, None)
    }

    /// Logs the user name only if the account exists, because people type passwords into the wrong
    /// field.
    fn login_event(&self, event: SessionEvent, head: &InboundHead, fields: &FormFields) {
        let shared = self.auth.shared();
        let name = fields.text("username");
        let user = shared.login_methods.user(name).unwrap_or_default();
        let from = head.client_context();
        let client = Some(head.client);
        shared.emit(
            event,
            EventContext {
                user: &user,
                client,
                agent: &from.user_agent,
                ..EventContext::default()
            },
        );
    }

    /// Shows the logout confirmation. A GET must not log anyone out, because any site can link to
    /// it.
    pub(super) async fn confirm_logout(&self, head: &InboundHead) -> Page {
        match self.authenticate_for_logout(head).await {
            Ok(session) => self.logout_form(&session.key, &session.record.identity.user),
            Err(DenyReason::Unavailable(error)) => self.deny(head, &DenyReason::Unavailable(error)),
            Err(_) => self.confirm_recoverable_logout(head).await,
        }
    }

    async fn confirm_recoverable_logout(&self, head: &InboundHead) -> Page {
        match self.auth.sessions().find_recoverable(&self.session_cookie(head)).await {
            Ok(sessions) => match sessions.first() {
                Some(session) => self.logout_form(&session.info.key, session.user()),
                None => self.logged_out_page(),
            },
            Err(error) => self.deny(head, &DenyReason::Unavailable(error)),
        }
    }

    fn logout_form(&self, key: &SessionKey, user: &str) -> Page {
        let csrf = self.session_csrf(key);
        let page = ConfirmLogoutPage { site: &self.branding.name, user, csrf: &csrf };
        html_page(StatusCode::OK, pages::render(&page))
    }

    fn logged_out_page(&self) -> Page {
        let page = LoggedOutPage { site: &self.branding.name, provider: None };
        html_page(StatusCode::OK, pages::render(&page))
    }

    /// Ends the session in the store, then deletes the cookie. A token that is refused for now can
    /// still name a live session, which ends too; so do all sessions of several cookies.
    pub(super) async fn logout(&self, head: &InboundHead, fields: FormFields) -> Page {
        let sessions = match self.authenticate_for_logout(head).await {
            Ok(session) => Ok(vec![session_info(session)]),
            Err(DenyReason::Unavailable(error)) => self
                .auth
                .sessions()
                .cached_session(&self.session_cookie(head))
                .map(|session| vec![session])
                .ok_or(error),
            Err(_) => self
                .auth
                .sessions()
                .find_recoverable(&self.session_cookie(head))
                .await
                .map(RecoverableSession::into_infos),
        };
        let is_confirmed = |session: &SessionInfo| self.verify_session_csrf(&session.key, &fields);
        match sessions {
            Ok(sessions) if sessions.is_empty() => self.logout_response(head),
            Ok(sessions) if sessions.iter().any(is_confirmed) => {
                self.end_all(head, &sessions).await
            }
            Ok(_) => self.problem(&head.requester, Problem::CrossSite),
            Err(error) => self.deny(head, &DenyReason::Unavailable(error)),
        }
    }

    async fn end_all(&self, head: &InboundHead, sessions: &[SessionInfo]) -> Page {
        for session in sessions {
            let client = head.client_context();
            let cause = EndCause::user(EndReason::Logout, session.key.id, client);
            let ended = self.auth.sessions().revoker.end_session(session, cause).await;
            if let Err(error) = ended {
                return self.deny(head, &DenyReason::Unavailable(error));
            }
        }
        self.after_logout(head, sessions).await
    }

    /// Deletes the session cookie. Sent only after the session has ended on the server.
    pub(super) fn logout_response(&self, head: &InboundHead) -> Page {
        let mut page = self.logged_out_page();
        let (cookies, host) = (&self.auth.settings().cookies, head.host.name());
        response_headers::set_logout_headers(page.headers_mut(), cookies, host);
        page
    }
}

pub(super) fn session_info(session: AuthenticatedSession) -> SessionInfo {
    let last_active = session.record.last_active;
    SessionInfo { key: session.key, record: session.record, last_active }
}

/// Maps a reason to one of the fixed messages; other values show none.
fn login_notice(reason: &str) -> Option<LoginNotice> {
    match reason {
        "idle" => Some(LoginNotice::Idle),
        "absolute" => Some(LoginNotice::Absolute),
        "theft" => Some(LoginNotice::Theft),
        "theft-elsewhere" => Some(LoginNotice::TheftElsewhere),
        "reauthenticate" => Some(LoginNotice::Reauthenticate),
        "logout" | "logout-by-app" | "logout-by-provider" => Some(LoginNotice::LoggedOut),
        "password-changed" => Some(LoginNotice::PasswordChanged),
        "duplicate-cookie" => Some(LoginNotice::SeveralCookies),
        "invalid-token" => Some(LoginNotice::ForeignCookie),
        "revoked" | "replaced" | "not-rotating" | "account-gone" | "account-disabled"
        | "credential-changed" | "ended-by-operator" | "ended-by-user" | "logout-everywhere"
        | "session-limit" | "provider-ended" | "after-crash" | "generation-ahead"
        | "unknown-session" => Some(LoginNotice::SessionEnded),
        _ => None,
    }
}
