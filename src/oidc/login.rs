//! The result of a login at a provider.

use serde_json::{Map, Value};
use zeroize::Zeroizing;

use crate::clock::UnixMillis;

/// A verified login. The account is the pair of issuer and subject; all other fields may change.
#[derive(Clone, Debug)]
pub struct OidcLogin {
    pub issuer: String,
    pub subject: String,
    /// Session at the provider (`sid`), which logout tokens name.
    pub provider_session: Option<String>,
    /// Time of the login at the provider, if it sends one.
    pub authenticated: Option<UnixMillis>,
    /// Authentication context of the login.
    pub acr: Option<String>,
    /// Authentication methods of the login.
    pub amr: Vec<String>,
    pub profile: Profile,
    /// All verified claims, of ID token and UserInfo.
    pub claims: Map<String, Value>,
    pub tokens: Tokens,
}

/// The identity that the claim mapping selects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// User name for display and identity headers.
    pub user: String,
    pub name: Option<String>,
    /// Verified address.
    pub email: Option<String>,
    pub groups: Vec<String>,
}

/// Tokens to keep for refresh and logout. `Debug` does not show them.
#[derive(Clone, Default)]
pub struct Tokens {
    /// The ID token as received, for `id_token_hint`.
    pub id_token: Zeroizing<String>,
    pub refresh_token: Option<Zeroizing<String>>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tokens(…)")
    }
}

/// What a session must keep to refresh its tokens.
#[derive(Clone, Debug)]
pub struct RefreshRequest {
    pub subject: String,
    pub refresh_token: Zeroizing<String>,
}

/// The result of a refresh.
#[derive(Clone, Debug)]
pub struct RefreshedLogin {
    /// The current identity; `None` if the provider sent neither an ID token nor UserInfo.
    pub profile: Option<Profile>,
    pub claims: Map<String, Value>,
    /// A new ID token, if any.
    pub id_token: Option<Zeroizing<String>>,
    /// The refresh token for the next refresh. Store it before the new identity is used.
    pub refresh_token: Zeroizing<String>,
}

/// A verified access token of a program.
#[derive(Clone, Debug)]
pub struct AccessToken {
    pub issuer: String,
    pub subject: String,
    pub issued: UnixMillis,
    pub acr: Option<String>,
    pub profile: Profile,
    pub claims: Map<String, Value>,
}

/// A verified logout token: which sessions end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogoutToken {
    pub issuer: String,
    pub subject: Option<String>,
    /// Session at the provider. If present, only its sessions end.
    pub provider_session: Option<String>,
    /// Unique ID for the replay check.
    pub token_id: String,
    /// Until when the ID must be remembered.
    pub expires: UnixMillis,
}

/// The logout request to a provider, after the session has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndSession {
    Redirect(String),
    /// A form that the browser posts, because the URL would be too long.
    Form {
        action: String,
        fields: Vec<(&'static str, String)>,
    },
}

/// Parameters of a logout at the provider.
#[derive(Clone, Debug, Default)]
pub struct EndSessionRequest {
    pub id_token_hint: Option<Zeroizing<String>>,
    pub logout_hint: Option<String>,
    /// A registered URL, to which the provider returns.
    pub post_logout_redirect_uri: Option<String>,
    pub state: Option<String>,
}
