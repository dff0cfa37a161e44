//! Keys, random numbers and the sealing of records. No I/O but the operating system's generator.
//!
//! | module | what |
//! | --- | --- |
//! | [`keyring`] | the keys file: one tag key for the life of the installation, several root keys |
//! | [`seal`] | authenticated encryption of what lies in a store or in a form |
//! | [`signing`] | signatures over what is sent elsewhere |

pub mod keyring;
pub mod seal;
pub mod signing;

pub use keyring::{KeyId, KeyRing, KeyRingError};
pub use signing::{SigningSecret, SigningSecretError};

use rand::TryRng;
use rand::rngs::SysRng;

/// `N` bytes from the operating system's generator; nothing seeded, nothing buffered.
///
/// # Panics
/// When the operating system has no random numbers: no token made then could be trusted. The panic
/// ends the one request that asked.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    #[expect(clippy::expect_used, reason = "without random numbers nothing safe can follow")]
    SysRng.try_fill_bytes(&mut bytes).expect("the operating system gave no random numbers");
    bytes
}

/// Whether two byte strings are equal, in a time that depends on their lengths alone.
pub fn equal_in_constant_time(a: &[u8], b: &[u8]) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(a, b).is_ok()
}

/// SHA-256 of `bytes`.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    let mut out = [0; 32];
    out.copy_from_slice(digest.as_ref());
    out
}
