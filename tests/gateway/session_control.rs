//! Session control by upstreams (`Doorward-Session`): logout and sensitive actions; and the rules for activity.

use std::time::{Duration, Instant};

use http::StatusCode;

use test_support::browser::{Browser, Response, SESSION};
use test_support::gateway::{Gateway, Setup, manual_clock, session_route};
use test_support::redis_server::{RedisOptions, RedisServer};
use test_support::upstream::Upstream;

const MINUTE: Duration = Duration::from_secs(60);

/// Starts a gateway with an upstream at `/` and another at `path` that always responds with `head`.
struct SessionControlTest {
    other: Upstream,
    _home: Upstream,
    gateway: Gateway,
}

impl SessionControlTest {
    async fn new(path: &str, head: &str, rules: &str) -> SessionControlTest {
        SessionControlTest::on("", path, head, rules).await
    }

    async fn on(store: &str, path: &str, head: &str, rules: &str) -> SessionControlTest {
        let home = Upstream::start().await;
        let other =
            Upstream::with_response(format!("HTTP/1.1 {head}\r\nContent-Length: 0\r\n\r\n")).await;
        let route = |path: &str, upstream: &Upstream| {
            format!(
                "[[route]]\nhost = \"app.test\"\npath = \"{path}\"\nupstream = \"http://{}\"\naccess = \"session\"\n",
                upstream.address
            )
        };
        let routes =
            format!("{}{}[route.session]\n{rules}\n", route("/", &home), route(path, &other));
        let gateway = Gateway::start(Setup {
            routes,
            store: store.to_owned(),
            clock: manual_clock(),
            ..Setup::default()
        });
        SessionControlTest { other, _home: home, gateway }
    }

    async fn alice(&self) -> Browser {
        let mut browser = Browser::new(&self.gateway);
        browser.log_in("alice").await;
        browser
    }

    /// Returns true if a copy of the token is accepted.
    async fn is_active(&self, token: &str) -> bool {
        Browser::new(&self.gateway).with_token(token).fetch("/").await.status == StatusCode::OK
    }
}

fn new_token(response: &Response) -> Option<String> {
    let lines = response.set_cookies();
    let value = lines.iter().find_map(|line| line.strip_prefix(SESSION)?.strip_prefix('='))?;
    Some(value.split(';').next().unwrap_or_default().to_owned()).filter(|text| !text.is_empty())
}

// Logout by the upstream

#[tokio::test]
async fn upstream_logout_ends_the_session_and_cookie() {
    let test = SessionControlTest::new(
        "/logout",
        "302 Found\r\nLocation: /bye",
        "logout_paths = [\"/logout\"]",
    )
    .await;
    let mut browser = test.alice().await;
    let token = browser.token();
    let response = browser.fetch("/logout").await;
    assert_eq!((response.status, response.header("location")), (StatusCode::FOUND, "/bye"));
    assert_eq!(browser.token(), "", "{:?}", response.set_cookies());
    assert!(!test.is_active(&token).await, "a copy of the cookie is refused too");
}

#[tokio::test]
async fn upstream_logout_that_cannot_be_stored_is_503() {
    let mut redis = RedisServer::start(RedisOptions::default());
    let store = redis.settings().url;
    let test =
        SessionControlTest::on(&store, "/logout", "200 OK", "logout_paths = [\"/logout\"]").await;
    let mut browser = test.alice().await;
    let token = browser.token();
    test.other.hold_responses();
    let asking = tokio::spawn(async move { (browser.fetch("/logout").await, browser) });
    test.other.wait_for_requests(1).await;
    redis.kill();
    test.other.release_responses();
    let (response, browser) = asking.await.expect("a response");
    assert_eq!(response.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(browser.token(), token, "an outage deletes no cookie");
}

// Sensitive actions

#[tokio::test]
async fn sensitive_action_rotates_the_token_at_once() {
    for (head, rotates) in
        [("200 OK", true), ("303 See Other\r\nLocation: /", true), ("422 No", false)]
    {
        let rules = "rotate_on = [{ method = \"POST\", path = \"/password\" }]";
        let test = SessionControlTest::new("/password", head, rules).await;
        let mut browser = test.alice().await;
        test.gateway.advance(MINUTE);
        assert_eq!(new_token(&browser.fetch("/").await), None, "not due by its age");
        assert_eq!(new_token(&browser.fetch("/password").await), None, "another method");
        let old = browser.token();
        let response = browser.post_form("/password", &[("new", "x")]).await;
        assert_eq!(new_token(&response).is_some(), rotates, "{head}");
        if rotates {
            assert_ne!(browser.token(), old);
            assert!(test.is_active(&browser.token()).await);
            test.gateway.advance(Duration::from_secs(15));
            assert!(!test.is_active(&old).await, "the old token expires after half a grace period");
            assert!(test.is_active(&browser.token()).await, "and the session stays active");
        }
    }
}

#[tokio::test]
async fn logout_page_can_be_a_query_parameter() {
    let rules = "logout_paths = [\"/doku.php?do=logout\"]";
    let test = SessionControlTest::new("/doku.php", "200 OK", rules).await;
    let mut browser = test.alice().await;
    for path in ["/doku.php", "/doku.php?do=login", "/doku.php?undo=logout"] {
        browser.fetch(path).await;
        assert!(test.is_active(&browser.token()).await, "{path}");
    }
    let token = browser.token();
    browser.fetch("/doku.php?id=start&%64o=logout&sectok=x").await;
    assert!(!test.is_active(&token).await);
}

#[tokio::test]
async fn sensitive_action_by_a_named_method_rotates_the_token() {
    let rules = "rotate_on = [{ method = \"DELETE\", path = \"/password\" }]";
    let form = ("content-type", "application/x-www-form-urlencoded");
    for (path, header, rotates) in [
        ("/password", ("x-http-method-override", "DELETE"), true),
        ("/password?_method=delete", ("x-other", "DELETE"), true),
        ("/password", form, true),
        ("/password", ("content-type", "application/json"), false),
        ("/other", form, false),
    ] {
        let test = SessionControlTest::new("/password", "200 OK", rules).await;
        let mut browser = test.alice().await;
        test.gateway.advance(MINUTE);
        let headers = [("sec-fetch-site", "same-origin"), header];
        let response = browser.send("POST", path, &headers, "_method=DELETE").await;
        assert_eq!(new_token(&response).is_some(), rotates, "{path} {header:?}");
    }
}

#[tokio::test]
async fn lost_rotation_after_sensitive_action_is_repeated() {
    let rules = "rotate_on = [{ path = \"/password\" }]";
    let test = SessionControlTest::new("/password", "200 OK", rules).await;
    let browser = test.alice().await;
    test.gateway.advance(MINUTE);
    let lost = new_token(&browser.clone().post_form("/password", &[]).await);
    let again = new_token(&browser.clone().fetch("/").await);
    assert!(lost.is_some() && lost == again);
}

/// Sends a request whose response rotates the token, while another tab continues.
async fn with_open_request(
    test: &SessionControlTest,
    mut slow: Browser,
    during: impl AsyncFnOnce(),
) -> Browser {
    test.other.hold_responses();
    let asking = tokio::spawn(async move { (slow.post_form("/password", &[]).await, slow) });
    test.other.wait_for_requests(1).await;
    during().await;
    test.other.release_responses();
    let (response, slow) = asking.await.expect("a response");
    assert_eq!(response.status, StatusCode::OK, "{}", response.text());
    slow
}

#[tokio::test]
async fn request_outliving_its_token_is_not_theft() {
    let by_path = ("200 OK", "rotate_on = [{ method = \"POST\", path = \"/password\" }]");
    let by_word = ("200 OK\r\nDoorward-Session: rotate", "upstream_control = [\"rotate\"]");
    for (head, rules) in [by_path, by_word] {
        let test = SessionControlTest::new("/password", head, rules).await;
        let mut tab = test.alice().await;
        let upload = tab.clone();
        let slow = with_open_request(&test, upload, async || {
            for pause in [601, 0, 601, 0, 120] {
                test.gateway.advance(Duration::from_secs(pause));
                tab.fetch("/").await;
            }
        })
        .await;
        assert_ne!(tab.token(), slow.token(), "two generations ahead");
        let before = tab.token();
        let response = tab.fetch("/").await;
        assert_eq!(response.status, StatusCode::OK, "{head}: {}", response.text());
        assert_ne!(tab.token(), before, "the token rotates nevertheless");
        let metrics = test.gateway.metrics().await;
        assert!(!metrics.contains("session.theft"), "{metrics}");
    }
}

#[tokio::test]
async fn request_with_lost_successors_rotates_by_its_response() {
    let rules = "rotate_on = [{ method = \"POST\", path = \"/password\" }]";
    let test = SessionControlTest::new("/password", "200 OK", rules).await;
    let alice = test.alice().await;
    test.gateway.advance(Duration::from_secs(601));
    for _ in 0..2 {
        assert!(new_token(&alice.clone().fetch("/").await).is_some(), "and lost");
        test.gateway.advance(Duration::from_secs(31));
    }
    let slow = with_open_request(&test, alice.clone(), async || {
        test.gateway.advance(Duration::from_secs(31));
    })
    .await;
    assert_ne!(slow.token(), alice.token(), "renewed");
    assert!(test.is_active(&slow.token()).await);
}

// The control header

#[tokio::test]
async fn control_header_needs_upstream_control_and_is_stripped() {
    for (action, allowed) in
        [("rotate", true), ("end", true), ("reauthenticate", true), ("end", false)]
    {
        let rules =
            if allowed { format!("upstream_control = [\"{action}\"]") } else { String::new() };
        let test = SessionControlTest::new(
            "/say",
            &format!("200 OK\r\nDoorward-Session: {action}"),
            &rules,
        )
        .await;
        let mut browser = test.alice().await;
        test.gateway.advance(MINUTE);
        let token = browser.token();
        let response = browser.fetch("/say").await;
        assert_eq!(response.header("doorward-session"), "", "{action}");
        let after = Browser::new(&test.gateway).with_token(&token).fetch("/").await;
        match (action, allowed) {
            ("rotate", _) => assert!(new_token(&response).is_some()),
            ("end", true) => assert_eq!(after.json()["reason"], "logout-by-app"),
            ("reauthenticate", _) => assert_eq!(after.json()["error"], "reauthenticate"),
            _ => assert_eq!(after.status, StatusCode::OK, "not allowed, not obeyed"),
        }
    }
}

/// Disconnects before the upstream responds and waits until the gateway has detected it.
async fn disconnect(test: &SessionControlTest, mut browser: Browser, path: &'static str) {
    test.other.hold_responses();
    let asking = tokio::spawn(async move { browser.fetch(path).await });
    test.other.wait_for_requests(1).await;
    asking.abort();
    within_seconds("the connection stays", async || {
        test.gateway.metrics().await.contains("doorward_client_connections 0\n")
    })
    .await;
    test.other.release_responses();
}

async fn within_seconds(otherwise: &str, holds: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds().await {
        assert!(Instant::now() < deadline, "{otherwise}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn client_disconnect_does_not_prevent_upstream_logout() {
    for (head, rules) in [
        ("200 OK", "logout_paths = [\"/say\"]"),
        ("200 OK\r\nDoorward-Session: end", "upstream_control = [\"end\"]"),
        ("200 OK\r\nDoorward-Session: end-all", "upstream_control = [\"end-all\"]"),
        ("200 OK\r\nDoorward-Session: reauthenticate", "upstream_control = [\"reauthenticate\"]"),
    ] {
        for h2 in [false, true] {
            let test = SessionControlTest::new("/say", head, rules).await;
            let alice = Browser { h2, ..test.alice().await };
            let token = alice.token();
            disconnect(&test, alice, "/say").await;
            within_seconds(&format!("{rules} lives on"), async || !test.is_active(&token).await)
                .await;
        }
    }
}

#[tokio::test]
async fn disconnect_during_sensitive_action_rotates_next_time() {
    let test = SessionControlTest::new(
        "/password",
        "200 OK",
        "rotate_on = [{ method = \"GET\", path = \"/password\" }]",
    )
    .await;
    let mut alice = test.alice().await;
    test.gateway.advance(MINUTE);
    disconnect(&test, alice.clone(), "/password").await;
    let alice = &mut alice;
    let deadline = Instant::now() + Duration::from_secs(10);
    while new_token(&alice.fetch("/").await).is_none() {
        assert!(Instant::now() < deadline, "not due");
    }
}

/// A response that ends the session is delivered completely.
#[tokio::test]
async fn long_response_is_not_cut_by_its_own_reauthentication() {
    let body = "x".repeat(100_000);
    let controlling = Upstream::with_response(format!(
        "HTTP/1.1 200 OK\r\nDoorward-Session: reauthenticate\r\nContent-Length: 100000\r\n\r\n{body}"
    ))
    .await;
    let routes = session_route(controlling.address)
        + "[route.session]\nobey_upstream = [\"reauthenticate\"]\n";
    let gateway = Gateway::start(Setup { routes, ..Setup::default() });
    let mut alice = Browser::new(&gateway);
    alice.log_in("alice").await;
    assert_eq!(alice.fetch("/").await.body.len(), 100_000);
    assert_eq!(alice.fetch("/").await.json()["error"], "reauthenticate");
}

#[tokio::test]
async fn upstream_may_end_all_sessions_of_its_user_only() {
    let test = SessionControlTest::new(
        "/say",
        "200 OK\r\nDoorward-Session: end-all",
        "upstream_control = [\"end-all\"]",
    )
    .await;
    let (mut here, other_session) = (test.alice().await, test.alice().await);
    let mut bob = Browser::new(&test.gateway);
    bob.log_in("bob").await;
    here.fetch("/say").await;
    assert!(!test.is_active(&other_session.token()).await);
    assert!(test.is_active(&bob.token()).await);
}

#[tokio::test]
async fn ambiguous_or_unknown_control_values_are_ignored() {
    for head in [
        "200 OK\r\nDoorward-Session: end\r\nDoorward-Session: rotate",
        "200 OK\r\nDoorward-Session: explode",
    ] {
        let test =
            SessionControlTest::new("/say", head, "upstream_control = [\"end\", \"rotate\"]").await;
        let mut browser = test.alice().await;
        let response = browser.fetch("/say").await;
        assert_eq!((response.status, response.header("doorward-session")), (StatusCode::OK, ""));
        assert!(test.is_active(&browser.token()).await);
    }
}

#[tokio::test]
async fn client_cannot_send_the_control_header() {
    let test = SessionControlTest::new("/say", "200 OK", "upstream_control = [\"end\"]").await;
    let mut browser = test.alice().await;
    browser.send("GET", "/say", &[("doorward-session", "end")], "").await;
    assert!(test.is_active(&browser.token()).await);
}

// Activity

#[tokio::test]
async fn polling_an_excluded_path_does_not_prevent_idling() {
    let test =
        SessionControlTest::new("/poll", "204 No Content", "activity = { except = [\"/poll\"] }")
            .await;
    let mut browser = test.alice().await;
    for _ in 0..2 {
        test.gateway.advance(14 * MINUTE);
        assert_eq!(browser.fetch("/poll").await.status, StatusCode::NO_CONTENT);
    }
    test.gateway.advance(2 * MINUTE);
    assert_eq!(browser.fetch("/poll").await.json()["reason"], "idle");
}

#[tokio::test]
async fn navigation_only_activity_lets_busy_pages_idle_out() {
    let test =
        SessionControlTest::new("/page", "200 OK", "activity = { navigations_only = true }").await;
    let mut browser = test.alice().await;
    for _ in 0..3 {
        test.gateway.advance(14 * MINUTE);
        assert_eq!(browser.navigate("/page").await.status, StatusCode::OK);
    }
    for _ in 0..2 {
        test.gateway.advance(14 * MINUTE);
        assert_eq!(browser.fetch("/page").await.status, StatusCode::OK);
    }
    test.gateway.advance(2 * MINUTE);
    assert_eq!(browser.fetch("/page").await.json()["reason"], "idle");
}

#[tokio::test]
async fn method_limited_activity_lets_reading_pages_idle_out() {
    let test =
        SessionControlTest::new("/page", "200 OK", "activity = { methods = [\"POST\"] }").await;
    let mut browser = test.alice().await;
    for _ in 0..3 {
        test.gateway.advance(14 * MINUTE);
        assert_eq!(browser.post_form("/page", &[]).await.status, StatusCode::OK);
    }
    for _ in 0..2 {
        test.gateway.advance(14 * MINUTE);
        assert_eq!(browser.fetch("/page").await.status, StatusCode::OK);
    }
    test.gateway.advance(2 * MINUTE);
    assert_eq!(browser.fetch("/page").await.json()["reason"], "idle");
}
