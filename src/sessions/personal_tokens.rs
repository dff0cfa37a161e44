//! Creates, lists, deletes and verifies personal access tokens.
//!
//! The grants of a user are one sealed value in the store. A token has no session: it is live as long as its
//! grant is stored, its account is enabled, and no revocation of the user's sessions is later than the token.
//! An account of the users file is looked up there, an account of a provider in `token_accounts`.

use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXLOWER;
use zeroize::Zeroizing;

use crate::clock::UnixMillis;
use crate::session::personal_token::{MAX_LIFETIME, MAX_TOKENS};
use crate::session::{
    Identity, PersonalToken, SessionId, SessionKey, TokenGrant, TokenId, TokenRefusal, TokenScope,
    TokenUse, UserTag,
};
use crate::store::Unavailable;
use crate::telemetry::SessionEvent;
use crate::telemetry::events::EventContext;

use super::accounts::Accounts;
use super::global_revocation;
use super::sealed_values::{SealedValues, ValueName};
use super::token_accounts::TokenAccounts;
use super::token_throttle::TokenThrottle;
use super::verified_store::VerifiedStore;

/// Maximum length of a token's name in bytes.
const NAME_MAX: usize = 64;

/// The token that a user or an operator wants.
#[derive(Clone, Debug)]
pub struct NewGrant {
    /// The current identity of the user.
    pub identity: Arc<Identity>,
    pub name: String,
    pub scope: TokenScope,
    pub lifetime: Duration,
}

/// Why no token was created.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenCreationError {
    #[error("the name must have 1 to {NAME_MAX} bytes, without control characters")]
    Name,
    #[error("the user has {MAX_TOKENS} tokens; delete one first")]
    TooMany,
    #[error(
        "the users file has no enabled account of this name; users of a provider create tokens on their sessions page"
    )]
    Account,
    #[error("the account has too many groups for a token")]
    TooLarge,
    #[error("{0}")]
    Unavailable(#[from] Unavailable),
}

/// Why a token admits no request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenDenial {
    Refused(TokenRefusal),
    Unavailable(Unavailable),
}

impl From<Unavailable> for TokenDenial {
    fn from(error: Unavailable) -> TokenDenial {
        TokenDenial::Unavailable(error)
    }
}

/// The personal access tokens of all users.
#[derive(Clone)]
pub struct PersonalTokens {
    values: SealedValues,
    throttle: TokenThrottle,
    accounts: TokenAccounts,
    names: Accounts,
    store: VerifiedStore,
}

impl PersonalTokens {
    pub(super) fn new(store: VerifiedStore) -> PersonalTokens {
        PersonalTokens {
            values: SealedValues::new(store.clone()),
            throttle: TokenThrottle::new(store.clone()),
            accounts: TokenAccounts::new(store.clone()),
            names: Accounts::new(store.clone()),
            store,
        }
    }

    /// Returns the live tokens of a user, newest first.
    pub async fn list(&self, tag: UserTag) -> Result<Vec<TokenGrant>, Unavailable> {
        let now = self.store.now();
        let cutoff = self.cutoff(tag).await?;
        let mut grants = self.load(tag).await?;
        grants.retain(|grant| now < grant.expires && cutoff < grant.created);
        grants.reverse();
        Ok(grants)
    }

    /// Creates a token and returns its text, which is not stored.
    pub async fn create(
        &self,
        new: NewGrant,
        client: Option<IpAddr>,
    ) -> Result<Zeroizing<String>, TokenCreationError> {
        let name = new.name.trim();
        if name.is_empty() || name.len() > NAME_MAX || name.contains(char::is_control) {
            return Err(TokenCreationError::Name);
        }
        let identity = &new.identity;
        let user = identity.user.clone();
        let is_external = identity.provider.external().is_some();
        if !is_external && self.store.shared.login_methods.enabled_account(&user).is_none() {
            return Err(TokenCreationError::Account);
        }
        let keys = self.store.shared.keys.load_full();
        let token = PersonalToken::generate(&keys, UserTag(keys.user_tag(identity.account())));
        // A token created before the cutoff would be revoked.
        let cutoff = self.cutoff(token.tag).await?;
        let now = self.store.now().max(cutoff.plus(Duration::from_millis(1)));
        let name = name.to_owned();
        let credential = match is_external {
            true => [0; 8],
            false => self.store.shared.login_methods.credential_digest(&user),
        };
        let grant = TokenGrant::new(&token, user, name, new.scope, now, new.lifetime);
        let grant = TokenGrant { credential, ..grant };
        if !self.accounts.save(token.tag, identity).await? {
            return Err(TokenCreationError::TooLarge);
        }
        if is_external {
            self.names.keep_name(&grant.user, token.tag, grant.expires).await?;
        }
        self.add(&grant, token.tag, cutoff).await?;
        self.emit(SessionEvent::AccessTokenCreated, token.id, &grant.user, client);
        let text = token.encode(&keys);
        text.ok_or_else(|| Unavailable("the signing key was removed".to_owned()).into())
    }

    async fn add(
        &self,
        grant: &TokenGrant,
        tag: UserTag,
        cutoff: UnixMillis,
    ) -> Result<(), TokenCreationError> {
        let live = |it: &TokenGrant| grant.created < it.expires && cutoff < it.created;
        let name = HEXLOWER.encode(&tag.0);
        let change = |grants: &mut Vec<TokenGrant>| {
            grants.retain(live);
            if grants.len() < MAX_TOKENS {
                grants.push(grant.clone());
            }
        };
        self.values.update(value_name(&name), self.retain_until(), change).await?;
        let is_added = self.load(tag).await?.iter().any(|it| it.id == grant.id);
        is_added.then_some(()).ok_or(TokenCreationError::TooMany)
    }

    /// Updates the account of a user who has tokens, after a login or a recheck at an external provider.
    pub(super) async fn confirm(&self, identity: &Identity) -> Result<(), Unavailable> {
        let tag = self.store.shared.user_tag(identity.account());
        let grants = self.load(tag).await?;
        let Some(until) = grants.iter().map(|grant| grant.expires).max() else { return Ok(()) };
        self.accounts.save(tag, identity).await?;
        self.names.keep_name(&identity.user, tag, until).await
    }

    /// Refuses the tokens of an account that its provider no longer confirms, until it does.
    pub(super) async fn suspend(&self, tag: UserTag) -> Result<(), Unavailable> {
        match self.load(tag).await?.is_empty() {
            true => Ok(()),
            false => self.accounts.remove(tag).await,
        }
    }

    /// Deletes the token with this handle. Returns false if there is none.
    pub async fn delete(
        &self,
        tag: UserTag,
        handle: &str,
        client: Option<IpAddr>,
    ) -> Result<bool, Unavailable> {
        let grants = self.load(tag).await?;
        let Some(grant) = grants.iter().find(|grant| grant.id.handle() == handle) else {
            return Ok(false);
        };
        let name = HEXLOWER.encode(&tag.0);
        let change = |grants: &mut Vec<TokenGrant>| grants.retain(|it| it.id != grant.id);
        self.values.update(value_name(&name), self.retain_until(), change).await?;
        self.emit(SessionEvent::AccessTokenDeleted, grant.id, &grant.user, client);
        Ok(true)
    }

    /// Returns the current identity of the token's user if the token may be used so.
    ///
    /// A token that was refused too often is refused without a store command for a while.
    pub async fn verify(
        &self,
        token: &PersonalToken,
        used: TokenUse<'_>,
    ) -> Result<Arc<Identity>, TokenDenial> {
        let failures = self.throttle.of_token(token.id);
        self.throttle.check(&failures).map_err(TokenDenial::Refused)?;
        let verified = self.store.with_deadline(pin!(self.check(token, used))).await;
        if let Err(TokenDenial::Refused(refusal)) = &verified {
            self.throttle.charge(&failures).await;
            let event = SessionEvent::AccessTokenRefused(refusal.as_str());
            self.emit(event, token.id, "", Some(used.client));
        }
        verified
    }

    async fn check(
        &self,
        token: &PersonalToken,
        used: TokenUse<'_>,
    ) -> Result<Arc<Identity>, TokenDenial> {
        let refused = |refusal| Err(TokenDenial::Refused(refusal));
        let cutoff = self.cutoff(token.tag).await?;
        let grants = self.load(token.tag).await?;
        let Some(grant) = grants.iter().find(|grant| grant.is_of(token)) else {
            return refused(TokenRefusal::Unknown);
        };
        let Some((identity, digest)) = self.account(token.tag, grant).await? else {
            return refused(TokenRefusal::Account);
        };
        let key = SessionKey { tag: token.tag, id: SessionId(token.id.0) };
        let is_pending = self.store.shared.pending_ends.concerns(&key);
        if grant.created <= cutoff || is_pending || digest != grant.credential {
            return refused(TokenRefusal::Revoked);
        }
        grant.check(used).map_err(TokenDenial::Refused)?;
        if grant.is_use_worth_recording(used.now) {
            self.record_use(token, used.now).await;
        }
        Ok(identity)
    }

    /// Returns the current account of a token, and the digest of its password.
    async fn account(
        &self,
        tag: UserTag,
        grant: &TokenGrant,
    ) -> Result<Option<(Arc<Identity>, [u8; 8])>, Unavailable> {
        if self.store.shared.user_tag(&grant.user) != tag {
            return Ok(self.accounts.load(tag).await?.map(|identity| (identity, [0; 8])));
        }
        let methods = &self.store.shared.login_methods;
        let account = methods.enabled_account(&grant.user);
        let account = account.filter(|identity| identity.user == grant.user);
        Ok(account.map(|identity| (identity, methods.credential_digest(&grant.user))))
    }

    /// Ignores a failure: a store that rejects writes must not end the use of tokens.
    async fn record_use(&self, token: &PersonalToken, now: UnixMillis) {
        let name = HEXLOWER.encode(&token.tag.0);
        let change = |grants: &mut Vec<TokenGrant>| {
            let grant = grants.iter_mut().find(|grant| grant.id == token.id);
            if let Some(grant) = grant {
                grant.last_used = grant.last_used.max(now);
            }
        };
        let recorded = self.values.update(value_name(&name), self.retain_until(), change).await;
        recorded.unwrap_or_default();
    }

    /// Returns the latest revocation of the sessions of the user, or of all users.
    pub async fn cutoff(&self, tag: UserTag) -> Result<UnixMillis, Unavailable> {
        let at = self.store.instant();
        let all = global_revocation::read_fresh(&self.store, at).await?;
        let own = self.store.track_errors(self.store.raw.user_cutoff(&tag).await)?;
        Ok(all.at.max(own.at))
    }

    async fn load(&self, tag: UserTag) -> Result<Vec<TokenGrant>, Unavailable> {
        let name = HEXLOWER.encode(&tag.0);
        Ok(self.values.load(value_name(&name)).await?.value.unwrap_or_default())
    }

    fn retain_until(&self) -> UnixMillis {
        self.store.now().plus(MAX_LIFETIME)
    }

    fn emit(&self, event: SessionEvent, id: TokenId, user: &str, client: Option<IpAddr>) {
        let session = Some(SessionId(id.0));
        let context = EventContext { user, session, client, ..EventContext::default() };
        self.store.shared.emit(event, context);
    }
}

fn value_name(name: &str) -> ValueName<'_> {
    ValueName { purpose: "personal access tokens", name }
}
