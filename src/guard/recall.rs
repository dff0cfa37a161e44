//! What is remembered of a user, read and written beside what a request is about.
//!
//! Invariants:
//! - nothing depends on it: where it cannot be read or written, nobody is refused, and nobody is known
//! - bytes that do not open are reported and count as nothing; so do the places of a copy that is older
//!   than one that was seen here, or whoever can write to the store could make a thief known again
//! - only rare paths come here: a login, a new place, an end by theft, the user's own page

use bytes::Bytes;

use crate::secret::KeyRing;
use crate::secret::seal::OpenError;
use crate::session::memo::MemoError;
use crate::session::{Memo, UserTag};
use crate::store::{Commit, Unavailable};
use crate::telemetry::SessionEvent;
use crate::telemetry::events::About;

use super::Guard;

/// Lost swaps before a change is given up. Each loss means that another one was written.
const ATTEMPTS: usize = 16;

/// A user, as his memo is found and reported.
#[derive(Clone, Copy)]
pub(super) struct Whose<'a> {
    pub(super) tag: UserTag,
    pub(super) user: &'a str,
}

/// A memo, and the bytes that it was read from.
struct Recalled {
    memo: Memo,
    stored: Option<Bytes>,
}

impl Guard {
    /// The memo; nothing is remembered where the store does not say.
    pub(super) async fn recall(&self, whose: Whose<'_>) -> Option<Memo> {
        let keys = self.shared.keys.load_full();
        let recalled = self.recalled(&keys, whose).await;
        recalled.map(|recalled| recalled.memo).map_err(|error| self.forgetful(&error)).ok()
    }

    /// Changes the memo, or leaves it where the store is away. `change` may run more than once.
    pub(super) async fn remember(&self, whose: Whose<'_>, change: impl Fn(&mut Memo)) {
        if let Err(error) = self.changed(whose, change).await {
            self.forgetful(&error);
        }
    }

    /// As [`Guard::remember`], for whoever has to know.
    pub(super) async fn changed(
        &self,
        whose: Whose<'_>,
        change: impl Fn(&mut Memo),
    ) -> Result<(), Unavailable> {
        let keys = self.shared.keys.load_full();
        for _ in 0..ATTEMPTS {
            let Recalled { memo, stored } = self.recalled(&keys, whose).await?;
            let mut wanted = memo.clone();
            change(&mut wanted);
            if wanted == memo || self.swap(&keys, whose, stored, wanted).await? == Commit::Swapped {
                return Ok(());
            }
        }
        Err(lost())
    }

    /// Forgets it for good. What does not open goes too: somebody may have made it so to keep it.
    pub(super) async fn forgotten(&self, whose: Whose<'_>) -> Result<(), Unavailable> {
        let keys = self.shared.keys.load_full();
        for _ in 0..ATTEMPTS {
            let Recalled { mut memo, stored } = self.recalled(&keys, whose).await?;
            if stored.is_none() {
                return Ok(());
            }
            memo.forget_user();
            if self.swap(&keys, whose, stored, memo).await? == Commit::Swapped {
                return Ok(());
            }
        }
        Err(lost())
    }

    async fn swap(
        &self,
        keys: &KeyRing,
        whose: Whose<'_>,
        stored: Option<Bytes>,
        wanted: Memo,
    ) -> Result<Commit, Unavailable> {
        let next = wanted.next(self.now());
        let forget_at = next.forget_at(self.shared.signals.known_for);
        let sealed = next.seal(keys, &whose.tag);
        let swap = self.store.swap_memo(&whose.tag, stored.as_deref(), &sealed, forget_at).await?;
        if swap == Commit::Swapped {
            self.shared.known.saw_memo(&whose.tag, next.revision(), forget_at);
        }
        Ok(swap)
    }

    async fn recalled(&self, keys: &KeyRing, whose: Whose<'_>) -> Result<Recalled, Unavailable> {
        let first = self.read(keys, whose).await?;
        if !self.is_behind(whose, &first) {
            return Ok(self.current(whose, first));
        }
        // Its answer may be older than a write of another worker.
        let second = self.read(keys, whose).await?;
        Ok(self.current(whose, second))
    }

    async fn read(&self, keys: &KeyRing, whose: Whose<'_>) -> Result<Read, Unavailable> {
        let Some(stored) = self.store.memo(&whose.tag).await? else { return Ok(Read::Nothing) };
        match Memo::open(keys, &whose.tag, &stored) {
            Ok(memo) => Ok(Read::Memo(memo, stored)),
            Err(MemoError::Open(OpenError::UnknownKey)) => Err(Unavailable(
                "a user's memo is sealed with a key that this gateway's keys file lacks; copy the newest keys file here".to_owned(),
            )),
            Err(MemoError::Open(OpenError::Shape | OpenError::Forged) | MemoError::Format) => {
                Ok(Read::Poisoned(stored))
            }
        }
    }

    fn is_behind(&self, whose: Whose<'_>, read: &Read) -> bool {
        let seen = self.shared.known.memo(&whose.tag, self.now());
        match read {
            Read::Nothing => seen > 0,
            Read::Memo(memo, _) => memo.revision() < seen,
            Read::Poisoned(_) => false,
        }
    }

    /// What may be believed of what was read.
    fn current(&self, whose: Whose<'_>, read: Read) -> Recalled {
        let seen = self.shared.known.memo(&whose.tag, self.now());
        let behind = self.is_behind(whose, &read);
        if behind {
            self.report(SessionEvent::RolledBack, whose);
        }
        let (mut memo, stored) = match read {
            Read::Nothing => (Memo::default().rolled_back(seen), None),
            Read::Memo(memo, stored) if behind => (memo.rolled_back(seen), Some(stored)),
            Read::Memo(memo, stored) => (self.seen(whose, memo), Some(stored)),
            Read::Poisoned(stored) => {
                self.report(SessionEvent::Poisoned, whose);
                (Memo::default().rolled_back(seen), Some(stored))
            }
        };
        memo.forget(self.shared.signals.known_for, self.now());
        Recalled { memo, stored }
    }

    fn seen(&self, whose: Whose<'_>, memo: Memo) -> Memo {
        let until = memo.forget_at(self.shared.signals.known_for);
        self.shared.known.saw_memo(&whose.tag, memo.revision(), until);
        memo
    }

    fn report(&self, event: SessionEvent, whose: Whose<'_>) {
        self.shared.event(event, About { user: whose.user, ..About::default() });
    }

    fn forgetful(&self, error: &Unavailable) {
        self.shared.metrics.store_error();
        tracing::warn!(target: "session", %error, "what is remembered of a user is not read or written; nobody is refused for it");
    }
}

fn lost() -> Unavailable {
    Unavailable("every write of a user's memo lost against another one".to_owned())
}

/// What stands in the store.
enum Read {
    Nothing,
    Memo(Memo, Bytes),
    /// Not made by us.
    Poisoned(Bytes),
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::clock::{Clock, UnixMillis};
    use crate::config;
    use crate::guard::{Shared, SharedParts};
    use crate::message::CookieNames;
    use crate::session::{OnReuse, SessionPolicy};
    use crate::store::Store;
    use crate::telemetry::Metrics;

    fn guard(store: &Store, clock: &Clock) -> Guard {
        let [day, minute] = [Duration::from_hours(24), Duration::from_mins(1)];
        let policy = SessionPolicy::new(day, day, minute * 10, minute, OnReuse::Revoke);
        let live = config::Live { max_connections: 1, max_per_session: 1, unchecked_for: minute };
        let shared = Shared::new(SharedParts {
            keys: KeyRing::generate("now"),
            clock: clock.clone(),
            policy: policy.expect("a policy"),
            max_per_user: 0,
            cookies: CookieNames::new(None),
            directory: None,
            metrics: Metrics::default(),
            live: live.into(),
            audit: None,
            hook: None,
            signals: crate::risk::Settings::default(),
        });
        Guard::new(store.clone(), Arc::new(shared))
    }

    #[tokio::test]
    async fn a_memo_that_does_not_open_is_forgotten_like_any_other() {
        let now = UnixMillis(1_800_000_000_000);
        let clock = Clock::manual(now);
        let store = Store::memory(clock.clone());
        let guard = guard(&store, &clock);
        let keys = guard.shared.keys.load_full();
        let tag = UserTag(keys.tag_of("alice"));
        let until = now.plus(Duration::from_hours(24));
        let stored = store.swap_memo(&tag, None, b"alice was in Paris", until).await;
        assert_eq!(stored, Ok(Commit::Swapped));
        assert_eq!(guard.forget_user("alice").await, Ok(()));
        let left = store.memo(&tag).await.expect("memory").expect("how often it was written");
        let memo = Memo::open(&keys, &tag, &left).expect("ours");
        assert_eq!((memo.networks().count(), memo.agents().count()), (0, 0));
        assert_eq!(guard.forget_user("nobody").await, Ok(()), "there is nothing to forget");
    }
}
