//! The files that a configuration names: whether they can be what they are named for.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use zeroize::Zeroizing;

use crate::secret::SigningSecret;

/// What a file is named for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Read,
    /// A secret to sign with.
    Sign,
    Run,
}

/// What `doorward check` says of a file: what is wrong, or what its operator should know.
pub(super) enum Remark {
    Good,
    Wrong(String),
    Warn { message: &'static str, help: &'static str },
}

impl Purpose {
    pub(super) fn look(self, path: &Path) -> Remark {
        let remark = match self {
            Purpose::Read => fs::File::open(path).map(|_| Remark::Good).map_err(|e| e.to_string()),
            Purpose::Sign => secret(path),
            Purpose::Run => program(path).map(|file| changeable(&file)).map_err(|e| e.to_string()),
        };
        remark.unwrap_or_else(Remark::Wrong)
    }
}

fn secret(path: &Path) -> Result<Remark, String> {
    let text = fs::read_to_string(path).map(Zeroizing::new).map_err(|error| error.to_string())?;
    SigningSecret::parse(&text).map_err(|error| error.to_string())?;
    let mode = fs::metadata(path).map_err(|error| error.to_string())?.permissions().mode();
    Ok(if mode & 0o007 == 0 {
        Remark::Good
    } else {
        Remark::Warn {
            message: "everybody on this machine may read or write this secret",
            help: "chmod 600 it, or 640 where the gateway's group has to read it",
        }
    })
}

/// A file that may be run.
///
/// # Errors
/// When it is not there, is no file, or nobody may run it.
pub fn program(path: &Path) -> io::Result<Metadata> {
    let file = fs::metadata(path)?;
    if !file.is_file() || file.permissions().mode() & 0o111 == 0 {
        let message = "is no program: nobody may run it; chmod 755 it, or name another";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
    }
    Ok(file)
}

fn changeable(file: &Metadata) -> Remark {
    if file.permissions().mode() & 0o002 == 0 {
        return Remark::Good;
    }
    Remark::Warn {
        message: "everybody on this machine may change what the gateway runs here",
        help: "chmod 755 it",
    }
}
