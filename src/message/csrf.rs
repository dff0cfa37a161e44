//! Cross-origin check: rejects requests that another site's page triggered in a browser.
//!
//! The algorithm of Go 1.25's `CrossOriginProtection`. A browser reports the origin of a request in
//! `Sec-Fetch-Site` or `Origin`, and no page can forge either. A client that sends neither is not a
//! browser and cannot be steered by a page. Safe methods pass. A WebSocket handshake is a GET with
//! full effect, so it is checked like an unsafe method (ASVS 4.4.2).
//!
//! `same-site` is insufficient: a vulnerable sibling host could act for its visitors. Trusted sites
//! are listed in a route's `origins`.

use http::Method;
use http::header::{self, HeaderMap, HeaderValue};

use super::host::{Host, HostError};

/// Origins that may send unsafe requests to one route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrossOriginPolicy {
    /// Whether the check is enabled.
    pub enabled: bool,
    /// Allowed in addition to the route's own host.
    pub allowed: Vec<Origin>,
}

impl Default for CrossOriginPolicy {
    fn default() -> CrossOriginPolicy {
        CrossOriginPolicy { enabled: true, allowed: Vec::new() }
    }
}

/// An origin in the form that browsers send, `https://app.example.com`: lower case, without the
/// default port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(String);

/// Reason for rejecting an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OriginError {
    #[error("an origin must begin with https:// or http://")]
    Scheme,
    #[error("{0}; an origin is a scheme, a host and an optional port, without a path")]
    Host(#[from] HostError),
}

impl CrossOriginPolicy {
    /// Whether the request may use the session of its cookie.
    pub fn allows(
        &self,
        method: &Method,
        websocket: bool,
        headers: &HeaderMap,
        host: &Host,
    ) -> bool {
        let reads = !websocket && matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
        reads || !self.enabled || is_same_origin(headers, host) || self.lists_origin(headers)
    }

    fn lists_origin(&self, headers: &HeaderMap) -> bool {
        self.listed_origin(headers).is_some()
    }

    /// Returns the `Origin` header if it names a listed origin.
    pub fn listed_origin<'a>(&self, headers: &'a HeaderMap) -> Option<&'a HeaderValue> {
        let origin = headers.get(header::ORIGIN).filter(|_| !self.allowed.is_empty())?;
        Origin::from_header(origin).is_some_and(|own| self.allowed.contains(&own)).then_some(origin)
    }

    /// Whether a browser asks on behalf of a listed origin if it may send a request. It sends no cookie
    /// with the question (Fetch, 4.8).
    pub fn is_preflight(&self, method: &Method, headers: &HeaderMap) -> bool {
        *method == Method::OPTIONS
            && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
            && self.listed_origin(headers).is_some()
    }
}

/// Whether the browser reports a same-origin request or one that the user started.
fn is_same_origin(headers: &HeaderMap, host: &Host) -> bool {
    match headers.get("sec-fetch-site").map(HeaderValue::as_bytes) {
        Some(site) => matches!(site, b"same-origin" | b"none"),
        None => headers.get(header::ORIGIN).is_none_or(|origin| origin_matches_host(origin, host)),
    }
}

/// Whether an `Origin` header names this host over https.
pub fn origin_matches_host(origin: &HeaderValue, host: &Host) -> bool {
    Origin::from_header(origin).is_some_and(|origin| origin == Origin::new("https", host))
}

impl Origin {
    /// Parses `https://app.example.com` or `http://localhost:3000`.
    pub fn parse(text: &str) -> Result<Origin, OriginError> {
        let (scheme, host) = text.split_once("://").ok_or(OriginError::Scheme)?;
        match scheme.to_ascii_lowercase().as_str() {
            scheme @ ("https" | "http") => Ok(Origin::new(scheme, &Host::parse(host)?)),
            _ => Err(OriginError::Scheme),
        }
    }

    fn from_header(value: &HeaderValue) -> Option<Origin> {
        Origin::parse(value.to_str().ok()?).ok()
    }

    fn new(scheme: &str, host: &Host) -> Origin {
        let default_port = if scheme == "https" { 443 } else { 80 };
        Origin(match host.port().filter(|port| *port != default_port) {
            Some(port) => format!("{scheme}://{}:{port}", host.name()),
            None => format!("{scheme}://{}", host.name()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(
        origins: &CrossOriginPolicy,
        method: &Method,
        pairs: &[(&'static str, &'static str)],
    ) -> bool {
        let headers = pairs
            .iter()
            .map(|(name, value)| {
                ((*name).parse().expect("a name"), HeaderValue::from_static(value))
            })
            .collect();
        origins.allows(method, false, &headers, &Host::parse("app.test:8443").expect("a host"))
    }

    const OWN: (&str, &str) = ("origin", "https://app.test:8443");
    const OTHER: (&str, &str) = ("origin", "https://evil.test");

    /// ASVS 3.5.
    #[test]
    fn unsafe_methods_need_the_same_origin_or_no_browser() {
        let post = |pairs: &[_]| allows(&CrossOriginPolicy::default(), &Method::POST, pairs);
        assert!(post(&[]), "neither header: no browser");
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
    fn safe_methods_pass_and_all_others_are_checked() {
        for method in [Method::GET, Method::HEAD, Method::OPTIONS] {
            assert!(allows(&CrossOriginPolicy::default(), &method, &[OTHER]), "{method}");
        }
        let unknown = Method::from_bytes(b"get").expect("a method");
        for method in [Method::PUT, Method::PATCH, Method::DELETE, unknown] {
            assert!(!allows(&CrossOriginPolicy::default(), &method, &[OTHER]), "{method}");
        }
    }

    /// ASVS 4.4.2.
    #[test]
    fn a_websocket_is_checked_like_an_unsafe_method() {
        let passes = |origin: &'static str| {
            let headers =
                HeaderMap::from_iter([(header::ORIGIN, HeaderValue::from_static(origin))]);
            let host = Host::parse("app.test").expect("a host");
            CrossOriginPolicy::default().allows(&Method::GET, true, &headers, &host)
        };
        assert!(passes("https://app.test") && passes("https://app.test:443"));
        assert!(!passes("https://evil.test") && !passes("https://app.test:444") && !passes("null"));
    }

    #[test]
    fn a_listed_origin_passes_with_any_sec_fetch_site() {
        let allowed = vec![Origin::parse("https://Friend.test:443").expect("an origin")];
        let origins = CrossOriginPolicy { enabled: true, allowed };
        let friend = ("origin", "https://friend.test");
        assert!(allows(&origins, &Method::POST, &[friend, ("sec-fetch-site", "same-site")]));
        assert!(!allows(&origins, &Method::POST, &[OTHER, ("sec-fetch-site", "same-site")]));
        assert!(allows(&CrossOriginPolicy { enabled: false, ..origins }, &Method::POST, &[OTHER]));
    }

    #[test]
    fn a_preflight_is_an_options_request_of_a_listed_origin() {
        let allowed = vec![Origin::parse("https://friend.test").expect("an origin")];
        let policy = CrossOriginPolicy { enabled: true, allowed };
        let is_preflight = |method, pairs: &[(&'static str, &'static str)]| {
            let pairs = pairs.iter().map(|(name, value)| {
                ((*name).parse().expect("a name"), HeaderValue::from_static(value))
            });
            policy.is_preflight(&method, &pairs.collect())
        };
        let (friend, asks) =
            (("origin", "https://friend.test"), ("access-control-request-method", "PUT"));
        assert!(is_preflight(Method::OPTIONS, &[friend, asks]));
        assert!(!is_preflight(Method::GET, &[friend, asks]));
        assert!(!is_preflight(Method::OPTIONS, &[friend]));
        assert!(!is_preflight(Method::OPTIONS, &[OTHER, asks]));
        assert!(!is_preflight(Method::OPTIONS, &[asks]));
    }

    #[test]
    fn an_origin_has_a_scheme_and_no_path() {
        for text in ["app.test", "ftp://a.test", "https://", "https://a/b", "https://u@a", "*"] {
            assert!(Origin::parse(text).is_err(), "{text}");
        }
    }
}
