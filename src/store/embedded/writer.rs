//! The thread that writes the file.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use redb::Database;

use super::file::{Opener, write_batch};
use super::{EmbeddedState, TOUCH_DELAY, closed};
use crate::clock::UnixMillis;
use crate::session::{SessionKey, UserTag};
use crate::store::Unavailable;
use crate::store::entry::{SessionEntry, StoredHistory, UserState};
use crate::store::memory::{Expired, Tables};

/// Maximum jobs in one transaction.
const MAX_BATCH: usize = 1_024;
/// Delay between attempts to reopen the file after an error.
const REOPEN_DELAY: Duration = Duration::from_secs(1);

/// A change. It modifies the staged batch and returns the completion to call after the commit.
pub(super) type Job = Box<dyn FnOnce(&mut StagedBatch<'_>) -> Completion + Send>;
pub(super) type Completion = Box<dyn FnOnce(Result<(), Unavailable>) + Send>;

/// The changes of one batch, on top of the state in memory.
pub(super) struct StagedBatch<'a> {
    pub(super) tables: &'a Tables,
    pub(super) sessions: HashMap<SessionKey, Option<SessionEntry>>,
    pub(super) users: HashMap<UserTag, Option<UserState>>,
    pub(super) histories: HashMap<UserTag, Option<StoredHistory>>,
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

    pub(super) fn user_history(&self, tag: UserTag) -> Option<StoredHistory> {
        match self.histories.get(&tag) {
            Some(staged) => staged.clone(),
            None => self.tables.user_history(tag),
        }
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

    fn is_empty(&self) -> bool {
        self.sessions.is_empty()
            && self.users.is_empty()
            && self.histories.is_empty()
            && self.global_cutoff.is_none()
    }

    /// Publishes the committed batch to readers.
    fn publish(self) {
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

/// Rows whose state on disk is unknown after a failed commit.
#[derive(Default)]
struct UncertainRows {
    sessions: HashSet<SessionKey>,
    users: HashSet<UserTag>,
    histories: HashSet<UserTag>,
    global_cutoff: bool,
}

/// State of the writer thread.
pub(super) struct FileWriter {
    shared: Arc<EmbeddedState>,
    jobs: Receiver<Job>,
    opener: Opener,
    path: PathBuf,
    /// `None` after an error, until the file is reopened.
    database: Option<Database>,
    uncertain: UncertainRows,
    last_reopen: Instant,
    touches_due: Option<Instant>,
}

impl FileWriter {
    pub(super) fn new(
        shared: Arc<EmbeddedState>,
        jobs: Receiver<Job>,
        opener: Opener,
        path: PathBuf,
        database: Database,
    ) -> FileWriter {
        FileWriter {
            shared,
            jobs,
            opener,
            path,
            database: Some(database),
            uncertain: UncertainRows::default(),
            last_reopen: Instant::now(),
            touches_due: None,
        }
    }

    pub(super) fn run(mut self) {
        while let Some(batch) = self.next_batch() {
            if self.process_batch(batch) {
                return;
            }
        }
        // All handles are gone. Write the last touches.
        self.touches_due = Some(Instant::now());
        self.process_batch(Vec::new());
    }

    /// Returns all waiting jobs, or none when touches are due. Returns `None` when all senders are
    /// gone.
    fn next_batch(&mut self) -> Option<Vec<Job>> {
        let first = match self.touches_due {
            None => Some(self.jobs.recv().ok()?),
            Some(due) => {
                let wait = due.saturating_duration_since(Instant::now());
                match self.jobs.recv_timeout(wait) {
                    Ok(job) => Some(job),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => return None,
                }
            }
        };
        let more = self.jobs.try_iter().take(MAX_BATCH - 1);
        Some(first.into_iter().chain(more).collect())
    }

    /// Writes one batch and completes its jobs. Returns whether the store was closed.
    fn process_batch(&mut self, batch: Vec<Job>) -> bool {
        let shared = Arc::clone(&self.shared);
        let mut staged = StagedBatch::new(&shared.tables);
        let completions: Vec<Completion> = batch.into_iter().map(|job| job(&mut staged)).collect();
        let outcome = self.write(&staged);
        let close = staged.close;
        if outcome.is_ok() {
            staged.publish();
        }
        if close {
            self.database = None;
        }
        for completion in completions {
            completion(outcome.clone());
        }
        close
    }

    fn write(&mut self, staged: &StagedBatch<'_>) -> Result<(), Unavailable> {
        self.reopen()?;
        let touches = self.due_touches(staged);
        if staged.is_empty() && touches.is_empty() {
            return Ok(());
        }
        let Some(database) = &self.database else {
            return Err(closed());
        };
        write_batch(database, staged, &touches).map_err(|error| {
            tracing::error!(event = "store.write-failed", path = %self.path.display(), %error, "cannot write sessions");
            self.mark_uncertain(staged, touches);
            Unavailable(format!("{} cannot be written: {error}", self.path.display()))
        })
    }

    /// Returns the touches for this batch: all, if another write happens or they are due.
    fn due_touches(&mut self, staged: &StagedBatch<'_>) -> HashMap<SessionKey, UnixMillis> {
        let mut waiting = self.shared.touches();
        if waiting.is_empty() {
            self.touches_due = None;
            return HashMap::new();
        }
        let now = Instant::now();
        let due = *self.touches_due.get_or_insert(now + TOUCH_DELAY);
        if due > now && staged.is_empty() && !staged.flush {
            return HashMap::new();
        }
        self.touches_due = None;
        std::mem::take(&mut *waiting)
    }

    /// Handles a failed commit: its state on disk is unknown, and the database handle is unusable.
    fn mark_uncertain(
        &mut self,
        staged: &StagedBatch<'_>,
        touches: HashMap<SessionKey, UnixMillis>,
    ) {
        self.uncertain.sessions.extend(staged.sessions.keys());
        self.uncertain.users.extend(staged.users.keys());
        self.uncertain.histories.extend(staged.histories.keys());
        self.uncertain.global_cutoff |= staged.global_cutoff.is_some();
        let mut waiting = self.shared.touches();
        for (key, at) in touches {
            let newest = waiting.entry(key).or_insert(at);
            *newest = at.max(*newest);
        }
        drop(waiting);
        self.database = None;
        self.last_reopen = Instant::now();
        self.touches_due = Some(self.last_reopen + REOPEN_DELAY);
    }

    /// Reopens the file after an error, at most once per [`REOPEN_DELAY`], and reconciles uncertain
    /// rows.
    fn reopen(&mut self) -> Result<(), Unavailable> {
        if self.database.is_some() {
            return Ok(());
        }
        if self.last_reopen.elapsed() < REOPEN_DELAY {
            return Err(Unavailable(format!("{} failed a moment ago", self.path.display())));
        }
        self.last_reopen = Instant::now();
        self.touches_due = Some(self.last_reopen + REOPEN_DELAY);
        let reopened = (self.opener)()
            .map_err(redb::Error::from)
            .and_then(|database| self.reconcile(&database).map(|()| database));
        self.database = Some(reopened.map_err(|error| {
            tracing::error!(event = "store.open-failed", path = %self.path.display(), %error, "cannot open the session file");
            Unavailable(format!("{} cannot be opened: {error}", self.path.display()))
        })?);
        self.uncertain = UncertainRows::default();
        tracing::info!(event = "store.write-recovered", path = %self.path.display(), "the session file is writable again");
        Ok(())
    }

    /// Rewrites the uncertain rows from memory.
    fn reconcile(&self, database: &Database) -> Result<(), redb::Error> {
        let tables = &self.shared.tables;
        let mut staged = StagedBatch::new(tables);
        for key in &self.uncertain.sessions {
            staged.sessions.insert(*key, tables.entry(key));
        }
        for tag in &self.uncertain.users {
            staged.users.insert(*tag, Some(tables.user_state(*tag)));
        }
        for tag in &self.uncertain.histories {
            staged.histories.insert(*tag, tables.user_history(*tag));
        }
        staged.global_cutoff = self.uncertain.global_cutoff.then(|| tables.global_cutoff());
        let keys = self.uncertain.sessions.iter();
        let touches = keys.map(|key| (*key, tables.touched(key))).collect();
        write_batch(database, &staged, &touches)
    }
}
