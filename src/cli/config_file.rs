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

#[derive(Args, Clone, Debug)]
pub struct SocketArgs {
    /// Admin socket of the gateway; by default that of the configuration, or else state/admin.sock
    #[arg(long, global = true, value_name = "FILE", env = "DOORWARD_SOCKET")]
    socket: Option<PathBuf>,
    /// Configuration file, which names the socket
    #[arg(long, global = true, value_name = "FILE", env = "DOORWARD_CONFIG")]
    config: Option<PathBuf>,
}

impl SocketArgs {
    /// Returns the admin socket of the running gateway.
    ///
    /// # Errors
    /// If the configuration was given and cannot be read.
    pub fn path(&self) -> anyhow::Result<PathBuf> {
        if let Some(socket) = &self.socket {
            return Ok(socket.clone());
        }
        let files = ConfigArgs { config: self.config.clone() }.files()?;
        Ok(files.socket.unwrap_or_else(|| "state/admin.sock".into()))
    }
}
