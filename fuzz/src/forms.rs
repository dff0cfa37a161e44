//! Requests to the gateway's own pages.

use std::time::Duration;

use bytes::Bytes;
use doorward::clock::UnixMillis;
use doorward::portal::forms::{FormFields, open_return_url, seal_return_url, verify_csrf_token};
use doorward::risk::describe_user_agent;

use super::keys::KEYS;

const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
const HOST: &str = "app.test";

/// A duplicate form field is rejected, and no unsealed value is accepted.
pub fn form(bytes: &[u8]) {
    let fields = FormFields::parse(Bytes::copy_from_slice(bytes));
    for name in ["csrf", "to", "username", "password"] {
        let count = form_urlencoded::parse(bytes).filter(|(field, _)| field == name).count();
        assert_eq!(fields.one(name).is_some(), count == 1, "{name} occurs {count} times");
    }
    assert!(
        !verify_csrf_token(&KEYS, "login form", b"nonce", fields.text("csrf"), NOW),
        "unsealed values are rejected"
    );
    assert_eq!(
        open_return_url(&KEYS, HOST, fields.text("to"), NOW),
        None,
        "unsealed values are rejected"
    );
    redirect(fields.text("to"));
}

/// A sealed return URL always leads to this site, in every browser.
fn redirect(url: &str) {
    let Some(sealed) = seal_return_url(&KEYS, HOST, url, NOW) else { return };
    assert_eq!(open_return_url(&KEYS, HOST, &sealed, NOW).as_deref(), Some(url));
    assert_eq!(open_return_url(&KEYS, "other.test", &sealed, NOW), None);
    assert_eq!(open_return_url(&KEYS, HOST, &sealed, NOW.plus(Duration::from_hours(24))), None);
    let page = url::Url::parse("https://app.test/.doorward/login").expect("our page");
    let target = page.join(url).expect("an address");
    assert_eq!(target.origin(), page.origin(), "{url:?} leads to {target}");
}

/// The description of a user agent contains only fixed words.
pub fn user_agent(bytes: &[u8]) {
    let text = describe_user_agent(&String::from_utf8_lossy(bytes));
    assert!(!text.is_empty() && text.len() < 60, "{text:?}");
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b" .".contains(&byte);
    assert!(text.bytes().all(is_plain), "{text:?}");
}
