//! A batch of changes, staged on top of the state in memory.

use std::collections::HashMap;

use crate::clock::UnixMillis;
use crate::session::{RevocationCutoff, SessionId, SessionKey, UserTag};
use crate::store::entry::{HistoryEntry, SessionEntry, UserState};
use crate::store::tables::{Expired, Tables};
use crate::store::types::Unavailable;

/// A change. It modifies the staged batch and returns the completion to call after the commit.
pub(super) type Job = Box<dyn FnOnce(&mut StagedBatch<'_>) -> Completion + Send>;
pub(super) type Completion = Box<dyn FnOnce(Result<(), Unavailable>) + Send>;

/// The changes of one batch, on top of the state in memory.
pub(super) struct StagedBatch<'a> {
    pub(super) tables: &'a Tables,
    pub(super) sessions: HashMap<SessionKey, Option<SessionEntry>>,
    pub(super) users: HashMap<UserTag, Option<UserState>>,
    pub(super) histories: HashMap<UserTag, Option<HistoryEntry>>,
    pub(super) global_cutoff: Option<UnixMillis>,
    /// Sessions that this batch adds, by user.
    added: HashMap<UserTag, usize>,
    expired: Vec<Expired>,
    now: UnixMillis,
    pub(super) flush: bool,
    pub(super) close: bool,
}

impl<'a> StagedBatch<'a> {
    pub(super) fn new(tables: &'a Tables) -> StagedBatch<'a> {
        StagedBatch {
            tables,
            sessions: HashMap::new(),
            users: HashMap::new(),
            histories: HashMap::new(),
            global_cutoff: None,
            added: HashMap::new(),
            expired: Vec::new(),
            now: UnixMillis(0),
            flush: false,
            close: false,
        }
    }

    pub(super) fn entry(&self, key: &SessionKey) -> Option<SessionEntry> {
        match self.sessions.get(key) {
            Some(staged) => staged.clone(),
            None => self.tables.entry(key),
        }
    }

    pub(super) fn user_state(&self, tag: UserTag) -> UserState {
        match self.users.get(&tag) {
            Some(staged) => staged.unwrap_or_default(),
            None => self.tables.user_state(tag),
        }
    }

    pub(super) fn user_history(&self, tag: UserTag) -> Option<HistoryEntry> {
        match self.histories.get(&tag) {
            Some(staged) => staged.clone(),
            None => self.tables.stored_history(tag),
        }
    }

    /// Returns the live sessions that the cutoff `after` revokes and `before` does not.
    pub(super) fn revoked_between(
        &self,
        tag: UserTag,
        before: RevocationCutoff,
        after: RevocationCutoff,
    ) -> Vec<SessionId> {
        let mut ended = self.tables.revoked_between(tag, before, after);
        for (key, entry) in self.sessions.iter().filter(|(key, _)| key.tag == tag) {
            ended.retain(|id| *id != key.id);
            let entry = entry.as_ref();
            if entry.is_some_and(|entry| entry.is_revoked_between(key.id, before, after)) {
                ended.push(key.id);
            }
        }
        ended
    }

    pub(super) fn global_cutoff(&self) -> UnixMillis {
        self.global_cutoff.unwrap_or_else(|| self.tables.global_cutoff())
    }

    /// Returns the greatest `created` of all sessions, including staged ones.
    pub(super) fn latest_created(&self) -> UnixMillis {
        let waiting = self.users.values().flatten().map(|state| state.latest_created);
        waiting.fold(self.tables.latest_created(), UnixMillis::max)
    }

    /// Counts one more session of the user. Returns the count before it.
    pub(super) fn add_session(&mut self, tag: UserTag) -> usize {
        let added = self.added.entry(tag).or_default();
        let held = self.tables.session_count(tag) + *added;
        *added += 1;
        held
    }

    /// Stages the removal of entries that are still expired.
    pub(super) fn stage_expired(&mut self, found: &[Expired], now: UnixMillis) {
        self.now = now;
        for what in found {
            match what {
                Expired::Session(key) => {
                    if self.entry(key).is_some_and(|entry| entry.is_expired(now)) {
                        self.sessions.insert(*key, None);
                        self.expired.push(*what);
                    }
                }
                Expired::History(tag) => {
                    if self.user_history(*tag).is_some_and(|history| history.is_expired(now)) {
                        self.histories.insert(*tag, None);
                        self.expired.push(*what);
                    }
                }
                Expired::User(tag) => {
                    let busy = self.users.contains_key(tag) || self.added.contains_key(tag);
                    let empty =
                        self.tables.session_count(*tag) == 0 && self.user_history(*tag).is_none();
                    if !busy && empty {
                        self.users.insert(*tag, None);
                        self.expired.push(*what);
                    }
                }
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sessions.is_empty()
            && self.users.is_empty()
            && self.histories.is_empty()
            && self.global_cutoff.is_none()
    }

    /// Publishes the committed batch to readers.
    pub(super) fn publish(self) {
        for (key, entry) in self.sessions {
            if let Some(entry) = entry {
                self.tables.put(&key, entry);
            }
        }
        for (tag, state) in self.users {
            if let Some(state) = state {
                self.tables.put_user_state(tag, state);
            }
        }
        for (tag, history) in self.histories {
            if let Some(history) = history {
                self.tables.put_history(tag, history);
            }
        }
        if let Some(cutoff) = self.global_cutoff {
            self.tables.advance_global_cutoff(cutoff);
        }
        for what in self.expired {
            self.tables.remove_expired(&what, self.now);
        }
    }
}
