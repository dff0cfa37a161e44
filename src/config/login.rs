//! `[login]`: how people prove who they are.

use std::path::PathBuf;

use super::findings::Usual::Required;
use super::reader::Reader;

#[derive(Clone, Debug)]
pub struct Login {
    pub password: Option<PasswordLogin>,
}

impl Login {
    /// Whether anybody can log in at all.
    pub fn is_any(&self) -> bool {
        self.password.is_some()
    }
}

/// Name and password, from a users file.
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
