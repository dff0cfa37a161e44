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
    let opened = EmbeddedStore::open_with(path.to_owned(), Box::new(opener), Clock::manual(NOW));
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
    let (commit, create) =
        tokio::join!(store.commit(&renewed, 1, b"b", LATER), store.create(&new, b"a", NOW, LATER));
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
