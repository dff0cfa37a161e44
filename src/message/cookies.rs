//! Our cookies: found by exact name in the raw bytes, and kept from upstreams.
//!
//! No trimming beyond space and tab after `;`, no quoted strings, no `$Version`: a server that folds
//! more than a browser protects lets a sibling host plant cookies ("Cookie Chaos", 2025).

use cookie::{Cookie, CookieBuilder, SameSite, time::Duration};
use http::header::{self, HeaderMap, HeaderValue};

/// The names of the cookies that are ours on every host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CookieNames {
    /// Carries the session token.
    pub session: String,
    /// Binds a login form to the browser that asked for it.
    pub login: String,
    /// Shares the session cookie with all hosts below this name.
    domain: Option<String>,
}

const LOGIN: &str = "__Host-doorward-login";
const HOST_ONLY: &str = "__Host-doorward";
const SHARED: &str = "__Secure-doorward";
const OWN_NAMES: [&str; 3] = [HOST_ONLY, SHARED, LOGIN];

/// What the client showed under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presented {
    Nothing,
    One(Vec<u8>),
    /// Two or more: somebody tossed one in. Treated as no session.
    Several,
}

impl CookieNames {
    /// `__Host-` names; a session cookie that a parent domain shares is `__Secure-`.
    pub fn new(domain: Option<&str>) -> CookieNames {
        CookieNames {
            session: if domain.is_some() { SHARED } else { HOST_ONLY }.to_owned(),
            login: LOGIN.to_owned(),
            domain: domain.map(str::to_owned),
        }
    }

    /// `Set-Cookie` with a session token. No lifetime: the server alone decides when it ends.
    pub fn set_session(&self, token: &str) -> Option<HeaderValue> {
        self.shared(Cookie::build((self.session.as_str(), token)))
    }

    /// `Set-Cookie` that deletes the session token; only for a logout that the user asked for.
    pub fn clear_session(&self) -> Option<HeaderValue> {
        self.shared(Cookie::build((self.session.as_str(), "")).max_age(Duration::ZERO))
    }

    /// `Set-Cookie` with the value that binds a login form to this browser.
    pub fn set_login(&self, value: &str) -> Option<HeaderValue> {
        guarded(Cookie::build((self.login.as_str(), value)))
    }

    fn shared(&self, cookie: CookieBuilder<'_>) -> Option<HeaderValue> {
        match &self.domain {
            Some(domain) => guarded(cookie.domain(domain.as_str())),
            None => guarded(cookie),
        }
    }

    /// Whether a cookie of that name is ours in any spelling, and under any setting of `domain`:
    /// browsers fold the case of prefixes, and keep the cookies of yesterday's configuration.
    fn own(&self, name: &[u8]) -> bool {
        let name = name.trim_ascii();
        OWN_NAMES.iter().any(|own| name.eq_ignore_ascii_case(own.as_bytes()))
    }

    /// Takes our cookies out of the request, joins the others to one field (RFC 9113 8.2.3), and
    /// returns what was shown as the session token.
    pub fn strip(&self, headers: &mut HeaderMap) {
        if !headers.contains_key(header::COOKIE) {
            return;
        }
        let mut kept = Vec::new();
        for pair in pairs(headers).filter(|pair| !self.own(name_of(pair))) {
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

    /// Whether a `Set-Cookie` of an upstream names a cookie of ours; it is dropped then.
    pub fn set_by(&self, set_cookie: &[u8]) -> bool {
        let pair = set_cookie.split(|byte| *byte == b';').next().unwrap_or_default();
        // A cookie without a name comes back as its value alone: `=a=b` is sent as `a=b`.
        let pair = pair.trim_ascii_start();
        self.own(name_of(pair.strip_prefix(b"=").unwrap_or(pair)))
    }
}

fn guarded(cookie: CookieBuilder<'_>) -> Option<HeaderValue> {
    let cookie = cookie.path("/").secure(true).http_only(true).same_site(SameSite::Lax).build();
    HeaderValue::from_str(&cookie.to_string()).ok()
}

/// The value of the one cookie called `name`, byte for byte.
pub fn find(headers: &HeaderMap, name: &str) -> Presented {
    let mut values = pairs(headers).filter_map(|pair| value_of(pair, name.as_bytes()));
    match (values.next(), values.next()) {
        (None, _) => Presented::Nothing,
        (Some(value), None) => Presented::One(value.to_vec()),
        (Some(_), Some(_)) => Presented::Several,
    }
}

fn pairs(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let lines = headers.get_all(header::COOKIE).into_iter();
    let pairs = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    pairs.map(skip_blank).filter(|pair| !pair.is_empty())
}

fn skip_blank(pair: &[u8]) -> &[u8] {
    let blank = pair.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    &pair[blank..]
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
    fn our_cookie_is_found_by_exact_name_and_two_are_none() {
        let found = |lines: &[&str]| find(&headers(lines), "__Host-doorward");
        assert_eq!(found(&["a=1; __Host-doorward=dw1_x; b=2"]), Presented::One(b"dw1_x".to_vec()));
        assert_eq!(found(&["a=1", "__Host-doorward=x"]), Presented::One(b"x".to_vec()));
        assert_eq!(found(&["__Host-doorward=x; __Host-doorward=y"]), Presented::Several);
        assert_eq!(found(&["__Host-doorward=x", "__Host-doorward=x"]), Presented::Several);
        for line in [
            "__host-doorward=x",
            "__Host-doorward-login=x",
            "x__Host-doorward=x",
            "__Host-doorward =x",
            "a=\"; __Host-doorwarx=1",
        ] {
            assert_eq!(found(&[line]), Presented::Nothing, "{line}");
        }
    }

    #[test]
    fn hyp_24_other_cookies_go_upstream_as_one_field_without_ours() {
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

    #[test]
    fn asvs_3_3_our_cookies_have_every_guard_and_no_lifetime() {
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
    fn an_upstream_cannot_set_or_delete_our_cookies() {
        for line in [
            "__Host-doorward=; Max-Age=0",
            " __host-doorward=x; Path=/",
            "__Host-doorward-login",
            "__Host-doorward =x",
        ] {
            assert!(names().set_by(line.as_bytes()), "{line}");
        }
        assert!(!names().set_by(b"session=__Host-doorward"));
    }
}
