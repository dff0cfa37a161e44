//! Logins at OpenID Connect providers: the providers of the configuration, and the identity of their users.

use std::fmt;
use std::sync::Arc;

use crate::clock::UnixMillis;
use crate::config;
use crate::oidc::{OidcLogin, OidcProvider, Profile};
use crate::secret::LoginKey;
use crate::session::identity_fields::{
    check_display_name, check_email, check_external_group, check_user_name,
};
use crate::session::{ExternalLogin, Identity, Provider, oidc_account};

use super::login_method::{ExternalFacts, VerifiedLogin};

/// A provider of the configuration.
#[derive(Clone)]
pub struct LoginProvider {
    pub settings: config::OidcSection,
    pub client: Arc<OidcProvider>,
}

impl fmt::Debug for LoginProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LoginProvider({})", self.settings.name)
    }
}

/// The providers of one configuration, in the order of the file.
#[derive(Clone, Debug, Default)]
pub struct LoginProviders(Vec<LoginProvider>);

impl LoginProviders {
    pub fn new(providers: Vec<LoginProvider>) -> LoginProviders {
        LoginProviders(providers)
    }

    pub fn iter(&self) -> impl Iterator<Item = &LoginProvider> {
        self.0.iter()
    }

    /// Returns the provider with this name.
    pub fn find(&self, name: &str) -> Option<&LoginProvider> {
        self.0.iter().find(|provider| provider.settings.name == name)
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
        };
        let identity = identity(&self.settings.user_prefix, login.profile, external)?;
        let facts = ExternalFacts {
            provider_session: session,
            authenticated: login.authenticated.unwrap_or_default(),
            id_token: login.tokens.id_token.to_string(),
            refresh_token: login.tokens.refresh_token.map(|token| token.to_string()),
        };
        Ok(VerifiedLogin {
            identity: Arc::new(identity),
            credential_digest: [0; 8],
            external: Some(Box::new(facts)),
        })
    }
}

/// Returns the identity of a profile. Values that identity headers cannot represent are left out.
///
/// # Errors
/// The user name is not acceptable; the text is for the log.
pub fn identity(prefix: &str, profile: Profile, login: ExternalLogin) -> Result<Identity, String> {
    let user = format!("{prefix}{}", profile.user);
    check_user_name(&user).map_err(|error| format!("the user name `{user}`: {error}"))?;
    let groups = profile.groups.into_iter();
    Ok(Identity {
        user,
        name: profile.name.filter(|name| check_display_name(name).is_ok()),
        email: profile.email.filter(|email| check_email(email).is_ok()),
        groups: groups.filter(|group| check_external_group(group).is_ok()).collect(),
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

    fn of(prefix: &str, profile: Profile) -> Result<Identity, String> {
        identity(prefix, profile, ExternalLogin::default())
    }

    fn profile(user: &str, groups: &[&str]) -> Profile {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        Profile { user: user.to_owned(), groups, ..Profile::default() }
    }

    #[test]
    fn the_prefix_of_a_provider_precedes_its_user_names() {
        let alice = of("corp-", profile("alice", &[])).expect("a name");
        assert_eq!(alice.user, "corp-alice");
    }

    #[test]
    fn a_user_name_that_other_programs_would_split_is_refused() {
        for name in ["a,b", "a:b", "", " a", "a\nb", &"x".repeat(129)] {
            assert!(of("", profile(name, &[])).is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_group_that_would_read_as_two_is_left_out() {
        let found = of("", profile("a", &["app:read", "x,admin", "/a/b", "c\r\nd", ""]));
        assert_eq!(found.expect("a user").groups, ["app:read", "/a/b"]);
    }

    #[test]
    fn an_unusable_name_or_address_is_left_out() {
        let (name, email) = (Some("A\nB".to_owned()), Some("a@b@c".to_owned()));
        let found = of("", Profile { name, email, ..profile("a", &[]) }).expect("a user");
        assert_eq!((found.name, found.email), (None, None));
    }
}
