//! doorward's own pages, under `/.doorward/` on every host that has a route.
//!
//! | path | what |
//! | --- | --- |
//! | `login` | GET the form, POST the attempt |
//! | `logout` | GET asks, POST does |
//! | `sessions` | the user's live sessions; POST ends one, the others, or all |
//! | `session` | JSON: seconds left; does not count as activity |
//! | `style.css` | the look, and the operator's addition |

mod answer;
pub mod browser;
// For fuzzing and the replay of what it found; nothing else outside builds on it.
#[doc(hidden)]
pub mod forms;
mod login;
pub mod pages;
mod sessions;

pub use answer::Problem;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Response};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use zeroize::Zeroizing;

use crate::guard::{Admitted, Denial, Guard, Visit};
use crate::identity::PasswordLogin;
use crate::message::{InboundHead, Presented, cookies};
use crate::route::{Requirement, RouteTable};
use crate::session::{ClientContext, RoutePolicy, Timing, Watch};

/// Where our pages begin. No route reaches below it.
pub const PREFIX: &str = "/.doorward";

/// Longest form, in bytes, read before anything is hashed.
const FORM_LIMIT: usize = 8 * 1024;

/// Longest wait for a form's body: nobody has proved anything yet, and each holds a connection.
const FORM_TIME: Duration = Duration::from_secs(10);

/// One worker's portal.
#[derive(Clone)]
pub struct Portal {
    guard: Guard,
    login: Option<Arc<PasswordLogin>>,
    look: Arc<Look>,
    routes: Arc<RouteTable>,
}

/// What an operator may change of our pages.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// The name that people know the site by.
    pub name: String,
    /// CSS added after ours.
    pub style: String,
}

/// Whether a canonical path is ours.
pub fn owns(path: &str) -> bool {
    path.strip_prefix(PREFIX).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

type Page = Response<Full<Bytes>>;

impl Portal {
    /// A portal over one worker's guard.
    pub fn new(
        guard: Guard,
        login: Option<Arc<PasswordLogin>>,
        look: Arc<Look>,
        routes: Arc<RouteTable>,
    ) -> Portal {
        Portal { guard, login, look, routes }
    }

    /// Answers a request for a page of ours.
    pub async fn serve(&self, head: InboundHead, body: Incoming) -> Page {
        let path = head.target.path().strip_prefix(PREFIX).unwrap_or_default().to_owned();
        let post = head.method == Method::POST;
        if !post && head.method != Method::GET && head.method != Method::HEAD {
            return self.problem(&head.asker, Problem::MethodNotAllowed(methods(&path)));
        }
        match (path.as_str(), post) {
            ("/login", false) => self.show_login(&head),
            ("/login", true) => self.with_form(&head, body, Form::Login).await,
            ("/logout", false) => self.ask_logout(&head).await,
            ("/logout", true) => self.with_form(&head, body, Form::Logout).await,
            ("/sessions", false) => self.show_sessions(&head).await,
            ("/sessions", true) => self.with_form(&head, body, Form::Sessions).await,
            ("/session", false) => self.session_json(&head).await,
            ("/style.css", false) => self.style(),
            ("/session" | "/style.css", true) => {
                self.problem(&head.asker, Problem::MethodNotAllowed(methods(&path)))
            }
            (_, true | false) => self.problem(&head.asker, Problem::NoRoute),
        }
    }

    /// Reads a form of ours: same origin only, small, and whole.
    async fn with_form(&self, head: &InboundHead, body: Incoming, form: Form) -> Page {
        if !forms::same_origin(head) {
            return self.problem(&head.asker, Problem::CrossSite);
        }
        let read = Limited::new(body, FORM_LIMIT).collect();
        let Ok(read) = tokio::time::timeout(FORM_TIME, read).await else {
            return self.problem(&head.asker, Problem::TooSlow);
        };
        let fields = match read {
            Ok(body) => forms::Fields::parse(body.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => {
                return self.problem(&head.asker, Problem::TooLong);
            }
            Err(_) => return self.problem(&head.asker, Problem::BrokenForm),
        };
        match form {
            Form::Login => self.try_login(head, fields).await,
            Form::Logout => self.logout(head, fields).await,
            Form::Sessions => self.change_sessions(head, fields).await,
        }
    }

    /// The live session behind a request to one of our pages. They say where the user is, and end his
    /// sessions: what speaks against a request is weighed here as on the strictest route of this host.
    async fn session(&self, head: &InboundHead, activity: bool) -> Result<Admitted, Denial> {
        let signals = self.routes.strictest_watch(&head.host);
        self.admit(head, signals, Timing::Prompt, activity).await
    }

    /// The session of who logs out. Nobody is kept from that, and nobody gets a new token for it: a thief
    /// could renew here unseen.
    async fn leaving(&self, head: &InboundHead) -> Result<Admitted, Denial> {
        self.admit(head, Watch::Off, Timing::Never, false).await
    }

    async fn admit(
        &self,
        head: &InboundHead,
        signals: Watch,
        timing: Timing,
        activity: bool,
    ) -> Result<Admitted, Denial> {
        let visit = Visit {
            presented: &self.shown(head),
            context: &context(head),
            policy: &RoutePolicy { signals, ..RoutePolicy::default() },
            requirement: &Requirement::default(),
            timing,
            activity,
            // Our own pages change things; they wait for the store.
            serve_known_for: None,
        };
        self.guard.admit(&visit).await
    }

    fn shown(&self, head: &InboundHead) -> Presented {
        cookies::find(&head.headers, &self.guard.shared().cookies.session)
    }

    fn style(&self) -> Page {
        let css = format!("{}\n{}", pages::STYLE, self.look.style);
        let mut page = Response::new(Full::from(css));
        let headers = page.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/css; charset=utf-8"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        page
    }
}

/// What a page of ours takes.
fn methods(path: &str) -> &'static str {
    match path {
        "/session" | "/style.css" => "GET, HEAD",
        _ => "GET, HEAD, POST",
    }
}

enum Form {
    Login,
    Logout,
    Sessions,
}

fn context(head: &InboundHead) -> ClientContext {
    let agent = head.headers.get(header::USER_AGENT).map_or(&b""[..], HeaderValue::as_bytes);
    let language = head.headers.get(header::ACCEPT_LANGUAGE);
    ClientContext::new(head.client, agent)
        .speaking(language.map_or(&b""[..], HeaderValue::as_bytes))
        .shaking_hands(head.fingerprint)
}

/// An answer carries the token that the guard offered, as every other answer does.
fn with_token(guard: &Guard, mut page: Page, token: Option<&Zeroizing<String>>) -> Page {
    if let Some(cookie) = token.and_then(|text| guard.shared().cookies.set_session(text)) {
        page.headers_mut().append(header::SET_COOKIE, cookie);
    }
    page
}
