//! Login, logout, and responses without a session.

use std::time::Duration;

use http::StatusCode;

use test_support::browser::{Browser, Response};
use test_support::gateway::{Gateway, PASSWORD, Setup, manual_clock, session_route};
use test_support::upstream::Upstream;

async fn one_app() -> (Upstream, Gateway) {
    let upstream = Upstream::start().await;
    let gateway =
        Gateway::start(Setup { routes: session_route(upstream.address), ..Setup::default() });
    (upstream, gateway)
}

#[tokio::test]
async fn navigation_without_session_returns_after_login() {
    let (upstream, gateway) = one_app().await;
    let mut browser = Browser::new(&gateway);
    let response = browser.navigate("/wiki/page?x=1").await;
    assert_eq!(response.status, StatusCode::SEE_OTHER);
    assert!(response.header("location").starts_with("/.doorward/login?"));
    let response = browser.try_log_in("alice", PASSWORD, "/wiki/page?x=1").await;
    assert_eq!(
        (response.status, response.header("location")),
        (StatusCode::SEE_OTHER, "/wiki/page?x=1")
    );
    assert_eq!(browser.navigate("/wiki/page?x=1").await.text(), "hello");
    assert_eq!(upstream.heads().len(), 1);
}

#[tokio::test]
async fn fetch_without_session_gets_401_json() {
    let (upstream, gateway) = one_app().await;
    let response = Browser::new(&gateway).fetch("/api").await;
    assert_eq!(response.status, StatusCode::UNAUTHORIZED);
    assert_eq!(response.json()["reason"], "no-session");
    assert_eq!(response.json()["login"], "/.doorward/login");
    assert!(response.headers.contains_key("www-authenticate"));
    assert!(upstream.heads().is_empty());
}

/// ASVS 7.2.4.
#[tokio::test]
async fn each_login_creates_a_token_and_ends_the_old_session() {
    let (_upstream, gateway) = one_app().await;
    let mut browser = Browser::new(&gateway);
    browser.log_in("alice").await;
    let old = browser.token();
    browser.log_in("alice").await;
    assert_ne!(browser.token(), old);
    assert_eq!(browser.fetch("/").await.status, StatusCode::OK);
    let response = Browser::new(&gateway).with_token(&old).fetch("/").await;
    assert_eq!(
        (response.status, response.json()["reason"].as_str()),
        (StatusCode::UNAUTHORIZED, Some("replaced"))
    );
}

/// Logs in and returns the redirect target.
async fn leads_to(browser: &mut Browser, login: &str) -> String {
    let form = browser.navigate(login).await;
    assert_eq!(form.status, StatusCode::OK, "{login}");
    let (csrf, to) = (form.form_field("csrf"), form.form_field("to"));
    let fields = [("username", "alice"), ("password", PASSWORD), ("csrf", &*csrf), ("to", &*to)];
    let response = browser.post_form("/.doorward/login", &fields).await;
    assert_eq!(response.status, StatusCode::SEE_OTHER, "{}", response.text());
    response.header("location").to_owned()
}

/// A form or script request is not repeated as a GET after login; the page that sent it is loaded instead.
#[tokio::test]
async fn form_or_script_returns_to_its_page_after_login() {
    let (_upstream, gateway) = slow_clock().await;
    let page = ("referer", "https://app.test/wiki/edit?page=7");
    let navigates = [
        ("accept", "text/html"),
        ("sec-fetch-mode", "navigate"),
        ("sec-fetch-site", "same-origin"),
    ];
    for (referers, leads) in [
        (vec![page], "/wiki/edit?page=7"),
        (vec![], "/"),
        (vec![("referer", "https://evil.test/wiki")], "/"),
        (vec![("referer", "https://app.test@evil.test/wiki")], "/"),
        (vec![("referer", "http://app.test/wiki")], "/"),
        (vec![("referer", "https://app.test//evil.test/")], "/"),
        (vec![page, page], "/"),
        (vec![page, ("referer", "https://evil.test/")], "/"),
        (vec![("referer", "https://app.test/.doorward/login?why=idle")], "/"),
    ] {
        gateway.advance(Duration::from_secs(60));
        let mut person = Browser::new(&gateway);
        let posts = [&navigates[..], &referers].concat();
        let response = person.send("POST", "/wiki/save", &posts, "text=x").await;
        assert_eq!(response.status, StatusCode::SEE_OTHER, "{}", response.text());
        assert_eq!(leads_to(&mut person, response.header("location")).await, leads, "{referers:?}");
        for method in ["GET", "POST"] {
            let mut script = Browser::new(&gateway);
            let response = script.send(method, "/api/items", &referers, "").await;
            assert_eq!(response.status, StatusCode::UNAUTHORIZED);
            let login = response.json()["login"].as_str().expect("a link").to_owned();
            assert_eq!(leads_to(&mut script, &login).await, leads, "{referers:?}");
        }
    }
}

#[tokio::test]
async fn reauthentication_precedes_the_upstream_and_rotates() {
    let (upstream, admin) = (Upstream::start().await, Upstream::start().await);
    let strict = session_route(admin.address)
        .replace("path = \"/\"", "path = \"/admin\"")
        .replace("\"session\"", "{ groups = [\"staff\"], max_auth_age = \"5m\" }");
    let gateway = Gateway::start(Setup {
        routes: format!("{}{strict}", session_route(upstream.address)),
        clock: manual_clock(),
        ..Setup::default()
    });
    let mut alice = Browser::new(&gateway);
    alice.log_in("alice").await;
    assert_eq!(alice.fetch("/admin").await.status, StatusCode::OK);
    gateway.advance(Duration::from_secs(300));
    let old = alice.token();
    let script = alice.fetch("/admin/api").await;
    assert_eq!(
        (script.status, &script.json()["error"]),
        (StatusCode::UNAUTHORIZED, &"reauthenticate".into())
    );
    let page = alice.navigate("/admin/users?sort=name").await;
    assert_eq!(page.status, StatusCode::SEE_OTHER);
    assert_eq!(admin.heads().len(), 1, "{:?}", admin.heads());
    assert_eq!(alice.fetch("/").await.status, StatusCode::OK, "accepted at the app");
    assert_eq!(alice.token(), old);
    let login = page.header("location").to_owned();
    let form = alice.navigate(&login).await.text();
    assert!(form.contains("asks you to log in again"), "{form}");
    assert_eq!(leads_to(&mut alice, &login).await, "/admin/users?sort=name");
    assert_ne!(alice.token(), old);
    assert_eq!(alice.navigate("/admin/users?sort=name").await.status, StatusCode::OK);
    assert!(admin.last_head().starts_with("GET /admin/users?sort=name "), "{}", admin.last_head());
    let dead = Browser::new(&gateway).with_token(&old).fetch("/").await;
    assert_eq!(dead.json()["reason"], "replaced");
}

/// Sends up to twelve wrong passwords and returns the first response other than 401.
async fn guess(browser: &mut Browser, csrf: &str, more: &[(&str, &str)]) -> (usize, Response) {
    let body = form_urlencoded::Serializer::new(String::new())
        .extend_pairs([("username", "alice"), ("password", "a wrong guess"), ("csrf", csrf)])
        .finish();
    let kind = ("content-type", "application/x-www-form-urlencoded");
    let headers = [&[kind, ("sec-fetch-site", "same-origin")], more].concat();
    for tries in 1..=12 {
        let response = browser.send("POST", "/.doorward/login", &headers, &body).await;
        if response.status != StatusCode::UNAUTHORIZED {
            return (tries, response);
        }
    }
    panic!("the guesses are not limited");
}

async fn slow_clock() -> (Upstream, Gateway) {
    let upstream = Upstream::start().await;
    let setup = Setup {
        routes: session_route(upstream.address),
        clock: manual_clock(),
        ..Setup::default()
    };
    (upstream, Gateway::start(setup))
}

/// ASVS 6.3.1.
#[tokio::test]
async fn too_many_guesses_get_429_and_a_form_with_the_wait() {
    let (_upstream, gateway) = slow_clock().await;
    let mut browser = Browser::new(&gateway);
    let csrf = browser.navigate("/.doorward/login").await.form_field("csrf");
    let person = [("accept", "text/html"), ("sec-fetch-mode", "navigate")];
    let (tries, response) = guess(&mut browser, &csrf, &person).await;
    assert_eq!((tries, response.status), (11, StatusCode::TOO_MANY_REQUESTS));
    assert_eq!(response.header("retry-after"), "6");
    assert_eq!(response.header("cache-control"), "no-store");
    let page = response.text();
    assert!(page.contains("There were too many attempts. Try again in 6 seconds."), "{page}");
    assert_eq!(
        (&*response.form_field("username"), &*response.form_field("password")),
        ("alice", "")
    );
    assert!(!page.contains("a wrong guess") && browser.token().is_empty());

    let right = [("username", "alice"), ("password", PASSWORD), ("csrf", &*csrf)];
    let unheard = browser.post_form("/.doorward/login", &right).await;
    assert_eq!(unheard.status, StatusCode::TOO_MANY_REQUESTS, "not even the right one is tried");
    Browser::new(&gateway).log_in("bob").await;
    gateway.advance(std::time::Duration::from_secs(6));
    let form = browser.post_form("/.doorward/login", &right).await;
    assert_eq!(form.status, StatusCode::SEE_OTHER, "{}", form.text());
}

/// ASVS 6.3.1.
#[tokio::test]
async fn too_many_guesses_get_429_json_with_the_wait() {
    let (_upstream, gateway) = slow_clock().await;
    let mut browser = Browser::new(&gateway);
    let csrf = browser.navigate("/.doorward/login").await.form_field("csrf");
    let (tries, response) = guess(&mut browser, &csrf, &[("accept", "application/json")]).await;
    assert_eq!((tries, response.status), (11, StatusCode::TOO_MANY_REQUESTS));
    assert_eq!(response.header("retry-after"), "6");
    assert_eq!(response.header("content-type"), "application/json");
    assert_eq!(response.json(), serde_json::json!({ "error": "login", "reason": "throttled" }));
}

#[tokio::test]
async fn failed_login_is_json_for_programs_and_html_for_browsers() {
    let (_upstream, gateway) = slow_clock().await;
    let mut browser = Browser::new(&gateway);
    let csrf = browser.navigate("/.doorward/login").await.form_field("csrf");
    let wrong = format!("username=alice&password=wrong&csrf={csrf}");
    let kind = ("content-type", "application/x-www-form-urlencoded");
    // Browsers before 2020 send no `Sec-Fetch-Mode`.
    let old = [kind, ("accept", "text/html,application/xhtml+xml,*/*;q=0.8")];
    let page = browser.send("POST", "/.doorward/login", &old, &wrong).await;
    assert_eq!(
        (page.status, page.form_field("csrf").is_empty()),
        (StatusCode::UNAUTHORIZED, false)
    );
    for (body, status, reason) in [
        (&*wrong, StatusCode::UNAUTHORIZED, "wrong-password"),
        ("username=alice", StatusCode::BAD_REQUEST, "stale-form"),
    ] {
        let response = browser.send("POST", "/.doorward/login", &[kind], body).await;
        assert_eq!((response.status, &response.json()["reason"]), (status, &reason.into()));
    }
}

/// Logs out with a rejected token and asserts that this ends the session of `other`.
async fn logs_out(refused: &mut Browser, reason: &str, other: &mut Browser) {
    assert_eq!(refused.fetch("/").await.json()["reason"], reason);
    let form = refused.navigate("/.doorward/logout").await;
    assert!(form.text().contains("<form"), "the page reports the end: {}", form.text());
    let wrong = refused.post_form("/.doorward/logout", &[("csrf", "wrong")]).await;
    assert_eq!(wrong.status, StatusCode::FORBIDDEN, "from another site");
    let csrf = form.form_field("csrf");
    let logout = refused.post_form("/.doorward/logout", &[("csrf", &csrf)]).await;
    assert_eq!((logout.status, refused.token()), (StatusCode::OK, String::new()));
    assert_eq!(other.fetch("/").await.json()["reason"], "logout", "the session stays active");
}

#[tokio::test]
async fn logout_with_a_pre_crash_token_ends_the_session() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(Setup {
        routes: session_route(upstream.address),
        clock: manual_clock(),
        ..Setup::default()
    });
    let mut alice = Browser::new(&gateway);
    alice.log_in("alice").await;
    let mut crashed = alice.clone();
    gateway.advance(Duration::from_secs(601));
    alice.fetch("/").await;
    alice.fetch("/").await;
    gateway.advance(Duration::from_secs(31));
    logs_out(&mut crashed, "after-crash", &mut alice).await;
}

#[tokio::test]
async fn logout_ends_a_frozen_session() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(Setup {
        routes: session_route(upstream.address),
        session: "on_reuse = \"reauthenticate\"".to_owned(),
        clock: manual_clock(),
        ..Setup::default()
    });
    let mut alice = Browser::new(&gateway);
    alice.log_in("alice").await;
    let mut attacker = alice.clone();
    gateway.advance(Duration::from_secs(601));
    alice.fetch("/").await;
    alice.fetch("/").await;
    gateway.advance(Duration::from_secs(120));
    alice.fetch("/").await;
    assert_eq!(attacker.fetch("/").await.json()["reason"], "theft");
    let mut tab = alice.clone();
    logs_out(&mut alice, "reauthenticate", &mut tab).await;
}
