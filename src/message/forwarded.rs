//! What proxies say about the way that a request came: `Forwarded` (RFC 7239) and `X-Forwarded-For`.
//! Whether anybody believes them is decided elsewhere.
//!
//! A client may begin either field, and the proxies behind it add to its end. So what cannot be read as
//! a whole is refused and never read in part: a quote that a client opens would swallow the word of the
//! proxy that came after.

use std::net::IpAddr;

use http::header::{self, HeaderMap, HeaderName};

/// The most hops, and the most bytes, of either field; more of them is somebody's game (RFC 7239 8.1).
const HOPS: usize = 32;
const BYTES: usize = 4 * 1024;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Where one proxy says that the request came from; `None` for what is no address: `unknown`, a hidden
/// name, nothing.
pub type Hop = Option<IpAddr>;

/// Why the way cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    #[error("Forwarded or X-Forwarded-For has more than 32 hops or 4 KiB")]
    TooLong,
    #[error("Forwarded cannot be read")]
    Malformed,
    #[error("Forwarded and X-Forwarded-For name different clients")]
    Disagree,
}

/// The way as each field tells it that is there, from the first hop to the last.
pub fn chains(headers: &HeaderMap) -> Result<Vec<Vec<Hop>>, ChainError> {
    let mut chains = Vec::new();
    for (name, read) in [(header::FORWARDED, forwarded as Read), (X_FORWARDED_FOR, x_forwarded_for)]
    {
        let lines: Vec<&[u8]> =
            headers.get_all(&name).iter().map(http::HeaderValue::as_bytes).collect();
        if !lines.is_empty() {
            chains.push(chain(&lines, read)?);
        }
    }
    Ok(chains)
}

type Read = fn(&[u8]) -> Result<Vec<Hop>, ChainError>;

/// Several lines are one list (RFC 9110 5.3), and each is whole by itself.
fn chain(lines: &[&[u8]], read: Read) -> Result<Vec<Hop>, ChainError> {
    if lines.iter().map(|line| line.len()).sum::<usize>() > BYTES {
        return Err(ChainError::TooLong);
    }
    let hops = lines.iter().map(|line| read(line)).collect::<Result<Vec<_>, _>>()?.concat();
    if hops.len() > HOPS { Err(ChainError::TooLong) } else { Ok(hops) }
}

#[expect(clippy::unnecessary_wraps, reason = "as the other field's, which can be malformed")]
fn x_forwarded_for(line: &[u8]) -> Result<Vec<Hop>, ChainError> {
    Ok(line.split(|byte| *byte == b',').map(|hop| node(hop.trim_ascii())).collect())
}

fn forwarded(line: &[u8]) -> Result<Vec<Hop>, ChainError> {
    let mut reader = Reader { rest: line };
    let mut hops = Vec::new();
    loop {
        let (hop, end) = reader.element()?;
        hops.push(hop);
        if end == End::Line {
            return Ok(hops);
        }
    }
}

/// What an element of the list ends with.
#[derive(PartialEq, Eq)]
enum End {
    Comma,
    Line,
}

/// RFC 7239 4: `for=192.0.2.1;proto=https, for="[2001:db8::1]:4711"`.
struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn element(&mut self) -> Result<(Hop, End), ChainError> {
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
            match self.next_after_blanks() {
                Some(b';') => self.skip_blanks(),
                Some(b',') => {
                    self.skip_blanks();
                    return Ok((from.and_then(|from| node(&from)), End::Comma));
                }
                None => return Ok((from.and_then(|from| node(&from)), End::Line)),
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
        // Some write addresses with a port, or IPv6, without the quotes that they need.
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

    fn skip_blanks(&mut self) {
        self.take(|byte| matches!(byte, b' ' | b'\t'));
    }

    fn next_after_blanks(&mut self) -> Option<u8> {
        self.skip_blanks();
        self.next()
    }
}

/// RFC 9110 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// RFC 7239 6: an address, in brackets where it is IPv6 and has a port, and perhaps a port.
fn node(bytes: &[u8]) -> Hop {
    let text = std::str::from_utf8(bytes).ok()?;
    let address = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((inside, "")) => inside.parse().map(IpAddr::V6).ok()?,
        Some((inside, port)) if is_port(port.strip_prefix(':')?) => {
            inside.parse().map(IpAddr::V6).ok()?
        }
        Some(_) => return None,
        None => bare(text)?,
    };
    Some(address.to_canonical())
}

/// An address without brackets; a port goes with IPv4 alone.
fn bare(text: &str) -> Option<IpAddr> {
    match text.split_once(':') {
        Some((address, port)) if is_port(port) && address.contains('.') => {
            address.parse().map(IpAddr::V4).ok()
        }
        Some(_) | None => text.parse().ok(),
    }
}

/// Digits, or a hidden name.
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
        let hops = chains(&headers)?.concat();
        Ok(hops.iter().map(|hop| hop.map_or("-".to_owned(), |hop| hop.to_string())).collect())
    }

    #[test]
    fn rfc_7239_6_a_node_is_an_address_with_or_without_a_port_or_nothing_to_go_by() {
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

    #[test]
    fn rfc_7239_4_elements_and_lines_are_one_way() {
        let hops = read(
            "forwarded",
            &["For=192.0.2.1;proto=http, host=\"a, for=evil\"", "by=x; FOR=\"[2001:db8::1]\" ,"],
        );
        assert_eq!(hops.expect("well made"), ["192.0.2.1", "-", "2001:db8::1", "-"]);
    }

    #[test]
    fn rfc_7239_8_1_what_cannot_be_read_is_refused_and_never_read_in_part() {
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

    #[test]
    fn rfc_7239_8_1_a_way_that_is_too_long_is_refused_and_not_cut() {
        for (name, hop) in [("forwarded", "for=192.0.2.1"), ("x-forwarded-for", "192.0.2.1")] {
            assert_eq!(read(name, &[hop; HOPS]).map(|hops| hops.len()), Ok(HOPS));
            assert_eq!(read(name, &[hop; HOPS + 1]), Err(ChainError::TooLong));
            let line = vec![hop; HOPS + 1].join(", ");
            assert_eq!(read(name, &[&line]), Err(ChainError::TooLong));
            let long = format!("{hop},{}", " ".repeat(BYTES));
            assert_eq!(read(name, &[&long]), Err(ChainError::TooLong));
        }
    }
}
