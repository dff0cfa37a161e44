//! Ends sessions for users and operators.
//!
//! Each end runs in a task of its own: if the caller disconnects, it still completes and is
//! audited.

use crate::session::{EndReason, SessionId, SessionKey, UserTag};
use crate::store::{Durability, Unavailable};
use crate::telemetry::SessionEvent;
use crate::telemetry::events::EventContext;

use super::SessionInfo;
use crate::guard::Guard;

impl Guard {
    /// Ends one session. The caller may delete the cookie after that.
    pub async fn end_session(
        &self,
        session: &SessionInfo,
        reason: EndReason,
    ) -> Result<Durability, Unavailable> {
        let (guard, session) = (self.clone(), session.clone());
        run_detached(async move { guard.end_and_cache(&session, reason).await }).await
    }

    async fn end_and_cache(
        &self,
        session: &SessionInfo,
        reason: EndReason,
    ) -> Result<Durability, Unavailable> {
        let end = session.record.absolute_end;
        let suspend = || self.shared.cache.suspend(&session.key);
        suspend();
        let ended = self.store.end(&session.key, reason, self.now(), end).await;
        // Repeated after the failure, here and below: a request may have confirmed the cached
        // session in the meantime.
        let durability = self.count_errors(ended).inspect_err(|_| suspend())?;
        self.shared.cache.insert_end(&session.key, reason, end);
        self.shared.connections.session_ended(&session.key);
        let context = EventContext {
            user: &session.record.identity.user,
            session: Some(session.key.id),
            ..EventContext::default()
        };
        self.shared.emit(SessionEvent::Ended(reason), context);
        Ok(durability)
    }

    /// Ends all sessions of a user except `except`, with one atomic write.
    pub async fn revoke_user_sessions(
        &self,
        user: &str,
        except: Option<SessionId>,
    ) -> Result<Durability, Unavailable> {
        let (guard, user) = (self.clone(), user.to_owned());
        run_detached(async move { guard.revoke_user(&user, except).await }).await
    }

    async fn revoke_user(
        &self,
        user: &str,
        except: Option<SessionId>,
    ) -> Result<Durability, Unavailable> {
        let tag = UserTag(self.shared.keys.load().user_tag(user));
        let matches = |key: &SessionKey| key.tag == tag && Some(key.id) != except;
        let suspend = || self.shared.cache.suspend_matching(matches);
        suspend();
        let revoked = self.store.revoke_user(&tag, self.now(), except).await;
        let revoked = self.count_errors(revoked).inspect_err(|_| suspend())?;
        self.shared.cache.observe_cutoff(&tag, revoked.cutoff);
        self.shared.connections.revoked(Some(tag), revoked.cutoff);
        let context = EventContext { user, ..EventContext::default() };
        self.shared.emit(SessionEvent::Ended(EndReason::Revoked), context);
        Ok(revoked.durability)
    }

    /// Ends all sessions of all users. Other gateways follow within two seconds.
    pub async fn revoke_all_sessions(&self) -> Result<Durability, Unavailable> {
        let guard = self.clone();
        run_detached(async move { guard.revoke_all().await }).await
    }

    async fn revoke_all(&self) -> Result<Durability, Unavailable> {
        let suspend = || self.shared.cache.suspend_matching(|_| true);
        suspend();
        let revoked = self.store.revoke_all_users(self.now()).await;
        let revoked = self.count_errors(revoked).inspect_err(|_| suspend())?;
        self.shared.advance_global_cutoff(revoked.cutoff);
        let context = EventContext { user: "*", ..EventContext::default() };
        self.shared.emit(SessionEvent::Ended(EndReason::Revoked), context);
        Ok(revoked.durability)
    }
}

/// Runs to completion even if the caller is dropped.
async fn run_detached(
    ending: impl Future<Output = Result<Durability, Unavailable>> + Send + 'static,
) -> Result<Durability, Unavailable> {
    let ended = tokio::spawn(ending).await;
    ended.unwrap_or_else(|error| Err(Unavailable(error.to_string())))
}

#[cfg(test)]
mod tests;
