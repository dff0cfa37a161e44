//! Session changes that an upstream requests in a response.

use std::pin::pin;

use crate::connections::SessionSnapshot;
use crate::message::CookieLookup;
use crate::secret::{KeyRing, random_bytes};
use crate::session::{
    ClientContext, DecisionInput, Record, Rotation, RotationTiming, RoutePolicy, SessionFacts,
    SessionKey, Token, rotate_after_action,
};
use crate::store::{Unavailable, VerifiedSession};
use crate::telemetry::SessionEvent;

use super::events::event_context;
use super::new_token::NewToken;
use super::verified_store::VerifiedStore;

/// Lost compare-and-swaps before the store counts as unavailable.
const MAX_ATTEMPTS: usize = 32;

/// Rotates, restricts and touches sessions.
#[derive(Clone)]
pub struct SessionUpdater {
    store: VerifiedStore,
}

impl SessionUpdater {
    pub(super) fn new(store: VerifiedStore) -> SessionUpdater {
        SessionUpdater { store }
    }

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
        let keys = self.store.shared.keys.load_full();
        let CookieLookup::One(value) = presented else { return Ok(None) };
        let Ok(token) = Token::parse(&keys, value) else { return Ok(None) };
        self.store.with_deadline(pin!(self.rotate_with_retry(&keys, &token, from))).await
    }

    async fn rotate_with_retry(
        &self,
        keys: &KeyRing,
        token: &Token,
        from: &ClientContext,
    ) -> Result<Option<NewToken>, Unavailable> {
        let key = &token.key;
        for _ in 0..MAX_ATTEMPTS {
            let Some(verified) = self.store.load_live(key).await? else { return Ok(None) };
            let Rotation { successor: next, write: written } =
                self.rotation(keys, token, &verified, from);
            let stored = match written {
                None => true,
                Some(record) => {
                    let swap = self.store.write_record(keys, key, verified.revision, &record).await;
                    self.store.track_errors(swap)?
                }
            };
            if stored {
                let (now, end) = (self.store.now(), verified.record.absolute_end);
                return Ok(next.and_then(|next| NewToken::issue(keys, *key, &next, now, end)));
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
        let global_cutoff = self.store.shared.cache.global_cutoff();
        let facts = SessionFacts { touched: *touched, user_cutoff: *user_cutoff, global_cutoff };
        rotate_after_action(&DecisionInput {
            record,
            facts: &facts,
            token,
            keys,
            now: self.store.now(),
            random_salt: &random_bytes,
            client: from,
            policy: &self.store.settings.policy,
            route: &RoutePolicy::default(),
            timing: RotationTiming::Now,
            activity: false,
            risk: None,
        })
    }

    /// Requires reauthentication before the session is used again.
    pub async fn require_reauthentication(
        &self,
        snapshot: &SessionSnapshot,
        from: &ClientContext,
    ) -> Result<(), Unavailable> {
        self.store
            .with_deadline(pin!(self.require_reauthentication_with_retry(snapshot, from)))
            .await
    }

    async fn require_reauthentication_with_retry(
        &self,
        snapshot: &SessionSnapshot,
        from: &ClientContext,
    ) -> Result<(), Unavailable> {
        let keys = self.store.shared.keys.load_full();
        for _ in 0..MAX_ATTEMPTS {
            let Some(verified) = self.store.load_live(&snapshot.key).await? else { return Ok(()) };
            if verified.record.reauth_required
                || self.write_reauth_required(&keys, &snapshot.key, &verified).await?
            {
                let context = event_context(&verified.record.identity.user, snapshot.key.id, from);
                self.store.shared.emit(SessionEvent::Refused("reauthenticate"), context);
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
        let swap = self.store.write_record(keys, key, verified.revision, &updated).await;
        self.store.track_errors(swap)
    }

    /// Records that the user of a live session has proved a second factor.
    pub async fn record_second_factor(&self, key: &SessionKey) -> Result<(), Unavailable> {
        self.store.with_deadline(pin!(self.record_second_factor_with_retry(key))).await
    }

    async fn record_second_factor_with_retry(&self, key: &SessionKey) -> Result<(), Unavailable> {
        let keys = self.store.shared.keys.load_full();
        for _ in 0..MAX_ATTEMPTS {
            let Some(verified) = self.store.load_live(key).await? else { return Ok(()) };
            let second_factor = Some(self.store.now());
            let updated = Record { second_factor, ..Record::clone(&verified.record) };
            let swap = self.store.write_record(&keys, key, verified.revision, &updated).await;
            if self.store.track_errors(swap)? {
                return Ok(());
            }
        }
        Err(contention_error())
    }

    /// Records activity outside requests, such as WebSocket frames. It revives no expired session
    /// and does not extend one that requires reauthentication.
    pub async fn touch(&self, key: &SessionKey) -> Result<(), Unavailable> {
        // Taken before the load, because the response time is not activity.
        let now = self.store.now();
        let Some(verified) = self.store.load_live(key).await? else { return Ok(()) };
        let VerifiedSession { record, touched, user_cutoff, .. } = verified;
        let facts = SessionFacts { touched, user_cutoff, ..SessionFacts::default() };
        if record.reauth_required || self.store.is_record_expired(key, &record, &facts, now) {
            return Ok(());
        }
        self.store.track_errors(self.store.raw.touch(key, now, record.absolute_end).await)
    }
}

fn contention_error() -> Unavailable {
    Unavailable("every write was overtaken by another".to_owned())
}

#[cfg(test)]
mod tests;
