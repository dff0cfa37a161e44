//! The file: its tables, how it is made, read and written.

use std::collections::HashMap;
use std::fs::{DirBuilder, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use redb::{
    Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition,
    WriteTransaction,
};

use super::writer::Staged;
use crate::clock::UnixMillis;
use crate::session::{NotBefore, SessionId, SessionKey, UserTag};
use crate::store::entry::{Entry, Facts, Memo, number, pack_ended, pack_live, unpack};
use crate::store::memory::Tables;
use crate::store::{OpenError, Slot};

const FILE: &str = "sessions.redb";
const SCHEMA: u64 = 1;
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
/// `tag` to `forget_at 8 | sealed`. A gateway from before it leaves it alone.
const MEMOS: TableDefinition<[u8; 8], &[u8]> = TableDefinition::new("memos");

/// Makes the directory and the file for their owner alone: the file holds every session.
pub(super) fn make(directory: &Path) -> Result<PathBuf, OpenError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error| OpenError::Directory { path, error }
    };
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed(directory))?;
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

pub(super) fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    // Without the check a damaged file can make the library panic later.
    builder.set_check_integrity_on_open(true);
    builder
}

/// How the file is opened, at start and after an error.
pub(super) type Opener = Box<dyn Fn() -> Result<Database, DatabaseError> + Send>;

pub(super) fn opener(path: PathBuf) -> Opener {
    Box::new(move || builder().create(&path))
}

/// Opens the file and reads it into `tables`.
pub(super) fn open(
    opener: &Opener,
    path: &Path,
    tables: &Tables,
    now: UnixMillis,
) -> Result<Database, OpenError> {
    let mut database = opener().map_err(|error| open_error(path, error))?;
    read_all(&database, tables, now).map_err(|error| error.at(path))?;
    compact(&mut database, path);
    Ok(database)
}

#[allow(clippy::wildcard_enum_match_arm, reason = "not our enum, and it grows")]
fn open_error(path: &Path, error: DatabaseError) -> OpenError {
    let path = path.to_owned();
    match error {
        DatabaseError::DatabaseAlreadyOpen => OpenError::InUse { path },
        other => OpenError::Damaged { path, detail: other.to_string() },
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
    for memo in reading.open_table(MEMOS)?.iter()? {
        let (tag, value) = memo?;
        let memo = unpack_memo(value.value()).ok_or(ReadError::Row("memos"))?;
        tables.put_memo(UserTag(tag.value()), memo);
    }
    if let Some(line) = reading.open_table(META)?.get("everyone")? {
        tables.raise_everyone(UnixMillis(line.value()));
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
        transaction.open_table(MEMOS)?;
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

/// Gives a file that is mostly empty back to the disk. Only at start: it stops all writes, for seconds
/// where there are hundreds of thousands of sessions.
fn compact(database: &mut Database, path: &Path) {
    let length = std::fs::metadata(path).map_or(0, |found| found.len());
    if length < COMPACT_FROM || used(database).is_none_or(|used| used >= length / 3) {
        return;
    }
    tracing::info!(file = %path.display(), bytes = length, "compacting the session file");
    if let Err(error) = database.compact() {
        tracing::warn!(file = %path.display(), %error, "the session file is not compacted");
    }
}

fn used(database: &Database) -> Option<u64> {
    let stats = database.begin_write().ok()?.stats().ok()?;
    Some(stats.stored_bytes() + stats.metadata_bytes())
}

/// One durable transaction.
pub(super) fn transact(
    database: &Database,
    staged: &Staged<'_>,
    touches: &HashMap<SessionKey, UnixMillis>,
) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    write_sessions(&transaction, staged, touches)?;
    write_users(&transaction, staged)?;
    write_memos(&transaction, staged)?;
    transaction.commit()?;
    Ok(())
}

/// The touches first: a session that ends or goes takes its touch along.
fn write_sessions(
    transaction: &WriteTransaction,
    staged: &Staged<'_>,
    touches: &HashMap<SessionKey, UnixMillis>,
) -> Result<(), redb::Error> {
    let mut touched = transaction.open_table(TOUCHES)?;
    for (key, at) in touches {
        touched.insert(row(key), at.0)?;
    }
    let mut sessions = transaction.open_table(SESSIONS)?;
    for (key, entry) in &staged.sessions {
        match entry.as_ref().and_then(pack) {
            Some(value) => sessions.insert(row(key), value.as_slice())?,
            None => sessions.remove(row(key))?,
        };
        if !entry.as_ref().is_some_and(Entry::is_live) {
            touched.remove(row(key))?;
        }
    }
    Ok(())
}

fn write_users(transaction: &WriteTransaction, staged: &Staged<'_>) -> Result<(), redb::Error> {
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
    Ok(())
}

fn write_memos(transaction: &WriteTransaction, staged: &Staged<'_>) -> Result<(), redb::Error> {
    let mut memos = transaction.open_table(MEMOS)?;
    for (tag, memo) in &staged.memos {
        match memo {
            Some(memo) => memos.insert(tag.0, pack_memo(memo).as_slice())?,
            None => memos.remove(tag.0)?,
        };
    }
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
    SessionKey { tag: UserTag(tag), id: SessionId(id) }
}

/// An entry as a row.
fn pack(entry: &Entry) -> Option<Vec<u8>> {
    let packed = match &entry.slot {
        Slot::Live { revision, sealed } => pack_live(*revision, sealed),
        Slot::Ended { reason, at } => pack_ended(*reason, *at),
        Slot::Absent => return None,
    };
    let mut value = Vec::with_capacity(16 + packed.len());
    value.extend_from_slice(&entry.created.0.to_be_bytes());
    value.extend_from_slice(&entry.forget_at.0.to_be_bytes());
    value.extend_from_slice(&packed);
    Some(value)
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
        line: NotBefore { at: UnixMillis(number(value.get(..8)?)?), except },
        greatest: UnixMillis(number(value.get(8..16)?)?),
    })
}

fn pack_memo(memo: &Memo) -> Vec<u8> {
    [memo.forget_at.0.to_be_bytes().as_slice(), &memo.sealed].concat()
}

fn unpack_memo(value: &[u8]) -> Option<Memo> {
    let (forget_at, sealed) = value.split_at_checked(8)?;
    let forget_at = UnixMillis(number(forget_at)?);
    Some(Memo { sealed: Bytes::copy_from_slice(sealed), forget_at })
}
