//! Response headers of an upstream cannot set or delete the gateway's cookies.

use doorward::message::cookies::CookieSettings;
use doorward::message::{CookieNames, response_headers};
use http::header::{self, HeaderMap};

use super::request_heads::fields;

/// Each input line is one header.
pub fn response_headers(bytes: &[u8]) {
    let mut headers = fields(bytes);
    let foreign: Vec<_> = set_cookies(&headers).filter(|line| !sets_own_cookie(line)).collect();
    let names = CookieNames::new(CookieSettings {
        domain: Some("example.com".to_owned()),
        ..CookieSettings::default()
    });
    let nominated = nominates(&headers, "set-cookie");
    response_headers::sanitize(&mut headers, &names);
    for line in set_cookies(&headers) {
        assert!(!sets_own_cookie(&line), "{:?}", String::from_utf8_lossy(&line));
    }
    if !nominated {
        let kept: Vec<_> = set_cookies(&headers).collect();
        assert!(
            foreign.iter().all(|line| kept.contains(line)),
            "the upstream's own cookies are kept"
        );
    }
    for value in headers.get_all("clear-site-data") {
        let text = String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase();
        assert!(!text.contains("cookies") && !text.contains('*'), "{text:?}");
    }
    for name in ["connection", "transfer-encoding", "upgrade", "keep-alive", "trailer"] {
        assert!(!headers.contains_key(name), "{name}");
    }
    response_headers::sanitize_trailers(&mut headers);
    assert!(!headers.contains_key(header::SET_COOKIE), "no cookie in trailers");
}

fn set_cookies(headers: &HeaderMap) -> impl Iterator<Item = Vec<u8>> {
    headers.get_all(header::SET_COOKIE).into_iter().map(|value| value.as_bytes().to_vec())
}

fn nominates(headers: &HeaderMap, name: &str) -> bool {
    let lines = headers.get_all(header::CONNECTION).into_iter();
    let mut tokens = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    tokens.any(|token| token.trim_ascii().eq_ignore_ascii_case(name.as_bytes()))
}

/// Whether a browser would store or send the cookie under one of the gateway's names (RFC 6265bis
/// 5.6).
fn sets_own_cookie(line: &[u8]) -> bool {
    let pair = line.split(|byte| *byte == b';').next().unwrap_or_default();
    let (name, value) = match pair.iter().position(|byte| *byte == b'=') {
        Some(at) => (pair[..at].trim_ascii(), pair[at + 1..].trim_ascii()),
        None => (&b""[..], pair.trim_ascii()),
    };
    let sent_as = if name.is_empty() { value } else { name };
    let sent_as = sent_as.split(|byte| *byte == b'=').next().unwrap_or_default();
    let sent_as = sent_as.trim_ascii().to_ascii_lowercase();
    [&b"__host-doorward"[..], b"__secure-doorward", b"__host-doorward-login"]
        .contains(&sent_as.as_slice())
}
