//! Form fields, CSRF tokens, and the state carried through a login.
//!
//! The state holds the return URL and the reason for the login. It travels through the login form sealed,
//! so only the gateway can create one. It opens for one host and for at most a day. No redirect target and
//! no notice comes from an unauthenticated parameter, each browser tab keeps its own, and requests without a
//! session write nothing to the store.

use bytes::Bytes;
use data_encoding::BASE64URL_NOPAD;
use http::header::{self, HeaderMap, HeaderValue};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::clock::UnixMillis;
use crate::message::{Host, InboundHead, Intent, Target, csrf, intent};
use crate::secret::{KeyRing, seal};

/// Longest return URL, in bytes. After a longer one, the login redirects to `/`.
const MAX_TARGET_BYTES: usize = 8 * 1024;

const DAY: std::time::Duration = std::time::Duration::from_secs(24 * 60 * 60);

/// Path prefix of the portal. Routes below it are rejected.
pub const PREFIX: &str = "/.doorward";

pub(super) const LOGIN: &str = "/.doorward/login";

pub(super) const PASSWORD: &str = "/.doorward/password";

const SESSIONS: &str = "/.doorward/sessions";

/// Path of the page with the access tokens.
pub(super) const TOKENS: &str = "/.doorward/tokens";

/// Path of the page with the second factors.
pub(super) const SECOND_FACTORS: &str = "/.doorward/second-factors";

/// Pages of the portal that a return URL may name.
const RETURN_PAGES: [&str; 3] = [SESSIONS, TOKENS, SECOND_FACTORS];

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

/// Returns whether a script sent the form. Old browsers send no `Sec-Fetch-Mode`, so an `Accept` header with
/// HTML counts as a navigation.
pub(super) fn is_script(head: &InboundHead) -> bool {
    head.requester.intent == Intent::Fetch && !intent::accepts_html(&head.headers)
}

/// Returns the page to return to after a login. For a form post or a script request this is the
/// page from the `Referer` header, because repeating the request as a GET would do something else. For a
/// frame it is the page around it, because the login opens in the whole window.
pub fn return_url(head: &InboundHead) -> Option<String> {
    let own = || Some(head.target.raw().as_str().to_owned());
    match head.requester.intent {
        Intent::Navigation if intent::is_framed(&head.headers) => {
            referer_target(&head.headers, &head.host).or_else(own)
        }
        Intent::Navigation if head.method.is_safe() => own(),
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
    let is_login_or_logout = is_own_path(&path) && !RETURN_PAGES.contains(&path.as_str());
    (!is_login_or_logout && !target.contains('#')).then(|| target.to_owned())
}

/// Returns whether a canonical path belongs to the portal.
pub fn is_own_path(path: &str) -> bool {
    path.strip_prefix(PREFIX).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
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

/// The state of a login.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoginState {
    /// Page to return to, within this origin.
    pub target: Option<String>,
    /// Code of the reason for the login, as in [`DenyReason`](crate::auth::DenyReason); may be empty.
    pub reason: String,
    /// Hash of the ID of the session that was refused; zero if there was none.
    pub refused: [u8; 8],
    /// Whether the refused request sent a form, whose content is lost.
    pub is_unsaved: bool,
    /// Whether the page to return to was too long to keep.
    pub is_too_long: bool,
}

impl LoginState {
    /// Sets the page to return to. URLs that leave the site are ignored.
    pub(super) fn with_target(self, target: Option<String>) -> LoginState {
        let is_too_long = target.as_ref().is_some_and(|target| target.len() > MAX_TARGET_BYTES);
        let target = target.filter(|target| !is_too_long && is_local(target));
        LoginState { target, is_too_long, ..self }
    }

    /// Seals the state for one host. Returns `None` if it is empty.
    pub(super) fn seal(&self, keys: &KeyRing, host: &str, now: UnixMillis) -> Option<String> {
        if *self == LoginState::default() {
            return None;
        }
        let plain = [&now.0.to_be_bytes()[..], &postcard::to_allocvec(self).ok()?].concat();
        Some(BASE64URL_NOPAD.encode(&seal::seal(keys, b"login state", host.as_bytes(), &plain)))
    }

    /// Opens a state that was sealed for the same host less than a day ago.
    pub(super) fn open(
        keys: &KeyRing,
        host: &str,
        text: &str,
        now: UnixMillis,
    ) -> Option<LoginState> {
        let sealed = BASE64URL_NOPAD.decode(text.as_bytes()).ok()?;
        let plain = seal::open(keys, b"login state", host.as_bytes(), &sealed).ok()?;
        let (made, state) = plain.split_at_checked(8)?;
        let is_fresh = now.since(decode_time(made.to_vec())?) < DAY;
        let state: LoginState = postcard::from_bytes(state).ok()?;
        let is_local = state.target.as_deref().is_none_or(is_local);
        (is_fresh && is_local).then_some(state)
    }
}

/// Seals a return URL for one host. Returns `None` for URLs that are too long or leave the site.
pub fn seal_return_url(
    keys: &KeyRing,
    host: &str,
    target: &str,
    now: UnixMillis,
) -> Option<String> {
    let state = LoginState::default().with_target(Some(target.to_owned()));
    state.target.is_some().then(|| state.seal(keys, host, now))?
}

/// Opens the return URL of a sealed state of the same host.
pub fn open_return_url(keys: &KeyRing, host: &str, text: &str, now: UnixMillis) -> Option<String> {
    LoginState::open(keys, host, text, now)?.target
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
    fn a_login_state_opens_unchanged_and_an_empty_one_is_not_sealed() {
        let keys = KeyRing::generate("now");
        let state = LoginState {
            target: Some("/a".to_owned()),
            reason: "idle".to_owned(),
            refused: [1; 8],
            is_unsaved: true,
            is_too_long: false,
        };
        let sealed = state.seal(&keys, "a.test", NOW).expect("not empty");
        assert_eq!(LoginState::open(&keys, "a.test", &sealed, NOW), Some(state));
        assert_eq!(LoginState::open(&keys, "b.test", &sealed, NOW), None);
        assert_eq!(LoginState::default().seal(&keys, "a.test", NOW), None);
    }

    #[test]
    fn a_return_url_has_up_to_8_kib_and_a_longer_one_is_reported() {
        let target = |length: usize| Some(format!("/{}", "x".repeat(length - 1)));
        let longest = LoginState::default().with_target(target(8_192));
        assert!(longest.target.is_some() && !longest.is_too_long);
        let longer = LoginState::default().with_target(target(8_193));
        assert!(longer.target.is_none() && longer.is_too_long);
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
