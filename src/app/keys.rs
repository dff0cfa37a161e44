//! The keys file: made on the first start, never replaced when it is there.

use std::io;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};

use crate::identity::private_file::Writer;
use crate::secret::{KeyId, KeyRing, KeyRingError};

/// Why there are no keys. Without them nobody could log in, and with wrong ones all are logged out.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    #[error("{path}: {error}")]
    Content { path: PathBuf, error: KeyRingError },
    #[error(
        "{path}: {error}; the gateway must be able to read it, and to make it on the first start"
    )]
    File { path: PathBuf, error: io::Error },
}

/// Reads the keys, or makes the file when it is missing.
pub(super) fn load_or_make(path: &Path) -> Result<KeyRing, KeysError> {
    match load(path) {
        Err(KeysError::File { error, .. }) if error.kind() == io::ErrorKind::NotFound => make(path),
        other => other,
    }
}

/// How long a new key only verifies, so that every gateway has read it before one mints with it.
const SETTLED: SignedDuration = SignedDuration::from_secs(60);

/// Reads the keys.
pub(super) fn load(path: &Path) -> Result<KeyRing, KeysError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| KeysError::File { path: path.to_owned(), error })?;
    let ring = KeyRing::parse(&text);
    let mut ring = ring.map_err(|error| KeysError::Content { path: path.to_owned(), error })?;
    ring.mint_with(minting(&ring, Timestamp::now()));
    Ok(ring)
}

/// The newest key that was made a while ago; the first one where all are new. A key that does not say
/// when it was made is taken for an old one.
pub(super) fn minting(ring: &KeyRing, now: Timestamp) -> KeyId {
    let is_settled = |created: &str| {
        let made = created.parse::<Timestamp>();
        made.map_or(true, |made| now.duration_since(made) >= SETTLED)
    };
    let settled = ring.ids().filter(|(_, created)| is_settled(created)).last();
    settled.or_else(|| ring.ids().next()).map_or(0, |(id, _)| id)
}

/// Two gateways that start at once on one new directory agree on one file: the first one's.
fn make(path: &Path) -> Result<KeyRing, KeysError> {
    let failed = |error| KeysError::File { path: path.to_owned(), error };
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    let writer = Writer::lock(path).map_err(failed)?;
    if writer.exists() {
        return load(path);
    }
    let ring = KeyRing::generate(&Timestamp::now().to_string());
    writer.replace(ring.to_file().as_bytes()).map_err(failed)?;
    tracing::info!(event = "keys-made", path = %path.display(), "keep this file secret and in your backup");
    Ok(ring)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_key_verifies_at_once_and_mints_when_every_gateway_has_had_time_to_read_it() {
        let mut ring = KeyRing::generate("2026-11-23T00:00:00Z");
        let second = ring.rotate("2026-11-23T12:00:00Z").expect("room");
        let at = |text: &str| text.parse::<Timestamp>().expect("a time");
        assert_eq!(minting(&ring, at("2026-11-23T12:00:59Z")), 1);
        assert_eq!(minting(&ring, at("2026-11-23T12:01:00Z")), second);
        ring.mint_with(1);
        assert_eq!(ring.newest().0, 1);
        assert!(ring.key(second).is_some());
    }

    #[test]
    fn a_new_installation_mints_at_once_and_a_key_without_a_date_is_an_old_one() {
        let mut ring = KeyRing::generate("2026-11-23T00:00:00Z");
        let now = "2026-11-23T00:00:01Z".parse::<Timestamp>().expect("a time");
        assert_eq!(minting(&ring, now), 1);
        ring.rotate("").expect("room");
        assert_eq!(minting(&ring, now), 2);
    }
}
