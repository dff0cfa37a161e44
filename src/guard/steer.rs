//! What an app, by its answer, does to the session of a request that was admitted.

use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use crate::message::Presented;
use crate::secret::{KeyRing, random_bytes};
use crate::session::{
    Case, ClientContext, EndReason, Record, Renewal, RoutePolicy, SessionKey, Standing, Timing,
    Token, renew_after_action,
};
use crate::store::{Commit, Unavailable};
use crate::telemetry::SessionEvent;

use super::held::Held;
use super::{Denial, Guard, NewToken, Opened, Sight, about};

/// Lost swaps before the store is called unavailable.
const ATTEMPTS: usize = 32;

impl Guard {
    /// Renews the token that an admitted request showed, whatever its age. `None` when that one cannot be
    /// renewed: it is superseded by now, and its successor is due, or the session ended meanwhile.
    ///
    /// # Errors
    /// When the store does not answer: the token was not renewed, and is not due either.
    pub async fn rotate_now(
        &self,
        presented: &Presented,
        from: &ClientContext,
    ) -> Result<Option<NewToken>, Unavailable> {
        let keys = self.shared.keys.load_full();
        let Presented::One(value) = presented else { return Ok(None) };
        let Ok(token) = Token::parse(&keys, value) else { return Ok(None) };
        self.in_time(pin!(self.rotated(&keys, &token, from))).await
    }

    async fn rotated(
        &self,
        keys: &KeyRing,
        token: &Token,
        from: &ClientContext,
    ) -> Result<Option<NewToken>, Unavailable> {
        let key = &token.key;
        for _ in 0..ATTEMPTS {
            let Some(held) = self.living(key).await? else { return Ok(None) };
            let Renewal { next, written } = self.renewal(keys, token, &held, from);
            let stored = match written {
                None => true,
                Some(record) => {
                    let swap = self.write_record(keys, key, held.revision, &record).await;
                    self.counted(swap)?
                }
            };
            if stored {
                return Ok(next.and_then(|next| self.mint(keys, *key, &next)));
            }
        }
        Err(lost())
    }

    fn renewal(&self, keys: &KeyRing, token: &Token, held: &Held, from: &ClientContext) -> Renewal {
        let Held { record, touched, not_before, .. } = held;
        let everyone = self.shared.everyone.line();
        let standing = Standing { touched: *touched, not_before: *not_before, everyone };
        renew_after_action(&Case {
            record,
            standing: &standing,
            presented: token,
            keys,
            now: self.now(),
            salt: &random_bytes,
            context: from,
            session: &self.shared.policy,
            route: &RoutePolicy::default(),
            timing: Timing::Now,
            activity: false,
            demand: None,
        })
    }

    /// Ends the session of an admitted request.
    pub async fn end_admitted(&self, sight: &Sight) -> Result<(), Unavailable> {
        let (key, record) = (sight.key, Arc::clone(&sight.record));
        let last_active = record.active.max(sight.touched);
        let session = Opened { key, record, last_active };
        self.end_session(&session, EndReason::Logout).await.map(|_| ())
    }

    /// Keeps the session and lets it do nothing before a fresh login.
    pub async fn freeze(&self, sight: &Sight, from: &ClientContext) -> Result<(), Unavailable> {
        self.in_time(pin!(self.made_frozen(sight, from))).await
    }

    async fn made_frozen(&self, sight: &Sight, from: &ClientContext) -> Result<(), Unavailable> {
        let keys = self.shared.keys.load_full();
        for _ in 0..ATTEMPTS {
            let Some(held) = self.living(&sight.key).await? else { return Ok(()) };
            if held.record.frozen || self.frozen(&keys, &sight.key, &held).await? {
                let about = about(&held.record.identity.user, sight.key.id, from);
                self.shared.event(SessionEvent::Refused("reauthenticate"), about);
                return Ok(());
            }
        }
        Err(lost())
    }

    /// One attempt to write it down; false when the swap was lost.
    async fn frozen(
        &self,
        keys: &KeyRing,
        key: &SessionKey,
        held: &Held,
    ) -> Result<bool, Unavailable> {
        let frozen = Record { frozen: true, ..Record::clone(&held.record) };
        let swap = self.write_record(keys, key, held.revision, &frozen).await;
        self.counted(swap)
    }

    /// One attempt to write a record; false when the swap was lost. What is stored is known from then on:
    /// while the store is away, that is what counts.
    pub(super) async fn write_record(
        &self,
        keys: &KeyRing,
        key: &SessionKey,
        revision: u64,
        new: &Record,
    ) -> Result<bool, Unavailable> {
        let (sealed, asked) = (new.seal(keys, key), Instant::now());
        let commit = self.store.commit(key, revision, &sealed, new.absolute_end).await?;
        if commit != Commit::Swapped {
            return Ok(false);
        }
        let (known, record) = (&self.shared.known, Arc::new(new.clone()));
        let seen = known.keep(key, revision.saturating_add(1), sealed.into(), record);
        known.vouch(&seen, asked, self.now(), seen.touched());
        // Until a fresh login, which is another session.
        if new.frozen {
            self.shared.live.ended(key);
        }
        Ok(true)
    }

    /// Notes activity that is no request, such as the frames of a WebSocket. A session that is over
    /// stays over, and one that waits for a fresh login does not wait longer for it.
    pub async fn note_activity(&self, key: &SessionKey) -> Result<(), Unavailable> {
        // When it happened: whatever the store takes to answer, it is no later activity.
        let now = self.now();
        let Some(held) = self.living(key).await? else { return Ok(()) };
        let Held { record, touched, not_before, .. } = held;
        let standing = Standing { touched, not_before, ..Standing::default() };
        if record.frozen || self.record_is_over(key, &record, &standing, now) {
            return Ok(());
        }
        self.counted(self.store.touch(key, now, record.absolute_end).await)
    }

    /// What holds of a session that has not ended.
    async fn living(&self, key: &SessionKey) -> Result<Option<Held>, Unavailable> {
        let asked = Instant::now();
        let loaded = self.counted(self.load(key).await)?;
        match self.hold(&self.shared.keys.load_full(), key, loaded, asked) {
            Ok(held) => Ok(Some(held)),
            Err(Denial::Unavailable(error)) => Err(error),
            Err(_) => Ok(None),
        }
    }
}

fn lost() -> Unavailable {
    Unavailable("every write lost against another one".to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::clock::{Clock, UnixMillis};
    use crate::guard::LivesOn;
    use crate::guard::everyone::tests::{guard, log_in};
    use crate::store::Store;

    #[tokio::test]
    async fn what_a_frozen_session_still_sends_keeps_it_from_nothing() {
        let clock = Clock::manual(UnixMillis(1_000_000));
        let store = Store::memory(clock.clone());
        let guard = guard(&store, &clock);
        let shown = log_in(&guard).await;
        let lives = guard.lives_on(&shown).await.expect("available");
        let key = LivesOn::session(lives).expect("it lives").key;
        let touched = async || store.load(&key).await.expect("memory").touched;
        clock.advance(Duration::from_mins(1));
        assert_eq!(guard.note_activity(&key).await, Ok(()));
        assert_eq!(touched().await, clock.now());
        let held = guard.living(&key).await.expect("available").expect("it lives");
        let keys = guard.shared.keys.load_full();
        assert_eq!(guard.frozen(&keys, &key, &held).await, Ok(true));
        let before = touched().await;
        clock.advance(Duration::from_mins(1));
        assert_eq!(guard.note_activity(&key).await, Ok(()));
        assert_eq!(touched().await, before);
    }
}
