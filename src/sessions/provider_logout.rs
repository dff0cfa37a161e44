//! Ends sessions because the user logged out at their provider.

use crate::identity::session_name;
use crate::oidc::LogoutToken;
use crate::session::{EndReason, SessionKey, oidc_account};
use crate::store::Unavailable;
use crate::telemetry::events::Actor;

use super::end_cause::{EndCause, SessionInfo};
use super::service::Sessions;
use super::user_ref::UserRef;
use super::verified_store::LoadError;

impl Sessions {
    /// Ends the sessions that a logout token names, once. Returns false if the token was used before.
    ///
    /// A session of the provider ends the sessions that began in it, and those of the account of which the
    /// provider named no session. A subject alone ends all sessions of the account.
    ///
    /// # Errors
    /// Some sessions may have ended. The provider repeats the request, and the token is still valid.
    pub async fn log_out_at_provider(&self, token: &LogoutToken) -> Result<bool, Unavailable> {
        let name = format!("{}\n{}", token.issuer, token.token_id);
        if self.accounts.is_logout_used(&name).await? {
            return Ok(false);
        }
        let account = token.subject.as_ref().map(|subject| oidc_account(&token.issuer, subject));
        match &token.provider_session {
            Some(session) => {
                let session = session_name(&token.issuer, session);
                self.end_provider_session(&session, account.as_deref()).await?;
            }
            None => self.end_account(account.as_deref().unwrap_or_default()).await?,
        }
        self.accounts.record_logout(&name, token.expires).await?;
        Ok(true)
    }

    async fn end_provider_session(
        &self,
        session: &str,
        account: Option<&str>,
    ) -> Result<(), Unavailable> {
        for key in self.accounts.of_provider_session(session).await? {
            self.end_key(&key).await?;
        }
        let Some(account) = account else { return Ok(()) };
        for session in self.list_user_sessions(&self.shared().user_tag(account)).await? {
            let external = session.record.identity.provider.external();
            if external.is_some_and(|login| login.provider_session == [0; 8]) {
                self.revoker.end_session(&session, cause()).await?;
            }
        }
        Ok(())
    }

    /// Ends a session by its key. One that a login is about to create gets a tombstone.
    async fn end_key(&self, key: &SessionKey) -> Result<(), Unavailable> {
        let store = self.verified_store();
        let (load, loaded) = store.load_latest(key).await?;
        match store.verify(&self.shared().keys.load_full(), key, &load, loaded) {
            Ok(verified) => {
                let (record, last_active) = (verified.record, verified.touched);
                let session = SessionInfo { key: *key, record, last_active };
                self.revoker.end_session(&session, cause()).await.map(drop)
            }
            Err(LoadError::Missing | LoadError::Undecryptable) => {
                let now = store.now();
                let until = now.plus(self.settings().policy.absolute());
                store.raw.end(key, cause().reason, now, until).await.map(drop)
            }
            Err(LoadError::Ended(_)) => Ok(()),
            Err(LoadError::Unavailable(error)) => Err(error),
        }
    }

    async fn end_account(&self, account: &str) -> Result<(), Unavailable> {
        let tag = self.shared().user_tag(account);
        let listed = self.list_user_sessions(&tag).await?;
        let user = listed.first().map_or("", |session| session.record.identity.user.as_str());
        self.revoker.revoke_user_sessions(UserRef { tag, user }, None, cause()).await.map(drop)
    }
}

fn cause() -> EndCause {
    EndCause { reason: EndReason::LogoutByProvider, actor: Actor::Provider }
}
