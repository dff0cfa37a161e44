//! Accounts of external providers that have personal access tokens, as the provider last confirmed them.
//!
//! The gateway cannot ask a provider about an account at every request. A login or a recheck confirms it. A
//! refused recheck removes it, and its tokens are refused until the user logs in again.

use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use crate::clock::UnixMillis;
use crate::session::personal_token::MAX_LIFETIME;
use crate::session::{ExternalLogin, Identity, Provider, UserTag};
use crate::store::Unavailable;

use super::sealed_values::{SealedValues, ValueName, fits};
use super::verified_store::VerifiedStore;

/// Longest time since the last login or recheck in which tokens are accepted.
const MAX_UNCONFIRMED: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The stored account. The default is a removed one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct TokenAccount {
    /// Without the provider, which the next fields hold.
    identity: Identity,
    provider: String,
    account: String,
    claims: Vec<(String, String)>,
    confirmed: UnixMillis,
}

/// The accounts of one worker.
#[derive(Clone)]
pub(super) struct TokenAccounts {
    values: SealedValues,
    store: VerifiedStore,
}

impl TokenAccounts {
    pub(super) fn new(store: VerifiedStore) -> TokenAccounts {
        TokenAccounts { values: SealedValues::new(store.clone()), store }
    }

    /// Stores an account that its provider has just confirmed. Returns false if it is too large.
    pub(super) async fn save(
        &self,
        tag: UserTag,
        identity: &Identity,
    ) -> Result<bool, Unavailable> {
        let Some(account) = TokenAccount::new(identity, self.store.now()) else { return Ok(true) };
        let is_storable = fits(&account);
        self.replace(tag, if is_storable { account } else { TokenAccount::default() }).await?;
        Ok(is_storable)
    }

    /// Removes an account that its provider no longer confirms.
    pub(super) async fn remove(&self, tag: UserTag) -> Result<(), Unavailable> {
        self.replace(tag, TokenAccount::default()).await
    }

    async fn replace(&self, tag: UserTag, account: TokenAccount) -> Result<(), Unavailable> {
        let (name, until) = (HEXLOWER.encode(&tag.0), self.store.now().plus(MAX_LIFETIME));
        let change = |stored: &mut TokenAccount| account.clone_into(stored);
        self.values.update(value_name(&name), until, change).await
    }

    /// Returns the account if it was confirmed in the last 30 days, by a provider of this configuration.
    pub(super) async fn load(&self, tag: UserTag) -> Result<Option<Arc<Identity>>, Unavailable> {
        let name = HEXLOWER.encode(&tag.0);
        let loaded = self.values.load::<TokenAccount>(value_name(&name)).await?;
        let is_current = |account: &TokenAccount| {
            self.store.settings.providers.contains(&account.provider)
                && self.store.now().since(account.confirmed) <= MAX_UNCONFIRMED
        };
        Ok(loaded.value.filter(is_current).map(|account| Arc::new(account.into_identity())))
    }
}

impl TokenAccount {
    /// `None` for an account of the users file.
    fn new(identity: &Identity, confirmed: UnixMillis) -> Option<TokenAccount> {
        let login = identity.provider.external()?;
        Some(TokenAccount {
            identity: Identity { provider: Provider::Password, ..identity.clone() },
            provider: login.provider.clone(),
            account: login.account.clone(),
            claims: login.claims.clone(),
            confirmed,
        })
    }

    /// The `acr` is that of a login, which a token is not.
    fn into_identity(self) -> Identity {
        let TokenAccount { identity, provider, account, claims, confirmed } = self;
        let login =
            ExternalLogin { provider, account, claims, confirmed, ..ExternalLogin::default() };
        Identity { provider: Provider::External(Box::new(login)), ..identity }
    }
}

fn value_name(name: &str) -> ValueName<'_> {
    ValueName { purpose: "account of access tokens", name }
}
