//! The rules for a logout token (OpenID Connect Back-Channel Logout 1.0, 2.6). Pure.

use std::time::Duration;

use serde_json::{Map, Value};

use super::claim_values::{SKEW, audience_contains, id, time};
use super::jws::SignedToken;
use super::login::LogoutToken;
use crate::clock::UnixMillis;

const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

/// Largest age of a token.
const MAX_AGE: Duration = Duration::from_secs(5 * 60);

/// Largest age of a token without `exp`, as old versions of Keycloak send.
const MAX_AGE_WITHOUT_EXPIRY: Duration = Duration::from_secs(2 * 60);

/// Returns the token of a form body. A repeated field is refused.
pub(super) fn from_form(body: &[u8]) -> Result<String, &'static str> {
    let mut found = None;
    for (name, value) in form_urlencoded::parse(body) {
        if name == "logout_token" && found.replace(value.into_owned()).is_some() {
            return Err("logout_token is repeated");
        }
    }
    found.ok_or("logout_token is missing")
}

/// Checks a logout token whose signature is valid.
pub(super) fn check(
    token: &SignedToken,
    issuer: &str,
    client_id: &str,
    now: UnixMillis,
) -> Result<LogoutToken, &'static str> {
    let claims = &token.claims;
    if !matches!(token.kind.as_deref(), None | Some("logout+jwt" | "jwt")) {
        return Err("its type is not logout+jwt");
    }
    check_origin(claims, issuer, client_id)?;
    let issued = check_times(claims, now)?;
    let subject = id(claims, "sub", "sub is invalid")?;
    let provider_session = id(claims, "sid", "sid is invalid")?;
    if subject.is_none() && provider_session.is_none() {
        return Err("it has neither sid nor sub");
    }
    Ok(LogoutToken {
        issuer: issuer.to_owned(),
        subject,
        provider_session,
        token_id: id(claims, "jti", "jti is invalid")?.ok_or("jti is missing")?,
        expires: issued.plus(MAX_AGE).plus(SKEW),
    })
}

fn check_origin(
    claims: &Map<String, Value>,
    issuer: &str,
    client_id: &str,
) -> Result<(), &'static str> {
    if claims.get("iss").and_then(Value::as_str) != Some(issuer) {
        return Err("its issuer is another one");
    }
    if !audience_contains(claims, client_id) {
        return Err("its audience is another client");
    }
    // An ID token has a nonce and no event; it must not end a session.
    if claims.contains_key("nonce") {
        return Err("it has a nonce");
    }
    match claims.get("events").and_then(|events| events.get(EVENT)) {
        Some(Value::Object(_)) => Ok(()),
        Some(_) | None => Err("it has no logout event"),
    }
}

/// Returns the time of issue.
fn check_times(claims: &Map<String, Value>, now: UnixMillis) -> Result<UnixMillis, &'static str> {
    let issued = time(claims, "iat", "iat is not a time")?.ok_or("iat is missing")?;
    if issued > now.plus(SKEW) {
        return Err("it is from the future; check the clocks");
    }
    let max_age = match time(claims, "exp", "exp is not a time")? {
        Some(expires) if expires.plus(SKEW) <= now => return Err("it has expired"),
        Some(_) => MAX_AGE,
        None => MAX_AGE_WITHOUT_EXPIRY,
    };
    match now.since(issued) <= max_age + SKEW {
        true => Ok(issued),
        false => Err("it is too old"),
    }
}
