//! The pages as text: from plain values to HTML, without I/O.
//!
//! Every value is escaped by the templates; none of them is ever marked as safe. No page has a script
//! or an inline style, so they work without JavaScript and under the strictest content policy. No page
//! shows anything of the inside: what went wrong is told in words of ours, chosen by kind.

mod notices;

pub use notices::{NoticeRow, SpotRow};

use std::time::Duration;

use askama::Template;
use http::StatusCode;
use jiff::Timestamp;

use crate::clock::UnixMillis;

use notices::NoticeView;

/// The look of all pages, served at `/.doorward/style.css`.
pub const STYLE: &str = include_str!("../../../templates/style.css");

/// The login form.
#[derive(Template)]
#[template(path = "login.html")]
pub struct LoginPage<'a> {
    /// The operator's name for the site; may be empty.
    pub site: &'a str,
    /// The host that the login is for: people look at it before they type a password.
    pub host: &'a str,
    /// Why the form is shown, where there is more to say than "log in".
    pub notice: Option<LoginNotice>,
    /// Where the form goes.
    pub action: &'a str,
    /// Comes back in the field `csrf`.
    pub csrf: &'a str,
    /// Comes back in the field `to`; opaque here.
    pub target: &'a str,
    /// The name typed last time, so that nobody has to type it again.
    pub username: &'a str,
}

/// Why the login form is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginNotice {
    SessionEnded,
    Idle,
    Absolute,
    Theft,
    TheftElsewhere,
    FreshLogin,
    LoggedOut,
    WrongPassword,
    Throttled { seconds: u64 },
    Busy,
    Stale,
}

/// The user's own sessions, each with a button that ends it.
pub struct SessionsPage<'a> {
    pub site: &'a str,
    pub user: &'a str,
    /// Comes back in the field `csrf` of every form.
    pub csrf: &'a str,
    pub now: UnixMillis,
    /// What happened, the newest first.
    pub notices: Vec<NoticeRow>,
    /// Where the user was going, if he comes from the login: the sealed target, and what it opens to.
    pub onward: Option<Onward<'a>>,
    /// In any order: the page shows this one first, then the others, last used first.
    pub sessions: Vec<SessionRow>,
}

/// One session of the list.
pub struct SessionRow {
    /// Comes back in the field `session`.
    pub handle: String,
    pub begun: UnixMillis,
    pub last_used: UnixMillis,
    /// In words, see [`super::browser`].
    pub browser: String,
    /// As people write it: `203.0.113.0/24`.
    pub network: String,
    /// Whether it is the session that asks.
    pub this: bool,
}

/// A target on its way through a page.
pub struct Onward<'a> {
    /// Comes back in the field `to`.
    pub sealed: &'a str,
    /// A path of this site.
    pub href: String,
}

/// Something went wrong, told to a person.
#[derive(Template)]
#[template(path = "error.html")]
pub struct ErrorPage<'a> {
    pub site: &'a str,
    pub status: StatusCode,
    pub kind: &'a ErrorKind,
    /// What the operator finds in the log; empty: not shown.
    pub request: &'a str,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    BadRequest,
    TooLong,
    CrossSite,
    NotFound,
    /// The host is none of ours (404 or 421).
    NoSuchSite,
    MethodNotAllowed,
    TooManyAttempts {
        seconds: u64,
    },
    UpstreamSlow,
    UpstreamDown,
    StoreAway,
    /// Too many live connections.
    Crowded,
    /// More than can be served at once.
    Busy,
    Forbidden {
        user: String,
    },
}

/// The login form.
pub fn login(page: &LoginPage<'_>) -> String {
    html(page)
}

/// The list of the user's sessions.
pub fn sessions(page: &SessionsPage<'_>) -> String {
    let mut rows: Vec<&SessionRow> = page.sessions.iter().collect();
    rows.sort_by_key(|row| (!row.this, std::cmp::Reverse(row.last_used)));
    html(&SessionsView {
        site: page.site,
        user: page.user,
        csrf: page.csrf,
        notices: page.notices.iter().map(|row| NoticeView::new(row, page.now)).collect(),
        onward: page.onward.as_ref(),
        rows: rows.into_iter().map(|row| RowView::new(row, page.now)).collect(),
    })
}

/// Asks whether to log out: a link alone changes nothing.
pub fn logout(site: &str, user: &str, csrf: &str) -> String {
    html(&LogoutView { site, user, csrf })
}

/// No session in this browser any more.
pub fn logged_out(site: &str) -> String {
    html(&LoggedOutView { site })
}

/// An error page.
pub fn error_page(page: &ErrorPage<'_>) -> String {
    html(page)
}

/// Rendering into memory fails only where a value's own formatting does, and ours are text and
/// numbers; an empty page would still carry the status.
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
            LoginNotice::SessionEnded => "Your session has ended. Log in again to go on.".into(),
            LoginNotice::Idle => {
                "You were logged out because you had not been active for a while.".into()
            }
            LoginNotice::Absolute => {
                "You were logged out because your session had reached its longest time.".into()
            }
            LoginNotice::Theft => {
                "Somebody used an old copy of your session. Both were logged out, \
                 to be safe. If that was not you, change your password after you log in."
                    .into()
            }
            LoginNotice::TheftElsewhere => {
                "Somebody used an old copy of another session of yours. All of your sessions were \
                 ended, to be safe. If that was not you, change your password after you log in."
                    .into()
            }
            LoginNotice::FreshLogin => "This page asks you to log in again before it opens.".into(),
            LoginNotice::LoggedOut => "You are logged out.".into(),
            LoginNotice::WrongPassword => "The user name or the password is wrong.".into(),
            LoginNotice::Throttled { seconds } => {
                format!("There were too many attempts. Try again in {}.", wait(seconds))
            }
            LoginNotice::Busy => {
                "Too many people are logging in right now. Try again in a moment.".into()
            }
            LoginNotice::Stale => "This form was too old. Please try again.".into(),
        }
    }

    /// For programs.
    pub fn word(self) -> &'static str {
        match self {
            LoginNotice::SessionEnded => "session-ended",
            LoginNotice::Idle => "idle",
            LoginNotice::Absolute => "absolute",
            LoginNotice::Theft => "theft",
            LoginNotice::TheftElsewhere => "theft-elsewhere",
            LoginNotice::FreshLogin => "reauthenticate",
            LoginNotice::LoggedOut => "logout",
            LoginNotice::WrongPassword => "wrong-password",
            LoginNotice::Throttled { .. } => "throttled",
            LoginNotice::Busy => "busy",
            LoginNotice::Stale => "stale-form",
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
            | LoginNotice::Stale => true,
            LoginNotice::SessionEnded
            | LoginNotice::Idle
            | LoginNotice::Absolute
            | LoginNotice::FreshLogin
            | LoginNotice::LoggedOut => false,
        }
    }
}

impl ErrorKind {
    fn title(&self) -> &'static str {
        match self {
            ErrorKind::BadRequest => "This request could not be read",
            ErrorKind::TooLong => "This form is too long",
            ErrorKind::CrossSite => "This form could not be accepted",
            ErrorKind::NotFound => "There is no such page",
            ErrorKind::NoSuchSite => "There is no such site",
            ErrorKind::MethodNotAllowed => "This page does not work that way",
            ErrorKind::TooManyAttempts { .. } => "Too many attempts",
            ErrorKind::UpstreamSlow => "The application takes too long",
            ErrorKind::UpstreamDown => "The application does not answer",
            ErrorKind::StoreAway | ErrorKind::Busy => "One moment, please",
            ErrorKind::Crowded => "Too many connections",
            ErrorKind::Forbidden { .. } => "You may not open this page",
        }
    }

    /// What happened. For [`ErrorKind::Forbidden`] the template says it, with the user's name.
    fn what(&self) -> &'static str {
        match self {
            ErrorKind::BadRequest => {
                "Your browser sent something that is not allowed or that has two meanings, so it was \
                 not passed on."
            }
            ErrorKind::TooLong => "The form holds more than is accepted here. Nothing was changed.",
            ErrorKind::CrossSite => {
                "It was opened too long ago, belongs to a session that has ended, or was sent from \
                 another site. Nothing was changed."
            }
            ErrorKind::NotFound => "Nothing is known under this address.",
            ErrorKind::NoSuchSite => "No site is served under the name in this address.",
            ErrorKind::MethodNotAllowed => "It was asked in a way that it does not understand.",
            ErrorKind::TooManyAttempts { .. } => {
                "There were too many attempts in a short time, from your network or for this account."
            }
            ErrorKind::UpstreamSlow => {
                "You are logged in if you were before, but the application behind this page did not \
                 answer in time. What you sent may or may not have arrived."
            }
            ErrorKind::UpstreamDown => {
                "The login works, but the application behind this page gives no usable answer."
            }
            ErrorKind::StoreAway => {
                "Your session cannot be checked right now. Nothing is lost, and if you were logged in \
                 you still are."
            }
            ErrorKind::Crowded => {
                "More connections are open than this site allows. Those that are open go on."
            }
            ErrorKind::Busy => {
                "More people are asking than can be answered at once. Nothing is lost, and if you were \
                 logged in you still are."
            }
            ErrorKind::Forbidden { .. } => "Your account may not open this page.",
        }
    }

    /// What the reader can do.
    fn todo(&self) -> String {
        match self {
            ErrorKind::BadRequest => {
                "Go back and try again. If it goes on, delete the cookies of this \
                 site or use another browser."
                    .into()
            }
            ErrorKind::TooLong => "Go back and shorten what you entered.".into(),
            ErrorKind::CrossSite => "Go back, reload the page and try again.".into(),
            ErrorKind::NotFound | ErrorKind::NoSuchSite => {
                "Check the address for typing mistakes, or ask the person who gave it to you."
                    .into()
            }
            ErrorKind::MethodNotAllowed => {
                "Go back, and use the links and buttons of the page.".into()
            }
            ErrorKind::TooManyAttempts { seconds } => format!("Try again in {}.", wait(*seconds)),
            ErrorKind::UpstreamSlow => {
                "Wait a moment. Before you send a form again, look whether it has arrived.".into()
            }
            ErrorKind::UpstreamDown => {
                "Try again in a few minutes. If it goes on, tell the people who run this site."
                    .into()
            }
            ErrorKind::StoreAway | ErrorKind::Busy => "Try again in a moment.".into(),
            ErrorKind::Crowded => {
                "Close tabs of this site that you do not need, and try again in a moment.".into()
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
struct SessionsView<'a> {
    site: &'a str,
    user: &'a str,
    csrf: &'a str,
    notices: Vec<NoticeView<'a>>,
    onward: Option<&'a Onward<'a>>,
    rows: Vec<RowView<'a>>,
}

impl SessionsView<'_> {
    fn has_others(&self) -> bool {
        self.rows.iter().any(|row| !row.this)
    }
}

struct RowView<'a> {
    handle: &'a str,
    begun: Moment,
    last_used: Moment,
    browser: &'a str,
    network: &'a str,
    this: bool,
}

impl<'a> RowView<'a> {
    fn new(row: &'a SessionRow, now: UnixMillis) -> RowView<'a> {
        RowView {
            handle: &row.handle,
            begun: Moment::absolute(row.begun),
            last_used: Moment::relative(row.last_used, now),
            browser: &row.browser,
            network: &row.network,
            this: row.this,
        }
    }
}

#[derive(Template)]
#[template(path = "logout.html")]
struct LogoutView<'a> {
    site: &'a str,
    user: &'a str,
    csrf: &'a str,
}

#[derive(Template)]
#[template(path = "logged_out.html")]
struct LoggedOutView<'a> {
    site: &'a str,
}

/// A time for people, and the same time for programs.
struct Moment {
    words: String,
    datetime: String,
}

impl Moment {
    /// `23 Nov 2026, 14:05 UTC`: without a script nobody knows the reader's own zone.
    fn absolute(at: UnixMillis) -> Moment {
        Moment {
            words: timestamp(at).strftime("%-d %b %Y, %H:%M UTC").to_string(),
            datetime: datetime(at),
        }
    }

    /// `3 minutes ago`.
    fn relative(at: UnixMillis, now: UnixMillis) -> Moment {
        Moment { words: ago(now.since(at)), datetime: datetime(at) }
    }
}

fn datetime(at: UnixMillis) -> String {
    timestamp(at).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Times beyond the calendar are shown as its last day.
fn timestamp(at: UnixMillis) -> Timestamp {
    let millis = i64::try_from(at.0).ok();
    millis.and_then(|millis| Timestamp::from_millisecond(millis).ok()).unwrap_or(Timestamp::MAX)
}

fn ago(passed: Duration) -> String {
    match passed.as_secs() {
        0..60 => "less than a minute ago".to_owned(),
        seconds => format!("{} ago", rounded_down(seconds)),
    }
}

fn rounded_down(seconds: u64) -> String {
    match seconds {
        0..60 => count(seconds, "second"),
        60..3_600 => count(seconds / 60, "minute"),
        3_600..86_400 => count(seconds / 3_600, "hour"),
        86_400.. => count(seconds / 86_400, "day"),
    }
}

/// Rounded up: who comes back after what we said must not be told to wait again.
fn wait(seconds: u64) -> String {
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
