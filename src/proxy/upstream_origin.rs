//! Translates URLs in headers between the public origin of a route and the origin of its upstream.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::Authority;

use crate::message::endpoint::Transport;
use crate::message::{Endpoint, HeaderLines};

/// Request headers with a URL of the own origin that an upstream compares with `Host`. `Destination` belongs
/// to WebDAV (RFC 4918 10.3).
const REQUEST_URLS: [HeaderName; 3] =
    [header::ORIGIN, header::REFERER, HeaderName::from_static("destination")];

const RESPONSE_URLS: [HeaderName; 2] = [header::LOCATION, header::CONTENT_LOCATION];

/// Replaces the public origin `https://host` by the upstream's in the request. Other origins stay: the
/// upstream's own checks against foreign origins keep their effect.
pub(super) fn translate_request(headers: &mut HeaderLines, host: &[u8], upstream: &Endpoint) {
    let Ok(host) = std::str::from_utf8(host) else { return };
    let is_public = |url: &Url<'_>| {
        url.scheme.eq_ignore_ascii_case("https") && url.authority.eq_ignore_ascii_case(host)
    };
    let origin = format!("{}://{}", scheme(upstream), upstream.authority());
    for name in REQUEST_URLS {
        if let Some(value) = with_origin(headers.get(&name), is_public, &origin) {
            headers.set(name, value);
        }
    }
}

/// Replaces the upstream's own origin by the public one in the response. Upstreams that ignore
/// `X-Forwarded-Proto` name the public host with `http://`.
pub(super) fn translate_response(headers: &mut HeaderMap, host: &[u8], upstreams: &[Endpoint]) {
    if !RESPONSE_URLS.iter().any(|name| headers.contains_key(name)) {
        return;
    }
    let Ok(host) = std::str::from_utf8(host) else { return };
    let is_own = |url: &Url<'_>| {
        let is_insecure = url.scheme.eq_ignore_ascii_case("http");
        is_insecure && url.authority.eq_ignore_ascii_case(host)
            || upstreams.iter().any(|upstream| url.is_at(upstream))
    };
    for name in RESPONSE_URLS {
        let value = with_origin(headers.get(&name), is_own, &format!("https://{host}"));
        if let Some(value) = value {
            headers.insert(name, value);
        }
    }
}

/// Returns the URL in a value with another origin, if it is to be replaced.
fn with_origin(
    value: Option<&HeaderValue>,
    is_replaced: impl Fn(&Url<'_>) -> bool,
    origin: &str,
) -> Option<HeaderValue> {
    let url = Url::parse(value?.to_str().ok()?).filter(is_replaced)?;
    HeaderValue::try_from([origin, url.rest].concat()).ok()
}

/// An absolute URL, or one without a scheme (`//host/path`).
struct Url<'a> {
    scheme: &'a str,
    authority: &'a str,
    rest: &'a str,
}

impl<'a> Url<'a> {
    fn parse(text: &'a str) -> Option<Url<'a>> {
        let (scheme, after) = match text.strip_prefix("//") {
            Some(after) => ("", after),
            None => text.split_once("://")?,
        };
        let end = after.find(['/', '\\', '?', '#']).unwrap_or(after.len());
        let (authority, rest) = after.split_at_checked(end)?;
        Some(Url { scheme, authority, rest })
    }

    /// Whether the URL names this endpoint. The scheme may be that of the client, which upstreams take from
    /// `X-Forwarded-Proto`.
    fn is_at(&self, endpoint: &Endpoint) -> bool {
        let default_port = match self.scheme.to_ascii_lowercase().as_str() {
            "http" => 80,
            "https" => 443,
            "" => endpoint.port(),
            _ => return false,
        };
        let own = endpoint.authority();
        self.authority.eq_ignore_ascii_case(own.as_str())
            || Authority::try_from(self.authority).is_ok_and(|authority| {
                !self.authority.contains('@')
                    && authority.host().eq_ignore_ascii_case(own.host())
                    && authority.port_u16().unwrap_or(default_port) == endpoint.port()
            })
    }
}

fn scheme(endpoint: &Endpoint) -> &'static str {
    match endpoint.transport() {
        Transport::Tls => "https",
        Transport::Http1 | Transport::Http2 => "http",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn location(value: &str, upstreams: &[&str]) -> String {
        let endpoint = |text: &&str| Endpoint::parse(text).expect("an endpoint");
        let upstreams: Vec<_> = upstreams.iter().map(endpoint).collect();
        let mut headers = HeaderMap::new();
        headers.insert(header::LOCATION, HeaderValue::from_str(value).expect("a value"));
        translate_response(&mut headers, b"wiki.test:8443", &upstreams);
        headers[header::LOCATION].to_str().expect("ASCII").to_owned()
    }

    #[test]
    fn a_location_at_the_upstream_becomes_public() {
        let upstreams = ["http://127.0.0.1:3000", "http://app", "https://[::1]:9"];
        for (sent, received) in [
            ("http://127.0.0.1:3000/a?b#c", "/a?b#c"),
            ("HTTP://127.0.0.1:3000", ""),
            ("https://127.0.0.1:3000/a", "/a"),
            ("//127.0.0.1:3000/a", "/a"),
            ("http://APP/a", "/a"),
            ("http://app:80/a", "/a"),
            ("https://app/a", "/a"),
            ("https://[::1]:9?a", "?a"),
            ("http://wiki.test:8443/a", "/a"),
            ("http://WIKI.test:8443/a", "/a"),
        ] {
            assert_eq!(location(sent, &upstreams), format!("https://wiki.test:8443{received}"));
        }
    }

    #[test]
    fn any_other_location_stays() {
        let upstreams = ["http://127.0.0.1:3000", "http://app"];
        for sent in [
            "/a",
            "a//127.0.0.1:3000/",
            "http://127.0.0.1:3001/a",
            "http://127.0.0.1/a",
            "http://app.evil.test/a",
            "http://app@evil.test/a",
            "http://evil.test@app/a",
            "http://app:8080/a",
            "ftp://app/a",
            "https://wiki.test/a",
            "http://wiki.test/a",
            "https://wiki.test:8443/a",
            "https://login.test/?next=http://app/a",
        ] {
            assert_eq!(location(sent, &upstreams), sent);
        }
    }

    #[test]
    fn only_the_public_origin_of_a_request_is_translated() {
        let upstream = Endpoint::parse("http://127.0.0.1:3000").expect("an endpoint");
        let translated = |name: &'static str, value: &'static str| {
            let name = HeaderName::from_static(name);
            let mut headers = HeaderLines::default();
            headers.append(name.clone(), HeaderValue::from_static(value));
            translate_request(&mut headers, b"wiki.test", &upstream);
            headers.get(&name).expect("a header").to_str().expect("ASCII").to_owned()
        };
        assert_eq!(translated("origin", "https://wiki.test"), "http://127.0.0.1:3000");
        assert_eq!(translated("referer", "https://WIKI.test/a?b"), "http://127.0.0.1:3000/a?b");
        assert_eq!(translated("destination", "https://wiki.test/b"), "http://127.0.0.1:3000/b");
        for other in ["https://evil.test", "http://wiki.test", "https://wiki.test:8443", "null"] {
            assert_eq!(translated("origin", other), other);
        }
        assert_eq!(translated("x-origin", "https://wiki.test"), "https://wiki.test");
    }
}
