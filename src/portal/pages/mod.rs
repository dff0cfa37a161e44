//! Renders the portal pages to HTML, without I/O.
//!
//! The templates escape every value. No page contains a script or an inline style, so all work
//! without JavaScript and with a strict content security policy. Error pages contain only fixed
//! texts, never internal details.

mod notices;

pub use notices::{ClientRow, NoticeRow};

use std::time::Duration;

use askama::Template;
use http::StatusCode;
use jiff::Timestamp;

use crate::clock::UnixMillis;

use notices::NoticeView;

/// Stylesheet of all pages, served at `/.doorward/style.css`.
pub const STYLE: &str = include_str!("../../../templates/style.css");

/// Icon of all pages. Without it, browsers request `/favicon.ico` from the app.
pub const ICON: &str = include_str!("../../../templates/icon.svg");

/// Script that shows times in the zone of the browser. The pages are complete without it.
pub const TIMES: &str = include_str!("../../../templates/times.js");

/// The login form.
#[derive(Template)]
#[template(path = "login.html")]
pub struct LoginPage<'a> {
    /// Display name of the site; may be empty.
    pub site: &'a str,
    /// Host that the login is for, shown so that users can check it.
    pub host: &'a str,
    /// Message above the form.
    pub notice: Option<LoginNotice>,
    /// The user, if they are logged in already.
    pub user: Option<&'a str>,
    /// Page that the logged-in user can continue at.
    pub continue_at: &'a str,
    /// Whether the user sent a form that was not saved.
    pub is_unsaved: bool,
    /// Whether the login cannot lead back to the page of the user.
    pub is_too_long: bool,
    /// Value of the hidden field `csrf`.
    pub csrf: &'a str,
    /// Value of the hidden field `to`: the sealed return URL.
    pub target: &'a str,
    /// User name of the failed attempt.
    pub username: &'a str,
    pub help: Option<&'a Help>,
}

/// Where users get help, from `portal.help`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Help {
    Text(String),
    /// URL of a page, or `mailto:` address.
    Link(String),
}

/// Message above the login form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginNotice {
    SessionEnded,
    Idle,
    Absolute,
    Theft,
    TheftElsewhere,
    Reauthenticate,
    LoggedOut,
    WrongPassword,
    Throttled {
        seconds: u64,
    },
    Busy,
    Stale,
    /// The browser blocks cookies.
    NoCookies,
    /// The user changed their password.
    PasswordChanged,
    /// The browser sent several live session cookies.
    SeveralCookies,
    /// The browser sent a session cookie that the gateway did not issue.
    ForeignCookie,
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

/// The form for a new password.
#[derive(Template)]
#[template(path = "password.html")]
pub struct PasswordPage<'a> {
    pub site: &'a str,
    pub user: &'a str,
    pub csrf: &'a str,
    /// Why the last attempt failed; empty before the first.
    pub error: &'a str,
    /// Minimum number of characters.
    pub min_length: usize,
    pub help: Option<&'a Help>,
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

/// The list of a user's sessions.
pub struct SessionsPage<'a> {
    pub site: &'a str,
    pub user: &'a str,
    /// What the last form did.
    pub done: Option<&'a str>,
    /// Whether the user can change their password here.
    pub changes_password: bool,
    /// Value of the hidden field `csrf` of every form.
    pub csrf: &'a str,
    pub now: UnixMillis,
    /// Security notices, newest first.
    pub notices: Vec<NoticeRow>,
    /// Return URL after a login.
    pub return_link: Option<ReturnLink<'a>>,
    /// Sessions in any order. The page shows the current one first, then the most recently used.
    pub sessions: Vec<SessionRow>,
}

/// One session in the list.
pub struct SessionRow {
    /// Value of the hidden field `session`.
    pub handle: String,
    pub created: UnixMillis,
    pub last_used: UnixMillis,
    /// Description by [`UserAgent`](crate::risk::UserAgent).
    pub browser: String,
    /// Client network, such as `203.0.113.0/24`.
    pub network: String,
    /// Whether it is the session of this request.
    pub is_current: bool,
}

/// A return URL.
pub struct ReturnLink<'a> {
    /// Value of the hidden field `to`.
    pub sealed: &'a str,
    /// Path on this origin.
    pub href: String,
}

/// Renders an error page.
#[derive(Template)]
#[template(path = "error.html")]
pub struct ErrorPage<'a> {
    pub site: &'a str,
    /// The complete stylesheet.
    pub style: &'a str,
    pub status: StatusCode,
    pub kind: &'a ErrorKind,
    /// Request ID; hidden if empty.
    pub request: &'a str,
    pub help: Option<&'a Help>,
}

/// Kind of an error page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    BadRequest,
    TooManyHeaders,
    BodyTooLarge,
    CrossSite,
    NotFound,
    /// No route serves the host (404 or 421).
    NoSuchSite,
    MethodNotAllowed,
    TooManyAttempts {
        seconds: u64,
    },
    UpstreamSlow,
    UpstreamDown,
    StoreUnavailable,
    /// A limit of tracked connections is reached.
    TooManyConnections,
    /// The gateway is overloaded.
    Overloaded,
    Forbidden {
        user: String,
    },
}

/// The login form.
pub fn login(page: &LoginPage<'_>) -> String {
    html(page)
}

/// Renders the form for a new password.
pub fn password(page: &PasswordPage<'_>) -> String {
    html(page)
}

/// Renders the list of apps.
pub fn start(page: &StartPage<'_>) -> String {
    html(page)
}

/// Renders the list of a user's sessions.
pub fn sessions(page: &SessionsPage<'_>) -> String {
    let mut rows: Vec<&SessionRow> = page.sessions.iter().collect();
    rows.sort_by_key(|row| (!row.is_current, std::cmp::Reverse(row.last_used)));
    html(&SessionsTemplate {
        site: page.site,
        user: page.user,
        done: page.done,
        changes_password: page.changes_password,
        csrf: page.csrf,
        notices: page.notices.iter().map(|row| NoticeView::new(row, page.now)).collect(),
        return_link: page.return_link.as_ref(),
        rows: rows.into_iter().map(|row| RowView::new(row, page.now)).collect(),
    })
}

/// Renders the question before a logout everywhere.
pub fn everywhere(site: &str, csrf: &str) -> String {
    html(&EverywhereTemplate { site, csrf })
}

/// Renders the logout confirmation.
pub fn logout(site: &str, user: &str, csrf: &str) -> String {
    html(&LogoutTemplate { site, user, csrf })
}

/// Renders the page after a logout.
pub fn logged_out(site: &str) -> String {
    html(&LoggedOutTemplate { site })
}

/// Renders the page that a frame shows when its session has ended.
pub fn framed(site: &str, style: &str, login: &str) -> String {
    html(&FramedTemplate { site, style, login })
}

/// An error page.
pub fn error_page(page: &ErrorPage<'_>) -> String {
    html(page)
}

/// Renders a template. Rendering text into memory does not fail; if it did, an empty page would
/// still carry the status.
fn html(page: &impl Template) -> String {
    page.render().unwrap_or_default()
}

impl LoginPage<'_> {
    fn refused(&self) -> bool {
        self.notice == Some(LoginNotice::WrongPassword)
    }
}

impl LoginNotice {
    fn text(self) -> String {
        match self {
            LoginNotice::SessionEnded => "Your session has ended. Log in again to continue.".into(),
            LoginNotice::Idle => {
                "You were logged out because you were inactive for a while.".into()
            }
            LoginNotice::Absolute => {
                "You were logged out because your session reached its time limit.".into()
            }
            LoginNotice::Theft => {
                "An old copy of your session was used, so both were logged out. If that was not \
                 you, change your password after you log in."
                    .into()
            }
            LoginNotice::TheftElsewhere => {
                "An old copy of another session of yours was used, so all of your sessions were \
                 ended. If that was not you, change your password after you log in."
                    .into()
            }
            LoginNotice::Reauthenticate => {
                "This page asks you to log in again before it opens.".into()
            }
            LoginNotice::LoggedOut => "You are logged out.".into(),
            LoginNotice::WrongPassword => "The user name or password is wrong.".into(),
            LoginNotice::Throttled { seconds } => {
                format!("There were too many attempts. Try again in {}.", format_wait(seconds))
            }
            LoginNotice::Busy => {
                "Too many people are logging in right now. Try again in a moment.".into()
            }
            LoginNotice::Stale => "This form has expired. Please try again.".into(),
            LoginNotice::NoCookies => {
                "Your browser did not send the cookie of this form, so the login cannot work. Allow \
                 cookies for this site, then try again."
                    .into()
            }
            LoginNotice::PasswordChanged => {
                "Your password was changed, and all of your sessions were ended. Log in with the new \
                 password."
                    .into()
            }
            LoginNotice::SeveralCookies => {
                "Your browser sent several session cookies for this site, and only one can be yours. \
                 Log in to replace all of them."
                    .into()
            }
            LoginNotice::ForeignCookie => {
                "Your browser sent a session cookie that this site did not issue. Another service \
                 on the same host name may have replaced it. Log in again to continue."
                    .into()
            }
        }
    }

    /// Returns the code for JSON responses.
    pub fn as_str(self) -> &'static str {
        match self {
            LoginNotice::SessionEnded => "session-ended",
            LoginNotice::Idle => "idle",
            LoginNotice::Absolute => "absolute",
            LoginNotice::Theft => "theft",
            LoginNotice::TheftElsewhere => "theft-elsewhere",
            LoginNotice::Reauthenticate => "reauthenticate",
            LoginNotice::LoggedOut => "logout",
            LoginNotice::WrongPassword => "wrong-password",
            LoginNotice::Throttled { .. } => "throttled",
            LoginNotice::Busy => "busy",
            LoginNotice::Stale => "stale-form",
            LoginNotice::NoCookies => "no-cookies",
            LoginNotice::PasswordChanged => "password-changed",
            LoginNotice::SeveralCookies => "duplicate-cookie",
            LoginNotice::ForeignCookie => "invalid-token",
        }
    }

    /// Whether something went wrong, or there is only something to know.
    fn is_error(self) -> bool {
        match self {
            LoginNotice::Theft
            | LoginNotice::TheftElsewhere
            | LoginNotice::WrongPassword
            | LoginNotice::Throttled { .. }
            | LoginNotice::Busy
            | LoginNotice::SeveralCookies
            | LoginNotice::ForeignCookie
            | LoginNotice::NoCookies
            | LoginNotice::Stale => true,
            LoginNotice::SessionEnded
            | LoginNotice::Idle
            | LoginNotice::Absolute
            | LoginNotice::Reauthenticate
            | LoginNotice::PasswordChanged
            | LoginNotice::LoggedOut => false,
        }
    }
}

impl ErrorKind {
    fn title(&self) -> &'static str {
        match self {
            ErrorKind::BadRequest => "This request was rejected",
            ErrorKind::TooManyHeaders => "Too many cookies",
            ErrorKind::BodyTooLarge => "This form is too long",
            ErrorKind::CrossSite => "This form could not be accepted",
            ErrorKind::NotFound => "There is no such page",
            ErrorKind::NoSuchSite => "There is no such site",
            ErrorKind::MethodNotAllowed => "This page does not support that",
            ErrorKind::TooManyAttempts { .. } => "Too many attempts",
            ErrorKind::UpstreamSlow => "The application takes too long",
            ErrorKind::UpstreamDown => "The application does not answer",
            ErrorKind::StoreUnavailable | ErrorKind::Overloaded => "One moment, please",
            ErrorKind::TooManyConnections => "Too many connections",
            ErrorKind::Forbidden { .. } => "You may not open this page",
        }
    }

    /// Returns what happened. For [`ErrorKind::Forbidden`] the template contains the text, with the
    /// user name.
    fn explanation(&self) -> &'static str {
        match self {
            ErrorKind::BadRequest => {
                "The address or another part of the request is invalid or has two meanings, so it was \
                 rejected. Nothing was changed."
            }
            ErrorKind::TooManyHeaders => {
                "Your browser sent more cookies or other headers than this site accepts."
            }
            ErrorKind::BodyTooLarge => {
                "The form is larger than this site accepts. Nothing was changed."
            }
            ErrorKind::CrossSite => {
                "The form has expired, belongs to an ended session, or was sent from another site. \
                 Nothing was changed."
            }
            ErrorKind::NotFound => "Nothing exists at this address.",
            ErrorKind::NoSuchSite => "No site exists under the name in this address.",
            ErrorKind::MethodNotAllowed => "The page does not support this request method.",
            ErrorKind::TooManyAttempts { .. } => {
                "There were too many attempts from your network or for this account."
            }
            ErrorKind::UpstreamSlow => {
                "The application behind this page did not answer in time. What you sent may or may not \
                 have arrived. Your login is not affected."
            }
            ErrorKind::UpstreamDown => {
                "The application behind this page sends no usable answer. Your login is not affected."
            }
            ErrorKind::StoreUnavailable => {
                "Your session cannot be checked right now. Nothing is lost, and if you were logged in \
                 you still are."
            }
            ErrorKind::TooManyConnections => {
                "More connections are open than this site allows. Open connections continue."
            }
            ErrorKind::Overloaded => {
                "The site has more requests than it can serve. Nothing is lost, and if you were logged \
                 in you still are."
            }
            ErrorKind::Forbidden { .. } => "Your account may not open this page.",
        }
    }

    /// Returns what the user can do.
    fn advice(&self) -> String {
        match self {
            ErrorKind::BadRequest => {
                "Check the address for unusual characters, or go back and try again. If the problem \
                 persists, delete the cookies of this site or contact the people who run it."
                    .into()
            }
            ErrorKind::TooManyHeaders => {
                "Delete the cookies of this site in the settings of your browser, then try again.".into()
            }
            ErrorKind::BodyTooLarge => "Go back and shorten what you entered.".into(),
            ErrorKind::CrossSite => "Go back, reload the page and try again.".into(),
            ErrorKind::NotFound | ErrorKind::NoSuchSite => {
                "Check the address for typing errors."
                    .into()
            }
            ErrorKind::MethodNotAllowed => {
                "Go back, and use the links and buttons of the page.".into()
            }
            ErrorKind::TooManyAttempts { seconds } => format!("Try again in {}.", format_wait(*seconds)),
            ErrorKind::UpstreamSlow => {
                "Wait a moment. Before you send a form again, check whether it has arrived.".into()
            }
            ErrorKind::UpstreamDown => {
                "Try again in a few minutes. If the problem persists, contact the people who run this site."
                    .into()
            }
            ErrorKind::StoreUnavailable | ErrorKind::Overloaded => "Try again in a moment.".into(),
            ErrorKind::TooManyConnections => {
                "Close tabs of this site that you do not need, then try again.".into()
            }
            ErrorKind::Forbidden { .. } => {
                "If you need it, ask the people who run this site, or log in with another account."
                    .into()
            }
        }
    }
}

#[derive(Template)]
#[template(path = "sessions.html")]
struct SessionsTemplate<'a> {
    site: &'a str,
    user: &'a str,
    done: Option<&'a str>,
    changes_password: bool,
    csrf: &'a str,
    notices: Vec<NoticeView<'a>>,
    return_link: Option<&'a ReturnLink<'a>>,
    rows: Vec<RowView<'a>>,
}

impl SessionsTemplate<'_> {
    fn has_others(&self) -> bool {
        self.rows.iter().any(|row| !row.is_current)
    }
}

struct RowView<'a> {
    handle: &'a str,
    created: DisplayTime,
    last_used: DisplayTime,
    browser: &'a str,
    network: &'a str,
    is_current: bool,
}

impl<'a> RowView<'a> {
    fn new(row: &'a SessionRow, now: UnixMillis) -> RowView<'a> {
        RowView {
            handle: &row.handle,
            created: DisplayTime::absolute(row.created),
            last_used: DisplayTime::relative(row.last_used, now),
            browser: &row.browser,
            network: &row.network,
            is_current: row.is_current,
        }
    }
}

#[derive(Template)]
#[template(path = "everywhere.html")]
struct EverywhereTemplate<'a> {
    site: &'a str,
    csrf: &'a str,
}

#[derive(Template)]
#[template(path = "framed.html")]
struct FramedTemplate<'a> {
    site: &'a str,
    style: &'a str,
    login: &'a str,
}

#[derive(Template)]
#[template(path = "logout.html")]
struct LogoutTemplate<'a> {
    site: &'a str,
    user: &'a str,
    csrf: &'a str,
}

#[derive(Template)]
#[template(path = "logged_out.html")]
struct LoggedOutTemplate<'a> {
    site: &'a str,
}

/// A time as text, and in the format of the `datetime` attribute.
struct DisplayTime {
    text: String,
    datetime: String,
}

impl DisplayTime {
    /// Formats as `23 Nov 2026, 14:05 UTC`. The time zone of the browser is unknown without a
    /// script.
    fn absolute(at: UnixMillis) -> DisplayTime {
        DisplayTime {
            text: timestamp(at).strftime("%-d %b %Y, %H:%M UTC").to_string(),
            datetime: datetime(at),
        }
    }

    /// Formats as `3 minutes ago`.
    fn relative(at: UnixMillis, now: UnixMillis) -> DisplayTime {
        DisplayTime { text: format_ago(now.since(at)), datetime: datetime(at) }
    }
}

fn datetime(at: UnixMillis) -> String {
    timestamp(at).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Converts a time; values beyond the calendar become its last day.
fn timestamp(at: UnixMillis) -> Timestamp {
    let millis = i64::try_from(at.0).ok();
    millis.and_then(|millis| Timestamp::from_millisecond(millis).ok()).unwrap_or(Timestamp::MAX)
}

fn format_ago(passed: Duration) -> String {
    match passed.as_secs() {
        0..60 => "less than a minute ago".to_owned(),
        seconds => format!("{} ago", format_rounded_down(seconds)),
    }
}

fn format_rounded_down(seconds: u64) -> String {
    match seconds {
        0..60 => count(seconds, "second"),
        60..3_600 => count(seconds / 60, "minute"),
        3_600..86_400 => count(seconds / 3_600, "hour"),
        86_400.. => count(seconds / 86_400, "day"),
    }
}

/// Formats a duration, rounded up: a user who waits that long must not have to wait again.
fn format_wait(seconds: u64) -> String {
    match seconds {
        0..=90 => count(seconds.max(1), "second"),
        91..=5_400 => count(seconds.div_ceil(60), "minute"),
        5_401.. => count(seconds.div_ceil(3_600), "hour"),
    }
}

fn count(number: u64, unit: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {unit}{plural}")
}

#[cfg(test)]
mod tests;
