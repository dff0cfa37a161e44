//! Forms of ours: where they may come from, what they carry, and the target kept over a login.
//!
//! The target of the first request travels through the login sealed: only we can write it, it opens
//! for this host alone and for a day at most. So nothing is taken from a parameter unchecked, several
//! tabs keep their own targets, and a flood of requests without a session writes nothing to the
//! store.

use bytes::Bytes;
use data_encoding::BASE64URL_NOPAD;
use http::header::{self, HeaderMap, HeaderValue};
use zeroize::Zeroizing;

use crate::clock::UnixMillis;
use crate::message::{Host, InboundHead, Intent, Target, origins};
use crate::secret::{KeyRing, seal};

/// Longest target that is kept, in bytes; after a longer one the login ends at `/`.
const TARGET_LIMIT: usize = 2_000;

const DAY: std::time::Duration = std::time::Duration::from_secs(24 * 60 * 60);

/// The one page of ours to which a login may lead.
const SESSIONS: &str = "/.doorward/sessions";

/// Names of our own query and form fields.
pub(super) const TARGET: &str = "to";
pub(super) const CSRF: &str = "csrf";

/// What a form sent. Values are wiped when dropped: one of them is a password.
pub struct Fields(Vec<(String, Zeroizing<String>)>);

impl Fields {
    pub fn parse(body: Bytes) -> Fields {
        let pairs = form_urlencoded::parse(&body);
        Fields(
            pairs
                .map(|(name, value)| (name.into_owned(), Zeroizing::new(value.into_owned())))
                .collect(),
        )
    }

    /// The one value of a field; none when it is missing or stands twice.
    pub fn one(&self, name: &str) -> Option<&Zeroizing<String>> {
        let mut values = self.0.iter().filter(|(field, _)| field == name);
        match (values.next(), values.next()) {
            (Some((_, value)), None) => Some(value),
            (_, _) => None,
        }
    }

    /// The value, or nothing.
    pub fn text(&self, name: &str) -> &str {
        self.one(name).map_or("", |value| value.as_str())
    }
}

/// Whether a browser says that the form came from this very site. A client that says nothing is no
/// browser; it still has to show the form's token.
pub(super) fn same_origin(head: &InboundHead) -> bool {
    if let Some(site) = head.headers.get("sec-fetch-site") {
        return site == "same-origin";
    }
    match head.headers.get(header::ORIGIN) {
        None => true,
        Some(origin) => origins::is_of(origin, &head.host),
    }
}

/// The page that the user looks at: the one that he asked for, or else the one from which a form was sent or
/// a script asked. After the login that one is fetched, never what was sent: a GET there would be another
/// thing, and the answer to a script is no page.
pub(super) fn page_of(head: &InboundHead) -> Option<String> {
    match head.asker.intent {
        Intent::Navigation if head.method.is_safe() => Some(head.target.raw().as_str().to_owned()),
        Intent::Navigation | Intent::Fetch => came_from(&head.headers, &head.host),
    }
}

/// Path and query of the one Referer, where that is a page of this very site, and none that would ask for
/// a login or a logout once more.
fn came_from(headers: &HeaderMap, host: &Host) -> Option<String> {
    let mut referers = headers.get_all(header::REFERER).iter();
    let (Some(referer), None) = (referers.next(), referers.next()) else { return None };
    let referer = referer.to_str().ok()?;
    let (authority, _) = referer.strip_prefix("https://")?.split_once('/')?;
    let (origin, target) = referer.split_at_checked("https://".len() + authority.len())?;
    if !origins::is_of(&HeaderValue::from_str(origin).ok()?, host) {
        return None;
    }
    let path = Target::new(target.parse().ok()?).ok()?.path().to_owned();
    let asks_again = super::owns(&path) && path != SESSIONS;
    (!asks_again && !target.contains('#')).then(|| target.to_owned())
}

/// A form's token: says when it was made, and opens for the same `subject` alone.
pub(super) fn token(keys: &KeyRing, purpose: &str, subject: &[u8], now: UnixMillis) -> String {
    let sealed = seal::seal(keys, purpose.as_bytes(), subject, &now.0.to_be_bytes());
    BASE64URL_NOPAD.encode(&sealed)
}

/// Whether `text` is a token for the same purpose and subject, not older than a day.
pub fn verify(keys: &KeyRing, purpose: &str, subject: &[u8], text: &str, now: UnixMillis) -> bool {
    let Ok(sealed) = BASE64URL_NOPAD.decode(text.as_bytes()) else { return false };
    let opened = seal::open(keys, purpose.as_bytes(), subject, &sealed).ok();
    opened.and_then(time_of).is_some_and(|made| now.since(made) < DAY)
}

/// Seals where to go after the login.
pub fn keep_target(keys: &KeyRing, host: &str, target: &str, now: UnixMillis) -> Option<String> {
    if target.len() > TARGET_LIMIT || !is_local(target) {
        return None;
    }
    let plain = [&now.0.to_be_bytes(), target.as_bytes()].concat();
    Some(BASE64URL_NOPAD.encode(&seal::seal(keys, b"login target", host.as_bytes(), &plain)))
}

/// Opens what [`keep_target`] made for the same host, a day ago at most.
pub fn target(keys: &KeyRing, host: &str, text: &str, now: UnixMillis) -> Option<String> {
    let sealed = BASE64URL_NOPAD.decode(text.as_bytes()).ok()?;
    let plain = seal::open(keys, b"login target", host.as_bytes(), &sealed).ok()?;
    let (made, target) = plain.split_at_checked(8)?;
    let fresh = now.since(time_of(made.to_vec())?) < DAY;
    let target = String::from_utf8(target.to_vec()).ok()?;
    (fresh && is_local(&target)).then_some(target)
}

fn time_of(bytes: Vec<u8>) -> Option<UnixMillis> {
    Some(UnixMillis(u64::from_be_bytes(bytes.try_into().ok()?)))
}

/// A path on this site and nothing that a browser could read as another one.
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
    fn a_target_survives_the_login_for_its_own_host_and_for_a_day() {
        let keys = KeyRing::generate("now");
        let kept = keep_target(&keys, "a.test", "/wiki?x=1&y=%2F", NOW).expect("local");
        assert_eq!(target(&keys, "a.test", &kept, NOW).as_deref(), Some("/wiki?x=1&y=%2F"));
        assert_eq!(target(&keys, "b.test", &kept, NOW), None);
        assert_eq!(target(&keys, "a.test", &kept, NOW.plus(DAY)), None);
        assert_eq!(target(&KeyRing::generate("other"), "a.test", &kept, NOW), None);
    }

    #[test]
    fn open_redirects_none_of_the_known_tricks_is_kept_or_followed() {
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
            assert_eq!(keep_target(&keys, "a.test", trick, NOW), None, "{trick:?}");
            assert_eq!(target(&keys, "a.test", trick, NOW), None, "{trick:?}");
        }
        assert_eq!(
            keep_target(&keys, "a.test", &format!("/{}", "x".repeat(TARGET_LIMIT)), NOW),
            None
        );
    }

    fn left(referers: &[&'static str]) -> Option<String> {
        let field = |text: &&'static str| (header::REFERER, HeaderValue::from_static(text));
        let headers: HeaderMap = referers.iter().map(field).collect();
        came_from(&headers, &Host::parse("app.test:8443").expect("a host"))
    }

    #[test]
    fn after_the_login_a_page_of_this_very_site_comes_back() {
        assert_eq!(left(&["https://app.test:8443/a?b=%2F"]).as_deref(), Some("/a?b=%2F"));
        let own = "https://app.test:8443/.doorward/sessions?to=x";
        assert_eq!(left(&[own]).as_deref(), Some("/.doorward/sessions?to=x"));
    }

    #[test]
    fn open_redirects_a_referer_of_another_site_or_that_can_be_read_in_two_ways_leads_nowhere() {
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
            let target = left(&[referer]);
            let kept = target.and_then(|target| {
                keep_target(&KeyRing::generate("now"), "app.test:8443", &target, NOW)
            });
            assert_eq!(kept, None, "{referer:?}");
        }
        let page = "https://app.test:8443/a";
        assert_eq!(left(&[page, page]), None, "two of them");
        assert_eq!(left(&[]), None);
    }

    #[test]
    fn a_forms_token_is_for_one_purpose_one_subject_and_one_day() {
        let keys = KeyRing::generate("now");
        let made = token(&keys, "logout", b"session 1", NOW);
        assert!(verify(&keys, "logout", b"session 1", &made, NOW));
        assert!(!verify(&keys, "sessions", b"session 1", &made, NOW));
        assert!(!verify(&keys, "logout", b"session 2", &made, NOW));
        assert!(!verify(&keys, "logout", b"session 1", &made, NOW.plus(DAY)));
        assert!(!verify(&keys, "logout", b"session 1", "", NOW));
    }

    #[test]
    fn a_field_that_stands_twice_is_no_field() {
        let fields = Fields::parse(Bytes::from_static(b"a=1&b=2&a=3"));
        assert_eq!((fields.text("a"), fields.text("b"), fields.text("c")), ("", "2", ""));
    }
}
