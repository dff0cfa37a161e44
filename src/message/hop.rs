//! Hop-by-hop headers (RFC 9110 7.6.1): read once, never forwarded.

use http::header::{self, HeaderMap, HeaderName};

use super::header_lines::HeaderLines;

/// Whether the header is always hop-by-hop.
pub(super) fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
    )
}

/// Whether the client announced that it accepts trailers (RFC 9110 10.1.4). gRPC requires that servers
/// receive this. The header is set anew for the upstream connection.
pub(super) fn accepts_trailers(headers: &HeaderMap) -> bool {
    let mut codings = headers
        .get_all(header::TE)
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    codings.any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}

/// Removes the headers that any `Connection` header nominates, then the known hop-by-hop headers.
///
/// Must run before the gateway adds headers: otherwise a nomination could remove them
/// (CVE-2024-45410, CVE-2026-29054).
pub fn strip(headers: &mut HeaderMap) {
    strip_with(headers, |_| false);
}

/// As [`strip`], and also removes the headers for which `also` returns true.
pub(super) fn strip_with(headers: &mut HeaderMap, mut also: impl FnMut(&HeaderName) -> bool) {
    strip_where(headers, |name| is_hop_by_hop(name) || also(name));
}

/// Removes the headers that any `Connection` header nominates, and those for which `goes` returns
/// true. One pass over the headers that are present, because every request and response is checked
/// and most have none of them.
pub(super) fn strip_where(headers: &mut HeaderMap, mut goes: impl FnMut(&HeaderName) -> bool) {
    let goes = |name: &&HeaderName| goes(name);
    let gone: Vec<HeaderName> = headers.keys().filter(goes).cloned().collect();
    if gone.contains(&header::CONNECTION) {
        for name in nominated(headers) {
            headers.remove(name);
        }
    }
    for name in gone {
        headers.remove(name);
    }
}

/// As [`strip_with`], into a list with room for `added` headers.
pub(super) fn stripped(
    headers: HeaderMap,
    added: usize,
    mut also: impl FnMut(&HeaderName) -> bool,
) -> HeaderLines {
    let has_nominations = headers.contains_key(header::CONNECTION);
    let nominated = if has_nominations { nominated(&headers) } else { Vec::new() };
    let mut kept = HeaderLines::with_capacity(headers.len() + added);
    // Absent while the values of a removed header follow.
    let mut current = None;
    for (next, value) in headers {
        if let Some(name) = next {
            let goes = is_hop_by_hop(&name) || also(&name) || nominated.contains(&name);
            current = (!goes).then_some(name);
        }
        if let Some(name) = &current {
            kept.append(name.clone(), value);
        }
    }
    kept
}

/// All `Connection` headers count: `HeaderMap::remove(CONNECTION)` alone would return only the
/// first.
fn nominated(headers: &HeaderMap) -> Vec<HeaderName> {
    let lines = headers.get_all(header::CONNECTION).iter();
    let tokens = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    let names = tokens.map(<[u8]>::trim_ascii).filter(|token| !is_option(token));
    names.filter_map(|token| HeaderName::from_bytes(token).ok()).collect()
}

/// Common connection options that are removed anyway or name no header (RFC 9112 9.6).
fn is_option(token: &[u8]) -> bool {
    token.eq_ignore_ascii_case(b"keep-alive") || token.eq_ignore_ascii_case(b"close")
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    /// HYP-18.
    #[test]
    fn headers_nominated_by_any_connection_header_are_removed() {
        let mut headers = HeaderMap::new();
        headers.append("connection", HeaderValue::from_static("close, X-One"));
        headers.append("connection", HeaderValue::from_static("x-two ,, x-three"));
        for name in ["x-one", "x-two", "x-three", "x-kept"] {
            headers.append(name, HeaderValue::from_static("1"));
        }
        strip(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-kept"]);
    }

    #[test]
    fn only_the_trailers_coding_announces_trailers() {
        let announced = |lines: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append("te", HeaderValue::from_static(line));
            }
            accepts_trailers(&headers)
        };
        assert!(announced(&["trailers"]) && announced(&["gzip;q=0.5, Trailers"]));
        assert!(announced(&["deflate", "trailers"]));
        assert!(!announced(&[]) && !announced(&["gzip"]) && !announced(&["xtrailers"]));
    }

    #[test]
    fn stripping_into_a_list_keeps_the_same_headers() {
        let lines = [
            ("connection", "x-one, close"),
            ("x-one", "1"),
            ("te", "trailers"),
            ("accept", "a"),
            ("accept", "b"),
            ("x-also", "2"),
            ("connection", "X-Two"),
            ("x-two", "3"),
            ("x-also", "4"),
            ("x-kept", "5"),
        ];
        let mut in_place = HeaderMap::new();
        for (name, value) in lines {
            in_place.append(name, HeaderValue::from_static(value));
        }
        let new = stripped(in_place.clone(), 4, |name| name == "x-also");
        strip_with(&mut in_place, |name| name == "x-also");
        assert_eq!(new.get_all(&header::ACCEPT).count(), 2);
        assert_eq!(HeaderMap::from(new), in_place);
    }

    /// HYP-19.
    #[test]
    fn known_hop_by_hop_headers_are_removed() {
        let mut headers = HeaderMap::new();
        for name in [
            "connection",
            "keep-alive",
            "proxy-connection",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
            "http2-settings",
        ] {
            headers.append(name, HeaderValue::from_static("x"));
            headers.append(name, HeaderValue::from_static("y"));
        }
        strip(&mut headers);
        assert!(headers.is_empty(), "{headers:?}");
    }
}
