//! The reload command of the API. The composition root supplies its function.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::config::KeyChange;

/// Whether a reload takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReloadMode {
    Apply,
    /// Checks the new configuration and reports what would change.
    DryRun,
}

/// Result of a reload, as in the JSON of the API.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadReport {
    /// Why the new configuration is not in use; empty after a success.
    pub problems: Vec<String>,
    pub warnings: Vec<String>,
    /// Keys of the file that differ from the file loaded before.
    pub changes: Vec<KeyChange>,
    /// Keys that differ from those in use and need a restart.
    pub restart_keys: Vec<String>,
}

/// Reloads the configuration. Blocks while files are read.
pub type Reload = Arc<dyn Fn(ReloadMode) -> ReloadReport + Send + Sync>;

impl ReloadReport {
    /// Returns the report of a reload that changed nothing.
    pub fn failed(problems: Vec<String>) -> ReloadReport {
        ReloadReport { problems, ..ReloadReport::default() }
    }

    /// Adds warnings.
    pub fn with_warnings(self, warnings: impl Iterator<Item = String>) -> ReloadReport {
        ReloadReport { warnings: warnings.collect(), ..self }
    }

    /// Returns whether the new configuration is valid.
    pub fn is_ok(&self) -> bool {
        self.problems.is_empty()
    }
}
