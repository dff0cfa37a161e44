//! Fields that concern one connection only (RFC 9110 7.6.1): read once, never passed on.

use http::header::{self, HeaderMap, HeaderName};

/// Whether a field is about the connection, whatever the message says.
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

/// Removes the fields that every `Connection` line nominates, then the known hop-by-hop fields.
///
/// Called before we add anything: a nomination can then never name a field of ours
/// (CVE-2024-45410, CVE-2026-29054).
pub fn strip(headers: &mut HeaderMap) {
    strip_with(headers, |_| false);
}

/// Removes what [`strip`] does, and `also`. All of them are looked for in one pass over the fields that
/// are there: each request and each answer comes by here, and mostly none of them is there.
pub(super) fn strip_with(headers: &mut HeaderMap, mut also: impl FnMut(&HeaderName) -> bool) {
    let goes = |name: &&HeaderName| is_hop_by_hop(name) || also(name);
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

/// Every line counts: `HeaderMap::remove(CONNECTION)` alone would show only the first.
fn nominated(headers: &HeaderMap) -> Vec<HeaderName> {
    let lines = headers.get_all(header::CONNECTION).iter();
    let tokens = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    let fields = tokens.map(<[u8]>::trim_ascii).filter(|token| !is_option(token));
    fields.filter_map(|token| HeaderName::from_bytes(token).ok()).collect()
}

/// What stands in most `Connection` lines and goes in any case, or names no field (RFC 9112 9.6).
fn is_option(token: &[u8]) -> bool {
    token.eq_ignore_ascii_case(b"keep-alive") || token.eq_ignore_ascii_case(b"close")
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn hyp_18_fields_named_by_every_connection_line_go() {
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
    fn hyp_19_known_hop_by_hop_fields_go() {
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
