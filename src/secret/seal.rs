//! Authenticated encryption of small values that leave the process: records in a store, and the return
//! URL in a login form.
//!
//! AES-256-GCM under a key derived per `subject` (a session ID or a purpose), so random 96-bit nonces
//! stay far from their limit. `binding` is the associated data: a sealed value that was moved, swapped
//! or rolled back to another binding does not open.
//!
//! Layout: `version 1 | key id 1 | nonce 12 | ciphertext | tag 16`. The key ID 0 is the permanent key.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hmac;

use super::keyring::{KeyId, KeyRing};
use super::random_bytes;

const VERSION: u8 = 1;
const NONCE_LENGTH: usize = 12;
const HEADER_LENGTH: usize = 2 + NONCE_LENGTH;

/// No root key has this ID.
const PERMANENT: KeyId = 0;

/// Number of bytes that sealing adds.
pub const OVERHEAD: usize = HEADER_LENGTH + 16;

/// Why a sealed value does not open: it was tampered with, or its key is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    #[error("not a sealed value of a known version")]
    Malformed,
    #[error("sealed with a key that is not in the keys file")]
    UnknownKey,
    #[error("altered, moved, swapped or rolled back")]
    Forged,
}

/// Seals `plain` with the signing key. `subject` selects the derived key; `binding` is authenticated.
pub fn seal(keys: &KeyRing, subject: &[u8], binding: &[u8], plain: &[u8]) -> Vec<u8> {
    let (id, root) = keys.signing_key();
    seal_with((id, root.seal()), subject, binding, plain)
}

/// Seals `plain` with the permanent key, for values that outlive every root key.
pub fn seal_permanently(keys: &KeyRing, subject: &[u8], binding: &[u8], plain: &[u8]) -> Vec<u8> {
    seal_with((PERMANENT, keys.permanent_seal()), subject, binding, plain)
}

fn seal_with(
    (id, key): (KeyId, &hmac::Key),
    subject: &[u8],
    binding: &[u8],
    plain: &[u8],
) -> Vec<u8> {
    let nonce: [u8; NONCE_LENGTH] = random_bytes();
    let mut out = Vec::with_capacity(plain.len() + OVERHEAD);
    out.extend_from_slice(&[VERSION, id]);
    out.extend_from_slice(&nonce);
    let mut text = plain.to_vec();
    #[expect(clippy::expect_used, reason = "GCM refuses only lengths over 64 GiB")]
    cipher(key, subject)
        .seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(binding),
            &mut text,
        )
        .expect("a record is shorter than 64 GiB");
    out.extend_from_slice(&text);
    out
}

/// Opens a value that [`seal`] or [`seal_permanently`] sealed with the same `subject` and `binding`.
pub fn open(
    keys: &KeyRing,
    subject: &[u8],
    binding: &[u8],
    sealed: &[u8],
) -> Result<Vec<u8>, OpenError> {
    if sealed.len() < OVERHEAD || sealed[0] != VERSION {
        return Err(OpenError::Malformed);
    }
    let key = match sealed[1] {
        PERMANENT => keys.permanent_seal(),
        id => keys.key(id).ok_or(OpenError::UnknownKey)?.seal(),
    };
    let nonce = Nonce::try_assume_unique_for_key(&sealed[2..HEADER_LENGTH])
        .map_err(|_| OpenError::Malformed)?;
    let mut text = sealed[HEADER_LENGTH..].to_vec();
    let length = cipher(key, subject)
        .open_in_place(nonce, Aad::from(binding), &mut text)
        .map_err(|_| OpenError::Forged)?
        .len();
    text.truncate(length);
    Ok(text)
}

fn cipher(key: &hmac::Key, subject: &[u8]) -> LessSafeKey {
    let key = hmac::sign(key, subject);
    #[expect(clippy::expect_used, reason = "HMAC-SHA256 is 32 bytes, the length AES-256 takes")]
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.as_ref()).expect("32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_opens_only_with_its_own_subject_and_binding() {
        let keys = KeyRing::generate("now");
        let sealed = seal(&keys, b"session 1", b"generation 1", b"record");
        assert_eq!(
            open(&keys, b"session 1", b"generation 1", &sealed).as_deref(),
            Ok(&b"record"[..])
        );
        assert_eq!(open(&keys, b"session 2", b"generation 1", &sealed), Err(OpenError::Forged));
        assert_eq!(open(&keys, b"session 1", b"generation 0", &sealed), Err(OpenError::Forged));
    }

    #[test]
    fn a_permanently_sealed_value_outlives_every_root_key() {
        let mut keys = KeyRing::generate("now");
        let sealed = seal_permanently(&keys, b"s", b"b", b"record");
        keys.rotate("later").expect("room");
        keys.retire(1).expect("an old key");
        assert_eq!(open(&keys, b"s", b"b", &sealed).as_deref(), Ok(&b"record"[..]));
        assert_eq!(open(&keys, b"s", b"c", &sealed), Err(OpenError::Forged));
        let other = KeyRing::generate("elsewhere");
        assert_eq!(open(&other, b"s", b"b", &sealed), Err(OpenError::Forged));
    }

    #[test]
    fn every_changed_or_missing_byte_is_refused() {
        let keys = KeyRing::generate("now");
        let sealed = seal(&keys, b"s", b"b", b"record");
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(open(&keys, b"s", b"b", &changed).is_err(), "byte {at}");
            assert!(open(&keys, b"s", b"b", &sealed[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn old_keys_open_after_rotation_and_unknown_keys_are_reported() {
        let mut keys = KeyRing::generate("now");
        let sealed = seal(&keys, b"s", b"b", b"record");
        keys.rotate("later").expect("room");
        assert!(open(&keys, b"s", b"b", &sealed).is_ok());
        let newer = seal(&keys, b"s", b"b", b"record");
        assert_eq!(newer[1], 2);
        let other = KeyRing::generate("elsewhere");
        assert_eq!(open(&other, b"s", b"b", &newer), Err(OpenError::UnknownKey));
    }
}
