//! Confirms the accounts of external providers, where `recheck` is configured: with a refresh token, or with a
//! search in the directory.
//!
//! A request starts the check that is due, and does not wait for it. After twice the interval it waits, so a
//! session that was idle is not served with outdated rights. Of several gateways one sends the request. A
//! provider that does not respond ends no session.

use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use crate::clock::UnixMillis;
use crate::identity::{ConfirmFailure, Confirmation, Confirmer};
use crate::session::{EndReason, Record, SessionKey};
use crate::store::Unavailable;
use crate::telemetry::events::Actor;

use super::end_cause::{EndCause, SessionInfo};
use super::provider_tokens::{ProviderTokens, RefreshClaim};
use super::service::Sessions;

/// Lost compare-and-swaps before the new identity is dropped until the next check.
const MAX_ATTEMPTS: usize = 16;

/// Whether an account must be confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    No,
    /// In the background.
    Soon,
    /// Before the request.
    Now,
}

/// Returns whether an account that was confirmed at `confirmed` must be confirmed again.
fn due(confirmed: UnixMillis, interval: Duration, now: UnixMillis) -> Due {
    match now.since(confirmed) {
        age if age < interval => Due::No,
        age if age < interval.saturating_mul(2) => Due::Soon,
        _ => Due::Now,
    }
}

impl Sessions {
    /// Confirms the account of a session if that is due. Returns true if the session may have changed, so
    /// that the request must be decided again.
    pub async fn recheck(&self, key: &SessionKey, record: &Arc<Record>) -> bool {
        let Some(login) = record.identity.provider.external() else { return false };
        let providers = &self.settings().providers;
        let Some(confirmer) = Confirmer::find(providers, &login.provider) else { return false };
        let Some(interval) = confirmer.interval() else { return false };
        let (store, now) = (self.verified_store(), self.verified_store().now());
        let due = due(login.confirmed, interval, now);
        if due == Due::No || !store.shared.rechecks.begin(key, now) {
            return false;
        }
        let (sessions, key, record) = (self.clone(), *key, Arc::clone(record));
        // A task of its own: the client must not be able to cancel it between two tokens.
        let task = tokio::spawn(async move { sessions.confirm(&confirmer, key, &record).await });
        due == Due::Now && task.await.is_ok()
    }

    async fn confirm(&self, confirmer: &Confirmer, key: SessionKey, record: &Arc<Record>) {
        let name = confirmer.name();
        let result = match self.refresh(confirmer, &key, record).await {
            Ok(result) => result,
            Err(Unavailable(error)) => {
                warn!(
                    event = "provider.recheck-failed",
                    provider = name,
                    user = record.identity.user,
                    session = key.id.handle(),
                    error,
                    "an account could not be confirmed; its session continues"
                );
                "unavailable"
            }
        };
        self.shared().metrics.providers.recheck(name, result);
    }

    /// Returns the result as the label of the metric.
    async fn refresh(
        &self,
        confirmer: &Confirmer,
        key: &SessionKey,
        record: &Arc<Record>,
    ) -> Result<&'static str, Unavailable> {
        // The request to the provider ends before the claim.
        let time = confirmer.time() + Duration::from_secs(1);
        let claim = self.tokens.claim(key, time, record.absolute_end).await?;
        let Some(claim) = claim else { return Ok("skipped") };
        let is_in_users_file = self.shared().login_methods.user(&record.identity.user).is_some();
        let token = &claim.tokens.refresh_token;
        match confirmer.confirm(record, token, is_in_users_file).await {
            Ok(confirmation) => self.apply(key, claim, &confirmation).await,
            Err(ConfirmFailure::Unavailable(error)) => {
                self.tokens.release(&claim).await?;
                Err(Unavailable(error))
            }
            Err(ConfirmFailure::Refused { reason, error }) => {
                self.end_unconfirmed(confirmer, key, record, (reason, &error)).await?;
                Ok("ended")
            }
        }
    }

    async fn end_unconfirmed(
        &self,
        confirmer: &Confirmer,
        key: &SessionKey,
        record: &Arc<Record>,
        (reason, error): (EndReason, &str),
    ) -> Result<(), Unavailable> {
        let (name, session) = (confirmer.name(), key.id.handle());
        info!(
            event = "provider.account-refused",
            provider = name,
            user = record.identity.user,
            session,
            error,
            "the provider no longer confirms an account; its session ends"
        );
        let last_active = record.last_active;
        let session = SessionInfo { key: *key, record: Arc::clone(record), last_active };
        let cause = EndCause { reason, actor: Actor::Provider };
        self.revoker.end_session(&session, cause).await?;
        self.personal_tokens.suspend(key.tag).await?;
        self.tokens.erase(key).await
    }

    /// Stores the new tokens, then the new identity: a refresh token works once.
    async fn apply(
        &self,
        key: &SessionKey,
        claim: RefreshClaim,
        confirmation: &Confirmation,
    ) -> Result<&'static str, Unavailable> {
        let id_token = confirmation.id_token.clone();
        let id_token = id_token.unwrap_or_else(|| claim.tokens.id_token.clone());
        let tokens = ProviderTokens::new(id_token, Some(confirmation.refresh_token.clone()));
        self.tokens.finish(&claim, tokens).await?;
        let (store, keys) = (self.verified_store(), self.shared().keys.load_full());
        for _ in 0..MAX_ATTEMPTS {
            let Some(verified) = store.load_live(key).await? else { return Ok("skipped") };
            let mut record = Record::clone(&verified.record);
            record.identity = confirmation.applied_to(&record.identity, store.now()).into();
            if store.write_record(&keys, key, verified.revision, &record).await? {
                self.personal_tokens.confirm(&record.identity).await?;
                return Ok("success");
            }
        }
        Err(Unavailable("every write was overtaken by another".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

    #[test]
    fn a_check_is_due_after_the_interval_and_precedes_the_request_after_two() {
        let minute = Duration::from_mins(1);
        let after = |seconds| due(NOW, minute, NOW.plus(Duration::from_secs(seconds)));
        assert_eq!([0, 59].map(after), [Due::No; 2]);
        assert_eq!([60, 119].map(after), [Due::Soon; 2]);
        assert_eq!([120, 86_400].map(after), [Due::Now; 2]);
    }
}
