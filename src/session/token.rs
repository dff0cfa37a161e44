//! The session token.
//!
//! `dw1_` and base64url without padding of
//! `version 1 | key id 1 | tag 8 | session id 16 | generation 4 | secret 32 | mac 16`: 78 bytes, 108
//! characters with the prefix. Secret scanners find leaked tokens by the prefix.
//!
//! `mac` is the first half of HMAC-SHA256 over the preceding bytes. It is checked first, in constant
//! time, so a flood of forged or damaged cookies never reaches the store. A valid MAC does not make a
//! token live: that takes a record with the SHA-256 of `secret`.

use std::fmt;

use aws_lc_rs::hmac;
use data_encoding::BASE64URL_NOPAD;
use zeroize::Zeroizing;

use super::{SessionId, SessionKey, UserTag};
use crate::secret::{KeyId, KeyRing, constant_time_eq, sha256};

/// First characters of every token of this format.
pub const PREFIX: &str = "dw1_";

const VERSION: u8 = 1;
const SIGNED_LENGTH: usize = 62;
const LENGTH: usize = 78;

/// Length of an encoded token in bytes.
pub const TEXT_LENGTH: usize = PREFIX.len() + 104;

/// An authentic token: its MAC was verified, or this gateway created it. The record decides whether
/// it is live.
pub struct Token {
    pub key_id: KeyId,
    pub key: SessionKey,
    pub generation: u32,
    secret: Zeroizing<[u8; 32]>,
    hash: [u8; 32],
}

/// Why a cookie value is not a token. It is refused without a store request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("malformed token")]
    Malformed,
    #[error("signed with a key that is not in the keys file")]
    UnknownKey,
    #[error("forged or damaged: the MAC does not match")]
    InvalidMac,
}

impl Token {
    /// Creates a token. `secret` is random, or comes from [`Token::successor_secret`].
    pub fn new(key_id: KeyId, key: SessionKey, generation: u32, secret: [u8; 32]) -> Token {
        let hash = sha256(&secret);
        Token { key_id, key, generation, secret: Zeroizing::new(secret), hash }
    }

    /// Parses a cookie value and verifies its MAC.
    pub fn parse(keys: &KeyRing, text: &[u8]) -> Result<Token, TokenError> {
        let bytes = decode(text)?;
        let root = keys.key(bytes[1]).ok_or(TokenError::UnknownKey)?;
        let mac = hmac::sign(root.mac(), &bytes[..SIGNED_LENGTH]);
        if !constant_time_eq(&mac.as_ref()[..LENGTH - SIGNED_LENGTH], &bytes[SIGNED_LENGTH..]) {
            return Err(TokenError::InvalidMac);
        }
        Ok(Token::from_bytes(&bytes))
    }

    /// Returns the cookie value, or `None` if the token's key is not in the ring.
    pub fn encode(&self, keys: &KeyRing) -> Option<Zeroizing<String>> {
        let mut bytes = Zeroizing::new([0; LENGTH]);
        bytes[0] = VERSION;
        bytes[1] = self.key_id;
        bytes[2..10].copy_from_slice(&self.key.tag.0);
        bytes[10..26].copy_from_slice(&self.key.id.0);
        bytes[26..30].copy_from_slice(&self.generation.to_be_bytes());
        bytes[30..SIGNED_LENGTH].copy_from_slice(self.secret.as_slice());
        let mac = hmac::sign(keys.key(self.key_id)?.mac(), &bytes[..SIGNED_LENGTH]);
        bytes[SIGNED_LENGTH..].copy_from_slice(&mac.as_ref()[..LENGTH - SIGNED_LENGTH]);
        let mut text = Zeroizing::new(String::with_capacity(TEXT_LENGTH));
        text.push_str(PREFIX);
        BASE64URL_NOPAD.encode_append(bytes.as_slice(), &mut text);
        Some(text)
    }

    /// Returns the hash of the secret, which the record stores.
    pub fn hash(&self) -> [u8; 32] {
        self.hash
    }

    /// Derives the secret of the next generation.
    ///
    /// The same token and salt always give the same successor, so tabs, retries and other gateways
    /// converge on one value.
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

    fn from_bytes(bytes: &[u8; LENGTH]) -> Token {
        let key =
            SessionKey { tag: UserTag(read_array(bytes, 2)), id: SessionId(read_array(bytes, 10)) };
        Token::new(bytes[1], key, u32::from_be_bytes(read_array(bytes, 26)), read_array(bytes, 30))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({}, generation {})", self.key.id.handle(), self.generation)
    }
}

fn decode(text: &[u8]) -> Result<Zeroizing<[u8; LENGTH]>, TokenError> {
    let body = text.strip_prefix(PREFIX.as_bytes()).ok_or(TokenError::Malformed)?;
    let mut bytes = Zeroizing::new([0; LENGTH]);
    if body.len() != TEXT_LENGTH - PREFIX.len() {
        return Err(TokenError::Malformed);
    }
    BASE64URL_NOPAD.decode_mut(body, bytes.as_mut_slice()).map_err(|_| TokenError::Malformed)?;
    if bytes[0] == VERSION { Ok(bytes) } else { Err(TokenError::Malformed) }
}

fn read_array<const N: usize>(bytes: &[u8; LENGTH], from: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[from..from + N]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::random_bytes;

    fn token(keys: &KeyRing) -> Token {
        let key =
            SessionKey { tag: UserTag(keys.user_tag("alice")), id: SessionId(random_bytes()) };
        Token::new(keys.signing_key().0, key, 7, random_bytes())
    }

    #[test]
    fn a_token_round_trips() {
        let keys = KeyRing::generate("now");
        let token = token(&keys);
        let text = token.encode(&keys).expect("the signing key");
        assert_eq!(text.len(), TEXT_LENGTH);
        let again = Token::parse(&keys, text.as_bytes()).expect("authentic");
        assert_eq!((again.key, again.generation), (token.key, 7));
        assert_eq!(again.hash(), token.hash());
    }

    #[test]
    fn a_token_with_any_character_changed_is_refused() {
        let keys = KeyRing::generate("now");
        let text = token(&keys).encode(&keys).expect("the signing key");
        for at in 0..text.len() {
            let mut changed = text.as_bytes().to_vec();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            assert!(Token::parse(&keys, &changed).is_err(), "character {at}");
            assert_eq!(
                Token::parse(&keys, &text.as_bytes()[..at]).err(),
                Some(TokenError::Malformed)
            );
        }
        let longer = format!("{}A", text.as_str());
        assert_eq!(Token::parse(&keys, longer.as_bytes()).err(), Some(TokenError::Malformed));
    }

    #[test]
    fn tokens_verify_after_key_rotation_but_not_without_the_key() {
        let mut keys = KeyRing::generate("now");
        let text = token(&keys).encode(&keys).expect("the signing key");
        keys.rotate("later").expect("room");
        assert!(Token::parse(&keys, text.as_bytes()).is_ok());
        let elsewhere = KeyRing::generate("now");
        assert_eq!(Token::parse(&elsewhere, text.as_bytes()).err(), Some(TokenError::InvalidMac));
    }

    #[test]
    fn debug_output_shows_neither_secret_nor_session_id() {
        let keys = KeyRing::generate("now");
        let token = token(&keys);
        let text = format!("{token:?}");
        assert!(text.contains(&token.key.id.handle()) && text.contains("generation 7"));
        assert!(!text.contains(&data_encoding::HEXLOWER.encode(&token.key.id.0)));
    }
}
