//! What browsers send to our own pages.

use std::time::Duration;

use bytes::Bytes;
use doorward::clock::UnixMillis;
use doorward::portal::browser::in_words;
use doorward::portal::forms::{Fields, keep_target, target, verify};

use super::keys::KEYS;

const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
const HOST: &str = "app.test";

/// A form's body: a field that stands twice is none, and no field opens what we did not seal.
pub fn form(bytes: &[u8]) {
    let fields = Fields::parse(Bytes::copy_from_slice(bytes));
    for name in ["csrf", "to", "username", "password"] {
        let stands = form_urlencoded::parse(bytes).filter(|(field, _)| field == name).count();
        assert_eq!(fields.one(name).is_some(), stands == 1, "{name} stands {stands} times");
    }
    assert!(
        !verify(&KEYS, "login form", b"nonce", fields.text("csrf"), NOW),
        "nobody but us seals"
    );
    assert_eq!(target(&KEYS, HOST, fields.text("to"), NOW), None, "nobody but us seals");
    redirect(fields.text("to"));
}

/// What is kept as the target of a login is a place on this very site, to every browser.
fn redirect(wanted: &str) {
    let Some(kept) = keep_target(&KEYS, HOST, wanted, NOW) else { return };
    assert_eq!(target(&KEYS, HOST, &kept, NOW).as_deref(), Some(wanted));
    assert_eq!(target(&KEYS, "other.test", &kept, NOW), None);
    assert_eq!(target(&KEYS, HOST, &kept, NOW.plus(Duration::from_hours(24))), None);
    let page = url::Url::parse("https://app.test/.doorward/login").expect("our page");
    let place = page.join(wanted).expect("an address");
    assert_eq!(place.origin(), page.origin(), "{wanted:?} leads to {place}");
}

/// A browser's name for itself comes out in our words alone.
pub fn agent(bytes: &[u8]) {
    let words = in_words(&String::from_utf8_lossy(bytes));
    assert!(!words.is_empty() && words.len() < 60, "{words:?}");
    let ours = |byte: u8| byte.is_ascii_alphanumeric() || b" .".contains(&byte);
    assert!(words.bytes().all(ours), "{words:?}");
}
