//! The session token.
//!
//! `dw1_` and base64url without padding of
//! `version 1 | key id 1 | tag 8 | session id 16 | generation 4 | secret 32 | mac 16`: 78 bytes, 108
//! characters with the prefix, by which secret scanners find leaks.
//!
//! `mac` is the first half of HMAC-SHA256 over all before it and is checked first, in constant time,
//! so that a flood of forged or damaged cookies never causes a look-up. It is not what makes a token
//! live: only a record that holds SHA-256 of `secret` does.

use std::fmt;

use aws_lc_rs::hmac;
use data_encoding::BASE64URL_NOPAD;
use zeroize::Zeroizing;

use super::{SessionId, SessionKey, UserTag};
use crate::secret::{KeyId, KeyRing, equal_in_constant_time, sha256};

/// What every token of this format begins with.
pub const PREFIX: &str = "dw1_";

const VERSION: u8 = 1;
const SIGNED: usize = 62;
const LENGTH: usize = 78;

/// Length of a token's text in bytes.
pub const TEXT_LENGTH: usize = PREFIX.len() + 104;

/// An authentic token: its MAC was checked, or we made it. Whether it is *live* is for the record.
pub struct Token {
    pub key_id: KeyId,
    pub key: SessionKey,
    pub generation: u32,
    secret: Zeroizing<[u8; 32]>,
}

/// Why a cookie value is no token of ours. It is refused without a look-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("not the shape of a token")]
    Shape,
    #[error("made with a key that the keys file does not have")]
    UnknownKey,
    #[error("forged or damaged: the MAC does not match")]
    Mac,
}

impl Token {
    /// A token to be sent: `secret` is random, or a successor's.
    pub fn new(key_id: KeyId, key: SessionKey, generation: u32, secret: [u8; 32]) -> Token {
        Token { key_id, key, generation, secret: Zeroizing::new(secret) }
    }

    /// Reads a cookie's value.
    pub fn parse(keys: &KeyRing, text: &[u8]) -> Result<Token, TokenError> {
        let bytes = decode(text)?;
        let root = keys.key(bytes[1]).ok_or(TokenError::UnknownKey)?;
        let mac = hmac::sign(root.mac(), &bytes[..SIGNED]);
        if !equal_in_constant_time(&mac.as_ref()[..LENGTH - SIGNED], &bytes[SIGNED..]) {
            return Err(TokenError::Mac);
        }
        Ok(Token::from_signed(&bytes))
    }

    /// The cookie's value. `None` when the key that the token names is not in the ring.
    pub fn text(&self, keys: &KeyRing) -> Option<Zeroizing<String>> {
        let mut bytes = Zeroizing::new([0; LENGTH]);
        bytes[0] = VERSION;
        bytes[1] = self.key_id;
        bytes[2..10].copy_from_slice(&self.key.tag.0);
        bytes[10..26].copy_from_slice(&self.key.id.0);
        bytes[26..30].copy_from_slice(&self.generation.to_be_bytes());
        bytes[30..SIGNED].copy_from_slice(self.secret.as_slice());
        let mac = hmac::sign(keys.key(self.key_id)?.mac(), &bytes[..SIGNED]);
        bytes[SIGNED..].copy_from_slice(&mac.as_ref()[..LENGTH - SIGNED]);
        let mut text = Zeroizing::new(String::with_capacity(TEXT_LENGTH));
        text.push_str(PREFIX);
        BASE64URL_NOPAD.encode_append(bytes.as_slice(), &mut text);
        Some(text)
    }

    /// What the record keeps of the secret.
    pub fn hash(&self) -> [u8; 32] {
        sha256(self.secret.as_slice())
    }

    /// The secret of the next generation: whoever presents the same token with the same salt gets the
    /// same successor, so that tabs, retries and other gateways converge on one value.
    pub fn successor_secret(&self, ratchet: &hmac::Key, salt: &[u8; 16]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(ratchet);
        context.update(self.secret.as_slice());
        context.update(&self.key.id.0);
        context.update(&self.generation.wrapping_add(1).to_be_bytes());
        context.update(salt);
        let mut secret = [0; 32];
        secret.copy_from_slice(context.sign().as_ref());
        secret
    }

    fn from_signed(bytes: &[u8; LENGTH]) -> Token {
        let key = SessionKey { tag: UserTag(take(bytes, 2)), id: SessionId(take(bytes, 10)) };
        Token::new(bytes[1], key, u32::from_be_bytes(take(bytes, 26)), take(bytes, 30))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({}, generation {})", self.key.id.handle(), self.generation)
    }
}

fn decode(text: &[u8]) -> Result<Zeroizing<[u8; LENGTH]>, TokenError> {
    let body = text.strip_prefix(PREFIX.as_bytes()).ok_or(TokenError::Shape)?;
    let mut bytes = Zeroizing::new([0; LENGTH]);
    if body.len() != TEXT_LENGTH - PREFIX.len() {
        return Err(TokenError::Shape);
    }
    BASE64URL_NOPAD.decode_mut(body, bytes.as_mut_slice()).map_err(|_| TokenError::Shape)?;
    if bytes[0] == VERSION { Ok(bytes) } else { Err(TokenError::Shape) }
}

fn take<const N: usize>(bytes: &[u8; LENGTH], from: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[from..from + N]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::random_bytes;

    fn token(keys: &KeyRing) -> Token {
        let key = SessionKey { tag: UserTag(keys.tag_of("alice")), id: SessionId(random_bytes()) };
        Token::new(keys.newest().0, key, 7, random_bytes())
    }

    #[test]
    fn a_token_reads_back_and_fits_a_cookie() {
        let keys = KeyRing::generate("now");
        let token = token(&keys);
        let text = token.text(&keys).expect("the newest key");
        assert_eq!(text.len(), TEXT_LENGTH);
        let again = Token::parse(&keys, text.as_bytes()).expect("authentic");
        assert_eq!((again.key, again.generation), (token.key, 7));
        assert_eq!(again.hash(), token.hash());
    }

    #[test]
    fn a_token_with_any_character_changed_is_refused_before_a_look_up() {
        let keys = KeyRing::generate("now");
        let text = token(&keys).text(&keys).expect("the newest key");
        for at in 0..text.len() {
            let mut changed = text.as_bytes().to_vec();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            assert!(Token::parse(&keys, &changed).is_err(), "character {at}");
            assert_eq!(Token::parse(&keys, &text.as_bytes()[..at]).err(), Some(TokenError::Shape));
        }
        let longer = format!("{}A", text.as_str());
        assert_eq!(Token::parse(&keys, longer.as_bytes()).err(), Some(TokenError::Shape));
    }

    #[test]
    fn a_token_of_an_old_key_verifies_after_rotation_and_one_of_a_lost_key_does_not() {
        let mut keys = KeyRing::generate("now");
        let text = token(&keys).text(&keys).expect("the newest key");
        keys.rotate("later").expect("room");
        assert!(Token::parse(&keys, text.as_bytes()).is_ok());
        let elsewhere = KeyRing::generate("now");
        assert_eq!(Token::parse(&elsewhere, text.as_bytes()).err(), Some(TokenError::Mac));
    }

    #[test]
    fn debug_output_shows_neither_secret_nor_session_id() {
        let keys = KeyRing::generate("now");
        let token = token(&keys);
        let shown = format!("{token:?}");
        assert!(shown.contains(&token.key.id.handle()) && shown.contains("generation 7"));
        assert!(!shown.contains(&data_encoding::HEXLOWER.encode(&token.key.id.0)));
    }
}
