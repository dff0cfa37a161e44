//! Renders the portal pages to HTML, without I/O.
//!
//! The templates escape every value. No page contains an inline script or style, so a strict content
//! security policy applies. All pages work without JavaScript. Error pages contain only fixed
//! texts, never internal details.

mod error;
mod external;
mod login;
mod notices;
mod password;
mod second_factor;
mod sessions;
mod times;
mod tokens;

pub use error::{ErrorKind, ErrorPage};
pub use external::{ContinuePage, LoggedOutPage, LoginFailedPage, ProviderButton, ProviderLogout};
pub use login::{LoginNotice, LoginPage};
pub use notices::{ClientRow, NoticeRow};
pub use password::PasswordPage;
pub use second_factor::{
    AppSetup, FactorRow, LoginCodePage, PasskeyForm, QrCode, SecondFactorsPage,
};
pub use sessions::{ReturnLink, SessionRow, SessionsPage};
pub(super) use times::format_wait;
pub use tokens::{TokenRow, TokensPage};

use askama::Template;

/// Stylesheet of all pages, served at `/.doorward/style.css`.
pub const STYLE: &str = include_str!("../../../templates/style.css");

/// Icon of all pages. Without it, browsers request `/favicon.ico` from the app.
pub const ICON: &str = include_str!("../../../templates/icon.svg");

/// Script that shows times in the zone of the browser. The pages are complete without it.
pub const TIMES: &str = include_str!("../../../templates/times.js");

/// Script that apps include to show the end of a session.
pub const SESSION: &str = include_str!("../../../templates/session.js");

/// Script that creates and uses passkeys. The pages have other ways without it.
pub const PASSKEY: &str = include_str!("../../../templates/passkey.js");

/// Script that submits the form of a logout at a provider. The page has a button too.
pub const SUBMIT: &str = include_str!("../../../templates/submit.js");

/// Renders a page. Rendering text into memory does not fail; if it did, an empty page would still
/// carry the status.
pub fn render(page: &impl Template) -> String {
    page.render().unwrap_or_default()
}

/// Where users get help, from `portal.help`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Help {
    Text(String),
    /// URL of a page, or `mailto:` address.
    Link(String),
}

impl Help {
    /// Text, or a link if it begins like one.
    pub fn new(text: String) -> Help {
        let is_link = ["https://", "http://", "mailto:", "tel:"]
            .iter()
            .any(|scheme| text.starts_with(scheme));
        if is_link { Help::Link(text) } else { Help::Text(text) }
    }
}

/// The apps of a host.
#[derive(Template)]
#[template(path = "start.html")]
pub struct StartPage<'a> {
    pub site: &'a str,
    pub host: &'a str,
    pub user: &'a str,
    /// Path prefixes that the user may open.
    pub apps: Vec<&'a str>,
}

/// The question before a logout everywhere.
#[derive(Template)]
#[template(path = "everywhere.html")]
pub struct EverywherePage<'a> {
    pub site: &'a str,
    pub csrf: &'a str,
}

/// The question before a logout.
#[derive(Template)]
#[template(path = "logout.html")]
pub struct ConfirmLogoutPage<'a> {
    pub site: &'a str,
    pub user: &'a str,
    pub csrf: &'a str,
}

/// The page that a frame shows when its session has ended. The login page refuses frames.
#[derive(Template)]
#[template(path = "framed.html")]
pub struct FramedPage<'a> {
    pub site: &'a str,
    /// The complete stylesheet.
    pub style: &'a str,
    /// URL of the login page.
    pub login: &'a str,
}

#[cfg(test)]
mod tests;
