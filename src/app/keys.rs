//! Keys file: created at the first start, and never replaced if it exists.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::timeout;
use tracing::{error, info};

use crate::identity::private_file::AtomicFile;
use crate::secret::{KeyId, KeyRing, KeyRingError};
use crate::store::Store;

use super::runtime::runtime;

/// Error of loading or creating the keys file. Without the right keys, every session would be lost.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    #[error("{path}: {error}")]
    Content { path: PathBuf, error: KeyRingError },
    #[error(
        "{path}: {error}; the gateway must be able to read it, and to create it at the first start"
    )]
    File { path: PathBuf, error: io::Error },
    #[error(
        "{keys}: the keys file is missing, but {used} was written with it; restore the keys file from your backup, or delete {used} too, which ends all sessions"
    )]
    Lost { keys: PathBuf, used: PathBuf },
    #[error(
        "{keys}: the keys file is missing, but Redis has sessions that were written with it; copy it from another gateway or from your backup, or run `doorward keys init`, which ends all sessions"
    )]
    LostInStore { keys: PathBuf },
}

/// Loads the keys, or generates provisional ones if the file is missing. `used` are files that a gateway
/// writes with its keys: if one exists, the keys were lost, and new ones would silently end all sessions.
pub(super) fn load_or_generate(path: &Path, used: &[PathBuf]) -> Result<KeyRing, KeysError> {
    match load(path) {
        Err(KeysError::File { error, .. }) if error.kind() == io::ErrorKind::NotFound => {
            match used.iter().find(|used| used.exists()) {
                None => Ok(KeyRing::provisional(&Timestamp::now().to_string())),
                Some(used) => Err(KeysError::Lost { keys: path.to_owned(), used: used.clone() }),
            }
        }
        other => other,
    }
}

/// Longest wait of a start for the search of sessions.
const SEARCH_TIME: Duration = Duration::from_secs(2);

/// Confirms provisional keys before the gateway serves requests. If the store does not respond, the keys stay
/// provisional, because a start must not depend on it.
///
/// # Errors
/// The store has sessions, or the file cannot be written.
pub(super) fn confirm_at_start(
    ring: KeyRing,
    path: &Path,
    store: &Store,
) -> Result<KeyRing, KeysError> {
    if !ring.is_provisional() {
        return Ok(ring);
    }
    let search = || {
        let failed = |error| KeysError::File { path: path.to_owned(), error };
        let runtime = runtime().map_err(failed)?;
        let confirm =
            async { timeout(SEARCH_TIME, confirm(&ring, path, &store.for_worker())).await };
        runtime.block_on(confirm).unwrap_or(Ok(None))
    };
    // A thread of its own, because the caller may run in a runtime.
    let found = std::thread::scope(|scope| scope.spawn(search).join()).unwrap_or(Ok(None))?;
    Ok(found.unwrap_or_else(|| {
        error!(
            event = "keys.unconfirmed",
            path = %path.display(),
            "the keys file is missing, and the store does not report whether it has sessions; no session is accepted or created until it does"
        );
        ring
    }))
}

/// Writes the keys file, unless the store has sessions. Returns `None` if the store does not respond.
///
/// # Errors
/// The store has sessions, or the file cannot be written.
pub(super) async fn confirm(
    ring: &KeyRing,
    path: &Path,
    store: &Store,
) -> Result<Option<KeyRing>, KeysError> {
    match store.find_session(|_| true).await {
        Ok(None) => create(path, ring).map(Some),
        Ok(Some(_)) => Err(KeysError::LostInStore { keys: path.to_owned() }),
        Err(_) => Ok(None),
    }
}

/// Time for which a new key only verifies, so that every gateway has loaded it before one signs with it.
const ACTIVATION_DELAY: SignedDuration = SignedDuration::from_secs(60);

/// Loads the keys and selects the signing key.
pub(super) fn load(path: &Path) -> Result<KeyRing, KeysError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| KeysError::File { path: path.to_owned(), error })?;
    let ring = KeyRing::parse(&text);
    let mut ring = ring.map_err(|error| KeysError::Content { path: path.to_owned(), error })?;
    ring.set_signing_key(signing_key(&ring, Timestamp::now()));
    Ok(ring)
}

/// Returns the newest key that is older than `ACTIVATION_DELAY`, or the first key if all are newer.
/// A key without a creation time counts as old.
pub fn signing_key(ring: &KeyRing, now: Timestamp) -> KeyId {
    let is_active = |created: &str| signs_from(created).is_none_or(|from| from <= now);
    let active = ring.ids().filter(|(_, created)| is_active(created)).last();
    active.or_else(|| ring.ids().next()).map_or(0, |(id, _)| id)
}

/// Returns the time from which a key signs, or `None` without a creation time.
pub fn signs_from(created: &str) -> Option<Timestamp> {
    created.parse::<Timestamp>().ok()?.checked_add(ACTIVATION_DELAY).ok()
}

/// Creates the file under a lock, so that two gateways that start at once use the same file.
fn create(path: &Path, ring: &KeyRing) -> Result<KeyRing, KeysError> {
    let failed = |error| KeysError::File { path: path.to_owned(), error };
    let file = AtomicFile::lock_new(path).map_err(failed)?;
    if !file.exists() {
        file.replace(ring.to_file().as_bytes()).map_err(failed)?;
        info!(event = "keys.created", path = %path.display(), "keys file created; keep it secret and back it up");
    }
    load(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    #[test]
    fn lost_keys_are_not_replaced_while_their_sessions_exist() {
        let directory = tempfile::tempdir().expect("a directory");
        let (keys, used) = (directory.path().join("keys.toml"), directory.path().join("sessions"));
        std::fs::write(&used, "data").expect("written");
        let lost = load_or_generate(&keys, std::slice::from_ref(&used));
        let text = lost.expect_err("lost").to_string();
        assert!(text.contains("restore the keys file") && !keys.exists(), "{text}");
        std::fs::remove_file(&used).expect("removed");
        let new = load_or_generate(&keys, &[used]).expect("new keys");
        assert!(new.is_provisional() && !keys.exists());
        let store = Store::memory(Clock::System);
        let confirmed = confirm_at_start(new, &keys, &store).expect("no session");
        assert!(!confirmed.is_provisional() && keys.exists());
    }

    #[test]
    fn a_new_key_verifies_at_once_and_signs_after_the_delay() {
        let mut ring = KeyRing::generate("2026-11-23T00:00:00Z");
        let second = ring.rotate("2026-11-23T12:00:00Z").expect("room");
        let at = |text: &str| text.parse::<Timestamp>().expect("a time");
        assert_eq!(signing_key(&ring, at("2026-11-23T12:00:59Z")), 1);
        assert_eq!(signing_key(&ring, at("2026-11-23T12:01:00Z")), second);
        ring.set_signing_key(1);
        assert_eq!(ring.signing_key().0, 1);
        assert!(ring.key(second).is_some());
    }

    #[test]
    fn a_new_installation_signs_at_once_and_a_dateless_key_is_old() {
        let mut ring = KeyRing::generate("2026-11-23T00:00:00Z");
        let now = "2026-11-23T00:00:01Z".parse::<Timestamp>().expect("a time");
        assert_eq!(signing_key(&ring, now), 1);
        ring.rotate("").expect("room");
        assert_eq!(signing_key(&ring, now), 2);
    }
}
