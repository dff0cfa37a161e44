//! Errors of the start.

use std::path::PathBuf;

use crate::audit::AuditFileError;

use super::keys::KeysError;

/// Start error. The text names the file or address, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Keys(#[from] KeysError),
    #[error(transparent)]
    Tls(#[from] crate::tls::TlsError),
    #[error(transparent)]
    Users(#[from] crate::identity::UsersError),
    #[error("the password login cannot be set up: {0}")]
    Login(String),
    #[error("[login.oidc.{provider}] {problem}")]
    Oidc { provider: String, problem: String },
    #[error("[login.ldap.{directory}] {problem}")]
    Ldap { directory: String, problem: String },
    #[error(transparent)]
    Store(#[from] crate::store::StoreOpenError),
    #[error(transparent)]
    Audit(#[from] AuditFileError),
    #[error(transparent)]
    Bind(#[from] crate::server::listener::BindError),
    #[error(transparent)]
    Inherited(#[from] crate::server::InheritedError),
    #[error(transparent)]
    Socket(#[from] crate::admin::SocketError),
    #[error("{path}: {error}")]
    File { path: PathBuf, error: std::io::Error },
    #[error("a thread or runtime cannot be started: {0}")]
    Runtime(#[from] std::io::Error),
}
