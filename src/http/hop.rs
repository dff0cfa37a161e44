//! Fields that concern one connection only (RFC 9110 7.6.1): read once, never passed on.

use http::header::{self, HeaderMap, HeaderName};

const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("http2-settings"),
];

/// Removes the fields that every `Connection` line nominates, then the known hop-by-hop fields.
///
/// Called before we add anything: a nomination can then never name a field of ours
/// (CVE-2024-45410, CVE-2026-29054).
pub fn strip(headers: &mut HeaderMap) {
    // Asked by the request's fields, which are mostly none of these.
    let known: Vec<HeaderName> =
        headers.keys().filter(|name| HOP_BY_HOP.contains(name)).cloned().collect();
    if known.contains(&header::CONNECTION) {
        for name in nominated(headers) {
            headers.remove(name);
        }
    }
    for name in known {
        headers.remove(name);
    }
}

/// Every line counts: `HeaderMap::remove(CONNECTION)` alone would show only the first.
fn nominated(headers: &HeaderMap) -> Vec<HeaderName> {
    let lines = headers.get_all(header::CONNECTION).iter();
    let tokens = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    tokens.filter_map(|token| HeaderName::from_bytes(token.trim_ascii()).ok()).collect()
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
        for name in &HOP_BY_HOP {
            headers.append(name, HeaderValue::from_static("x"));
            headers.append(name, HeaderValue::from_static("y"));
        }
        strip(&mut headers);
        assert!(headers.is_empty());
    }
}
