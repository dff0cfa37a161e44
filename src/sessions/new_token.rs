//! Successor tokens.

use std::time::Duration;

use zeroize::Zeroizing;

use crate::clock::UnixMillis;
use crate::secret::KeyRing;
use crate::session::{SessionKey, Successor, Token};

/// A successor token to set with the response.
pub struct NewToken {
    pub text: Zeroizing<String>,
    pub key: SessionKey,
    pub generation: u32,
    /// SHA-256 of the secret, to check later whether this is still the successor.
    pub hash: [u8; 32],
    pub issued_at: UnixMillis,
    /// Absolute end of the session.
    pub absolute_end: UnixMillis,
}

impl NewToken {
    /// Encodes a successor token with the current signing key.
    pub(crate) fn issue(
        keys: &KeyRing,
        key: SessionKey,
        next: &Successor,
        issued_at: UnixMillis,
        absolute_end: UnixMillis,
    ) -> Option<NewToken> {
        let token = Token::new(keys.signing_key().0, key, next.generation, next.secret);
        let text = token.encode(keys)?;
        let (generation, hash) = (next.generation, token.hash());
        Some(NewToken { text, key, generation, hash, issued_at, absolute_end })
    }

    /// Returns the time to the absolute end of the session.
    pub fn left(&self) -> Duration {
        self.absolute_end.since(self.issued_at)
    }
}

impl std::fmt::Debug for NewToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NewToken({}, generation {})", self.key.id.handle(), self.generation)
    }
}
