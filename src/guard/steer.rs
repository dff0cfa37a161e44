//! What an app, by its answer, does to the session of a request that was admitted.

use std::pin::pin;
use std::sync::Arc;

use std::time::Instant;

use crate::http::Presented;
use crate::route::Requirement;
use crate::session::{
    ClientContext, EndReason, Record, RoutePolicy, SessionKey, Standing, Timing, Watch,
};
use crate::store::{Commit, Unavailable};
use crate::telemetry::SessionEvent;

use super::held::Held;
use super::{Denial, Guard, NewToken, Opened, Sight, Visit, about};

/// Lost swaps before the store is called unavailable.
const ATTEMPTS: usize = 32;

impl Guard {
    /// Renews the token that a request showed, whatever its age. `None` when there is nothing to
    /// renew: it is superseded already, or the session ended meanwhile.
    ///
    /// # Errors
    /// When the store does not answer: the token was not renewed, and is not due either.
    pub async fn rotate_now(
        &self,
        presented: &Presented,
        context: &ClientContext,
    ) -> Result<Option<NewToken>, Unavailable> {
        let visit = Visit {
            presented,
            context,
            // The request was looked at when it was admitted.
            policy: &RoutePolicy { signals: Watch::Off, ..RoutePolicy::default() },
            requirement: &Requirement::default(),
            timing: Timing::Now,
            activity: false,
            serve_known_for: None,
        };
        match self.admit(&visit).await {
            Ok(admitted) => Ok(admitted.token),
            Err(Denial::Unavailable(error)) => Err(error),
            Err(_) => Ok(None),
        }
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
        for _ in 0..ATTEMPTS {
            let Some(held) = self.living(&sight.key).await? else { return Ok(()) };
            if held.record.frozen || self.frozen(&sight.key, &held).await? {
                let about = about(&held.record.identity.user, sight.key.id, from);
                self.shared.event(SessionEvent::Refused("reauthenticate"), about);
                return Ok(());
            }
        }
        Err(Unavailable("every write lost against another one".to_owned()))
    }

    /// One attempt to write it down; false when the swap was lost.
    async fn frozen(&self, key: &SessionKey, held: &Held) -> Result<bool, Unavailable> {
        let frozen = Record { frozen: true, ..Record::clone(&held.record) };
        let sealed = frozen.seal(&self.shared.keys.load(), key);
        let commit = self.store.commit(key, held.revision, &sealed, frozen.absolute_end).await;
        let swapped = self.counted(commit)? == Commit::Swapped;
        if swapped {
            // While the store is away, what is known is what counts.
            let revision = held.revision.saturating_add(1);
            self.shared.known.keep(key, revision, sealed.into(), Arc::new(frozen));
        }
        Ok(swapped)
    }

    /// Notes activity that is no request, such as the frames of a WebSocket. A session that is over
    /// stays over.
    pub async fn note_activity(&self, key: &SessionKey) -> Result<(), Unavailable> {
        let Some(held) = self.living(key).await? else { return Ok(()) };
        let Held { record, touched, not_before, .. } = held;
        let standing = Standing { touched, not_before, ..Standing::default() };
        if self.record_is_over(key, &record, &standing) {
            return Ok(());
        }
        self.counted(self.store.touch(key, self.now(), record.absolute_end).await)
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
