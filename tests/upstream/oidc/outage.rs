//! A provider that is down, slow, or sends unusable answers: unavailable, never refused.

use std::time::{Duration, Instant};

use doorward::oidc::{
    LoginFailure, LogoutTokenFailure, ProviderStatus, RefreshFailure, RefreshRequest, StartRequest,
    WebUrl,
};
use serde_json::{Value, json};
use test_support::identity_provider::{IdentityProvider, Scripted};
use test_support::jwt_signer::JwtSigner;

use super::{BROWSER, Party, REDIRECT};

const DISCOVERY: &str = "/realm/.well-known/openid-configuration";

fn request() -> StartRequest {
    StartRequest { redirect_uri: REDIRECT.to_owned(), browser: BROWSER, ..StartRequest::default() }
}

/// Starts a provider whose response to a path is scripted from the beginning.
async fn scripted(path: &'static str, response: Scripted) -> Party {
    let provider = IdentityProvider::start().await;
    provider.set(|provider| drop(provider.responses.insert(path, response)));
    Party::of(provider, |settings| settings.timeout = Duration::from_millis(500))
}

async fn start_failure(party: &Party) -> String {
    party.client.start(&party.keys, &request()).await.expect_err("unavailable").to_string()
}

#[tokio::test]
async fn a_provider_that_returns_is_found_again() {
    let party = scripted(DISCOVERY, Scripted::Json(503, json!({}))).await;
    assert!(start_failure(&party).await.contains("status 503"));
    assert!(matches!(party.client.status(), ProviderStatus::Down(_)));
    party.provider.set(|provider| provider.responses.clear());
    let back = async { while party.client.start(&party.keys, &request()).await.is_err() {} };
    tokio::time::timeout(Duration::from_secs(20), back).await.expect("it returns");
    assert!(party.login().await.is_ok());
    assert_eq!(party.client.status(), ProviderStatus::Up);
}

#[tokio::test]
async fn metadata_of_another_issuer_are_not_used() {
    let document = json!({ "issuer": "https://evil.test" });
    let party = scripted(DISCOVERY, Scripted::Json(200, document)).await;
    assert!(start_failure(&party).await.contains("names another issuer, `https://evil.test`"));
}

#[tokio::test]
async fn metadata_without_a_needed_part_are_not_used() {
    let parts: [fn(&mut Value); 6] = [
        |document| document["token_endpoint"] = json!("http://evil.test/token"),
        |document| document["jwks_uri"] = json!(null),
        |document| document["authorization_endpoint"] = json!(7),
        |document| document["id_token_signing_alg_values_supported"] = json!(["HS256", "none"]),
        |document| document["code_challenge_methods_supported"] = json!(["plain"]),
        |document| document["issuer"] = json!(null),
    ];
    for change in parts {
        let provider = IdentityProvider::start().await;
        provider.set(|provider| change(&mut provider.metadata));
        let party = Party::of(provider, |_| {});
        assert!(start_failure(&party).await.starts_with("discovery: "));
    }
}

#[tokio::test]
async fn an_endless_or_silent_response_ends_at_its_limit() {
    let endless = || {
        let mut bytes = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
        bytes.extend(std::iter::repeat_n(b' ', 10 * 1024 * 1024));
        Scripted::Raw(bytes)
    };
    let party = scripted(DISCOVERY, endless()).await;
    assert!(start_failure(&party).await.contains("longer than 262144 bytes"));
    let silent = Scripted::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{".to_vec());
    let party = scripted(DISCOVERY, silent).await;
    let started = Instant::now();
    assert!(start_failure(&party).await.contains("no "));
    assert!(started.elapsed() < Duration::from_secs(3));
    let party = scripted("/keys", endless()).await;
    assert!(party.outage().await.starts_with("keys: "));
    let party = scripted("/token", endless()).await;
    assert!(party.outage().await.starts_with("token request: "));
}

#[tokio::test]
async fn a_redirect_of_an_endpoint_is_not_followed() {
    let moved = b"HTTP/1.1 307 X\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n";
    let party = scripted("/token", Scripted::Raw(moved.to_vec())).await;
    assert!(party.outage().await.contains("status 307"));
}

#[tokio::test]
async fn errors_about_the_client_are_not_about_the_user() {
    for error in ["invalid_client", "unauthorized_client", "invalid_request", "invalid_scope"] {
        let party = scripted("/token", Scripted::Json(400, json!({ "error": error }))).await;
        assert!(party.outage().await.ends_with(error));
    }
    for response in [Scripted::Json(500, json!({})), Scripted::Json(200, json!([]))] {
        let party = scripted("/token", response).await;
        assert!(party.outage().await.starts_with("token request: "));
    }
}

#[tokio::test]
async fn a_failed_group_lookup_is_an_outage() {
    for (status, body) in [
        (403, json!({ "error": { "code": "Authorization_RequestDenied" } })),
        (500, json!({})),
        (200, json!({ "value": "x" })),
        (200, json!({})),
    ] {
        let provider = IdentityProvider::start().await;
        let graph = format!("http://{}/v1.0", provider.address);
        let party = Party::of(provider, |settings| settings.graph = WebUrl::parse(&graph).ok());
        party.provider.set(|provider| {
            provider.claims.remove("groups");
            provider.claims.insert("_claim_names".into(), json!({ "groups": "src1" }));
            provider.responses.insert("/v1.0/me/getMemberGroups", Scripted::Json(status, body));
        });
        assert!(party.outage().await.starts_with("group look-up: "));
    }
}

#[tokio::test]
async fn a_failed_userinfo_request_is_an_outage() {
    let provider = IdentityProvider::start().await;
    provider.set(|provider| {
        provider.responses.insert("/userinfo", Scripted::Json(401, json!({})));
    });
    let party = Party::of(provider, |settings| settings.userinfo = true);
    assert!(party.outage().await.starts_with("UserInfo request: "));
}

#[tokio::test]
async fn a_new_key_is_fetched_when_its_first_token_arrives() {
    let party = Party::start().await;
    assert!(party.login().await.is_ok());
    party.provider.set(|provider| provider.keys = vec![JwtSigner::p256("key-2")]);
    party.clock.advance(Duration::from_secs(31));
    assert!(party.login().await.is_ok());
    assert_eq!(party.provider.requests("/keys").len(), 2);
}

#[tokio::test]
async fn tokens_with_unknown_keys_cause_one_fetch_in_30_seconds() {
    let party = Party::start().await;
    assert!(party.login().await.is_ok());
    let unknown_signer = JwtSigner::p256("unknown");
    let token = unknown_signer.sign(&unknown_signer.header(), &json!({}));
    let body = format!("logout_token={token}");
    for _ in 0..20 {
        let result = party.client.verify_logout_token(body.as_bytes()).await;
        assert!(matches!(result, Err(LogoutTokenFailure::Refused(_))));
    }
    assert_eq!(party.provider.requests("/keys").len(), 1, "the keys are younger than 30 s");
    party.clock.advance(Duration::from_secs(31));
    let flood = (0..20).map(|_| party.client.verify_logout_token(body.as_bytes()));
    for result in futures_util::future::join_all(flood).await {
        assert!(matches!(result, Err(LogoutTokenFailure::Refused(_))));
    }
    assert_eq!(party.provider.requests("/keys").len(), 2);
}

#[tokio::test]
async fn known_keys_are_used_for_a_day_while_new_ones_are_missing() {
    let party = Party::start().await;
    let url = party.start_login(StartRequest::default()).await;
    assert!(party.finish(&party.provider.authorize(&url)).await.is_ok());
    party.provider.set(|provider| {
        provider.responses.insert("/keys", Scripted::Json(500, json!({})));
    });
    party.clock.advance(Duration::from_secs(31));
    let unknown_signer = JwtSigner::p256("unknown");
    let token = unknown_signer.sign(&unknown_signer.header(), &json!({}));
    let body = format!("logout_token={token}");
    let result = party.client.verify_logout_token(body.as_bytes()).await;
    assert!(matches!(result, Err(LogoutTokenFailure::Unavailable(_))), "the keys may be old");
    assert!(party.login().await.is_ok(), "known keys");
    party.clock.advance(Duration::from_secs(24 * 60 * 60));
    assert!(party.outage().await.starts_with("keys: "), "keys of yesterday");
}

#[tokio::test]
async fn only_invalid_grant_ends_a_refresh() {
    let party = Party::start().await;
    party.provider.set(|provider| provider.sends_refresh_token = true);
    let login = party.login().await.expect("a login");
    let request = |token: &str| RefreshRequest {
        subject: "user-1".to_owned(),
        refresh_token: token.to_owned().into(),
    };
    let first = login.tokens.refresh_token.expect("a refresh token");
    party.provider.set(|provider| drop(provider.claims.insert("groups".into(), json!(["new"]))));
    let refreshed = party.client.refresh(&request(&first)).await.expect("refreshed");
    assert_eq!(refreshed.profile.expect("claims").groups, ["new"]);
    assert_ne!(*refreshed.refresh_token, *first);
    let used = party.client.refresh(&request(&first)).await;
    assert!(matches!(used, Err(RefreshFailure::Ended)));
    for response in
        [Scripted::Json(500, json!({})), Scripted::Json(401, json!({ "error": "invalid_client" }))]
    {
        party.provider.set(|provider| drop(provider.responses.insert("/token", response)));
        let failed = party.client.refresh(&request(&refreshed.refresh_token)).await;
        assert!(matches!(failed, Err(RefreshFailure::Unavailable(_))));
    }
}

#[tokio::test]
async fn a_refresh_of_another_user_is_refused() {
    let party = Party::start().await;
    party.provider.set(|provider| provider.sends_refresh_token = true);
    let login = party.login().await.expect("a login");
    party.provider.set(|provider| drop(provider.claims.insert("sub".into(), json!("user-2"))));
    let request = RefreshRequest {
        subject: "user-1".to_owned(),
        refresh_token: login.tokens.refresh_token.expect("a refresh token"),
    };
    let result = party.client.refresh(&request).await;
    assert!(matches!(result, Err(RefreshFailure::Refused(_))));
}

#[tokio::test]
async fn a_refresh_without_claims_keeps_token_and_identity() {
    let party = Party::start().await;
    let response = json!({ "access_token": "a", "token_type": "Bearer" });
    party.provider.set(|provider| {
        provider.responses.insert("/token", Scripted::Json(200, response));
    });
    let request =
        RefreshRequest { subject: "user-1".to_owned(), refresh_token: "kept".to_owned().into() };
    let refreshed = party.client.refresh(&request).await.expect("refreshed");
    assert!(refreshed.profile.is_none() && refreshed.id_token.is_none());
    assert_eq!(*refreshed.refresh_token, "kept");
}

#[tokio::test]
async fn a_login_during_an_outage_decides_nothing() {
    let party = Party::start().await;
    let url = party.start_login(StartRequest::default()).await;
    let callback = party.provider.authorize(&url);
    party.provider.set(|provider| {
        provider.responses.insert("/token", Scripted::Json(502, json!({})));
    });
    let failure = party.finish(&callback).await.expect_err("unavailable");
    assert!(matches!(failure, LoginFailure::Unavailable(_)), "{failure}");
    assert_eq!(party.client.status(), ProviderStatus::Down(failure.to_string()));
    party.provider.set(|provider| provider.responses.clear());
    assert!(party.finish(&callback).await.is_ok(), "the same code");
}
