//! Files that hold secrets: readable by their owner, and replaced in one step.
//!
//! - A reader sees the old file or the new one, never a half: the new one is written beside it, brought
//!   to the disk, and renamed over it.
//! - Two writers take turns: a writer holds the directory's lock from its reading to its renaming. The
//!   lock dies with its process, so a crash leaves nothing to clean up.
//! - A file that is there keeps its owner and its group's right to read (a gateway that runs under
//!   another account must still read it after root edited it); nobody else ever gets a right.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;

use crate::secret::random_bytes;

const LOCK_WAIT: Duration = Duration::from_secs(10);
const LOCK_STEP: Duration = Duration::from_millis(10);

/// The right to replace one file. Others wait until it is dropped.
#[derive(Debug)]
pub struct Writer {
    target: PathBuf,
    _lock: File,
}

impl Writer {
    /// Takes the lock for `path`, waiting up to ten seconds for another writer.
    ///
    /// # Errors
    /// When the directory is missing or another writer does not end.
    pub fn lock(path: &Path) -> io::Result<Writer> {
        // Behind a symbolic link lies the file that is meant; a rename would replace the link.
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let directory = File::open(directory_of(&target))?;
        wait_for_lock(&directory)?;
        Ok(Writer { target, _lock: directory })
    }

    /// As [`Writer::lock`], for a file that may be the first in its directory: makes the directory,
    /// its owner's alone.
    ///
    /// # Errors
    /// As [`Writer::lock`], and when the directory cannot be made.
    pub fn lock_new(path: &Path) -> io::Result<Writer> {
        let mut directories = DirBuilder::new();
        directories.recursive(true).mode(0o700);
        directories.create(directory_of(path))?;
        Writer::lock(path)
    }

    /// The file that [`Writer::replace`] replaces.
    pub fn path(&self) -> &Path {
        &self.target
    }

    /// Whether the file is there.
    pub fn exists(&self) -> bool {
        self.target.exists()
    }

    /// Puts `content` in the file's place.
    ///
    /// # Errors
    /// When any step fails; the old file is then untouched, and no remains lie about.
    pub fn replace(&self, content: &[u8]) -> io::Result<()> {
        let beside = Beside::create(&self.target)?;
        beside.fill(&self.target, content)?;
        beside.rename_to(&self.target)?;
        File::open(directory_of(&self.target))?.sync_all()
    }
}

fn wait_for_lock(directory: &File) -> io::Result<()> {
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        match directory.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if Instant::now() >= deadline => {
                let message = "another command is writing in this directory and does not end";
                return Err(io::Error::new(io::ErrorKind::TimedOut, message));
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_STEP),
        }
    }
}

fn directory_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        Some(_) | None => PathBuf::from("."),
    }
}

/// A new file in the same directory; removed again unless it was renamed.
struct Beside {
    path: Option<PathBuf>,
    file: File,
}

impl Beside {
    fn create(target: &Path) -> io::Result<Beside> {
        let name = format!(".doorward-{}", HEXLOWER.encode(&random_bytes::<8>()));
        let path = directory_of(target).join(name);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(Beside { path: Some(path), file })
    }

    fn fill(&self, target: &Path, content: &[u8]) -> io::Result<()> {
        if let Ok(old) = fs::metadata(target) {
            self.resemble(&old)?;
        }
        (&self.file).write_all(content)?;
        self.file.sync_all()
    }

    fn resemble(&self, old: &fs::Metadata) -> io::Result<()> {
        let new = self.file.metadata()?;
        if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
            std::os::unix::fs::fchown(&self.file, Some(old.uid()), Some(old.gid()))?;
        }
        let mode = 0o600 | (old.mode() & 0o040);
        self.file.set_permissions(fs::Permissions::from_mode(mode))
    }

    fn rename_to(mut self, target: &Path) -> io::Result<()> {
        if let Some(path) = &self.path {
            fs::rename(path, target)?;
            self.path = None;
        }
        Ok(())
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("it is there").mode() & 0o777
    }

    #[test]
    fn a_new_file_is_its_owners_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("secret");
        Writer::lock(&path).and_then(|w| w.replace(b"x")).expect("writes");
        assert_eq!(mode(&path), 0o600);
        assert_eq!(fs::read_dir(directory.path()).expect("lists").count(), 1);
    }

    #[test]
    fn a_replaced_file_keeps_the_groups_reading_and_gives_nothing_more() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("secret");
        for (before, after) in [(0o640, 0o640), (0o666, 0o640), (0o600, 0o600), (0o644, 0o640)] {
            fs::write(&path, "old").expect("writes");
            fs::set_permissions(&path, fs::Permissions::from_mode(before)).expect("sets");
            Writer::lock(&path).and_then(|w| w.replace(b"new")).expect("replaces");
            assert_eq!(mode(&path), after, "{before:o}");
        }
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_remains() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("target");
        fs::create_dir(&path).expect("a directory in the way");
        fs::write(path.join("x"), "").expect("not empty");
        assert!(Writer::lock(&path).and_then(|w| w.replace(b"new")).is_err());
        assert_eq!(fs::read_dir(directory.path()).expect("lists").count(), 1);
    }

    #[test]
    fn behind_a_symbolic_link_the_file_is_replaced_and_the_link_stays() {
        let directory = tempfile::tempdir().expect("a directory");
        let (real, link) = (directory.path().join("real"), directory.path().join("link"));
        fs::write(&real, "old").expect("writes");
        std::os::unix::fs::symlink(&real, &link).expect("links");
        Writer::lock(&link).and_then(|w| w.replace(b"new")).expect("replaces");
        assert!(fs::symlink_metadata(&link).expect("it is there").is_symlink());
        assert_eq!(fs::read(&real).expect("reads"), b"new");
    }
}
