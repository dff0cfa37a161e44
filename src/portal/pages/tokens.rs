//! The page with the personal access tokens of a user.

use askama::Template;

/// The personal access tokens of a user.
#[derive(Template)]
#[template(path = "tokens.html")]
pub struct TokensPage<'a> {
    pub site: &'a str,
    pub user: &'a str,
    pub csrf: &'a str,
    /// The token that was just created; empty otherwise. It is shown only once.
    pub token: &'a str,
    /// Why no token was created; empty otherwise.
    pub error: &'a str,
    /// Routes that accept tokens.
    pub routes: &'a [String],
    pub rows: Vec<TokenRow>,
}

/// One token in the list.
pub struct TokenRow {
    /// Value of the hidden field `token`.
    pub handle: String,
    pub name: String,
    pub expires: String,
    pub last_used: String,
    /// Routes, methods and networks; empty for no restriction.
    pub limits: String,
}
