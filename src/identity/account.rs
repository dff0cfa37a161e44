//! One account of the users file.

use std::borrow::Cow;
use std::sync::Arc;

use icu_normalizer::ComposingNormalizerBorrowed;
use zeroize::Zeroizing;

use crate::secret::sha256;
use crate::session::Identity;
pub use crate::session::identity_fields::{
    FieldError, check_display_name, check_email, check_groups, check_user_name,
};

use super::credential::Credential;

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
    /// Creates an account from validated fields.
    pub fn new(identity: Identity, password: Credential, disabled: bool) -> Account {
        let digest = sha256(password.stored().as_bytes());
        let mut credential_digest = [0; 8];
        credential_digest.copy_from_slice(&digest[..8]);
        Account { identity: Arc::new(identity), password, disabled, credential_digest }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

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
