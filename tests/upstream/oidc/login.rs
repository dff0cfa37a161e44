//! Logins that succeed, and what the gateway sends for them.

use std::time::Duration;

use doorward::oidc::{
    ClaimPath, EndSession, EndSessionRequest, ProviderStatus, StartRequest, WebUrl,
};
use serde_json::json;
use test_support::identity_provider::Scripted;
use test_support::jwt_signer::JwtSigner;

use super::{Party, REDIRECT, parameter};

#[tokio::test]
async fn a_login_returns_issuer_subject_and_mapped_claims() {
    let party = Party::start().await;
    let login = party.login().await.expect("a login");
    assert_eq!((login.issuer, login.subject.as_str()), (party.provider.issuer(), "user-1"));
    assert_eq!(login.provider_session.as_deref(), Some("session-1"));
    assert_eq!(login.profile.user, "alice");
    assert_eq!(login.profile.email.as_deref(), Some("alice@example.com"));
    assert_eq!(login.profile.groups, ["staff"]);
    assert!(login.authenticated.is_some());
    assert!(login.tokens.id_token.split('.').count() == 3 && login.tokens.refresh_token.is_none());
    assert_eq!(party.client.status(), ProviderStatus::Up);
}

#[tokio::test]
async fn an_authorization_request_has_pkce_nonce_and_openid() {
    let party = Party::with(|settings| settings.scopes = vec!["openid".into(), "groups".into()]);
    let party = party.await;
    let url = party.start_login(StartRequest::default()).await;
    let get = |name: &str| parameter(&url, name).unwrap_or_default();
    assert_eq!(get("response_type"), "code");
    assert_eq!(get("code_challenge_method"), "S256");
    assert_eq!((get("code_challenge").len(), get("nonce").len()), (43, 22));
    assert_eq!((get("scope").as_str(), get("redirect_uri").as_str()), ("openid groups", REDIRECT));
    for absent in ["max_age", "acr_values", "prompt", "response_mode"] {
        assert_eq!(parameter(&url, absent), None);
    }
    let again = party.start_login(StartRequest::default()).await;
    assert_ne!(parameter(&again, "nonce"), parameter(&url, "nonce"));
    assert_ne!(parameter(&again, "state"), parameter(&url, "state"));
}

#[tokio::test]
async fn two_tabs_of_one_browser_log_in_independently() {
    let party = Party::start().await;
    let one = party.start_login(StartRequest::default()).await;
    let two = party.start_login(StartRequest::default()).await;
    let (one, two) = (party.provider.authorize(&one), party.provider.authorize(&two));
    assert!(party.finish(&two).await.is_ok());
    assert!(party.finish(&one).await.is_ok());
}

#[tokio::test]
async fn every_accepted_key_type_verifies_an_id_token() {
    let party = Party::start().await;
    for signer in [JwtSigner::rsa("r"), JwtSigner::ed25519("e"), JwtSigner::p256("p")] {
        let algorithm = signer.algorithm();
        party.provider.set(|provider| provider.keys = vec![signer]);
        party.clock.advance(Duration::from_secs(31));
        assert!(party.login().await.is_ok(), "{algorithm}");
    }
}

#[tokio::test]
async fn a_token_without_key_id_is_verified_by_any_fitting_key() {
    let party = Party::start().await;
    party.provider.set(|provider| {
        provider.keys = vec![JwtSigner::p256("a"), JwtSigner::rsa("b"), JwtSigner::p256("c")];
        provider.tamper = |header, _| drop(header.as_object_mut().expect("a header").remove("kid"));
    });
    assert!(party.login().await.is_ok());
}

#[tokio::test]
async fn a_fresh_login_sends_max_age_and_checks_auth_time() {
    let party = Party::with(|settings| settings.max_age = Some(Duration::from_secs(3600))).await;
    let fresh = StartRequest { max_age: Some(Duration::from_secs(600)), ..StartRequest::default() };
    let url = party.start_login(fresh.clone()).await;
    assert_eq!(parameter(&url, "max_age").as_deref(), Some("600"));
    let url = party.start_login(StartRequest::default()).await;
    assert_eq!(parameter(&url, "max_age").as_deref(), Some("3600"));
    assert!(party.login_with(fresh).await.is_ok());
}

#[tokio::test]
async fn a_requested_context_is_sent_and_accepted() {
    let party = Party::start().await;
    party.provider.set(|provider| drop(provider.claims.insert("acr".into(), "gold".into())));
    let request =
        StartRequest { acr: vec!["gold".into(), "silver".into()], ..StartRequest::default() };
    let url = party.start_login(request.clone()).await;
    assert_eq!(parameter(&url, "acr_values").as_deref(), Some("gold silver"));
    let login = party.login_with(request).await.expect("a login");
    assert_eq!(login.acr.as_deref(), Some("gold"));
}

#[tokio::test]
async fn pushed_parameters_do_not_appear_in_the_url() {
    let party = Party::start().await;
    party.provider.set(|provider| {
        provider.metadata["require_pushed_authorization_requests"] = json!(true);
    });
    let url = party.start_login(StartRequest::default()).await;
    let query = url.split_once('?').expect("a query").1;
    let names: Vec<_> = form_urlencoded::parse(query.as_bytes()).map(|(name, _)| name).collect();
    assert_eq!(names, ["client_id", "request_uri"]);
    let pushed = party.provider.requests("/par");
    assert!(pushed[0].field("state").len() > 100 && pushed[0].field("code_challenge").len() == 43);
    assert!(party.finish(&party.provider.authorize(&url)).await.is_ok());
}

#[tokio::test]
async fn userinfo_adds_claims_and_replaces_no_signed_ones() {
    let party = Party::with(|settings| settings.userinfo = true).await;
    party.provider.set(|provider| {
        provider.claims.remove("groups");
        provider.userinfo =
            json!({ "sub": "user-1", "groups": ["info"], "preferred_username": "mallory" });
    });
    let login = party.login().await.expect("a login");
    assert_eq!((login.profile.user.as_str(), login.profile.groups), ("alice", vec!["info".into()]));
}

#[tokio::test]
async fn omitted_groups_are_looked_up_at_the_configured_address() {
    let provider = test_support::identity_provider::IdentityProvider::start().await;
    let graph = format!("http://{}/v1.0", provider.address);
    let party = Party::of(provider, |settings| settings.graph = WebUrl::parse(&graph).ok());
    party.provider.set(|provider| {
        provider.claims.remove("groups");
        provider.claims.insert("_claim_names".into(), json!({ "groups": "src1" }));
        let source = json!({ "src1": { "endpoint": "http://127.0.0.1:1/stolen" } });
        provider.claims.insert("_claim_sources".into(), source);
        let groups = json!({ "value": ["id-1", "id-2"] });
        provider.responses.insert("/v1.0/me/getMemberGroups", Scripted::Json(200, groups));
    });
    let login = party.login().await.expect("a login");
    assert_eq!(login.profile.groups, ["id-1", "id-2"]);
    let request = &party.provider.requests("/v1.0/me/getMemberGroups")[0];
    assert!(request.head.contains("Bearer access-") || request.head.contains("bearer access-"));
}

#[tokio::test]
async fn groups_of_several_nested_claims_are_united() {
    let path = |names: &[&str]| {
        ClaimPath::new(names.iter().map(|name| (*name).to_owned()).collect()).expect("a path")
    };
    let party = Party::with(|settings| {
        settings.claims.groups =
            vec![path(&["realm_access", "roles"]), path(&["resource_access", "a.b", "roles"])];
    });
    let party = party.await;
    party.provider.set(|provider| {
        provider.claims.insert("realm_access".into(), json!({ "roles": ["user", "admin"] }));
        let resource = json!({ "a.b": { "roles": ["admin", "editor"] } });
        provider.claims.insert("resource_access".into(), resource);
    });
    let login = party.login().await.expect("a login");
    assert_eq!(login.profile.groups, ["admin", "editor", "user"]);
}

#[tokio::test]
async fn a_logout_at_the_provider_is_a_redirect_or_a_form() {
    let party = Party::start().await;
    assert_eq!(party.client.end_session(&EndSessionRequest::default()), None, "not known yet");
    let login = party.login().await.expect("a login");
    let request = EndSessionRequest {
        id_token_hint: Some(login.tokens.id_token.clone()),
        post_logout_redirect_uri: Some("https://app.test/".to_owned()),
        state: Some("s".to_owned()),
        logout_hint: None,
    };
    let Some(EndSession::Redirect(url)) = party.client.end_session(&request) else {
        panic!("a redirect")
    };
    assert_eq!(parameter(&url, "id_token_hint").as_deref(), Some(login.tokens.id_token.as_str()));
    assert_eq!(parameter(&url, "client_id").as_deref(), Some("doorward"));
    assert_eq!(parameter(&url, "state").as_deref(), Some("s"));
    let long = EndSessionRequest { id_token_hint: Some("x".repeat(5000).into()), ..request };
    let Some(EndSession::Form { action, fields }) = party.client.end_session(&long) else {
        panic!("a form")
    };
    assert!(action.ends_with("/logout"));
    let names: Vec<_> = fields.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["client_id", "id_token_hint", "post_logout_redirect_uri", "state"]);
}
