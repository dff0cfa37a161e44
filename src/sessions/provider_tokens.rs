//! Tokens of an external provider, one sealed value per session. They are never part of the session record,
//! which every request reads.

use std::fmt;
use std::time::Duration;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use crate::clock::UnixMillis;
use crate::session::SessionKey;
use crate::store::Unavailable;

use super::sealed_values::{LoadedValue, SealedValues, ValueName, fits};
use super::verified_store::VerifiedStore;

/// The tokens of one session. Empty texts are absent tokens.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderTokens {
    pub id_token: String,
    pub refresh_token: String,
    /// A gateway uses the refresh token until then.
    claimed_until: UnixMillis,
}

impl fmt::Debug for ProviderTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProviderTokens(claimed until {:?})", self.claimed_until)
    }
}

impl ProviderTokens {
    pub fn new(id_token: String, refresh_token: Option<String>) -> ProviderTokens {
        let refresh_token = refresh_token.unwrap_or_default();
        ProviderTokens { id_token, refresh_token, claimed_until: UnixMillis(0) }
    }
}

/// The refresh token of a session, which only this gateway may use for a while.
pub struct RefreshClaim {
    key: SessionKey,
    loaded: LoadedValue<ProviderTokens>,
    pub tokens: ProviderTokens,
    until: UnixMillis,
}

/// The tokens of one worker.
#[derive(Clone)]
pub struct ProviderTokenStore {
    values: SealedValues,
}

impl ProviderTokenStore {
    pub(super) fn new(store: VerifiedStore) -> ProviderTokenStore {
        ProviderTokenStore { values: SealedValues::new(store) }
    }

    /// Stores the tokens of a login until `until`. An ID token that is too large is left out: the logout
    /// then works without it at most providers.
    pub async fn save(
        &self,
        key: &SessionKey,
        tokens: &ProviderTokens,
        until: UnixMillis,
    ) -> Result<(), Unavailable> {
        let tokens = within_limit(tokens.clone());
        let name = hex(key);
        self.values.update(value_name(&name), until, |stored| *stored = tokens.clone()).await
    }

    /// Returns the tokens of a session; empty if there are none.
    pub async fn load(&self, key: &SessionKey) -> Result<ProviderTokens, Unavailable> {
        let loaded = self.values.load(value_name(&hex(key))).await?;
        Ok(loaded.value.unwrap_or_default())
    }

    /// Deletes the tokens of a session that has ended.
    pub async fn erase(&self, key: &SessionKey) -> Result<(), Unavailable> {
        self.save(key, &ProviderTokens::default(), self.values.now()).await
    }

    /// Claims the refresh token for `time`. Returns `None` if there is none, or another gateway has it.
    pub async fn claim(
        &self,
        key: &SessionKey,
        time: Duration,
        until: UnixMillis,
    ) -> Result<Option<RefreshClaim>, Unavailable> {
        let (now, hex) = (self.values.now(), hex(key));
        let loaded = self.values.load::<ProviderTokens>(value_name(&hex)).await?;
        let Some(tokens) = loaded.value.clone().filter(|tokens| tokens.is_free(now)) else {
            return Ok(None);
        };
        let claimed = ProviderTokens { claimed_until: now.plus(time), ..tokens };
        if !self.values.swap(value_name(&hex), &loaded, &claimed, until).await? {
            return Ok(None);
        }
        let loaded = self.values.load::<ProviderTokens>(value_name(&hex)).await?;
        let is_ours = loaded.value.as_ref() == Some(&claimed);
        Ok(is_ours.then_some(RefreshClaim { key: *key, loaded, tokens: claimed, until }))
    }

    /// Stores the tokens of the provider's response. The claim remains until its time is over, because another
    /// gateway may have loaded the session before this one confirms it. Returns false if the claim was lost.
    pub async fn finish(
        &self,
        claim: &RefreshClaim,
        tokens: ProviderTokens,
    ) -> Result<bool, Unavailable> {
        self.swap(claim, claim.tokens.claimed_until, tokens).await
    }

    /// Ends a claim whose refresh token was not used.
    pub async fn release(&self, claim: &RefreshClaim) -> Result<bool, Unavailable> {
        self.swap(claim, UnixMillis(0), claim.tokens.clone()).await
    }

    async fn swap(
        &self,
        claim: &RefreshClaim,
        claimed_until: UnixMillis,
        tokens: ProviderTokens,
    ) -> Result<bool, Unavailable> {
        let name = hex(&claim.key);
        let tokens = ProviderTokens { claimed_until, ..within_limit(tokens) };
        self.values.swap(value_name(&name), &claim.loaded, &tokens, claim.until).await
    }
}

impl ProviderTokens {
    fn is_free(&self, now: UnixMillis) -> bool {
        !self.refresh_token.is_empty() && self.claimed_until <= now
    }
}

/// Drops tokens that do not fit into a value, the ID token first.
fn within_limit(tokens: ProviderTokens) -> ProviderTokens {
    if fits(&tokens) {
        return tokens;
    }
    let refresh_only = ProviderTokens { id_token: String::new(), ..tokens };
    if fits(&refresh_only) { refresh_only } else { ProviderTokens::default() }
}

fn hex(key: &SessionKey) -> String {
    HEXLOWER.encode(&key.id.0)
}

fn value_name(session: &str) -> ValueName<'_> {
    ValueName { purpose: "provider tokens", name: session }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::session::{SessionId, UserTag};
    use crate::sessions::test_support::sessions;
    use crate::store::Store;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
    const LATER: UnixMillis = UnixMillis(1_800_050_000_000);
    const KEY: SessionKey = SessionKey { tag: UserTag([1; 8]), id: SessionId([2; 16]) };
    const CLAIM: Duration = Duration::from_secs(11);

    fn setup() -> (ProviderTokenStore, Clock, Store) {
        let clock = Clock::manual(NOW);
        let store = Store::memory(clock.clone());
        (sessions(&store, &clock).tokens, clock, store)
    }

    fn tokens(id_token: &str, refresh: &str) -> ProviderTokens {
        ProviderTokens::new(id_token.to_owned(), Some(refresh.to_owned()))
    }

    #[tokio::test]
    async fn tokens_are_kept_until_they_are_erased() {
        let (store, ..) = setup();
        assert_eq!(store.load(&KEY).await, Ok(ProviderTokens::default()));
        store.save(&KEY, &tokens("id", "refresh"), LATER).await.expect("memory");
        assert_eq!(store.load(&KEY).await, Ok(tokens("id", "refresh")));
        store.erase(&KEY).await.expect("memory");
        assert_eq!(store.load(&KEY).await, Ok(ProviderTokens::default()));
    }

    #[tokio::test]
    async fn of_many_gateways_one_uses_the_refresh_token() {
        let (store, clock, _) = setup();
        store.save(&KEY, &tokens("id", "first"), LATER).await.expect("memory");
        let claims = (0..50).map(|_| store.claim(&KEY, CLAIM, LATER));
        let claims = futures_util::future::join_all(claims).await;
        let mut won: Vec<_> = claims.into_iter().filter_map(|it| it.expect("memory")).collect();
        assert_eq!(won.len(), 1);
        let claim = won.pop().expect("one");
        assert_eq!(claim.tokens.refresh_token, "first");
        assert_eq!(store.finish(&claim, tokens("id", "second")).await, Ok(true));
        let outdated = store.claim(&KEY, CLAIM, LATER).await.expect("memory");
        assert!(outdated.is_none(), "the session may have been loaded before the refresh");
        clock.advance(CLAIM);
        let next = store.claim(&KEY, CLAIM, LATER).await.expect("memory").expect("free");
        assert_eq!(next.tokens.refresh_token, "second");
    }

    #[tokio::test]
    async fn an_abandoned_claim_expires_and_its_late_result_is_dropped() {
        let (store, clock, _) = setup();
        store.save(&KEY, &tokens("", "first"), LATER).await.expect("memory");
        let slow = store.claim(&KEY, CLAIM, LATER).await.expect("memory").expect("free");
        assert!(store.claim(&KEY, CLAIM, LATER).await.expect("memory").is_none());
        clock.advance(CLAIM);
        let second = store.claim(&KEY, CLAIM, LATER).await.expect("memory").expect("free");
        assert_eq!(store.finish(&slow, tokens("", "late")).await, Ok(false));
        assert_eq!(store.finish(&second, tokens("", "second")).await, Ok(true));
    }

    #[tokio::test]
    async fn a_session_without_a_refresh_token_is_never_claimed() {
        let (store, ..) = setup();
        assert!(store.claim(&KEY, CLAIM, LATER).await.expect("memory").is_none());
        store.save(&KEY, &tokens("id", ""), LATER).await.expect("memory");
        assert!(store.claim(&KEY, CLAIM, LATER).await.expect("memory").is_none());
    }

    #[tokio::test]
    async fn an_id_token_that_is_too_large_is_left_out() {
        let (store, ..) = setup();
        let large = tokens(&"x".repeat(16 * 1024), "refresh");
        store.save(&KEY, &large, LATER).await.expect("memory");
        assert_eq!(store.load(&KEY).await, Ok(tokens("", "refresh")));
    }

    #[test]
    fn debug_output_has_no_token() {
        assert!(!format!("{:?}", tokens("secret", "secret")).contains("secret"));
    }
}
