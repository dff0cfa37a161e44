//! Reasons for a denied request.

use crate::session::{EndReason, Refusal, TokenRefusal};
use crate::sessions::verified_store::LoadError;
use crate::store::Unavailable;

/// Reason for a denied request. The response follows from it; none deletes the cookie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DenyReason {
    /// The request has no session cookie.
    NoSession,
    /// The request has several session cookies: another site may have set one.
    DuplicateCookie,
    /// The cookie is no token with a valid MAC; it is never looked up.
    Forged,
    /// The store has no such session.
    UnknownSession,
    /// The session ended for this reason.
    Ended(EndReason),
    /// The decision refused the token.
    Refused(Refusal),
    /// The session record cannot be decrypted or decoded.
    Undecryptable,
    /// The personal access token is not valid for the request.
    Token(TokenRefusal),
    /// The access rule of the route excludes the user.
    Forbidden { user: String },
    /// The keys of the provider that issued the token are unavailable: 503.
    ProviderUnavailable,
    /// The route or the user needs a second factor, which the session does not have.
    SecondFactor,
    /// The store is unavailable: 503, and the session is kept.
    Unavailable(Unavailable),
}

impl From<Unavailable> for DenyReason {
    fn from(error: Unavailable) -> DenyReason {
        DenyReason::Unavailable(error)
    }
}

impl From<TokenRefusal> for DenyReason {
    fn from(refusal: TokenRefusal) -> DenyReason {
        DenyReason::Token(refusal)
    }
}

impl From<LoadError> for DenyReason {
    fn from(error: LoadError) -> DenyReason {
        match error {
            LoadError::Missing => DenyReason::UnknownSession,
            LoadError::Ended(reason) => DenyReason::Ended(reason),
            LoadError::Undecryptable => DenyReason::Undecryptable,
            LoadError::Unavailable(error) => DenyReason::Unavailable(error),
        }
    }
}

impl DenyReason {
    /// Returns the code for logs and for `reason` in JSON responses.
    pub fn as_str(&self) -> &'static str {
        match self {
            DenyReason::NoSession => "no-session",
            DenyReason::DuplicateCookie => "duplicate-cookie",
            DenyReason::Forged => "invalid-token",
            DenyReason::UnknownSession => "unknown-session",
            DenyReason::Ended(reason) => reason.as_str(),
            DenyReason::Refused(refusal) => refusal.as_str(),
            DenyReason::Undecryptable => "undecryptable",
            DenyReason::Token(refusal) => refusal.as_str(),
            DenyReason::Forbidden { .. } => "forbidden",
            DenyReason::ProviderUnavailable => "provider-unavailable",
            DenyReason::SecondFactor => "second-factor",
            DenyReason::Unavailable(_) => "store-unavailable",
        }
    }
}
