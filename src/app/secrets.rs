//! Secrets from files and environment variables.

use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::start_error::StartError;

/// Reads a secret from its file, or else from an environment variable.
pub(super) fn read_file_or_variable(
    file: Option<&PathBuf>,
    variable: &str,
) -> Result<Option<Zeroizing<String>>, StartError> {
    match file {
        Some(path) => read_file(path).map(Some),
        // An empty variable counts as unset: a systemd unit resets a variable that way.
        None => {
            Ok(std::env::var(variable).ok().filter(|text| !text.is_empty()).map(Zeroizing::new))
        }
    }
}

/// Reads a secret without its trailing line break.
pub(super) fn read_file(path: &Path) -> Result<Zeroizing<String>, StartError> {
    let text = std::fs::read_to_string(path)
        .map(Zeroizing::new)
        .map_err(|error| StartError::File { path: path.to_owned(), error })?;
    Ok(Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned()))
}
