//! The TLS fingerprint of a client: JA4 of its ClientHello (FoxIO, BSD licence).
//!
//! Invariants:
//! - Pure and total: any bytes are a [`Hello`] or `None`. Every ClientHello that rustls accepts is a [`Hello`]
//!   (checked by the fuzz target `hello`); otherwise a client could evade the fingerprint.
//! - A client has the same [`TlsFingerprint`] on every connection. Extensions that depend on a ticket, the
//!   protocol or the length of a name do not count (`UNSTABLE_EXTENSIONS`), and neither does the order,
//!   because browsers shuffle it.

use crate::secret::sha256;
use crate::session::TlsFingerprint;

/// The parts of a ClientHello that differ between TLS implementations, without GREASE (RFC 8701).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The highest version of `supported_versions`, or else the legacy version.
    version: u16,
    ciphers: Vec<u16>,
    extensions: Vec<u16>,
    algorithms: Vec<u16>,
    /// The body of the ALPN extension.
    alpn: Vec<u8>,
}

const SERVER_NAME: u16 = 0;
const SIGNATURE_ALGORITHMS: u16 = 13;
const ALPN: u16 = 16;
const PADDING: u16 = 21;
const SESSION_TICKET: u16 = 35;
const PRE_SHARED_KEY: u16 = 41;
const EARLY_DATA: u16 = 42;
const SUPPORTED_VERSIONS: u16 = 43;
/// ALPS, which has two code points. Chromium sends it for HTTP/2, but not for a WebSocket.
const ALPS: [u16; 2] = [17_513, 17_613];

/// Extensions that a client sends on some connections only.
const UNSTABLE_EXTENSIONS: [u16; 7] =
    [ALPN, PADDING, SESSION_TICKET, PRE_SHARED_KEY, EARLY_DATA, ALPS[0], ALPS[1]];

impl Hello {
    /// Parses the TLS records of a ClientHello. `None` if they are incomplete or not a ClientHello.
    pub fn read(records: &[u8]) -> Option<Hello> {
        Hello::parse(&message(records)?)
    }

    /// Returns the fingerprint, which is the same for every connection of a client.
    pub fn fingerprint(&self) -> TlsFingerprint {
        self.summary(|extension| !UNSTABLE_EXTENSIONS.contains(&extension))
    }

    /// Returns the standard JA4, for a search in public lists.
    pub fn ja4(&self) -> String {
        self.summary(|_| true).to_ja4(&self.protocol())
    }

    /// Parses the body of the message (RFC 8446, section 4.1.2). The extensions are optional.
    fn parse(body: &[u8]) -> Option<Hello> {
        let mut rest = ByteReader(body);
        let legacy_version = rest.u16()?;
        let _random = rest.take(32)?;
        let _session_id = rest.prefixed_u8()?;
        let ciphers = u16_list(rest.prefixed_u16()?)?;
        let _compression = rest.prefixed_u8()?;
        let (version, extensions) = (legacy_version, Vec::new());
        let (algorithms, alpn) = (Vec::new(), Vec::new());
        let mut hello = Hello { version, ciphers, extensions, algorithms, alpn };
        let mut extensions = ByteReader(if rest.0.is_empty() { &[] } else { rest.prefixed_u16()? });
        while !extensions.0.is_empty() {
            hello.extend(extensions.u16()?, ByteReader(extensions.prefixed_u16()?))?;
        }
        rest.0.is_empty().then_some(hello)
    }

    fn extend(&mut self, extension: u16, mut body: ByteReader<'_>) -> Option<()> {
        match extension {
            SUPPORTED_VERSIONS => {
                let highest = u16_list(body.prefixed_u8()?)?.into_iter().max();
                self.version = highest.unwrap_or(self.version);
            }
            SIGNATURE_ALGORITHMS => self.algorithms = u16_list(body.prefixed_u16()?)?,
            ALPN => body.prefixed_u16()?.clone_into(&mut self.alpn),
            _ => {}
        }
        if !is_grease(extension) {
            self.extensions.push(extension);
        }
        Some(())
    }

    fn summary(&self, counts: impl Fn(u16) -> bool) -> TlsFingerprint {
        let extensions: Vec<u16> = self.extensions.iter().copied().filter(|x| counts(*x)).collect();
        TlsFingerprint {
            version: short_version(self.version),
            has_sni: extensions.contains(&SERVER_NAME),
            cipher_count: count(&self.ciphers),
            extension_count: count(&extensions),
            cipher_hash: hash(sorted(&self.ciphers), &[]),
            extension_hash: hash(sorted(&without_sni_and_alpn(&extensions)), &self.algorithms),
        }
    }

    /// Returns the first and the last letter of the first ALPN protocol, or of its hexadecimal digits.
    fn protocol(&self) -> String {
        let first = ByteReader(&self.alpn).prefixed_u8().unwrap_or_default();
        let (Some(begin), Some(end)) = (first.first(), first.last()) else {
            return "00".to_owned();
        };
        if begin.is_ascii_alphanumeric() && end.is_ascii_alphanumeric() {
            return [char::from(*begin), char::from(*end)].iter().collect();
        }
        format!("{:x}{:x}", begin >> 4, end & 0xf)
    }
}

/// Joins the records of the first handshake message (RFC 8446, section 5.1), without its header.
fn message(records: &[u8]) -> Option<Vec<u8>> {
    let (mut rest, mut out) = (ByteReader(records), Vec::with_capacity(records.len()));
    loop {
        let [HANDSHAKE, _, _] = *rest.take(3)? else { return None };
        out.extend_from_slice(rest.prefixed_u16()?);
        match out.as_slice() {
            [CLIENT_HELLO, a, b, c, body @ ..] => {
                let length = usize::try_from(u32::from_be_bytes([0, *a, *b, *c])).ok()?;
                if let Some(body) = body.get(..length) {
                    return Some(body.to_vec());
                }
            }
            [CLIENT_HELLO, ..] | [] => {}
            [..] => return None,
        }
    }
}

/// Content type of the record, and type of the handshake message.
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;

/// A reader of bytes. Each method returns `None` if there are too few.
struct ByteReader<'a>(&'a [u8]);

impl<'a> ByteReader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        let bytes = self.take(2)?.first_chunk()?;
        Some(u16::from_be_bytes(*bytes))
    }

    /// Reads bytes with a length prefix of one byte.
    fn prefixed_u8(&mut self) -> Option<&'a [u8]> {
        let length = *self.take(1)?.first()?;
        self.take(usize::from(length))
    }

    /// Reads bytes with a length prefix of two bytes.
    fn prefixed_u16(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }
}

/// Parses a list of numbers and removes GREASE.
fn u16_list(bytes: &[u8]) -> Option<Vec<u16>> {
    let (pairs, []) = bytes.as_chunks::<2>() else { return None };
    let numbers = pairs.iter().map(|pair| u16::from_be_bytes(*pair));
    Some(numbers.filter(|number| !is_grease(*number)).collect())
}

/// 0x0a0a, 0x1a1a … 0xfafa.
fn is_grease(number: u16) -> bool {
    let [high, low] = number.to_be_bytes();
    high == low && low & 0x0f == 0x0a
}

fn short_version(version: u16) -> u8 {
    match version {
        0x0304 => 13,
        0x0303 => 12,
        0x0302 => 11,
        0x0301 => 10,
        0x0300 => 3,
        0x0002 => 2,
        _ => 0,
    }
}

fn count<T>(list: &[T]) -> u8 {
    u8::try_from(list.len()).unwrap_or(u8::MAX).min(99)
}

/// Removes SNI and ALPN. JA4 has a field for each, and they depend on the host and the protocol.
fn without_sni_and_alpn(extensions: &[u16]) -> Vec<u16> {
    extensions
        .iter()
        .copied()
        .filter(|extension| ![SERVER_NAME, ALPN].contains(extension))
        .collect()
}

fn sorted(list: &[u16]) -> Vec<u16> {
    let mut list = list.to_vec();
    list.sort_unstable();
    list
}

fn hash(list: Vec<u16>, then: &[u16]) -> [u8; 6] {
    if list.is_empty() {
        return [0; 6];
    }
    let mut text = hex_list(&list);
    if !then.is_empty() {
        text.push('_');
        text.push_str(&hex_list(then));
    }
    sha256(text.as_bytes()).first_chunk().copied().unwrap_or_default()
}

fn hex_list(list: &[u16]) -> String {
    let digits: Vec<String> = list.iter().map(|number| format!("{number:04x}")).collect();
    digits.join(",")
}

#[cfg(test)]
mod tests;
