//! The user of a session, and the provider that authenticated them.

use serde::{Deserialize, Serialize};

use super::extension::Extension;
use crate::clock::UnixMillis;

/// The user of a session, as established at login.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Identity {
    /// User name. Unique among the accounts of the users file; see [`Identity::account`].
    pub user: String,
    pub name: Option<String>,
    pub email: Option<String>,
    pub groups: Vec<String>,
    /// Extensions 1 to 6 of format 5; absent for the password provider.
    #[serde(skip)]
    pub provider: Provider,
}

/// The identity provider that authenticated the user.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Provider {
    /// The users file.
    #[default]
    Password,
    External(Box<ExternalLogin>),
}

/// A login at an external provider.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ExternalLogin {
    /// Name of the provider in the configuration.
    pub provider: String,
    /// Unique ID of the account; see [`oidc_account`]. Empty in records of versions without it, where the
    /// user name is the account.
    pub account: String,
    /// Authentication context class that the provider reported.
    pub acr: Option<String>,
    /// Keyed hash of the session ID at the provider; zero if the provider named none.
    pub provider_session: [u8; 8],
    /// When the provider last confirmed the account.
    pub confirmed: UnixMillis,
    /// Claims for templates of routes: name and value, by ascending name.
    pub claims: Vec<(String, String)>,
}

/// Name of the login with a password, beside the names of external providers.
pub const PASSWORD_METHOD: &str = "password";

/// Name of the login with a client certificate.
pub const CERTIFICATE_METHOD: &str = "certificate";

/// Returns the account ID of a subject of an OpenID Connect issuer. An issuer has no fragment, and a name in
/// the users file no colon, so no two accounts have the same ID.
pub fn oidc_account(issuer: &str, subject: &str) -> String {
    format!("oidc:{issuer}#{subject}")
}

/// Returns the account ID of an entry in an LDAP directory. The name of a directory has no `#`.
pub fn ldap_account(directory: &str, id: &str) -> String {
    format!("ldap:{directory}#{id}")
}

/// Returns the subject of [`oidc_account`].
pub fn oidc_subject(account: &str) -> &str {
    account.split_once('#').map_or("", |(_, subject)| subject)
}

impl Identity {
    /// Returns the unique ID of the account. The tag of a session key is derived from it.
    pub fn account(&self) -> &str {
        match &self.provider {
            Provider::External(login) if !login.account.is_empty() => &login.account,
            Provider::External(_) | Provider::Password => &self.user,
        }
    }

    /// Returns the value of a claim that the provider sent for the templates of routes.
    pub fn claim(&self, name: &str) -> Option<&str> {
        let claims = &self.provider.external()?.claims;
        let index = claims.binary_search_by(|(other, _)| other.as_str().cmp(name)).ok()?;
        claims.get(index).map(|(_, value)| value.as_str())
    }
}

impl Provider {
    /// Returns the name of the login method.
    pub fn method(&self) -> &str {
        self.external().map_or(PASSWORD_METHOD, |login| &login.provider)
    }

    /// Returns the login at an external provider.
    pub fn external(&self) -> Option<&ExternalLogin> {
        match self {
            Provider::Password => None,
            Provider::External(login) => Some(login),
        }
    }

    /// Returns the extensions of format 5, by ascending ID.
    pub(crate) fn extensions(&self) -> Vec<Extension> {
        let Some(login) = self.external() else { return Vec::new() };
        let mut values = vec![(PROVIDER, login.provider.clone().into_bytes())];
        if !login.account.is_empty() {
            values.push((ACCOUNT, login.account.clone().into_bytes()));
        }
        values.extend(login.acr.as_ref().map(|acr| (ACR, acr.clone().into_bytes())));
        if login.confirmed != UnixMillis(0) {
            values.push((CONFIRMED, login.confirmed.0.to_be_bytes().to_vec()));
        }
        if login.provider_session != [0; 8] {
            values.push((PROVIDER_SESSION, login.provider_session.to_vec()));
        }
        if !login.claims.is_empty() {
            values.push((CLAIMS, postcard::to_allocvec(&login.claims).unwrap_or_default()));
        }
        values.into_iter().map(|(id, value)| Extension { id, value }).collect()
    }

    /// Applies an extension. Returns false for the extension of a later version, and `None` if the value is
    /// malformed or the name of the provider is missing.
    pub(crate) fn apply(&mut self, extension: &Extension) -> Option<bool> {
        let value = &extension.value;
        let text = || String::from_utf8(value.clone()).ok();
        if extension.id == PROVIDER {
            let login = ExternalLogin { provider: text()?, ..ExternalLogin::default() };
            *self = Provider::External(Box::new(login));
            return Some(true);
        }
        if !(ACCOUNT..=CLAIMS).contains(&extension.id) {
            return Some(false);
        }
        let Provider::External(login) = self else { return None };
        match extension.id {
            ACCOUNT => login.account = text()?,
            ACR => login.acr = Some(text()?),
            CONFIRMED => {
                let time = value.as_slice().try_into().ok()?;
                login.confirmed = UnixMillis(u64::from_be_bytes(time));
            }
            PROVIDER_SESSION => login.provider_session = value.as_slice().try_into().ok()?,
            _ => {
                login.claims = postcard::from_bytes(value).ok()?;
                if !login.claims.is_sorted_by(|(one, _), (next, _)| one < next) {
                    return None;
                }
            }
        }
        Some(true)
    }
}

// IDs of extensions.
const PROVIDER: u16 = 1;
const ACCOUNT: u16 = 2;
const ACR: u16 = 3;
const CONFIRMED: u16 = 4;
const PROVIDER_SESSION: u16 = 5;
const CLAIMS: u16 = 6;
