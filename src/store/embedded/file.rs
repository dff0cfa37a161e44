//! The database file: its tables, creation, reading and writing.

use std::collections::HashMap;
use std::fs::{DirBuilder, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use redb::{
    Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition,
    WriteTransaction,
};

use super::batch::StagedBatch;
use crate::clock::UnixMillis;
use crate::session::{RevocationCutoff, SessionId, SessionKey, UserTag};
use crate::store::entry::{
    HistoryEntry, SessionEntry, UserState, pack_ended, pack_live, read_u64, unpack,
};
use crate::store::tables::Tables;
use crate::store::types::{Slot, StoreOpenError};

const FILE: &str = "sessions.redb";
const SCHEMA: u64 = 1;
/// The file is read once at startup, so the cache can be small.
const DATABASE_CACHE_BYTES: usize = 16 * 1024 * 1024;
/// Minimum file size for compaction.
const MIN_COMPACT_BYTES: u64 = 16 * 1024 * 1024;

/// `schema`, and `everyone` with the global cutoff.
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
/// `tag 8 | id 16` to `created 8 | retain_until 8 | packed slot`.
const SESSIONS: TableDefinition<[u8; 24], &[u8]> = TableDefinition::new("sessions");
/// `tag 8 | id 16` to the last touch.
const TOUCHES: TableDefinition<[u8; 24], u64> = TableDefinition::new("touches");
/// `tag` to `cutoff 8 | latest_created 8 | excepted id, 16 or none`.
const USERS: TableDefinition<[u8; 8], &[u8]> = TableDefinition::new("users");
/// `tag` to `retain_until 8 | sealed`. Older versions ignore this table.
const HISTORIES: TableDefinition<[u8; 8], &[u8]> = TableDefinition::new("memos");

/// Returns the file of a store.
pub(super) fn file_path(directory: &Path) -> PathBuf {
    directory.join(FILE)
}

/// Creates the directory and the file with access for the owner only, because the file holds every
/// session.
pub(super) fn create_file(directory: &Path) -> Result<PathBuf, StoreOpenError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error| StoreOpenError::Directory { path, error }
    };
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed(directory))?;
    let path = file_path(directory);
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
    builder.set_cache_size(DATABASE_CACHE_BYTES);
    // Without this check, a damaged file can make the library panic later.
    builder.set_check_integrity_on_open(true);
    builder
}

/// Opens the file, at startup and after an error.
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
) -> Result<Database, StoreOpenError> {
    let mut database = opener().map_err(|error| open_error(path, error))?;
    read_all(&database, tables, now).map_err(|error| error.into_open_error(path))?;
    compact(&mut database, path);
    Ok(database)
}

#[allow(clippy::wildcard_enum_match_arm, reason = "not our enum, and it grows")]
fn open_error(path: &Path, error: DatabaseError) -> StoreOpenError {
    let path = path.to_owned();
    match error {
        DatabaseError::DatabaseAlreadyOpen => StoreOpenError::InUse { path },
        other => StoreOpenError::Damaged { path, detail: other.to_string() },
    }
}

/// Reason the content of the file cannot be used.
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
    fn into_open_error(self, path: &Path) -> StoreOpenError {
        let path = path.to_owned();
        let detail = match self {
            ReadError::Schema(found) => return StoreOpenError::Schema { path, found },
            ReadError::Redb(error) => error.to_string(),
            ReadError::Row(table) => format!("a row of the table `{table}` is damaged"),
        };
        StoreOpenError::Damaged { path, detail }
    }
}

/// Reads the file into memory and deletes expired rows.
fn read_all(database: &Database, tables: &Tables, now: UnixMillis) -> Result<(), ReadError> {
    prepare(database)?;
    let forgotten = read_sessions(database, tables, now)?;
    let reading = database.begin_read()?;
    for user in reading.open_table(USERS)?.iter()? {
        let (tag, value) = user?;
        let state = unpack_user_state(value.value()).ok_or(ReadError::Row("users"))?;
        tables.put_user_state(UserTag(tag.value()), state);
    }
    for history in reading.open_table(HISTORIES)?.iter()? {
        let (tag, value) = history?;
        let history = unpack_history(value.value()).ok_or(ReadError::Row("memos"))?;
        tables.put_history(UserTag(tag.value()), history);
    }
    if let Some(cutoff) = reading.open_table(META)?.get("everyone")? {
        tables.advance_global_cutoff(UnixMillis(cutoff.value()));
    }
    let mut staged = StagedBatch::new(tables);
    staged.sessions = forgotten.into_iter().map(|key| (key, None)).collect();
    write_batch(database, &staged, &HashMap::new())?;
    Ok(())
}

/// Creates the tables of a new file. Rejects a file with another schema version.
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
        transaction.open_table(HISTORIES)?;
    }
    transaction.commit()?;
    Ok(())
}

/// Reads sessions and touches into memory. Returns the expired sessions, which are skipped.
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
        let key = key_from_row(&row.value());
        if entry.is_expired(now) {
            forgotten.push(key);
        } else {
            tables.put(&key, entry);
        }
    }
    for touch in reading.open_table(TOUCHES)?.iter()? {
        let (row, at) = touch?;
        tables.touch(&key_from_row(&row.value()), UnixMillis(at.value()));
    }
    Ok(forgotten)
}

/// Compacts a mostly empty file. Only at startup, because it blocks writes for seconds with
/// hundreds of thousands of sessions.
fn compact(database: &mut Database, path: &Path) {
    let length = std::fs::metadata(path).map_or(0, |found| found.len());
    if length < MIN_COMPACT_BYTES
        || used_bytes(database).is_none_or(|used_bytes| used_bytes >= length / 3)
    {
        return;
    }
    tracing::info!(event = "store.compacting", path = %path.display(), bytes = length, "compacting the session file");
    if let Err(error) = database.compact() {
        tracing::warn!(event = "store.compaction-failed", path = %path.display(), %error, "cannot compact the session file");
    }
}

fn used_bytes(database: &Database) -> Option<u64> {
    let stats = database.begin_write().ok()?.stats().ok()?;
    Some(stats.stored_bytes() + stats.metadata_bytes())
}

/// Writes a batch in one durable transaction.
pub(super) fn write_batch(
    database: &Database,
    staged: &StagedBatch<'_>,
    touches: &HashMap<SessionKey, UnixMillis>,
) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    write_sessions(&transaction, staged, touches)?;
    write_users(&transaction, staged)?;
    write_histories(&transaction, staged)?;
    transaction.commit()?;
    Ok(())
}

/// Touches come first, because an ended or removed session also loses its touch.
fn write_sessions(
    transaction: &WriteTransaction,
    staged: &StagedBatch<'_>,
    touches: &HashMap<SessionKey, UnixMillis>,
) -> Result<(), redb::Error> {
    let mut touched = transaction.open_table(TOUCHES)?;
    for (key, at) in touches {
        touched.insert(row(key), at.0)?;
    }
    let mut sessions = transaction.open_table(SESSIONS)?;
    for (key, entry) in &staged.sessions {
        match entry.as_ref().and_then(pack_entry) {
            Some(value) => sessions.insert(row(key), value.as_slice())?,
            None => sessions.remove(row(key))?,
        };
        if !entry.as_ref().is_some_and(SessionEntry::is_live) {
            touched.remove(row(key))?;
        }
    }
    Ok(())
}

fn write_users(
    transaction: &WriteTransaction,
    staged: &StagedBatch<'_>,
) -> Result<(), redb::Error> {
    let mut users = transaction.open_table(USERS)?;
    for (tag, state) in &staged.users {
        match state {
            Some(state) => users.insert(tag.0, pack_user_state(state).as_slice())?,
            None => users.remove(tag.0)?,
        };
    }
    if let Some(cutoff) = staged.global_cutoff {
        transaction.open_table(META)?.insert("everyone", cutoff.0)?;
    }
    Ok(())
}

fn write_histories(
    transaction: &WriteTransaction,
    staged: &StagedBatch<'_>,
) -> Result<(), redb::Error> {
    let mut histories = transaction.open_table(HISTORIES)?;
    for (tag, history) in &staged.histories {
        match history {
            Some(history) => histories.insert(tag.0, pack_history(history).as_slice())?,
            None => histories.remove(tag.0)?,
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

fn key_from_row(row: &[u8; 24]) -> SessionKey {
    let (mut tag, mut id) = ([0; 8], [0; 16]);
    tag.copy_from_slice(&row[..8]);
    id.copy_from_slice(&row[8..]);
    SessionKey { tag: UserTag(tag), id: SessionId(id) }
}

/// Encodes an entry as a row.
fn pack_entry(entry: &SessionEntry) -> Option<Vec<u8>> {
    let packed = match &entry.slot {
        Slot::Live { revision, sealed } => pack_live(*revision, sealed),
        Slot::Ended { reason, at } => pack_ended(*reason, *at),
        Slot::Absent => return None,
    };
    let mut value = Vec::with_capacity(16 + packed.len());
    value.extend_from_slice(&entry.created.0.to_be_bytes());
    value.extend_from_slice(&entry.retain_until.0.to_be_bytes());
    value.extend_from_slice(&packed);
    Some(value)
}

fn unpack_entry(value: &[u8]) -> Option<SessionEntry> {
    Some(SessionEntry {
        created: UnixMillis(read_u64(value.get(..8)?)?),
        retain_until: UnixMillis(read_u64(value.get(8..16)?)?),
        slot: unpack(Bytes::copy_from_slice(value.get(16..)?))?,
    })
}

fn pack_user_state(state: &UserState) -> Vec<u8> {
    let mut value = Vec::with_capacity(32);
    value.extend_from_slice(&state.cutoff.at.0.to_be_bytes());
    value.extend_from_slice(&state.latest_created.0.to_be_bytes());
    if let Some(except) = state.cutoff.except {
        value.extend_from_slice(&except.0);
    }
    value
}

fn unpack_user_state(value: &[u8]) -> Option<UserState> {
    let except = match value.get(16..)? {
        [] => None,
        id => Some(SessionId(id.try_into().ok()?)),
    };
    Some(UserState {
        cutoff: RevocationCutoff { at: UnixMillis(read_u64(value.get(..8)?)?), except },
        latest_created: UnixMillis(read_u64(value.get(8..16)?)?),
    })
}

fn pack_history(history: &HistoryEntry) -> Vec<u8> {
    [history.retain_until.0.to_be_bytes().as_slice(), &history.sealed].concat()
}

fn unpack_history(value: &[u8]) -> Option<HistoryEntry> {
    let (retain_until, sealed) = value.split_at_checked(8)?;
    let retain_until = UnixMillis(read_u64(retain_until)?);
    Some(HistoryEntry { sealed: Bytes::copy_from_slice(sealed), retain_until })
}
