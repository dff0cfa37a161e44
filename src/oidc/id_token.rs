//! The rules for an ID token (OpenID Connect Core 1.0, 3.1.3.7). Pure: the time is an argument.

use std::time::Duration;

use aws_lc_rs::digest;
use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::Algorithm;
use serde_json::{Map, Value};

use super::claim_values::{SKEW, audience_contains, id, time};
use super::failure::LoginRefusal;
use super::jws::SignedToken;
use crate::clock::UnixMillis;

/// What an ID token must state.
pub(super) struct ExpectedLogin<'a> {
    pub(super) issuer: &'a str,
    pub(super) client_id: &'a str,
    /// `None` for a refresh, whose token needs no nonce.
    pub(super) nonce: Option<&'a str>,
    /// Maximum age of the login at the time `requested`.
    pub(super) max_age: Option<Duration>,
    pub(super) requested: UnixMillis,
    /// Accepted authentication contexts; empty accepts all.
    pub(super) acr: &'a [String],
    /// The access token of the same response, for `at_hash`.
    pub(super) access_token: Option<&'a str>,
    pub(super) now: UnixMillis,
}

/// What a valid ID token states about the login.
#[derive(Debug)]
pub(super) struct LoginFacts {
    pub(super) subject: String,
    pub(super) provider_session: Option<String>,
    pub(super) authenticated: Option<UnixMillis>,
    pub(super) acr: Option<String>,
    pub(super) amr: Vec<String>,
}

/// Checks an ID token whose signature is valid.
pub(super) fn check(
    token: &SignedToken,
    expected: &ExpectedLogin<'_>,
) -> Result<LoginFacts, LoginRefusal> {
    check_kind(token).map_err(LoginRefusal::IdToken)?;
    let claims = &token.claims;
    check_parties(claims, expected).map_err(LoginRefusal::IdToken)?;
    check_times(claims, expected.now).map_err(LoginRefusal::IdToken)?;
    check_nonce(claims, expected.nonce).map_err(LoginRefusal::IdToken)?;
    check_access_token(token, expected.access_token).map_err(LoginRefusal::IdToken)?;
    let facts = facts(claims).map_err(LoginRefusal::IdToken)?;
    check_age(&facts, expected)?;
    check_context(&facts, expected.acr)?;
    Ok(facts)
}

/// Access tokens and logout tokens of the same client have the same signer and audience.
fn check_kind(token: &SignedToken) -> Result<(), &'static str> {
    if !matches!(token.kind.as_deref(), None | Some("jwt" | "id_token+jwt")) {
        return Err("its type is not JWT");
    }
    match token.claims.contains_key("events") {
        true => Err("it is a logout token"),
        false => Ok(()),
    }
}

fn check_parties(
    claims: &Map<String, Value>,
    expected: &ExpectedLogin<'_>,
) -> Result<(), &'static str> {
    if claims.get("iss").and_then(Value::as_str) != Some(expected.issuer) {
        return Err("its issuer is another one");
    }
    if !audience_contains(claims, expected.client_id) {
        return Err("its audience is another client");
    }
    let has_several = claims.get("aud").and_then(Value::as_array).is_some_and(|all| all.len() > 1);
    match claims.get("azp") {
        Some(party) if party.as_str() == Some(expected.client_id) => Ok(()),
        None if !has_several => Ok(()),
        Some(_) | None => Err("it was issued to another client (azp)"),
    }
}

fn check_times(claims: &Map<String, Value>, now: UnixMillis) -> Result<(), &'static str> {
    let expires = time(claims, "exp", "exp is not a time")?.ok_or("exp is missing")?;
    if expires.plus(SKEW) <= now {
        return Err("it has expired");
    }
    let issued = time(claims, "iat", "iat is not a time")?.ok_or("iat is missing")?;
    let not_before = time(claims, "nbf", "nbf is not a time")?;
    match issued.max(not_before.unwrap_or_default()) > now.plus(SKEW) {
        true => Err("it is from the future; check the clocks"),
        false => Ok(()),
    }
}

fn check_nonce(claims: &Map<String, Value>, expected: Option<&str>) -> Result<(), &'static str> {
    match expected {
        Some(nonce) if claims.get("nonce").and_then(Value::as_str) != Some(nonce) => {
            Err("its nonce belongs to another login")
        }
        Some(_) | None => Ok(()),
    }
}

/// `at_hash` is the left half of the access token's hash (3.1.3.6).
fn check_access_token(token: &SignedToken, access: Option<&str>) -> Result<(), &'static str> {
    let Some(hash) = token.claims.get("at_hash") else { return Ok(()) };
    let access = access.ok_or("it has a hash of a missing access token")?;
    let digest = digest::digest(hash_of(token.algorithm), access.as_bytes());
    let half = digest.as_ref().get(..digest.as_ref().len() / 2).unwrap_or_default();
    match hash.as_str() == Some(BASE64URL_NOPAD.encode(half).as_str()) {
        true => Ok(()),
        false => Err("it belongs to another access token (at_hash)"),
    }
}

fn hash_of(algorithm: Algorithm) -> &'static digest::Algorithm {
    if matches!(algorithm, Algorithm::RS384 | Algorithm::PS384 | Algorithm::ES384) {
        &digest::SHA384
    } else if matches!(algorithm, Algorithm::RS512 | Algorithm::PS512 | Algorithm::EdDSA) {
        &digest::SHA512
    } else {
        &digest::SHA256
    }
}

fn facts(claims: &Map<String, Value>) -> Result<LoginFacts, &'static str> {
    let methods = claims.get("amr").and_then(Value::as_array);
    let methods = methods.into_iter().flatten().filter_map(Value::as_str);
    Ok(LoginFacts {
        subject: id(claims, "sub", "sub is invalid")?.ok_or("sub is missing")?,
        provider_session: id(claims, "sid", "sid is invalid")?,
        authenticated: time(claims, "auth_time", "auth_time is not a time")?,
        acr: id(claims, "acr", "acr is invalid")?,
        amr: methods.map(str::to_owned).collect(),
    })
}

fn check_age(facts: &LoginFacts, expected: &ExpectedLogin<'_>) -> Result<(), LoginRefusal> {
    let Some(max_age) = expected.max_age else { return Ok(()) };
    let Some(at) = facts.authenticated else {
        return Err(LoginRefusal::IdToken("auth_time is missing, although max_age was requested"));
    };
    if at > expected.now.plus(SKEW) {
        return Err(LoginRefusal::IdToken("auth_time is in the future; check the clocks"));
    }
    match expected.requested.since(at) <= max_age + SKEW {
        true => Ok(()),
        false => Err(LoginRefusal::TooOld),
    }
}

fn check_context(facts: &LoginFacts, accepted: &[String]) -> Result<(), LoginRefusal> {
    let is_accepted = |acr: &String| accepted.contains(acr);
    match accepted.is_empty() || facts.acr.as_ref().is_some_and(is_accepted) {
        true => Ok(()),
        false => Err(LoginRefusal::Context),
    }
}
