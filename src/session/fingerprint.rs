//! What a client's TLS handshake looks like.

use std::fmt;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

/// A JA4 without what one client says at one time and not at another. It is the text itself and no hash
/// of it, so that whoever reads the audit log sees both sides of a difference.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// 13, 12, 11, 10 for TLS, 3 and 2 for SSL, 0 for anything else.
    pub version: u8,
    /// Whether the handshake names a host.
    pub named: bool,
    /// How many cipher suites and extensions, 99 at most.
    pub ciphers: u8,
    pub extensions: u8,
    /// How the SHA-256 of each list begins; zeros for an empty one.
    pub cipher_list: [u8; 6],
    pub extension_list: [u8; 6],
}

impl Fingerprint {
    /// As JA4 is written: `alpn` are the two letters for the first protocol that the client wants.
    pub fn with_alpn(&self, alpn: &str) -> String {
        let version = match self.version {
            old @ (2 | 3) => format!("s{old}"),
            version => format!("{version:02}"),
        };
        let named = if self.named { 'd' } else { 'i' };
        let hashes = [self.cipher_list, self.extension_list].map(|list| HEXLOWER.encode(&list));
        let [ciphers, extensions] = hashes;
        let counts = format!("{:02}{:02}", self.ciphers, self.extensions);
        format!("t{version}{named}{counts}{alpn}_{ciphers}_{extensions}")
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with_alpn("00"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
