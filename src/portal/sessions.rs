//! The user's own sessions: see them, end them.

use http::StatusCode;
use http::header::{self, HeaderValue};
use serde_json::json;

use crate::guard::{Admitted, Denial, Opened};
use crate::http::InboundHead;
use crate::session::{EndReason, SessionKey};

use super::answer::{json_page, see_other};
use super::forms::{self, CSRF, Fields};
use super::pages::{self, SessionRow, SessionsPage};
use super::{Page, Portal, Problem, browser, with_token};

const PURPOSE: &str = "session form";

/// What a button of the page asks to end.
enum Wish<'a> {
    One(&'a str),
    Others,
    All,
}

impl Portal {
    /// The list.
    pub(super) async fn show_sessions(&self, head: &InboundHead) -> Page {
        let admitted = match self.session(head, true).await {
            Ok(admitted) => admitted,
            Err(denial) => return self.deny(head, &denial),
        };
        match self.guard.sessions_of(&admitted.record.identity.user).await {
            Ok(sessions) => self.list(&admitted, &sessions),
            Err(error) => self.deny(head, &Denial::Unavailable(error)),
        }
    }

    fn list(&self, admitted: &Admitted, sessions: &[Opened]) -> Page {
        let html = pages::sessions(&SessionsPage {
            site: &self.look.name,
            user: &admitted.record.identity.user,
            csrf: &self.session_csrf(&admitted.key),
            now: self.guard.shared().clock.now(),
            sessions: sessions.iter().map(|session| row(session, admitted)).collect(),
        });
        self.carry(self.page(StatusCode::OK, html), admitted)
    }

    /// Ends one, the others, or all.
    pub(super) async fn change_sessions(&self, head: &InboundHead, fields: Fields) -> Page {
        let admitted = match self.session(head, true).await {
            Ok(admitted) => admitted,
            Err(denial) => return self.deny(head, &denial),
        };
        if !self.proves(&admitted.key, &fields) {
            return self.problem(&head.asker, Problem::CrossSite);
        }
        let Some(wish) = wish(&fields) else {
            return self.problem(&head.asker, Problem::BrokenForm);
        };
        match self.grant(&admitted, wish).await {
            Ok(true) => self.carry(see_other("/.doorward/sessions"), &admitted),
            Ok(false) => self.goodbye(),
            Err(denial) => self.deny(head, &denial),
        }
    }

    /// Does it; false when this very session ended too.
    async fn grant(&self, admitted: &Admitted, wish: Wish<'_>) -> Result<bool, Denial> {
        let user = &admitted.record.identity.user;
        match wish {
            Wish::One(handle) => {
                let sessions = self.guard.sessions_of(user).await.map_err(Denial::Unavailable)?;
                let found = sessions.iter().find(|session| session.key.id.handle() == handle);
                let Some(session) = found else { return Ok(true) };
                let ended = self.guard.end_session(session, EndReason::Revoked).await;
                ended.map_err(Denial::Unavailable)?;
                Ok(session.key != admitted.key)
            }
            Wish::Others => {
                let ended = self.guard.end_all(user, Some(admitted.key.id)).await;
                ended.map(|_| true).map_err(Denial::Unavailable)
            }
            Wish::All => {
                let ended = self.guard.end_all(user, None).await;
                ended.map(|_| false).map_err(Denial::Unavailable)
            }
        }
    }

    /// Seconds left, for apps that want to warn.
    pub(super) async fn session_json(&self, head: &InboundHead) -> Page {
        let admitted = match self.session(head, false).await {
            Ok(admitted) => admitted,
            Err(denial) => return self.deny(head, &denial),
        };
        let left = self.guard.remaining(&admitted);
        let page = json_page(
            StatusCode::OK,
            &json!({
                "user": admitted.record.identity.user,
                "idle_seconds": left.idle.as_secs(),
                "absolute_seconds": left.absolute.as_secs(),
            }),
        );
        self.carry(page, &admitted)
    }

    /// Binds a form to the session that it is shown to.
    pub(super) fn session_csrf(&self, key: &SessionKey) -> String {
        let shared = self.guard.shared();
        forms::token(&shared.keys.load(), PURPOSE, &key.id.0, shared.clock.now())
    }

    pub(super) fn proves(&self, key: &SessionKey, fields: &Fields) -> bool {
        let shared = self.guard.shared();
        forms::verify(
            &shared.keys.load(),
            PURPOSE,
            &key.id.0,
            fields.text(CSRF),
            shared.clock.now(),
        )
    }

    /// Sends the renewed token along.
    pub(super) fn carry(&self, page: Page, admitted: &Admitted) -> Page {
        let mut page =
            with_token(&self.guard, page, admitted.token.as_ref().map(|token| &token.text));
        page.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        page
    }
}

fn wish(fields: &Fields) -> Option<Wish<'_>> {
    match fields.text("do") {
        "end-one" => Some(Wish::One(fields.text("session"))),
        "end-others" => Some(Wish::Others),
        "end-all" => Some(Wish::All),
        _ => None,
    }
}

fn row(session: &Opened, admitted: &Admitted) -> SessionRow {
    let begun_from = &session.record.begun_from;
    SessionRow {
        handle: session.key.id.handle(),
        begun: session.record.created,
        last_used: session.last_active,
        browser: browser::in_words(&begun_from.agent),
        network: session.record.renewed_from.network(),
        this: session.key == admitted.key,
    }
}
