//! The store of one machine: all is read from memory, all is written to one file by one thread.
//!
//! Invariants:
//! - what a reader sees is on disk: a change goes to the file first and to memory after its durable
//!   commit, so that no answer is built on something that a crash takes back. Only touches go the other
//!   way, within [`TOUCH_DELAY`].
//! - all that waits goes into one transaction, so that a thousand logins cost one flush of the disk
//! - a failed write is `Unavailable` and leaves memory as it was. The file is then opened anew before the
//!   next write, and the rows in doubt are written again as memory has them.

mod file;
mod writer;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use self::file::Opener;
use self::writer::{Job, Staged, Writer};
use super::entry::{Entry, MOST_PER_USER, Memo, too_many};
use super::memory::Tables;
use super::{Commit, OpenError, Unavailable};
use crate::clock::{Clock, UnixMillis};
use crate::session::{EndReason, NotBefore, SessionId, SessionKey, UserTag};

/// How long a touch may wait before it is written.
pub(super) const TOUCH_DELAY: Duration = Duration::from_millis(200);
/// A write that is not on disk by then may still come there; nobody is told that it did.
const WRITTEN_WITHIN: Duration = Duration::from_secs(10);
/// Writes that may wait. More means that the disk has stopped.
const QUEUE: usize = 4_096;

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

impl Embedded {
    pub(super) fn open(directory: &Path, clock: Clock) -> Result<Embedded, OpenError> {
        let path = file::make(directory)?;
        let opener = file::opener(path.clone());
        Embedded::open_with(path, opener, clock)
    }

    fn open_with(path: PathBuf, opener: Opener, clock: Clock) -> Result<Embedded, OpenError> {
        let shared = Arc::new(Shared::default());
        let database = file::open(&opener, &path, &shared.tables, clock.now())?;
        let (queue, jobs) = mpsc::sync_channel(QUEUE);
        let writer = Writer::new(Arc::clone(&shared), jobs, opener, path.clone(), database);
        std::thread::Builder::new()
            .name("doorward-store".to_owned())
            .spawn(move || writer.run())
            .map_err(|error| OpenError::Directory { path, error })?;
        Ok(Embedded { shared, queue, clock })
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

    pub(super) async fn swap_memo(
        &self,
        tag: UserTag,
        expected: &[u8],
        sealed: &[u8],
        forget_at: UnixMillis,
    ) -> Result<Commit, Unavailable> {
        let expected = Bytes::copy_from_slice(expected);
        let sealed = Bytes::copy_from_slice(sealed);
        self.submit(move |staged| {
            let existing = staged.memo(tag);
            match Memo::swap(existing.as_ref(), &expected, &sealed, forget_at) {
                Some(memo) => {
                    staged.memos.insert(tag, Some(memo));
                    Commit::Swapped
                }
                None => Commit::Lost,
            }
        })
        .await
    }

    pub(super) async fn revoke_everyone(&self, now: UnixMillis) -> Result<UnixMillis, Unavailable> {
        self.submit(move |staged| {
            let line = staged.everyone().max(now).max(staged.greatest());
            staged.everyone = Some(line);
            line
        })
        .await
    }

    pub(super) async fn restore_everyone(&self, line: UnixMillis) -> Result<(), Unavailable> {
        self.submit(move |staged| staged.everyone = Some(staged.everyone().max(line))).await
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
            TrySendError::Full(_) => {
                Unavailable(format!("{QUEUE} writes wait already: the disk does not keep up"))
            }
            TrySendError::Disconnected(_) => ended(),
        })?;
        match tokio::time::timeout(WRITTEN_WITHIN, answer).await {
            Ok(answer) => answer.map_err(|_| ended())?,
            Err(_) => Err(Unavailable(format!(
                "the disk does not answer within {} s",
                WRITTEN_WITHIN.as_secs()
            ))),
        }
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

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io;
    use std::sync::atomic::AtomicU64;
    use std::time::Instant;

    use redb::StorageBackend;
    use redb::backends::FileBackend;

    use super::*;
    use crate::store::Slot;

    /// A disk that is full or cannot flush when it is told so, and counts its flushes.
    #[derive(Clone, Debug, Default)]
    struct Disk {
        full: Arc<AtomicBool>,
        stuck: Arc<AtomicBool>,
        hangs: Arc<AtomicBool>,
        flushes: Arc<AtomicU64>,
    }

    #[derive(Debug)]
    struct OnDisk {
        file: FileBackend,
        disk: Disk,
    }

    impl OnDisk {
        fn check(&self) -> io::Result<()> {
            if self.disk.full.load(Ordering::SeqCst) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            Ok(())
        }
    }

    impl StorageBackend for OnDisk {
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
            if self.disk.stuck.load(Ordering::SeqCst) {
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

    fn open_on(path: &Path, disk: &Disk) -> Embedded {
        let (file, disk) = (path.to_owned(), disk.clone());
        let opener = move || {
            let opened = OpenOptions::new().read(true).write(true).open(&file)?;
            let disk = disk.clone();
            let file = FileBackend::new(opened)?;
            file::builder().create_with_backend(OnDisk { file, disk })
        };
        let opened = Embedded::open_with(path.to_owned(), Box::new(opener), Clock::manual(NOW));
        opened.expect("opens")
    }

    fn slot(store: &Embedded, key: &SessionKey) -> Slot {
        store.tables().load(key).slot
    }

    /// Asks for health until the writer has opened the file again.
    async fn healed(store: &Embedded) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while let Err(error) = store.ping().await {
            assert!(Instant::now() < deadline, "{error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    #[tokio::test]
    async fn a_full_disk_is_unavailable_for_writes_reads_go_on_and_it_heals() {
        let directory = tempfile::TempDir::new().expect("a temporary directory");
        let path = file::make(directory.path()).expect("a new file");
        let disk = Disk::default();
        let store = open_on(&path, &disk);
        let [kept, ended, new] = [key(1), key(2), key(3)];
        for key in [&kept, &ended] {
            store.create(key, b"a", NOW, LATER).await.expect("room");
        }
        disk.full.store(true, Ordering::SeqCst);
        // The failing write below takes this touch along.
        store.touch(&kept, LATER);
        let end = store.end(&ended, EndReason::Logout, NOW, LATER).await;
        let text = end.expect_err("the disk is full").to_string();
        assert!(text.contains("cannot be written"), "{text}");
        assert!(store.create(&new, b"a", NOW, LATER).await.is_err());
        assert!(store.ping().await.is_err(), "not ready while it cannot write");
        assert_eq!(store.tables().touched(&kept), LATER);
        assert!(matches!(slot(&store, &ended), Slot::Live { .. }));
        assert_eq!(slot(&store, &new), Slot::Absent);

        disk.full.store(false, Ordering::SeqCst);
        healed(&store).await;
        store.create(&new, b"a", NOW, LATER).await.expect("room again");
        store.close().await.expect("closed");
        let again = open_on(&path, &disk);
        for key in [&kept, &ended, &new] {
            assert!(matches!(slot(&again, key), Slot::Live { .. }), "as readers saw it");
        }
        assert_eq!(again.tables().touched(&kept), LATER, "the touch was not lost");
    }

    #[tokio::test]
    async fn a_write_in_doubt_is_settled_as_readers_saw_it() {
        let directory = tempfile::TempDir::new().expect("a temporary directory");
        let path = file::make(directory.path()).expect("a new file");
        let disk = Disk::default();
        let store = open_on(&path, &disk);
        let [renewed, new] = [key(1), key(2)];
        store.create(&renewed, b"a", NOW, LATER).await.expect("room");
        // The bytes reach the file, the flush fails: what stands there is anybody's guess.
        disk.stuck.store(true, Ordering::SeqCst);
        let (commit, create) = tokio::join!(
            store.commit(&renewed, 1, b"b", LATER),
            store.create(&new, b"a", NOW, LATER)
        );
        assert!(commit.is_err() && create.is_err());
        let revoked = store.revoke_user(new.tag, NOW, None).await;
        assert!(revoked.is_err());
        assert!(store.swap_memo(new.tag, b"", b"memo", LATER).await.is_err());
        disk.stuck.store(false, Ordering::SeqCst);
        healed(&store).await;
        let keys = [renewed, new];
        let seen = keys.map(|key| store.tables().load(&key));
        store.close().await.expect("closed");
        let again = open_on(&path, &disk);
        assert_eq!(keys.map(|key| again.tables().load(&key)), seen);
        assert_eq!(again.tables().memo(new.tag), None);
    }

    #[tokio::test]
    async fn a_disk_that_hangs_is_unavailable_in_time_and_what_it_got_stands() {
        let directory = tempfile::TempDir::new().expect("a temporary directory");
        let path = file::make(directory.path()).expect("a new file");
        let disk = Disk::default();
        let store = open_on(&path, &disk);
        disk.hangs.store(true, Ordering::SeqCst);
        tokio::time::pause();
        let begun = tokio::time::Instant::now();
        let hung = store.create(&key(1), b"a", NOW, LATER).await.expect_err("it hangs");
        assert!(hung.0.contains("within 10 s"), "{hung}");
        assert!(begun.elapsed() < WRITTEN_WITHIN + Duration::from_secs(1));
        tokio::time::resume();
        disk.hangs.store(false, Ordering::SeqCst);
        healed(&store).await;
        assert_ne!(slot(&store, &key(1)), Slot::Absent);
    }

    #[tokio::test]
    async fn writes_that_wait_share_a_flush() {
        let directory = tempfile::TempDir::new().expect("a temporary directory");
        let path = file::make(directory.path()).expect("a new file");
        let disk = Disk::default();
        let store = Arc::new(open_on(&path, &disk));
        let before = disk.flushes.load(Ordering::SeqCst);
        let mut creates = tokio::task::JoinSet::new();
        for number in 0..200 {
            let store = Arc::clone(&store);
            creates.spawn(async move { store.create(&key(number), b"a", NOW, LATER).await });
        }
        for created in creates.join_all().await {
            assert_eq!(created, Ok(()));
        }
        let flushes = disk.flushes.load(Ordering::SeqCst) - before;
        assert!((1..=50).contains(&flushes), "{flushes} flushes for 200 writes");
    }

    #[tokio::test]
    async fn touches_are_written_by_themselves_and_not_one_by_one() {
        let directory = tempfile::TempDir::new().expect("a temporary directory");
        let path = file::make(directory.path()).expect("a new file");
        let disk = Disk::default();
        let store = open_on(&path, &disk);
        store.create(&key(1), b"a", NOW, LATER).await.expect("room");
        let before = disk.flushes.load(Ordering::SeqCst);
        let begun = Instant::now();
        for later in 1..500 {
            store.touch(&key(1), UnixMillis(NOW.0 + later));
        }
        while !store.shared.touches().is_empty() {
            assert!(begun.elapsed() < Duration::from_secs(5), "never written");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        store.ping().await.expect("the touches before it are written");
        assert!(disk.flushes.load(Ordering::SeqCst) - before <= 2);
    }
}
