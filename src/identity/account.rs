//! One account and the validation of its fields.

use std::borrow::Cow;
use std::sync::Arc;

use icu_normalizer::ComposingNormalizerBorrowed;
use zeroize::Zeroizing;

use crate::secret::sha256;
use crate::session::Identity;

use super::credential::Credential;

/// Maximum length of an account or group name in bytes.
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
    /// The first 8 bytes of SHA-256 of the stored password. Sessions record it, so that a password
    /// change ends the sessions started with the old one.
    pub credential_digest: [u8; 8],
}

impl Account {
    /// Creates an account from fields validated by the functions below.
    pub fn new(identity: Identity, password: Credential, disabled: bool) -> Account {
        let digest = sha256(password.stored().as_bytes());
        let mut credential_digest = [0; 8];
        credential_digest.copy_from_slice(&digest[..8]);
        Account { identity: Arc::new(identity), password, disabled, credential_digest }
    }
}

/// Reason for rejecting a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    #[error("a {0} must not be empty")]
    Empty(&'static str),
    #[error("a {0} must have at most {1} bytes")]
    TooLong(&'static str, usize),
    #[error("a {0} must not contain control characters (tabs, line breaks)")]
    Control(&'static str),
    #[error("a {0} must not begin or end with a space")]
    Space(&'static str),
    #[error("a {0} must not contain ':' or ',': other programs split names there")]
    Separator(&'static str),
    #[error("an e-mail address must have one '@' with text on each side")]
    Email,
    #[error("an account must have at most {GROUPS_MAX} groups")]
    TooManyGroups,
}

/// Validates a user name as it is stored. White space around it is invalid.
pub fn check_user_name(name: &str) -> Result<(), FieldError> {
    check_name("user name", name)
}

/// Validates the groups of an account.
pub fn check_groups(groups: &[String]) -> Result<(), FieldError> {
    if groups.len() > GROUPS_MAX {
        return Err(FieldError::TooManyGroups);
    }
    groups.iter().try_for_each(|group| check_name("group name", group))
}

/// Validates a group name of an external provider. Apps split groups at commas.
pub fn check_external_group(group: &str) -> Result<(), FieldError> {
    check_text("group name", group, NAME_MAX)?;
    match group.contains(',') {
        true => Err(FieldError::Separator("group name")),
        false => Ok(()),
    }
}

/// Validates an e-mail address.
pub fn check_email(email: &str) -> Result<(), FieldError> {
    check_text("e-mail address", email, EMAIL_MAX)?;
    let mut parts = email.split('@');
    let sides = (parts.next(), parts.next(), parts.next());
    match sides {
        (Some(local), Some(domain), None) if !local.is_empty() && !domain.is_empty() => Ok(()),
        (Some(_) | None, _, _) => Err(FieldError::Email),
    }
}

/// Validates a display name.
pub fn check_display_name(name: &str) -> Result<(), FieldError> {
    check_text("display name", name, DISPLAY_NAME_MAX)
}

/// Returns the form in which names are compared: without surrounding white space, which phone keyboards
/// add, and composed (NFC), because keyboards type `é` in two ways. Only the case of ASCII is folded, so that
/// all programs agree on it.
pub fn normalize_name(name: &str) -> String {
    composed(name.trim()).to_ascii_lowercase()
}

/// Returns the form in which passwords are hashed (RFC 8265, OpaqueString): composed, and every space as
/// an ASCII space.
pub fn normalize_password(password: &str) -> Zeroizing<String> {
    let is_space = |c: char| c.is_whitespace() && !c.is_control();
    let spaced: Zeroizing<String> =
        Zeroizing::new(password.chars().map(|c| if is_space(c) { ' ' } else { c }).collect());
    Zeroizing::new(composed(&spaced).into_owned())
}

/// Returns the text in the composed form NFC.
pub fn composed(text: &str) -> Cow<'_, str> {
    match text.is_ascii() {
        true => Cow::Borrowed(text),
        false => ComposingNormalizerBorrowed::new_nfc().normalize(text),
    }
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
    fn ambiguous_user_names_are_rejected() {
        for good in ["a", "alice", "Ålice", "a b", "alice@example.com", &"x".repeat(128)] {
            assert_eq!(check_user_name(good), Ok(()), "{good}");
        }
        let long = "x".repeat(129);
        for bad in ["", " a", "a ", "a\u{a0}", "a:b", "a,b", "a\n", "a\0b", "\u{85}", &long] {
            assert!(check_user_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn spellings_of_one_name_are_equal() {
        for spelling in ["zoë", "zoe\u{308}", " zoë ", "ZOë", "zoë\u{a0}", "zoe\u{308}\n"] {
            assert_eq!(normalize_name(spelling), "zoë", "{spelling:?}");
        }
        assert_ne!(normalize_name("zoe"), "zoë");
    }

    #[test]
    fn passwords_are_composed_and_have_ascii_spaces() {
        assert_eq!(*normalize_password("pass\u{a0}e\u{301} "), "pass é ");
        assert_eq!(*normalize_password("a\u{3000}b\tc"), "a b\tc");
    }

    #[test]
    fn an_email_has_two_sides() {
        assert_eq!(check_email("a@b"), Ok(()));
        for bad in ["", "a", "@", "a@", "@b", "a@b@c", "a@b\r\nX: y"] {
            assert!(check_email(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_digest_changes_with_the_stored_password() {
        let account = |stored: &str| {
            let password = Credential::parse(stored).expect("a good hash");
            Account::new(Identity::default(), password, false)
        };
        let one = account("$2y$12$L6Bc/AlTQHyd9liGgGEZyOFLPHNgyxeEPfgYfBCVxJ7JIlwxyVU3u");
        let two = account("$2b$12$L6Bc/AlTQHyd9liGgGEZyOFLPHNgyxeEPfgYfBCVxJ7JIlwxyVU3u");
        assert_ne!(one.credential_digest, two.credential_digest);
        assert!(!format!("{one:?}").contains("L6Bc"), "{one:?}");
    }
}
