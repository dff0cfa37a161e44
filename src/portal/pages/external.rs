//! Pages of logins at external providers.

use askama::Template;

use super::Help;
use crate::oidc::EndSession;

/// A link to the login at an external provider.
#[derive(Clone, Debug)]
pub struct ProviderButton<'a> {
    pub label: &'a str,
    pub href: String,
    /// Whether the provider did not respond to the latest request.
    pub is_down: bool,
}

/// The logout at a provider that follows one here.
pub struct ProviderLogout<'a> {
    /// Label of the provider.
    pub label: &'a str,
    pub action: &'a EndSession,
}

/// The page after a failed login at an external provider.
#[derive(Template)]
#[template(path = "login_failed.html")]
pub struct LoginFailedPage<'a> {
    pub site: &'a str,
    /// Label of the provider.
    pub provider: &'a str,
    /// What happened, and what the user can do.
    pub text: &'a str,
    /// URL of the login page.
    pub login: &'a str,
    /// Code of the reason, for support.
    pub code: &'a str,
    /// Request ID.
    pub request: &'a str,
    pub help: Option<&'a Help>,
}

/// A page that loads a URL of this origin.
#[derive(Template)]
#[template(path = "continue.html")]
pub struct ContinuePage<'a> {
    pub site: &'a str,
    pub url: &'a str,
}

/// The page after a logout.
#[derive(Template)]
#[template(path = "logged_out.html")]
pub struct LoggedOutPage<'a> {
    pub site: &'a str,
    /// The way to the logout at a provider.
    pub provider: Option<&'a ProviderLogout<'a>>,
}
