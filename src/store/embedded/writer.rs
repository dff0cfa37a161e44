//! The thread that writes the file.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use redb::Database;

use super::batch::{Completion, Job, StagedBatch};
use super::file::{Opener, write_batch};
use super::state::EmbeddedState;
use crate::clock::UnixMillis;
use crate::session::{SessionKey, UserTag};
use crate::store::types::Unavailable;

/// Maximum jobs in one transaction.
const MAX_BATCH: usize = 1_024;
/// Maximum delay before a touch is written.
pub(super) const TOUCH_DELAY: Duration = Duration::from_millis(200);
/// Delay between attempts to reopen the file after an error.
const REOPEN_DELAY: Duration = Duration::from_secs(1);

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
        let mut waiting = self.shared.touches.lock();
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
        let mut waiting = self.shared.touches.lock();
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
            staged.histories.insert(*tag, tables.stored_history(*tag));
        }
        staged.global_cutoff = self.uncertain.global_cutoff.then(|| tables.global_cutoff());
        let keys = self.uncertain.sessions.iter();
        let touches = keys.map(|key| (*key, tables.touched(key))).collect();
        write_batch(database, &staged, &touches)
    }
}

/// The error of every operation after the store was closed.
pub(super) fn closed() -> Unavailable {
    Unavailable("the embedded store is closed".to_owned())
}
