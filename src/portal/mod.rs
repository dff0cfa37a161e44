//! The gateway's own pages, under `/.doorward/` on every host that has a route.
//!
//! | path | content |
//! | --- | --- |
//! | `login` | login form; POST logs in |
//! | `logout` | confirmation; POST logs out |
//! | `sessions` | the user's live sessions; POST ends one, the others, or all |
//! | `session` | JSON with the seconds left; not counted as activity |
//! | `health` | 204 for load balancers, on any host; answered by the proxy |
//! | `style.css` | stylesheet, followed by the operator's |

mod responses;
// Public for the fuzz targets and their corpus tests only.
#[doc(hidden)]
pub mod forms;
mod login;
pub mod pages;
mod sessions;

pub use responses::Problem;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Response};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use zeroize::Zeroizing;

use crate::auth::{Auth, AuthRequest, AuthenticatedSession, DenyReason};
use crate::connections::ClientBody;
use crate::identity::PasswordLogin;
use crate::message::{CookieLookup, InboundHead, cookies};
use crate::route::RouteTable;
use crate::session::{RotationTiming, RoutePolicy, SignalsMode};

/// Path prefix of the portal. Routes below it are rejected.
pub const PREFIX: &str = "/.doorward";

/// Path of the health check on the traffic listeners, for any host.
pub const HEALTH: &str = "/.doorward/health";

/// Maximum size of a form body, in bytes.
const FORM_LIMIT: usize = 8 * 1024;

/// Timeout for reading a form body. The client is unauthenticated and holds a connection.
const FORM_TIME: Duration = Duration::from_secs(10);

/// The portal of one worker.
#[derive(Clone)]
pub struct Portal {
    auth: Auth,
    login: Option<Arc<PasswordLogin>>,
    branding: Arc<Branding>,
    routes: Arc<RouteTable>,
}

/// Branding of the portal, from the configuration.
#[derive(Clone, Debug, Default)]
pub struct Branding {
    /// Display name of the site; may be empty.
    pub name: String,
    /// CSS appended to the built-in stylesheet.
    pub style: String,
}

/// Returns whether a canonical path belongs to the portal.
pub fn is_own_path(path: &str) -> bool {
    path.strip_prefix(PREFIX).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

type Page = Response<Full<Bytes>>;

impl Portal {
    /// Creates the portal of one worker.
    pub fn new(
        auth: Auth,
        login: Option<Arc<PasswordLogin>>,
        branding: Arc<Branding>,
        routes: Arc<RouteTable>,
    ) -> Portal {
        Portal { auth, login, branding, routes }
    }

    /// Handles a request below [`PREFIX`].
    pub async fn serve(&self, head: InboundHead, body: ClientBody) -> Page {
        let path = head.target.path().strip_prefix(PREFIX).unwrap_or_default().to_owned();
        let post = head.method == Method::POST;
        if !post && head.method != Method::GET && head.method != Method::HEAD {
            return self
                .problem(&head.requester, Problem::MethodNotAllowed(allowed_methods(&path)));
        }
        match (path.as_str(), post) {
            ("/login", false) => self.show_login(&head),
            ("/login", true) => self.with_form(&head, body, Form::Login).await,
            ("/logout", false) => self.confirm_logout(&head).await,
            ("/logout", true) => self.with_form(&head, body, Form::Logout).await,
            ("/sessions", false) => self.show_sessions(&head).await,
            ("/sessions", true) => self.with_form(&head, body, Form::Sessions).await,
            ("/session", false) => self.session_json(&head).await,
            ("/style.css", false) => self.stylesheet(),
            ("/session" | "/style.css", true) => {
                self.problem(&head.requester, Problem::MethodNotAllowed(allowed_methods(&path)))
            }
            (_, true | false) => self.problem(&head.requester, Problem::NoRoute),
        }
    }

    /// Reads a form and dispatches it. The form must be complete, within the size limit, and from
    /// this origin.
    async fn with_form(&self, head: &InboundHead, body: ClientBody, form: Form) -> Page {
        if !forms::same_origin(head) {
            return self.problem(&head.requester, Problem::CrossSite);
        }
        let read = Limited::new(body, FORM_LIMIT).collect();
        let Ok(read) = tokio::time::timeout(FORM_TIME, read).await else {
            return self.problem(&head.requester, Problem::BodyTimeout);
        };
        let fields = match read {
            Ok(body) => forms::FormFields::parse(body.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => {
                return self.problem(&head.requester, Problem::BodyTooLarge);
            }
            Err(_) => return self.problem(&head.requester, Problem::MalformedForm),
        };
        match form {
            Form::Login => self.try_login(head, fields).await,
            Form::Logout => self.logout(head, fields).await,
            Form::Sessions => self.change_sessions(head, fields).await,
        }
    }

    /// Authenticates a portal request. The risk checks use the strictest mode of any route of this
    /// host, because these pages list and end sessions.
    async fn authenticate(
        &self,
        head: &InboundHead,
        activity: bool,
    ) -> Result<AuthenticatedSession, DenyReason> {
        let signals = self.routes.strictest_signals_mode(&head.host);
        self.authenticate_with(head, signals, RotationTiming::WhenDue, activity).await
    }

    /// Authenticates a logout. Risk checks are off so that they cannot block it, and no token is
    /// rotated, so an attacker cannot rotate here unnoticed.
    async fn authenticate_for_logout(
        &self,
        head: &InboundHead,
    ) -> Result<AuthenticatedSession, DenyReason> {
        self.authenticate_with(head, SignalsMode::Off, RotationTiming::Never, false).await
    }

    async fn authenticate_with(
        &self,
        head: &InboundHead,
        signals: SignalsMode,
        timing: RotationTiming,
        activity: bool,
    ) -> Result<AuthenticatedSession, DenyReason> {
        let visit = AuthRequest {
            cookie: &self.session_cookie(head),
            context: &head.client_context(),
            policy: &RoutePolicy { signals, ..RoutePolicy::default() },
            timing,
            is_activity: activity,
            // Portal pages change sessions, so they require the store.
            serve_stale_for: None,
        };
        self.auth.authenticate(&visit).await
    }

    fn session_cookie(&self, head: &InboundHead) -> CookieLookup {
        cookies::find(&head.headers, &self.auth.shared().cookies.session)
    }

    fn stylesheet(&self) -> Page {
        let css = format!("{}\n{}", pages::STYLE, self.branding.style);
        let mut page = Response::new(Full::from(css));
        let headers = page.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/css; charset=utf-8"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        page
    }
}

/// Returns the methods that a page allows.
fn allowed_methods(path: &str) -> &'static str {
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

/// Adds the session cookie for a rotated token.
fn with_token(auth: &Auth, mut page: Page, token: Option<&Zeroizing<String>>) -> Page {
    if let Some(cookie) = token.and_then(|text| auth.shared().cookies.set_session(text)) {
        page.headers_mut().append(header::SET_COOKIE, cookie);
    }
    page
}
