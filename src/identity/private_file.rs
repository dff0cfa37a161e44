//! Files that contain secrets: readable only by their owner and replaced atomically.
//!
//! - A reader sees the old or the new file, never part of one. The new content is written to a
//!   temporary file in the same directory, synced, and renamed.
//! - Writers are serialized by a lock on the directory, held from reading to renaming. The lock
//!   ends with its process, so a crash leaves nothing to clean up.
//! - An existing file keeps its owner and its group's read permission: a gateway under another
//!   account must still be able to read it after root edited it. No other permission is granted.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const LOCK_WAIT: Duration = Duration::from_secs(10);
const LOCK_POLL: Duration = Duration::from_millis(10);

/// Exclusive access to replace one file. Other writers wait until it is dropped.
#[derive(Debug)]
pub struct AtomicFile {
    target: PathBuf,
    _lock: File,
}

impl AtomicFile {
    /// Locks `path`, waiting up to ten seconds for another writer.
    ///
    /// # Errors
    /// If the directory is missing or another writer does not finish.
    pub fn lock(path: &Path) -> io::Result<AtomicFile> {
        // Resolves a symbolic link: the rename would otherwise replace the link itself.
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let directory = File::open(parent_directory(&target))?;
        wait_for_lock(&directory)?;
        Ok(AtomicFile { target, _lock: directory })
    }

    /// As [`AtomicFile::lock`], but creates the directory with access only for its owner.
    ///
    /// # Errors
    /// As [`AtomicFile::lock`], and if the directory cannot be created.
    pub fn lock_new(path: &Path) -> io::Result<AtomicFile> {
        create_private_directory(&parent_directory(path))?;
        AtomicFile::lock(path)
    }

    /// Returns the resolved path of the file.
    pub fn path(&self) -> &Path {
        &self.target
    }

    /// Whether the file exists.
    pub fn exists(&self) -> bool {
        self.target.exists()
    }

    /// Replaces the file's content.
    ///
    /// # Errors
    /// If any step fails; the old file is then unchanged and no temporary file remains.
    pub fn replace(&self, content: &[u8]) -> io::Result<()> {
        let directory = parent_directory(&self.target);
        let owner_only = fs::Permissions::from_mode(0o600);
        let mut temp = tempfile::Builder::new();
        let mut temp = temp.prefix(".doorward-").permissions(owner_only).tempfile_in(&directory)?;
        if let Ok(old) = fs::metadata(&self.target) {
            copy_owner(temp.as_file(), &old)?;
        }
        temp.write_all(content)?;
        temp.as_file().sync_all()?;
        temp.persist(&self.target)?;
        File::open(directory)?.sync_all()
    }
}

/// Creates a directory with access only for its owner, unless it exists. Version control ignores a new one, because
/// it will contain secrets.
///
/// # Errors
/// If the directory cannot be created.
pub fn create_private_directory(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    fs::write(path.join(".gitignore"), "*\n")
}

fn wait_for_lock(directory: &File) -> io::Result<()> {
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        match directory.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if Instant::now() >= deadline => {
                let message = "another command is writing in this directory and does not finish";
                return Err(io::Error::new(io::ErrorKind::TimedOut, message));
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_POLL),
        }
    }
}

fn parent_directory(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        Some(_) | None => PathBuf::from("."),
    }
}

fn copy_owner(file: &File, old: &fs::Metadata) -> io::Result<()> {
    let new = file.metadata()?;
    if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
        std::os::unix::fs::fchown(file, Some(old.uid()), Some(old.gid()))?;
    }
    let mode = 0o600 | (old.mode() & 0o040);
    file.set_permissions(fs::Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("it is there").mode() & 0o777
    }

    #[test]
    fn a_new_file_is_readable_only_by_its_owner() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("secret");
        AtomicFile::lock(&path).and_then(|w| w.replace(b"x")).expect("writes");
        assert_eq!(mode(&path), 0o600);
        assert_eq!(fs::read_dir(directory.path()).expect("lists").count(), 1);
    }

    #[test]
    fn a_replaced_file_keeps_only_the_groups_read_permission() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("secret");
        for (before, after) in [(0o640, 0o640), (0o666, 0o640), (0o600, 0o600), (0o644, 0o640)] {
            fs::write(&path, "old").expect("writes");
            fs::set_permissions(&path, fs::Permissions::from_mode(before)).expect("sets");
            AtomicFile::lock(&path).and_then(|w| w.replace(b"new")).expect("replaces");
            assert_eq!(mode(&path), after, "{before:o}");
        }
    }

    #[test]
    fn a_failed_write_keeps_the_old_file_and_no_temporary_one() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("target");
        fs::create_dir(&path).expect("a directory in the way");
        fs::write(path.join("x"), "").expect("not empty");
        assert!(AtomicFile::lock(&path).and_then(|w| w.replace(b"new")).is_err());
        assert_eq!(fs::read_dir(directory.path()).expect("lists").count(), 1);
    }

    #[test]
    fn a_symbolic_link_is_kept_and_its_target_replaced() {
        let directory = tempfile::tempdir().expect("a directory");
        let (real, link) = (directory.path().join("real"), directory.path().join("link"));
        fs::write(&real, "old").expect("writes");
        std::os::unix::fs::symlink(&real, &link).expect("links");
        AtomicFile::lock(&link).and_then(|w| w.replace(b"new")).expect("replaces");
        assert!(fs::symlink_metadata(&link).expect("it is there").is_symlink());
        assert_eq!(fs::read(&real).expect("reads"), b"new");
    }
}
