//! The login form and the logout.

use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use http::StatusCode;
use http::header::{self, HeaderValue};
use serde_json::json;

use crate::guard::{Admitted, Denial, LivesOn, Opened};
use crate::identity::{Account, Attempt};
use crate::message::{InboundHead, Intent, Presented, cookies, hygiene, intent};
use crate::secret::random_bytes;
use crate::session::{EndReason, SessionKey};
use crate::telemetry::SessionEvent;
use crate::telemetry::events::About;

use super::answer::{json_page, see_other};
use super::forms::{self, CSRF, Fields, TARGET};
use super::pages::{self, LoginNotice, LoginPage};
use super::{Page, Portal, Problem, context};

/// What binds the login form's token.
const PURPOSE: &str = "login form";

impl Portal {
    /// The form, with the reason why it is shown.
    pub(super) fn show_login(&self, head: &InboundHead) -> Page {
        // A password typed now would be for nothing.
        if self.guard.is_store_away() {
            return self.problem(&head.asker, Problem::StoreAway);
        }
        let query = Fields::parse(head.target.query().unwrap_or_default().to_owned().into());
        let notice = notice(query.text("why"));
        self.login_page(head, StatusCode::OK, notice, query.text(TARGET), "")
    }

    fn login_page(
        &self,
        head: &InboundHead,
        status: StatusCode,
        notice: Option<LoginNotice>,
        target: &str,
        username: &str,
    ) -> Page {
        let shared = self.guard.shared();
        let (nonce, fresh) = self.nonce(head);
        let csrf = forms::token(&shared.keys.load(), PURPOSE, nonce.as_bytes(), shared.clock.now());
        let html = pages::login(&LoginPage {
            site: &self.look.name,
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

    /// The value that binds the form to this browser: the one it has, or a new one.
    fn nonce(&self, head: &InboundHead) -> (String, bool) {
        if let Presented::One(value) =
            cookies::find(&head.headers, &self.guard.shared().cookies.login)
            && BASE64URL_NOPAD.decode(&value).is_ok_and(|bytes| bytes.len() == 16)
            && let Ok(text) = String::from_utf8(value)
        {
            return (text, false);
        }
        (BASE64URL_NOPAD.encode(&random_bytes::<16>()), true)
    }

    /// One attempt. Unknown and known users get the same answer after the same work.
    pub(super) async fn try_login(&self, head: &InboundHead, fields: Fields) -> Page {
        let shared = self.guard.shared();
        let (nonce, fresh) = self.nonce(head);
        let now = shared.clock.now();
        let token = fields.text(CSRF);
        if fresh || !forms::verify(&shared.keys.load(), PURPOSE, nonce.as_bytes(), token, now) {
            return self.again(head, &fields, StatusCode::BAD_REQUEST, LoginNotice::Stale);
        }
        let Some(login) = &self.login else {
            return self.problem(&head.asker, Problem::NoRoute);
        };
        let password = fields.one("password").cloned().unwrap_or_default();
        match login.verify(fields.text("username"), password, head.client).await {
            Attempt::Accept(account) => self.welcome(head, &fields, &account).await,
            Attempt::Refuse => {
                self.login_event(SessionEvent::LoginRefused, head, &fields);
                self.again(head, &fields, StatusCode::UNAUTHORIZED, LoginNotice::WrongPassword)
            }
            Attempt::Throttle { retry_after } => {
                self.login_event(SessionEvent::LoginThrottled, head, &fields);
                let seconds = whole_seconds(retry_after);
                let notice = LoginNotice::Throttled { seconds };
                let page = self.again(head, &fields, StatusCode::TOO_MANY_REQUESTS, notice);
                retry(page, seconds)
            }
            Attempt::Busy { retry_after } => {
                let page =
                    self.again(head, &fields, StatusCode::SERVICE_UNAVAILABLE, LoginNotice::Busy);
                retry(page, whole_seconds(retry_after))
            }
        }
    }

    async fn welcome(&self, head: &InboundHead, fields: &Fields, account: &Account) -> Page {
        let shared = self.guard.shared();
        let begun = self.guard.begin(account, &self.shown(head), context(head)).await;
        let begun = match begun {
            Ok(begun) => begun,
            Err(error) => return self.deny(head, &Denial::Unavailable(error)),
        };
        let reads = head.asker.intent == Intent::Navigation || intent::takes_pages(&head.headers);
        let mut page = if begun.told && reads {
            see_other(&self.sessions_page(head, fields))
        } else {
            let target = self.target(head, fields.text(TARGET));
            see_other(target.as_deref().unwrap_or("/"))
        };
        if let Some(cookie) = shared.cookies.set_session(&begun.token) {
            page.headers_mut().append(header::SET_COOKIE, cookie);
        }
        page
    }

    /// Where a sealed target leads, if we sealed it.
    pub(super) fn target(&self, head: &InboundHead, sealed: &str) -> Option<String> {
        let shared = self.guard.shared();
        let host = head.host.to_string();
        forms::target(&shared.keys.load(), &host, sealed, shared.clock.now())
    }

    /// The form once more, or a word for a program. An old browser does not say that a person looks
    /// at the answer to a form; that it takes pages says enough.
    fn again(
        &self,
        head: &InboundHead,
        fields: &Fields,
        status: StatusCode,
        notice: LoginNotice,
    ) -> Page {
        if head.asker.intent == Intent::Fetch && !intent::takes_pages(&head.headers) {
            return json_page(status, &json!({ "error": "login", "reason": notice.word() }));
        }
        self.login_page(head, status, Some(notice), fields.text(TARGET), fields.text("username"))
    }

    /// The name that was tried goes to the log only when it is an account's: people type passwords
    /// into the wrong field.
    fn login_event(&self, event: SessionEvent, head: &InboundHead, fields: &Fields) {
        let shared = self.guard.shared();
        let name = fields.text("username");
        let known = shared.directory.as_ref().and_then(|users| users.find(name));
        let user = known.map(|account| account.identity.user.clone()).unwrap_or_default();
        let from = context(head);
        let client = Some(head.client);
        shared.event(event, About { user: &user, client, agent: &from.agent, ..About::default() });
    }

    /// Logging out changes something, so a link alone does not do it.
    pub(super) async fn ask_logout(&self, head: &InboundHead) -> Page {
        match self.leaving(head).await {
            Ok(admitted) => self.logout_form(&admitted.key, &admitted.record.identity.user),
            Err(Denial::Unavailable(error)) => self.deny(head, &Denial::Unavailable(error)),
            Err(_) => match self.guard.lives_on(&self.shown(head)).await {
                Ok(Some(session)) => self.logout_form(&session.opened.key, session.user()),
                Ok(None) => self.page(StatusCode::OK, pages::logged_out(&self.look.name)),
                Err(error) => self.deny(head, &Denial::Unavailable(error)),
            },
        }
    }

    fn logout_form(&self, key: &SessionKey, user: &str) -> Page {
        let csrf = self.session_csrf(key);
        self.page(StatusCode::OK, pages::logout(&self.look.name, user, &csrf))
    }

    /// Ends the session on the server first; only then the cookie goes. A token that is refused for the
    /// moment still names a session that lives: who logs out wants that to be over too.
    pub(super) async fn logout(&self, head: &InboundHead, fields: Fields) -> Page {
        let session = match self.leaving(head).await {
            Ok(admitted) => Ok(Some(opened(admitted))),
            Err(Denial::Unavailable(error)) => {
                self.guard.seen_by(&self.shown(head)).map(Some).ok_or(error)
            }
            Err(_) => self.guard.lives_on(&self.shown(head)).await.map(LivesOn::session),
        };
        match session {
            Ok(Some(session)) if self.proves(&session.key, &fields) => {
                self.end_this(head, &session).await
            }
            Ok(Some(_)) => self.problem(&head.asker, Problem::CrossSite),
            Ok(None) => self.goodbye(),
            Err(error) => self.deny(head, &Denial::Unavailable(error)),
        }
    }

    async fn end_this(&self, head: &InboundHead, session: &Opened) -> Page {
        match self.guard.end_session(session, EndReason::Logout).await {
            Ok(_) => self.goodbye(),
            Err(error) => self.deny(head, &Denial::Unavailable(error)),
        }
    }

    /// The one answer that deletes the cookie: the user asked, and the server has forgotten it.
    pub(super) fn goodbye(&self) -> Page {
        let mut page = self.page(StatusCode::OK, pages::logged_out(&self.look.name));
        hygiene::say_goodbye(page.headers_mut(), &self.guard.shared().cookies);
        page
    }
}

fn opened(admitted: Admitted) -> Opened {
    let last_active = admitted.record.active;
    Opened { key: admitted.key, record: admitted.record, last_active }
}

/// Only words that we sent: the parameter chooses among our own texts.
fn notice(why: &str) -> Option<LoginNotice> {
    match why {
        "idle" => Some(LoginNotice::Idle),
        "absolute" => Some(LoginNotice::Absolute),
        "theft" => Some(LoginNotice::Theft),
        "theft-elsewhere" => Some(LoginNotice::TheftElsewhere),
        "reauthenticate" => Some(LoginNotice::FreshLogin),
        "logout" => Some(LoginNotice::LoggedOut),
        "revoked" | "replaced" | "not-renewing" | "account-gone" | "credential-changed"
        | "after-crash" | "future-generation" | "unknown" => Some(LoginNotice::SessionEnded),
        _ => None,
    }
}

fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

fn retry(mut page: Page, seconds: u64) -> Page {
    page.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    page
}
