//! Validation of the fields of an [`Identity`](super::Identity), from every source: other programs split
//! names at separators, and headers cannot carry control characters.

/// Maximum length of a user or group name in bytes.
const NAME_MAX: usize = 128;
const DISPLAY_NAME_MAX: usize = 256;
const EMAIL_MAX: usize = 254;
const GROUPS_MAX: usize = 128;

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
    fn an_email_has_two_sides() {
        assert_eq!(check_email("a@b"), Ok(()));
        for bad in ["", "a", "@", "a@", "@b", "a@b@c", "a@b\r\nX: y"] {
            assert!(check_email(bad).is_err(), "{bad:?}");
        }
    }
}
