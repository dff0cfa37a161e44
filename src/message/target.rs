//! The request target: judged on one canonical form, forwarded byte for byte (RFC 9110 7.7).
//!
//! A path that two programs can read in two ways is refused, for that is how a rule and an upstream
//! come to disagree (CVE-2025-54576, CVE-2026-41059, CVE-2020-24660 and many more).

use http::uri::PathAndQuery;
use percent_encoding::percent_decode;

use super::readings::{Doubt, Readings};

/// A path with its query. The canonical path never reaches an upstream; the raw bytes do.
#[derive(Clone, Debug)]
pub struct Target {
    raw: PathAndQuery,
    /// The decoded path where it differs from the raw one.
    decoded: Option<String>,
}

/// What makes a path ambiguous.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    #[error("the request target is not a path")]
    NotAPath,
    #[error("the path holds a dot segment")]
    DotSegment,
    #[error("the path holds an empty segment (//)")]
    EmptySegment,
    #[error(
        "the path holds a ; \\ or control character, plain or percent-encoded, or bytes beyond ASCII"
    )]
    Character,
    #[error("the path holds a percent-encoded slash")]
    EncodedSlash,
    #[error("the path is percent-encoded twice")]
    DoubleEncoding,
    #[error("the path holds a % without two hex digits, or bytes that are not UTF-8")]
    Encoding,
    #[error("the path holds a percent-encoded ? or #, and is another route's without what follows")]
    EncodedMark,
    #[error(
        "the path is another route's to an app for which case, or dots, blanks and colons in names, make no difference"
    )]
    Disguised,
    #[error("the query holds bytes beyond ASCII")]
    Query,
}

impl Target {
    /// Checks the path; of the query only that it is ASCII.
    pub fn new(raw: PathAndQuery) -> Result<Target, TargetError> {
        Target::judged(raw, |readings| match readings.doubt {
            Doubt::Mark => true,
            Doubt::Shape => false,
        })
    }

    /// As [`Target::new`], where `harmless` may say that all readings of a path in doubt lead to one
    /// place. Without its word the path is refused.
    pub fn judged(
        raw: PathAndQuery,
        harmless: impl Fn(&Readings) -> bool,
    ) -> Result<Target, TargetError> {
        // The library reads a missing path as `/` and still forwards what was there.
        if !raw.as_str().starts_with('/') {
            return Err(TargetError::NotAPath);
        }
        // A URI is ASCII (RFC 3986 2); what an upstream makes of other bytes is anybody's guess.
        if !raw.path().is_ascii() {
            return Err(TargetError::Character);
        }
        // Browsers send a `\` in a query as it is, and encode everything beyond ASCII.
        if !raw.as_str().is_ascii() {
            return Err(TargetError::Query);
        }
        match canonical(raw.path()) {
            Ok(None) => Ok(Target { raw: never_empty(raw), decoded: None }),
            Ok(decoded) => Target::marked(raw, decoded, harmless),
            Err(why) => Target::in_doubt(raw, why, harmless),
        }
    }

    fn marked(
        raw: PathAndQuery,
        decoded: Option<String>,
        harmless: impl Fn(&Readings) -> bool,
    ) -> Result<Target, TargetError> {
        let marked = decoded.as_deref().filter(|path| path.contains(['?', '#']));
        if marked
            .is_some_and(|path| !Readings::cut_at_marks(path).is_some_and(|read| harmless(&read)))
        {
            return Err(TargetError::EncodedMark);
        }
        Ok(Target { raw, decoded })
    }

    fn in_doubt(
        raw: PathAndQuery,
        why: TargetError,
        harmless: impl Fn(&Readings) -> bool,
    ) -> Result<Target, TargetError> {
        match why {
            TargetError::EmptySegment
            | TargetError::Character
            | TargetError::EncodedSlash
            | TargetError::DoubleEncoding => {}
            TargetError::NotAPath
            | TargetError::DotSegment
            | TargetError::Encoding
            | TargetError::EncodedMark
            | TargetError::Disguised
            | TargetError::Query => return Err(why),
        }
        let readings = Readings::of(raw.path()).filter(&harmless).ok_or(why)?;
        // Which of them makes no difference: they all lead to one place.
        let decoded = readings.paths.into_iter().next();
        Ok(Target { raw, decoded })
    }

    /// The path on which routes and rules decide: decoded once, unambiguous.
    pub fn path(&self) -> &str {
        self.decoded.as_deref().unwrap_or(self.raw.path())
    }

    /// The query without its question mark.
    pub fn query(&self) -> Option<&str> {
        self.raw.query()
    }

    /// What the client sent and what goes upstream.
    pub fn raw(&self) -> &PathAndQuery {
        &self.raw
    }
}

/// A target without a path (`https://a.test`, or `#x` on HTTP/2) means the root (RFC 9110 4.2.3). The
/// library shows it as `/`, and would write nothing at all in its place.
fn never_empty(raw: PathAndQuery) -> PathAndQuery {
    if raw.as_str() == "/" { PathAndQuery::from_static("/") } else { raw }
}

/// The decoded path when it differs, or why it is refused.
fn canonical(path: &str) -> Result<Option<String>, TargetError> {
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
        percent_decode(path.as_bytes()).decode_utf8().map_err(|_| TargetError::Encoding)?;
    if holds_an_escape(decoded.as_bytes()) {
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

/// Whether a second program that decodes would find something. Asked of the decoded path: of
/// `%25%32%66` no part looks like an escape of an escape, and yet it is `%2f` after the first.
fn holds_an_escape(decoded: &[u8]) -> bool {
    let mut triples = decoded.windows(3);
    triples.any(|triple| triple[0] == b'%' && is_hex_pair(&triple[1..]))
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

/// A route's `path`: matches on segment borders, so `/app` means `/app` and `/app/x`, not `/apple`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PathPrefix(String);

impl PathPrefix {
    /// Reads a prefix. It must itself be canonical; a trailing slash makes no difference.
    pub fn parse(text: &str) -> Result<PathPrefix, TargetError> {
        if !text.starts_with('/') || text.contains(['?', '#', '%']) {
            return Err(TargetError::NotAPath);
        }
        check_plain(text)?;
        Ok(PathPrefix(text.trim_end_matches('/').to_owned()))
    }

    /// Whether a canonical path lies at or below the prefix.
    pub fn covers(&self, path: &str) -> bool {
        path.strip_prefix(self.0.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Length in bytes: the longest prefix wins.
    pub fn length(&self) -> usize {
        self.0.len()
    }

    /// As written, `/` for the root.
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
    fn an_ordinary_path_is_judged_decoded_and_forwarded_as_sent() {
        let sent = "/caf%C3%A9/a%20b?x=/../y;z";
        let target = target(sent).expect("unambiguous");
        assert_eq!(target.path(), "/café/a b");
        assert_eq!(target.raw().as_str(), sent);
        assert_eq!(target.query(), Some("x=/../y;z"));
    }

    #[test]
    fn hyp_17_ambiguous_paths_are_refused() {
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
            ("/a%ff", TargetError::Encoding),
            ("/a%", TargetError::Encoding),
            ("/a%2", TargetError::Encoding),
            ("/a%zz", TargetError::Encoding),
            ("/a/..%3fb", TargetError::EncodedMark),
            ("/a/%2e%2e%23b", TargetError::EncodedMark),
            ("?x", TargetError::NotAPath),
            ("*", TargetError::NotAPath),
        ];
        for (text, error) in table {
            assert_eq!(target(text).err(), Some(error), "{text}");
        }
    }

    #[test]
    fn hyp_16_a_query_is_forwarded_as_it_came_if_it_is_ascii() {
        let sent = "/a?path=C:\\x&q={[1|2]}^`";
        let raw = PathAndQuery::from_maybe_shared(bytes::Bytes::from_static(sent.as_bytes()));
        assert_eq!(Target::new(raw.expect("read")).expect("accepted").raw().as_str(), sent);
        assert_eq!(target("/a?\u{e9}").err(), Some(TargetError::Query));
    }

    #[test]
    fn cve_2026_32811_an_encoded_mark_is_cut_there_in_one_of_the_readings() {
        let raw: PathAndQuery = "/tags/C%23?x".parse().expect("a target");
        let judged = Target::judged(raw.clone(), |readings| {
            assert_eq!(readings.paths, ["/tags/C#", "/tags/C"]);
            false
        });
        assert_eq!(judged.err(), Some(TargetError::EncodedMark));
        assert_eq!(Target::judged(raw, |_| true).expect("one place").path(), "/tags/C#");
    }

    #[test]
    fn hyp_17_a_path_in_doubt_needs_a_word_for_it_and_some_get_none() {
        let judged = |text: &str| Target::judged(text.parse().expect("a target"), |_| true);
        for text in ["/a%2Fb", "/a//b", "/a;x", "/a%5cb", "/a%252fb"] {
            assert_eq!(judged(text).expect("one place").raw().as_str(), text);
            assert!(target(text).is_err(), "{text}");
        }
        for text in ["/a%2f..%2fb", "/a/..;/b", "/a%00", "/a%2fb%zz", "/a%ff%2f", "/a/../b", "*"] {
            assert!(judged(text).is_err(), "{text}");
        }
    }

    #[test]
    fn hyp_16_a_raw_backslash_is_refused() {
        match PathAndQuery::from_maybe_shared(bytes::Bytes::from_static(b"/a\\b")) {
            Ok(raw) => assert_eq!(Target::new(raw).err(), Some(TargetError::Character)),
            Err(_) => assert!(PathAndQuery::try_from("/a\\b").is_err()),
        }
    }

    #[test]
    fn a_prefix_matches_on_segment_borders_only() {
        let prefix = PathPrefix::parse("/app/").expect("a prefix");
        assert!(prefix.covers("/app") && prefix.covers("/app/") && prefix.covers("/app/x"));
        assert!(!prefix.covers("/apple") && !prefix.covers("/") && !prefix.covers("/x/app"));
        let root = PathPrefix::parse("/").expect("a prefix");
        assert!(root.covers("/") && root.covers("/anything"));
    }
}
