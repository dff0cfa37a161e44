//! Data of OpenID Connect providers.

use doorward::clock::UnixMillis;
use doorward::oidc::{Callback, fuzz_support};
use doorward::session::identity_fields::check_user_name;

const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

/// The example key of RFC 7515, A.3, without its private part.
const KEYS: &[u8] = br#"{"keys":[{"kty":"EC","crv":"P-256",
    "x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
    "y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;

/// No token is forged, no parameter of a callback is repeated, and an identity never breaks the rules for names.
pub fn provider_data(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    assert!(!fuzz_support::verifies(&text, KEYS), "forged: {text}");
    // Keys of the provider itself.
    fuzz_support::verifies("a.b.c", bytes);
    if Callback::parse(&text).is_ok() {
        let states = form_urlencoded::parse(bytes).filter(|(name, _)| name == "state").count();
        assert_eq!(states, 1, "{text}");
    }
    let Some(profile) = fuzz_support::parse(bytes, NOW) else { return };
    assert_eq!(check_user_name(&profile.user), Ok(()), "{profile:?}");
    assert!(profile.groups.len() <= 1000, "{} groups", profile.groups.len());
    assert!(profile.groups.iter().all(|group| !group.contains(',')), "{profile:?}");
    assert!(profile.email.is_none_or(|email| email.matches('@').count() == 1));
}
