//! The files of an installation, for commands that use them without a gateway.

use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::diagnostic::ConfigError;
use super::diagnostics::Diagnostics;
use super::path_base::PathBase;
use super::reader::Reader;
use super::{audit, login, read, server};

/// The files that a configuration names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilePaths {
    pub users: Option<PathBuf>,
    pub keys: Option<PathBuf>,
    pub audit: Option<PathBuf>,
    pub socket: Option<PathBuf>,
}

impl FilePaths {
    /// Reads only the paths. Other settings may be wrong, and the files may be missing: a command can
    /// create them.
    ///
    /// # Errors
    /// If the configuration cannot be read, or is not TOML.
    pub fn load(path: &Path) -> Result<FilePaths, ConfigError> {
        let file = path.display().to_string();
        let text = read(path, &file)?;
        let paths = PathBase::of(path);
        let diagnostics = Diagnostics::new(&file, &text, &paths);
        let (tree, errors) = DeTable::parse_recoverable(diagnostics.source);
        diagnostics.syntax(&errors);
        if !errors.is_empty() {
            return Err(diagnostics
                .finish(None::<()>)
                .err()
                .unwrap_or_else(|| ConfigError::of(Vec::new())));
        }
        let mut file = Reader::root(&diagnostics, tree.get_ref());
        if let Some(mut server) = file.section("server", "server") {
            server::state_dir(&mut server);
        }
        let login = file.section("login", "login").and_then(login::login);
        Ok(FilePaths {
            users: login.and_then(|login| login.password).map(|login| login.users),
            keys: file.section("keys", "keys").and_then(server::keys),
            audit: file
                .section("audit", "audit")
                .and_then(audit::audit)
                .and_then(|audit| audit.file),
            socket: file
                .section("admin", "admin")
                .and_then(server::admin)
                .and_then(|admin| admin.socket),
        })
    }
}
