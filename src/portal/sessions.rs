//! The page that lists a user's sessions and ends them.

use data_encoding::HEXLOWER;
use http::StatusCode;
use http::header::{self, HeaderValue};
use serde_json::json;

use crate::auth::{AuthenticatedSession, DenyReason};
use crate::message::InboundHead;
use crate::risk::describe_user_agent;
use crate::session::context::network_display;
use crate::session::notice::{ClientSummary, NoticeId, SecurityNotice};
use crate::session::{ClientContext, EndReason, SessionKey};
use crate::sessions::{EndCause, SessionInfo, UserRef};

use super::forms::{self, CSRF, FormFields, LoginState, RETURN_URL};
use super::login::session_info;
use super::pages::{
    self, ClientRow, EverywherePage, NoticeRow, ReturnLink, SessionRow, SessionsPage,
};
use super::responses::{Page, html_page, json_page, scripted_page, see_other};
use super::{Portal, Problem, with_token};

const PURPOSE: &str = "session form";
const SESSIONS: &str = "/.doorward/sessions";

/// Action of a button on the sessions page.
enum SessionAction<'a> {
    One(&'a str),
    Others,
    All,
    /// Dismisses a notice.
    Dismiss(NoticeId),
}

impl SessionAction<'_> {
    /// Code of the action in the state of the next page.
    fn code(&self) -> &'static str {
        match self {
            SessionAction::One(_) => "ended-one",
            SessionAction::Others => "ended-others",
            SessionAction::All => "ended-all",
            SessionAction::Dismiss(_) => "dismissed",
        }
    }
}

/// Returns the message about an action.
fn done_text(code: &str) -> Option<&'static str> {
    match code {
        "ended-one" => Some("The session has ended."),
        "ended-others" => Some("All other sessions have ended."),
        "dismissed" => Some("The notice is marked as read."),
        _ => None,
    }
}

impl Portal {
    /// Shows the list.
    pub(super) async fn show_sessions(&self, head: &InboundHead) -> Page {
        let session = match self.authenticate(head, true).await {
            Ok(session) => session,
            Err(denial) => return self.deny(head, &denial),
        };
        match self.auth.sessions().list_user_sessions(&session.key.tag).await {
            Ok(sessions) => self.list(head, &session, &sessions).await,
            Err(error) => self.deny(head, &DenyReason::Unavailable(error)),
        }
    }

    async fn list(
        &self,
        head: &InboundHead,
        session: &AuthenticatedSession,
        sessions: &[SessionInfo],
    ) -> Page {
        let user = &session.record.identity.user;
        let notices = self.auth.sessions().histories.list_notices(&session.key, user).await;
        let query = FormFields::parse(head.target.query().unwrap_or_default().to_owned().into());
        let sealed = query.one(RETURN_URL).map(|sealed| sealed.as_str());
        let state = self.login_state(head, sealed.unwrap_or_default());
        let html = pages::render(&SessionsPage {
            site: &self.branding.name,
            user,
            done: done_text(&state.reason),
            changes_password: self.changeable(session).is_some(),
            has_tokens: self.has_tokens(session),
            has_second_factor: self.has_second_factor_page(session),
            csrf: &self.session_csrf(&session.key),
            now: self.auth.shared().clock.now(),
            notices: notices.iter().map(|notice| notice_row(notice, session)).collect(),
            return_link: sealed.and_then(|sealed| self.return_link(head, sealed)),
            sessions: sessions.iter().map(|listed| session_row(listed, session)).collect(),
        });
        self.with_session_token(scripted_page(StatusCode::OK, html), session)
    }

    fn return_link<'a>(&self, head: &InboundHead, sealed: &'a str) -> Option<ReturnLink<'a>> {
        self.return_url(head, sealed).map(|href| ReturnLink { sealed, href })
    }

    /// Returns the URL of this page with the return URL and what was done, for a message.
    pub(super) fn sessions_page(&self, head: &InboundHead, sealed: &str, done: &str) -> String {
        let target = self.return_url(head, sealed);
        let state = LoginState { reason: done.to_owned(), target, ..LoginState::default() };
        let (shared, host) = (self.auth.shared(), head.host.to_string());
        match state.seal(&shared.keys.load(), &host, shared.clock.now()) {
            Some(sealed) => format!("{SESSIONS}?{RETURN_URL}={sealed}"),
            None => SESSIONS.to_owned(),
        }
    }

    /// Handles a form of this page.
    pub(super) async fn change_sessions(&self, head: &InboundHead, fields: FormFields) -> Page {
        let session = match self.authenticate(head, true).await {
            Ok(session) => session,
            Err(denial) => return self.deny(head, &denial),
        };
        if !self.verify_session_csrf(&session.key, &fields) {
            return self.problem(&head.requester, Problem::CrossSite);
        }
        if fields.text("do") == "confirm-all" {
            let html = pages::render(&EverywherePage {
                site: &self.branding.name,
                csrf: &self.session_csrf(&session.key),
            });
            return self.with_session_token(html_page(StatusCode::OK, html), &session);
        }
        let Some(action) = parse_action(&fields) else {
            return self.problem(&head.requester, Problem::MalformedForm);
        };
        let done = action.code();
        match self.apply(&session, action, head.client_context()).await {
            Ok(true) => {
                let page = self.sessions_page(head, fields.text(RETURN_URL), done);
                self.with_session_token(see_other(&page), &session)
            }
            Ok(false) => self.after_logout(head, &[session_info(session)]).await,
            Err(denial) => self.deny(head, &denial),
        }
    }

    /// Applies the action. Returns false if the user's own session ended too.
    async fn apply(
        &self,
        session: &AuthenticatedSession,
        action: SessionAction<'_>,
        client: ClientContext,
    ) -> Result<bool, DenyReason> {
        let cause = |reason| EndCause::user(reason, session.key.id, client);
        let user = &session.record.identity.user;
        let current = session.key;
        let account = UserRef::of(&current, user);
        match action {
            SessionAction::One(handle) => {
                let sessions = self
                    .auth
                    .sessions()
                    .list_user_sessions(&current.tag)
                    .await
                    .map_err(DenyReason::Unavailable)?;
                let found = sessions.iter().find(|session| session.key.id.handle() == handle);
                let Some(session) = found else { return Ok(true) };
                let cause = cause(EndReason::EndedByUser);
                let ended = self.auth.sessions().revoker.end_session(session, cause).await;
                ended.map_err(DenyReason::Unavailable)?;
                Ok(session.key != current)
            }
            SessionAction::Others => {
                let ended = self
                    .auth
                    .sessions()
                    .revoker
                    .revoke_user_sessions(
                        account,
                        Some(session.key.id),
                        cause(EndReason::LogoutEverywhere),
                    )
                    .await;
                ended.map(|_| true).map_err(DenyReason::Unavailable)
            }
            SessionAction::All => {
                let cause = cause(EndReason::LogoutEverywhere);
                let revoker = &self.auth.sessions().revoker;
                let ended = revoker.revoke_user_sessions(account, None, cause).await;
                ended.map(|_| false).map_err(DenyReason::Unavailable)
            }
            SessionAction::Dismiss(id) => {
                let dismissed =
                    self.auth.sessions().histories.dismiss_notice(&session.key, user, id).await;
                dismissed.map(|()| true).map_err(DenyReason::Unavailable)
            }
        }
    }

    /// Returns the seconds left as JSON, for upstreams that warn before the end.
    pub(super) async fn session_json(&self, head: &InboundHead) -> Page {
        let session = match self.authenticate(head, false).await {
            Ok(session) => session,
            Err(denial) => return self.deny(head, &denial),
        };
        let left = self.auth.sessions().time_left(&session.key, &session.record, &session.facts);
        let page = json_page(
            StatusCode::OK,
            &json!({
                "user": session.record.identity.user,
                "idle_seconds": left.idle.as_secs(),
                "absolute_seconds": left.absolute.as_secs(),
            }),
        );
        self.with_session_token(page, &session)
    }

    /// Creates a CSRF token bound to a session.
    pub(super) fn session_csrf(&self, key: &SessionKey) -> String {
        let shared = self.auth.shared();
        forms::csrf_token(&shared.keys.load(), PURPOSE, &key.id.0, shared.clock.now())
    }

    pub(super) fn verify_session_csrf(&self, key: &SessionKey, fields: &FormFields) -> bool {
        let shared = self.auth.shared();
        forms::verify_csrf_token(
            &shared.keys.load(),
            PURPOSE,
            &key.id.0,
            fields.text(CSRF),
            shared.clock.now(),
        )
    }

    /// Adds the rotated token and `no-store` to a response.
    pub(super) fn with_session_token(&self, page: Page, session: &AuthenticatedSession) -> Page {
        let mut page = with_token(&self.auth, page, session.token.as_ref());
        page.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        page
    }
}

fn parse_action(fields: &FormFields) -> Option<SessionAction<'_>> {
    match fields.text("do") {
        "end-one" => Some(SessionAction::One(fields.text("session"))),
        "end-others" => Some(SessionAction::Others),
        "end-all" => Some(SessionAction::All),
        "dismiss" => {
            let id = HEXLOWER.decode(fields.text("notice").as_bytes()).ok()?;
            Some(SessionAction::Dismiss(id.try_into().ok()?))
        }
        _ => None,
    }
}

fn notice_row(notice: &SecurityNotice, session: &AuthenticatedSession) -> NoticeRow {
    NoticeRow {
        id: HEXLOWER.encode(&notice.id),
        kind: notice.kind,
        at: notice.at,
        suspect: client_row(&notice.suspect),
        owner: notice.owner.as_ref().map(client_row),
        is_current: notice.is_about(session.key.id),
    }
}

fn client_row(client: &ClientSummary) -> ClientRow {
    ClientRow {
        browser: describe_user_agent(&client.user_agent),
        network: network_display(client.network),
    }
}

fn session_row(listed: &SessionInfo, session: &AuthenticatedSession) -> SessionRow {
    let created_from = &listed.record.created_from;
    SessionRow {
        handle: listed.key.id.handle(),
        created: listed.record.created,
        last_used: listed.last_active,
        browser: describe_user_agent(&created_from.user_agent),
        network: listed.record.rotated_from.network_display(),
        is_current: listed.key == session.key,
    }
}
