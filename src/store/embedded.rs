//! The store of one machine: all is read from memory, all is written to one file by one thread.
//!
//! Invariants:
//! - what a reader sees is on disk: a change goes to the file first and to memory after its durable
//!   commit, so that no answer is built on something that a crash takes back. Only touches go the other
//!   way, within [`TOUCH_DELAY`].
//! - all that waits goes into one transaction, so that a thousand logins cost one flush of the disk
//! - a failed write is `Unavailable` and leaves memory as it was. The file is then opened anew before the
//!   next write, and the rows in doubt are written again as memory has them.

use std::collections::{HashMap, HashSet};
use std::fs::{DirBuilder, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use redb::{Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};
use tokio::sync::oneshot;

use super::entry::{Entry, Facts, MOST_PER_USER, number, pack_ended, pack_live, too_many, unpack};
use super::memory::{Forgotten, Tables};
use super::{Commit, OpenError, Slot, Unavailable};
use crate::clock::{Clock, UnixMillis};
use crate::session::{EndReason, NotBefore, SessionId, SessionKey, UserTag};

/// How long a touch may wait before it is written.
pub const TOUCH_DELAY: Duration = Duration::from_millis(200);

const SCHEMA: u64 = 1;
/// Writes that may wait. More means that the disk has stopped.
const QUEUE: usize = 4_096;
/// Writes in one transaction.
const BATCH: usize = 1_024;
/// Pause between attempts to open the file after an error.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);
/// Everything is read once, at start.
const CACHE_BYTES: usize = 16 * 1024 * 1024;
/// Files below this are not worth compacting.
const COMPACT_FROM: u64 = 16 * 1024 * 1024;

/// `schema` and `everyone`.
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
/// `tag 8 | id 16` to `created 8 | forget_at 8 | packed slot`.
const SESSIONS: TableDefinition<[u8; 24], &[u8]> = TableDefinition::new("sessions");
/// `tag 8 | id 16` to the last touch.
const TOUCHES: TableDefinition<[u8; 24], u64> = TableDefinition::new("touches");
/// `tag` to `line 8 | greatest 8 | excepted id, 16 or none`.
const USERS: TableDefinition<[u8; 8], &[u8]> = TableDefinition::new("users");

/// The store of `embedded:DIR`.
#[derive(Debug)]
pub struct Embedded {
    shared: Arc<Shared>,
    queue: SyncSender<Job>,
    clock: Clock,
}

/// What readers and the writer have in common.
#[derive(Debug, Default)]
struct Shared {
    tables: Tables,
    /// Touches that memory has and the file has not.
    touches: Mutex<HashMap<SessionKey, UnixMillis>>,
    /// A sweep's findings wait in the queue.
    sweeping: AtomicBool,
}

/// A change: run against what is staged, it gives the answer that is sent after the commit.
type Job = Box<dyn FnOnce(&mut Staged<'_>) -> Answer + Send>;
type Answer = Box<dyn FnOnce(Result<(), Unavailable>) + Send>;

impl Embedded {
    pub(super) fn open(directory: &Path, clock: Clock) -> Result<Embedded, OpenError> {
        let path = make_file(directory)?;
        let opener = move || builder().create(&path);
        Embedded::open_with(directory.join(FILE), Box::new(opener), clock)
    }

    fn open_with(path: PathBuf, opener: Opener, clock: Clock) -> Result<Embedded, OpenError> {
        let mut database = opener().map_err(|error| open_error(&path, error))?;
        let shared = Arc::new(Shared::default());
        read_all(&database, &shared.tables, clock.now()).map_err(|error| error.at(&path))?;
        compact(&mut database, &path);
        let (queue, jobs) = mpsc::sync_channel(QUEUE);
        let writer = Writer {
            shared: Arc::clone(&shared),
            jobs,
            opener,
            path: path.clone(),
            database: Some(database),
            doubts: Doubts::default(),
            last_try: Instant::now(),
            touches_due: None,
        };
        std::thread::Builder::new()
            .name("doorward-store".to_owned())
            .spawn(move || writer.run())
            .map_err(|error| OpenError::Directory { path, error })?;
        Ok(Embedded {
            shared,
            queue,
            clock,
        })
    }

    pub(super) fn tables(&self) -> &Tables {
        &self.shared.tables
    }

    pub(super) async fn create(
        &self,
        key: &SessionKey,
        sealed: &[u8],
        created: UnixMillis,
        forget_at: UnixMillis,
    ) -> Result<(), Unavailable> {
        let (key, sealed) = (*key, Bytes::copy_from_slice(sealed));
        self.submit(move |staged| {
            if staged.held(key.tag) >= MOST_PER_USER {
                return Err(too_many());
            }
            let existing = staged.entry(&key);
            let entry = Entry::create(existing.as_ref(), &sealed, created, forget_at)?;
            let facts = staged.facts(key.tag).with(created);
            staged.users.insert(key.tag, Some(facts));
            staged.sessions.insert(key, Some(entry));
            Ok(())
        })
        .await?
    }

    pub(super) async fn commit(
        &self,
        key: &SessionKey,
        expected: u64,
        sealed: &[u8],
        forget_at: UnixMillis,
    ) -> Result<Commit, Unavailable> {
        let (key, sealed) = (*key, Bytes::copy_from_slice(sealed));
        self.submit(move |staged| {
            let existing = staged.entry(&key);
            match existing.and_then(|entry| entry.commit(expected, &sealed, forget_at)) {
                Some(entry) => {
                    staged.sessions.insert(key, Some(entry));
                    Commit::Swapped
                }
                None => Commit::Lost,
            }
        })
        .await
    }

    pub(super) fn touch(&self, key: &SessionKey, at: UnixMillis) {
        if !self.shared.tables.touch(key, at) {
            return;
        }
        let mut touches = self.shared.touches();
        let wake = touches.is_empty();
        touches.insert(*key, at);
        drop(touches);
        if wake {
            // A full queue keeps the writer awake without us.
            let _ = self.queue.try_send(Box::new(|_| Box::new(|_| ())));
        }
    }

    pub(super) async fn end(
        &self,
        key: &SessionKey,
        reason: EndReason,
        at: UnixMillis,
        forget_at: UnixMillis,
    ) -> Result<(), Unavailable> {
        let key = *key;
        self.submit(move |staged| {
            let existing = staged.entry(&key);
            let tombstone = Entry::end(existing.as_ref(), reason, at, forget_at);
            staged.sessions.insert(key, Some(tombstone));
        })
        .await
    }

    pub(super) async fn revoke_user(
        &self,
        tag: UserTag,
        now: UnixMillis,
        except: Option<SessionId>,
    ) -> Result<NotBefore, Unavailable> {
        self.submit(move |staged| {
            let facts = staged.facts(tag).revoke(now, except);
            staged.users.insert(tag, Some(facts));
            facts.line
        })
        .await
    }

    pub(super) async fn revoke_everyone(&self, now: UnixMillis) -> Result<UnixMillis, Unavailable> {
        self.submit(move |staged| {
            let line = staged.everyone().max(now);
            staged.everyone = Some(line);
            line
        })
        .await
    }

    /// Asks the writer, who opens the file again if he lost it.
    pub(super) async fn ping(&self) -> Result<(), Unavailable> {
        self.submit(|_| ()).await
    }

    pub(super) async fn flush(&self) -> Result<(), Unavailable> {
        self.submit(|staged| staged.flush = true).await
    }

    pub(super) async fn close(&self) -> Result<(), Unavailable> {
        self.submit(|staged| {
            staged.flush = true;
            staged.close = true;
        })
        .await
    }

    /// Hands what is forgotten to the writer, a shard at a time.
    pub(super) fn sweep(&self) {
        if self.shared.sweeping.load(Ordering::SeqCst) {
            return;
        }
        let now = self.clock.now();
        let found = self.shared.tables.forgotten(now);
        if found.is_empty() {
            return;
        }
        self.shared.sweeping.store(true, Ordering::SeqCst);
        let shared = Arc::clone(&self.shared);
        let job: Job = Box::new(move |staged| {
            staged.forget(&found, now);
            Box::new(move |_| shared.sweeping.store(false, Ordering::SeqCst))
        });
        if self.queue.try_send(job).is_err() {
            self.shared.sweeping.store(false, Ordering::SeqCst);
        }
    }

    /// Runs `change` in the writer's next transaction; answers when that is on disk.
    async fn submit<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Staged<'_>) -> T + Send + 'static,
    ) -> Result<T, Unavailable> {
        let (sender, answer) = oneshot::channel();
        let job: Job = Box::new(move |staged| {
            let result = change(staged);
            Box::new(move |outcome: Result<(), Unavailable>| {
                // Nobody waits when the request was given up; the write stands.
                let _ = sender.send(outcome.map(|()| result));
            })
        });
        self.queue.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => Unavailable(format!(
                "{QUEUE} writes wait already: the disk does not keep up"
            )),
            TrySendError::Disconnected(_) => ended(),
        })?;
        answer.await.map_err(|_| ended())?
    }
}

impl Shared {
    fn touches(&self) -> MutexGuard<'_, HashMap<SessionKey, UnixMillis>> {
        self.touches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ended() -> Unavailable {
    Unavailable("the embedded store is closed".to_owned())
}

/// What a batch changes, over what memory holds.
struct Staged<'a> {
    tables: &'a Tables,
    sessions: HashMap<SessionKey, Option<Entry>>,
    users: HashMap<UserTag, Option<Facts>>,
    everyone: Option<UnixMillis>,
    /// Sessions of one user that this batch adds.
    added: HashMap<UserTag, usize>,
    forgotten: Vec<Forgotten>,
    now: UnixMillis,
    flush: bool,
    close: bool,
}

impl<'a> Staged<'a> {
    fn over(tables: &'a Tables) -> Staged<'a> {
        Staged {
            tables,
            sessions: HashMap::new(),
            users: HashMap::new(),
            everyone: None,
            added: HashMap::new(),
            forgotten: Vec::new(),
            now: UnixMillis(0),
            flush: false,
            close: false,
        }
    }

    fn entry(&self, key: &SessionKey) -> Option<Entry> {
        match self.sessions.get(key) {
            Some(staged) => staged.clone(),
            None => self.tables.entry(key),
        }
    }

    fn facts(&self, tag: UserTag) -> Facts {
        match self.users.get(&tag) {
            Some(staged) => staged.unwrap_or_default(),
            None => self.tables.facts(tag),
        }
    }

    fn everyone(&self) -> UnixMillis {
        self.everyone.unwrap_or_else(|| self.tables.everyone())
    }

    /// Counts one more session of the user; answers how many there were.
    fn held(&mut self, tag: UserTag) -> usize {
        let added = self.added.entry(tag).or_default();
        let held = self.tables.held(tag) + *added;
        *added += 1;
        held
    }

    /// Stages the removal of what is still forgotten.
    fn forget(&mut self, found: &[Forgotten], now: UnixMillis) {
        self.now = now;
        for what in found {
            match what {
                Forgotten::Session(key) => {
                    if self.entry(key).is_some_and(|entry| entry.forgotten(now)) {
                        self.sessions.insert(*key, None);
                        self.forgotten.push(*what);
                    }
                }
                Forgotten::User(tag) => {
                    let busy = self.users.contains_key(tag) || self.added.contains_key(tag);
                    if !busy && self.tables.held(*tag) == 0 {
                        self.users.insert(*tag, None);
                        self.forgotten.push(*what);
                    }
                }
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.sessions.is_empty() && self.users.is_empty() && self.everyone.is_none()
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
        if let Some(line) = self.everyone {
            self.tables.revoke_everyone(line);
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
    everyone: bool,
}

type Opener = Box<dyn Fn() -> Result<Database, DatabaseError> + Send>;

/// The one thread that writes.
struct Writer {
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
    fn run(mut self) {
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
            Unavailable(format!(
                "{} cannot be written: {error}",
                self.path.display()
            ))
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
            return Err(Unavailable(format!(
                "{} failed a moment ago",
                self.path.display()
            )));
        }
        self.last_try = Instant::now();
        self.touches_due = Some(self.last_try + REOPEN_PAUSE);
        let settled = (self.opener)()
            .map_err(|error| redb::Error::from(error))
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
        staged.everyone = self.doubts.everyone.then(|| tables.everyone());
        let touched = self.doubts.sessions.iter();
        let touches = touched.map(|key| (*key, tables.touched(key))).collect();
        transact(database, &staged, &touches)
    }
}

/// One durable transaction.
fn transact(
    database: &Database,
    staged: &Staged<'_>,
    touches: &HashMap<SessionKey, UnixMillis>,
) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut table = transaction.open_table(TOUCHES)?;
        for (key, at) in touches {
            table.insert(row(key), at.0)?;
        }
        let mut sessions = transaction.open_table(SESSIONS)?;
        for (key, entry) in &staged.sessions {
            match entry.as_ref().and_then(pack) {
                Some((value, live)) => {
                    sessions.insert(row(key), value.as_slice())?;
                    if !live {
                        table.remove(row(key))?;
                    }
                }
                None => {
                    sessions.remove(row(key))?;
                    table.remove(row(key))?;
                }
            }
        }
        let mut users = transaction.open_table(USERS)?;
        for (tag, facts) in &staged.users {
            match facts {
                Some(facts) => users.insert(tag.0, pack_facts(facts).as_slice())?,
                None => users.remove(tag.0)?,
            };
        }
        if let Some(line) = staged.everyone {
            transaction.open_table(META)?.insert("everyone", line.0)?;
        }
    }
    transaction.commit()?;
    Ok(())
}

fn row(key: &SessionKey) -> [u8; 24] {
    let mut row = [0; 24];
    row[..8].copy_from_slice(&key.tag.0);
    row[8..].copy_from_slice(&key.id.0);
    row
}

fn key_of(row: &[u8; 24]) -> SessionKey {
    let (mut tag, mut id) = ([0; 8], [0; 16]);
    tag.copy_from_slice(&row[..8]);
    id.copy_from_slice(&row[8..]);
    SessionKey {
        tag: UserTag(tag),
        id: SessionId(id),
    }
}

/// An entry as a row, and whether it is a live one.
fn pack(entry: &Entry) -> Option<(Vec<u8>, bool)> {
    let (packed, live) = match &entry.slot {
        Slot::Live { revision, sealed } => (pack_live(*revision, sealed), true),
        Slot::Ended { reason, at } => (pack_ended(*reason, *at), false),
        Slot::Absent => return None,
    };
    let mut value = Vec::with_capacity(16 + packed.len());
    value.extend_from_slice(&entry.created.0.to_be_bytes());
    value.extend_from_slice(&entry.forget_at.0.to_be_bytes());
    value.extend_from_slice(&packed);
    Some((value, live))
}

fn unpack_entry(value: &[u8]) -> Option<Entry> {
    Some(Entry {
        created: UnixMillis(number(value.get(..8)?)?),
        forget_at: UnixMillis(number(value.get(8..16)?)?),
        slot: unpack(Bytes::copy_from_slice(value.get(16..)?))?,
    })
}

fn pack_facts(facts: &Facts) -> Vec<u8> {
    let mut value = Vec::with_capacity(32);
    value.extend_from_slice(&facts.line.at.0.to_be_bytes());
    value.extend_from_slice(&facts.greatest.0.to_be_bytes());
    if let Some(except) = facts.line.except {
        value.extend_from_slice(&except.0);
    }
    value
}

fn unpack_facts(value: &[u8]) -> Option<Facts> {
    let except = match value.get(16..)? {
        [] => None,
        id => Some(SessionId(id.try_into().ok()?)),
    };
    Some(Facts {
        line: NotBefore {
            at: UnixMillis(number(value.get(..8)?)?),
            except,
        },
        greatest: UnixMillis(number(value.get(8..16)?)?),
    })
}

const FILE: &str = "sessions.redb";

/// Makes the directory and the file for their owner alone: the file holds every session.
fn make_file(directory: &Path) -> Result<PathBuf, OpenError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error| OpenError::Directory { path, error }
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(failed(directory))?;
    let path = directory.join(FILE);
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failed(&path))?;
    Ok(path)
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    // Without the check a damaged file can make the library panic later.
    builder.set_check_integrity_on_open(true);
    builder
}

fn open_error(path: &Path, error: DatabaseError) -> OpenError {
    let path = path.to_owned();
    match error {
        DatabaseError::DatabaseAlreadyOpen => OpenError::InUse { path },
        other => OpenError::Damaged {
            path,
            detail: other.to_string(),
        },
    }
}

/// Why the file's content cannot be used.
enum ReadError {
    Redb(redb::Error),
    Schema(u64),
    Row(&'static str),
}

impl<E: Into<redb::Error>> From<E> for ReadError {
    fn from(error: E) -> ReadError {
        ReadError::Redb(error.into())
    }
}

impl ReadError {
    fn at(self, path: &Path) -> OpenError {
        let path = path.to_owned();
        let detail = match self {
            ReadError::Schema(found) => return OpenError::Schema { path, found },
            ReadError::Redb(error) => error.to_string(),
            ReadError::Row(table) => format!("a row of the table `{table}` is damaged"),
        };
        OpenError::Damaged { path, detail }
    }
}

/// Reads the file into memory and drops from it what is forgotten.
fn read_all(database: &Database, tables: &Tables, now: UnixMillis) -> Result<(), ReadError> {
    prepare(database)?;
    let forgotten = read_sessions(database, tables, now)?;
    let reading = database.begin_read()?;
    for user in reading.open_table(USERS)?.iter()? {
        let (tag, value) = user?;
        let facts = unpack_facts(value.value()).ok_or(ReadError::Row("users"))?;
        tables.put_facts(UserTag(tag.value()), facts);
    }
    if let Some(line) = reading.open_table(META)?.get("everyone")? {
        tables.revoke_everyone(UnixMillis(line.value()));
    }
    let mut staged = Staged::over(tables);
    staged.sessions = forgotten.into_iter().map(|key| (key, None)).collect();
    transact(database, &staged, &HashMap::new())?;
    Ok(())
}

/// Makes the tables of a new file; refuses the file of another version.
fn prepare(database: &Database) -> Result<(), ReadError> {
    let transaction = database.begin_write()?;
    {
        let mut meta = transaction.open_table(META)?;
        let found = meta.get("schema")?.map(|found| found.value());
        match found {
            Some(SCHEMA) => {}
            Some(other) => return Err(ReadError::Schema(other)),
            None => {
                meta.insert("schema", SCHEMA)?;
            }
        }
        transaction.open_table(SESSIONS)?;
        transaction.open_table(TOUCHES)?;
        transaction.open_table(USERS)?;
    }
    transaction.commit()?;
    Ok(())
}

/// Reads sessions and touches; answers the forgotten ones, which memory does not get.
fn read_sessions(
    database: &Database,
    tables: &Tables,
    now: UnixMillis,
) -> Result<Vec<SessionKey>, ReadError> {
    let reading = database.begin_read()?;
    let mut forgotten = Vec::new();
    for session in reading.open_table(SESSIONS)?.iter()? {
        let (row, value) = session?;
        let entry = unpack_entry(value.value()).ok_or(ReadError::Row("sessions"))?;
        let key = key_of(&row.value());
        if entry.forgotten(now) {
            forgotten.push(key);
        } else {
            tables.put(&key, entry);
        }
    }
    for touch in reading.open_table(TOUCHES)?.iter()? {
        let (row, at) = touch?;
        tables.touch(&key_of(&row.value()), UnixMillis(at.value()));
    }
    Ok(forgotten)
}

/// Gives a file that is half empty back to the disk. Only at start: it would stop all writes.
fn compact(database: &mut Database, path: &Path) {
    let length = std::fs::metadata(path).map_or(0, |found| found.len());
    if length < COMPACT_FROM {
        return;
    }
    let used = database.begin_write().map(|transaction| {
        let stats = transaction.stats();
        stats.map_or(length, |stats| {
            stats.stored_bytes() + stats.metadata_bytes()
        })
    });
    if used.is_ok_and(|used| used < length / 2)
        && let Err(error) = database.compact()
    {
        tracing::warn!(file = %path.display(), %error, "the session file is not compacted");
    }
}
