//! The page for a new password.

use askama::Template;

use super::Help;

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
