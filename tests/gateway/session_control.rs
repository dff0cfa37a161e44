//! What an app's answer and an app's traffic do to the session: its own logout, sensitive actions, its
//! word in `Doorward-Session`, and what counts as activity.

use std::time::{Duration, Instant};

use http::StatusCode;

use test_support::browser::{Browser, Response, SESSION};
use test_support::gateway::{Gateway, Setup, manual_clock, session_route};
use test_support::redis_server::{RedisOptions, RedisServer};
use test_support::upstream::Upstream;

const MINUTE: Duration = Duration::from_secs(60);

/// One app behind `/`, and beside it one that answers everything below `path` with `head`.
struct Stage {
    other: Upstream,
    _home: Upstream,
    gateway: Gateway,
}

impl Stage {
    async fn new(path: &str, head: &str, rules: &str) -> Stage {
        Stage::on("", path, head, rules).await
    }

    async fn on(store: &str, path: &str, head: &str, rules: &str) -> Stage {
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
        Stage { other, _home: home, gateway }
    }

    async fn alice(&self) -> Browser {
        let mut browser = Browser::new(&self.gateway);
        browser.log_in("alice").await;
        browser
    }

    /// Whether a copy of the token passes.
    async fn lives(&self, token: &str) -> bool {
        Browser::new(&self.gateway).with_token(token).fetch("/").await.status == StatusCode::OK
    }
}

fn new_token(answer: &Response) -> Option<String> {
    let lines = answer.set_cookies();
    let value = lines.iter().find_map(|line| line.strip_prefix(SESSION)?.strip_prefix('='))?;
    Some(value.split(';').next().unwrap_or_default().to_owned()).filter(|text| !text.is_empty())
}

// The app's own logout

#[tokio::test]
async fn upstream_logout_ends_the_session_and_cookie() {
    let stage =
        Stage::new("/logout", "302 Found\r\nLocation: /bye", "logout_paths = [\"/logout\"]").await;
    let mut browser = stage.alice().await;
    let token = browser.token();
    let answer = browser.fetch("/logout").await;
    assert_eq!((answer.status, answer.header("location")), (StatusCode::FOUND, "/bye"));
    assert_eq!(browser.token(), "", "{:?}", answer.set_cookies());
    assert!(!stage.lives(&token).await, "a copy of the cookie is dead too");
}

#[tokio::test]
async fn upstream_logout_that_cannot_be_stored_is_503() {
    let mut redis = RedisServer::start(RedisOptions::default());
    let store = redis.settings().url;
    let stage = Stage::on(&store, "/logout", "200 OK", "logout_paths = [\"/logout\"]").await;
    let mut browser = stage.alice().await;
    let token = browser.token();
    stage.other.hold_responses();
    let asking = tokio::spawn(async move { (browser.fetch("/logout").await, browser) });
    stage.other.begun(1).await;
    redis.kill();
    stage.other.release_responses();
    let (answer, browser) = asking.await.expect("an answer");
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(browser.token(), token, "an outage takes nobody's cookie");
}

// Sensitive actions

#[tokio::test]
async fn sensitive_action_rotates_the_token_at_once() {
    for (head, renews) in
        [("200 OK", true), ("303 See Other\r\nLocation: /", true), ("422 No", false)]
    {
        let rules = "rotate_on = [{ method = \"POST\", path = \"/password\" }]";
        let stage = Stage::new("/password", head, rules).await;
        let mut browser = stage.alice().await;
        stage.gateway.advance(MINUTE);
        assert_eq!(new_token(&browser.fetch("/").await), None, "not due by its age");
        assert_eq!(new_token(&browser.fetch("/password").await), None, "another method");
        let old = browser.token();
        let answer = browser.post_form("/password", &[("new", "x")]).await;
        assert_eq!(new_token(&answer).is_some(), renews, "{head}");
        if renews {
            assert_ne!(browser.token(), old);
            assert!(stage.lives(&browser.token()).await);
            stage.gateway.advance(Duration::from_secs(15));
            assert!(!stage.lives(&old).await, "the old token dies after half a grace");
            assert!(stage.lives(&browser.token()).await, "and takes nothing with it");
        }
    }
}

#[tokio::test]
async fn lost_rotation_after_sensitive_action_is_repeated() {
    let rules = "rotate_on = [{ path = \"/password\" }]";
    let stage = Stage::new("/password", "200 OK", rules).await;
    let browser = stage.alice().await;
    stage.gateway.advance(MINUTE);
    let lost = new_token(&browser.clone().post_form("/password", &[]).await);
    let again = new_token(&browser.clone().fetch("/").await);
    assert!(lost.is_some() && lost == again);
}

/// alice waits for the app's answer, to which the token is renewed, while another tab of hers goes on.
async fn while_it_waits(
    stage: &Stage,
    mut slow: Browser,
    meanwhile: impl AsyncFnOnce(),
) -> Browser {
    stage.other.hold_responses();
    let asking = tokio::spawn(async move { (slow.post_form("/password", &[]).await, slow) });
    stage.other.begun(1).await;
    meanwhile().await;
    stage.other.release_responses();
    let (answer, slow) = asking.await.expect("an answer");
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    slow
}

#[tokio::test]
async fn request_outliving_its_token_is_not_theft() {
    let by_path = ("200 OK", "rotate_on = [{ method = \"POST\", path = \"/password\" }]");
    let by_word = ("200 OK\r\nDoorward-Session: rotate", "upstream_control = [\"rotate\"]");
    for (head, rules) in [by_path, by_word] {
        let stage = Stage::new("/password", head, rules).await;
        let mut tab = stage.alice().await;
        let upload = tab.clone();
        let slow = while_it_waits(&stage, upload, async || {
            for pause in [601, 0, 601, 0, 120] {
                stage.gateway.advance(Duration::from_secs(pause));
                tab.fetch("/").await;
            }
        })
        .await;
        assert_ne!(tab.token(), slow.token(), "two generations ahead");
        let before = tab.token();
        let answer = tab.fetch("/").await;
        assert_eq!(answer.status, StatusCode::OK, "{head}: {}", answer.text());
        assert_ne!(tab.token(), before, "what was done is answered by a renewal all the same");
        let metrics = stage.gateway.metrics().await;
        assert!(!metrics.contains("session.theft"), "{metrics}");
    }
}

#[tokio::test]
async fn request_with_lost_successors_rotates_by_its_response() {
    let rules = "rotate_on = [{ method = \"POST\", path = \"/password\" }]";
    let stage = Stage::new("/password", "200 OK", rules).await;
    let alice = stage.alice().await;
    stage.gateway.advance(Duration::from_secs(601));
    for _ in 0..2 {
        assert!(new_token(&alice.clone().fetch("/").await).is_some(), "and lost");
        stage.gateway.advance(Duration::from_secs(31));
    }
    let slow = while_it_waits(&stage, alice.clone(), async || {
        stage.gateway.advance(Duration::from_secs(31));
    })
    .await;
    assert_ne!(slow.token(), alice.token(), "renewed");
    assert!(stage.lives(&slow.token()).await);
}

// The app's word

#[tokio::test]
async fn control_header_needs_upstream_control_and_is_stripped() {
    for (word, allowed) in
        [("rotate", true), ("end", true), ("reauthenticate", true), ("end", false)]
    {
        let rules =
            if allowed { format!("upstream_control = [\"{word}\"]") } else { String::new() };
        let stage =
            Stage::new("/say", &format!("200 OK\r\nDoorward-Session: {word}"), &rules).await;
        let mut browser = stage.alice().await;
        stage.gateway.advance(MINUTE);
        let token = browser.token();
        let answer = browser.fetch("/say").await;
        assert_eq!(answer.header("doorward-session"), "", "{word}");
        let after = Browser::new(&stage.gateway).with_token(&token).fetch("/").await;
        match (word, allowed) {
            ("rotate", _) => assert!(new_token(&answer).is_some()),
            ("end", true) => assert_eq!(after.json()["reason"], "logout"),
            ("reauthenticate", _) => assert_eq!(after.json()["error"], "reauthenticate"),
            _ => assert_eq!(after.status, StatusCode::OK, "not allowed, not obeyed"),
        }
    }
}

/// The client goes while the app still thinks, and the gateway has noticed that.
async fn hang_up(stage: &Stage, mut browser: Browser, path: &'static str) {
    stage.other.hold_responses();
    let asking = tokio::spawn(async move { browser.fetch(path).await });
    stage.other.begun(1).await;
    asking.abort();
    within_seconds("the connection stays", async || {
        stage.gateway.metrics().await.contains("doorward_client_connections 0\n")
    })
    .await;
    stage.other.release_responses();
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
            let stage = Stage::new("/say", head, rules).await;
            let alice = Browser { h2, ..stage.alice().await };
            let token = alice.token();
            hang_up(&stage, alice, "/say").await;
            within_seconds(&format!("{rules} lives on"), async || !stage.lives(&token).await).await;
        }
    }
}

#[tokio::test]
async fn disconnect_during_sensitive_action_rotates_next_time() {
    let stage = Stage::new(
        "/password",
        "200 OK",
        "rotate_on = [{ method = \"GET\", path = \"/password\" }]",
    )
    .await;
    let mut alice = stage.alice().await;
    stage.gateway.advance(MINUTE);
    hang_up(&stage, alice.clone(), "/password").await;
    let alice = &mut alice;
    let deadline = Instant::now() + Duration::from_secs(10);
    while new_token(&alice.fetch("/").await).is_none() {
        assert!(Instant::now() < deadline, "not due");
    }
}

/// The answer that stops the session is the app's last word to it, and whole.
#[tokio::test]
async fn long_response_is_not_cut_by_its_own_reauthentication() {
    let body = "x".repeat(100_000);
    let says = Upstream::with_response(format!(
        "HTTP/1.1 200 OK\r\nDoorward-Session: reauthenticate\r\nContent-Length: 100000\r\n\r\n{body}"
    ))
    .await;
    let routes =
        session_route(says.address) + "[route.session]\nobey_upstream = [\"reauthenticate\"]\n";
    let gateway = Gateway::start(Setup { routes, ..Setup::default() });
    let mut alice = Browser::new(&gateway);
    alice.log_in("alice").await;
    assert_eq!(alice.fetch("/").await.body.len(), 100_000);
    assert_eq!(alice.fetch("/").await.json()["error"], "reauthenticate");
}

#[tokio::test]
async fn upstream_may_end_all_sessions_of_its_user_only() {
    let stage = Stage::new(
        "/say",
        "200 OK\r\nDoorward-Session: end-all",
        "upstream_control = [\"end-all\"]",
    )
    .await;
    let (mut here, elsewhere) = (stage.alice().await, stage.alice().await);
    let mut bob = Browser::new(&stage.gateway);
    bob.log_in("bob").await;
    here.fetch("/say").await;
    assert!(!stage.lives(&elsewhere.token()).await);
    assert!(stage.lives(&bob.token()).await);
}

#[tokio::test]
async fn ambiguous_or_unknown_control_values_are_ignored() {
    for head in [
        "200 OK\r\nDoorward-Session: end\r\nDoorward-Session: rotate",
        "200 OK\r\nDoorward-Session: explode",
    ] {
        let stage = Stage::new("/say", head, "upstream_control = [\"end\", \"rotate\"]").await;
        let mut browser = stage.alice().await;
        let answer = browser.fetch("/say").await;
        assert_eq!((answer.status, answer.header("doorward-session")), (StatusCode::OK, ""));
        assert!(stage.lives(&browser.token()).await);
    }
}

#[tokio::test]
async fn client_cannot_send_the_control_header() {
    let stage = Stage::new("/say", "200 OK", "upstream_control = [\"end\"]").await;
    let mut browser = stage.alice().await;
    browser.send("GET", "/say", &[("doorward-session", "end")], "").await;
    assert!(stage.lives(&browser.token()).await);
}

// Activity

#[tokio::test]
async fn polling_an_excluded_path_does_not_prevent_idling() {
    let stage = Stage::new("/poll", "204 No Content", "activity = { except = [\"/poll\"] }").await;
    let mut browser = stage.alice().await;
    for _ in 0..2 {
        stage.gateway.advance(14 * MINUTE);
        assert_eq!(browser.fetch("/poll").await.status, StatusCode::NO_CONTENT);
    }
    stage.gateway.advance(2 * MINUTE);
    assert_eq!(browser.fetch("/poll").await.json()["reason"], "idle");
}

#[tokio::test]
async fn navigation_only_activity_lets_busy_pages_idle_out() {
    let stage = Stage::new("/page", "200 OK", "activity = { navigations_only = true }").await;
    let mut browser = stage.alice().await;
    for _ in 0..3 {
        stage.gateway.advance(14 * MINUTE);
        assert_eq!(browser.navigate("/page").await.status, StatusCode::OK);
    }
    for _ in 0..2 {
        stage.gateway.advance(14 * MINUTE);
        assert_eq!(browser.fetch("/page").await.status, StatusCode::OK);
    }
    stage.gateway.advance(2 * MINUTE);
    assert_eq!(browser.fetch("/page").await.json()["reason"], "idle");
}

#[tokio::test]
async fn method_limited_activity_lets_reading_pages_idle_out() {
    let stage = Stage::new("/page", "200 OK", "activity = { methods = [\"POST\"] }").await;
    let mut browser = stage.alice().await;
    for _ in 0..3 {
        stage.gateway.advance(14 * MINUTE);
        assert_eq!(browser.post_form("/page", &[]).await.status, StatusCode::OK);
    }
    for _ in 0..2 {
        stage.gateway.advance(14 * MINUTE);
        assert_eq!(browser.fetch("/page").await.status, StatusCode::OK);
    }
    stage.gateway.advance(2 * MINUTE);
    assert_eq!(browser.fetch("/page").await.json()["reason"], "idle");
}
