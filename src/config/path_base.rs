//! Where relative paths of a configuration start.

use std::path::{Path, PathBuf};

/// Where relative paths start.
#[derive(Clone, Debug, Default)]
pub(super) struct PathBase {
    /// The directory of the configuration file.
    pub(super) base: PathBuf,
    /// The working directory, where paths started in earlier versions.
    pub(super) fallback: Option<PathBuf>,
}

impl PathBase {
    pub(super) fn of(file: &Path) -> PathBase {
        let base = file.parent().map(Path::to_owned).unwrap_or_default();
        let is_elsewhere = !matches!(base.to_str(), Some("" | "."));
        PathBase { base, fallback: is_elsewhere.then(PathBuf::new) }
    }
}
