//! Session changes that an upstream requests in a response.

use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use crate::message::CookieLookup;
use crate::secret::{KeyRing, random_bytes};
use crate::session::{
    ClientContext, DecisionInput, EndReason, Record, Rotation, RotationTiming, RoutePolicy,
    SessionFacts, SessionKey, Token, rotate_after_action,
};
use crate::store::{CommitOutcome, Unavailable};
use crate::telemetry::SessionEvent;

use super::rollback::VerifiedSession;
use super::{DenyReason, Guard, NewToken, SessionInfo, SessionSnapshot, event_context};

/// Lost compare-and-swaps before the store counts as unavailable.
const MAX_ATTEMPTS: usize = 32;

impl Guard {
    /// Rotates the token of an admitted request, whatever its age. Returns `None` if the token was
    /// superseded or the session ended.
    ///
    /// # Errors
    /// The store did not respond, and the token was not rotated.
    pub async fn rotate(
        &self,
        presented: &CookieLookup,
        from: &ClientContext,
    ) -> Result<Option<NewToken>, Unavailable> {
        let keys = self.shared.keys.load_full();
        let CookieLookup::One(value) = presented else { return Ok(None) };
        let Ok(token) = Token::parse(&keys, value) else { return Ok(None) };
        self.with_deadline(pin!(self.rotate_with_retry(&keys, &token, from))).await
    }

    async fn rotate_with_retry(
        &self,
        keys: &KeyRing,
        token: &Token,
        from: &ClientContext,
    ) -> Result<Option<NewToken>, Unavailable> {
        let key = &token.key;
        for _ in 0..MAX_ATTEMPTS {
            let Some(verified) = self.load_live(key).await? else { return Ok(None) };
            let Rotation { successor: next, write: written } =
                self.rotation(keys, token, &verified, from);
            let stored = match written {
                None => true,
                Some(record) => {
                    let swap = self.write_record(keys, key, verified.revision, &record).await;
                    self.count_errors(swap)?
                }
            };
            if stored {
                return Ok(next.and_then(|next| self.issue_token(keys, *key, &next)));
            }
        }
        Err(contention_error())
    }

    fn rotation(
        &self,
        keys: &KeyRing,
        token: &Token,
        verified: &VerifiedSession,
        from: &ClientContext,
    ) -> Rotation {
        let VerifiedSession { record, touched, user_cutoff, .. } = verified;
        let global_cutoff = self.shared.global_cutoff.get();
        let facts = SessionFacts {
            touched: *touched,
            user_cutoff: *user_cutoff,
            global_cutoff: global_cutoff,
        };
        rotate_after_action(&DecisionInput {
            record,
            facts: &facts,
            token,
            keys,
            now: self.now(),
            random_salt: &random_bytes,
            client: from,
            policy: &self.shared.policy,
            route: &RoutePolicy::default(),
            timing: RotationTiming::Now,
            activity: false,
            risk: None,
        })
    }

    /// Ends the session of an admitted request.
    pub async fn end_current(&self, snapshot: &SessionSnapshot) -> Result<(), Unavailable> {
        let (key, record) = (snapshot.key, Arc::clone(&snapshot.record));
        let last_active = record.last_active.max(snapshot.touched);
        let session = SessionInfo { key, record, last_active };
        self.end_session(&session, EndReason::Logout).await.map(|_| ())
    }

    /// Requires reauthentication before the session is used again.
    pub async fn require_reauthentication(
        &self,
        snapshot: &SessionSnapshot,
        from: &ClientContext,
    ) -> Result<(), Unavailable> {
        self.with_deadline(pin!(self.require_reauthentication_with_retry(snapshot, from))).await
    }

    async fn require_reauthentication_with_retry(
        &self,
        snapshot: &SessionSnapshot,
        from: &ClientContext,
    ) -> Result<(), Unavailable> {
        let keys = self.shared.keys.load_full();
        for _ in 0..MAX_ATTEMPTS {
            let Some(verified) = self.load_live(&snapshot.key).await? else { return Ok(()) };
            if verified.record.reauth_required
                || self.write_reauth_required(&keys, &snapshot.key, &verified).await?
            {
                let context = event_context(&verified.record.identity.user, snapshot.key.id, from);
                self.shared.emit(SessionEvent::Refused("reauthenticate"), context);
                return Ok(());
            }
        }
        Err(contention_error())
    }

    /// Tries once to write the flag; false if the swap was lost.
    async fn write_reauth_required(
        &self,
        keys: &KeyRing,
        key: &SessionKey,
        verified: &VerifiedSession,
    ) -> Result<bool, Unavailable> {
        let updated = Record { reauth_required: true, ..Record::clone(&verified.record) };
        let swap = self.write_record(keys, key, verified.revision, &updated).await;
        self.count_errors(swap)
    }

    /// Tries once to write a record; false if the swap was lost. The written record is cached for
    /// store outages.
    pub(super) async fn write_record(
        &self,
        keys: &KeyRing,
        key: &SessionKey,
        revision: u64,
        new: &Record,
    ) -> Result<bool, Unavailable> {
        let (sealed, requested_at) = (new.seal(keys, key), Instant::now());
        let commit = self.store.commit(key, revision, &sealed, new.absolute_end).await?;
        if commit != CommitOutcome::Swapped {
            return Ok(false);
        }
        let (cache, record) = (&self.shared.cache, Arc::new(new.clone()));
        let cached = cache.insert(key, revision.saturating_add(1), sealed.into(), record);
        cache.confirm(&cached, requested_at, self.now(), cached.touched());
        // Reauthentication creates another session, so these connections must end.
        if new.reauth_required {
            self.shared.connections.session_ended(key);
        }
        Ok(true)
    }

    /// Records activity outside requests, such as WebSocket frames. It revives no expired session
    /// and does not extend one that requires reauthentication.
    pub async fn touch(&self, key: &SessionKey) -> Result<(), Unavailable> {
        // Taken before the load, because the response time is not activity.
        let now = self.now();
        let Some(verified) = self.load_live(key).await? else { return Ok(()) };
        let VerifiedSession { record, touched, user_cutoff, .. } = verified;
        let facts = SessionFacts { touched, user_cutoff, ..SessionFacts::default() };
        if record.reauth_required || self.is_record_expired(key, &record, &facts, now) {
            return Ok(());
        }
        self.count_errors(self.store.touch(key, now, record.absolute_end).await)
    }

    /// Loads a session that has not ended.
    async fn load_live(&self, key: &SessionKey) -> Result<Option<VerifiedSession>, Unavailable> {
        let requested_at = Instant::now();
        let loaded = self.count_errors(self.load_latest(key).await)?;
        match self.verify(&self.shared.keys.load_full(), key, loaded, requested_at) {
            Ok(verified) => Ok(Some(verified)),
            Err(DenyReason::Unavailable(error)) => Err(error),
            Err(_) => Ok(None),
        }
    }
}

fn contention_error() -> Unavailable {
    Unavailable("every write was overtaken by another".to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::clock::{Clock, UnixMillis};
    use crate::guard::RecoverableSession;
    use crate::guard::global_revocation::tests::{guard, log_in};
    use crate::store::Store;

    #[tokio::test]
    async fn activity_does_not_extend_a_session_awaiting_reauthentication() {
        let clock = Clock::manual(UnixMillis(1_000_000));
        let store = Store::memory(clock.clone());
        let guard = guard(&store, &clock);
        let shown = log_in(&guard).await;
        let lives = guard.find_recoverable(&shown).await.expect("available");
        let key = RecoverableSession::into_info(lives).expect("it lives").key;
        let touched = async || store.load(&key).await.expect("memory").touched;
        clock.advance(Duration::from_mins(1));
        assert_eq!(guard.touch(&key).await, Ok(()));
        assert_eq!(touched().await, clock.now());
        let verified = guard.load_live(&key).await.expect("available").expect("it lives");
        let keys = guard.shared.keys.load_full();
        assert_eq!(guard.write_reauth_required(&keys, &key, &verified).await, Ok(true));
        let before = touched().await;
        clock.advance(Duration::from_mins(1));
        assert_eq!(guard.touch(&key).await, Ok(()));
        assert_eq!(touched().await, before);
    }
}
