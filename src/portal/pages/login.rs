//! The login page and its messages.

use askama::Template;

use super::Help;
use super::external::ProviderButton;
use super::times::format_wait;

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
    pub providers: Vec<ProviderButton<'a>>,
    /// Whether there is a form for name and password.
    pub has_password: bool,
    pub help: Option<&'a Help>,
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
    /// The password is right, but the account may not log in.
    AccountRefused,
    /// A directory does not answer.
    Unavailable,
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

impl LoginPage<'_> {
    fn refused(&self) -> bool {
        self.notice == Some(LoginNotice::WrongPassword)
    }
}

impl LoginNotice {
    pub(super) fn text(self) -> String {
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
            LoginNotice::AccountRefused => {
                "Your password is right, but your account cannot log in here. It may be disabled, need a new \
                 password, or lack a permission. Ask the administrators."
                    .into()
            }
            LoginNotice::Unavailable => {
                "Logging in is not possible right now, because the user directory does not respond. Try \
                 again in a minute."
                    .into()
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
            LoginNotice::AccountRefused => "account-refused",
            LoginNotice::Unavailable => "unavailable",
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
            | LoginNotice::AccountRefused
            | LoginNotice::Unavailable
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
