//! Logins at OpenID Connect providers: the providers of the configuration, and the identity of their users.

use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::clock::UnixMillis;
use crate::config;
use crate::oidc::{OidcLogin, OidcProvider, Profile};
use crate::secret::LoginKey;
use crate::session::identity_fields::check_user_name;
use crate::session::{ExternalLogin, Identity, Provider, oidc_account};

use super::kept_claims;
use super::login_method::{ExternalFacts, VerifiedLogin};

/// A provider of the configuration.
#[derive(Clone)]
pub struct LoginProvider {
    pub settings: config::OidcSection,
    pub client: Arc<OidcProvider>,
    /// Names of the claims that templates of routes contain, by ascending name.
    pub kept_claims: Arc<[String]>,
}

impl fmt::Debug for LoginProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LoginProvider({})", self.settings.name)
    }
}

impl LoginProvider {
    /// Returns the login for which a session can be created.
    ///
    /// # Errors
    /// The user name is not acceptable; the text is for the log.
    pub fn verified(
        &self,
        login: OidcLogin,
        key: &LoginKey,
        now: UnixMillis,
    ) -> Result<VerifiedLogin, String> {
        let session = login.provider_session.as_deref().map(|sid| session_name(&login.issuer, sid));
        let external = ExternalLogin {
            provider: self.settings.name.clone(),
            account: oidc_account(&login.issuer, &login.subject),
            acr: login.acr,
            provider_session: session.as_deref().map_or([0; 8], |name| hash_session(key, name)),
            confirmed: now,
            claims: Vec::new(),
        };
        let identity = self.identity(login.profile, &login.claims, external)?;
        let facts = ExternalFacts {
            provider_session: session,
            authenticated: login.authenticated.unwrap_or_default(),
            id_token: login.tokens.id_token.to_string(),
            refresh_token: login.tokens.refresh_token.map(|token| token.to_string()),
        };
        Ok(VerifiedLogin {
            identity: Arc::new(identity),
            credential_digest: [0; 8],
            second_factor: self.settings.second_factor,
            external: Some(Box::new(facts)),
        })
    }

    /// Returns the identity of a profile with the claims for templates of routes.
    ///
    /// # Errors
    /// The user name or a claim is not acceptable; the text is for the log.
    pub fn identity(
        &self,
        profile: Profile,
        claims: &Map<String, Value>,
        login: ExternalLogin,
    ) -> Result<Identity, String> {
        let claims = kept_claims::select(claims, &self.kept_claims)?;
        identity(&self.settings.user_prefix, profile, ExternalLogin { claims, ..login })
    }
}

/// Returns the identity of a profile, whose fields are checked already.
///
/// # Errors
/// The user name is too long with its prefix; the text is for the log.
pub(super) fn identity(
    prefix: &str,
    profile: Profile,
    login: ExternalLogin,
) -> Result<Identity, String> {
    let user = format!("{prefix}{}", profile.user);
    check_user_name(&user).map_err(|error| format!("the user name `{user}`: {error}"))?;
    Ok(Identity {
        user,
        name: profile.name,
        email: profile.email,
        groups: profile.groups,
        provider: Provider::External(Box::new(login)),
    })
}

/// Returns the name of a session at a provider, for the index of its sessions here.
pub fn session_name(issuer: &str, session: &str) -> String {
    format!("{issuer}\n{session}")
}

/// Returns the hash of a session's name that the session record contains.
pub fn hash_session(key: &LoginKey, name: &str) -> [u8; 8] {
    key.tag("provider session in a record", name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_of_a_provider_precedes_its_user_names() {
        let of = |user: &str| {
            let profile = Profile { user: user.to_owned(), ..Profile::default() };
            identity("corp-", profile, ExternalLogin::default())
        };
        assert_eq!(of("alice").expect("a name").user, "corp-alice");
        assert!(of(&"x".repeat(124)).is_err(), "longer than 128 bytes with the prefix");
    }
}
