//! Personal access tokens: what admits a program, and every case in which one is refused.

use std::sync::Arc;
use std::time::{Duration, Instant};

use data_encoding::BASE64;
use http::StatusCode;
use serde_json::Value;

use doorward::admin::TokenView;
use doorward::identity::users_file_editor::UsersFileEditor;
use doorward::identity::{Cost, Credential};
use test_support::browser::{Browser, Response};
use test_support::gateway::{Gateway, Setup, manual_clock};
use test_support::redis_server::{RedisOptions, RedisServer};
use test_support::upstream::Upstream;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const HOUR: Duration = Duration::from_secs(60 * 60);

/// `/` accepts tokens, `/staff` for one group, `/admin` with a recent login for changes; `/plain` and `/public`
/// do not.
async fn started() -> (Upstream, Gateway) {
    started_with(Setup { clock: manual_clock(), ..Setup::default() }).await
}

async fn started_with(setup: Setup) -> (Upstream, Gateway) {
    let upstream = Upstream::start().await;
    let route = |path: &str, keys: &str| {
        format!(
            "[[route]]\nhost = \"app.test\"\npath = \"{path}\"\nupstream = \"http://{}\"\n{keys}\n",
            upstream.address
        )
    };
    let admin = "access = { max_auth_age = \"5m\", auth_age_methods = [\"POST\"] }\ntokens = true";
    let routes = [
        route("/", "access = \"session\"\ntokens = true"),
        route("/staff", "access = { groups = [\"staff\"] }\ntokens = true"),
        route("/admin", admin),
        route("/api", "access = \"session\"\ntokens = true\ntoken_header = \"X-Api-Key\""),
        route("/plain", "access = \"session\""),
        route("/public", "access = \"public\""),
    ];
    (upstream, Gateway::start(Setup { routes: routes.concat(), ..setup }))
}

async fn admin(gateway: &Gateway, target: &str) -> Value {
    let response = gateway.admin_post(target).await;
    let body = response.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    serde_json::from_str(body).unwrap_or_else(|_| panic!("{target}: {response}"))
}

/// Creates a token of a user with these limits.
async fn create(gateway: &Gateway, user: &str, limits: &str) -> String {
    let created = admin(gateway, &format!("/tokens?user={user}&name=git&days=30{limits}")).await;
    created["token"].as_str().unwrap_or_else(|| panic!("{created}")).to_owned()
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

fn basic(user: &str, token: &str) -> String {
    format!("Basic {}", BASE64.encode(format!("{user}:{token}").as_bytes()))
}

async fn send(gateway: &Gateway, method: &str, path: &str, authorization: &str) -> Response {
    let headers = [("authorization", authorization)];
    Browser::new(gateway).send(method, path, &headers, "").await
}

/// Status and reason of a GET of `/` with the token.
async fn outcome(gateway: &Gateway, token: &str) -> (u16, String) {
    reason(&send(gateway, "GET", "/", &bearer(token)).await)
}

fn reason(response: &Response) -> (u16, String) {
    let body: Value = serde_json::from_str(&response.text()).unwrap_or_default();
    (response.status.as_u16(), body["reason"].as_str().unwrap_or_default().to_owned())
}

fn refused(status: u16, reason: &str) -> (u16, String) {
    (status, reason.to_owned())
}

#[tokio::test]
async fn a_token_admits_its_user_in_each_header() {
    let (upstream, gateway) = started().await;
    let token = create(&gateway, "alice", "").await;
    assert!(token.starts_with("dwp_"), "secret scanners find it");
    let credentials = [
        ("authorization", bearer(&token)),
        ("authorization", basic("alice", &token)),
        ("x-doorward-token", token.clone()),
    ];
    for h2 in [false, true] {
        for (name, value) in &credentials {
            let mut program = Browser::new(&gateway);
            program.h2 = h2;
            let headers = [(*name, value.as_str()), ("origin", "https://evil.test")];
            let response = program.send("PUT", "/a", &headers, "x").await;
            assert_eq!(response.status, StatusCode::OK, "{name}: no CSRF check without a cookie");
            assert!(response.set_cookies().is_empty(), "no session");
            assert_eq!(response.header("cache-control"), "private");
            assert_eq!(upstream.last_values("x-forwarded-user"), ["alice"]);
            let head = upstream.last_head();
            assert!(!head.contains("dwp_") && upstream.last_values("authorization").is_empty());
        }
    }
    let app = [("x-doorward-token", token.as_str()), ("authorization", "Bearer of-the-app")];
    assert_eq!(Browser::new(&gateway).send("GET", "/", &app, "").await.status, StatusCode::OK);
    assert_eq!(upstream.last_values("authorization"), ["Bearer of-the-app"]);
    assert!(upstream.last_values("x-doorward-token").is_empty());
}

#[tokio::test]
async fn a_route_names_a_further_header_for_tokens() {
    let (upstream, gateway) = started().await;
    let token = create(&gateway, "alice", "").await;
    let headers = [("x-api-key", token.as_str()), ("x_api_key", "other")];
    for h2 in [false, true] {
        let mut program = Browser { h2, ..Browser::new(&gateway) };
        let answer = program.send("GET", "/api", &headers, "").await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        assert!(!upstream.last_head().to_ascii_lowercase().contains("x-api-key"));
        let other_response = program.send("GET", "/", &headers[..1], "").await;
        assert_eq!(reason(&other_response), refused(401, "no-session"));
    }
    let twice = [("x-api-key", token.as_str()), ("x-doorward-token", token.as_str())];
    let answer = Browser::new(&gateway).send("GET", "/api", &twice, "").await;
    assert_eq!(reason(&answer), refused(401, "token-several"));
}

#[tokio::test]
async fn a_token_reaches_no_upstream_on_any_route() {
    let (upstream, gateway) = started().await;
    let token = create(&gateway, "alice", "").await;
    let mut alice = Browser::new(&gateway);
    alice.log_in("alice").await;
    for path in ["/", "/plain", "/public"] {
        for value in [bearer(&token), basic("alice", &token)] {
            let response = alice.send("GET", path, &[("authorization", &value)], "").await;
            assert_eq!(response.status, StatusCode::OK, "{path}");
            assert!(upstream.last_values("authorization").is_empty(), "{path}");
        }
    }
}

#[tokio::test]
async fn a_session_cookie_decides_before_a_token() {
    let (_upstream, gateway) = started().await;
    let token = create(&gateway, "alice", "").await;
    let mut stale = Browser::new(&gateway).with_token("dw1_forged");
    let response = stale.send("GET", "/", &[("authorization", &bearer(&token))], "").await;
    assert_eq!(reason(&response), refused(401, "invalid-token"));
}

#[tokio::test]
async fn a_forged_or_deleted_token_is_refused() {
    let (upstream, gateway) = started().await;
    let token = create(&gateway, "alice", "").await;
    let other_end = if token.ends_with('A') { 'E' } else { 'A' };
    let forged = format!("{}{other_end}", &token[..token.len() - 1]);
    for text in [&forged, &token[..40], "dwp_", "dwp_x"] {
        let response = send(&gateway, "GET", "/", &bearer(text)).await;
        assert_eq!(reason(&response), refused(401, "token-invalid"), "{text}");
        let mut challenges = response.headers.get_all("www-authenticate").iter();
        assert!(challenges.any(|challenge| challenge == "Basic realm=\"app\""), "for git");
    }
    let two = [("authorization", bearer(&token)), ("x-doorward-token", token.clone())];
    let two = two.each_ref().map(|(name, value)| (*name, value.as_str()));
    let response = Browser::new(&gateway).send("GET", "/", &two, "").await;
    assert_eq!(reason(&response), refused(401, "token-several"));
    assert!(upstream.heads().is_empty());
    let listed = handle(&gateway, "alice").await;
    assert_eq!(outcome(&gateway, &token).await.0, 200);
    let other = admin(&gateway, &format!("/tokens/delete?user=bob&token={listed}")).await;
    assert!(other["error"].is_string(), "a token of another user: {other}");
    admin(&gateway, &format!("/tokens/delete?user=alice&token={listed}")).await;
    assert_eq!(outcome(&gateway, &token).await, refused(401, "token-unknown"));
}

/// Returns the handle of the only token of a user.
async fn handle(gateway: &Gateway, user: &str) -> String {
    list(gateway, user).await[0].token.clone()
}

async fn list(gateway: &Gateway, user: &str) -> Vec<TokenView> {
    let response = gateway.admin("GET", &format!("/tokens?user={user}")).await;
    let body = response.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    serde_json::from_str(body).unwrap_or_else(|_| panic!("{response}"))
}

#[tokio::test]
async fn a_token_is_refused_outside_its_limits() {
    let (upstream, gateway) = started().await;
    let limits = "&routes=app.test/&methods=GET&networks=127.0.0.0/8";
    let token = create(&gateway, "alice", limits).await;
    assert_eq!(outcome(&gateway, &token).await.0, 200);
    let sent = upstream.heads().len();
    let put = send(&gateway, "PUT", "/", &bearer(&token)).await;
    assert_eq!(reason(&put), refused(403, "token-method"));
    let headers = [("authorization", bearer(&token)), ("x-http-method-override", "PUT".into())];
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
    let disguised = Browser::new(&gateway).send("GET", "/", &headers, "").await;
    assert_eq!(reason(&disguised), refused(403, "token-method"));
    let other = send(&gateway, "GET", "/staff", &bearer(&token)).await;
    assert_eq!(reason(&other), refused(403, "token-route"));
    let user = send(&gateway, "GET", "/", &basic("bob", &token)).await;
    assert_eq!(reason(&user), refused(401, "token-user"));
    let restricted = create(&gateway, "alice", "&networks=192.0.2.0/24").await;
    assert_eq!(outcome(&gateway, &restricted).await, refused(403, "token-network"));
    assert_eq!(upstream.heads().len(), sent, "no refused request is forwarded");
}

#[tokio::test]
async fn a_token_does_not_replace_the_rules_of_its_route() {
    let (_upstream, gateway) = started().await;
    let bob = create(&gateway, "bob", "").await;
    let staff = send(&gateway, "GET", "/staff", &bearer(&bob)).await;
    assert_eq!(staff.status, StatusCode::FORBIDDEN);
    let plain = send(&gateway, "GET", "/plain", &bearer(&bob)).await;
    assert_eq!(reason(&plain), refused(401, "no-session"));
    assert_eq!(send(&gateway, "GET", "/admin", &bearer(&bob)).await.status, StatusCode::OK);
    let change = send(&gateway, "POST", "/admin", &bearer(&bob)).await;
    assert_eq!(reason(&change), refused(403, "token-needs-session"));
    let upgrade = format!(
        "GET / HTTP/1.1\r\nHost: app.test\r\nAuthorization: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        bearer(&bob)
    );
    let response = Browser::new(&gateway).send_raw(upgrade.as_bytes()).await;
    assert!(
        response.starts_with("HTTP/1.1 403") && response.contains("needs-session"),
        "{response}"
    );
}

#[tokio::test]
async fn a_token_expires_and_its_last_use_is_listed() {
    let (_upstream, gateway) = started().await;
    let token = create(&gateway, "alice", "").await;
    assert_eq!(list(&gateway, "alice").await[0].last_used, 0);
    assert_eq!(outcome(&gateway, &token).await.0, 200);
    let first = gateway.clock.now().0;
    assert_eq!(list(&gateway, "alice").await[0].last_used, first);
    gateway.advance(HOUR / 2);
    outcome(&gateway, &token).await;
    assert_eq!(list(&gateway, "alice").await[0].last_used, first, "at most one write per hour");
    gateway.advance(HOUR / 2);
    outcome(&gateway, &token).await;
    assert_eq!(list(&gateway, "alice").await[0].last_used, gateway.clock.now().0);
    gateway.advance(30 * DAY);
    assert_eq!(outcome(&gateway, &token).await, refused(401, "token-expired"));
    assert!(list(&gateway, "alice").await.is_empty());
}

#[tokio::test]
async fn a_revocation_of_the_user_revokes_their_tokens() {
    for query in ["user=alice", "all=1"] {
        let (_upstream, gateway) = started().await;
        let token = create(&gateway, "alice", "").await;
        let bob = create(&gateway, "bob", "").await;
        assert_eq!(outcome(&gateway, &token).await.0, 200);
        gateway.advance(Duration::from_secs(2));
        gateway.revoke(query).await;
        assert_eq!(outcome(&gateway, &token).await, refused(401, "token-revoked"), "{query}");
        let of_bob = if query == "all=1" { 401 } else { 200 };
        assert_eq!(outcome(&gateway, &bob).await.0, of_bob, "{query}");
        assert!(list(&gateway, "alice").await.is_empty());
        let next = create(&gateway, "alice", "").await;
        assert_eq!(outcome(&gateway, &next).await.0, 200, "created later");
    }
}

/// Changes the users file and waits until the token is refused for this reason.
async fn refused_after(reason: &str, change: impl Fn(&mut UsersFileEditor)) -> (Gateway, String) {
    let (_upstream, gateway) = started().await;
    let token = create(&gateway, "alice", "").await;
    let mut users = UsersFileEditor::open(&gateway.path("users.toml")).expect("the users file");
    change(&mut users);
    users.save().expect("saved");
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let (status, found) = outcome(&gateway, &token).await;
        if status == 401 {
            assert_eq!(found, reason);
            return (gateway, token);
        }
        assert!(Instant::now() < deadline, "the token still works");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn a_disabled_account_has_no_tokens() {
    let change = |users: &mut UsersFileEditor| {
        users.set_disabled("alice", true).expect("alice");
    };
    let (gateway, _) = refused_after("token-account", change).await;
    let target = "/tokens?user=alice&name=git&days=1";
    let response = admin(&gateway, target).await;
    assert!(response["error"].as_str().expect("text").contains("account"), "{response}");
}

#[tokio::test]
async fn a_changed_password_ends_the_tokens_of_the_account() {
    let hash = Credential::hash("another", Cost::Argon2id { m: 256, t: 1, p: 1 }).expect("a hash");
    let change = |users: &mut UsersFileEditor| users.set_password("alice", &hash).expect("alice");
    refused_after("token-revoked", change).await;
}

#[tokio::test]
async fn a_token_that_fails_often_is_throttled_alone() {
    let (_upstream, gateway) = started().await;
    let expired = create(&gateway, "alice", "&methods=PUT").await;
    let good = create(&gateway, "alice", "").await;
    for _ in 0..30 {
        assert_eq!(outcome(&gateway, &expired).await, refused(403, "token-method"));
    }
    let response = send(&gateway, "GET", "/", &bearer(&expired)).await;
    assert_eq!(reason(&response), refused(429, "token-throttled"));
    assert_eq!(response.header("retry-after"), "2");
    assert_eq!(outcome(&gateway, &good).await.0, 200);
    gateway.advance(Duration::from_secs(2));
    assert_eq!(outcome(&gateway, &expired).await.0, 403);
}

#[tokio::test]
async fn gateways_on_one_redis_share_tokens_and_their_limits() {
    let redis = RedisServer::start(RedisOptions::default());
    let (store, clock) = (redis.settings().url, manual_clock());
    let setup = Setup { store: store.clone(), clock: clock.clone(), ..Setup::default() };
    let (_upstream, first) = started_with(setup).await;
    let shared_directory = Some(Arc::clone(&first.directory));
    let setup = Setup { store, clock, shared_directory, ..Setup::default() };
    let (_other, second) = started_with(setup).await;
    let token = create(&first, "alice", "&methods=PUT").await;
    for count in 0..30 {
        let gateway = if count % 3 == 0 { &second } else { &first };
        assert_eq!(outcome(gateway, &token).await, refused(403, "token-method"), "{count}");
    }
    // The next refusal at each gateway finds the shared counter exhausted.
    for gateway in [&first, &second] {
        assert_eq!(outcome(gateway, &token).await.0, 403);
        assert_eq!(outcome(gateway, &token).await, refused(429, "token-throttled"));
    }
    let listed = handle(&second, "alice").await;
    admin(&second, &format!("/tokens/delete?user=alice&token={listed}")).await;
    first.advance(Duration::from_secs(10));
    assert_eq!(outcome(&first, &token).await, refused(401, "token-unknown"));
}

#[tokio::test]
async fn tokens_survive_a_restart_on_the_embedded_store() {
    let state = tempfile::tempdir().expect("a directory");
    let setup = |shared_directory| Setup {
        store: format!("embedded:{}", state.path().join("store").display()),
        shared_directory,
        ..Setup::default()
    };
    let (_upstream, gateway) = started_with(setup(None)).await;
    let [kept, deleted] =
        [create(&gateway, "alice", "").await, create(&gateway, "alice", "").await];
    let newest = list(&gateway, "alice").await[0].token.clone();
    admin(&gateway, &format!("/tokens/delete?user=alice&token={newest}")).await;
    let directory = Arc::clone(&gateway.directory);
    gateway.stop();
    let (_upstream, gateway) = started_with(setup(Some(directory))).await;
    assert_eq!(outcome(&gateway, &kept).await.0, 200);
    assert_eq!(outcome(&gateway, &deleted).await, refused(401, "token-unknown"));
}

#[tokio::test]
async fn a_user_has_a_bounded_number_of_tokens() {
    let (_upstream, gateway) = started().await;
    let limits = format!("&networks={}", "2001:db8:1234:5678:9abc::/80,".repeat(9));
    for _ in 0..24 {
        create(&gateway, "alice", &limits).await;
    }
    let more = admin(&gateway, "/tokens?user=alice&name=one-more&days=1").await;
    assert!(more["error"].as_str().expect("text").contains("24 tokens"), "{more}");
    gateway.advance(31 * DAY);
    create(&gateway, "alice", "").await;
}

// The page

#[tokio::test]
async fn a_user_creates_and_deletes_tokens_on_their_page() {
    let (_upstream, gateway) = started().await;
    let mut alice = Browser::new(&gateway);
    alice.log_in("alice").await;
    assert!(alice.navigate("/.doorward/sessions").await.text().contains("/.doorward/tokens"));
    let csrf = alice.navigate("/.doorward/tokens").await.form_field("csrf");
    let page = "/.doorward/tokens";
    let foreign = [("do", "create"), ("name", "git"), ("days", "7"), ("csrf", "")];
    assert_eq!(alice.post_form(page, &foreign).await.status, StatusCode::FORBIDDEN);
    assert!(list(&gateway, "alice").await.is_empty());
    let with = |days: &'static str, routes: &'static str| {
        let csrf = csrf.as_str();
        [("do", "create"), ("name", "g<i>t"), ("days", days), ("routes", routes), ("csrf", csrf)]
    };
    for wrong in [with("367", ""), with("0", ""), with("7", "app.test/plain")] {
        assert_eq!(alice.post_form(page, &wrong).await.status, StatusCode::BAD_REQUEST);
    }
    let created = alice.post_form(page, &with("7", "app.test/")).await;
    assert_eq!(created.header("cache-control"), "no-store");
    let html = created.text();
    assert!(!html.contains("g<i>t"), "{html}");
    let token = html.split("value=\"dwp_").nth(1).and_then(|rest| rest.split('"').next());
    let token = format!("dwp_{}", token.expect("the new token"));
    assert_eq!(outcome(&gateway, &token).await.0, 200);
    assert!(!alice.navigate(page).await.text().contains(&token), "shown only once");
    let listed = handle(&gateway, "alice").await;
    let delete = [("do", "delete"), ("token", listed.as_str()), ("csrf", csrf.as_str())];
    assert_eq!(alice.post_form(page, &delete).await.status, StatusCode::SEE_OTHER);
    assert_eq!(outcome(&gateway, &token).await, refused(401, "token-unknown"));
}

#[tokio::test]
async fn the_token_page_requires_a_recent_login() {
    let (_upstream, gateway) = started().await;
    let mut alice = Browser::new(&gateway);
    alice.log_in("alice").await;
    let csrf = alice.navigate("/.doorward/tokens").await.form_field("csrf");
    gateway.advance(Duration::from_secs(15 * 60 + 1));
    let fields = [("do", "create"), ("name", "git"), ("days", "7"), ("csrf", csrf.as_str())];
    let response = alice.post_form("/.doorward/tokens", &fields).await;
    assert!(response.header("location").starts_with("/.doorward/login"), "{:?}", response.headers);
    assert!(list(&gateway, "alice").await.is_empty());
    let response = alice.log_in_at("alice", "/.doorward/tokens").await;
    assert_eq!(response.header("location"), "/.doorward/tokens");
    assert_eq!(alice.navigate("/.doorward/tokens").await.status, StatusCode::OK);
}
