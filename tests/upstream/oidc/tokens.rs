//! ID tokens and logout tokens that lie in one way.

use data_encoding::BASE64URL_NOPAD;
use doorward::oidc::{LogoutToken, LogoutTokenFailure};
use serde_json::{Value, json};
use test_support::identity_provider::seconds;
use test_support::jwt_signer::{JwtSigner, unsigned};

use super::Party;

/// Returns the refusal of an ID token that `tamper` changes.
async fn tampered(tamper: fn(&mut Value, &mut Value)) -> String {
    let party = Party::start().await;
    party.provider.set(|provider| provider.tamper = tamper);
    party.refusal().await
}

fn shift(claims: &mut Value, name: &str, by: i64) {
    claims[name] = (claims[name].as_i64().expect("a time") + by).into();
}

#[tokio::test]
async fn an_id_token_of_another_issuer_is_refused() {
    let refusal = tampered(|_, claims| claims["iss"] = "https://evil.test".into()).await;
    assert!(refusal.contains("its issuer is another one"), "{refusal}");
    let refusal = tampered(|_, claims| {
        claims["iss"] = json!([claims["iss"], "https://evil.test"]);
    });
    assert!(refusal.await.contains("its issuer is another one"));
}

#[tokio::test]
async fn an_id_token_for_another_client_is_refused() {
    let refusal = tampered(|_, claims| claims["aud"] = "other".into()).await;
    assert!(refusal.contains("its audience is another client"), "{refusal}");
    let refusal = tampered(|_, claims| drop(claims.as_object_mut().expect("claims").remove("aud")));
    assert!(refusal.await.contains("its audience is another client"));
    let refusal = tampered(|_, claims| claims["aud"] = json!(["doorward", "other"])).await;
    assert!(refusal.contains("azp"), "{refusal}");
    let refusal = tampered(|_, claims| claims["azp"] = "other".into()).await;
    assert!(refusal.contains("azp"), "{refusal}");
}

#[tokio::test]
async fn an_id_token_for_several_audiences_names_the_client() {
    let party = Party::start().await;
    party.provider.set(|provider| {
        provider.tamper = |_, claims| {
            claims["aud"] = json!(["other", "doorward"]);
            claims["azp"] = "doorward".into();
        };
    });
    assert!(party.login().await.is_ok());
}

#[tokio::test]
async fn an_id_token_with_another_nonce_is_refused() {
    for tamper in [
        (|_, claims| claims["nonce"] = "other".into()) as fn(&mut Value, &mut Value),
        |_, claims| drop(claims.as_object_mut().expect("claims").remove("nonce")),
        |_, claims| claims["nonce"] = json!([claims["nonce"]]),
    ] {
        let refusal = tampered(tamper).await;
        assert!(refusal.contains("its nonce belongs to another login"), "{refusal}");
    }
}

#[tokio::test]
async fn an_id_token_outside_its_time_is_refused() {
    let refusal = tampered(|_, claims| shift(claims, "exp", -361)).await;
    assert!(refusal.contains("it has expired"), "{refusal}");
    let refusal = tampered(|_, claims| shift(claims, "iat", 90)).await;
    assert!(refusal.contains("from the future"), "{refusal}");
    let refusal = tampered(|_, claims| claims["nbf"] = (seconds() + 90).into()).await;
    assert!(refusal.contains("from the future"), "{refusal}");
}

#[tokio::test]
async fn clocks_may_differ_by_a_minute() {
    let party = Party::start().await;
    for by in [-50, 50] {
        party.provider.set(|provider| {
            provider.tamper = match by {
                50 => |_, claims| shift(claims, "iat", 50),
                _ => |_, claims| shift(claims, "exp", -340),
            };
        });
        assert!(party.login().await.is_ok(), "{by} s");
    }
}

#[tokio::test]
async fn a_missing_or_mistyped_time_is_refused() {
    for tamper in [
        (|_, claims| claims["exp"] = claims["exp"].to_string().into())
            as fn(&mut Value, &mut Value),
        |_, claims| drop(claims.as_object_mut().expect("claims").remove("exp")),
        |_, claims| drop(claims.as_object_mut().expect("claims").remove("iat")),
        |_, claims| claims["exp"] = json!(null),
        |_, claims| claims["iat"] = json!(-1),
        |_, claims| claims["nbf"] = json!("0"),
        |_, claims| claims["exp"] = json!(1e300),
        |_, claims| claims["auth_time"] = json!({}),
    ] {
        let refusal = tampered(tamper).await;
        assert!(refusal.contains("is not a time") || refusal.contains("is missing"), "{refusal}");
    }
}

#[tokio::test]
async fn an_id_token_without_a_subject_is_refused() {
    for tamper in [
        (|_, claims| drop(claims.as_object_mut().expect("claims").remove("sub")))
            as fn(&mut Value, &mut Value),
        |_, claims| claims["sub"] = "".into(),
        |_, claims| claims["sub"] = 7.into(),
        |_, claims| claims["sub"] = "a\nb".into(),
        |_, claims| claims["sub"] = "x".repeat(256).into(),
    ] {
        let refusal = tampered(tamper).await;
        assert!(refusal.contains("sub is"), "{refusal}");
    }
}

#[tokio::test]
async fn an_id_token_for_another_access_token_is_refused() {
    for tamper in [
        (|_, claims| claims["at_hash"] = "AAAAAAAAAAAAAAAAAAAAAA".into())
            as fn(&mut Value, &mut Value),
        |_, claims| claims["at_hash"] = json!(null),
        |_, claims| claims["at_hash"] = "".into(),
    ] {
        let refusal = tampered(tamper).await;
        assert!(refusal.contains("at_hash"), "{refusal}");
    }
}

#[tokio::test]
async fn other_tokens_are_no_id_token() {
    let refusal = tampered(|header, _| header["typ"] = "at+jwt".into()).await;
    assert!(refusal.contains("its type is not JWT"), "{refusal}");
    let refusal = tampered(|header, _| header["typ"] = "application/logout+JWT".into()).await;
    assert!(refusal.contains("its type is not JWT"), "{refusal}");
    let refusal = tampered(|_, claims| claims["events"] = json!({})).await;
    assert!(refusal.contains("it is a logout token"), "{refusal}");
}

#[tokio::test]
async fn a_header_cannot_choose_key_or_algorithm() {
    let refusal = tampered(|header, _| header["alg"] = "none".into()).await;
    assert!(refusal.contains("algorithm is not accepted"), "{refusal}");
    let refusal = tampered(|header, _| header["alg"] = "HS256".into()).await;
    assert!(refusal.contains("algorithm is not accepted"), "{refusal}");
    let refusal = tampered(|header, _| header["alg"] = "RS256".into()).await;
    assert!(refusal.contains("no key of the provider"), "{refusal}");
    let refusal = tampered(|header, _| header["crit"] = json!(["x"])).await;
    assert!(refusal.contains("not a signed JWT"), "{refusal}");
}

#[tokio::test]
async fn an_embedded_key_does_not_verify_its_token() {
    let party = Party::start().await;
    let attacker = JwtSigner::p256("key-1");
    let mut header = attacker.header();
    header["jwk"] = attacker.jwk();
    header["jku"] = "http://127.0.0.1:1/keys".into();
    let token = attacker.sign(&header, &json!({ "sub": "user-1" }));
    party.provider.set(|provider| provider.id_token = Some(token));
    assert!(party.refusal().await.contains("its signature is invalid"));
}

#[tokio::test]
async fn forged_and_shapeless_id_tokens_are_refused() {
    let party = Party::start().await;
    let real = party.login().await.expect("a login").tokens.id_token.to_string();
    let (message, _) = real.rsplit_once('.').expect("a signature");
    let none = unsigned(&json!({ "alg": "none" }), &json!({ "sub": "user-1" }));
    let zeros = format!("{message}.{}", BASE64URL_NOPAD.encode(&[0; 64]));
    let encrypted = format!("{real}.a.b");
    let long = format!("{}{real}", "A".repeat(70_000));
    let none = format!("{none}.");
    for token in ["x", "..", "a.b.c", &none, &zeros, message, &encrypted, &long] {
        party.provider.set(|provider| provider.id_token = Some(token.to_owned()));
        let refusal = party.refusal().await;
        assert!(refusal.starts_with("the ID token is invalid: it"), "{token:.20}: {refusal}");
    }
    party.provider.set(|provider| provider.id_token = Some(String::new()));
    assert!(party.refusal().await.contains("it is missing"));
}

/// Returns the result for a logout token that `change` modifies.
async fn logout(change: impl FnOnce(&mut Value)) -> Result<LogoutToken, LogoutTokenFailure> {
    logout_of_kind("logout+jwt", change).await
}

async fn logout_of_kind(
    kind: &str,
    change: impl FnOnce(&mut Value),
) -> Result<LogoutToken, LogoutTokenFailure> {
    let party = Party::start().await;
    let mut claims = json!({
        "iss": party.provider.issuer(), "aud": "doorward", "iat": seconds(), "exp": seconds() + 120,
        "jti": "id-1", "sid": "session-1", "sub": "user-1",
        "events": { "http://schemas.openid.net/event/backchannel-logout": {} },
    });
    change(&mut claims);
    let token = party.provider.sign(kind, &claims);
    party.client.verify_logout_token(format!("logout_token={token}").as_bytes()).await
}

fn reason(result: Result<LogoutToken, LogoutTokenFailure>) -> &'static str {
    match result.expect_err("refused") {
        LogoutTokenFailure::Refused(reason) => reason,
        LogoutTokenFailure::Unavailable(unavailable) => panic!("{unavailable}"),
    }
}

fn remove(claims: &mut Value, name: &str) {
    claims.as_object_mut().expect("claims").remove(name);
}

#[tokio::test]
async fn a_logout_token_names_session_subject_and_replay_id() {
    let token = logout(|_| {}).await.expect("valid");
    assert_eq!(token.provider_session.as_deref(), Some("session-1"));
    assert_eq!((token.subject.as_deref(), token.token_id.as_str()), (Some("user-1"), "id-1"));
    assert!(token.expires.seconds() > seconds() + 300);
    let by_subject = logout(|claims| remove(claims, "sid")).await.expect("valid");
    assert_eq!(by_subject.provider_session, None);
    assert!(logout_of_kind("JWT", |_| {}).await.is_ok());
}

#[tokio::test]
async fn a_logout_token_without_expiry_is_valid_for_two_minutes() {
    let old = |age: u64| {
        logout(move |claims| {
            remove(claims, "exp");
            claims["iat"] = (seconds() - age).into();
        })
    };
    assert!(old(100).await.is_ok());
    assert_eq!(reason(old(200).await), "it is too old");
}

#[tokio::test]
async fn a_logout_token_needs_its_parties() {
    let issuer = logout(|claims| claims["iss"] = "https://evil.test".into()).await;
    assert_eq!(reason(issuer), "its issuer is another one");
    let audience = logout(|claims| claims["aud"] = json!(["other"])).await;
    assert_eq!(reason(audience), "its audience is another client");
}

#[tokio::test]
async fn a_logout_token_outside_its_time_is_refused() {
    let old = logout(|claims| claims["iat"] = (seconds() - 400).into()).await;
    assert_eq!(reason(old), "it is too old");
    let expired = logout(|claims| claims["exp"] = (seconds() - 61).into()).await;
    assert_eq!(reason(expired), "it has expired");
    let future = logout(|claims| claims["iat"] = (seconds() + 90).into()).await;
    assert!(reason(future).contains("future"));
    assert_eq!(reason(logout(|claims| remove(claims, "iat")).await), "iat is missing");
    assert_eq!(reason(logout(|claims| claims["exp"] = "1".into()).await), "exp is not a time");
}

#[tokio::test]
async fn a_logout_token_has_the_event_and_no_nonce() {
    assert_eq!(reason(logout(|claims| claims["nonce"] = "n".into()).await), "it has a nonce");
    for events in [json!({}), json!([]), json!({ "http://schemas.openid.net/event/other": {} })] {
        let missing = logout(|claims| claims["events"] = events).await;
        assert_eq!(reason(missing), "it has no logout event");
    }
}

#[tokio::test]
async fn a_logout_token_names_a_session_or_user_and_its_id() {
    let without_target = logout(|claims| {
        remove(claims, "sid");
        remove(claims, "sub");
    });
    assert_eq!(reason(without_target.await), "it has neither sid nor sub");
    assert_eq!(reason(logout(|claims| claims["sid"] = 1.into()).await), "sid is invalid");
    assert_eq!(reason(logout(|claims| remove(claims, "jti")).await), "jti is missing");
}

#[tokio::test]
async fn an_id_or_access_token_is_no_logout_token() {
    let party = Party::start().await;
    let id_token = party.login().await.expect("a login").tokens.id_token;
    let body = format!("logout_token={}", id_token.as_str());
    let result = party.client.verify_logout_token(body.as_bytes()).await;
    assert_eq!(reason(result), "it has a nonce");
    assert!(reason(logout_of_kind("at+jwt", |_| {}).await).contains("logout+jwt"));
}

#[tokio::test]
async fn a_logout_request_has_one_token_with_a_valid_signature() {
    let party = Party::start().await;
    for body in ["", "x=y", "logout_token=a&logout_token=b", "logout_token=a.b.c"] {
        reason(party.client.verify_logout_token(body.as_bytes()).await);
    }
    let forger = JwtSigner::p256("key-1");
    let token = forger.sign(&forger.header(), &json!({ "iat": seconds() }));
    let result = party.client.verify_logout_token(format!("logout_token={token}").as_bytes()).await;
    assert_eq!(reason(result), "its signature is invalid");
}
