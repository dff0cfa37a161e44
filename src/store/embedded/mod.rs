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
use super::memory::Tables;
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
        let (sender, answer) = oneshot::channel();
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
        match tokio::time::timeout(WRITE_TIMEOUT, answer).await {
            Ok(answer) => answer.map_err(|_| closed())?,
            Err(_) => Err(Unavailable(format!(
                "the disk did not respond within {} s",
                WRITE_TIMEOUT.as_secs()
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io;
    use std::sync::atomic::{AtomicBool, AtomicU64};
    use std::time::Instant;

    use redb::StorageBackend;
    use redb::backends::FileBackend;

    use super::*;
    use crate::store::types::Slot;

    /// A disk that can be full, fail or stall its flushes, and that counts them.
    #[derive(Clone, Debug, Default)]
    struct FaultyDisk {
        is_full: Arc<AtomicBool>,
        fails_flush: Arc<AtomicBool>,
        hangs: Arc<AtomicBool>,
        flushes: Arc<AtomicU64>,
    }

    #[derive(Debug)]
    struct FaultyBackend {
        file: FileBackend,
        disk: FaultyDisk,
    }

    impl FaultyBackend {
        fn check(&self) -> io::Result<()> {
            if self.disk.is_full.load(Ordering::SeqCst) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            Ok(())
        }
    }

    impl StorageBackend for FaultyBackend {
        fn len(&self) -> io::Result<u64> {
            self.file.len()
        }
        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.file.read(offset, out)
        }
        fn set_len(&self, len: u64) -> io::Result<()> {
            self.check()?;
            self.file.set_len(len)
        }
        fn sync_data(&self) -> io::Result<()> {
            self.check()?;
            while self.disk.hangs.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(1));
            }
            if self.disk.fails_flush.load(Ordering::SeqCst) {
                return Err(io::Error::other("the flush failed"));
            }
            self.disk.flushes.fetch_add(1, Ordering::SeqCst);
            self.file.sync_data()
        }
        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.check()?;
            self.file.write(offset, data)
        }
    }

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
    const LATER: UnixMillis = UnixMillis(1_800_050_000_000);

    fn key(number: u8) -> SessionKey {
        SessionKey { tag: UserTag([number; 8]), id: SessionId([number; 16]) }
    }

    fn open_on(path: &Path, disk: &FaultyDisk) -> EmbeddedStore {
        let (file, disk) = (path.to_owned(), disk.clone());
        let opener = move || {
            let opened = OpenOptions::new().read(true).write(true).open(&file)?;
            let disk = disk.clone();
            let file = FileBackend::new(opened)?;
            file::builder().create_with_backend(FaultyBackend { file, disk })
        };
        let opened =
            EmbeddedStore::open_with(path.to_owned(), Box::new(opener), Clock::manual(NOW));
        opened.expect("opens")
    }

    fn slot(store: &EmbeddedStore, key: &SessionKey) -> Slot {
        store.tables().load(key).slot
    }

    /// Pings until the writer has reopened the file.
    async fn wait_until_recovered(store: &EmbeddedStore) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while let Err(error) = store.ping().await {
            assert!(Instant::now() < deadline, "{error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    #[tokio::test]
    async fn a_full_disk_fails_writes_serves_reads_and_recovers() {
        let directory = tempfile::TempDir::new().expect("a temporary directory");
        let path = file::create_file(directory.path()).expect("a new file");
        let disk = FaultyDisk::default();
        let store = open_on(&path, &disk);
        let [kept, ended, new] = [key(1), key(2), key(3)];
        for key in [&kept, &ended] {
            store.create(key, b"a", NOW, LATER).await.expect("room");
        }
        disk.is_full.store(true, Ordering::SeqCst);
        // The failing write below includes this touch.
        store.touch(&kept, LATER, LATER).await.expect("in memory");
        let end = store.end(&ended, EndReason::Logout, NOW, LATER).await;
        let text = end.expect_err("the disk is full").to_string();
        assert!(text.contains("cannot be written"), "{text}");
        assert!(store.create(&new, b"a", NOW, LATER).await.is_err());
        assert!(store.ping().await.is_err(), "not ready while writes fail");
        assert_eq!(store.tables().touched(&kept), LATER);
        assert!(matches!(slot(&store, &ended), Slot::Live { .. }));
        assert_eq!(slot(&store, &new), Slot::Absent);

        disk.is_full.store(false, Ordering::SeqCst);
        wait_until_recovered(&store).await;
        store.create(&new, b"a", NOW, LATER).await.expect("room again");
        store.close().await.expect("closed");
        let again = open_on(&path, &disk);
        for key in [&kept, &ended, &new] {
            assert!(matches!(slot(&again, key), Slot::Live { .. }), "as readers saw it");
        }
        assert_eq!(again.tables().touched(&kept), LATER, "the touch was not lost");
    }

    #[tokio::test]
    async fn uncertain_rows_are_rewritten_as_readers_saw_them() {
        let directory = tempfile::TempDir::new().expect("a temporary directory");
        let path = file::create_file(directory.path()).expect("a new file");
        let disk = FaultyDisk::default();
        let store = open_on(&path, &disk);
        let [renewed, new] = [key(1), key(2)];
        store.create(&renewed, b"a", NOW, LATER).await.expect("room");
        // The bytes reach the file but the flush fails, so the state on disk is unknown.
        disk.fails_flush.store(true, Ordering::SeqCst);
        let (commit, create) = tokio::join!(
            store.commit(&renewed, 1, b"b", LATER),
            store.create(&new, b"a", NOW, LATER)
        );
        assert!(commit.is_err() && create.is_err());
        let revoked = store.revoke_user(&new.tag, NOW, None).await;
        assert!(revoked.is_err());
        assert!(store.swap_user_history(&new.tag, b"", b"history", LATER).await.is_err());
        disk.fails_flush.store(false, Ordering::SeqCst);
        wait_until_recovered(&store).await;
        let keys = [renewed, new];
        let seen = keys.map(|key| store.tables().load(&key));
        store.close().await.expect("closed");
        let again = open_on(&path, &disk);
        assert_eq!(keys.map(|key| again.tables().load(&key)), seen);
        assert_eq!(again.tables().user_history(&new.tag), None);
    }

    #[tokio::test]
    async fn a_stalled_disk_times_out_and_its_write_stays() {
        let directory = tempfile::TempDir::new().expect("a temporary directory");
        let path = file::create_file(directory.path()).expect("a new file");
        let disk = FaultyDisk::default();
        let store = open_on(&path, &disk);
        disk.hangs.store(true, Ordering::SeqCst);
        tokio::time::pause();
        let begun = tokio::time::Instant::now();
        let hung = store.create(&key(1), b"a", NOW, LATER).await.expect_err("stalled");
        assert!(hung.0.contains("within 10 s"), "{hung}");
        assert!(begun.elapsed() < WRITE_TIMEOUT + Duration::from_secs(1));
        tokio::time::resume();
        disk.hangs.store(false, Ordering::SeqCst);
        wait_until_recovered(&store).await;
        assert_ne!(slot(&store, &key(1)), Slot::Absent);
    }

    #[tokio::test]
    async fn queued_writes_share_a_flush() {
        let directory = tempfile::TempDir::new().expect("a temporary directory");
        let path = file::create_file(directory.path()).expect("a new file");
        let disk = FaultyDisk::default();
        let store = Arc::new(open_on(&path, &disk));
        let before = disk.flushes.load(Ordering::SeqCst);
        let mut creates = tokio::task::JoinSet::new();
        for number in 0..200 {
            let store = Arc::clone(&store);
            creates.spawn(async move { store.create(&key(number), b"a", NOW, LATER).await });
        }
        for created in creates.join_all().await {
            assert_eq!(created, Ok(Durability::OnDisk));
        }
        let flushes = disk.flushes.load(Ordering::SeqCst) - before;
        assert!((1..=50).contains(&flushes), "{flushes} flushes for 200 writes");
    }

    #[tokio::test]
    async fn touches_are_written_in_batches_without_other_writes() {
        let directory = tempfile::TempDir::new().expect("a temporary directory");
        let path = file::create_file(directory.path()).expect("a new file");
        let disk = FaultyDisk::default();
        let store = open_on(&path, &disk);
        store.create(&key(1), b"a", NOW, LATER).await.expect("room");
        let before = disk.flushes.load(Ordering::SeqCst);
        let begun = Instant::now();
        for later in 1..500 {
            store.touch(&key(1), UnixMillis(NOW.0 + later), LATER).await.expect("in memory");
        }
        while !store.shared.touches.lock().is_empty() {
            assert!(begun.elapsed() < Duration::from_secs(5), "never written");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        store.ping().await.expect("the touches before it are written");
        assert!(disk.flushes.load(Ordering::SeqCst) - before <= 2);
    }
}
