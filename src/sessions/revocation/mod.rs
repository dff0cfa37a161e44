//! Ends sessions for users and operators.
//!
//! Each end runs in a task of its own: if the caller disconnects, it still completes and is
//! audited.

use std::sync::Arc;

use crate::clock::UnixMillis;
use crate::connections::SessionSnapshot;
use crate::session::{EndReason, Record, SessionId, SessionKey, UserTag};
use crate::store::{Durability, Unavailable};
use crate::telemetry::SessionEvent;
use crate::telemetry::events::EventContext;

use super::verified_store::VerifiedStore;

/// A live session in a list.
#[derive(Clone, Debug)]
pub struct SessionInfo {
    pub key: SessionKey,
    pub record: Arc<Record>,
    pub last_active: UnixMillis,
}

/// Ends sessions.
#[derive(Clone)]
pub struct Revoker {
    store: VerifiedStore,
}

impl Revoker {
    pub(super) fn new(store: VerifiedStore) -> Revoker {
        Revoker { store }
    }

    /// Ends the session of an admitted request.
    pub async fn end_current(&self, snapshot: &SessionSnapshot) -> Result<(), Unavailable> {
        let (key, record) = (snapshot.key, Arc::clone(&snapshot.record));
        let last_active = record.last_active.max(snapshot.touched);
        let session = SessionInfo { key, record, last_active };
        self.end_session(&session, EndReason::Logout).await.map(|_| ())
    }

    /// Ends one session. The caller may delete the cookie after that.
    pub async fn end_session(
        &self,
        session: &SessionInfo,
        reason: EndReason,
    ) -> Result<Durability, Unavailable> {
        let (revoker, session) = (self.clone(), session.clone());
        run_detached(async move { revoker.end_and_cache(&session, reason).await }).await
    }

    async fn end_and_cache(
        &self,
        session: &SessionInfo,
        reason: EndReason,
    ) -> Result<Durability, Unavailable> {
        let end = session.record.absolute_end;
        let suspend = || self.store.shared.cache.suspend(&session.key);
        suspend();
        let ended = self.store.raw.end(&session.key, reason, self.store.now(), end).await;
        // Repeated after the failure, here and below: a request may have confirmed the cached
        // session in the meantime.
        let durability = self.store.track_errors(ended).inspect_err(|_| suspend())?;
        self.store.shared.cache.insert_end(&session.key, reason, end);
        self.store.shared.connections.session_ended(&session.key);
        let context = EventContext {
            user: &session.record.identity.user,
            session: Some(session.key.id),
            ..EventContext::default()
        };
        self.store.shared.emit(SessionEvent::Ended(reason), context);
        Ok(durability)
    }

    /// Ends all sessions of a user except `except`, with one atomic write.
    pub async fn revoke_user_sessions(
        &self,
        user: &str,
        except: Option<SessionId>,
    ) -> Result<Durability, Unavailable> {
        let (revoker, user) = (self.clone(), user.to_owned());
        run_detached(async move { revoker.revoke_user(&user, except).await }).await
    }

    async fn revoke_user(
        &self,
        user: &str,
        except: Option<SessionId>,
    ) -> Result<Durability, Unavailable> {
        let tag = UserTag(self.store.shared.keys.load().user_tag(user));
        let matches = |key: &SessionKey| key.tag == tag && Some(key.id) != except;
        let suspend = || self.store.shared.cache.suspend_matching(matches);
        suspend();
        let revoked = self.store.raw.revoke_user(&tag, self.store.now(), except).await;
        let revoked = self.store.track_errors(revoked).inspect_err(|_| suspend())?;
        self.store.shared.cache.insert_cutoff(&tag, revoked.cutoff);
        self.store.shared.connections.revoked(Some(tag), revoked.cutoff);
        let context = EventContext { user, ..EventContext::default() };
        self.store.shared.emit(SessionEvent::Ended(EndReason::Revoked), context);
        Ok(revoked.durability)
    }

    /// Ends all sessions of all users. Other gateways follow within two seconds.
    pub async fn revoke_all_sessions(&self) -> Result<Durability, Unavailable> {
        let revoker = self.clone();
        run_detached(async move { revoker.revoke_all().await }).await
    }

    async fn revoke_all(&self) -> Result<Durability, Unavailable> {
        let suspend = || self.store.shared.cache.suspend_matching(|_| true);
        suspend();
        let revoked = self.store.raw.revoke_all_users(self.store.now()).await;
        let revoked = self.store.track_errors(revoked).inspect_err(|_| suspend())?;
        self.store.shared.advance_global_cutoff(revoked.cutoff);
        let context = EventContext { user: "*", ..EventContext::default() };
        self.store.shared.emit(SessionEvent::Ended(EndReason::Revoked), context);
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
