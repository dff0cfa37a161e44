//! Personal access tokens of accounts at an OpenID Connect provider.

use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};

use test_support::browser::{Browser, Response};
use test_support::gateway::{Gateway, Setup, manual_clock};
use test_support::oidc_server::OidcServer;
use test_support::upstream::Upstream;

use super::oidc::{return_from, start};

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const PAGE: &str = "/.doorward/tokens";

struct TokenTest {
    provider: OidcServer,
    upstream: Upstream,
    gateway: Gateway,
    browser: Browser,
    token: String,
}

impl TokenTest {
    /// Alice has logged in at the provider and has created a token for 90 days.
    async fn new(provider_keys: &str) -> TokenTest {
        let clock = manual_clock();
        let provider = OidcServer::start(clock.clone()).await;
        let upstream = Upstream::start().await;
        let route = |path: &str, access: &str| {
            format!(
                "[[route]]\nhost = \"app.test\"\npath = \"{path}\"\nupstream = \"http://{}\"\naccess = {access}\ntokens = true\n",
                upstream.address
            )
        };
        let routes = route("/", "{ logins = [\"corp\"] }")
            + &route("/staff", "{ groups = [\"staff\"] }")
            + &route("/file", "{ logins = [\"password\"] }");
        let extra = provider.configuration(provider_keys);
        let gateway = Gateway::start(Setup { routes, extra, clock, ..Setup::default() });
        let browser = Browser::new(&gateway);
        let token = String::new();
        let mut test = TokenTest { provider, upstream, gateway, browser, token };
        test.log_in().await;
        test.token = test.create().await;
        test
    }

    async fn log_in(&mut self) {
        self.browser = Browser::new(&self.gateway);
        let url = start(&mut self.browser, "/").await;
        let done = return_from(&mut self.browser, &self.provider.authorize(&url)).await;
        assert_eq!(done.status, StatusCode::SEE_OTHER, "{}", done.text());
    }

    async fn create(&mut self) -> String {
        let sessions = self.browser.navigate("/.doorward/sessions").await;
        assert!(sessions.text().contains(PAGE), "the sessions page links to the tokens");
        let csrf = self.browser.navigate(PAGE).await.form_field("csrf");
        let fields = [("do", "create"), ("name", "git"), ("days", "90"), ("csrf", &csrf)];
        let html = self.browser.post_form(PAGE, &fields).await.text();
        let token = html.split("value=\"dwp_").nth(1).and_then(|rest| rest.split('"').next());
        format!("dwp_{}", token.unwrap_or_else(|| panic!("{html}")))
    }

    async fn get(&self, path: &str) -> Response {
        let authorization = format!("Bearer {}", self.token);
        let headers = [("authorization", authorization.as_str())];
        Browser::new(&self.gateway).send("GET", path, &headers, "").await
    }

    async fn outcome(&self, path: &str) -> (u16, String) {
        let answer = self.get(path).await;
        let body: Value = serde_json::from_str(&answer.text()).unwrap_or_default();
        (answer.status.as_u16(), body["reason"].as_str().unwrap_or_default().to_owned())
    }
}

fn refused(status: u16, reason: &str) -> (u16, String) {
    (status, reason.to_owned())
}

#[tokio::test]
async fn a_token_of_a_provider_account_outlives_its_session() {
    let test = TokenTest::new("").await;
    assert_eq!(test.get("/staff").await.status, StatusCode::OK);
    assert_eq!(test.upstream.last_values("x-forwarded-user"), ["alice"]);
    assert_eq!(test.upstream.last_values("x-forwarded-groups"), ["staff"]);
    assert_eq!(test.outcome("/file").await, refused(403, "token-needs-session"));
    test.gateway.advance(20 * DAY);
    assert_eq!(test.get("/").await.status, StatusCode::OK, "the session is long over");
}

#[tokio::test]
async fn an_operator_lists_and_deletes_tokens_by_the_shown_name() {
    let test = TokenTest::new("").await;
    test.gateway.advance(20 * DAY);
    let listed = test.gateway.admin("GET", "/tokens?user=alice").await;
    let body = listed.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let tokens: Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("{listed}"));
    assert_eq!(tokens.as_array().map(Vec::len), Some(1), "{listed}");
    let handle = tokens[0]["token"].as_str().expect("a handle");
    test.gateway.admin_post(&format!("/tokens/delete?user=alice&token={handle}")).await;
    assert_eq!(test.outcome("/").await, refused(401, "token-unknown"));
}

#[tokio::test]
async fn a_revocation_by_name_revokes_tokens_of_provider_accounts() {
    let test = TokenTest::new("").await;
    test.gateway.advance(20 * DAY);
    test.gateway.revoke("user=alice").await;
    assert_eq!(test.outcome("/").await, refused(401, "token-revoked"));
}

#[tokio::test]
async fn an_account_that_is_not_confirmed_for_30_days_has_no_tokens() {
    let mut test = TokenTest::new("").await;
    test.gateway.advance(31 * DAY);
    assert_eq!(test.outcome("/").await, refused(401, "token-account"));
    test.log_in().await;
    assert_eq!(test.outcome("/").await.0, 200, "a login confirms the account");
    test.gateway.advance(29 * DAY);
    assert_eq!(test.outcome("/").await.0, 200);
}

#[tokio::test]
async fn a_login_with_other_groups_changes_the_rights_of_tokens() {
    let mut test = TokenTest::new("").await;
    test.provider.set_user("subject-1", json!({ "preferred_username": "alice", "groups": ["it"] }));
    test.log_in().await;
    assert_eq!(test.outcome("/staff").await.0, 403);
    assert_eq!(test.outcome("/").await.0, 200);
}

#[tokio::test]
async fn a_recheck_changes_suspends_and_restores_tokens() {
    let mut test = TokenTest::new("recheck = \"5m\"").await;
    test.provider.set_user("subject-1", json!({ "preferred_username": "alice", "groups": ["it"] }));
    test.gateway.advance(11 * MINUTE);
    assert_eq!(test.browser.fetch("/").await.status, StatusCode::OK);
    assert_eq!(test.outcome("/staff").await.0, 403, "the groups of the recheck apply");
    test.provider.revoke_grants();
    test.gateway.advance(11 * MINUTE);
    assert_eq!(test.browser.fetch("/").await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(test.outcome("/").await, refused(401, "token-account"));
    test.log_in().await;
    assert_eq!(test.outcome("/").await.0, 200);
}

#[tokio::test]
async fn a_logout_of_the_account_at_the_provider_revokes_tokens() {
    let test = TokenTest::new("").await;
    test.gateway.advance(MINUTE);
    let form = test.provider.logout_form(None, Some("subject-1"));
    let headers = [("content-type", "application/x-www-form-urlencoded")];
    let page = "/.doorward/oidc/corp/backchannel-logout";
    let done = Browser::new(&test.gateway).send("POST", page, &headers, &form).await;
    assert_eq!(done.status, StatusCode::OK, "{}", done.text());
    assert_eq!(test.outcome("/").await, refused(401, "token-revoked"));
}

#[tokio::test]
async fn a_provider_that_is_not_configured_confirms_no_token() {
    let test = TokenTest::new("").await;
    let text = test.gateway.config_text().replace("login.oidc.corp", "login.oidc.other");
    test.gateway.set_config_text(&text.replace("logins = [\"corp\"]", "logins = [\"other\"]"));
    test.gateway.reload(doorward::admin::ReloadMode::Apply);
    assert_eq!(test.outcome("/").await, refused(401, "token-account"));
}
