//! Logins that are refused: the callback, the code, the account.

use std::time::Duration;

use doorward::oidc::{
    AllowRules, LoginFailure, LoginRefusal, PendingLogin, StartRequest, StateError,
};
use serde_json::json;

use super::{BROWSER, Party, REDIRECT, parameter};

#[tokio::test]
async fn a_callback_of_another_issuer_is_refused() {
    let party = Party::start().await;
    let url = party.start_login(StartRequest::default()).await;
    let callback = party.provider.authorize(&url);
    let foreign = callback.replace("iss=http", "iss=https");
    let failure = party.finish(&foreign).await.expect_err("refused");
    assert!(matches!(failure, LoginFailure::Refused(LoginRefusal::CallbackIssuer(_))), "{failure}");
    assert_eq!(party.provider.requests("/token").len(), 0, "the code stays secret");
}

#[tokio::test]
async fn an_unadvertised_issuer_is_compared_nevertheless() {
    let party = Party::start().await;
    party.provider.set(|provider| {
        let name = "authorization_response_iss_parameter_supported";
        provider.metadata.as_object_mut().expect("an object").remove(name);
    });
    let url = party.start_login(StartRequest::default()).await;
    let callback = party.provider.authorize(&url);
    let failure = party.finish(&callback.replace("iss=http", "iss=https")).await;
    let failure = failure.expect_err("refused");
    assert!(matches!(failure, LoginFailure::Refused(LoginRefusal::CallbackIssuer(_))), "{failure}");
    party.provider.set(|provider| provider.sends_issuer = false);
    assert!(party.login().await.is_ok(), "without an issuer");
}

#[tokio::test]
async fn a_callback_without_the_promised_issuer_is_refused() {
    let party = Party::start().await;
    party.provider.set(|provider| provider.sends_issuer = false);
    assert_eq!(party.refusal().await, "the callback is invalid: `iss` is missing");
}

#[tokio::test]
async fn a_code_is_redeemed_once() {
    let party = Party::start().await;
    let url = party.start_login(StartRequest::default()).await;
    let callback = party.provider.authorize(&url);
    assert!(party.finish(&callback).await.is_ok());
    let failure = party.finish(&callback).await.expect_err("refused");
    assert!(matches!(failure, LoginFailure::Refused(LoginRefusal::Code(_))), "{failure}");
}

#[tokio::test]
async fn a_code_of_another_login_is_refused() {
    let party = Party::start().await;
    let mine = party.start_login(StartRequest::default()).await;
    let other = party.start_login(StartRequest::default()).await;
    let state = |url: &str| parameter(url, "state").expect("a state");
    let mixed = party.provider.authorize(&other).replace(&state(&other), &state(&mine));
    let failure = party.finish(&mixed).await.expect_err("refused");
    // The provider refuses the code verifier.
    assert!(matches!(failure, LoginFailure::Refused(LoginRefusal::Code(_))), "{failure}");
}

#[tokio::test]
async fn a_state_is_refused_in_another_browser_and_after_an_hour() {
    let party = Party::start().await;
    let url = party.start_login(StartRequest::default()).await;
    let state = parameter(&url, "state").expect("a state");
    let now = party.clock.now();
    let foreign = PendingLogin::open(&party.keys, "corp", [8; 16], &state, now);
    assert_eq!(foreign.expect_err("refused"), StateError::Foreign);
    party.clock.advance(Duration::from_secs(3600));
    let failure = party.finish(&party.provider.authorize(&url)).await.expect_err("refused");
    assert!(matches!(failure, LoginFailure::State(StateError::Expired)), "{failure}");
    assert_eq!(BROWSER.len(), 16);
}

#[tokio::test]
async fn an_error_of_the_provider_is_reported_without_control_bytes() {
    let party = Party::start().await;
    let url = party.start_login(StartRequest::default()).await;
    let state = parameter(&url, "state").expect("a state");
    let issuer = party.provider.issuer();
    let query = |rest: &str| format!("{REDIRECT}?state={state}&iss={issuer}&{rest}");
    let failure = party.finish(&query("error=access_denied")).await.expect_err("refused");
    assert_eq!(failure.code(), "cancelled");
    let noisy = query("error=server_error&error_description=a%0D%0Ab");
    let failure = party.finish(&noisy).await.expect_err("refused");
    assert_eq!(failure.to_string(), "the provider reports `server_error`: ab");
    let both = party.finish(&query("error=x&code=y")).await.expect_err("refused");
    assert!(matches!(both, LoginFailure::Refused(LoginRefusal::Callback(_))), "{both}");
}

#[tokio::test]
async fn an_old_login_does_not_count_as_a_fresh_one() {
    let party = Party::start().await;
    party.provider.set(|provider| {
        provider.tamper = |_, claims| {
            claims["auth_time"] = (claims["auth_time"].as_u64().expect("a time") - 700).into();
        };
    });
    let fresh = StartRequest { max_age: Some(Duration::from_secs(600)), ..StartRequest::default() };
    let failure = party.login_with(fresh.clone()).await.expect_err("refused");
    assert!(matches!(failure, LoginFailure::Refused(LoginRefusal::TooOld)), "{failure}");
    party.provider.set(|provider| {
        provider.tamper = |_, claims| {
            drop(claims.as_object_mut().expect("claims").remove("auth_time"));
        };
    });
    let failure = party.login_with(fresh).await.expect_err("refused").to_string();
    assert!(failure.contains("auth_time is missing"), "{failure}");
}

#[tokio::test]
async fn a_login_without_a_requested_context_is_refused() {
    let party = Party::with(|settings| settings.acr = vec!["gold".to_owned()]).await;
    for acr in [json!("silver"), json!(null)] {
        party.provider.set(|provider| drop(provider.claims.insert("acr".into(), acr)));
        let failure = party.login().await.expect_err("refused");
        let code = failure.code();
        assert!(code == "context" || code == "id-token", "{failure}");
    }
    party.provider.set(|provider| drop(provider.claims.remove("acr")));
    assert_eq!(party.login().await.expect_err("refused").code(), "context");
}

#[tokio::test]
async fn allow_rules_refuse_users_who_do_not_match() {
    let party = Party::with(|settings| {
        settings.allow = AllowRules {
            groups: vec!["staff".to_owned()],
            domains: vec!["example.com".to_owned()],
            claims: Vec::new(),
        };
    });
    let party = party.await;
    assert!(party.login().await.is_ok());
    party.provider.set(|provider| drop(provider.claims.insert("groups".into(), json!(["x"]))));
    assert_eq!(party.login().await.expect_err("refused").code(), "not-allowed");
    party.provider.set(|provider| {
        provider.claims.insert("groups".into(), json!(["staff"]));
        provider.claims.insert("email_verified".into(), json!(false));
    });
    assert_eq!(party.login().await.expect_err("refused").code(), "not-allowed");
}

#[tokio::test]
async fn an_address_with_two_at_signs_is_no_address() {
    let party = Party::with(|settings| settings.allow.domains = vec!["example.com".to_owned()]);
    let party = party.await;
    let address = json!("mallory@evil.test@example.com");
    party.provider.set(|provider| drop(provider.claims.insert("email".into(), address)));
    assert_eq!(party.login().await.expect_err("refused").code(), "not-allowed");
}

#[tokio::test]
async fn an_unverified_address_becomes_no_user_name() {
    let party = Party::start().await;
    party.provider.set(|provider| {
        provider.claims.remove("preferred_username");
        provider.claims.insert("email_verified".into(), json!("false"));
    });
    let login = party.login().await.expect("a login");
    assert_eq!((login.profile.user.as_str(), login.profile.email), ("user-1", None));
    party.provider.set(|provider| {
        provider.claims.insert("email_verified".into(), json!("true"));
        provider.claims.insert("email".into(), json!("a@b@c"));
    });
    assert_eq!(party.login().await.expect("a login").profile.user, "user-1");
}

#[tokio::test]
async fn unusable_user_names_refuse_the_login() {
    let party = Party::start().await;
    for name in ["a,b", "a:b", "a\nb", " a", &"x".repeat(129)] {
        let name = json!(name.replace("\\n", "\n"));
        party.provider.set(|provider| {
            drop(provider.claims.insert("preferred_username".into(), name.clone()));
        });
        assert_eq!(party.login().await.expect_err("refused").code(), "claims", "{name}");
    }
}

#[tokio::test]
async fn more_than_1000_groups_or_16_kib_refuse_the_login() {
    let party = Party::start().await;
    let names = |count: usize, length: usize| -> Vec<String> {
        (0..count).map(|at| format!("{at:0length$}")).collect()
    };
    for (groups, is_accepted) in
        [(names(1000, 4), true), (names(1001, 4), false), (names(17, 1000), false)]
    {
        party.provider.set(|provider| {
            drop(provider.claims.insert("groups".into(), json!(groups)));
        });
        let result = party.login().await;
        assert_eq!(result.is_ok(), is_accepted, "{} groups", groups.len());
    }
}

#[tokio::test]
async fn omitted_groups_without_a_lookup_refuse_the_login() {
    let party = Party::start().await;
    party.provider.set(|provider| {
        provider.claims.remove("groups");
        provider.claims.insert("hasgroups".into(), json!(true));
    });
    assert!(party.refusal().await.contains("set `graph`"));
}

#[tokio::test]
async fn groups_of_another_shape_refuse_the_login() {
    let party = Party::start().await;
    for groups in [json!({ "a": 1 }), json!([1]), json!(true), json!(["a,b"]), json!([["a"]])] {
        party
            .provider
            .set(|provider| drop(provider.claims.insert("groups".into(), groups.clone())));
        assert_eq!(party.login().await.expect_err("refused").code(), "claims", "{groups}");
    }
}

#[tokio::test]
async fn userinfo_of_another_subject_refuses_the_login() {
    let party = Party::with(|settings| settings.userinfo = true).await;
    party.provider.set(|provider| provider.userinfo = json!({ "sub": "user-2" }));
    assert!(party.refusal().await.contains("UserInfo belongs to another subject"));
}
