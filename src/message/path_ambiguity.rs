//! Interpretations of an ambiguous path by other programs.
//!
//! An upstream may decode a path again, fold `\` to `/`, strip `;parameters`, or merge slashes. An
//! ambiguous path is safe only if every interpretation leads to the same route: then it bypasses no
//! other route's access rule.

use std::borrow::Cow;
use std::collections::HashSet;

use percent_encoding::percent_decode;

/// Maximum number of interpretations; a path with more is an attack.
const MAX_INTERPRETATIONS: usize = 64;

/// Maximum length in bytes of all interpretations together. Each one costs a copy, and the client is
/// not authenticated yet.
const MAX_BYTES: usize = 8 * 1024;

/// Maximum number of encodings on top of each other: an app behind a second proxy decodes twice.
const MAX_DEPTH: usize = 2;

/// An ambiguous path whose interpretations are not computed yet, because most routes allow none.
#[derive(Clone, Copy, Debug)]
pub struct AmbiguousPath<'a> {
    pub ambiguity: Ambiguity,
    /// Decoded if only a delimiter is ambiguous, otherwise as received.
    path: &'a str,
}

/// All interpretations of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interpretations {
    pub ambiguity: Ambiguity,
    /// At least one.
    pub paths: Vec<String>,
}

/// Kind of ambiguity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ambiguity {
    /// An encoded `?` or `#` (`/C%23`), common in names of pages and files. A program that rewrites
    /// the path without encoding it truncates it there (CVE-2026-32811).
    Delimiter,
    /// The segment boundaries differ, or the bytes are not UTF-8.
    Segments,
}

impl<'a> AmbiguousPath<'a> {
    /// A decoded path that is plain except for `?` and `#`.
    pub(super) fn with_delimiter(decoded: &'a str) -> AmbiguousPath<'a> {
        AmbiguousPath { ambiguity: Ambiguity::Delimiter, path: decoded }
    }

    /// Any path, as received.
    pub(super) fn with_segments(raw: &'a str) -> AmbiguousPath<'a> {
        AmbiguousPath { ambiguity: Ambiguity::Segments, path: raw }
    }

    /// Computes the interpretations. The work is bounded by `MAX_BYTES`.
    ///
    /// Returns `None` if one contains dot segments or control characters, if there are too many, or
    /// if an escape is nested too deep. Such paths name nothing.
    pub fn interpret(&self) -> Option<Interpretations> {
        let paths = match self.ambiguity {
            Ambiguity::Delimiter => truncations(self.path),
            Ambiguity::Segments => enumerate(self.path),
        };
        Some(Interpretations { ambiguity: self.ambiguity, paths: paths? })
    }
}

/// Returns `None` if the part before the delimiter ends in a dot segment, as in `/a/..%3fb`.
fn truncations(decoded: &str) -> Option<Vec<String>> {
    let paths = vec![decoded.to_owned(), before_delimiter(decoded).to_owned()];
    paths.iter().all(|path| is_plain_path(path)).then_some(paths)
}

/// Combines normalizations in any order: stripping parameters before decoding gives a different path
/// than after.
fn enumerate(path: &str) -> Option<Vec<String>> {
    if path.len() > MAX_BYTES || is_nested_too_deep(path) {
        return None;
    }
    let mut paths = vec![path.to_owned()];
    let mut seen = HashSet::from([path.to_owned()]);
    let (mut at, mut bytes) = (0, path.len());
    while let Some(path) = paths.get(at).cloned() {
        if !is_plain_path(&path) {
            return None;
        }
        for read in NORMALIZATIONS.iter().filter_map(|normalize| changed(normalize(&path))) {
            if seen.insert(read.clone()) {
                bytes += read.len();
                paths.push(read);
            }
        }
        if bytes > MAX_BYTES || paths.len() > MAX_INTERPRETATIONS {
            return None;
        }
        at += 1;
    }
    Some(paths)
}

fn changed(read: Cow<'_, str>) -> Option<String> {
    match read {
        Cow::Borrowed(_) => None,
        Cow::Owned(read) => Some(read),
    }
}

fn is_nested_too_deep(path: &str) -> bool {
    let mut decoded = path.as_bytes().to_vec();
    for _ in 0..MAX_DEPTH {
        decoded = percent_decode(&decoded).collect();
    }
    contains_escape(&decoded)
}

/// Whether decoding would change the path.
pub(super) fn contains_escape(path: &[u8]) -> bool {
    let mut triples = path.windows(3);
    triples.any(|triple| triple[0] == b'%' && triple[1..].iter().all(u8::is_ascii_hexdigit))
}

/// Normalizations that a program may apply before it looks a path up. An unchanged path is borrowed.
const NORMALIZATIONS: [fn(&str) -> Cow<'_, str>; 5] =
    [decode, truncate, fold_backslashes, strip_parameters, merge_slashes];

/// Decodes as UTF-8, and bytes that are not UTF-8 as Latin-1. A byte of a two-byte encoding such as
/// Shift-JIS thereby also counts as the ASCII character of the same value.
fn decode(path: &str) -> Cow<'_, str> {
    if !contains_escape(path.as_bytes()) {
        return Cow::Borrowed(path);
    }
    let bytes: Vec<u8> = percent_decode(path.as_bytes()).collect();
    let mut decoded = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        decoded.push_str(chunk.valid());
        decoded.extend(chunk.invalid().iter().map(|byte| char::from(*byte)));
    }
    Cow::Owned(decoded)
}

fn truncate(path: &str) -> Cow<'_, str> {
    match before_delimiter(path) {
        whole if whole.len() == path.len() => Cow::Borrowed(path),
        part => Cow::Owned(part.to_owned()),
    }
}

fn fold_backslashes(path: &str) -> Cow<'_, str> {
    if path.contains('\\') { Cow::Owned(path.replace('\\', "/")) } else { Cow::Borrowed(path) }
}

fn strip_parameters(path: &str) -> Cow<'_, str> {
    if !path.contains(';') {
        return Cow::Borrowed(path);
    }
    let segments = path.split('/').map(|segment| segment.split(';').next().unwrap_or_default());
    Cow::Owned(segments.collect::<Vec<_>>().join("/"))
}

fn merge_slashes(path: &str) -> Cow<'_, str> {
    if !path.contains("//") {
        return Cow::Borrowed(path);
    }
    let mut merged = String::with_capacity(path.len());
    for part in path.split_inclusive('/') {
        if part != "/" || !merged.ends_with('/') {
            merged.push_str(part);
        }
    }
    Cow::Owned(merged)
}

fn is_plain_path(path: &str) -> bool {
    path.starts_with('/')
        && path.bytes().all(|byte| byte >= 0x20 && byte != 0x7f)
        && !path.split('/').any(|segment| matches!(segment, "." | ".."))
}

fn before_delimiter(path: &str) -> &str {
    path.split(['?', '#']).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interpretations(path: &str) -> Vec<String> {
        let mut paths = enumerate(path).unwrap_or_default();
        paths.sort();
        paths
    }

    /// HYP-17.
    #[test]
    fn every_normalization_is_tried() {
        assert_eq!(interpretations("/a%2Fb"), ["/a%2Fb", "/a/b"]);
        assert_eq!(interpretations("/a//b"), ["/a//b", "/a/b"]);
        assert_eq!(interpretations("/a;x/b"), ["/a/b", "/a;x/b"]);
        assert_eq!(interpretations("/a%255Cb"), ["/a%255Cb", "/a%5Cb", "/a/b", "/a\\b"]);
        assert_eq!(interpretations("/a%3Fb%2Fc"), ["/a", "/a%3Fb%2Fc", "/a?b/c"]);
        assert!(interpretations("/a%2f%2f;y%5cb").contains(&"/a/b".to_owned()));
    }

    /// HYP-17.
    #[test]
    fn normalizations_are_tried_in_any_order() {
        // Parameters cut off first, then decoded, as Tomcat does.
        assert!(interpretations("/;x%2fp/%71").contains(&"/q".to_owned()));
        assert!(interpretations("/;x%2fp/%71").contains(&"/p/q".to_owned()));
    }

    /// HYP-17.
    #[test]
    fn paths_that_name_nothing_have_no_interpretation() {
        for path in [
            "/a%2f..%2fb",
            "/..;/a",
            "/a/..%3bx/b",
            "/a\\..\\b",
            "/%252e%252e/a",
            "/a%00",
            "/a%250a",
            "/%25252525252e",
            "a",
        ] {
            assert_eq!(enumerate(path), None, "{path}");
        }
    }

    #[test]
    fn an_escape_nested_deeper_than_two_has_no_interpretation() {
        assert!(enumerate("/a%252Fb").is_some() && enumerate("/50%25ab.txt").is_some());
        for path in ["/a%25252Fb", "/%2525252e", "/%25%32%35%32%46", "/a;x/%252541"] {
            assert_eq!(enumerate(path), None, "{path}");
        }
    }

    #[test]
    fn the_interpretations_of_a_path_are_bounded_in_bytes() {
        let long = |bytes: usize| format!("/a%2Fb/{}", "x".repeat(bytes));
        assert!(enumerate(&long(MAX_BYTES / 2 - 16)).is_some());
        assert_eq!(enumerate(&long(MAX_BYTES / 2)), None);
        assert_eq!(enumerate(&"/a;b%3bc%2f%5c".repeat(300)), None);
    }

    #[test]
    fn bytes_that_are_not_utf8_are_read_as_latin_1() {
        assert_eq!(interpretations("/caf%E9"), ["/caf%E9", "/café"]);
        // Shift-JIS: the second byte of a character may be a backslash.
        assert_eq!(interpretations("/%83%5C"), ["/%83%5C", "/\u{83}/", "/\u{83}\\"]);
        assert_eq!(interpretations("/50%25ab"), ["/50%25ab", "/50%ab", "/50«"]);
    }
}
