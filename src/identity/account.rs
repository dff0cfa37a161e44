//! One account, and the rules that its fields must meet.

use std::sync::Arc;

use crate::secret::sha256;
use crate::session::Identity;

use super::credential::Credential;

/// The longest account or group name, in bytes.
pub const NAME_MAX: usize = 128;
const DISPLAY_NAME_MAX: usize = 256;
const EMAIL_MAX: usize = 254;
const GROUPS_MAX: usize = 128;

/// One entry of the users file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub identity: Arc<Identity>,
    pub password: Credential,
    pub disabled: bool,
    /// The first bytes of SHA-256 of the stored password. A session remembers it, so that a changed
    /// password ends the sessions that the old one began.
    pub credential: [u8; 8],
}

impl Account {
    /// An account whose fields were checked by the functions below.
    pub fn new(identity: Identity, password: Credential, disabled: bool) -> Account {
        let digest = sha256(password.stored().as_bytes());
        let mut credential = [0; 8];
        credential.copy_from_slice(&digest[..8]);
        Account { identity: Arc::new(identity), password, disabled, credential }
    }
}

/// What is wrong with a field; says what to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    #[error("a {0} is not empty")]
    Empty(&'static str),
    #[error("a {0} has at most {1} bytes")]
    TooLong(&'static str, usize),
    #[error("a {0} has no control characters (no tab, no line break)")]
    Control(&'static str),
    #[error("a {0} does not begin or end with a space")]
    Space(&'static str),
    #[error("a {0} has no ':' and no ',': other programs split names there")]
    Separator(&'static str),
    #[error("an e-mail address has one '@' with something on each side")]
    Email,
    #[error("an account has at most {GROUPS_MAX} groups")]
    TooManyGroups,
}

/// Whether `name` can name an account. Nothing is trimmed: two spellings are two names, or none.
pub fn check_user_name(name: &str) -> Result<(), FieldError> {
    check_name("user name", name)
}

/// Whether `groups` can be the groups of an account.
pub fn check_groups(groups: &[String]) -> Result<(), FieldError> {
    if groups.len() > GROUPS_MAX {
        return Err(FieldError::TooManyGroups);
    }
    groups.iter().try_for_each(|group| check_name("group name", group))
}

/// Whether `email` can be sent to an app as an address.
pub fn check_email(email: &str) -> Result<(), FieldError> {
    check_text("e-mail address", email, EMAIL_MAX)?;
    let mut parts = email.split('@');
    let sides = (parts.next(), parts.next(), parts.next());
    match sides {
        (Some(local), Some(domain), None) if !local.is_empty() && !domain.is_empty() => Ok(()),
        (Some(_) | None, _, _) => Err(FieldError::Email),
    }
}

/// Whether `name` can be shown as a person's name.
pub fn check_display_name(name: &str) -> Result<(), FieldError> {
    check_text("display name", name, DISPLAY_NAME_MAX)
}

/// The form in which names are compared: one account per folded name. Only ASCII folds, so that no
/// two machines disagree about it.
pub fn fold(name: &str) -> String {
    name.to_ascii_lowercase()
}

fn check_name(what: &'static str, name: &str) -> Result<(), FieldError> {
    check_text(what, name, NAME_MAX)?;
    if name.contains([':', ',']) {
        return Err(FieldError::Separator(what));
    }
    Ok(())
}

fn check_text(what: &'static str, text: &str, max: usize) -> Result<(), FieldError> {
    if text.is_empty() {
        Err(FieldError::Empty(what))
    } else if text.len() > max {
        Err(FieldError::TooLong(what, max))
    } else if text.chars().any(char::is_control) {
        Err(FieldError::Control(what))
    } else if text.trim() != text {
        Err(FieldError::Space(what))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_another_program_could_read_differently_is_refused() {
        for good in ["a", "alice", "Ålice", "a b", "alice@example.com", &"x".repeat(128)] {
            assert_eq!(check_user_name(good), Ok(()), "{good}");
        }
        let long = "x".repeat(129);
        for bad in ["", " a", "a ", "a\u{a0}", "a:b", "a,b", "a\n", "a\0b", "\u{85}", &long] {
            assert!(check_user_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_email_has_two_sides() {
        assert_eq!(check_email("a@b"), Ok(()));
        for bad in ["", "a", "@", "a@", "@b", "a@b@c", "a@b\r\nX: y"] {
            assert!(check_email(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_credential_changes_with_the_stored_password() {
        let account = |stored: &str| {
            let password = Credential::parse(stored).expect("a good hash");
            Account::new(Identity::default(), password, false)
        };
        let one = account("$2y$12$L6Bc/AlTQHyd9liGgGEZyOFLPHNgyxeEPfgYfBCVxJ7JIlwxyVU3u");
        let two = account("$2b$12$L6Bc/AlTQHyd9liGgGEZyOFLPHNgyxeEPfgYfBCVxJ7JIlwxyVU3u");
        assert_ne!(one.credential, two.credential);
        assert!(!format!("{one:?}").contains("L6Bc"), "{one:?}");
    }
}
