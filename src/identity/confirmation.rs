//! Confirmation of an account at the provider that authenticated its user.

use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::clock::UnixMillis;
use crate::ldap::{LdapDirectory, LdapFailure, LdapRefusal};
use crate::oidc::{RefreshFailure, RefreshRequest};
use crate::session::{
    EndReason, ExternalLogin, Identity, Provider, Record, ldap_account, oidc_subject,
};

use super::external::LoginProvider;
use super::ldap::account_identity;
use super::login_providers::LoginProviders;

/// A provider that confirms accounts.
#[derive(Clone, Debug)]
pub enum Confirmer {
    Oidc(Box<LoginProvider>),
    Ldap(Arc<LdapDirectory>),
}

/// An account that its provider confirmed.
#[derive(Clone, Debug)]
pub struct Confirmation {
    /// A new ID token, if any.
    pub id_token: Option<String>,
    /// What the next confirmation needs: the refresh token, or the name at a directory.
    pub refresh_token: String,
    /// The current data; `None` if the provider sent none that is usable.
    current: Option<Identity>,
}

/// No confirmation. The text is for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfirmFailure {
    /// The provider does not answer. The session continues.
    Unavailable(String),
    /// The session ends.
    Refused { reason: EndReason, error: String },
}

impl Confirmer {
    /// Returns the provider with this name.
    pub fn find(providers: &LoginProviders, name: &str) -> Option<Confirmer> {
        let directory = || providers.ldap.iter().find(|it| it.settings().name == name);
        let oidc = providers.find(name).cloned().map(|it| Confirmer::Oidc(Box::new(it)));
        oidc.or_else(|| directory().cloned().map(Confirmer::Ldap))
    }

    /// Returns the name of the provider in the configuration.
    pub fn name(&self) -> &str {
        match self {
            Confirmer::Oidc(provider) => &provider.settings.name,
            Confirmer::Ldap(directory) => &directory.settings().name,
        }
    }

    /// Returns how often an account must be confirmed; `None` for never.
    pub fn interval(&self) -> Option<Duration> {
        match self {
            Confirmer::Oidc(provider) => provider.settings.recheck,
            Confirmer::Ldap(directory) => Some(directory.settings().recheck),
        }
    }

    /// Returns the maximum time of a confirmation.
    pub fn time(&self) -> Duration {
        match self {
            Confirmer::Oidc(provider) => provider.settings.timeout * 3,
            Confirmer::Ldap(directory) => {
                let servers = u32::try_from(directory.settings().urls.len()).unwrap_or(u32::MAX);
                directory.settings().timeout.saturating_mul(servers)
            }
        }
    }

    /// Confirms the account of a session.
    ///
    /// # Errors
    /// There is no answer, or the account may have no session.
    pub async fn confirm(
        &self,
        record: &Record,
        refresh_token: &str,
        is_in_users_file: bool,
    ) -> Result<Confirmation, ConfirmFailure> {
        let Some(login) = record.identity.provider.external() else {
            return Err(ConfirmFailure::Unavailable("no external account".to_owned()));
        };
        match self {
            Confirmer::Oidc(provider) => refresh(provider, login, refresh_token).await,
            Confirmer::Ldap(_) if is_in_users_file => {
                Err(LdapFailure::from(LdapRefusal::InUsersFile(record.identity.user.clone()))
                    .into())
            }
            Confirmer::Ldap(directory) => {
                Ok(look_up(directory, record, login, refresh_token).await?)
            }
        }
    }
}

async fn refresh(
    provider: &LoginProvider,
    login: &ExternalLogin,
    refresh_token: &str,
) -> Result<Confirmation, ConfirmFailure> {
    let request = RefreshRequest {
        subject: oidc_subject(&login.account).to_owned(),
        refresh_token: Zeroizing::new(refresh_token.to_owned()),
    };
    let refreshed = provider.client.refresh(&request).await?;
    let identity = |profile| provider.identity(profile, &refreshed.claims, login.clone()).ok();
    Ok(Confirmation {
        id_token: refreshed.id_token.as_ref().map(|token| token.to_string()),
        refresh_token: refreshed.refresh_token.to_string(),
        current: refreshed.profile.clone().and_then(identity),
    })
}

/// The name must still lead to the same account, with the same password.
async fn look_up(
    directory: &LdapDirectory,
    record: &Record,
    login: &ExternalLogin,
    name: &str,
) -> Result<Confirmation, LdapFailure> {
    let settings = directory.settings();
    let account = directory.confirm(name).await?;
    if ldap_account(&settings.name, &account.id) != login.account {
        return Err(LdapRefusal::Replaced.into());
    }
    if account.password_changed != record.credential {
        return Err(LdapRefusal::PasswordChanged.into());
    }
    let current = Some(account_identity(settings, account, login.clone())?);
    Ok(Confirmation { id_token: None, refresh_token: name.to_owned(), current })
}

impl Confirmation {
    /// Returns the identity with the current data. The user name stays that of the login, because apps take
    /// another name for another user.
    pub fn applied_to(&self, before: &Identity, now: UnixMillis) -> Identity {
        let Provider::External(login) = &before.provider else { return before.clone() };
        let mut login = ExternalLogin { confirmed: now, ..(**login).clone() };
        let Some(current) = &self.current else {
            return Identity { provider: Provider::External(Box::new(login)), ..before.clone() };
        };
        if let Provider::External(new) = &current.provider {
            login.claims.clone_from(&new.claims);
        }
        Identity {
            user: before.user.clone(),
            provider: Provider::External(Box::new(login)),
            ..current.clone()
        }
    }
}

impl From<RefreshFailure> for ConfirmFailure {
    fn from(failure: RefreshFailure) -> ConfirmFailure {
        let error = failure.to_string();
        match failure {
            RefreshFailure::Unavailable(error) => ConfirmFailure::Unavailable(error.to_string()),
            RefreshFailure::Ended | RefreshFailure::Refused(_) => {
                ConfirmFailure::Refused { reason: EndReason::ProviderEnded, error }
            }
        }
    }
}

impl From<LdapFailure> for ConfirmFailure {
    fn from(failure: LdapFailure) -> ConfirmFailure {
        let error = failure.to_string();
        let reason = match failure {
            LdapFailure::Unavailable(error) => return ConfirmFailure::Unavailable(error),
            LdapFailure::Refused(LdapRefusal::PasswordChanged) => EndReason::CredentialChanged,
            LdapFailure::Refused(_) => EndReason::ProviderEnded,
        };
        ConfirmFailure::Refused { reason, error }
    }
}
