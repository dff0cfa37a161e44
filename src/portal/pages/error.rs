//! Error pages: what happened and what the user can do, in fixed texts.

use askama::Template;
use http::StatusCode;

use super::Help;
use super::times::format_wait;

/// An error page.
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

impl ErrorKind {
    pub(super) fn title(&self) -> &'static str {
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
    pub(super) fn advice(&self) -> String {
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
