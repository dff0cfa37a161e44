//! The gateway's cookies: lookup by exact name in the raw bytes, and removal before forwarding.
//!
//! Parsing trims only space and tab after `;` and ignores quoted strings and `$Version`. A server
//! that folds names more than browsers protect them lets a sibling host plant cookies ("Cookie
//! Chaos", 2025).

use cookie::{Cookie, CookieBuilder, SameSite, time::Duration};
use http::header::{self, HeaderMap, HeaderValue};

/// Names of the gateway's cookies, on every host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CookieNames {
    /// Carries the session token.
    pub session: String,
    /// Binds a login form to the browser that requested it.
    pub login: String,
    /// Domain whose subdomains share the session cookie; `None` for one host.
    domain: Option<String>,
}

const LOGIN: &str = "__Host-doorward-login";
const HOST_ONLY: &str = "__Host-doorward";
const SHARED: &str = "__Secure-doorward";
const OWN_NAMES: [&str; 3] = [HOST_ONLY, SHARED, LOGIN];

/// Result of a cookie lookup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CookieLookup {
    Missing,
    One(Vec<u8>),
    /// Two or more, one of which an attacker may have planted. Treated as no session.
    Duplicate,
}

impl CookieNames {
    /// Uses `__Host-` names, or `__Secure-` for a session cookie shared by a parent domain.
    pub fn new(domain: Option<&str>) -> CookieNames {
        CookieNames {
            session: if domain.is_some() { SHARED } else { HOST_ONLY }.to_owned(),
            login: LOGIN.to_owned(),
            domain: domain.map(str::to_owned),
        }
    }

    /// Returns a `Set-Cookie` with a session token. It has no lifetime: only the server decides
    /// when a session ends.
    pub fn set_session(&self, token: &str) -> Option<HeaderValue> {
        self.with_domain(Cookie::build((self.session.as_str(), token)))
    }

    /// Returns a `Set-Cookie` that deletes the session token; only for a logout that the user
    /// requested.
    pub fn clear_session(&self) -> Option<HeaderValue> {
        self.with_domain(Cookie::build((self.session.as_str(), "")).max_age(Duration::ZERO))
    }

    /// Returns a `Set-Cookie` with the value that binds a login form to this browser.
    pub fn set_login(&self, value: &str) -> Option<HeaderValue> {
        with_attributes(Cookie::build((self.login.as_str(), value)))
    }

    fn with_domain(&self, cookie: CookieBuilder<'_>) -> Option<HeaderValue> {
        match &self.domain {
            Some(domain) => with_attributes(cookie.domain(domain.as_str())),
            None => with_attributes(cookie),
        }
    }

    /// Whether the name belongs to the gateway, in any spelling and under any setting of `domain`.
    /// Browsers fold the case of prefixes and keep cookies of an earlier configuration.
    fn is_own(&self, name: &[u8]) -> bool {
        let name = name.trim_ascii();
        OWN_NAMES.iter().any(|own| name.eq_ignore_ascii_case(own.as_bytes()))
    }

    /// Removes the gateway's cookies from the request and joins the others into one header (RFC
    /// 9113 8.2.3).
    pub fn strip(&self, headers: &mut HeaderMap) {
        if !headers.contains_key(header::COOKIE) {
            return;
        }
        let mut kept = Vec::new();
        for pair in pairs(headers).filter(|pair| !self.is_own(name_of(pair))) {
            if !kept.is_empty() {
                kept.extend_from_slice(b"; ");
            }
            kept.extend_from_slice(pair);
        }
        match HeaderValue::from_bytes(&kept) {
            Ok(value) if !kept.is_empty() => {
                headers.insert(header::COOKIE, value);
            }
            Ok(_) | Err(_) => {
                headers.remove(header::COOKIE);
            }
        }
    }

    /// Whether an upstream's `Set-Cookie` names a cookie of the gateway.
    pub fn is_set_by(&self, set_cookie: &[u8]) -> bool {
        let pair = set_cookie.split(|byte| *byte == b';').next().unwrap_or_default();
        // Browsers send a nameless cookie as its value alone: `=a=b` is sent as `a=b`.
        let pair = pair.trim_ascii_start();
        self.is_own(name_of(pair.strip_prefix(b"=").unwrap_or(pair)))
    }
}

fn with_attributes(cookie: CookieBuilder<'_>) -> Option<HeaderValue> {
    let cookie = cookie.path("/").secure(true).http_only(true).same_site(SameSite::Lax).build();
    HeaderValue::from_str(&cookie.to_string()).ok()
}

/// Returns the value of the cookie `name`, byte for byte.
pub fn find(headers: &HeaderMap, name: &str) -> CookieLookup {
    let mut values = pairs(headers).filter_map(|pair| value_of(pair, name.as_bytes()));
    match (values.next(), values.next()) {
        (None, _) => CookieLookup::Missing,
        (Some(value), None) => CookieLookup::One(value.to_vec()),
        (Some(_), Some(_)) => CookieLookup::Duplicate,
    }
}

fn pairs(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    headers.get_all(header::COOKIE).into_iter().flat_map(|line| pairs_of(line.as_bytes()))
}

/// Empty pairs are skipped in one step, because a client may send thousands of them.
fn pairs_of(mut rest: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let start = rest.iter().position(|byte| !matches!(byte, b';' | b' ' | b'\t'))?;
        let length = rest[start..].iter().position(|byte| *byte == b';');
        let (pair, after) = rest[start..].split_at(length.unwrap_or(rest.len() - start));
        rest = after;
        Some(pair)
    })
}

fn name_of(pair: &[u8]) -> &[u8] {
    pair.split(|byte| *byte == b'=').next().unwrap_or_default()
}

fn value_of<'a>(pair: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    pair.strip_prefix(name)?.strip_prefix(b"=")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::COOKIE, HeaderValue::from_str(line).expect("a value"));
        }
        headers
    }

    fn names() -> CookieNames {
        CookieNames::new(None)
    }

    #[test]
    fn the_cookie_is_found_by_exact_name_and_only_once() {
        let found = |lines: &[&str]| find(&headers(lines), "__Host-doorward");
        assert_eq!(
            found(&["a=1; __Host-doorward=dw1_x; b=2"]),
            CookieLookup::One(b"dw1_x".to_vec())
        );
        assert_eq!(found(&["a=1", "__Host-doorward=x"]), CookieLookup::One(b"x".to_vec()));
        assert_eq!(found(&["__Host-doorward=x; __Host-doorward=y"]), CookieLookup::Duplicate);
        assert_eq!(found(&["__Host-doorward=x", "__Host-doorward=x"]), CookieLookup::Duplicate);
        for line in [
            "__host-doorward=x",
            "__Host-doorward-login=x",
            "x__Host-doorward=x",
            "__Host-doorward =x",
            "a=\"; __Host-doorwarx=1",
        ] {
            assert_eq!(found(&[line]), CookieLookup::Missing, "{line}");
        }
    }

    /// HYP-24.
    #[test]
    fn other_cookies_are_forwarded_as_one_header() {
        let mut sent = headers(&[
            "a=1; __Host-doorward=x",
            "b=2; __HOST-DOORWARD=y;__Host-doorward-login=z",
            "c; __Secure-doorward=w",
        ]);
        names().strip(&mut sent);
        let lines: Vec<_> = sent.get_all(header::COOKIE).iter().collect();
        assert_eq!(lines, ["a=1; b=2; c"]);
        let mut only_ours = headers(&["__Host-doorward=x"]);
        names().strip(&mut only_ours);
        assert!(only_ours.is_empty());
    }

    /// ASVS 3.3.
    #[test]
    fn cookies_have_all_security_attributes_and_no_lifetime() {
        let line = names().set_session("dw1_x").expect("a value");
        let expected = "__Host-doorward=dw1_x; HttpOnly; SameSite=Lax; Secure; Path=/";
        assert_eq!(line, expected);
        let shared = CookieNames::new(Some("example.com")).set_session("dw1_x").expect("a value");
        let expected =
            "__Secure-doorward=dw1_x; HttpOnly; SameSite=Lax; Secure; Path=/; Domain=example.com";
        assert_eq!(shared, expected);
        let cleared = names().clear_session().expect("a value");
        assert_eq!(cleared, "__Host-doorward=; HttpOnly; SameSite=Lax; Secure; Path=/; Max-Age=0");
    }

    #[test]
    fn set_cookie_of_an_own_cookie_is_recognized() {
        for line in [
            "__Host-doorward=; Max-Age=0",
            " __host-doorward=x; Path=/",
            "__Host-doorward-login",
            "__Host-doorward =x",
        ] {
            assert!(names().is_set_by(line.as_bytes()), "{line}");
        }
        assert!(!names().is_set_by(b"session=__Host-doorward"));
    }
}
