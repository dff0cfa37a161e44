//! `[login]`: login methods.

use std::path::PathBuf;

use super::diagnostics::KeyDefault::Required;
use super::reader::Reader;

#[derive(Clone, Debug)]
pub struct Login {
    pub password: Option<PasswordLogin>,
}

impl Login {
    /// Whether a login method is configured.
    pub fn is_any(&self) -> bool {
        self.password.is_some()
    }
}

/// Login with a name and password from a users file.
#[derive(Clone, Debug)]
pub struct PasswordLogin {
    pub users: PathBuf,
}

pub(super) fn login(mut section: Reader<'_>) -> Option<Login> {
    match section.section_if_written("password", "login.password")? {
        Some(section) => password(section).map(|login| Login { password: Some(login) }),
        None => Some(Login { password: None }),
    }
}

fn password(mut section: Reader<'_>) -> Option<PasswordLogin> {
    let users = section.file("users", Required(r#""config/users.toml""#));
    Some(PasswordLogin { users: users?.value })
}
