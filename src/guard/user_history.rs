//! Loads and updates the history of a user: known locations, clients and notices.
//!
//! Invariants:
//!
//! - No request depends on it. If it is unavailable, requests are not refused and no location is
//!   known.
//! - Undecryptable bytes are reported and ignored. So are the locations of a copy that is older
//!   than the cached revision; otherwise a store rollback could make an attacker's location known.
//! - Only rare paths use it: a login, a new location, a theft verdict, the user's own page.

use bytes::Bytes;

use crate::secret::KeyRing;
use crate::secret::seal::OpenError;
use crate::session::user_history::UserHistoryError;
use crate::session::{UserHistory, UserTag};
use crate::store::{CommitOutcome, Unavailable};
use crate::telemetry::SessionEvent;
use crate::telemetry::events::EventContext;

use super::Guard;

/// Lost compare-and-swaps before an update fails.
const MAX_ATTEMPTS: usize = 16;

/// A user, by tag for the store and by name for events.
#[derive(Clone, Copy)]
pub(super) struct UserRef<'a> {
    pub(super) tag: UserTag,
    pub(super) user: &'a str,
}

/// A history, and the stored bytes for the compare-and-swap.
struct LoadedHistory {
    history: UserHistory,
    stored: Option<Bytes>,
}

impl Guard {
    /// Loads the history; `None` if the store is unavailable.
    pub(super) async fn load_history(&self, user: UserRef<'_>) -> Option<UserHistory> {
        let keys = self.shared.keys.load_full();
        let loaded = self.load_for_update(&keys, user).await;
        loaded.map(|loaded| loaded.history).map_err(|error| self.history_failed(&error)).ok()
    }

    /// Updates the history, and ignores a store outage. `change` may run more than once.
    pub(super) async fn update_history_best_effort(
        &self,
        user: UserRef<'_>,
        change: impl Fn(&mut UserHistory),
    ) {
        if let Err(error) = self.update_history(user, change).await {
            self.history_failed(&error);
        }
    }

    /// Updates the history. `change` may run more than once.
    pub(super) async fn update_history(
        &self,
        user: UserRef<'_>,
        change: impl Fn(&mut UserHistory),
    ) -> Result<(), Unavailable> {
        let keys = self.shared.keys.load_full();
        for _ in 0..MAX_ATTEMPTS {
            let LoadedHistory { history, stored } = self.load_for_update(&keys, user).await?;
            let mut wanted = history.clone();
            change(&mut wanted);
            if wanted == history
                || self.swap(&keys, user, stored, wanted).await? == CommitOutcome::Swapped
            {
                return Ok(());
            }
        }
        Err(contention_error())
    }

    /// Deletes the history, including one that cannot be decrypted.
    pub(super) async fn delete_history(&self, user: UserRef<'_>) -> Result<(), Unavailable> {
        let keys = self.shared.keys.load_full();
        for _ in 0..MAX_ATTEMPTS {
            let LoadedHistory { mut history, stored } = self.load_for_update(&keys, user).await?;
            if stored.is_none() {
                return Ok(());
            }
            history.clear();
            if self.swap(&keys, user, stored, history).await? == CommitOutcome::Swapped {
                return Ok(());
            }
        }
        Err(contention_error())
    }

    async fn swap(
        &self,
        keys: &KeyRing,
        user: UserRef<'_>,
        stored: Option<Bytes>,
        wanted: UserHistory,
    ) -> Result<CommitOutcome, Unavailable> {
        let next = wanted.next_revision(self.now());
        let forget_at = next.expires_at(self.shared.risk.known_for);
        let sealed = next.seal(keys, &user.tag);
        let swap =
            self.store.swap_user_history(&user.tag, stored.as_deref(), &sealed, forget_at).await?;
        if swap == CommitOutcome::Swapped {
            self.shared.cache.observe_history(&user.tag, next.revision(), forget_at);
        }
        Ok(swap)
    }

    async fn load_for_update(
        &self,
        keys: &KeyRing,
        user: UserRef<'_>,
    ) -> Result<LoadedHistory, Unavailable> {
        let first = self.read(keys, user).await?;
        if !self.is_rolled_back(user, &first) {
            return Ok(self.validate(user, first));
        }
        // The first result may precede a write of another worker.
        let second = self.read(keys, user).await?;
        Ok(self.validate(user, second))
    }

    async fn read(&self, keys: &KeyRing, user: UserRef<'_>) -> Result<StoredHistory, Unavailable> {
        let Some(stored) = self.store.user_history(&user.tag).await? else {
            return Ok(StoredHistory::Missing);
        };
        match UserHistory::open(keys, &user.tag, &stored) {
            Ok(history) => Ok(StoredHistory::UserHistory(history, stored)),
            Err(UserHistoryError::Open(OpenError::UnknownKey)) => Err(Unavailable(
                "a user history is sealed with a key that this gateway's keys file lacks; copy the newest keys file here".to_owned(),
            )),
            Err(UserHistoryError::Open(OpenError::Malformed | OpenError::Forged) | UserHistoryError::Format) => {
                Ok(StoredHistory::Poisoned(stored))
            }
        }
    }

    fn is_rolled_back(&self, user: UserRef<'_>, read: &StoredHistory) -> bool {
        let seen = self.shared.cache.history_revision(&user.tag, self.now());
        match read {
            StoredHistory::Missing => seen > 0,
            StoredHistory::UserHistory(history, _) => history.revision() < seen,
            StoredHistory::Poisoned(_) => false,
        }
    }

    /// Discards the parts that cannot be trusted.
    fn validate(&self, user: UserRef<'_>, read: StoredHistory) -> LoadedHistory {
        let seen = self.shared.cache.history_revision(&user.tag, self.now());
        let rolled_back = self.is_rolled_back(user, &read);
        if rolled_back {
            self.report(SessionEvent::RolledBack, user);
        }
        let (mut history, stored) = match read {
            StoredHistory::Missing => (UserHistory::default().without_locations(seen), None),
            StoredHistory::UserHistory(history, stored) if rolled_back => {
                (history.without_locations(seen), Some(stored))
            }
            StoredHistory::UserHistory(history, stored) => {
                (self.accept(user, history), Some(stored))
            }
            StoredHistory::Poisoned(stored) => {
                self.report(SessionEvent::Undecryptable, user);
                (UserHistory::default().without_locations(seen), Some(stored))
            }
        };
        history.prune(self.shared.risk.known_for, self.now());
        LoadedHistory { history, stored }
    }

    fn accept(&self, user: UserRef<'_>, history: UserHistory) -> UserHistory {
        let until = history.expires_at(self.shared.risk.known_for);
        self.shared.cache.observe_history(&user.tag, history.revision(), until);
        history
    }

    fn report(&self, event: SessionEvent, user: UserRef<'_>) {
        self.shared.emit(event, EventContext { user: user.user, ..EventContext::default() });
    }

    fn history_failed(&self, error: &Unavailable) {
        self.shared.metrics.store_error();
        tracing::warn!(target: "session", event = "user.history-unavailable", %error, "the user history is unavailable; no request is refused for it");
    }
}

fn contention_error() -> Unavailable {
    Unavailable("every write of a user history was overtaken by another".to_owned())
}

/// Stored history.
enum StoredHistory {
    Missing,
    UserHistory(UserHistory, Bytes),
    /// Not decryptable.
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
        let live =
            config::LongLived { max_connections: 1, max_per_session: 1, unchecked_for: minute };
        let shared = Shared::new(SharedParts {
            keys: KeyRing::generate("now"),
            clock: clock.clone(),
            policy: policy.expect("a policy"),
            max_per_user: 0,
            cookies: CookieNames::new(None),
            directory: None,
            metrics: Metrics::default(),
            connection_limits: live.into(),
            audit: None,
            notifier: None,
            risk: crate::risk::RiskSettings::default(),
        });
        Guard::new(store.clone(), Arc::new(shared))
    }

    #[tokio::test]
    async fn an_undecryptable_user_history_can_be_deleted() {
        let now = UnixMillis(1_800_000_000_000);
        let clock = Clock::manual(now);
        let store = Store::memory(clock.clone());
        let guard = guard(&store, &clock);
        let keys = guard.shared.keys.load_full();
        let tag = UserTag(keys.user_tag("alice"));
        let until = now.plus(Duration::from_hours(24));
        let stored = store.swap_user_history(&tag, None, b"alice was in Paris", until).await;
        assert_eq!(stored, Ok(CommitOutcome::Swapped));
        assert_eq!(guard.delete_user_history("alice").await, Ok(()));
        let left =
            store.user_history(&tag).await.expect("memory").expect("how often it was written");
        let history = UserHistory::open(&keys, &tag, &left).expect("ours");
        assert_eq!((history.networks().count(), history.user_agents().count()), (0, 0));
        assert_eq!(guard.delete_user_history("nobody").await, Ok(()), "there is nothing to forget");
    }
}
