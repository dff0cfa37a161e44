//! `Cookie` headers: the gateway's cookies are found and never forwarded, others are forwarded
//! unchanged.

use doorward::message::{CookieLookup, CookieNames, HeaderLines, cookies};
use http::header::{self, HeaderMap, HeaderValue};

const OURS: [&[u8]; 3] = [b"__host-doorward", b"__secure-doorward", b"__host-doorward-login"];

/// Each input line is one `Cookie` header.
pub fn cookies(bytes: &[u8]) {
    let mut headers = HeaderMap::new();
    for value in
        bytes.split(|byte| *byte == b'\n').filter_map(|line| HeaderValue::from_bytes(line).ok())
    {
        headers.append(header::COOKIE, value);
    }
    let names = CookieNames::default();
    found(&headers, &names.session);
    let foreign = foreign(&headers).join(&b"; "[..]);
    let mut lines = HeaderLines::from(headers);
    names.strip(&mut lines);
    assert!(lines.get_all(&header::COOKIE).count() <= 1, "one field (RFC 9113 8.2.3)");
    let kept = lines.get(&header::COOKIE).map_or(&b""[..], HeaderValue::as_bytes);
    assert_eq!(kept, foreign, "the others go on, in order and unchanged");
    for name in OURS {
        let lower = kept.to_ascii_lowercase();
        assert!(lower.split(|byte| *byte == b';').all(|pair| name_of(pair) != name), "{kept:?}");
    }
}

/// A found value equals the input bytes.
fn found(headers: &HeaderMap, name: &str) {
    let prefix = format!("{name}=").into_bytes();
    let exact: Vec<&[u8]> = pairs(headers).filter(|pair| pair.starts_with(&prefix)).collect();
    match (cookies::find(headers, name), exact.as_slice()) {
        (CookieLookup::Missing, []) => {}
        (CookieLookup::One(value), [pair]) => assert_eq!([prefix, value].concat(), *pair),
        (CookieLookup::One(value), [first, ..]) => {
            assert_eq!([&prefix, &value[..]].concat(), *first);
            assert!(exact.iter().all(|pair| pair == first), "equal values are one");
        }
        (CookieLookup::Several(_), [_, _, ..]) => {}
        (shown, pairs) => panic!("{shown:?} where there are {}", pairs.len()),
    }
}

fn foreign(headers: &HeaderMap) -> Vec<&[u8]> {
    let is_token = |pair: &[u8]| {
        pair.iter()
            .position(|byte| *byte == b'=')
            .is_some_and(|at| pair[at + 1..].starts_with(b"dw1_"))
    };
    let ours = |pair: &&[u8]| {
        is_token(pair) || OURS.contains(&name_of(pair).to_ascii_lowercase().as_slice())
    };
    pairs(headers).filter(|pair| !ours(pair)).collect()
}

fn pairs(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let lines = headers.get_all(header::COOKIE).into_iter();
    let pairs = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let pairs = pairs.map(move |pair| {
        let at = pair.iter().position(|byte| !blank(byte)).unwrap_or(pair.len());
        &pair[at..]
    });
    pairs.filter(|pair| !pair.is_empty())
}

fn name_of(pair: &[u8]) -> &[u8] {
    let end = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
    pair[..end].trim_ascii()
}
