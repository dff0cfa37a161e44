//! Settings of a provider: plain values that the composition root builds from the configuration.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use zeroize::Zeroizing;

use super::claim_path::ClaimPath;
use super::client_key::ClientKey;
use super::web_url::WebUrl;

/// One configured provider.
#[derive(Clone, Debug)]
pub struct OidcSettings {
    /// Name in the configuration and in `/.doorward/oidc/NAME/callback`.
    pub name: String,
    /// Issuer identifier, exactly as the provider writes it in its tokens.
    pub issuer: WebUrl,
    pub client_id: String,
    pub client_auth: ClientAuth,
    /// Scopes beside `openid`.
    pub scopes: Vec<String>,
    pub claims: ClaimMapping,
    pub allow: AllowRules,
    /// Whether claims of the UserInfo endpoint are added to those of the ID token.
    pub userinfo: bool,
    /// Base URL of Microsoft Graph, such as `https://graph.microsoft.com/v1.0`. Without it, a login with
    /// more groups than the token holds is refused.
    pub graph: Option<WebUrl>,
    /// Whether requests are pushed (RFC 9126) even if the provider does not require it.
    pub pushed_requests: bool,
    /// Maximum age of the login at the provider; `None` accepts every age.
    pub max_age: Option<Duration>,
    /// Accepted authentication contexts, best first; empty accepts all.
    pub acr: Vec<String>,
    /// Audiences of access tokens that programs may present; empty accepts no such token.
    pub bearer_audience: Vec<String>,
    /// Timeout of one request to the provider, for connection, TLS and response together.
    pub timeout: Duration,
}

/// Authentication of the gateway at the token endpoint.
#[derive(Clone, Debug)]
pub enum ClientAuth {
    /// A public client, protected by PKCE only.
    None,
    SecretBasic(ClientSecret),
    SecretPost(ClientSecret),
    /// An assertion of at most 60 seconds, signed by this key.
    PrivateKeyJwt(ClientKey),
    /// An assertion that the platform renews, such as a Kubernetes service account token. The file is read
    /// before each request.
    AssertionFile(PathBuf),
}

/// A client secret. `Debug` does not show it.
#[derive(Clone)]
pub struct ClientSecret(Zeroizing<String>);

impl ClientSecret {
    pub fn new(secret: String) -> ClientSecret {
        ClientSecret(Zeroizing::new(secret))
    }

    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ClientSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientSecret(…)")
    }
}

/// Which claims become the identity. The first path with a value wins; groups are united.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimMapping {
    pub user: Vec<ClaimPath>,
    pub name: Vec<ClaimPath>,
    pub email: Vec<ClaimPath>,
    pub groups: Vec<ClaimPath>,
    /// Whether `/a/b` becomes `a/b`, for group paths of Keycloak.
    pub strip_leading_slash: bool,
    /// Whether addresses count as verified although the provider does not send `email_verified`.
    pub trust_email: bool,
}

impl Default for ClaimMapping {
    fn default() -> ClaimMapping {
        let path = |name: &str| ClaimPath::of(&[name]);
        ClaimMapping {
            user: vec![path("preferred_username"), path("email"), path("sub")],
            name: vec![path("name")],
            email: vec![path("email")],
            groups: vec![path("groups")],
            strip_leading_slash: false,
            trust_email: false,
        }
    }
}

/// Conditions on a user. Each list that is not empty must be met; one value of a list suffices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowRules {
    pub groups: Vec<String>,
    /// Domains of verified addresses, without `@`.
    pub domains: Vec<String>,
    /// A claim must have, or contain, one of the values.
    pub claims: Vec<(ClaimPath, Vec<String>)>,
}
