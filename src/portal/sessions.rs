//! The user's own sessions: see them, end them.

use data_encoding::HEXLOWER;
use http::StatusCode;
use http::header::{self, HeaderValue};
use serde_json::json;

use crate::guard::{Admitted, Denial, Opened};
use crate::message::InboundHead;
use crate::session::context::network_in_words;
use crate::session::notice::{Id, Notice, Spot};
use crate::session::{EndReason, SessionKey};

use super::answer::{json_page, see_other};
use super::forms::{self, CSRF, Fields, TARGET};
use super::pages::{self, NoticeRow, Onward, SessionRow, SessionsPage, SpotRow};
use super::{Page, Portal, Problem, browser, with_token};

const PURPOSE: &str = "session form";
const SESSIONS: &str = "/.doorward/sessions";

/// What a button of the page asks to end.
enum Wish<'a> {
    One(&'a str),
    Others,
    All,
    /// A notice that was read.
    Dismiss(Id),
}

impl Portal {
    /// The list.
    pub(super) async fn show_sessions(&self, head: &InboundHead) -> Page {
        let admitted = match self.session(head, true).await {
            Ok(admitted) => admitted,
            Err(denial) => return self.deny(head, &denial),
        };
        match self.guard.sessions_of(&admitted.record.identity.user).await {
            Ok(sessions) => self.list(head, &admitted, &sessions).await,
            Err(error) => self.deny(head, &Denial::Unavailable(error)),
        }
    }

    async fn list(&self, head: &InboundHead, admitted: &Admitted, sessions: &[Opened]) -> Page {
        let user = &admitted.record.identity.user;
        let notices = self.guard.notices_of(&admitted.key, user).await;
        let query = Fields::parse(head.target.query().unwrap_or_default().to_owned().into());
        let sealed = query.one(TARGET).map(|sealed| sealed.as_str());
        let html = pages::sessions(&SessionsPage {
            site: &self.look.name,
            user,
            csrf: &self.session_csrf(&admitted.key),
            now: self.guard.shared().clock.now(),
            notices: notices.iter().map(|notice| told(notice, admitted)).collect(),
            onward: sealed.and_then(|sealed| self.onward(head, sealed)),
            sessions: sessions.iter().map(|session| row(session, admitted)).collect(),
        });
        self.carry(self.page(StatusCode::OK, html), admitted)
    }

    fn onward<'a>(&self, head: &InboundHead, sealed: &'a str) -> Option<Onward<'a>> {
        self.target(head, sealed).map(|href| Onward { sealed, href })
    }

    /// The page that still knows where the user was going; of a parameter that we did not make it knows
    /// nothing.
    pub(super) fn sessions_page(&self, head: &InboundHead, fields: &Fields) -> String {
        let sealed = fields.text(TARGET);
        if self.target(head, sealed).is_none() {
            return SESSIONS.to_owned();
        }
        let mut query = form_urlencoded::Serializer::new(String::new());
        format!("{SESSIONS}?{}", query.append_pair(TARGET, sealed).finish())
    }

    /// Ends one, the others, or all; puts a notice away.
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
            Ok(true) => self.carry(see_other(&self.sessions_page(head, &fields)), &admitted),
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
            Wish::Dismiss(id) => {
                let dismissed = self.guard.dismiss(&admitted.key, user, id).await;
                dismissed.map(|()| true).map_err(Denial::Unavailable)
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
        "dismiss" => {
            let id = HEXLOWER.decode(fields.text("notice").as_bytes()).ok()?;
            Some(Wish::Dismiss(id.try_into().ok()?))
        }
        _ => None,
    }
}

fn told(notice: &Notice, admitted: &Admitted) -> NoticeRow {
    NoticeRow {
        id: HEXLOWER.encode(&notice.id),
        kind: notice.kind,
        at: notice.at,
        shown: spot(&notice.shown),
        owner: notice.owner.as_ref().map(spot),
        this: notice.is_about(admitted.key.id),
    }
}

fn spot(spot: &Spot) -> SpotRow {
    SpotRow { browser: browser::in_words(&spot.agent), network: network_in_words(spot.network) }
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
