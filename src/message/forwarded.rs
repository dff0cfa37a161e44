//! Parser for `Forwarded` (RFC 7239) and `X-Forwarded-For`. Trust is decided elsewhere.
//!
//! A client may start either header, and trusted proxies append to it. A header that is not fully
//! valid is rejected, never read in part: an unclosed quote from the client would swallow the entry
//! of the next proxy.

use std::net::IpAddr;

use http::header::{self, HeaderMap, HeaderName};

/// Maximum number of hops and bytes of either header (RFC 7239 8.1).
const MAX_HOPS: usize = 32;
const MAX_BYTES: usize = 4 * 1024;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Source address that one proxy reported; `None` if it is no address (`unknown`, an obfuscated
/// name, empty).
pub type Hop = Option<IpAddr>;

/// Reason for rejecting the headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    #[error("Forwarded or X-Forwarded-For has more than 32 hops or 4 KiB")]
    TooLong,
    #[error("Forwarded is malformed")]
    Malformed,
    #[error("Forwarded and X-Forwarded-For name different clients")]
    Disagree,
}

/// Whether another proxy forwarded the request, as its headers state. Such a proxy may send the requests
/// of several clients on one connection.
pub fn is_from_proxy(headers: &HeaderMap) -> bool {
    let names = [header::VIA, header::FORWARDED, X_FORWARDED_FOR];
    names.iter().any(|name| headers.contains_key(name))
}

/// Returns the hops of each header that is present and `is_read`, from the first to the last.
pub fn chains(
    headers: &HeaderMap,
    is_read: impl Fn(&HeaderName) -> bool,
) -> Result<Vec<Vec<Hop>>, ChainError> {
    let mut chains = Vec::new();
    let parsers = [
        (header::FORWARDED, parse_forwarded as ParseLine),
        (X_FORWARDED_FOR, parse_x_forwarded_for),
    ];
    for (name, read) in parsers.into_iter().filter(|(name, _)| is_read(name)) {
        let lines: Vec<&[u8]> =
            headers.get_all(&name).iter().map(http::HeaderValue::as_bytes).collect();
        if !lines.is_empty() {
            chains.push(chain(&lines, read)?);
        }
    }
    Ok(chains)
}

type ParseLine = fn(&[u8]) -> Result<Vec<Hop>, ChainError>;

/// Several headers form one list (RFC 9110 5.3), and each is complete by itself.
fn chain(lines: &[&[u8]], read: ParseLine) -> Result<Vec<Hop>, ChainError> {
    if lines.iter().map(|line| line.len()).sum::<usize>() > MAX_BYTES {
        return Err(ChainError::TooLong);
    }
    let hops = lines.iter().map(|line| read(line)).collect::<Result<Vec<_>, _>>()?.concat();
    if hops.len() > MAX_HOPS { Err(ChainError::TooLong) } else { Ok(hops) }
}

#[expect(clippy::unnecessary_wraps, reason = "same signature as the other parser, which can fail")]
fn parse_x_forwarded_for(line: &[u8]) -> Result<Vec<Hop>, ChainError> {
    Ok(line.split(|byte| *byte == b',').map(|hop| parse_node(hop.trim_ascii())).collect())
}

fn parse_forwarded(line: &[u8]) -> Result<Vec<Hop>, ChainError> {
    let mut reader = ForwardedReader { rest: line };
    let mut hops = Vec::new();
    loop {
        let (hop, end) = reader.element()?;
        hops.push(hop);
        if end == ElementEnd::EndOfValue {
            return Ok(hops);
        }
    }
}

/// End of a list element.
#[derive(PartialEq, Eq)]
enum ElementEnd {
    Comma,
    EndOfValue,
}

/// RFC 7239 4: `for=192.0.2.1;proto=https, for="[2001:db8::1]:4711"`.
struct ForwardedReader<'a> {
    rest: &'a [u8],
}

impl ForwardedReader<'_> {
    fn element(&mut self) -> Result<(Hop, ElementEnd), ChainError> {
        let mut from: Option<Vec<u8>> = None;
        loop {
            let name = self.take(is_token).to_ascii_lowercase();
            if !name.is_empty() {
                let value = self.value()?;
                let is_second = name == b"for" && from.is_some();
                if is_second {
                    return Err(ChainError::Malformed);
                }
                if name == b"for" {
                    from = Some(value);
                }
            }
            match self.next_after_whitespace() {
                Some(b';') => self.skip_whitespace(),
                Some(b',') => {
                    self.skip_whitespace();
                    return Ok((from.and_then(|from| parse_node(&from)), ElementEnd::Comma));
                }
                None => {
                    return Ok((from.and_then(|from| parse_node(&from)), ElementEnd::EndOfValue));
                }
                Some(_) => return Err(ChainError::Malformed),
            }
        }
    }

    fn value(&mut self) -> Result<Vec<u8>, ChainError> {
        if self.next() != Some(b'=') {
            return Err(ChainError::Malformed);
        }
        if self.rest.first() == Some(&b'"') {
            return self.quoted();
        }
        // Some proxies omit the quotes that a port or an IPv6 address requires.
        Ok(self.take(|byte| is_token(byte) || matches!(byte, b':' | b'[' | b']')).to_vec())
    }

    fn quoted(&mut self) -> Result<Vec<u8>, ChainError> {
        let mut value = Vec::new();
        self.next();
        loop {
            match self.next().ok_or(ChainError::Malformed)? {
                b'"' => return Ok(value),
                b'\\' => value.push(self.next().ok_or(ChainError::Malformed)?),
                byte => value.push(byte),
            }
        }
    }

    fn take(&mut self, fits: impl Fn(u8) -> bool) -> &[u8] {
        let length = self.rest.iter().take_while(|byte| fits(**byte)).count();
        let (taken, rest) = self.rest.split_at(length);
        self.rest = rest;
        taken
    }

    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    fn skip_whitespace(&mut self) {
        self.take(|byte| matches!(byte, b' ' | b'\t'));
    }

    fn next_after_whitespace(&mut self) -> Option<u8> {
        self.skip_whitespace();
        self.next()
    }
}

/// RFC 9110 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// RFC 7239 6: an address, in brackets if it is IPv6 with a port, and an optional port.
fn parse_node(bytes: &[u8]) -> Hop {
    let text = std::str::from_utf8(bytes).ok()?;
    let address = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((inside, "")) => inside.parse().map(IpAddr::V6).ok()?,
        Some((inside, port)) if is_port(port.strip_prefix(':')?) => {
            inside.parse().map(IpAddr::V6).ok()?
        }
        Some(_) => return None,
        None => parse_bare_address(text)?,
    };
    Some(address.to_canonical())
}

/// An address without brackets; only IPv4 may have a port.
fn parse_bare_address(text: &str) -> Option<IpAddr> {
    match text.split_once(':') {
        Some((address, port)) if is_port(port) && address.contains('.') => {
            address.parse().map(IpAddr::V4).ok()
        }
        Some(_) | None => text.parse().ok(),
    }
}

/// Digits or an obfuscated name.
fn is_port(text: &str) -> bool {
    let is_hidden = text.starts_with('_') && text.len() > 1;
    let is_number = (1..=5).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    is_hidden || is_number
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn read(name: &'static str, lines: &[&str]) -> Result<Vec<String>, ChainError> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(name, HeaderValue::from_str(line).expect("a value"));
        }
        let hops = chains(&headers, |_| true)?.concat();
        Ok(hops.iter().map(|hop| hop.map_or("-".to_owned(), |hop| hop.to_string())).collect())
    }

    /// RFC 7239 6.
    #[test]
    fn a_node_is_an_address_with_an_optional_port_or_unknown() {
        for (value, hop) in [
            ("192.0.2.1", "192.0.2.1"),
            ("\"192.0.2.1:4711\"", "192.0.2.1"),
            ("192.0.2.1:4711", "192.0.2.1"),
            ("\"[2001:db8::1]\"", "2001:db8::1"),
            ("\"[2001:DB8::1]:4711\"", "2001:db8::1"),
            ("\"[2001:db8::1]:_port\"", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("\"2001:db8::1\"", "2001:db8::1"),
            ("\"[::ffff:192.0.2.1]\"", "192.0.2.1"),
            ("\"\\1\\9\\2.0.2.1\"", "192.0.2.1"),
            ("unknown", "-"),
            ("_hidden", "-"),
            ("\"_SEVKISEK:80\"", "-"),
            ("\"[192.0.2.1]\"", "-"),
            ("\"192.0.2.1:x\"", "-"),
            ("\"192.0.2.1:123456\"", "-"),
            ("\"[2001:db8::1]x\"", "-"),
            ("\"192.0.2.1, 192.0.2.2\"", "-"),
            ("", "-"),
        ] {
            assert_eq!(read("forwarded", &[&format!("for={value}")]), Ok(vec![hop.to_owned()]));
        }
    }

    /// RFC 7239 4.
    #[test]
    fn elements_and_headers_form_one_chain() {
        let hops = read(
            "forwarded",
            &["For=192.0.2.1;proto=http, host=\"a, for=evil\"", "by=x; FOR=\"[2001:db8::1]\" ,"],
        );
        assert_eq!(hops.expect("well made"), ["192.0.2.1", "-", "2001:db8::1", "-"]);
    }

    /// RFC 7239 8.1.
    #[test]
    fn malformed_headers_are_rejected_as_a_whole() {
        for line in [
            "for=\"192.0.2.1",
            "for=\"x, for=192.0.2.1",
            "for=\"x, for=\"[2001:db8::1]\"",
            "for=\"x\\",
            "for=192.0.2.1;for=192.0.2.2",
            "for 192.0.2.1",
            "192.0.2.1",
            "for=192.0.2.1 192.0.2.2",
            "for=\"192.0.2.1\"x",
            "for=192.0.2.1\"",
            "=x",
            "for=\u{e9}",
        ] {
            assert_eq!(read("forwarded", &[line]), Err(ChainError::Malformed), "{line}");
        }
    }

    /// RFC 7239 8.1.
    #[test]
    fn a_chain_that_is_too_long_is_rejected_not_truncated() {
        for (name, hop) in [("forwarded", "for=192.0.2.1"), ("x-forwarded-for", "192.0.2.1")] {
            assert_eq!(read(name, &[hop; MAX_HOPS]).map(|hops| hops.len()), Ok(MAX_HOPS));
            assert_eq!(read(name, &[hop; MAX_HOPS + 1]), Err(ChainError::TooLong));
            let line = vec![hop; MAX_HOPS + 1].join(", ");
            assert_eq!(read(name, &[&line]), Err(ChainError::TooLong));
            let long = format!("{hop},{}", " ".repeat(MAX_BYTES));
            assert_eq!(read(name, &[&long]), Err(ChainError::TooLong));
        }
    }
}
