//! The rules for an access token that a program presents (RFC 9068, 4). Pure.

use data_encoding::BASE64URL_NOPAD;
use serde_json::{Map, Value};

use super::claim_values::{SKEW, audience_contains, id, time};
use super::failure::AccessTokenFailure;
use super::jws::SignedToken;
use crate::clock::UnixMillis;

/// What a valid access token states beside its claims.
#[derive(Debug)]
pub(super) struct AccessFacts {
    pub(super) subject: String,
    pub(super) issued: UnixMillis,
    pub(super) acr: Option<String>,
}

/// Returns the issuer that a token claims, without any check. It selects the provider that verifies it.
pub fn claimed_issuer(token: &str) -> Option<String> {
    let claims = token.split('.').nth(1)?;
    let claims = BASE64URL_NOPAD.decode(claims.as_bytes()).ok()?;
    let claims: Map<String, Value> = serde_json::from_slice(&claims).ok()?;
    claims.get("iss")?.as_str().map(str::to_owned)
}

/// Checks an access token whose signature is valid.
///
/// # Errors
/// [`AccessTokenFailure::Invalid`] or [`AccessTokenFailure::Expired`].
pub(super) fn check(
    token: &SignedToken,
    issuer: &str,
    audiences: &[String],
    now: UnixMillis,
) -> Result<AccessFacts, AccessTokenFailure> {
    let claims = &token.claims;
    check_use(token, issuer, audiences)?;
    let issued = check_times(claims, now)?;
    Ok(AccessFacts {
        subject: id(claims, "sub", "sub is invalid")?.ok_or("sub is missing")?,
        issued,
        acr: id(claims, "acr", "acr is invalid")?,
    })
}

/// ID tokens and logout tokens of a provider have the same signer, and may have the same audience.
fn check_use(token: &SignedToken, issuer: &str, audiences: &[String]) -> Result<(), &'static str> {
    let claims = &token.claims;
    if token.kind.as_deref() != Some("at+jwt") {
        return Err("its type is not at+jwt");
    }
    if claims.get("iss").and_then(Value::as_str) != Some(issuer) {
        return Err("its issuer is another one");
    }
    if !audiences.iter().any(|audience| audience_contains(claims, audience)) {
        return Err("its audience is not in `bearer_audience`");
    }
    // The client must prove that it holds a key, which a bearer token does not.
    match claims.contains_key("cnf") {
        true => Err("it is bound to a key of its client (cnf)"),
        false => Ok(()),
    }
}

/// Returns the time of issue.
fn check_times(
    claims: &Map<String, Value>,
    now: UnixMillis,
) -> Result<UnixMillis, AccessTokenFailure> {
    let expires = time(claims, "exp", "exp is not a time")?.ok_or("exp is missing")?;
    if expires.plus(SKEW) <= now {
        return Err(AccessTokenFailure::Expired);
    }
    let issued = time(claims, "iat", "iat is not a time")?.ok_or("iat is missing")?;
    let not_before = time(claims, "nbf", "nbf is not a time")?;
    match issued.max(not_before.unwrap_or_default()) > now.plus(SKEW) {
        true => Err("it is from the future; check the clocks".into()),
        false => Ok(issued),
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::Algorithm;
    use serde_json::json;

    use super::*;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

    fn valid() -> Value {
        json!({
            "iss": "https://id.test", "aud": ["other", "api"], "sub": "1", "client_id": "ci",
            "iat": 1_800_000_000_u64, "exp": 1_800_000_300_u64,
        })
    }

    fn checked(kind: Option<&str>, claims: &Value) -> Result<AccessFacts, AccessTokenFailure> {
        let claims = claims.as_object().expect("an object").clone();
        let kind = kind.map(str::to_owned);
        let token = SignedToken { kind, algorithm: Algorithm::ES256, claims };
        check(&token, "https://id.test", &["api".to_owned()], NOW)
    }

    #[test]
    fn a_valid_access_token_names_its_subject() {
        let facts = checked(Some("at+jwt"), &valid()).expect("valid");
        assert_eq!((facts.subject.as_str(), facts.issued, facts.acr), ("1", NOW, None));
    }

    #[test]
    fn other_tokens_of_the_provider_are_no_access_tokens() {
        for kind in [None, Some("jwt"), Some("logout+jwt"), Some("at+jwt2")] {
            assert!(checked(kind, &valid()).is_err(), "{kind:?}");
        }
    }

    #[test]
    fn every_required_claim_is_checked() {
        let refused = |name: &str, value: Value| {
            let mut claims = valid();
            claims[name] = value;
            let result = checked(Some("at+jwt"), &claims);
            result.map(|_| ()).expect_err(&format!("{name}: {}", claims[name])).to_string()
        };
        for name in ["iss", "aud", "sub", "iat", "exp"] {
            for value in [Value::Null, json!({}), json!(true), json!("x")] {
                if (name, &value) != ("sub", &json!("x")) {
                    refused(name, value);
                }
            }
            let mut claims = valid();
            claims.as_object_mut().expect("an object").remove(name);
            assert!(checked(Some("at+jwt"), &claims).is_err(), "{name} is missing");
        }
        refused("iss", json!(["https://id.test"]));
        refused("aud", json!("https://id.test"));
        assert!(refused("exp", json!(1_799_999_940_u64)).contains("expired"));
        assert!(refused("iat", json!(1_800_000_061_u64)).contains("future"));
        assert!(refused("nbf", json!(1_800_000_061_u64)).contains("future"));
        assert!(refused("cnf", json!({ "jkt": "x" })).contains("bound"));
    }

    #[test]
    fn the_claimed_issuer_of_any_text_is_read() {
        let token = |claims: &str| format!("e30.{}.x", BASE64URL_NOPAD.encode(claims.as_bytes()));
        let issuer = claimed_issuer(&token(r#"{"iss":"https://id.test"}"#));
        assert_eq!(issuer.as_deref(), Some("https://id.test"));
        for text in ["", "opaque", "a.b.c", &token("{}"), &token("[]"), &token(r#"{"iss":1}"#)] {
            assert_eq!(claimed_issuer(text), None, "{text}");
        }
    }
}
