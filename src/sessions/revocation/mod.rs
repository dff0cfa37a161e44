//! Ends sessions for users, apps, operators and changed accounts.
//!
//! Each end runs in a task of its own: if the caller disconnects, it still completes and is
//! audited.
//!
//! An end that the store does not confirm is kept: this gateway refuses the session at once, and
//! [`Revoker::retry_pending`] writes the end until the store confirms it.

use std::sync::Arc;

use crate::clock::UnixMillis;
use crate::connections::SessionSnapshot;
use crate::session::{ClientContext, EndReason, RevocationCutoff, SessionId, SessionKey};
use crate::store::{Durability, Revoked, Unavailable};
use crate::telemetry::events::Actor;

use super::end_cause::{EndCause, SessionInfo};
use super::end_report::{self, report_revoked};
use super::pending_ends::PendingEnd;
use super::user_ref::UserRef;
use super::verified_store::VerifiedStore;

/// A revocation that the store confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfirmedRevocation {
    pub durability: Durability,
    /// Number of sessions that it ended.
    pub ended: usize,
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

    /// Ends the session of an admitted request because the upstream logged the user out.
    pub async fn end_current(
        &self,
        snapshot: &SessionSnapshot,
        client: ClientContext,
    ) -> Result<(), Unavailable> {
        let (key, record) = (snapshot.key, Arc::clone(&snapshot.record));
        let last_active = record.last_active.max(snapshot.touched);
        let actor = Actor::App { session: key.id, client };
        let cause = EndCause { reason: EndReason::LogoutByApp, actor };
        self.end_session(&SessionInfo { key, record, last_active }, cause).await.map(|_| ())
    }

    /// Ends one session. The caller may delete the cookie after that.
    pub async fn end_session(
        &self,
        session: &SessionInfo,
        cause: EndCause,
    ) -> Result<Durability, Unavailable> {
        let (revoker, session) = (self.clone(), session.clone());
        run_detached(async move {
            let ended = revoker.end_and_cache(&session, &cause).await;
            if ended.is_err() && cause.is_kept() {
                revoker.keep(PendingEnd::Session { session, cause });
            }
            ended
        })
        .await
    }

    async fn end_and_cache(
        &self,
        session: &SessionInfo,
        cause: &EndCause,
    ) -> Result<Durability, Unavailable> {
        let end = session.record.absolute_end;
        let suspend = || self.store.shared.cache.suspend(&session.key);
        suspend();
        let ended = self.store.raw.end(&session.key, cause.reason, self.store.now(), end).await;
        // Repeated after the failure, here and below: a request may have confirmed the cached
        // session in the meantime.
        let ended = self.store.track_errors(ended).inspect_err(|_| suspend())?;
        self.store.shared.cache.insert_end(&session.key, cause.reason, end);
        self.store.shared.connections.session_ended(&session.key);
        if ended.is_first {
            end_report::report_end(&self.store, session, cause);
        }
        Ok(ended.durability)
    }

    /// Ends all sessions of a user except `except`, with one atomic write.
    pub async fn revoke_user_sessions(
        &self,
        UserRef { tag, user }: UserRef<'_>,
        except: Option<SessionId>,
        cause: EndCause,
    ) -> Result<ConfirmedRevocation, Unavailable> {
        let (revoker, user) = (self.clone(), user.to_owned());
        run_detached(async move {
            let at = revoker.store.now();
            let account = UserRef { tag, user: &user };
            let revoked = revoker.revoke_user(account, except, &cause, at).await;
            if revoked.is_err() {
                revoker.keep(PendingEnd::User { tag, user, except, cause, at });
            }
            revoked
        })
        .await
    }

    async fn revoke_user(
        &self,
        UserRef { tag, user }: UserRef<'_>,
        except: Option<SessionId>,
        cause: &EndCause,
        at: UnixMillis,
    ) -> Result<ConfirmedRevocation, Unavailable> {
        let matches = |key: &SessionKey| key.tag == tag && Some(key.id) != except;
        let suspend = || self.store.shared.cache.suspend_matching(matches);
        suspend();
        // Only for the report, so the revocation does not depend on it.
        let listed = self.store.raw.list_user(&tag).await.unwrap_or_default();
        let revoked = self.store.raw.revoke_user(&tag, at, except).await;
        let Revoked { cutoff, durability, ended } =
            self.store.track_errors(revoked).inspect_err(|_| suspend())?;
        self.store.shared.cache.insert_cutoff(&tag, cutoff);
        self.store.shared.connections.revoked(Some(tag), cutoff);
        let ended = report_revoked(&self.store, &tag, &listed, &ended, cause);
        if ended > 0 || cause.actor != Actor::Gateway {
            end_report::report_user(&self.store, user, ended, cause);
        }
        Ok(ConfirmedRevocation { durability, ended })
    }

    /// Ends all sessions of all users. Other gateways follow within two seconds. Counts at most
    /// `count_limit` sessions.
    pub async fn revoke_all_sessions(
        &self,
        cause: EndCause,
        count_limit: usize,
    ) -> Result<ConfirmedRevocation, Unavailable> {
        let revoker = self.clone();
        run_detached(async move {
            let at = revoker.store.now();
            let revoked = revoker.revoke_all(&cause, at, count_limit).await;
            if revoked.is_err() {
                revoker.keep(PendingEnd::Everyone { cause, at });
            }
            revoked
        })
        .await
    }

    async fn revoke_all(
        &self,
        cause: &EndCause,
        at: UnixMillis,
        count_limit: usize,
    ) -> Result<ConfirmedRevocation, Unavailable> {
        let before = self.store.shared.cache.global_cutoff();
        let suspend = || self.store.shared.cache.suspend_matching(|_| true);
        suspend();
        let revoked = self.store.raw.revoke_all_users(at).await;
        let revoked = self.store.track_errors(revoked).inspect_err(|_| suspend())?;
        self.store.shared.advance_global_cutoff(revoked.cutoff);
        // Counted afterwards, so that a large store does not delay the revocation.
        let ended = end_report::count_live(&self.store, before, count_limit).await;
        end_report::report_user(&self.store, "*", ended, cause);
        Ok(ConfirmedRevocation { durability: revoked.durability, ended })
    }

    /// Enforces an end in this process until the store confirms it.
    fn keep(&self, pending: PendingEnd) {
        let shared = &self.store.shared;
        match &pending {
            PendingEnd::Session { session, cause } => {
                shared.cache.insert_end(&session.key, cause.reason, session.record.absolute_end);
                shared.connections.session_ended(&session.key);
            }
            PendingEnd::User { tag, except, at, .. } => {
                let cutoff = RevocationCutoff { at: *at, except: *except };
                shared.cache.insert_cutoff(tag, cutoff);
                shared.connections.revoked(Some(*tag), cutoff);
            }
            PendingEnd::Everyone { at, .. } => shared.advance_global_cutoff(*at),
        }
        shared.pending_ends.add(pending);
    }

    /// Writes the ends that the store did not confirm. Stops at the first failure: the next call
    /// continues with another end.
    pub async fn retry_pending(&self) {
        while let Some(pending) = self.store.shared.pending_ends.first() {
            let is_confirmed = self.write_pending(&pending).await.is_ok();
            self.store.shared.pending_ends.finish_first(is_confirmed);
            if !is_confirmed {
                return;
            }
        }
    }

    async fn write_pending(&self, pending: &PendingEnd) -> Result<(), Unavailable> {
        match pending {
            PendingEnd::Session { session, cause } => {
                self.end_and_cache(session, cause).await.map(drop)
            }
            PendingEnd::User { tag, user, except, cause, at } => {
                let account = UserRef { tag: *tag, user };
                self.revoke_user(account, *except, cause, *at).await.map(drop)
            }
            PendingEnd::Everyone { cause, at } => self.revoke_all(cause, *at, 0).await.map(drop),
        }
    }
}

/// Runs to completion even if the caller is dropped.
async fn run_detached<T: Send + 'static>(
    ending: impl Future<Output = Result<T, Unavailable>> + Send + 'static,
) -> Result<T, Unavailable> {
    let ended = tokio::spawn(ending).await;
    ended.unwrap_or_else(|error| Err(Unavailable(error.to_string())))
}

#[cfg(test)]
mod tests;
