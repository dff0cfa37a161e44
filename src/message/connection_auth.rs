//! Recognises authentication of a connection instead of a request: NTLM and Kerberos (RFC 4559).
//!
//! After a successful handshake, such an upstream treats every request on the connection as sent by
//! the same user. RFC 9110 3.3 forbids it, but IIS and others do it. The connection must therefore
//! never carry a request of another client.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::header_lines::HeaderLines;

/// Schemes that authenticate a connection, in lower case.
const SCHEMES: [&[u8]; 3] = [b"ntlm", b"negotiate", b"kerberos"];

/// Reports of IIS whether the connection stays authenticated.
const PERSISTENT_AUTH: HeaderName = HeaderName::from_static("persistent-auth");

/// Whether the request may authenticate the connection on which it is sent.
pub fn is_in_request(headers: &HeaderMap) -> bool {
    // The lookup alone, for the many requests without it.
    headers.contains_key(header::AUTHORIZATION)
        && name_scheme(headers.get_all(header::AUTHORIZATION).iter())
}

/// As [`is_in_request`], for a request on its way to an upstream.
pub fn is_in_lines(headers: &HeaderLines) -> bool {
    name_scheme(headers.get_all(&header::AUTHORIZATION))
}

/// Whether the response reveals that its connection is authenticated, or offers it.
pub fn is_in_response(headers: &HeaderMap) -> bool {
    headers.contains_key(PERSISTENT_AUTH)
        || name_scheme(headers.get_all(header::WWW_AUTHENTICATE).iter())
        || name_scheme(headers.get_all(header::PROXY_AUTHENTICATE).iter())
}

/// Whether any value contains a scheme at any position. Challenges are lists whose quoted strings may
/// contain commas; a wrong match costs only a connection.
fn name_scheme<'a>(mut values: impl Iterator<Item = &'a HeaderValue>) -> bool {
    values.any(|value| {
        let words = value.as_bytes().split(|byte| !byte.is_ascii_alphanumeric());
        let mut words = words.filter(|word| !word.is_empty());
        words.any(|word| SCHEMES.iter().any(|scheme| word.eq_ignore_ascii_case(scheme)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let values = lines
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        values.fold(HeaderMap::new(), |mut headers, (name, value)| {
            headers.append(name, value);
            headers
        })
    }

    #[test]
    fn credentials_of_a_connection_are_recognised_in_any_case() {
        for value in ["NTLM TlRMTVNTUAAB", "ntlm x", "Negotiate YII=", "NEGOTIATE", " Kerberos a"] {
            assert!(is_in_request(&with(&[("authorization", value)])), "{value}");
        }
        let second = [("authorization", "Basic YTpi"), ("authorization", "NTLM x")];
        assert!(is_in_request(&with(&second)));
        for value in ["Basic bnRsbQ==", "Bearer xntlmx", "Digest username=\"a\"", ""] {
            assert!(!is_in_request(&with(&[("authorization", value)])), "{value}");
        }
    }

    #[test]
    fn challenges_are_recognised_in_lists_and_in_several_lines() {
        for lines in [
            [("www-authenticate", "Basic realm=\"a, b\", NTLM"), ("x-a", "1")],
            [("www-authenticate", "Basic realm=\"a\""), ("www-authenticate", "negotiate")],
            [("proxy-authenticate", "Negotiate oYG2"), ("x-a", "1")],
            [("persistent-auth", "true"), ("x-a", "1")],
        ] {
            assert!(is_in_response(&with(&lines)), "{lines:?}");
        }
        assert!(!is_in_response(&with(&[("www-authenticate", "Basic realm=\"a\"")])));
    }
}
