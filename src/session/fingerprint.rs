//! The TLS fingerprint of a client.

use std::fmt;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

/// A JA4 fingerprint without the parts that vary between handshakes of one client.
///
/// The parts are kept instead of a hash of them, so the audit log shows which part differs.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsFingerprint {
    /// Protocol version: 13, 12, 11, 10 for TLS, 3 and 2 for SSL, 0 for anything else.
    pub version: u8,
    /// Whether the handshake carries a server name.
    pub has_sni: bool,
    /// Number of cipher suites, at most 99.
    pub cipher_count: u8,
    /// Number of extensions, at most 99.
    pub extension_count: u8,
    /// First bytes of the SHA-256 of the cipher list; zeros for an empty list.
    pub cipher_hash: [u8; 6],
    /// First bytes of the SHA-256 of the extension list; zeros for an empty list.
    pub extension_hash: [u8; 6],
}

impl TlsFingerprint {
    /// Formats the fingerprint as JA4. `alpn` is the two-letter code of the client's first protocol.
    pub fn to_ja4(&self, alpn: &str) -> String {
        let version = match self.version {
            old @ (2 | 3) => format!("s{old}"),
            version => format!("{version:02}"),
        };
        let has_sni = if self.has_sni { 'd' } else { 'i' };
        let hashes = [self.cipher_hash, self.extension_hash].map(|list| HEXLOWER.encode(&list));
        let [cipher_count, extension_count] = hashes;
        let counts = format!("{:02}{:02}", self.cipher_count, self.extension_count);
        format!("t{version}{has_sni}{counts}{alpn}_{cipher_count}_{extension_count}")
    }
}

impl fmt::Display for TlsFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_ja4("00"))
    }
}

impl fmt::Debug for TlsFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
