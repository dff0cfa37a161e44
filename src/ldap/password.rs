//! Passwords that a directory could take for an anonymous login.

/// Maximum length of a password in bytes.
const PASSWORD_MAX: usize = 1024;

/// Whether a password can be sent. A bind with an empty password succeeds as an anonymous login (RFC 4513,
/// 5.1.2), so nothing may be left after the preparation by the server: SASLprep (RFC 4013) removes characters,
/// and some servers end texts at NUL.
pub(super) fn is_sendable(password: &str) -> bool {
    let is_left = password.chars().any(|c| !is_mapped_to_nothing(c));
    is_left && password.len() <= PASSWORD_MAX && !password.contains('\0')
}

/// Table B.1 of RFC 3454.
fn is_mapped_to_nothing(c: char) -> bool {
    matches!(
        c,
        '\u{ad}'
            | '\u{34f}'
            | '\u{1806}'
            | '\u{180b}'..='\u{180d}'
            | '\u{200b}'..='\u{200d}'
            | '\u{2060}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_that_may_become_empty_is_not_sent() {
        for empty in ["", "\u{ad}", "\u{200b}\u{feff}", "\0", "\0secret", "secret\0", "\u{fe0f}"] {
            assert!(!is_sendable(empty), "{empty:?}");
        }
        assert!(!is_sendable(&"x".repeat(1025)));
        for password in [" ", "secret", "\u{ad}x", &"x".repeat(1024)] {
            assert!(is_sendable(password), "{password:?}");
        }
    }
}
