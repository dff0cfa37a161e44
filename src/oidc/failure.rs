//! Why a request to a provider, a login or a logout token fails. *Unavailable* and *refused* are never
//! mixed: the first becomes a 503, the second a page or a 400.

use std::io;

use http::StatusCode;

use super::web_url::WebUrlError;
use crate::http_client::HttpClientError;

/// A request to the provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Discovery,
    Keys,
    PushedRequest,
    Token,
    UserInfo,
    GroupLookup,
}

impl Step {
    pub fn as_str(self) -> &'static str {
        match self {
            Step::Discovery => "discovery",
            Step::Keys => "keys",
            Step::PushedRequest => "pushed authorization request",
            Step::Token => "token request",
            Step::UserInfo => "UserInfo request",
            Step::GroupLookup => "group look-up",
        }
    }
}

/// The provider cannot be used for now: nothing is decided about the user.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", step.as_str())]
pub struct ProviderUnavailable {
    pub step: Step,
    pub problem: ProviderProblem,
}

/// What is wrong with a response of the provider.
#[derive(Debug, thiserror::Error)]
pub enum ProviderProblem {
    #[error(transparent)]
    Http(#[from] HttpClientError),
    #[error("status {status}{}", detail(error))]
    Status { status: StatusCode, error: Option<String> },
    #[error("the response is invalid: {0}")]
    Answer(&'static str),
    #[error("the response names another issuer, `{0}`; write the issuer as the provider does")]
    Issuer(String),
    #[error("`{0}` is missing in the response")]
    Missing(&'static str),
    #[error("`{field}` in the response: {error}")]
    Url { field: &'static str, error: WebUrlError },
    #[error("the provider does not support {0}")]
    Unsupported(&'static str),
    #[error("the client assertion cannot be made: {0}")]
    Assertion(io::Error),
    #[error("{0}")]
    Earlier(String),
}

fn detail(error: &Option<String>) -> String {
    error.as_ref().map_or_else(String::new, |error| format!(", {error}"))
}

/// Why a login failed.
#[derive(Debug, thiserror::Error)]
pub enum LoginFailure {
    #[error(transparent)]
    Unavailable(#[from] ProviderUnavailable),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Refused(#[from] LoginRefusal),
}

/// Why the state of a callback is not accepted: the user starts again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    #[error("the state was not created for this browser and provider")]
    Foreign,
    #[error("the login took longer than an hour")]
    Expired,
}

/// Why a login is refused. The text is for the log; [`LoginRefusal::code`] labels metrics and pages.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoginRefusal {
    #[error("the callback is invalid: {0}")]
    Callback(&'static str),
    #[error("the callback names issuer `{0}`")]
    CallbackIssuer(String),
    #[error("the provider reports `{code}`{}", described(description))]
    Provider { code: String, description: Option<String> },
    #[error("the provider refused the code: `{0}`")]
    Code(String),
    #[error("the ID token is invalid: {0}")]
    IdToken(&'static str),
    #[error("the login at the provider is older than requested")]
    TooOld,
    #[error("the login at the provider does not have a requested authentication context")]
    Context,
    #[error("the claims are unusable: {0}")]
    Claims(String),
    #[error("the token does not hold all groups; set `graph` to look them up")]
    GroupOverage,
    #[error("no allow rule admits the user `{0}`")]
    NotAllowed(String),
}

fn described(description: &Option<String>) -> String {
    description.as_ref().map_or_else(String::new, |text| format!(": {text}"))
}

impl LoginRefusal {
    /// Returns a short code without data of the request.
    pub fn code(&self) -> &'static str {
        match self {
            LoginRefusal::Callback(_) | LoginRefusal::CallbackIssuer(_) => "callback",
            LoginRefusal::Provider { code, .. } if code == "access_denied" => "cancelled",
            LoginRefusal::Provider { .. } => "provider",
            LoginRefusal::Code(_) => "code",
            LoginRefusal::IdToken(_) => "id-token",
            LoginRefusal::TooOld => "too-old",
            LoginRefusal::Context => "context",
            LoginRefusal::Claims(_) => "claims",
            LoginRefusal::GroupOverage => "groups",
            LoginRefusal::NotAllowed(_) => "not-allowed",
        }
    }
}

impl LoginFailure {
    /// Returns a short code for metrics and logs.
    pub fn code(&self) -> &'static str {
        match self {
            LoginFailure::Unavailable(_) => "unavailable",
            LoginFailure::State(_) => "stale",
            LoginFailure::Refused(refusal) => refusal.code(),
        }
    }

    /// Returns what the user reads: what happened, and what to do.
    pub fn user_text(&self) -> &'static str {
        match self {
            LoginFailure::Unavailable(_) => {
                "The login service does not respond. Please try again in a minute."
            }
            LoginFailure::State(_) => {
                "This login was started too long ago or in another browser. Please log in again."
            }
            LoginFailure::Refused(refusal) => refusal.user_text(),
        }
    }
}

impl LoginRefusal {
    fn user_text(&self) -> &'static str {
        match self.code() {
            "cancelled" => "The login was cancelled. You can log in again.",
            "not-allowed" => {
                "Your account is not admitted here. Please log in with another account, or ask the operator."
            }
            "too-old" | "context" => {
                "This page requires a new or stronger login. Please log in again at the login service."
            }
            "claims" | "groups" => {
                "The login service did not send the required data about your account. Please ask the operator."
            }
            _ => {
                "The login could not be verified. Please log in again. If that fails, ask the operator."
            }
        }
    }
}

/// Why a token request has no result.
#[derive(Debug)]
pub(super) enum TokenFailure {
    Unavailable(ProviderUnavailable),
    /// `invalid_grant`: the code or refresh token is not valid, or not any more.
    InvalidGrant,
}

/// Why the tokens of a session cannot be refreshed.
#[derive(Debug, thiserror::Error)]
pub enum RefreshFailure {
    /// Keep the session and try later.
    #[error(transparent)]
    Unavailable(#[from] ProviderUnavailable),
    /// The provider ended the grant (`invalid_grant`): end the session.
    #[error("the provider ended the login")]
    Ended,
    /// The new claims are not accepted: end the session.
    #[error(transparent)]
    Refused(#[from] LoginRefusal),
}

impl From<TokenFailure> for RefreshFailure {
    fn from(failure: TokenFailure) -> RefreshFailure {
        match failure {
            TokenFailure::Unavailable(unavailable) => RefreshFailure::Unavailable(unavailable),
            TokenFailure::InvalidGrant => RefreshFailure::Ended,
        }
    }
}

impl From<LoginFailure> for RefreshFailure {
    fn from(failure: LoginFailure) -> RefreshFailure {
        match failure {
            LoginFailure::Unavailable(unavailable) => RefreshFailure::Unavailable(unavailable),
            LoginFailure::Refused(refusal) => RefreshFailure::Refused(refusal),
            // A refresh has no state.
            LoginFailure::State(_) => RefreshFailure::Refused(LoginRefusal::Callback("no state")),
        }
    }
}

/// Why an access token of a program is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum AccessTokenFailure {
    /// Respond with 503.
    #[error(transparent)]
    Unavailable(#[from] ProviderUnavailable),
    #[error("it has expired")]
    Expired,
    #[error("{0}")]
    Invalid(String),
    /// No allow rule admits the user: respond with 403.
    #[error("no allow rule admits the user `{0}`")]
    NotAllowed(String),
}

impl From<&'static str> for AccessTokenFailure {
    fn from(reason: &'static str) -> AccessTokenFailure {
        AccessTokenFailure::Invalid(reason.to_owned())
    }
}

impl From<LoginRefusal> for AccessTokenFailure {
    fn from(refusal: LoginRefusal) -> AccessTokenFailure {
        if let LoginRefusal::NotAllowed(user) = refusal {
            AccessTokenFailure::NotAllowed(user)
        } else {
            AccessTokenFailure::Invalid(refusal.to_string())
        }
    }
}

/// Why a logout token is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum LogoutTokenFailure {
    /// Respond with 503, so that the provider repeats the request.
    #[error(transparent)]
    Unavailable(#[from] ProviderUnavailable),
    /// Respond with 400.
    #[error("the logout token is invalid: {0}")]
    Refused(&'static str),
}
