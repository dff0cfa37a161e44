//! Response headers that an upstream may not set, and those that the gateway sets for logout and
//! caching.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::cookies::CookieNames;
use super::hop;

const CLEAR_SITE_DATA: HeaderName = HeaderName::from_static("clear-site-data");
/// Offers the app's own port or protocol for the same host (RFC 7838). Browsers would bypass the gateway
/// and send its cookie there.
const ALT_SVC: HeaderName = HeaderName::from_static("alt-svc");

/// Removes hop-by-hop headers, alternative services and every attempt to set or delete the gateway's
/// cookies.
pub fn sanitize(headers: &mut HeaderMap, cookies: &CookieNames) {
    let (mut sets, mut clears) = (false, false);
    hop::strip_where(headers, |name| {
        sets |= *name == header::SET_COOKIE;
        clears |= *name == CLEAR_SITE_DATA;
        // `Trailer` announces the trailers, which are forwarded too.
        (hop::is_hop_by_hop(name) && *name != header::TRAILER)
            || is_server_banner(name)
            || is_internal(name)
            || *name == ALT_SVC
    });
    if sets {
        remove_own_cookies(headers, cookies);
    }
    if clears {
        strip_cookie_directive(headers);
    }
}

/// Whether the header reveals software and version to an attacker (ASVS 13.4.6).
fn is_server_banner(name: &HeaderName) -> bool {
    matches!(name.as_str(), "server" | "x-powered-by" | "x-aspnet-version" | "x-aspnetmvc-version")
}

/// Forbids storing the response, overriding any directive of the upstream for caches in general or
/// CDNs (RFC 9213 and its predecessor).
pub fn set_no_store(headers: &mut HeaderMap) {
    let targeted = |name: &&HeaderName| name.as_str().ends_with("cdn-cache-control");
    let targeted: Vec<HeaderName> = headers.keys().filter(targeted).cloned().collect();
    for name in targeted {
        headers.remove(name);
    }
    headers.remove("surrogate-control");
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
}

/// Adds the headers of a logout response: deletes the cookie and the site's data in the browser.
pub fn set_logout_headers(headers: &mut HeaderMap, cookies: &CookieNames, host: &str) {
    for gone in cookies.clear_session(host) {
        headers.append(header::SET_COOKIE, gone);
    }
    let kept = HeaderValue::from_static("\"cache\", \"storage\"");
    headers.append(CLEAR_SITE_DATA, kept);
    set_no_store(headers);
}

/// Whether the header is reserved for the gateway: `Doorward-Session`, `Doorward-Store`.
fn is_internal(name: &HeaderName) -> bool {
    name.as_str().starts_with("doorward-")
}

/// Removes headers that are invalid in trailers (RFC 9110 6.5.1). A client that merges trailers
/// into the head would otherwise let an upstream set the gateway's cookies.
pub fn sanitize_trailers(trailers: &mut HeaderMap) {
    hop::strip_with(trailers, |name| {
        *name == header::SET_COOKIE
            || *name == CLEAR_SITE_DATA
            || is_server_banner(name)
            || is_internal(name)
            || *name == ALT_SVC
    });
}

fn remove_own_cookies(headers: &mut HeaderMap, cookies: &CookieNames) {
    let is_own = |value: &HeaderValue| cookies.is_set_by(value.as_bytes());
    if !headers.get_all(header::SET_COOKIE).iter().any(is_own) {
        return;
    }
    let kept: Vec<HeaderValue> = headers
        .get_all(header::SET_COOKIE)
        .iter()
        .filter(|value| !is_own(value))
        .cloned()
        .collect();
    headers.remove(header::SET_COOKIE);
    for value in kept {
        headers.append(header::SET_COOKIE, value);
    }
}

/// `Clear-Site-Data: "cookies"` would delete the session cookie; the other directives are kept.
fn strip_cookie_directive(headers: &mut HeaderMap) {
    let Some(value) = headers.remove(CLEAR_SITE_DATA) else {
        return;
    };
    let text = value.to_str().unwrap_or_default();
    let remaining: Vec<&str> =
        text.split(',').map(str::trim).flat_map(without_cookies).copied().collect();
    if let Ok(value) = HeaderValue::from_str(&remaining.join(", "))
        && !remaining.is_empty()
    {
        headers.insert(CLEAR_SITE_DATA, value);
    }
}

fn without_cookies(directive: &str) -> &'static [&'static str] {
    match directive {
        "\"*\"" => &["\"cache\"", "\"storage\""],
        "\"cache\"" => &["\"cache\""],
        "\"storage\"" => &["\"storage\""],
        "\"executionContexts\"" => &["\"executionContexts\""],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_can_neither_set_nor_delete_our_cookies() {
        let mut headers = HeaderMap::new();
        for line in ["a=1", "__Host-doorward=; Max-Age=0", "__host-doorward=x", "b=2"] {
            headers.append(header::SET_COOKIE, HeaderValue::from_static(line));
        }
        headers.insert(CLEAR_SITE_DATA, HeaderValue::from_static("\"cache\", \"cookies\""));
        sanitize(&mut headers, &CookieNames::default());
        assert_eq!(headers.get_all(header::SET_COOKIE).iter().collect::<Vec<_>>(), ["a=1", "b=2"]);
        assert_eq!(headers[CLEAR_SITE_DATA], "\"cache\"");
    }

    #[test]
    fn trailers_lose_reserved_and_head_only_headers() {
        let mut trailers = HeaderMap::new();
        for name in ["set-cookie", "clear-site-data", "doorward-session", "server", "te"] {
            trailers.insert(name, HeaderValue::from_static("x"));
        }
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        sanitize_trailers(&mut trailers);
        assert_eq!(trailers.keys().collect::<Vec<_>>(), ["grpc-status"]);
    }

    #[test]
    fn an_upstream_cannot_set_the_gateways_own_headers() {
        let mut headers = HeaderMap::new();
        headers.insert("doorward-store", HeaderValue::from_static("away"));
        sanitize(&mut headers, &CookieNames::default());
        assert!(headers.is_empty());
    }

    #[test]
    fn an_upstream_cannot_announce_an_alternative_service() {
        let mut headers = HeaderMap::new();
        for value in ["h3=\":443\"; ma=86400", "h2=\"app.internal:443\"", "clear"] {
            headers.append("alt-svc", HeaderValue::from_static(value));
        }
        let mut trailers = headers.clone();
        sanitize(&mut headers, &CookieNames::default());
        sanitize_trailers(&mut trailers);
        assert!(headers.is_empty() && trailers.is_empty());
    }

    #[test]
    fn clear_site_data_keeps_all_but_cookies() {
        let cleared = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(CLEAR_SITE_DATA, HeaderValue::from_static(value));
            sanitize(&mut headers, &CookieNames::default());
            headers.get(CLEAR_SITE_DATA).cloned()
        };
        assert_eq!(cleared("\"cookies\""), None);
        assert_eq!(cleared("\"*\""), Some(HeaderValue::from_static("\"cache\", \"storage\"")));
    }
}
