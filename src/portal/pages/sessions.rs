//! The page with the sessions of a user.

use std::cmp::Reverse;

use askama::Template;

use crate::clock::UnixMillis;

use super::notices::NoticeRow;
use super::times::DisplayTime;

/// The list of a user's sessions.
#[derive(Template)]
#[template(path = "sessions.html")]
pub struct SessionsPage<'a> {
    pub site: &'a str,
    pub user: &'a str,
    /// What the last form did.
    pub done: Option<&'a str>,
    /// Whether the user can change their password here.
    pub changes_password: bool,
    /// Whether the user can create personal access tokens.
    pub has_tokens: bool,
    /// Whether the user can have a second factor.
    pub has_second_factor: bool,
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

impl SessionsPage<'_> {
    fn sorted(&self) -> Vec<&SessionRow> {
        let mut rows: Vec<&SessionRow> = self.sessions.iter().collect();
        rows.sort_by_key(|row| (!row.is_current, Reverse(row.last_used)));
        rows
    }

    fn has_others(&self) -> bool {
        self.sessions.iter().any(|row| !row.is_current)
    }

    fn absolute(&self, at: &UnixMillis) -> DisplayTime {
        DisplayTime::absolute(*at)
    }

    fn relative(&self, at: &UnixMillis) -> DisplayTime {
        DisplayTime::relative(*at, self.now)
    }
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
