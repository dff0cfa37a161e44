//! The gateway's own pages, under `/.doorward/` on every host that has a route.
//!
//! | path | content |
//! | --- | --- |
//! | `login` | login form; POST logs in |
//! | `logout` | confirmation; POST logs out |
//! | `sessions` | the user's live sessions; POST ends one, the others, or all |
//! | `session` | JSON with the seconds left; not counted as activity |
//! | `health` | 204 for load balancers, on any host; answered by the proxy |
//! | `password` | form for a new password, of accounts in the users file; POST changes it |
//! | `oidc/NAME/login`, `oidc/NAME/callback` | login at an OpenID Connect provider |
//! | `oidc/NAME/backchannel-logout` | POST of the provider: ends sessions |
//! | `login/code` | POST of the second step of a login |
//! | `second-factors` | the user's second factors; POST sets up or removes one |
//! | `tokens` | the user's personal access tokens; POST creates or deletes one |
//! | `jwks.json` | public keys of the assertions for apps |
//! | `style.css` | stylesheet, followed by the operator's |
//! | `session.js` | script that apps include, to show the end of a session |
//! | `icon.svg`, `times.js`, `submit.js`, `passkey.js` | icon of the pages; scripts for local times, for a logout at a provider, and for passkeys |
//!
//! Two further paths belong to the portal: `/.well-known/change-password` leads to `password`, and `/` is
//! the start page of a host whose routes all have a path prefix.

mod denied;
mod external_login;
mod external_logout;
mod form_login;
mod responses;
mod second_factors;
// Public for the fuzz targets and their corpus tests only.
#[doc(hidden)]
pub mod forms;
mod login;
mod login_code;
pub mod pages;
mod passkeys;
mod password;
mod problem;
mod provider_page;
mod sessions;
mod start;
mod styles;
mod tokens;

pub use forms::{PREFIX, is_own_path};
pub use pages::Help;
pub use problem::Problem;

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use http::header;
use http_body::Body as _;
use http_body_util::{BodyExt, LengthLimitError, Limited};

use crate::auth::{Auth, AuthRequest, AuthenticatedSession, DenyReason};
use crate::connections::ClientBody;
use crate::identity::{LoginProviders, PasswordLogin};
use crate::message::{CookieLookup, InboundHead};
use crate::route::RouteTable;
use crate::session::{RotationTiming, RoutePolicy, SignalsMode};
use crate::sessions::{NewToken, Shared};

use provider_page::ProviderPage;
use responses::{Page, public_file, see_other};
use styles::Styles;

/// Path of the health check on the traffic listeners, for any host.
pub const HEALTH: &str = "/.doorward/health";

/// Where password managers find the page for a new password
/// (<https://www.w3.org/TR/change-password-url/>).
pub const WELL_KNOWN_CHANGE_PASSWORD: &str = "/.well-known/change-password";

/// Maximum size of a form body, in bytes. The state of a login has up to 11 KiB.
const FORM_LIMIT: usize = 16 * 1024;

/// As above, with the groups of the user, which have up to 16 KiB.
const CODE_FORM_LIMIT: usize = 48 * 1024;

/// Timeout for reading a form body. The client is unauthenticated and holds a connection.
const FORM_TIME: Duration = Duration::from_secs(10);

/// The portal of one worker.
#[derive(Clone)]
pub struct Portal {
    auth: Auth,
    login: Option<Arc<PasswordLogin>>,
    branding: Arc<Branding>,
    styles: Arc<Styles>,
    routes: Arc<RouteTable>,
}

/// Branding of the portal, from the configuration.
#[derive(Clone, Debug, Default)]
pub struct Branding {
    /// Display name of the site; may be empty.
    pub name: String,
    /// CSS appended to the built-in stylesheet.
    pub style: String,
    /// Where users get help.
    pub help: Option<Help>,
    /// Path that the start page redirects to; `None` lists the apps.
    pub start: Option<String>,
}

impl Portal {
    /// Creates the portal of one worker.
    pub fn new(
        auth: Auth,
        login: Option<Arc<PasswordLogin>>,
        branding: Arc<Branding>,
        routes: Arc<RouteTable>,
    ) -> Portal {
        let styles = Arc::new(Styles::new(&branding.style));
        Portal { auth, login, branding, styles, routes }
    }

    /// Handles a request for a page of the portal.
    pub async fn serve(&self, head: InboundHead, body: ClientBody) -> Page {
        let path = head.target.path().to_owned();
        if let Some((name, page)) = ProviderPage::find(&path) {
            return self.serve_provider(&head, body, name, page).await;
        }
        let post = head.method == Method::POST;
        let is_get = head.method == Method::GET || head.method == Method::HEAD;
        let page = PortalPage::find(&path);
        let methods = page.map_or(GET_OR_POST, PortalPage::methods);
        let Some(page) = page.filter(|_| is_get || (post && methods == GET_OR_POST)) else {
            let is_unknown = page.is_none() && (is_get || post);
            let problem =
                if is_unknown { Problem::NoRoute } else { Problem::MethodNotAllowed(methods) };
            return self.problem(&head.requester, problem);
        };
        match page {
            PortalPage::Form(form) if post => self.with_form(&head, body, form).await,
            PortalPage::Form(form) => self.show(&head, form).await,
            PortalPage::Session => self.session_json(&head).await,
            PortalPage::Start => self.show_start(&head).await,
            PortalPage::ChangePassword => see_other(forms::PASSWORD),
            PortalPage::AssertionKeys => self.assertion_keys(),
            PortalPage::File(content_type, text) => self.file(content_type, text),
        }
    }

    /// Serves a page of an OpenID Connect provider. A HEAD request must not redeem the code of a callback.
    async fn serve_provider(
        &self,
        head: &InboundHead,
        body: ClientBody,
        name: &str,
        page: ProviderPage,
    ) -> Page {
        let allowed = match page {
            ProviderPage::Login | ProviderPage::Callback => Method::GET,
            ProviderPage::BackchannelLogout => Method::POST,
        };
        if head.method != allowed {
            let methods = if allowed == Method::GET { "GET" } else { "POST" };
            return self.problem(&head.requester, Problem::MethodNotAllowed(methods));
        }
        match page {
            ProviderPage::Login => self.show_provider_login(head, name).await,
            ProviderPage::Callback => self.finish_login(head, name).await,
            ProviderPage::BackchannelLogout => self.backchannel_logout(head, body, name).await,
        }
    }

    fn assertion_keys(&self) -> Page {
        let keys = self.auth.shared().keys.load();
        let text = serde_json::json!({ "keys": keys.assertion_jwks() }).to_string();
        public_file("application/jwk-set+json", text)
    }

    async fn show(&self, head: &InboundHead, form: Form) -> Page {
        match form {
            Form::Login => self.show_login(head).await,
            Form::Logout => self.confirm_logout(head).await,
            Form::Sessions => self.show_sessions(head).await,
            Form::Password => self.show_password(head).await,
            Form::Tokens => self.show_tokens(head).await,
            Form::Code => see_other(forms::LOGIN),
            Form::SecondFactors => self.show_second_factors(head).await,
        }
    }

    /// Reads a form and dispatches it. The form must be complete, within the size limit, and from
    /// this origin.
    async fn with_form(&self, head: &InboundHead, body: ClientBody, form: Form) -> Page {
        if !forms::same_origin(head) {
            return self.problem(&head.requester, Problem::CrossSite);
        }
        let limit = if form == Form::Code { CODE_FORM_LIMIT } else { FORM_LIMIT };
        if body.size_hint().lower() > limit as u64 {
            return self.problem(&head.requester, Problem::BodyTooLarge);
        }
        let read = Limited::new(body, limit).collect();
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
            Form::Password => self.change_password(head, fields).await,
            Form::Tokens => self.change_tokens(head, fields).await,
            Form::Code => self.try_code(head, fields).await,
            Form::SecondFactors => self.change_second_factors(head, fields).await,
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

    /// Authenticates a portal request that requires a login of at most this age.
    async fn authenticate_recent(
        &self,
        head: &InboundHead,
        max_age: Duration,
    ) -> Result<AuthenticatedSession, DenyReason> {
        let signals = self.routes.strictest_signals_mode(&head.host);
        let max_auth_age = Some(max_age);
        let policy = RoutePolicy { signals, max_auth_age, ..RoutePolicy::default() };
        self.authenticate_under(head, &policy, RotationTiming::WhenDue, true).await
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
        let policy = RoutePolicy { signals, ..RoutePolicy::default() };
        self.authenticate_under(head, &policy, timing, activity).await
    }

    async fn authenticate_under(
        &self,
        head: &InboundHead,
        policy: &RoutePolicy,
        timing: RotationTiming,
        activity: bool,
    ) -> Result<AuthenticatedSession, DenyReason> {
        let visit = AuthRequest {
            cookie: &self.session_cookie(head),
            context: &head.client_context(),
            policy,
            timing,
            is_activity: activity,
            // Portal pages change sessions, so they require the store.
            serve_stale_for: None,
        };
        self.auth.authenticate(&visit).await
    }

    fn shared(&self) -> &Shared {
        self.auth.shared()
    }

    fn providers(&self) -> &LoginProviders {
        &self.auth.settings().providers
    }

    fn session_cookie(&self, head: &InboundHead) -> CookieLookup {
        self.auth.session_cookie(&head.headers)
    }

    fn file(&self, content_type: &'static str, text: &'static str) -> Page {
        let text = if text.is_empty() { self.styles.css.clone() } else { text.to_owned() };
        public_file(content_type, text)
    }
}

const GET_OR_POST: &str = "GET, HEAD, POST";
const GET: &str = "GET, HEAD";

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// A page of the portal.
#[derive(Clone, Copy)]
enum PortalPage {
    Form(Form),
    Session,
    Start,
    /// `/.well-known/change-password`.
    ChangePassword,
    /// Public keys of the assertions.
    AssertionKeys,
    /// Content type and text; the stylesheet if empty.
    File(&'static str, &'static str),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Login,
    Logout,
    Sessions,
    Password,
    Tokens,
    /// The second step of a login.
    Code,
    SecondFactors,
}

impl PortalPage {
    fn find(path: &str) -> Option<PortalPage> {
        let page = match path.strip_prefix(PREFIX) {
            None if path == WELL_KNOWN_CHANGE_PASSWORD => PortalPage::ChangePassword,
            None if path == "/" => PortalPage::Start,
            Some("/login") => PortalPage::Form(Form::Login),
            Some("/logout") => PortalPage::Form(Form::Logout),
            Some("/sessions") => PortalPage::Form(Form::Sessions),
            Some("/password") => PortalPage::Form(Form::Password),
            Some("/tokens") => PortalPage::Form(Form::Tokens),
            Some("/login/code") => PortalPage::Form(Form::Code),
            Some("/second-factors") => PortalPage::Form(Form::SecondFactors),
            Some("/session") => PortalPage::Session,
            Some("/jwks.json") => PortalPage::AssertionKeys,
            Some("/style.css") => PortalPage::File("text/css; charset=utf-8", ""),
            Some("/icon.svg") => PortalPage::File("image/svg+xml", pages::ICON),
            Some("/times.js") => PortalPage::File(SCRIPT, pages::TIMES),
            Some("/passkey.js") => PortalPage::File(SCRIPT, pages::PASSKEY),
            Some("/submit.js") => PortalPage::File(SCRIPT, pages::SUBMIT),
            Some("/session.js") => PortalPage::File(SCRIPT, pages::SESSION),
            Some(_) | None => return None,
        };
        Some(page)
    }

    /// Returns the methods that the page allows.
    fn methods(self) -> &'static str {
        match self {
            PortalPage::Form(_) => GET_OR_POST,
            PortalPage::Session
            | PortalPage::Start
            | PortalPage::ChangePassword
            | PortalPage::AssertionKeys
            | PortalPage::File(..) => GET,
        }
    }
}

/// Adds the session cookie for a rotated token.
fn with_token(auth: &Auth, mut page: Page, token: Option<&NewToken>) -> Page {
    let cookies = &auth.settings().cookies;
    if let Some(cookie) = token.and_then(|token| cookies.set_session(&token.text, token.left())) {
        page.headers_mut().append(header::SET_COOKIE, cookie);
    }
    page
}
