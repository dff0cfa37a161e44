//! Login and logout.

use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use http::StatusCode;
use http::header::{self, HeaderValue};
use serde_json::json;

use crate::auth::{AuthenticatedSession, DenyReason};
use crate::identity::{LoginOutcome, VerifiedLogin};
use crate::message::{CookieLookup, InboundHead, Intent, cookies, intent, response_headers};
use crate::secret::random_bytes;
use crate::session::{EndReason, SessionKey};
use crate::sessions::{RecoverableSession, SessionInfo};
use crate::telemetry::SessionEvent;
use crate::telemetry::events::EventContext;

use super::forms::{self, CSRF, FormFields, RETURN_URL};
use super::pages::{self, LoginNotice, LoginPage};
use super::responses::{json_page, see_other};
use super::{Page, Portal, Problem};

/// Purpose of the login form's CSRF token.
const PURPOSE: &str = "login form";

impl Portal {
    /// Shows the login form, with the reason for it.
    pub(super) fn show_login(&self, head: &InboundHead) -> Page {
        // A login would fail after the user has typed the password.
        if self.auth.shared().outage.prevents_login() {
            return self.problem(&head.requester, Problem::StoreUnavailable);
        }
        let query = FormFields::parse(head.target.query().unwrap_or_default().to_owned().into());
        let notice = login_notice(query.text("why"));
        self.login_page(head, StatusCode::OK, notice, query.text(RETURN_URL), "")
    }

    fn login_page(
        &self,
        head: &InboundHead,
        status: StatusCode,
        notice: Option<LoginNotice>,
        target: &str,
        username: &str,
    ) -> Page {
        let shared = self.auth.shared();
        let (nonce, fresh) = self.nonce(head);
        let csrf =
            forms::csrf_token(&shared.keys.load(), PURPOSE, nonce.as_bytes(), shared.clock.now());
        let html = pages::login(&LoginPage {
            site: &self.branding.name,
            host: head.host.name(),
            notice,
            action: "/.doorward/login",
            csrf: &csrf,
            target,
            username,
        });
        let mut page = self.page(status, html);
        if fresh && let Some(cookie) = shared.cookies.set_login(&nonce) {
            page.headers_mut().append(header::SET_COOKIE, cookie);
        }
        page
    }

    /// Returns the nonce that binds the form to this browser, and whether it is new.
    fn nonce(&self, head: &InboundHead) -> (String, bool) {
        if let CookieLookup::One(value) =
            cookies::find(&head.headers, &self.auth.shared().cookies.login)
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
        if fresh
            || !forms::verify_csrf_token(&shared.keys.load(), PURPOSE, nonce.as_bytes(), token, now)
        {
            return self.show_login_error(
                head,
                &fields,
                StatusCode::BAD_REQUEST,
                LoginNotice::Stale,
            );
        }
        let Some(login) = &self.login else {
            return self.problem(&head.requester, Problem::NoRoute);
        };
        let password = fields.one("password").cloned().unwrap_or_default();
        match login.verify(fields.text("username"), password, head.client).await {
            LoginOutcome::Accept(account) => {
                self.complete_login(head, &fields, &account.as_ref().into()).await
            }
            LoginOutcome::Refuse => {
                self.login_event(SessionEvent::LoginFailed, head, &fields);
                self.show_login_error(
                    head,
                    &fields,
                    StatusCode::UNAUTHORIZED,
                    LoginNotice::WrongPassword,
                )
            }
            LoginOutcome::Throttle { retry_after } => {
                self.login_event(SessionEvent::LoginThrottled, head, &fields);
                let seconds = whole_seconds(retry_after);
                let notice = LoginNotice::Throttled { seconds };
                let page =
                    self.show_login_error(head, &fields, StatusCode::TOO_MANY_REQUESTS, notice);
                with_retry_after(page, seconds)
            }
            LoginOutcome::Busy { retry_after } => {
                let page = self.show_login_error(
                    head,
                    &fields,
                    StatusCode::SERVICE_UNAVAILABLE,
                    LoginNotice::Busy,
                );
                with_retry_after(page, whole_seconds(retry_after))
            }
        }
    }

    async fn complete_login(
        &self,
        head: &InboundHead,
        fields: &FormFields,
        login: &VerifiedLogin,
    ) -> Page {
        let shared = self.auth.shared();
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
            see_other(&self.sessions_page(head, fields))
        } else {
            let target = self.return_url(head, fields.text(RETURN_URL));
            see_other(target.as_deref().unwrap_or("/"))
        };
        if let Some(cookie) = shared.cookies.set_session(&created.token) {
            page.headers_mut().append(header::SET_COOKIE, cookie);
        }
        page
    }

    /// Opens a sealed return URL; `None` if the gateway did not seal it.
    pub(super) fn return_url(&self, head: &InboundHead, sealed: &str) -> Option<String> {
        let shared = self.auth.shared();
        let host = head.host.to_string();
        forms::open_return_url(&shared.keys.load(), &host, sealed, shared.clock.now())
    }

    /// Shows the form again, or returns JSON to scripts. Old browsers send no `Sec-Fetch-Mode`, so
    /// an `Accept` header with HTML counts as a navigation.
    fn show_login_error(
        &self,
        head: &InboundHead,
        fields: &FormFields,
        status: StatusCode,
        notice: LoginNotice,
    ) -> Page {
        if head.requester.intent == Intent::Fetch && !intent::accepts_html(&head.headers) {
            return json_page(status, &json!({ "error": "login", "reason": notice.as_str() }));
        }
        self.login_page(
            head,
            status,
            Some(notice),
            fields.text(RETURN_URL),
            fields.text("username"),
        )
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
            Err(_) => match self.auth.sessions().find_recoverable(&self.session_cookie(head)).await
            {
                Ok(Some(session)) => self.logout_form(&session.info.key, session.user()),
                Ok(None) => self.page(StatusCode::OK, pages::logged_out(&self.branding.name)),
                Err(error) => self.deny(head, &DenyReason::Unavailable(error)),
            },
        }
    }

    fn logout_form(&self, key: &SessionKey, user: &str) -> Page {
        let csrf = self.session_csrf(key);
        self.page(StatusCode::OK, pages::logout(&self.branding.name, user, &csrf))
    }

    /// Ends the session in the store, then deletes the cookie. A token that is refused for now can
    /// still name a live session, which ends too.
    pub(super) async fn logout(&self, head: &InboundHead, fields: FormFields) -> Page {
        let session = match self.authenticate_for_logout(head).await {
            Ok(session) => Ok(Some(session_info(session))),
            Err(DenyReason::Unavailable(error)) => self
                .auth
                .sessions()
                .cached_session(&self.session_cookie(head))
                .map(Some)
                .ok_or(error),
            Err(_) => self
                .auth
                .sessions()
                .find_recoverable(&self.session_cookie(head))
                .await
                .map(RecoverableSession::into_info),
        };
        match session {
            Ok(Some(session)) if self.verify_session_csrf(&session.key, &fields) => {
                self.end_this(head, &session).await
            }
            Ok(Some(_)) => self.problem(&head.requester, Problem::CrossSite),
            Ok(None) => self.logout_response(),
            Err(error) => self.deny(head, &DenyReason::Unavailable(error)),
        }
    }

    async fn end_this(&self, head: &InboundHead, session: &SessionInfo) -> Page {
        match self.auth.sessions().revoker.end_session(session, EndReason::Logout).await {
            Ok(_) => self.logout_response(),
            Err(error) => self.deny(head, &DenyReason::Unavailable(error)),
        }
    }

    /// Deletes the session cookie. Sent only after the session has ended on the server.
    pub(super) fn logout_response(&self) -> Page {
        let mut page = self.page(StatusCode::OK, pages::logged_out(&self.branding.name));
        response_headers::set_logout_headers(page.headers_mut(), &self.auth.shared().cookies);
        page
    }
}

fn session_info(session: AuthenticatedSession) -> SessionInfo {
    let last_active = session.record.last_active;
    SessionInfo { key: session.key, record: session.record, last_active }
}

/// Maps the `why` parameter to one of the fixed messages; other values show none.
fn login_notice(why: &str) -> Option<LoginNotice> {
    match why {
        "idle" => Some(LoginNotice::Idle),
        "absolute" => Some(LoginNotice::Absolute),
        "theft" => Some(LoginNotice::Theft),
        "theft-elsewhere" => Some(LoginNotice::TheftElsewhere),
        "reauthenticate" => Some(LoginNotice::Reauthenticate),
        "logout" => Some(LoginNotice::LoggedOut),
        "revoked" | "replaced" | "not-rotating" | "account-gone" | "credential-changed"
        | "after-crash" | "generation-ahead" | "unknown-session" => Some(LoginNotice::SessionEnded),
        _ => None,
    }
}

fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

fn with_retry_after(mut page: Page, seconds: u64) -> Page {
    page.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    page
}
