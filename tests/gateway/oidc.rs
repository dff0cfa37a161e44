//! Logins at an OpenID Connect provider, through the whole gateway.

use std::sync::Arc;
use std::time::{Duration, Instant};

use doorward::admin::ReloadMode;
use http::StatusCode;
use serde_json::json;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use test_support::browser::{Browser, Response};
use test_support::gateway::{Gateway, Setup, manual_clock};
use test_support::oidc_server::OidcServer;
use test_support::redis_server::{RedisOptions, RedisServer};
use test_support::upstream::Upstream;

use super::websocket::{self, Echo};

const MINUTE: Duration = Duration::from_secs(60);
const CORP: &str = "{ logins = [\"corp\"] }";
const LOGOUT: &str = "/.doorward/oidc/corp/backchannel-logout";

struct OidcTest {
    provider: OidcServer,
    upstream: Upstream,
    gateway: Gateway,
}

fn route(upstream: &Upstream, path: &str, access: &str) -> String {
    format!(
        "[[route]]\nhost = \"app.test\"\npath = \"{path}\"\nupstream = \"http://{}\"\naccess = {access}\n",
        upstream.address
    )
}

impl OidcTest {
    /// A gateway whose route `/` accepts logins at the provider only, and `/open` every login.
    async fn new() -> OidcTest {
        OidcTest::with("", Setup::default()).await
    }

    async fn with(provider_keys: &str, setup: Setup) -> OidcTest {
        let clock = manual_clock();
        let provider = OidcServer::start(clock.clone()).await;
        let upstream = Upstream::start().await;
        let routes = route(&upstream, "/", CORP)
            + &route(&upstream, "/open", "\"session\"")
            + &route(&upstream, "/bank", "{ logins = [\"corp\"], max_auth_age = \"5m\" }")
            + &route(&upstream, "/vault", "{ acr = [\"phr\"] }")
            + &route(&upstream, "/staff", "{ groups = [\"staff\"] }")
            + &route(&upstream, "/claims", "\"session\"")
            + "identity = { \"X-Given\" = \"{given_name}\", \"X-Dep\" = \"{claim:department}\" }\n";
        let extra = provider.configuration(provider_keys);
        let gateway = Gateway::start(Setup { routes, extra, clock, ..setup });
        OidcTest { provider, upstream, gateway }
    }

    fn browser(&self) -> Browser {
        Browser::new(&self.gateway)
    }

    /// Logs in at the provider, starting with a navigation to `target`.
    async fn log_in(&self, browser: &mut Browser, target: &str) -> Response {
        let url = start(browser, target).await;
        return_from(browser, &self.provider.authorize(&url)).await
    }
}

/// Navigates to a page that needs a login. Returns the URL of the provider.
pub(crate) async fn start(browser: &mut Browser, target: &str) -> String {
    let refused = browser.navigate(target).await;
    assert_eq!(refused.status, StatusCode::SEE_OTHER, "{}", refused.text());
    let redirect = browser.navigate(refused.header("location")).await;
    assert_eq!(redirect.status, StatusCode::SEE_OTHER, "{}", redirect.text());
    assert_eq!(redirect.header("cache-control"), "no-store");
    redirect.header("location").to_owned()
}

/// Loads the callback as a browser that the provider redirects.
pub(crate) async fn return_from(browser: &mut Browser, callback: &str) -> Response {
    let target = callback.strip_prefix("https://app.test").expect("our callback");
    let headers = [
        ("accept", "text/html"),
        ("sec-fetch-mode", "navigate"),
        ("sec-fetch-dest", "document"),
        ("sec-fetch-site", "cross-site"),
    ];
    browser.send("GET", target, &headers, "").await
}

/// Sends a back-channel logout as a provider.
async fn log_out(test: &OidcTest, form: &str) -> Response {
    let mut server = test.browser();
    let headers = [("content-type", "application/x-www-form-urlencoded")];
    server.send("POST", LOGOUT, &headers, form).await
}

#[tokio::test]
async fn login_at_the_provider_leads_back_to_the_page() {
    let test = OidcTest::new().await;
    for h2 in [false, true] {
        let mut browser = Browser { h2, ..test.browser() };
        let done = test.log_in(&mut browser, "/wiki?page=2").await;
        assert_eq!(done.status, StatusCode::SEE_OTHER, "{}", done.text());
        assert_eq!(done.header("location"), "/wiki?page=2");
        assert_eq!(done.header("cache-control"), "no-store");
        assert_eq!(done.header("referrer-policy"), "no-referrer");
        assert_eq!(browser.fetch("/wiki").await.status, StatusCode::OK);
        let head = test.upstream.last_head().to_ascii_lowercase();
        for line in [
            "x-forwarded-user: alice",
            "x-forwarded-email: alice@example.test",
            "x-forwarded-groups: staff",
        ] {
            assert!(head.contains(line), "{line} in {head}");
        }
    }
}

#[tokio::test]
async fn two_tabs_log_in_at_once_without_an_error() {
    let test = OidcTest::new().await;
    let mut browser = test.browser();
    let first = start(&mut browser, "/one").await;
    let second = start(&mut browser, "/two").await;
    let callbacks = [test.provider.authorize(&first), test.provider.authorize(&second)];
    let done = return_from(&mut browser, &callbacks[0]).await;
    assert_eq!((done.status, done.header("location")), (StatusCode::SEE_OTHER, "/one"));
    let token = browser.token();
    test.gateway.advance(Duration::from_secs(1));
    let done = return_from(&mut browser, &callbacks[1]).await;
    assert_eq!((done.status, done.header("location")), (StatusCode::SEE_OTHER, "/two"));
    assert_eq!(browser.token(), token, "the second tab needs no second session");
    // A page in the history has a code that was used.
    let again = return_from(&mut browser, &callbacks[0]).await;
    assert_eq!((again.status, again.header("location")), (StatusCode::SEE_OTHER, "/one"));
    assert_eq!(browser.fetch("/").await.status, StatusCode::OK);
}

#[tokio::test]
async fn state_of_another_browser_is_refused() {
    let test = OidcTest::new().await;
    let (mut attacker, mut victim) = (test.browser(), test.browser());
    let callback = test.provider.authorize(&start(&mut attacker, "/").await);
    start(&mut victim, "/").await;
    for mut browser in [victim, test.browser()] {
        let refused = return_from(&mut browser, &callback).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST);
        assert_eq!(browser.token(), "", "no session of the attacker");
        assert!(refused.text().contains("Log in again"), "{}", refused.text());
    }
    assert_eq!(return_from(&mut attacker, &callback).await.status, StatusCode::SEE_OTHER);
    let metrics = test.gateway.metrics().await;
    let counted = "doorward_oidc_logins_total{provider=\"corp\",result=\"stale\"} 2";
    assert!(metrics.contains(counted), "{metrics}");
}

#[tokio::test]
async fn callback_accepts_get_only_and_each_parameter_once() {
    let test = OidcTest::new().await;
    let mut browser = test.browser();
    let callback = test.provider.authorize(&start(&mut browser, "/").await);
    let target = callback.strip_prefix("https://app.test").expect("ours").to_owned();
    for method in ["HEAD", "POST"] {
        let answer = browser.send(method, &target, &[], "").await;
        assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{method}");
    }
    for twice in ["&state=x", "&code=x", "&iss=x", "&error=x"] {
        let answer = return_from(&mut browser, &format!("{callback}{twice}")).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{twice}");
    }
    assert_eq!(test.provider.requests("/token"), 0);
    assert_eq!(return_from(&mut browser, &callback).await.status, StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn provider_that_is_down_prevents_logins_only() {
    let test = OidcTest::new().await;
    let (mut old, mut new) = (test.browser(), test.browser());
    test.log_in(&mut old, "/").await;
    let callback = test.provider.authorize(&start(&mut new, "/").await);
    test.provider.set_down(true);
    let failed = return_from(&mut new, &callback).await;
    assert_eq!(failed.status, StatusCode::SERVICE_UNAVAILABLE, "{}", failed.text());
    assert!(failed.headers.contains_key("retry-after"));
    assert_eq!(new.token(), "");
    assert_eq!(old.fetch("/").await.status, StatusCode::OK, "existing sessions are unaffected");
    let mut password = test.browser();
    password.jar.clear();
    let form = password.navigate("/.doorward/login").await;
    assert_eq!(form.status, StatusCode::OK);
    assert!(form.text().contains("name=\"password\""));
    test.provider.set_down(false);
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let mut browser = test.browser();
        let refused = browser.navigate("/").await;
        let redirect = browser.navigate(refused.header("location")).await;
        if redirect.status == StatusCode::SEE_OTHER {
            break;
        }
        assert!(Instant::now() < deadline, "{}", redirect.text());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn gateway_starts_while_its_provider_is_down() {
    let clock = manual_clock();
    let (provider, upstream) = (OidcServer::start(clock.clone()).await, Upstream::start().await);
    provider.set_down(true);
    let (routes, extra) = (route(&upstream, "/", CORP), provider.configuration(""));
    let gateway = Gateway::start(Setup { routes, extra, clock, ..Setup::default() });
    let mut browser = Browser::new(&gateway);
    let refused = browser.navigate("/").await;
    let page = browser.navigate(refused.header("location")).await;
    let is_reported = page.status == StatusCode::SERVICE_UNAVAILABLE
        || page.text().contains("does not respond at the moment");
    assert!(is_reported, "{}", page.text());
    assert!(gateway.metrics().await.contains("doorward_oidc_up{provider=\"corp\"} 0"));
}

#[tokio::test]
async fn login_page_offers_what_the_route_accepts() {
    let test = OidcTest::new().await;
    let mut browser = test.browser();
    let refused = browser.navigate("/open").await;
    let page = browser.navigate(refused.header("location")).await.text();
    assert!(page.contains("Log in with <bdi>Example Company</bdi>"), "{page}");
    assert!(page.contains("name=\"password\""), "{page}");
    // A password does not suffice for the route `/`.
    browser.log_in_at("alice", "/open").await;
    assert_eq!(browser.fetch("/open").await.status, StatusCode::OK);
    assert_eq!(browser.fetch("/").await.json()["error"], "reauthenticate");
    let done = test.log_in(&mut browser, "/").await;
    assert_eq!(done.status, StatusCode::SEE_OTHER, "{}", done.text());
    assert_eq!(browser.fetch("/").await.status, StatusCode::OK);
}

#[tokio::test]
async fn reload_replaces_the_providers() {
    let test = OidcTest::new().await;
    let mut browser = test.browser();
    test.log_in(&mut browser, "/").await;
    let fetched = test.provider.requests("/jwks");
    let text = test.gateway.config_text().replace("Example Company", "Other Company");
    test.gateway.set_config_text(&text);
    let report = test.gateway.reload(ReloadMode::Apply);
    assert!(report.is_ok() && report.restart_keys.is_empty(), "{report:?}");
    let mut other = test.browser();
    let refused = other.navigate("/open").await;
    let page = other.navigate(refused.header("location")).await.text();
    assert!(page.contains("Other Company"), "{page}");
    assert_eq!(browser.fetch("/").await.status, StatusCode::OK, "sessions continue");
    test.log_in(&mut other, "/").await;
    assert!(test.provider.requests("/jwks") > fetched, "another client fetches the keys");
    // Without changes, a reload keeps the client with its metadata and keys.
    let fetched = test.provider.requests("/jwks");
    test.gateway.reload(ReloadMode::Apply);
    test.log_in(&mut test.browser(), "/").await;
    assert_eq!(test.provider.requests("/jwks"), fetched);
    // A provider that is not configured any more ends no session; its pages are gone.
    let text = text
        .replace("[login.oidc.corp]", "[login.oidc.renamed]")
        .replace("\"corp\"", "\"renamed\"");
    test.gateway.set_config_text(&text);
    let report = test.gateway.reload(ReloadMode::Apply);
    assert!(report.is_ok(), "{report:?}");
    assert_eq!(browser.fetch("/open").await.status, StatusCode::OK);
    assert_eq!(browser.fetch("/").await.json()["error"], "reauthenticate");
    let gone = browser.fetch("/.doorward/oidc/corp/login").await;
    assert_eq!(gone.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn equal_names_of_two_methods_are_two_accounts() {
    let test = OidcTest::new().await;
    let (mut file, mut corp) = (test.browser(), test.browser());
    file.log_in_at("alice", "/open").await;
    test.log_in(&mut corp, "/").await;
    let page = corp.navigate("/.doorward/sessions").await.text();
    assert!(!page.contains("name=\"session\""), "a session of another account: {page}");
    let revoked = test.gateway.revoke("user=alice").await;
    assert!(revoked.contains("\"ended\":2"), "{revoked}");
    for browser in [&mut file, &mut corp] {
        assert_eq!(browser.fetch("/open").await.status, StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test]
async fn account_follows_the_subject_and_not_the_name() {
    let test = OidcTest::new().await;
    let (mut first, mut second) = (test.browser(), test.browser());
    test.log_in(&mut first, "/").await;
    test.provider.set_user("subject-2", json!({ "preferred_username": "alice" }));
    test.log_in(&mut second, "/").await;
    let page = second.navigate("/.doorward/sessions").await.text();
    assert!(!page.contains("name=\"session\""), "a session of another account: {page}");
    assert_eq!(second.fetch("/staff").await.status, StatusCode::FORBIDDEN);
    assert_eq!(first.fetch("/staff").await.status, StatusCode::OK);
}

#[tokio::test]
async fn user_name_that_apps_would_split_is_refused() {
    let test = OidcTest::new().await;
    for name in ["a,b", "a:b", ""] {
        test.provider.set_user("subject-1", json!({ "preferred_username": name }));
        let mut browser = test.browser();
        let refused = test.log_in(&mut browser, "/").await;
        assert_eq!(refused.status, StatusCode::FORBIDDEN, "{name:?}");
        assert_eq!(browser.token(), "");
    }
}

#[tokio::test]
async fn step_up_requires_a_fresh_login_at_the_provider() {
    let test = OidcTest::new().await;
    let mut browser = test.browser();
    test.provider.set_auth_age(3_600);
    test.log_in(&mut browser, "/").await;
    assert_eq!(browser.fetch("/").await.status, StatusCode::OK);
    // The session is new, but the login at the provider is an hour old.
    assert_eq!(browser.fetch("/bank").await.json()["error"], "reauthenticate");
    let url = start(&mut browser, "/bank").await;
    assert!(url.contains("max_age=300"), "{url}");
    let done = return_from(&mut browser, &test.provider.authorize(&url)).await;
    assert_eq!((done.status, done.header("location")), (StatusCode::SEE_OTHER, "/bank"));
    assert_eq!(browser.fetch("/bank").await.status, StatusCode::OK);
    test.gateway.advance(6 * MINUTE);
    assert_eq!(browser.fetch("/bank").await.json()["error"], "reauthenticate");
}

#[tokio::test]
async fn route_with_acr_requires_it_from_the_provider() {
    let test = OidcTest::new().await;
    let mut browser = test.browser();
    test.log_in(&mut browser, "/").await;
    assert_eq!(browser.fetch("/vault").await.json()["error"], "reauthenticate");
    let url = start(&mut browser, "/vault").await;
    assert!(url.contains("acr_values=phr"), "{url}");
    return_from(&mut browser, &test.provider.authorize(&url)).await;
    assert_eq!(browser.fetch("/vault").await.status, StatusCode::OK);
}

#[tokio::test]
async fn strict_cookie_survives_the_return_from_the_provider() {
    let setup = Setup { session: "same_site = \"strict\"".to_owned(), ..Setup::default() };
    let test = OidcTest::with("", setup).await;
    let mut browser = test.browser();
    let callback = test.provider.authorize(&start(&mut browser, "/wiki").await);
    let bounce = return_from(&mut browser, &callback).await;
    assert_eq!(bounce.status, StatusCode::OK);
    assert!(bounce.text().contains("http-equiv=\"refresh\""), "{}", bounce.text());
    assert_eq!(test.provider.requests("/token"), 0);
    let target = callback.strip_prefix("https://app.test").expect("ours");
    let headers = [("sec-fetch-mode", "navigate"), ("sec-fetch-site", "same-origin")];
    let done = browser.send("GET", target, &headers, "").await;
    assert_eq!((done.status, done.header("location")), (StatusCode::SEE_OTHER, "/wiki"));
}

#[tokio::test]
async fn logout_continues_at_the_provider() {
    let test = OidcTest::new().await;
    let mut browser = test.browser();
    test.log_in(&mut browser, "/").await;
    let mut copy = browser.clone();
    let form = browser.navigate("/.doorward/logout").await;
    let csrf = form.form_field("csrf");
    let page = browser.post_form("/.doorward/logout", &[("csrf", &csrf)]).await;
    assert_eq!(page.status, StatusCode::OK);
    let text = page.text();
    let end = format!("0;url=http://{}/end?", test.provider.address);
    assert!(text.contains("http-equiv=\"refresh\"") && text.contains(&end), "{text}");
    assert!(text.contains("id_token_hint=") && text.contains("post_logout_redirect_uri="));
    assert_eq!(browser.token(), "");
    assert_eq!(copy.fetch("/").await.json()["reason"], "logout", "the session ends first");
}

#[tokio::test]
async fn provider_logout_can_be_disabled() {
    let test = OidcTest::with("provider_logout = false", Setup::default()).await;
    let mut browser = test.browser();
    test.log_in(&mut browser, "/").await;
    let csrf = browser.navigate("/.doorward/logout").await.form_field("csrf");
    let page = browser.post_form("/.doorward/logout", &[("csrf", &csrf)]).await.text();
    assert!(!page.contains("refresh") && page.contains("Log in again"), "{page}");
}

#[tokio::test]
async fn backchannel_logout_ends_the_named_session_once() {
    let test = OidcTest::new().await;
    let (mut one, mut two) = (test.browser(), test.browser());
    test.provider.set_session(Some("a"));
    test.log_in(&mut one, "/").await;
    test.provider.set_session(Some("b"));
    test.log_in(&mut two, "/").await;
    let form = test.provider.logout_form(Some("a"), Some("subject-1"));
    let answer = log_out(&test, &form).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    assert_eq!(answer.header("cache-control"), "no-store");
    assert!(answer.set_cookies().is_empty());
    assert_eq!(one.fetch("/").await.json()["reason"], "logout-by-provider");
    assert_eq!(two.fetch("/").await.status, StatusCode::OK);
    let replay = log_out(&test, &form).await;
    assert_eq!(
        (replay.status, replay.json()["reason"].as_str()),
        (StatusCode::BAD_REQUEST, Some("replayed"))
    );
    let subject = test.provider.logout_form(None, Some("subject-1"));
    assert_eq!(log_out(&test, &subject).await.status, StatusCode::OK);
    assert_eq!(two.fetch("/").await.status, StatusCode::UNAUTHORIZED);
    let metrics = test.gateway.metrics().await;
    for (result, count) in [("success", 2), ("replayed", 1)] {
        let line = format!(
            "doorward_oidc_backchannel_logouts_total{{provider=\"corp\",result=\"{result}\"}} {count}"
        );
        assert!(metrics.contains(&line), "{line} in {metrics}");
    }
}

#[tokio::test]
async fn malformed_backchannel_logout_ends_nothing() {
    let test = OidcTest::new().await;
    let mut browser = test.browser();
    test.log_in(&mut browser, "/").await;
    let good = test.provider.logout_form(None, Some("subject-1"));
    let long = format!("{good}&x={}", "x".repeat(8 * 1024));
    for (form, status) in [
        (String::new(), StatusCode::BAD_REQUEST),
        ("logout_token=x".to_owned(), StatusCode::BAD_REQUEST),
        (format!("{good}&{good}"), StatusCode::BAD_REQUEST),
        (good[..good.len() - 4].to_owned(), StatusCode::BAD_REQUEST),
        (long, StatusCode::PAYLOAD_TOO_LARGE),
    ] {
        assert_eq!(log_out(&test, &form).await.status, status);
    }
    assert_eq!(browser.fetch("/").await.status, StatusCode::OK);
    let unknown = browser.send("POST", "/.doorward/oidc/other/backchannel-logout", &[], "").await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    assert_eq!(browser.fetch(LOGOUT).await.status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn refused_logout_tokens_are_limited_per_network() {
    let test = OidcTest::new().await;
    // The limit is 20 times that of failed logins.
    let text = test.gateway.config_text();
    let login = "[login]\nnetwork_failures = 1\nnetwork_interval = \"40s\"\n\n[login.oidc.corp]";
    test.gateway.set_config_text(&text.replace("[login.oidc.corp]", login));
    let report = test.gateway.reload(ReloadMode::Apply);
    assert!(report.is_ok(), "{report:?}");
    let mut browser = test.browser();
    test.provider.set_session(Some("a"));
    test.log_in(&mut browser, "/").await;
    for _ in 0..20 {
        assert_eq!(log_out(&test, "logout_token=x").await.status, StatusCode::BAD_REQUEST);
    }
    let form = test.provider.logout_form(Some("a"), None);
    let limited = log_out(&test, &form).await;
    assert_eq!(limited.status, StatusCode::TOO_MANY_REQUESTS, "{}", limited.text());
    assert_eq!(limited.header("retry-after"), "2");
    test.gateway.advance(Duration::from_secs(2));
    assert_eq!(log_out(&test, &form).await.status, StatusCode::OK, "the provider repeats it");
    assert_eq!(browser.fetch("/").await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn logout_with_a_long_id_token_is_posted_to_the_provider() {
    let test = OidcTest::new().await;
    let claims = json!({ "preferred_username": "alice", "padding": "x".repeat(5000) });
    test.provider.set_user("subject-1", claims);
    let mut browser = test.browser();
    test.log_in(&mut browser, "/").await;
    let csrf = browser.navigate("/.doorward/logout").await.form_field("csrf");
    let page = browser.post_form("/.doorward/logout", &[("csrf", &csrf)]).await;
    assert_eq!(page.status, StatusCode::OK, "{}", page.text());
    let html = page.text();
    let action = format!("action=\"http://{}/end\"", test.provider.address);
    assert!(html.contains("method=\"post\"") && html.contains(&action), "{html}");
    assert!(page.form_field("id_token_hint").len() > 5000);
    assert_eq!(page.form_field("client_id"), test_support::oidc_server::CLIENT_ID);
    assert!(page.header("content-security-policy").contains("form-action https:"));
    assert_eq!(browser.token(), "");
    assert_eq!(browser.fetch("/").await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn backchannel_logout_closes_websockets() {
    let test = OidcTest::new().await;
    let echo = Echo::start().await;
    let socket = format!(
        "[[route]]\nhost = \"app.test\"\npath = \"/ws\"\nupstream = \"http://{}\"\naccess = {CORP}\n",
        echo.address
    );
    test.gateway.set_config_text(&format!("{}\n{socket}", test.gateway.config_text()));
    assert!(test.gateway.reload(ReloadMode::Apply).is_ok());
    let mut browser = test.browser();
    test.provider.set_session(Some("a"));
    test.log_in(&mut browser, "/").await;
    let mut tunnel = websocket::open(&browser).await;
    let form = test.provider.logout_form(Some("a"), None);
    assert_eq!(log_out(&test, &form).await.status, StatusCode::OK);
    assert_eq!(websocket::close_code(&mut tunnel).await, CloseCode::Policy);
}

#[tokio::test]
async fn recheck_updates_the_groups_of_a_session() {
    let test = OidcTest::with("recheck = \"5m\"", Setup::default()).await;
    let mut browser = test.browser();
    test.log_in(&mut browser, "/").await;
    assert_eq!(browser.fetch("/staff").await.status, StatusCode::OK);
    assert_eq!(test.provider.requests("/token"), 1);
    let claims = json!({ "preferred_username": "renamed", "groups": ["it"] });
    test.provider.set_user("subject-1", claims);
    // After the interval, a request starts the check and does not wait.
    test.gateway.advance(6 * MINUTE);
    let deadline = Instant::now() + Duration::from_secs(10);
    while browser.fetch("/staff").await.status != StatusCode::FORBIDDEN {
        assert!(Instant::now() < deadline, "the new groups apply");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(test.provider.requests("/token"), 2);
    assert_eq!(browser.fetch("/open").await.status, StatusCode::OK);
    let head = test.upstream.last_head().to_ascii_lowercase();
    assert!(head.contains("x-forwarded-user: alice"), "the name stays: {head}");
    // After twice the interval, the request waits.
    test.provider
        .set_user("subject-1", json!({ "preferred_username": "alice", "groups": ["staff"] }));
    test.gateway.advance(11 * MINUTE);
    assert_eq!(browser.fetch("/staff").await.status, StatusCode::OK);
}

#[tokio::test]
async fn claims_of_templates_reach_the_app_and_follow_rechecks() {
    let test = OidcTest::with("recheck = \"5m\"", Setup::default()).await;
    let set = |claims: serde_json::Value| test.provider.set_user("subject-1", claims);
    set(json!({
        "preferred_username": "alice", "given_name": "Zoe", "department": ["a", "b"], "other": "x",
    }));
    let mut browser = test.browser();
    test.log_in(&mut browser, "/").await;
    for h2 in [false, true] {
        browser.h2 = h2;
        let own = [("x-dep", "own"), ("x_given", "own")];
        assert_eq!(browser.send("GET", "/claims", &own, "").await.status, StatusCode::OK);
        assert_eq!(test.upstream.last_values("x-given"), ["Zoe"]);
        assert_eq!(test.upstream.last_values("x-dep"), ["a,b"]);
        assert!(!test.upstream.last_head().contains("own"));
    }
    // An unusable claim keeps the earlier ones; a claim that the provider omits disappears.
    set(json!({ "preferred_username": "alice", "given_name": {} }));
    test.gateway.advance(11 * MINUTE);
    browser.fetch("/claims").await;
    assert_eq!(test.upstream.last_values("x-dep"), ["a,b"]);
    set(json!({ "preferred_username": "alice", "department": "c" }));
    test.gateway.advance(11 * MINUTE);
    browser.fetch("/claims").await;
    assert_eq!(test.upstream.last_values("x-dep"), ["c"]);
    assert!(test.upstream.last_values("x-given").is_empty());
}

#[tokio::test]
async fn login_with_an_unusable_claim_of_a_template_is_refused() {
    let test = OidcTest::new().await;
    let claims = json!({ "preferred_username": "alice", "department": { "id": 1 } });
    test.provider.set_user("subject-1", claims);
    let mut browser = test.browser();
    let refused = test.log_in(&mut browser, "/").await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN, "{}", refused.text());
    assert_eq!(browser.fetch("/").await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn account_that_the_provider_refuses_loses_its_session() {
    let test = OidcTest::with("recheck = \"5m\"", Setup::default()).await;
    let mut browser = test.browser();
    test.log_in(&mut browser, "/").await;
    test.provider.set_down(true);
    test.gateway.advance(11 * MINUTE);
    assert_eq!(browser.fetch("/").await.status, StatusCode::OK, "down is no refusal");
    test.provider.set_down(false);
    test.provider.revoke_grants();
    test.gateway.advance(MINUTE);
    let ended = browser.fetch("/").await;
    assert_eq!(ended.json()["reason"], "provider-ended", "{}", ended.text());
    let metrics = test.gateway.metrics().await;
    for result in ["unavailable", "ended"] {
        let line =
            format!("doorward_provider_rechecks_total{{provider=\"corp\",result=\"{result}\"}} 1");
        assert!(metrics.contains(&line), "{line} in {metrics}");
    }
}

/// Two gateways on one Redis.
struct TwoGateways {
    redis: RedisServer,
    test: OidcTest,
    second: Gateway,
}

impl TwoGateways {
    async fn new(provider_keys: &str) -> TwoGateways {
        let redis = RedisServer::start(RedisOptions::default());
        let store = redis.settings().url;
        let setup = Setup { store: store.clone(), ..Setup::default() };
        let test = OidcTest::with(provider_keys, setup).await;
        let second = Gateway::start(Setup {
            routes: route(&test.upstream, "/", CORP),
            extra: test.provider.configuration(provider_keys),
            store,
            clock: test.gateway.clock.clone(),
            shared_directory: Some(Arc::clone(&test.gateway.directory)),
            ..Setup::default()
        });
        TwoGateways { redis, test, second }
    }
}

#[tokio::test]
async fn backchannel_logout_ends_sessions_at_every_gateway() {
    let TwoGateways { redis, test, second } = TwoGateways::new("").await;
    let mut browser = test.browser();
    test.provider.set_session(Some("a"));
    test.log_in(&mut browser, "/").await;
    let mut there = browser.at_gateway(&second);
    assert_eq!(there.fetch("/").await.status, StatusCode::OK);

    redis.pause();
    let form = test.provider.logout_form(Some("a"), None);
    let away = log_out(&test, &form).await;
    assert_eq!(away.status, StatusCode::SERVICE_UNAVAILABLE, "{}", away.text());
    assert!(away.headers.contains_key("retry-after"));
    redis.resume();
    let deadline = Instant::now() + Duration::from_secs(10);
    while log_out(&test, &form).await.status != StatusCode::OK {
        assert!(Instant::now() < deadline, "the same token works after the outage");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let begun = Instant::now();
    while there.fetch("/").await.status == StatusCode::OK {
        assert!(begun.elapsed() < Duration::from_secs(1), "within a second");
    }
    assert_eq!(there.fetch("/").await.json()["reason"], "logout-by-provider");
}

#[tokio::test]
async fn one_of_two_gateways_uses_the_refresh_token() {
    let TwoGateways { test, second, redis: _redis } = TwoGateways::new("recheck = \"1m\"").await;
    let mut browser = test.browser();
    test.log_in(&mut browser, "/").await;
    let mut all = tokio::task::JoinSet::new();
    test.gateway.advance(2 * MINUTE);
    for number in 0..16 {
        let gateway = if number % 2 == 0 { &test.gateway } else { &second };
        let mut tab = browser.at_gateway(gateway);
        all.spawn(async move { tab.fetch("/").await.status });
    }
    while let Some(status) = all.join_next().await {
        assert_eq!(status.expect("no panic"), StatusCode::OK);
    }
    assert_eq!(test.provider.requests("/token"), 2, "one login and one refresh");
}
