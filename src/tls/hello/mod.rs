//! What the first message of a TLS client says of its software: JA4, the client's part (FoxIO, BSD).
//!
//! Invariants:
//! - pure and total: any bytes are a [`Hello`] or none, and what rustls takes for one is one here
//!   (`fuzz/src/hello.rs`). A message that only one of the two understood would be a way past the other
//! - the [`Fingerprint`] of one client is one, however often it comes back: what changes with a ticket,
//!   a protocol or the length of a name is left out (`PASSING`); the order never counts, since browsers
//!   shuffle it

use crate::secret::sha256;
use crate::session::Fingerprint;

/// One TLS client's first message, as far as it tells clients apart. Without GREASE (RFC 8701).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Of `supported_versions` the highest, where it is sent.
    version: u16,
    ciphers: Vec<u16>,
    extensions: Vec<u16>,
    algorithms: Vec<u16>,
    /// The first protocol that the client wants.
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
/// ALPS by its two numbers. Chromium sends it for HTTP/2, and so not for a WebSocket.
const ALPS: [u16; 2] = [17_513, 17_613];

/// Extensions that one client sends at one time and not at another.
const PASSING: [u16; 7] =
    [ALPN, PADDING, SESSION_TICKET, PRE_SHARED_KEY, EARLY_DATA, ALPS[0], ALPS[1]];

impl Hello {
    /// Reads the TLS records that a client begins with. `None` while they are not a whole ClientHello, and
    /// for those that never will be.
    pub fn read(records: &[u8]) -> Option<Hello> {
        Hello::parse(&message(records)?)
    }

    /// What is the same for each connection of one client.
    pub fn fingerprint(&self) -> Fingerprint {
        self.summary(|extension| !PASSING.contains(&extension))
    }

    /// The JA4 that others write, for whoever looks it up in a list of them.
    pub fn ja4(&self) -> String {
        self.summary(|_| true).with_alpn(&self.protocol())
    }

    /// The body of the message (RFC 8446 4.1.2). Without extensions it may end before them.
    fn parse(body: &[u8]) -> Option<Hello> {
        let mut rest = Bytes(body);
        let legacy_version = rest.number()?;
        let _random = rest.take(32)?;
        let _session_id = rest.short()?;
        let ciphers = numbers(rest.long()?)?;
        let _compression = rest.short()?;
        let (version, extensions) = (legacy_version, Vec::new());
        let (algorithms, alpn) = (Vec::new(), Vec::new());
        let mut hello = Hello { version, ciphers, extensions, algorithms, alpn };
        let mut extensions = Bytes(if rest.0.is_empty() { &[] } else { rest.long()? });
        while !extensions.0.is_empty() {
            hello.extend(extensions.number()?, Bytes(extensions.long()?))?;
        }
        rest.0.is_empty().then_some(hello)
    }

    fn extend(&mut self, extension: u16, mut body: Bytes<'_>) -> Option<()> {
        match extension {
            SUPPORTED_VERSIONS => {
                let highest = numbers(body.short()?)?.into_iter().max();
                self.version = highest.unwrap_or(self.version);
            }
            SIGNATURE_ALGORITHMS => self.algorithms = numbers(body.long()?)?,
            ALPN => body.long()?.clone_into(&mut self.alpn),
            _ => {}
        }
        if !is_grease(extension) {
            self.extensions.push(extension);
        }
        Some(())
    }

    fn summary(&self, counts: impl Fn(u16) -> bool) -> Fingerprint {
        let extensions: Vec<u16> = self.extensions.iter().copied().filter(|x| counts(*x)).collect();
        Fingerprint {
            version: short_version(self.version),
            named: extensions.contains(&SERVER_NAME),
            ciphers: count(&self.ciphers),
            extensions: count(&extensions),
            cipher_list: hash(sorted(&self.ciphers), &[]),
            extension_list: hash(sorted(&listed(&extensions)), &self.algorithms),
        }
    }

    /// The first and the last letter of the first protocol, or of its hexadecimal digits.
    fn protocol(&self) -> String {
        let first = Bytes(&self.alpn).short().unwrap_or_default();
        let (Some(begin), Some(end)) = (first.first(), first.last()) else {
            return "00".to_owned();
        };
        if begin.is_ascii_alphanumeric() && end.is_ascii_alphanumeric() {
            return [char::from(*begin), char::from(*end)].iter().collect();
        }
        format!("{:x}{:x}", begin >> 4, end & 0xf)
    }
}

/// The first handshake message, put together over records (RFC 8446 5.1), without its header.
fn message(records: &[u8]) -> Option<Vec<u8>> {
    let (mut rest, mut out) = (Bytes(records), Vec::with_capacity(records.len()));
    loop {
        let [HANDSHAKE, _, _] = *rest.take(3)? else { return None };
        out.extend_from_slice(rest.long()?);
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

/// As a record and as a message call themselves.
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;

/// Bytes still to be read; each way to take some says `None` when there are not enough.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u16> {
        let bytes = self.take(2)?.first_chunk()?;
        Some(u16::from_be_bytes(*bytes))
    }

    /// What follows its length in one byte.
    fn short(&mut self) -> Option<&'a [u8]> {
        let length = *self.take(1)?.first()?;
        self.take(usize::from(length))
    }

    /// What follows its length in two bytes.
    fn long(&mut self) -> Option<&'a [u8]> {
        let length = self.number()?;
        self.take(usize::from(length))
    }
}

/// A list of numbers, without GREASE.
fn numbers(bytes: &[u8]) -> Option<Vec<u16>> {
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

/// Those two are told in the counts already, and change with the host and the protocol.
fn listed(extensions: &[u16]) -> Vec<u16> {
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
    let mut text = hexadecimal(&list);
    if !then.is_empty() {
        text.push('_');
        text.push_str(&hexadecimal(then));
    }
    sha256(text.as_bytes()).first_chunk().copied().unwrap_or_default()
}

fn hexadecimal(list: &[u16]) -> String {
    let digits: Vec<String> = list.iter().map(|number| format!("{number:04x}")).collect();
    digits.join(",")
}

#[cfg(test)]
mod tests;
