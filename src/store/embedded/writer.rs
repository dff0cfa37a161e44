//! The one thread that writes the file.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use redb::Database;

use super::file::{Opener, transact};
use super::{Shared, TOUCH_DELAY, ended};
use crate::clock::UnixMillis;
use crate::session::{SessionKey, UserTag};
use crate::store::Unavailable;
use crate::store::entry::{Entry, Facts, Memo};
use crate::store::memory::{Forgotten, Tables};

/// Writes in one transaction.
const BATCH: usize = 1_024;
/// Pause between attempts to open the file after an error.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);

/// A change: run against what is staged, it gives the answer that is sent after the commit.
pub(super) type Job = Box<dyn FnOnce(&mut Staged<'_>) -> Answer + Send>;
pub(super) type Answer = Box<dyn FnOnce(Result<(), Unavailable>) + Send>;

/// What a batch changes, over what memory holds.
pub(super) struct Staged<'a> {
    pub(super) tables: &'a Tables,
    pub(super) sessions: HashMap<SessionKey, Option<Entry>>,
    pub(super) users: HashMap<UserTag, Option<Facts>>,
    pub(super) memos: HashMap<UserTag, Option<Memo>>,
    pub(super) everyone: Option<UnixMillis>,
    /// Sessions of one user that this batch adds.
    added: HashMap<UserTag, usize>,
    forgotten: Vec<Forgotten>,
    now: UnixMillis,
    pub(super) flush: bool,
    pub(super) close: bool,
}

impl<'a> Staged<'a> {
    pub(super) fn over(tables: &'a Tables) -> Staged<'a> {
        Staged {
            tables,
            sessions: HashMap::new(),
            users: HashMap::new(),
            memos: HashMap::new(),
            everyone: None,
            added: HashMap::new(),
            forgotten: Vec::new(),
            now: UnixMillis(0),
            flush: false,
            close: false,
        }
    }

    pub(super) fn entry(&self, key: &SessionKey) -> Option<Entry> {
        match self.sessions.get(key) {
            Some(staged) => staged.clone(),
            None => self.tables.entry(key),
        }
    }

    pub(super) fn facts(&self, tag: UserTag) -> Facts {
        match self.users.get(&tag) {
            Some(staged) => staged.unwrap_or_default(),
            None => self.tables.facts(tag),
        }
    }

    pub(super) fn memo(&self, tag: UserTag) -> Option<Memo> {
        match self.memos.get(&tag) {
            Some(staged) => staged.clone(),
            None => self.tables.memo(tag),
        }
    }

    pub(super) fn everyone(&self) -> UnixMillis {
        self.everyone.unwrap_or_else(|| self.tables.everyone())
    }

    /// When the latest session of anybody began, with those that wait here.
    pub(super) fn greatest(&self) -> UnixMillis {
        let waiting = self.users.values().flatten().map(|facts| facts.greatest);
        waiting.fold(self.tables.greatest(), UnixMillis::max)
    }

    /// Counts one more session of the user; answers how many there were.
    pub(super) fn held(&mut self, tag: UserTag) -> usize {
        let added = self.added.entry(tag).or_default();
        let held = self.tables.held(tag) + *added;
        *added += 1;
        held
    }

    /// Stages the removal of what is still forgotten.
    pub(super) fn forget(&mut self, found: &[Forgotten], now: UnixMillis) {
        self.now = now;
        for what in found {
            match what {
                Forgotten::Session(key) => {
                    if self.entry(key).is_some_and(|entry| entry.forgotten(now)) {
                        self.sessions.insert(*key, None);
                        self.forgotten.push(*what);
                    }
                }
                Forgotten::Memo(tag) => {
                    if self.memo(*tag).is_some_and(|memo| memo.forgotten(now)) {
                        self.memos.insert(*tag, None);
                        self.forgotten.push(*what);
                    }
                }
                Forgotten::User(tag) => {
                    let busy = self.users.contains_key(tag) || self.added.contains_key(tag);
                    let empty = self.tables.held(*tag) == 0 && self.memo(*tag).is_none();
                    if !busy && empty {
                        self.users.insert(*tag, None);
                        self.forgotten.push(*what);
                    }
                }
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.sessions.is_empty()
            && self.users.is_empty()
            && self.memos.is_empty()
            && self.everyone.is_none()
    }

    /// Shows readers what is on disk now.
    fn publish(self) {
        for (key, entry) in self.sessions {
            if let Some(entry) = entry {
                self.tables.put(&key, entry);
            }
        }
        for (tag, facts) in self.users {
            if let Some(facts) = facts {
                self.tables.put_facts(tag, facts);
            }
        }
        for (tag, memo) in self.memos {
            if let Some(memo) = memo {
                self.tables.put_memo(tag, memo);
            }
        }
        if let Some(line) = self.everyone {
            self.tables.raise_everyone(line);
        }
        for what in self.forgotten {
            self.tables.remove_forgotten(&what, self.now);
        }
    }
}

/// Rows whose state on disk is unknown after a failed commit.
#[derive(Default)]
struct Doubts {
    sessions: HashSet<SessionKey>,
    users: HashSet<UserTag>,
    memos: HashSet<UserTag>,
    everyone: bool,
}

/// The one thread that writes.
pub(super) struct Writer {
    shared: Arc<Shared>,
    jobs: Receiver<Job>,
    opener: Opener,
    path: PathBuf,
    /// `None` after an error, until the file opens again.
    database: Option<Database>,
    doubts: Doubts,
    last_try: Instant,
    touches_due: Option<Instant>,
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        jobs: Receiver<Job>,
        opener: Opener,
        path: PathBuf,
        database: Database,
    ) -> Writer {
        Writer {
            shared,
            jobs,
            opener,
            path,
            database: Some(database),
            doubts: Doubts::default(),
            last_try: Instant::now(),
            touches_due: None,
        }
    }

    pub(super) fn run(mut self) {
        while let Some(batch) = self.next_batch() {
            if self.serve(batch) {
                return;
            }
        }
        // All handles are gone: keep the last touches.
        self.touches_due = Some(Instant::now());
        self.serve(Vec::new());
    }

    /// All that waits, or nothing when touches are due; `None` when nobody can ask any more.
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
        let more = self.jobs.try_iter().take(BATCH - 1);
        Some(first.into_iter().chain(more).collect())
    }

    /// Writes one batch and answers it. Whether that was the last.
    fn serve(&mut self, batch: Vec<Job>) -> bool {
        let shared = Arc::clone(&self.shared);
        let mut staged = Staged::over(&shared.tables);
        let answers: Vec<Answer> = batch.into_iter().map(|job| job(&mut staged)).collect();
        let outcome = self.write(&staged);
        let close = staged.close;
        if outcome.is_ok() {
            staged.publish();
        }
        if close {
            self.database = None;
        }
        for answer in answers {
            answer(outcome.clone());
        }
        close
    }

    fn write(&mut self, staged: &Staged<'_>) -> Result<(), Unavailable> {
        self.reopen()?;
        let touches = self.due_touches(staged);
        if staged.is_empty() && touches.is_empty() {
            return Ok(());
        }
        let Some(database) = &self.database else {
            return Err(ended());
        };
        transact(database, staged, &touches).map_err(|error| {
            tracing::error!(file = %self.path.display(), %error, "sessions are not written");
            self.doubt(staged, touches);
            Unavailable(format!("{} cannot be written: {error}", self.path.display()))
        })
    }

    /// The touches to write with this batch: all when something is written anyway or when they are due.
    fn due_touches(&mut self, staged: &Staged<'_>) -> HashMap<SessionKey, UnixMillis> {
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

    /// After a failed commit: nobody knows what of it is on disk, and the handle is spoilt.
    fn doubt(&mut self, staged: &Staged<'_>, touches: HashMap<SessionKey, UnixMillis>) {
        self.doubts.sessions.extend(staged.sessions.keys());
        self.doubts.users.extend(staged.users.keys());
        self.doubts.memos.extend(staged.memos.keys());
        self.doubts.everyone |= staged.everyone.is_some();
        let mut waiting = self.shared.touches();
        for (key, at) in touches {
            let newest = waiting.entry(key).or_insert(at);
            *newest = at.max(*newest);
        }
        drop(waiting);
        self.database = None;
        self.last_try = Instant::now();
        self.touches_due = Some(self.last_try + REOPEN_PAUSE);
    }

    /// Opens the file again after an error, at most once a pause, and settles the rows in doubt.
    fn reopen(&mut self) -> Result<(), Unavailable> {
        if self.database.is_some() {
            return Ok(());
        }
        if self.last_try.elapsed() < REOPEN_PAUSE {
            return Err(Unavailable(format!("{} failed a moment ago", self.path.display())));
        }
        self.last_try = Instant::now();
        self.touches_due = Some(self.last_try + REOPEN_PAUSE);
        let settled = (self.opener)()
            .map_err(redb::Error::from)
            .and_then(|database| self.settle(&database).map(|()| database));
        self.database = Some(settled.map_err(|error| {
            tracing::error!(file = %self.path.display(), %error, "the session file does not open");
            Unavailable(format!("{} does not open: {error}", self.path.display()))
        })?);
        self.doubts = Doubts::default();
        tracing::info!(file = %self.path.display(), "sessions are written again");
        Ok(())
    }

    /// Writes the rows in doubt as memory has them.
    fn settle(&self, database: &Database) -> Result<(), redb::Error> {
        let tables = &self.shared.tables;
        let mut staged = Staged::over(tables);
        for key in &self.doubts.sessions {
            staged.sessions.insert(*key, tables.entry(key));
        }
        for tag in &self.doubts.users {
            staged.users.insert(*tag, Some(tables.facts(*tag)));
        }
        for tag in &self.doubts.memos {
            staged.memos.insert(*tag, tables.memo(*tag));
        }
        staged.everyone = self.doubts.everyone.then(|| tables.everyone());
        let keys = self.doubts.sessions.iter();
        let touches = keys.map(|key| (*key, tables.touched(key))).collect();
        transact(database, &staged, &touches)
    }
}
