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
use crate::session::notice::{NoticeId, SecurityNotice};
use crate::session::user_history::UserHistoryError;
use crate::session::{SessionKey, UserHistory};
use crate::store::{CommitOutcome, Unavailable};
use crate::telemetry::SessionEvent;
use crate::telemetry::events::EventContext;

use super::user_ref::UserRef;
use super::verified_store::VerifiedStore;

/// Lost compare-and-swaps before an update fails.
const MAX_ATTEMPTS: usize = 16;

/// A history, and the stored bytes for the compare-and-swap.
struct LoadedHistory {
    history: UserHistory,
    stored: Option<Bytes>,
}

/// Histories of all users.
#[derive(Clone)]
pub struct UserHistories {
    store: VerifiedStore,
}

impl UserHistories {
    pub(crate) fn new(store: VerifiedStore) -> UserHistories {
        UserHistories { store }
    }

    /// Returns the user's notices, newest first; none during a store outage.
    pub async fn list_notices(&self, key: &SessionKey, user: &str) -> Vec<SecurityNotice> {
        let history = self.load(UserRef { tag: key.tag, user }).await;
        history.map(|history| history.notices().cloned().collect()).unwrap_or_default()
    }

    /// Dismisses a notice, but not from the session that it concerns: that may be an attacker's.
    pub async fn dismiss_notice(
        &self,
        key: &SessionKey,
        user: &str,
        id: NoticeId,
    ) -> Result<(), Unavailable> {
        let user = UserRef { tag: key.tag, user };
        self.store
            .track_errors(self.update(user, |history| history.dismiss_notice(id, key.id)).await)
    }

    /// Deletes a user's history. Live sessions keep their known locations until they end.
    pub async fn delete(&self, account: UserRef<'_>) -> Result<(), Unavailable> {
        self.store.track_errors(self.erase(account).await)?;
        let context = EventContext { user: account.user, ..EventContext::default() };
        self.store.shared.emit(SessionEvent::HistoryDeleted, context);
        Ok(())
    }

    /// Loads the history; `None` if the store is unavailable.
    pub(crate) async fn load(&self, user: UserRef<'_>) -> Option<UserHistory> {
        let keys = self.store.shared.keys.load_full();
        let loaded = self.load_for_update(&keys, user).await;
        loaded.map(|loaded| loaded.history).map_err(|error| self.history_failed(&error)).ok()
    }

    /// Updates the history, and ignores a store outage. `change` may run more than once.
    pub(crate) async fn update_best_effort(
        &self,
        user: UserRef<'_>,
        change: impl Fn(&mut UserHistory),
    ) {
        if let Err(error) = self.update(user, change).await {
            self.history_failed(&error);
        }
    }

    /// Updates the history. `change` may run more than once.
    async fn update(
        &self,
        user: UserRef<'_>,
        change: impl Fn(&mut UserHistory),
    ) -> Result<(), Unavailable> {
        let keys = self.store.shared.keys.load_full();
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
    async fn erase(&self, user: UserRef<'_>) -> Result<(), Unavailable> {
        let keys = self.store.shared.keys.load_full();
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
        let next = wanted.next_revision(self.store.now());
        let forget_at = next.expires_at(self.store.settings.risk.known_for);
        let sealed = next.seal(keys, &user.tag);
        let swap = self
            .store
            .raw
            .swap_value(user.tag.into(), stored.as_deref(), &sealed, forget_at)
            .await?;
        if swap == CommitOutcome::Swapped {
            self.store.shared.cache.observe_history(&user.tag, next.revision(), forget_at);
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
        let Some(stored) = self.store.raw.value(user.tag.into()).await? else {
            return Ok(StoredHistory::Missing);
        };
        match UserHistory::open(keys, &user.tag, &stored) {
            Ok(history) => Ok(StoredHistory::Found(history, stored)),
            Err(UserHistoryError::Open(OpenError::UnknownKey)) => Err(Unavailable(
                "a user history is sealed with a key that this gateway's keys file lacks; copy the newest keys file here".to_owned(),
            )),
            Err(UserHistoryError::Open(OpenError::Malformed | OpenError::Forged) | UserHistoryError::Format) => {
                Ok(StoredHistory::Undecryptable(stored))
            }
        }
    }

    fn is_rolled_back(&self, user: UserRef<'_>, read: &StoredHistory) -> bool {
        let latest = self.store.shared.cache.history_revision(&user.tag, self.store.now());
        match read {
            StoredHistory::Missing => latest > 0,
            StoredHistory::Found(history, _) => history.revision() < latest,
            StoredHistory::Undecryptable(_) => false,
        }
    }

    /// Discards the parts that cannot be trusted.
    fn validate(&self, user: UserRef<'_>, read: StoredHistory) -> LoadedHistory {
        let latest = self.store.shared.cache.history_revision(&user.tag, self.store.now());
        let rolled_back = self.is_rolled_back(user, &read);
        if rolled_back {
            self.report(SessionEvent::RolledBack, user);
        }
        let (mut history, stored) = match read {
            StoredHistory::Missing => (UserHistory::default().without_locations(latest), None),
            StoredHistory::Found(history, stored) if rolled_back => {
                (history.without_locations(latest), Some(stored))
            }
            StoredHistory::Found(history, stored) => (self.accept(user, history), Some(stored)),
            StoredHistory::Undecryptable(stored) => {
                self.report(SessionEvent::Undecryptable, user);
                (UserHistory::default().without_locations(latest), Some(stored))
            }
        };
        history.prune(self.store.settings.risk.known_for, self.store.now());
        LoadedHistory { history, stored }
    }

    fn accept(&self, user: UserRef<'_>, history: UserHistory) -> UserHistory {
        let until = history.expires_at(self.store.settings.risk.known_for);
        self.store.shared.cache.observe_history(&user.tag, history.revision(), until);
        history
    }

    fn report(&self, event: SessionEvent, user: UserRef<'_>) {
        self.store.shared.emit(event, EventContext { user: user.user, ..EventContext::default() });
    }

    fn history_failed(&self, error: &Unavailable) {
        self.store.shared.metrics.store_error();
        tracing::warn!(target: "session", event = "user.history-unavailable", %error, "the user history is unavailable; no request is refused for it");
    }
}

fn contention_error() -> Unavailable {
    Unavailable("every write of a user history was overtaken by another".to_owned())
}

/// Stored history.
enum StoredHistory {
    Missing,
    Found(UserHistory, Bytes),
    /// Not decryptable.
    Undecryptable(Bytes),
}

#[cfg(test)]
mod tests;
