//! The configuration file, and the files that it names.

use std::path::{Path, PathBuf};

use anyhow::anyhow;
use clap::Args;

use crate::config::FilePaths;

/// Read if no other configuration is given.
const DEFAULT: &str = "config/doorward.toml";

#[derive(Args, Clone, Debug, Default)]
pub struct ConfigArgs {
    /// Configuration file, which names the other files
    #[arg(long, value_name = "FILE", env = "DOORWARD_CONFIG")]
    config: Option<PathBuf>,
}

impl ConfigArgs {
    pub(super) fn new(config: Option<PathBuf>) -> ConfigArgs {
        ConfigArgs { config }
    }

    /// Returns the files of the configuration. Without one, every file is unknown.
    ///
    /// # Errors
    /// If the configuration was given and cannot be read.
    pub fn files(&self) -> anyhow::Result<FilePaths> {
        let default = Path::new(DEFAULT);
        match &self.config {
            None if !default.exists() => Ok(FilePaths::default()),
            config => {
                let path = config.as_deref().unwrap_or(default);
                FilePaths::load(path).map_err(|error| anyhow!("{}", error.to_string().trim_end()))
            }
        }
    }
}
