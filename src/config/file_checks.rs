//! Checks of the files that a configuration names.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use zeroize::Zeroizing;

use crate::secret::SigningSecret;

/// Use of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FilePurpose {
    Read,
    /// A signing secret.
    Sign,
    Run,
}

/// Result of a file check.
pub(super) enum FileCheck {
    Ok,
    Error(String),
    Warning { message: &'static str, help: &'static str },
}

impl FilePurpose {
    pub(super) fn check(self, path: &Path) -> FileCheck {
        let result = match self {
            FilePurpose::Read => {
                fs::File::open(path).map(|_| FileCheck::Ok).map_err(|e| e.to_string())
            }
            FilePurpose::Sign => check_secret(path),
            FilePurpose::Run => check_executable(path)
                .map(|file| check_not_world_writable(&file))
                .map_err(|e| e.to_string()),
        };
        result.unwrap_or_else(FileCheck::Error)
    }
}

fn check_secret(path: &Path) -> Result<FileCheck, String> {
    let text = fs::read_to_string(path).map(Zeroizing::new).map_err(|error| error.to_string())?;
    SigningSecret::parse(&text).map_err(|error| error.to_string())?;
    let mode = fs::metadata(path).map_err(|error| error.to_string())?.permissions().mode();
    Ok(if mode & 0o007 == 0 {
        FileCheck::Ok
    } else {
        FileCheck::Warning {
            message: "every user of this machine may read or write this secret",
            help: "chmod 600, or 640 if the gateway's group must read it",
        }
    })
}

/// Checks that a file is executable and returns its metadata.
///
/// # Errors
/// The file is missing, is not a regular file, or has no execute permission.
pub fn check_executable(path: &Path) -> io::Result<Metadata> {
    let file = fs::metadata(path)?;
    if !file.is_file() || file.permissions().mode() & 0o111 == 0 {
        let message = "is not executable; chmod 755, or name another program";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
    }
    Ok(file)
}

fn check_not_world_writable(file: &Metadata) -> FileCheck {
    if file.permissions().mode() & 0o002 == 0 {
        return FileCheck::Ok;
    }
    FileCheck::Warning {
        message: "every user of this machine may change this program",
        help: "chmod 755",
    }
}
