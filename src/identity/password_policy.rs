//! Rules for new passwords (NIST SP 800-63B-4, 3.1.1.2). Passwords are compared and hashed in the form of
//! [`normalize_password`](super::account::normalize_password).

use super::account::normalize_name;

/// Maximum length of a password in bytes, as protection against resource exhaustion.
pub const PASSWORD_MAX: usize = 1_024;

/// Default of the minimum length, in characters: the password is the only factor.
pub const LENGTH_MIN: usize = 15;

/// Why a new password is rejected. The text is for the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasswordPolicyError {
    #[error("the password is shorter than {0} characters")]
    TooShort(usize),
    #[error("the password is longer than {PASSWORD_MAX} bytes, the limit of a login")]
    TooLong,
    #[error("the password contains a line break or NUL, which a login form cannot send")]
    Control,
    #[error("the password is the user name")]
    UserName,
    #[error("the password is one of the most common passwords")]
    Common,
}

/// Checks a new password of this user.
pub fn check(password: &str, user: &str, min_length: usize) -> Result<(), PasswordPolicyError> {
    let folded = normalize_name(password);
    if COMMON_PASSWORDS.contains(&folded.as_str()) {
        return Err(PasswordPolicyError::Common);
    }
    if password.chars().count() < min_length {
        return Err(PasswordPolicyError::TooShort(min_length));
    }
    if password.len() > PASSWORD_MAX {
        return Err(PasswordPolicyError::TooLong);
    }
    if password.contains(['\0', '\r', '\n']) {
        return Err(PasswordPolicyError::Control);
    }
    if folded == normalize_name(user) {
        return Err(PasswordPolicyError::UserName);
    }
    Ok(())
}

/// The most frequent leaked passwords of eight characters or more.
const COMMON_PASSWORDS: [&str; 24] = [
    "12345678",
    "123456789",
    "1234567890",
    "password",
    "password1",
    "password123",
    "passw0rd",
    "p@ssw0rd",
    "p@ssword",
    "qwertyuiop",
    "qwerty123",
    "qwerty12345",
    "1q2w3e4r",
    "1q2w3e4r5t",
    "iloveyou",
    "sunshine",
    "princess",
    "football",
    "baseball",
    "welcome1",
    "admin123",
    "administrator",
    "changeme",
    "letmein1",
];
