//! Whether a page of another site made a browser send this request.
//!
//! The algorithm of Go 1.25's `CrossOriginProtection`: a browser says in `Sec-Fetch-Site` or `Origin`
//! where a request comes from, and no page can make it lie. A client that sends neither is no browser,
//! so nobody else steers it. Methods that only read pass. A WebSocket's handshake is a GET and opens
//! everything, so it is asked like a method that writes (ASVS 4.4.2).
//!
//! `same-site` is not enough: a sibling host with a hole in it would act for its visitors here. Sites
//! that may are named in a route's `origins`.

use http::Method;
use http::header::{self, HeaderMap, HeaderValue};

use super::host::{Host, HostError};

/// Whose pages may act through a browser on one route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origins {
    /// Whether anything is asked at all.
    pub checked: bool,
    /// Beside the route's own host.
    pub allowed: Vec<Origin>,
}

impl Default for Origins {
    fn default() -> Origins {
        Origins { checked: true, allowed: Vec::new() }
    }
}

/// A site as browsers write it, `https://app.example.com`: lower case, without the usual port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(String);

/// Why a text names no site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OriginError {
    #[error("an origin begins with https:// or http://")]
    Scheme,
    #[error("{0}; an origin is a scheme, a host and perhaps a port, without a path")]
    Host(#[from] HostError),
}

impl Origins {
    /// Whether this request may act with the session that it shows.
    pub fn allow(
        &self,
        method: &Method,
        websocket: bool,
        headers: &HeaderMap,
        host: &Host,
    ) -> bool {
        let reads = !websocket && matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
        reads || !self.checked || is_own(headers, host) || self.names(headers)
    }

    fn names(&self, headers: &HeaderMap) -> bool {
        let origin = headers.get(header::ORIGIN).and_then(Origin::of);
        origin.is_some_and(|origin| self.allowed.contains(&origin))
    }
}

/// Whether the browser says that the request is the user's own doing or this site's.
fn is_own(headers: &HeaderMap, host: &Host) -> bool {
    match headers.get("sec-fetch-site").map(HeaderValue::as_bytes) {
        Some(site) => matches!(site, b"same-origin" | b"none"),
        None => headers.get(header::ORIGIN).is_none_or(|origin| is_of(origin, host)),
    }
}

/// Whether an `Origin` names this very host, reached by https.
pub fn is_of(origin: &HeaderValue, host: &Host) -> bool {
    Origin::of(origin).is_some_and(|origin| origin == Origin::new("https", host))
}

impl Origin {
    /// Reads `https://app.example.com` or `http://localhost:3000`.
    pub fn parse(text: &str) -> Result<Origin, OriginError> {
        let (scheme, host) = text.split_once("://").ok_or(OriginError::Scheme)?;
        match scheme.to_ascii_lowercase().as_str() {
            scheme @ ("https" | "http") => Ok(Origin::new(scheme, &Host::parse(host)?)),
            _ => Err(OriginError::Scheme),
        }
    }

    fn of(value: &HeaderValue) -> Option<Origin> {
        Origin::parse(value.to_str().ok()?).ok()
    }

    fn new(scheme: &str, host: &Host) -> Origin {
        let usual = if scheme == "https" { 443 } else { 80 };
        Origin(match host.port().filter(|port| *port != usual) {
            Some(port) => format!("{scheme}://{}:{port}", host.name()),
            None => format!("{scheme}://{}", host.name()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(origins: &Origins, method: &Method, fields: &[(&'static str, &'static str)]) -> bool {
        let headers = fields
            .iter()
            .map(|(name, value)| {
                ((*name).parse().expect("a name"), HeaderValue::from_static(value))
            })
            .collect();
        origins.allow(method, false, &headers, &Host::parse("app.test:8443").expect("a host"))
    }

    const OWN: (&str, &str) = ("origin", "https://app.test:8443");
    const OTHER: (&str, &str) = ("origin", "https://evil.test");

    #[test]
    fn asvs_3_5_what_writes_comes_from_this_very_site_or_from_no_browser() {
        let post = |fields: &[_]| allows(&Origins::default(), &Method::POST, fields);
        assert!(post(&[]), "neither field: no browser");
        assert!(post(&[OWN]));
        assert!(post(&[("origin", "HTTPS://APP.test:8443")]));
        assert!(post(&[("sec-fetch-site", "same-origin")]) && post(&[("sec-fetch-site", "none")]));
        for site in ["same-site", "cross-site", "", "Same-Origin"] {
            assert!(!post(&[("sec-fetch-site", site)]), "{site}");
            assert!(!post(&[("sec-fetch-site", site), OWN]), "{site}");
        }
        for origin in [
            "https://evil.test",
            "https://app.test",
            "http://app.test:8443",
            "https://app.test:8443.evil.test",
            "https://app.test:8443/",
            "null",
            "",
        ] {
            assert!(!post(&[("origin", origin)]), "{origin}");
        }
    }

    #[test]
    fn methods_that_read_pass_and_all_others_are_asked() {
        for method in [Method::GET, Method::HEAD, Method::OPTIONS] {
            assert!(allows(&Origins::default(), &method, &[OTHER]), "{method}");
        }
        let unknown = Method::from_bytes(b"get").expect("a method");
        for method in [Method::PUT, Method::PATCH, Method::DELETE, unknown] {
            assert!(!allows(&Origins::default(), &method, &[OTHER]), "{method}");
        }
    }

    #[test]
    fn asvs_4_4_2_a_websocket_is_asked_like_a_method_that_writes() {
        let asks = |origin: &'static str| {
            let headers =
                HeaderMap::from_iter([(header::ORIGIN, HeaderValue::from_static(origin))]);
            let host = Host::parse("app.test").expect("a host");
            Origins::default().allow(&Method::GET, true, &headers, &host)
        };
        assert!(asks("https://app.test") && asks("https://app.test:443"));
        assert!(!asks("https://evil.test") && !asks("https://app.test:444") && !asks("null"));
    }

    #[test]
    fn a_named_origin_may_whatever_the_browser_calls_it() {
        let allowed = vec![Origin::parse("https://Friend.test:443").expect("an origin")];
        let origins = Origins { checked: true, allowed };
        let friend = ("origin", "https://friend.test");
        assert!(allows(&origins, &Method::POST, &[friend, ("sec-fetch-site", "same-site")]));
        assert!(!allows(&origins, &Method::POST, &[OTHER, ("sec-fetch-site", "same-site")]));
        assert!(allows(&Origins { checked: false, ..origins }, &Method::POST, &[OTHER]));
    }

    #[test]
    fn an_origin_has_a_scheme_and_no_path() {
        for text in ["app.test", "ftp://a.test", "https://", "https://a/b", "https://u@a", "*"] {
            assert!(Origin::parse(text).is_err(), "{text}");
        }
    }
}
