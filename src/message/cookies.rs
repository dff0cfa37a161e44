//! The gateway's cookies: lookup by exact name in the raw bytes, and removal before forwarding.
//!
//! Parsing trims only space and tab after `;` and ignores quoted strings and `$Version`. A server
//! that folds names more than browsers protect them lets a sibling host plant cookies ("Cookie
//! Chaos", 2025).

use cookie::{Cookie, CookieBuilder};
use http::header::{self, HeaderMap, HeaderValue};
use memchr::memchr;

use super::header_lines::HeaderLines;

pub use cookie::SameSite;

/// Settings of the session cookie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CookieSettings {
    /// Name without prefix.
    pub name: String,
    /// Domain whose subdomains share the session cookie; `None` for one host.
    pub domain: Option<String>,
    pub same_site: SameSite,
    /// Whether the cookie outlives the browser, until the absolute end of the session.
    pub persistent: bool,
}

/// Default of [`CookieSettings::name`].
pub const DEFAULT_NAME: &str = "doorward";

impl Default for CookieSettings {
    fn default() -> CookieSettings {
        let (name, same_site) = (DEFAULT_NAME.to_owned(), SameSite::Lax);
        CookieSettings { name, domain: None, same_site, persistent: false }
    }
}

/// Names of the gateway's cookies, on every host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CookieNames {
    /// Carries the session token.
    pub session: String,
    /// Binds a login form to the browser that requested it.
    pub login: String,
    settings: CookieSettings,
    /// Every name of the gateway's cookies, also under other settings.
    own: Vec<String>,
}

/// First characters of every token. A cookie with such a value is never forwarded: it may be the session
/// cookie of another gateway on this host.
const TOKEN_PREFIX: &[u8] = b"dw1_";

/// Maximum number of different values that a lookup returns.
const MAX_VALUES: usize = 16;

/// Result of a cookie lookup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CookieLookup {
    Missing,
    One(Vec<u8>),
    /// Two or more different values, one of which an attacker may have planted.
    Several(Vec<Vec<u8>>),
}

impl CookieLookup {
    /// Returns the values found.
    pub fn values(&self) -> &[Vec<u8>] {
        match self {
            CookieLookup::Missing => &[],
            CookieLookup::One(value) => std::slice::from_ref(value),
            CookieLookup::Several(values) => values,
        }
    }
}

impl Default for CookieNames {
    fn default() -> CookieNames {
        CookieNames::new(CookieSettings::default())
    }
}

impl CookieNames {
    /// Uses `__Host-` names, or `__Secure-` for a session cookie shared by a parent domain.
    pub fn new(settings: CookieSettings) -> CookieNames {
        let [host, shared] =
            ["__Host-", "__Secure-"].map(|prefix| format!("{prefix}{}", settings.name));
        let login = format!("{host}-login");
        let defaults = ["__Host-", "__Secure-"].map(|prefix| format!("{prefix}{DEFAULT_NAME}"));
        let default_login = format!("{}-login", defaults[0]);
        let session = if settings.domain.is_some() { &shared } else { &host }.clone();
        let mut own = vec![host, shared, login.clone(), default_login];
        own.extend(defaults);
        own.sort();
        own.dedup();
        CookieNames { session, login, settings, own }
    }

    /// Returns a `Set-Cookie` with a session token. `left` is the time to the absolute end of the session.
    /// The cookie has a lifetime only if it is persistent; the server decides when a session ends.
    pub fn set_session(&self, token: &str, left: std::time::Duration) -> Option<HeaderValue> {
        let cookie = Cookie::build((self.session.as_str(), token));
        let seconds = i64::try_from(left.as_secs()).unwrap_or(i64::MAX);
        self.with_domain(match self.settings.persistent {
            true => cookie.max_age(cookie::time::Duration::seconds(seconds)),
            false => cookie,
        })
    }

    /// Returns every `Set-Cookie` that deletes a session token at this host: for the host itself and for
    /// every domain above it, where an earlier configuration or another site may have set one. Only for
    /// a logout that the user requested.
    pub fn clear_session(&self, host: &str) -> Vec<HeaderValue> {
        let domains = self.domains(host).into_iter().map(Some);
        let all = std::iter::once(None).chain(domains);
        all.filter_map(|domain| self.expired(domain)).collect()
    }

    /// Returns the deletions that must precede [`CookieNames::set_session`] at a login, so that the new
    /// cookie is the only one.
    pub fn clear_others(&self, host: &str) -> Vec<HeaderValue> {
        if self.is_host_only() {
            return Vec::new();
        }
        let own = self.settings.domain.as_deref();
        let domains =
            self.domains(host).into_iter().filter(|domain| Some(*domain) != own).map(Some);
        std::iter::once(None).chain(domains).filter_map(|domain| self.expired(domain)).collect()
    }

    /// Returns the domains of which a cookie reaches this host. Browsers accept no other cookie with the
    /// `__Host-` prefix than that of the host.
    fn domains<'a>(&self, host: &'a str) -> Vec<&'a str> {
        let is_address = host.parse::<std::net::IpAddr>().is_ok() || host.starts_with('[');
        if self.is_host_only() || is_address {
            return Vec::new();
        }
        let starts = host.match_indices('.').map(|(at, _)| at + 1);
        let domains = std::iter::once(0).chain(starts).filter_map(|at| host.get(at..));
        domains.filter(|domain| domain.contains('.')).collect()
    }

    fn is_host_only(&self) -> bool {
        self.settings.domain.is_none()
    }

    fn expired(&self, domain: Option<&str>) -> Option<HeaderValue> {
        let cookie =
            Cookie::build((self.session.as_str(), "")).max_age(cookie::time::Duration::ZERO);
        self.with_attributes(match domain {
            Some(domain) => cookie.domain(domain),
            None => cookie,
        })
    }

    /// Returns the domain whose subdomains share the session cookie.
    pub fn domain(&self) -> Option<&str> {
        self.settings.domain.as_deref()
    }

    /// Returns the `SameSite` attribute of the session cookie.
    pub fn same_site(&self) -> SameSite {
        self.settings.same_site
    }

    /// Returns a `Set-Cookie` with the value that binds a login form to this browser.
    pub fn set_login(&self, value: &str) -> Option<HeaderValue> {
        let cookie = Cookie::build((self.login.as_str(), value)).same_site(SameSite::Lax);
        to_header(cookie)
    }

    fn with_domain(&self, cookie: CookieBuilder<'_>) -> Option<HeaderValue> {
        match &self.settings.domain {
            Some(domain) => self.with_attributes(cookie.domain(domain.as_str())),
            None => self.with_attributes(cookie),
        }
    }

    fn with_attributes(&self, cookie: CookieBuilder<'_>) -> Option<HeaderValue> {
        to_header(cookie.same_site(self.settings.same_site))
    }

    /// Whether the name belongs to the gateway, in any spelling and under any setting of `domain`.
    /// Browsers fold the case of prefixes and keep cookies of an earlier configuration.
    fn is_own(&self, name: &[u8]) -> bool {
        let name = name.trim_ascii();
        // Every name of the gateway has a prefix, and a request can have thousands of cookies.
        name.starts_with(b"__")
            && self.own.iter().any(|own| name.eq_ignore_ascii_case(own.as_bytes()))
    }

    /// Whether a cookie of a request must not reach an upstream.
    fn is_withheld(&self, pair: &[u8]) -> bool {
        let value = memchr(b'=', pair).map(|at| &pair[at + 1..]);
        value.is_some_and(|value| value.starts_with(TOKEN_PREFIX)) || self.is_own(name_of(pair))
    }

    /// Removes the gateway's cookies from the request and joins the others into one header (RFC
    /// 9113 8.2.3).
    pub fn strip(&self, headers: &mut HeaderLines) {
        if !headers.contains(&header::COOKIE) {
            return;
        }
        let mut kept = Vec::new();
        let pairs = pairs(headers.get_all(&header::COOKIE));
        for pair in pairs.filter(|pair| !self.is_withheld(pair)) {
            if !kept.is_empty() {
                kept.extend_from_slice(b"; ");
            }
            kept.extend_from_slice(pair);
        }
        match HeaderValue::from_bytes(&kept) {
            Ok(value) if !kept.is_empty() => {
                headers.set(header::COOKIE, value);
            }
            Ok(_) | Err(_) => headers.remove(&header::COOKIE),
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

fn to_header(cookie: CookieBuilder<'_>) -> Option<HeaderValue> {
    let cookie = cookie.path("/").secure(true).http_only(true).build();
    HeaderValue::from_str(&cookie.to_string()).ok()
}

/// Returns the values of the cookie `name`, byte for byte. Equal values are one.
pub fn find(headers: &HeaderMap, name: &str) -> CookieLookup {
    let pairs = pairs(headers.get_all(header::COOKIE).iter());
    let mut values = pairs.filter_map(|pair| value_of(pair, name.as_bytes()));
    let Some(first) = values.next() else { return CookieLookup::Missing };
    let mut others = values.filter(|value| *value != first);
    match others.next() {
        None => CookieLookup::One(first.to_vec()),
        Some(second) => several([first, second].into_iter().chain(others)),
    }
}

fn several<'a>(all: impl Iterator<Item = &'a [u8]>) -> CookieLookup {
    let mut values: Vec<Vec<u8>> = Vec::new();
    for value in all {
        if values.len() < MAX_VALUES && !values.iter().any(|known| known == value) {
            values.push(value.to_vec());
        }
    }
    CookieLookup::Several(values)
}

/// Returns the pairs of all `Cookie` headers.
fn pairs<'a>(lines: impl Iterator<Item = &'a HeaderValue>) -> impl Iterator<Item = &'a [u8]> {
    lines.flat_map(|line| pairs_of(line.as_bytes()))
}

/// Empty pairs are skipped in one step, because a client may send thousands of them.
fn pairs_of(mut rest: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let start = rest.iter().position(|byte| !matches!(byte, b';' | b' ' | b'\t'))?;
        let length = memchr(b';', &rest[start..]);
        let (pair, after) = rest[start..].split_at(length.unwrap_or(rest.len() - start));
        rest = after;
        Some(pair)
    })
}

fn name_of(pair: &[u8]) -> &[u8] {
    &pair[..memchr(b'=', pair).unwrap_or(pair.len())]
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

    const LEFT: std::time::Duration = std::time::Duration::from_secs(3_600);

    fn names() -> CookieNames {
        CookieNames::default()
    }

    fn shared(domain: &str) -> CookieNames {
        let domain = Some(domain.to_owned());
        CookieNames::new(CookieSettings { domain, ..CookieSettings::default() })
    }

    #[test]
    fn the_cookie_is_found_by_exact_name() {
        let found = |lines: &[&str]| find(&headers(lines), "__Host-doorward");
        assert_eq!(
            found(&["a=1; __Host-doorward=dw1_x; b=2"]),
            CookieLookup::One(b"dw1_x".to_vec())
        );
        assert_eq!(found(&["a=1", "__Host-doorward=x"]), CookieLookup::One(b"x".to_vec()));
        let both = CookieLookup::Several(vec![b"x".to_vec(), b"y".to_vec()]);
        assert_eq!(found(&["__Host-doorward=x; __Host-doorward=y", "__Host-doorward=x"]), both);
        let same = found(&["__Host-doorward=x", "__Host-doorward=x"]);
        assert_eq!(same, CookieLookup::One(b"x".to_vec()));
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
        let mut sent = HeaderLines::from(headers(&[
            "a=1; __Host-doorward=x",
            "b=2; __HOST-DOORWARD=y;__Host-doorward-login=z",
            "c; __Secure-doorward=w",
        ]));
        names().strip(&mut sent);
        let lines: Vec<_> = sent.get_all(&header::COOKIE).collect();
        assert_eq!(lines, ["a=1; b=2; c"]);
        let mut only_ours = HeaderLines::from(headers(&["__Host-doorward=x"]));
        names().strip(&mut only_ours);
        assert!(only_ours.is_empty());
    }

    /// ASVS 3.3.
    #[test]
    fn cookies_have_all_security_attributes_and_no_lifetime() {
        let line = names().set_session("dw1_x", LEFT).expect("a value");
        let expected = "__Host-doorward=dw1_x; HttpOnly; SameSite=Lax; Secure; Path=/";
        assert_eq!(line, expected);
        let shared = shared("example.com").set_session("dw1_x", LEFT).expect("a value");
        let expected =
            "__Secure-doorward=dw1_x; HttpOnly; SameSite=Lax; Secure; Path=/; Domain=example.com";
        assert_eq!(shared, expected);
        let cleared = names().clear_session("app.example.com");
        assert_eq!(
            cleared,
            ["__Host-doorward=; HttpOnly; SameSite=Lax; Secure; Path=/; Max-Age=0"]
        );
    }

    #[test]
    fn a_shared_cookie_is_cleared_for_every_domain_above() {
        let clear = "__Secure-doorward=; HttpOnly; SameSite=Lax; Secure; Path=/";
        let lines = |domains: &[&str]| -> Vec<String> {
            let line = |domain: &&str| match *domain {
                "" => format!("{clear}; Max-Age=0"),
                domain => format!("{clear}; Domain={domain}; Max-Age=0"),
            };
            domains.iter().map(line).collect()
        };
        let names = shared("b.example.com");
        let all = ["", "a.b.example.com", "b.example.com", "example.com"];
        assert_eq!(names.clear_session("a.b.example.com"), *lines(&all));
        let others = ["", "a.b.example.com", "example.com"];
        assert_eq!(names.clear_others("a.b.example.com"), *lines(&others));
        assert_eq!(names.clear_session("192.0.2.1"), *lines(&[""]));
        assert!(CookieNames::default().clear_others("a.b").is_empty());
    }

    #[test]
    fn name_lifetime_and_same_site_are_settable() {
        let settings = CookieSettings {
            name: "staging".to_owned(),
            same_site: SameSite::None,
            persistent: true,
            ..CookieSettings::default()
        };
        let names = CookieNames::new(settings);
        let line = names.set_session("dw1_x", LEFT).expect("a value");
        let expected =
            "__Host-staging=dw1_x; HttpOnly; SameSite=None; Secure; Path=/; Max-Age=3600";
        assert_eq!(line, expected);
        assert_eq!(names.login, "__Host-staging-login");
    }

    #[test]
    fn tokens_of_other_gateways_on_the_host_are_withheld() {
        let names = CookieNames::new(CookieSettings {
            name: "staging".to_owned(),
            ..CookieSettings::default()
        });
        let sent =
            headers(&["a=1; __Host-staging=x; __Host-doorward=y; __Host-production=dw1_z; b=dw1"]);
        let mut sent = HeaderLines::from(sent);
        names.strip(&mut sent);
        assert_eq!(sent.get(&header::COOKIE).expect("a header"), "a=1; b=dw1");
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
