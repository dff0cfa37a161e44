//! The external providers of one configuration.

use super::external::LoginProvider;
use super::ldap::LdapLogins;

/// The providers of one configuration, in the order of the file.
#[derive(Clone, Debug, Default)]
pub struct LoginProviders {
    oidc: Vec<LoginProvider>,
    /// Directories, for the form with name and password.
    pub ldap: LdapLogins,
}

impl LoginProviders {
    pub fn new(oidc: Vec<LoginProvider>, ldap: LdapLogins) -> LoginProviders {
        LoginProviders { oidc, ldap }
    }

    pub fn iter(&self) -> impl Iterator<Item = &LoginProvider> {
        self.oidc.iter()
    }

    /// Returns whether a provider has this name.
    pub fn contains(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// Returns the provider with this name.
    pub fn find(&self, name: &str) -> Option<&LoginProvider> {
        self.oidc.iter().find(|provider| provider.settings.name == name)
    }
}
