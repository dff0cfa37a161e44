//! Keys, random numbers and sealing. The only I/O is the operating system's random number generator.
//!
//! | module | content |
//! | --- | --- |
//! | [`assertion_key`] | keys that sign assertions for upstreams |
//! | [`keyring`] | the keys file: one permanent tag key, and several root keys |
//! | [`seal`] | authenticated encryption of values in a store or a form |
//! | [`signing`] | signatures of webhook messages |

pub mod assertion_key;
pub mod keyring;
pub mod seal;
pub mod signing;

pub use assertion_key::{AssertionKey, Jwk};
pub use keyring::{KeyId, KeyRing, KeyRingError, LoginKey};
pub use signing::{SigningSecret, SigningSecretError};

use rand::TryRng;
use rand::rngs::SysRng;

/// Returns `N` bytes from the operating system's random number generator, unbuffered.
///
/// # Panics
/// If the operating system returns an error, because no safe token can be created then. The panic
/// aborts only the request that called this.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    #[expect(clippy::expect_used, reason = "without random numbers nothing safe can follow")]
    SysRng.try_fill_bytes(&mut bytes).expect("the operating system returned no random bytes");
    bytes
}

/// Compares two byte strings in a time that depends only on their lengths.
pub fn constant_time_eq(a: &[u8], b: &[u8]) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(a, b).is_ok()
}

/// Returns the SHA-256 of `bytes`.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    let mut out = [0; 32];
    out.copy_from_slice(digest.as_ref());
    out
}
