//! Request targets: decisions use one canonical path, forwarding uses the raw bytes (RFC 9110 7.7).
//!
//! An ambiguous path is rejected, because an access rule and an upstream would otherwise disagree
//! about it (CVE-2025-54576, CVE-2026-41059, CVE-2020-24660 and many more).

use http::uri::PathAndQuery;
use percent_encoding::percent_decode;

use super::path_ambiguity::{Ambiguity, AmbiguousPath, contains_escape};

/// A path with its query. The canonical path is never forwarded; the raw bytes are.
#[derive(Clone, Debug)]
pub struct Target {
    raw: PathAndQuery,
    /// The decoded path if it differs from the raw one.
    decoded: Option<String>,
}

/// Reason for rejecting a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    #[error("the request target is not a path")]
    NotAPath,
    #[error("the path contains a dot segment")]
    DotSegment,
    #[error("the path contains an empty segment (//)")]
    EmptySegment,
    #[error(
        "the path contains a ; \\ or control character, plain or percent-encoded, or bytes outside ASCII"
    )]
    Character,
    #[error("the path contains a percent-encoded slash")]
    EncodedSlash,
    #[error("the path is percent-encoded twice")]
    DoubleEncoding,
    #[error("the path contains a % without two hex digits")]
    Encoding,
    #[error("the path contains bytes that are not UTF-8")]
    NotUtf8,
    #[error(
        "the path contains a percent-encoded ? or #, and its part before that belongs to another route"
    )]
    EncodedDelimiter,
    #[error(
        "the path belongs to another route for an upstream that ignores case, or dots, spaces and colons in names"
    )]
    ShadowsRoute,
    #[error("the path percent-encodes the prefix of its route, which is replaced for the upstream")]
    EncodedPrefix,
    #[error("the query contains bytes outside ASCII")]
    Query,
}

impl Target {
    /// Validates the path, and that the query is ASCII. Interprets no ambiguous segments.
    pub fn new(raw: PathAndQuery) -> Result<Target, TargetError> {
        Target::parse_with(raw, |path| match path.ambiguity {
            Ambiguity::Delimiter => path.interpret().is_some(),
            Ambiguity::Segments => false,
        })
    }

    /// As [`Target::new`], but accepts an ambiguous path if `is_allowed` returns true for it.
    pub fn parse_with(
        raw: PathAndQuery,
        is_allowed: impl Fn(&AmbiguousPath<'_>) -> bool,
    ) -> Result<Target, TargetError> {
        // The `http` crate returns `/` for a missing path but forwards the original bytes.
        if !raw.as_str().starts_with('/') {
            return Err(TargetError::NotAPath);
        }
        // A URI is ASCII (RFC 3986 2); upstreams interpret other bytes differently.
        if !raw.path().is_ascii() {
            return Err(TargetError::Character);
        }
        // Browsers send `\` in a query unencoded, and encode everything outside ASCII.
        if !raw.as_str().is_ascii() {
            return Err(TargetError::Query);
        }
        match canonicalize(raw.path()) {
            Ok(None) => Ok(Target { raw: normalize_root(raw), decoded: None }),
            Ok(decoded) => Target::accept_delimiters(raw, decoded, is_allowed),
            Err(error) => Target::accept_ambiguous(raw, error, is_allowed),
        }
    }

    fn accept_delimiters(
        raw: PathAndQuery,
        decoded: Option<String>,
        is_allowed: impl Fn(&AmbiguousPath<'_>) -> bool,
    ) -> Result<Target, TargetError> {
        let path = decoded.as_deref().filter(|path| path.contains(['?', '#']));
        if path.is_some_and(|path| !is_allowed(&AmbiguousPath::with_delimiter(path))) {
            return Err(TargetError::EncodedDelimiter);
        }
        Ok(Target { raw, decoded })
    }

    fn accept_ambiguous(
        raw: PathAndQuery,
        error: TargetError,
        is_allowed: impl Fn(&AmbiguousPath<'_>) -> bool,
    ) -> Result<Target, TargetError> {
        match error {
            TargetError::EmptySegment
            | TargetError::Character
            | TargetError::EncodedSlash
            | TargetError::DoubleEncoding
            | TargetError::NotUtf8 => {}
            TargetError::NotAPath
            | TargetError::DotSegment
            | TargetError::Encoding
            | TargetError::EncodedDelimiter
            | TargetError::ShadowsRoute
            | TargetError::EncodedPrefix
            | TargetError::Query => return Err(error),
        }
        if !is_allowed(&AmbiguousPath::with_segments(raw.path())) {
            return Err(error);
        }
        // Any interpretation serves, the raw path too: all lead to the same route.
        Ok(Target { raw, decoded: None })
    }

    /// Returns the path for routing and access rules: decoded once, unambiguous.
    pub fn path(&self) -> &str {
        self.decoded.as_deref().unwrap_or(self.raw.path())
    }

    /// Returns the query without its question mark.
    pub fn query(&self) -> Option<&str> {
        self.raw.query()
    }

    /// Returns the bytes that the client sent and the upstream receives.
    pub fn raw(&self) -> &PathAndQuery {
        &self.raw
    }
}

/// A target without a path (`https://a.test`, or `#x` on HTTP/2) means the root (RFC 9110 4.2.3).
/// The `http` crate displays it as `/` but would serialize nothing.
fn normalize_root(raw: PathAndQuery) -> PathAndQuery {
    if raw.as_str() == "/" { PathAndQuery::from_static("/") } else { raw }
}

/// Returns the decoded path if it differs.
fn canonicalize(path: &str) -> Result<Option<String>, TargetError> {
    let Some(decoded) = decode(path)? else {
        check_plain(path)?;
        return Ok(None);
    };
    check_plain(&decoded)?;
    Ok(Some(decoded))
}

fn decode(path: &str) -> Result<Option<String>, TargetError> {
    if !path.contains('%') {
        return Ok(None);
    }
    check_escapes(path.as_bytes())?;
    if path.contains("%2f") || path.contains("%2F") {
        return Err(TargetError::EncodedSlash);
    }
    let decoded =
        percent_decode(path.as_bytes()).decode_utf8().map_err(|_| TargetError::NotUtf8)?;
    // Checked on the decoded path: no part of `%25%32%66` looks like an encoded escape, but it decodes
    // to `%2f`.
    if contains_escape(decoded.as_bytes()) {
        return Err(TargetError::DoubleEncoding);
    }
    Ok(Some(decoded.into_owned()))
}

fn check_escapes(path: &[u8]) -> Result<(), TargetError> {
    for at in (0..path.len()).filter(|at| path[*at] == b'%') {
        let digits = path.get(at + 1..at + 3).ok_or(TargetError::Encoding)?;
        if !is_hex_pair(digits) {
            return Err(TargetError::Encoding);
        }
    }
    Ok(())
}

fn is_hex_pair(digits: &[u8]) -> bool {
    digits.iter().all(u8::is_ascii_hexdigit)
}

fn check_plain(path: &str) -> Result<(), TargetError> {
    if path.bytes().any(|byte| byte < 0x20 || matches!(byte, b';' | b'\\' | 0x7f)) {
        return Err(TargetError::Character);
    }
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        match segment {
            "." | ".." => return Err(TargetError::DotSegment),
            "" if segments.peek().is_some() => return Err(TargetError::EmptySegment),
            _ => {}
        }
    }
    Ok(())
}

/// A route's `path`. Matches on segment boundaries: `/app` matches `/app` and `/app/x`, not
/// `/apple`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PathPrefix(String);

impl PathPrefix {
    /// Parses a prefix. It must be canonical; a trailing slash makes no difference.
    pub fn parse(text: &str) -> Result<PathPrefix, TargetError> {
        if !text.starts_with('/') || text.contains(['?', '#', '%']) {
            return Err(TargetError::NotAPath);
        }
        check_plain(text)?;
        Ok(PathPrefix(text.trim_end_matches('/').to_owned()))
    }

    /// Whether a canonical path is at or below the prefix.
    pub fn covers(&self, path: &str) -> bool {
        path.strip_prefix(self.0.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Returns the length in bytes; the longest matching prefix wins.
    pub fn length(&self) -> usize {
        self.0.len()
    }

    /// Returns the prefix, `/` for the root.
    pub fn as_str(&self) -> &str {
        if self.0.is_empty() { "/" } else { &self.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(text: &str) -> Result<Target, TargetError> {
        Target::new(text.parse().expect("a target that hyper lets through"))
    }

    #[test]
    fn a_path_is_decoded_for_decisions_and_forwarded_raw() {
        let sent = "/caf%C3%A9/a%20b?x=/../y;z";
        let target = target(sent).expect("unambiguous");
        assert_eq!(target.path(), "/café/a b");
        assert_eq!(target.raw().as_str(), sent);
        assert_eq!(target.query(), Some("x=/../y;z"));
    }

    /// HYP-17.
    #[test]
    fn ambiguous_paths_are_rejected() {
        let table = [
            ("/a/..;/b", TargetError::Character),
            ("/a/../b", TargetError::DotSegment),
            ("/a/%2e%2E/b", TargetError::DotSegment),
            ("/a/.", TargetError::DotSegment),
            ("//a", TargetError::EmptySegment),
            ("/a//b", TargetError::EmptySegment),
            ("/a;d=1", TargetError::Character),
            ("/a%3bd=1", TargetError::Character),
            ("/a%5cb", TargetError::Character),
            ("/\u{e9}", TargetError::Character),
            ("/a%00", TargetError::Character),
            ("/a%0d%0a", TargetError::Character),
            ("/a%2fb", TargetError::EncodedSlash),
            ("/a%2Fb", TargetError::EncodedSlash),
            ("/a%252fb", TargetError::DoubleEncoding),
            ("/a%25%32%66b", TargetError::DoubleEncoding),
            ("/%25%32%65%25%32%65/b", TargetError::DoubleEncoding),
            ("/a%25%34%31", TargetError::DoubleEncoding),
            ("/a%ff", TargetError::NotUtf8),
            ("/a%", TargetError::Encoding),
            ("/a%2", TargetError::Encoding),
            ("/a%zz", TargetError::Encoding),
            ("/a/..%3fb", TargetError::EncodedDelimiter),
            ("/a/%2e%2e%23b", TargetError::EncodedDelimiter),
            ("?x", TargetError::NotAPath),
            ("*", TargetError::NotAPath),
        ];
        for (text, error) in table {
            assert_eq!(target(text).err(), Some(error), "{text}");
        }
    }

    /// HYP-16.
    #[test]
    fn an_ascii_query_is_forwarded_unchanged() {
        let sent = "/a?path=C:\\x&q={[1|2]}^`";
        let raw = PathAndQuery::from_maybe_shared(bytes::Bytes::from_static(sent.as_bytes()));
        assert_eq!(Target::new(raw.expect("read")).expect("accepted").raw().as_str(), sent);
        assert_eq!(target("/a?\u{e9}").err(), Some(TargetError::Query));
    }

    /// CVE-2026-32811.
    #[test]
    fn an_encoded_delimiter_truncates_one_interpretation() {
        let raw: PathAndQuery = "/tags/C%23?x".parse().expect("a target");
        let parsed = Target::parse_with(raw.clone(), |path| {
            let interpretations = path.interpret().expect("plain");
            assert_eq!(interpretations.paths, ["/tags/C#", "/tags/C"]);
            false
        });
        assert_eq!(parsed.err(), Some(TargetError::EncodedDelimiter));
        assert_eq!(Target::parse_with(raw, |_| true).expect("one place").path(), "/tags/C#");
    }

    /// HYP-17.
    #[test]
    fn an_ambiguous_path_needs_approval_and_some_get_none() {
        let parsed = |text: &str| {
            Target::parse_with(text.parse().expect("a target"), |path| path.interpret().is_some())
        };
        for text in ["/a%2Fb", "/a//b", "/a;x", "/a%5cb", "/a%252fb", "/a%ff%2f", "/%83%5c"] {
            assert_eq!(parsed(text).expect("one place").raw().as_str(), text);
            assert!(target(text).is_err(), "{text}");
        }
        for text in ["/a%2f..%2fb", "/a/..;/b", "/a%00", "/a%2fb%zz", "/a%25252fb", "/a/../b", "*"]
        {
            assert!(parsed(text).is_err(), "{text}");
        }
    }

    /// HYP-16.
    #[test]
    fn a_raw_backslash_is_rejected() {
        match PathAndQuery::from_maybe_shared(bytes::Bytes::from_static(b"/a\\b")) {
            Ok(raw) => assert_eq!(Target::new(raw).err(), Some(TargetError::Character)),
            Err(_) => assert!(PathAndQuery::try_from("/a\\b").is_err()),
        }
    }

    #[test]
    fn a_prefix_matches_on_segment_boundaries_only() {
        let prefix = PathPrefix::parse("/app/").expect("a prefix");
        assert!(prefix.covers("/app") && prefix.covers("/app/") && prefix.covers("/app/x"));
        assert!(!prefix.covers("/apple") && !prefix.covers("/") && !prefix.covers("/x/app"));
        let root = PathPrefix::parse("/").expect("a prefix");
        assert!(root.covers("/") && root.covers("/anything"));
    }
}
