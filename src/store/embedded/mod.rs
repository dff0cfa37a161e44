//! The store of one machine: reads are served from memory, and one thread writes one file.
//!
//! Invariants:
//! - readers see only durable data: a change is published in memory after its commit. Touches are
//!   the exception: they reach the file within [`writer::TOUCH_DELAY`].
//! - all waiting writes share one transaction, so a thousand logins cost one flush of the disk
//! - a failed write is `Unavailable` and leaves memory unchanged. The file is reopened before the
//!   next write, and the uncertain rows are rewritten from memory.

mod batch;
mod file;
mod state;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, SyncSender, TrySendError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use self::batch::{Job, StagedBatch};
use self::file::Opener;
use self::state::EmbeddedState;
use self::writer::{FileWriter, closed};
use super::entry::{HistoryEntry, MAX_SESSIONS_PER_USER, SessionEntry, too_many_sessions};
use super::tables::Tables;
use super::types::{
    CommitOutcome, Durability, EndedSession, ExpiredSession, Revoked, StoreOpenError, Unavailable,
};
use crate::clock::{Clock, UnixMillis};
use crate::session::{EndReason, RevocationCutoff, SessionId, SessionKey, UserTag};

/// Returns the file of a store in this directory.
pub(super) fn file_path(directory: &Path) -> PathBuf {
    file::file_path(directory)
}

/// Deadline of a write. It may still reach the disk later, but is reported as unavailable.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Capacity of the write queue. A full queue means that the disk has stalled.
const QUEUE_CAPACITY: usize = 4_096;

/// The `embedded:DIR` store.
#[derive(Debug)]
pub struct EmbeddedStore {
    shared: Arc<EmbeddedState>,
    queue: SyncSender<Job>,
    clock: Clock,
}

impl EmbeddedStore {
    pub(super) fn open(directory: &Path, clock: Clock) -> Result<EmbeddedStore, StoreOpenError> {
        let path = file::create_file(directory)?;
        let opener = file::opener(path.clone());
        EmbeddedStore::open_with(path, opener, clock)
    }

    fn open_with(
        path: PathBuf,
        opener: Opener,
        clock: Clock,
    ) -> Result<EmbeddedStore, StoreOpenError> {
        let shared = Arc::new(EmbeddedState::default());
        let database = file::open(&opener, &path, &shared.tables, clock.now())?;
        let (queue, jobs) = mpsc::sync_channel(QUEUE_CAPACITY);
        let writer = FileWriter::new(Arc::clone(&shared), jobs, opener, path.clone(), database);
        std::thread::Builder::new()
            .name("doorward-store".to_owned())
            .spawn(move || writer.run())
            .map_err(|error| StoreOpenError::Directory { path, error })?;
        Ok(EmbeddedStore { shared, queue, clock })
    }

    pub(super) fn tables(&self) -> &Tables {
        &self.shared.tables
    }

    pub(super) async fn create(
        &self,
        key: &SessionKey,
        sealed: &[u8],
        created: UnixMillis,
        retain_until: UnixMillis,
    ) -> Result<Durability, Unavailable> {
        let (key, sealed) = (*key, Bytes::copy_from_slice(sealed));
        self.submit(move |staged| {
            if staged.add_session(key.tag) >= MAX_SESSIONS_PER_USER {
                return Err(too_many_sessions());
            }
            let existing = staged.entry(&key);
            let entry = SessionEntry::create(existing.as_ref(), &sealed, created, retain_until)?;
            let state = staged.user_state(key.tag).with_created(created);
            staged.users.insert(key.tag, Some(state));
            staged.sessions.insert(key, Some(entry));
            Ok(Durability::OnDisk)
        })
        .await?
    }

    pub(super) async fn commit(
        &self,
        key: &SessionKey,
        expected: u64,
        sealed: &[u8],
        retain_until: UnixMillis,
    ) -> Result<CommitOutcome, Unavailable> {
        let (key, sealed) = (*key, Bytes::copy_from_slice(sealed));
        self.submit(move |staged| {
            let existing = staged.entry(&key);
            match existing.and_then(|entry| entry.commit(expected, &sealed, retain_until)) {
                Some(entry) => {
                    staged.sessions.insert(key, Some(entry));
                    CommitOutcome::Swapped
                }
                None => CommitOutcome::Conflict,
            }
        })
        .await
    }

    pub(super) async fn touch(
        &self,
        key: &SessionKey,
        at: UnixMillis,
        _: UnixMillis,
    ) -> Result<(), Unavailable> {
        if !self.shared.tables.touch(key, at) {
            return Ok(());
        }
        let mut touches = self.shared.touches.lock();
        let wake = touches.is_empty();
        touches.insert(*key, at);
        drop(touches);
        if wake {
            // A full queue keeps the writer awake anyway.
            let _ = self.queue.try_send(Box::new(|_| Box::new(|_| ())));
        }
        Ok(())
    }

    pub(super) async fn end(
        &self,
        key: &SessionKey,
        reason: EndReason,
        at: UnixMillis,
        retain_until: UnixMillis,
    ) -> Result<EndedSession, Unavailable> {
        let key = *key;
        self.submit(move |staged| {
            let existing = staged.entry(&key);
            let is_first = existing.as_ref().is_none_or(SessionEntry::is_live);
            let tombstone = SessionEntry::end(existing.as_ref(), reason, at, retain_until);
            staged.sessions.insert(key, Some(tombstone));
            EndedSession { durability: Durability::OnDisk, is_first }
        })
        .await
    }

    /// See [`super::Store::expire`].
    pub(super) async fn expire(
        &self,
        session: &ExpiredSession,
        reason: EndReason,
        at: UnixMillis,
    ) -> Result<bool, Unavailable> {
        let (session, clock) = (*session, self.clock.clone());
        self.submit(move |staged| {
            let touched = staged.tables.touched(&session.key);
            let ended = staged
                .entry(&session.key)
                .and_then(|entry| entry.expire(&session, touched, reason, at, clock.now()));
            let is_ended = ended.is_some();
            if is_ended {
                staged.sessions.insert(session.key, ended);
            }
            is_ended
        })
        .await
    }

    pub(super) async fn revoke_user(
        &self,
        tag: &UserTag,
        now: UnixMillis,
        except: Option<SessionId>,
    ) -> Result<Revoked<RevocationCutoff>, Unavailable> {
        let tag = *tag;
        self.submit(move |staged| {
            let before = staged.user_state(tag);
            let state = before.revoke(now, except);
            let ended = staged.revoked_between(tag, before.cutoff, state.cutoff);
            staged.users.insert(tag, Some(state));
            Revoked { cutoff: state.cutoff, durability: Durability::OnDisk, ended }
        })
        .await
    }

    pub(super) async fn swap_user_history(
        &self,
        tag: &UserTag,
        expected: &[u8],
        sealed: &[u8],
        retain_until: UnixMillis,
    ) -> Result<CommitOutcome, Unavailable> {
        let tag = *tag;
        let expected = Bytes::copy_from_slice(expected);
        let sealed = Bytes::copy_from_slice(sealed);
        self.submit(move |staged| {
            let existing = staged.user_history(tag);
            match HistoryEntry::swap(existing.as_ref(), &expected, &sealed, retain_until) {
                Some(history) => {
                    staged.histories.insert(tag, Some(history));
                    CommitOutcome::Swapped
                }
                None => CommitOutcome::Conflict,
            }
        })
        .await
    }

    pub(super) async fn revoke_all_users(
        &self,
        now: UnixMillis,
    ) -> Result<Revoked<UnixMillis>, Unavailable> {
        self.submit(move |staged| {
            let cutoff = staged.global_cutoff().max(now).max(staged.latest_created());
            staged.global_cutoff = Some(cutoff);
            Revoked { cutoff, durability: Durability::OnDisk, ended: Vec::new() }
        })
        .await
    }

    pub(super) async fn restore_global_cutoff(
        &self,
        cutoff: UnixMillis,
    ) -> Result<(), Unavailable> {
        self.submit(move |staged| staged.global_cutoff = Some(staged.global_cutoff().max(cutoff)))
            .await
    }

    /// Runs an empty job. The writer reopens the file if necessary.
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

    /// Queues the removal of expired entries, one shard at a time.
    pub(super) fn sweep(&self) {
        if self.shared.is_sweep_queued.load(Ordering::SeqCst) {
            return;
        }
        let now = self.clock.now();
        let found = self.shared.tables.find_expired(now);
        if found.is_empty() {
            return;
        }
        self.shared.is_sweep_queued.store(true, Ordering::SeqCst);
        let shared = Arc::clone(&self.shared);
        let job: Job = Box::new(move |staged| {
            staged.stage_expired(&found, now);
            Box::new(move |_| shared.is_sweep_queued.store(false, Ordering::SeqCst))
        });
        if self.queue.try_send(job).is_err() {
            self.shared.is_sweep_queued.store(false, Ordering::SeqCst);
        }
    }

    /// Runs `change` in the next transaction and returns after its commit.
    async fn submit<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut StagedBatch<'_>) -> T + Send + 'static,
    ) -> Result<T, Unavailable> {
        let (sender, reply) = oneshot::channel();
        let job: Job = Box::new(move |staged| {
            let result = change(staged);
            Box::new(move |outcome: Result<(), Unavailable>| {
                // The receiver is gone if the request was cancelled. The write stays.
                let _ = sender.send(outcome.map(|()| result));
            })
        });
        self.queue.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => Unavailable(format!(
                "{QUEUE_CAPACITY} writes are already queued: the disk is too slow"
            )),
            TrySendError::Disconnected(_) => closed(),
        })?;
        match tokio::time::timeout(WRITE_TIMEOUT, reply).await {
            Ok(reply) => reply.map_err(|_| closed())?,
            Err(_) => Err(Unavailable(format!(
                "the disk did not respond within {} s",
                WRITE_TIMEOUT.as_secs()
            ))),
        }
    }
}

#[cfg(test)]
mod tests;
