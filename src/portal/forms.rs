//! Form fields, CSRF tokens, and the return URL carried through a login.
//!
//! The return URL travels through the login form sealed, so only the gateway can create one. It
//! opens for one host and for at most a day. No redirect target comes from an unauthenticated
//! parameter, each browser tab keeps its own, and requests without a session write nothing to the
//! store.

use bytes::Bytes;
use data_encoding::BASE64URL_NOPAD;
use http::header::{self, HeaderMap, HeaderValue};
use zeroize::Zeroizing;

use crate::clock::UnixMillis;
use crate::message::{Host, InboundHead, Intent, Target, csrf};
use crate::secret::{KeyRing, seal};

/// Longest return URL, in bytes. After a longer one, the login redirects to `/`.
const MAX_TARGET_BYTES: usize = 2_000;

const DAY: std::time::Duration = std::time::Duration::from_secs(24 * 60 * 60);

/// The only portal page that a return URL may name.
const SESSIONS: &str = "/.doorward/sessions";

/// Names of query parameters and form fields.
pub(super) const RETURN_URL: &str = "to";
pub(super) const CSRF: &str = "csrf";

/// Decoded fields of a form. Values are wiped on drop because one of them is a password.
pub struct FormFields(Vec<(String, Zeroizing<String>)>);

impl FormFields {
    pub fn parse(body: Bytes) -> FormFields {
        let pairs = form_urlencoded::parse(&body);
        FormFields(
            pairs
                .map(|(name, value)| (name.into_owned(), Zeroizing::new(value.into_owned())))
                .collect(),
        )
    }

    /// Returns the value of a field, or `None` if it is missing or repeated.
    pub fn one(&self, name: &str) -> Option<&Zeroizing<String>> {
        let mut values = self.0.iter().filter(|(field, _)| field == name);
        match (values.next(), values.next()) {
            (Some((_, value)), None) => Some(value),
            (_, _) => None,
        }
    }

    /// Returns the value of a field, or an empty string if it is missing or repeated.
    pub fn text(&self, name: &str) -> &str {
        self.one(name).map_or("", |value| value.as_str())
    }
}

/// Returns whether the form was sent from this origin, by `Sec-Fetch-Site` or `Origin`. Clients
/// that send neither pass here; they still need the CSRF token.
pub(super) fn same_origin(head: &InboundHead) -> bool {
    if let Some(site) = head.headers.get("sec-fetch-site") {
        return site == "same-origin";
    }
    match head.headers.get(header::ORIGIN) {
        None => true,
        Some(origin) => csrf::origin_matches_host(origin, &head.host),
    }
}

/// Returns the page to return to after a login. For a form post or a script request this is the
/// page from the `Referer` header, because repeating the request as a GET would do something else.
pub fn return_url(head: &InboundHead) -> Option<String> {
    match head.requester.intent {
        Intent::Navigation if head.method.is_safe() => Some(head.target.raw().as_str().to_owned()),
        Intent::Navigation | Intent::Fetch => referer_target(&head.headers, &head.host),
    }
}

/// Returns path and query of the `Referer` header if it names a page of this origin other than
/// login and logout. Repeated headers are ignored.
fn referer_target(headers: &HeaderMap, host: &Host) -> Option<String> {
    let mut referers = headers.get_all(header::REFERER).iter();
    let (Some(referer), None) = (referers.next(), referers.next()) else { return None };
    let referer = referer.to_str().ok()?;
    let (authority, _) = referer.strip_prefix("https://")?.split_once('/')?;
    let (origin, target) = referer.split_at_checked("https://".len() + authority.len())?;
    if !csrf::origin_matches_host(&HeaderValue::from_str(origin).ok()?, host) {
        return None;
    }
    let path = Target::new(target.parse().ok()?).ok()?.path().to_owned();
    let is_login_or_logout = super::is_own_path(&path) && path != SESSIONS;
    (!is_login_or_logout && !target.contains('#')).then(|| target.to_owned())
}

/// Creates a CSRF token that is valid for one purpose and one subject.
pub(super) fn csrf_token(keys: &KeyRing, purpose: &str, subject: &[u8], now: UnixMillis) -> String {
    let sealed = seal::seal(keys, purpose.as_bytes(), subject, &now.0.to_be_bytes());
    BASE64URL_NOPAD.encode(&sealed)
}

/// Returns whether `text` is a CSRF token for this purpose and subject, created less than a day
/// ago.
pub fn verify_csrf_token(
    keys: &KeyRing,
    purpose: &str,
    subject: &[u8],
    text: &str,
    now: UnixMillis,
) -> bool {
    let Ok(sealed) = BASE64URL_NOPAD.decode(text.as_bytes()) else { return false };
    let opened = seal::open(keys, purpose.as_bytes(), subject, &sealed).ok();
    opened.and_then(decode_time).is_some_and(|made| now.since(made) < DAY)
}

/// Seals a return URL for one host. Returns `None` for URLs that are too long or leave the site.
pub fn seal_return_url(
    keys: &KeyRing,
    host: &str,
    target: &str,
    now: UnixMillis,
) -> Option<String> {
    if target.len() > MAX_TARGET_BYTES || !is_local(target) {
        return None;
    }
    let plain = [&now.0.to_be_bytes(), target.as_bytes()].concat();
    Some(BASE64URL_NOPAD.encode(&seal::seal(keys, b"login target", host.as_bytes(), &plain)))
}

/// Opens a return URL sealed by [`seal_return_url`] for the same host less than a day ago.
pub fn open_return_url(keys: &KeyRing, host: &str, text: &str, now: UnixMillis) -> Option<String> {
    let sealed = BASE64URL_NOPAD.decode(text.as_bytes()).ok()?;
    let plain = seal::open(keys, b"login target", host.as_bytes(), &sealed).ok()?;
    let (made, target) = plain.split_at_checked(8)?;
    let fresh = now.since(decode_time(made.to_vec())?) < DAY;
    let target = String::from_utf8(target.to_vec()).ok()?;
    (fresh && is_local(&target)).then_some(target)
}

fn decode_time(bytes: Vec<u8>) -> Option<UnixMillis> {
    Some(UnixMillis(u64::from_be_bytes(bytes.try_into().ok()?)))
}

/// Returns whether a URL is a path that every browser resolves within this origin.
fn is_local(target: &str) -> bool {
    let bytes = target.as_bytes();
    bytes.first() == Some(&b'/')
        && !matches!(bytes.get(1), Some(b'/' | b'\\'))
        && bytes.iter().all(|byte| (0x21..0x7f).contains(byte) && *byte != b'\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

    #[test]
    fn a_return_url_opens_for_its_host_and_for_one_day() {
        let keys = KeyRing::generate("now");
        let sealed = seal_return_url(&keys, "a.test", "/wiki?x=1&y=%2F", NOW).expect("local");
        assert_eq!(
            open_return_url(&keys, "a.test", &sealed, NOW).as_deref(),
            Some("/wiki?x=1&y=%2F")
        );
        assert_eq!(open_return_url(&keys, "b.test", &sealed, NOW), None);
        assert_eq!(open_return_url(&keys, "a.test", &sealed, NOW.plus(DAY)), None);
        assert_eq!(open_return_url(&KeyRing::generate("other"), "a.test", &sealed, NOW), None);
    }

    #[test]
    fn return_urls_to_other_sites_are_rejected() {
        let keys = KeyRing::generate("now");
        let tricks = [
            "//evil.test",
            "/\\evil.test",
            "\\/evil.test",
            "https://evil.test",
            "javascript:alert(1)",
            "/\t/evil.test",
            "/\n/evil.test",
            "/a\r\nSet-Cookie: x=1",
            " /a",
            "",
            "evil.test",
            "/a b",
            "/\u{a0}",
            "http:evil.test",
            "///evil.test",
            "/a\\b",
            "\u{0}/a",
        ];
        for trick in tricks {
            assert_eq!(seal_return_url(&keys, "a.test", trick, NOW), None, "{trick:?}");
            assert_eq!(open_return_url(&keys, "a.test", trick, NOW), None, "{trick:?}");
        }
        assert_eq!(
            seal_return_url(&keys, "a.test", &format!("/{}", "x".repeat(MAX_TARGET_BYTES)), NOW),
            None
        );
    }

    fn target_of(referers: &[&'static str]) -> Option<String> {
        let field = |text: &&'static str| (header::REFERER, HeaderValue::from_static(text));
        let headers: HeaderMap = referers.iter().map(field).collect();
        referer_target(&headers, &Host::parse("app.test:8443").expect("a host"))
    }

    #[test]
    fn a_referer_of_this_origin_becomes_the_return_url() {
        assert_eq!(target_of(&["https://app.test:8443/a?b=%2F"]).as_deref(), Some("/a?b=%2F"));
        let own = "https://app.test:8443/.doorward/sessions?to=x";
        assert_eq!(target_of(&[own]).as_deref(), Some("/.doorward/sessions?to=x"));
    }

    #[test]
    fn foreign_or_ambiguous_referers_are_ignored() {
        for referer in [
            "https://evil.test/a",
            "https://app.test/a",
            "http://app.test:8443/a",
            "https://app.test:8443@evil.test/a",
            "https://alice@app.test:8443/a",
            "https://app.test:8443.evil.test/a",
            "https://app.test:8443//evil.test/a",
            "https://app.test:8443/\\evil.test",
            "https://app.test:8443\\@evil.test/a",
            "https://app.test:8443/a#b",
            "https://app.test:8443/../a",
            "https://app.test:8443/.doorward/login?to=x",
            "https://app.test:8443/.doorward/logout",
            "https://app.test:8443",
            "//app.test:8443/a",
            "/a",
            "about:blank",
            "",
        ] {
            let target = target_of(&[referer]);
            let sealed = target.and_then(|target| {
                seal_return_url(&KeyRing::generate("now"), "app.test:8443", &target, NOW)
            });
            assert_eq!(sealed, None, "{referer:?}");
        }
        let page = "https://app.test:8443/a";
        assert_eq!(target_of(&[page, page]), None, "two of them");
        assert_eq!(target_of(&[]), None);
    }

    #[test]
    fn a_csrf_token_has_one_purpose_one_subject_and_lasts_a_day() {
        let keys = KeyRing::generate("now");
        let made = csrf_token(&keys, "logout", b"session 1", NOW);
        assert!(verify_csrf_token(&keys, "logout", b"session 1", &made, NOW));
        assert!(!verify_csrf_token(&keys, "sessions", b"session 1", &made, NOW));
        assert!(!verify_csrf_token(&keys, "logout", b"session 2", &made, NOW));
        assert!(!verify_csrf_token(&keys, "logout", b"session 1", &made, NOW.plus(DAY)));
        assert!(!verify_csrf_token(&keys, "logout", b"session 1", "", NOW));
    }

    #[test]
    fn a_repeated_form_field_is_ignored() {
        let fields = FormFields::parse(Bytes::from_static(b"a=1&b=2&a=3"));
        assert_eq!((fields.text("a"), fields.text("b"), fields.text("c")), ("", "2", ""));
    }
}
