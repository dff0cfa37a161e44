//! The keys file: made on the first start, never replaced when it is there.

use std::io;
use std::path::{Path, PathBuf};

use crate::login::private_file::Writer;
use crate::secret::{KeyRing, KeyRingError};

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

/// Reads the keys.
pub(super) fn load(path: &Path) -> Result<KeyRing, KeysError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| KeysError::File { path: path.to_owned(), error })?;
    KeyRing::parse(&text).map_err(|error| KeysError::Content { path: path.to_owned(), error })
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
    let ring = KeyRing::generate(&jiff::Timestamp::now().to_string());
    writer.replace(ring.to_file().as_bytes()).map_err(failed)?;
    tracing::info!(event = "keys-made", path = %path.display(), "keep this file secret and in your backup");
    Ok(ring)
}
