//! The session life cycle: rotation, timeouts, logout, cookies and keys. All times use a manual clock.

use std::time::{Duration, Instant};

use data_encoding::BASE64URL_NOPAD;
use doorward::clock::Clock;
use doorward::identity::users_file_editor::UsersFileEditor;
use doorward::identity::{Cost, Credential};
use doorward::secret::KeyRing;
use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;

use test_support::browser::{Browser, Response, SESSION};
use test_support::gateway::{Gateway, PASSWORD, Setup, manual_clock, session_route};
use test_support::upstream::Upstream;

const MINUTE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);

/// The defaults: rotation after 10 min, grace period 30 s, idle timeout 30 min, absolute timeout 12 h.
const ROTATE: Duration = Duration::from_secs(600);
const GRACE: Duration = Duration::from_secs(30);
const IDLE: Duration = Duration::from_secs(30 * 60);

/// An upstream with cacheable responses behind a gateway with a manual clock.
async fn app(session: &str) -> (Upstream, Gateway) {
    let response =
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nCache-Control: public, max-age=60\r\n\r\nhello";
    let upstream = Upstream::with_response(response).await;
    let gateway = Gateway::start(Setup {
        routes: session_route(upstream.address),
        session: session.to_owned(),
        clock: manual_clock(),
        ..Setup::default()
    });
    (upstream, gateway)
}

async fn alice(gateway: &Gateway) -> Browser {
    let mut browser = Browser::new(gateway);
    browser.log_in("alice").await;
    browser
}

/// Sends a request with a token from a client without a jar.
async fn show(gateway: &Gateway, token: &str) -> Response {
    Browser::new(gateway).with_token(token).fetch("/").await
}

/// Returns the session token of a response.
fn offered(response: &Response) -> Option<String> {
    let lines = response.set_cookies();
    let value = lines.iter().find_map(|line| line.strip_prefix(SESSION)?.strip_prefix('='))?;
    Some(value.split(';').next().unwrap_or_default().to_owned())
}

fn refused(response: &Response) -> (u16, String) {
    let reason = response.json()["reason"].as_str().unwrap_or_default().to_owned();
    (response.status.as_u16(), reason)
}

fn unauthorized(reason: &str) -> (u16, String) {
    (401, reason.to_owned())
}

fn counted(gateway: &Gateway, event: &str) -> u64 {
    let text = gateway.shared().metrics.render();
    let start = format!("doorward_session_events_total{{event=\"{event}\"}} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&start));
    value.map_or(0, |value| value.parse().expect("a number"))
}

/// Polls until the condition holds; for work of the maintenance thread, which takes about a second.
async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds().await {
        assert!(Instant::now() < deadline, "{what}: not within 10 s");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

// Rotation

/// Rotation rule 1.
#[tokio::test]
async fn due_token_is_rotated_on_navigations_and_fetches() {
    let (_upstream, gateway) = app("").await;
    let browser = alice(&gateway).await;
    gateway.advance(ROTATE - MILLISECOND);
    let early = browser.clone().navigate("/").await;
    assert_eq!(offered(&early), None);
    assert_eq!(early.header("cache-control"), "public, max-age=60");
    gateway.advance(MILLISECOND);
    for h2 in [false, true] {
        let mut navigating = browser.clone();
        navigating.h2 = h2;
        let mut program = navigating.clone();
        for response in [navigating.navigate("/").await, program.fetch("/").await] {
            assert_eq!((response.status, response.text().as_str()), (StatusCode::OK, "hello"));
            assert!(offered(&response).is_some_and(|token| token != browser.token()));
            assert_eq!(response.header("cache-control"), "no-store");
        }
    }
}

/// Rotation rule 1, Invariant S2.
#[tokio::test]
async fn parallel_requests_get_one_successor() {
    let (_upstream, gateway) = app("").await;
    let browser = alice(&gateway).await;
    gateway.advance(ROTATE);
    let mut tabs = tokio::task::JoinSet::new();
    for number in 0..32 {
        let mut tab = browser.clone();
        tab.h2 = number % 2 == 0;
        tabs.spawn(async move { tab.fetch("/").await });
    }
    let responses = tabs.join_all().await;
    assert!(responses.iter().all(|response| response.status == StatusCode::OK));
    let mut tokens: Vec<_> =
        responses.iter().map(|response| offered(response).expect("due")).collect();
    tokens.dedup();
    assert_eq!((responses.len(), tokens.len()), (32, 1));
    assert_eq!(show(&gateway, &tokens[0]).await.status, StatusCode::OK);
}

/// Rotation rule 5.
/// Clients choose these headers, so none of them may extend the use of a stolen token.
#[tokio::test]
async fn image_requests_do_not_extend_a_stolen_token() {
    let kinds: [&[(&str, &str)]; 5] = [
        &[],
        &[("sec-fetch-dest", "image"), ("sec-fetch-mode", "no-cors")],
        &[("sec-fetch-dest", "script"), ("sec-fetch-mode", "no-cors")],
        &[("sec-fetch-dest", "websocket"), ("sec-fetch-mode", "websocket")],
        &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")],
    ];
    for fields in kinds {
        let (_upstream, gateway) = app("").await;
        let stolen = alice(&gateway).await;
        let request = async || stolen.clone().send("GET", "/", fields, "").await;
        gateway.advance(ROTATE - MILLISECOND);
        assert_eq!(offered(&request().await), None, "{fields:?}");
        gateway.advance(MILLISECOND);
        for _ in 0..3 {
            assert!(offered(&request().await).is_some(), "{fields:?}");
            gateway.advance(GRACE);
        }
        assert_ne!(request().await.status, StatusCode::OK, "{fields:?}");
        let program = show(&gateway, &stolen.token()).await;
        assert_eq!(refused(&program), unauthorized("not-rotating"), "{fields:?}");
    }
}

/// Rotation rule 2.
#[tokio::test]
async fn only_use_of_the_successor_starts_the_grace_period() {
    let (_upstream, gateway) = app("").await;
    let old = alice(&gateway).await.token();
    gateway.advance(ROTATE);
    let new = offered(&show(&gateway, &old).await).expect("due");
    // The successor was lost: it is sent again, and the old token is still current.
    gateway.advance(GRACE + SECOND);
    assert_eq!(offered(&show(&gateway, &old).await).as_ref(), Some(&new));
    assert_eq!(counted(&gateway, "session.token-rotated"), 0);
    assert_eq!(offered(&show(&gateway, &new).await), None);
    assert_eq!(counted(&gateway, "session.token-rotated"), 1);
    gateway.advance(GRACE - MILLISECOND);
    let late = show(&gateway, &old).await;
    assert_eq!((late.status, offered(&late)), (StatusCode::OK, None));
}

/// Rotates once; returns the old token and the new one, which was used.
async fn rotated(gateway: &Gateway) -> (String, String) {
    let old = alice(gateway).await.token();
    gateway.advance(ROTATE);
    let new = offered(&show(gateway, &old).await).expect("due");
    assert_eq!(show(gateway, &new).await.status, StatusCode::OK);
    (old, new)
}

/// Rotation rule 4.
#[tokio::test]
async fn superseded_token_after_the_grace_period_is_theft() {
    let (upstream, gateway) = app("").await;
    let (old, new) = rotated(&gateway).await;
    gateway.advance(MINUTE);
    assert_eq!(show(&gateway, &new).await.status, StatusCode::OK);
    assert_eq!(counted(&gateway, "session.theft"), 0);
    let before = upstream.heads().len();
    assert_eq!(refused(&show(&gateway, &old).await), unauthorized("theft"));
    assert_eq!(counted(&gateway, "session.theft"), 1);
    assert_eq!(refused(&show(&gateway, &new).await), unauthorized("theft"));
    assert_eq!(upstream.heads().len(), before);
    let mut person = Browser::new(&gateway).with_token(&new);
    let to_login = person.navigate("/").await;
    let login = person.navigate(to_login.header("location")).await.text();
    assert!(login.contains("An old copy of your session was used"), "{login}");
}

/// Rotation rule 4.
#[tokio::test]
async fn token_restored_after_a_browser_crash_is_not_theft() {
    let (_upstream, gateway) = app("").await;
    let (old, new) = rotated(&gateway).await;
    gateway.advance(MINUTE - MILLISECOND);
    assert_eq!(refused(&show(&gateway, &old).await), unauthorized("after-crash"));
    assert_eq!(counted(&gateway, "session.theft"), 0);
    assert_eq!(show(&gateway, &new).await.status, StatusCode::OK);
}

/// Rotation rule 5.
#[tokio::test]
async fn client_that_ignores_three_successors_is_rejected() {
    let (_upstream, gateway) = app("").await;
    let token = alice(&gateway).await.token();
    gateway.advance(ROTATE);
    for _ in 0..3 {
        assert!(offered(&show(&gateway, &token).await).is_some());
        gateway.advance(GRACE);
    }
    assert_eq!(refused(&show(&gateway, &token).await), unauthorized("not-rotating"));
}

#[tokio::test]
async fn slow_response_never_restores_a_superseded_token() {
    let (address, gate) = slow_app().await;
    let setup = Setup { routes: session_route(address), clock: manual_clock(), ..Setup::default() };
    let gateway = Gateway::start(setup);
    let browser = alice(&gateway).await;
    gateway.advance(ROTATE);
    let mut download = browser.clone();
    let slow = tokio::spawn(async move { download.fetch("/slow").await });
    is_waiting(&gate).await;
    // Two rotations happen in another tab in the meantime.
    let mut tab = browser;
    for _ in 0..2 {
        assert!(offered(&tab.fetch("/").await).is_some());
        assert_eq!(tab.fetch("/").await.status, StatusCode::OK);
        gateway.advance(ROTATE);
    }
    gate.send_replace(ResponseGate::Open);
    let response = slow.await.expect("no panic");
    assert_eq!((response.status, offered(&response)), (StatusCode::OK, None));
}

#[tokio::test]
async fn slow_response_carries_the_current_successor() {
    let (address, gate) = slow_app().await;
    let setup = Setup { routes: session_route(address), clock: manual_clock(), ..Setup::default() };
    let gateway = Gateway::start(setup);
    let mut browser = alice(&gateway).await;
    gateway.advance(ROTATE);
    let mut download = browser.clone();
    let slow = tokio::spawn(async move { download.fetch("/slow").await });
    is_waiting(&gate).await;
    gateway.advance(GRACE);
    gate.send_replace(ResponseGate::Open);
    let response = slow.await.expect("no panic");
    assert_eq!(offered(&response), offered(&browser.fetch("/").await));
    assert!(offered(&response).is_some());
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ResponseGate {
    Closed,
    Waiting,
    Open,
}

/// Waits for a request to `/slow`.
async fn is_waiting(gate: &watch::Sender<ResponseGate>) {
    let mut gate = gate.subscribe();
    let waiting = gate.wait_for(|gate| *gate == ResponseGate::Waiting);
    let waiting = tokio::time::timeout(20 * SECOND, waiting).await;
    waiting.expect("the slow request arrives").expect("held");
}

/// Responds at once, except to `/slow`, which waits for the gate.
async fn slow_app() -> (std::net::SocketAddr, watch::Sender<ResponseGate>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let gate = watch::Sender::new(ResponseGate::Closed);
    let opener = gate.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let gate = opener.clone();
            tokio::spawn(async move {
                let mut head = [0; 4096];
                let read = stream.read(&mut head).await.unwrap_or(0);
                if head[..read].starts_with(b"GET /slow") {
                    gate.send_replace(ResponseGate::Waiting);
                    let mut opened = gate.subscribe();
                    opened.wait_for(|gate| *gate == ResponseGate::Open).await.expect("held");
                }
                let response = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                stream.write_all(response).await.unwrap_or_default();
            });
        }
    });
    (address, gate)
}

// End of a session

/// Invariant S9.
#[tokio::test]
async fn idle_timeout_ends_a_session_on_time() {
    let (_upstream, gateway) = app("").await;
    let mut browser = alice(&gateway).await;
    for _ in 0..3 {
        gateway.advance(IDLE - MILLISECOND);
        assert_eq!(browser.fetch("/").await.status, StatusCode::OK);
    }
    gateway.advance(IDLE);
    assert_eq!(refused(&browser.fetch("/").await), unauthorized("idle"));
    let person = browser.navigate("/").await;
    assert_eq!(person.status, StatusCode::SEE_OTHER);
    let login = browser.navigate(person.header("location")).await.text();
    assert!(login.contains("because you were inactive"), "{login}");
}

/// Invariant S1.
#[tokio::test]
async fn activity_and_rotation_never_extend_absolute_timeout() {
    let (_upstream, gateway) = app("").await;
    let mut browser = alice(&gateway).await;
    for step in 1..36_u64 {
        gateway.advance(20 * MINUTE);
        assert_eq!(browser.fetch("/").await.status, StatusCode::OK, "step {step}");
        let left = browser.fetch("/.doorward/session").await.json()["absolute_seconds"].clone();
        assert_eq!(left, (36 - step) * 20 * 60, "step {step}");
    }
    assert_eq!(counted(&gateway, "session.token-rotated"), 35);
    gateway.advance(20 * MINUTE - MILLISECOND);
    assert_eq!(browser.fetch("/").await.status, StatusCode::OK);
    gateway.advance(MILLISECOND);
    assert_eq!(refused(&browser.fetch("/").await), unauthorized("absolute"));
}

/// Invariant S3.
#[tokio::test]
async fn superseded_token_does_not_count_as_activity() {
    let (_upstream, gateway) = app("idle_timeout = \"2m\"\nrotate_after = \"1m\"").await;
    let mut browser = alice(&gateway).await;
    let old = browser.token();
    gateway.advance(MINUTE);
    assert!(offered(&browser.fetch("/").await).is_some());
    assert_eq!(browser.fetch("/").await.status, StatusCode::OK);
    gateway.advance(GRACE - SECOND);
    assert_eq!(show(&gateway, &old).await.status, StatusCode::OK);
    let left = browser.fetch("/.doorward/session").await.json();
    assert_eq!(left["idle_seconds"], 120 - 29);
    assert_eq!(browser.fetch("/").await.status, StatusCode::OK);
    let left = browser.fetch("/.doorward/session").await.json();
    assert_eq!(left["idle_seconds"], 120);
}

#[tokio::test]
async fn session_status_polling_does_not_count_as_activity() {
    let (_upstream, gateway) = app("").await;
    let mut browser = alice(&gateway).await;
    for minute in 1..30_u64 {
        gateway.advance(MINUTE);
        let response = browser.fetch("/.doorward/session").await;
        let body = response.json();
        assert_eq!(body["user"], "alice");
        assert_eq!(body["idle_seconds"], (30 - minute) * 60);
        assert_eq!(body["absolute_seconds"], 12 * 60 * 60 - minute * 60);
        assert_eq!(response.header("cache-control"), "no-store");
    }
    gateway.advance(MINUTE);
    assert_eq!(refused(&browser.fetch("/.doorward/session").await), unauthorized("idle"));
    assert_eq!(refused(&browser.fetch("/").await), unauthorized("idle"));
}

// The cookie

/// ASVS 3.3.1.
#[tokio::test]
async fn cookie_attributes_are_set_at_login_and_rotation() {
    let (_upstream, gateway) = app("").await;
    let mut browser = Browser::new(&gateway);
    let login = browser.log_in("alice").await;
    gateway.advance(ROTATE);
    let rotation = browser.clone().fetch("/").await;
    for response in [login, rotation] {
        let token = offered(&response).expect("a token");
        assert!(token.starts_with("dw1_") && token.len() == 108, "{token}");
        let line = format!("{SESSION}={token}; HttpOnly; SameSite=Lax; Secure; Path=/");
        assert_eq!(response.set_cookies(), [line]);
        assert_eq!(response.header("cache-control"), "no-store");
    }
}

#[tokio::test]
async fn several_issued_session_cookies_are_rejected() {
    let (upstream, gateway) = app("").await;
    let (alice, mut bob) = (alice(&gateway).await, Browser::new(&gateway));
    bob.log_in("bob").await;
    for pair in [[alice.token(), bob.token()], [bob.token(), alice.token()]] {
        let cookie = format!("{SESSION}={}; {SESSION}={}", pair[0], pair[1]);
        let mut client = Browser::new(&gateway);
        let response = client.send("GET", "/", &[("cookie", &cookie)], "").await;
        assert_eq!(refused(&response), unauthorized("duplicate-cookie"));
    }
    assert!(upstream.heads().is_empty());
    assert_eq!(show(&gateway, &alice.token()).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_foreign_or_equal_cookie_beside_ours_does_not_count() {
    let (upstream, gateway) = app("").await;
    let browser = alice(&gateway).await;
    let (_other, other_gateway) = app("").await;
    let mut other_browser = Browser::new(&other_gateway);
    other_browser.log_in("alice").await;
    let (token, foreign) = (browser.token(), other_browser.token());
    let tossed = format!("dw1_{}", "A".repeat(104));
    for other in [&tossed, &foreign, &token, &String::new()] {
        for pair in [[&token, other], [other, &token]] {
            let cookie = format!("{SESSION}={}; {SESSION}={}", pair[0], pair[1]);
            for h2 in [false, true] {
                let mut client = Browser::new(&gateway);
                client.h2 = h2;
                let response = client.send("GET", "/", &[("cookie", &cookie)], "").await;
                assert_eq!(response.status, StatusCode::OK, "{other}");
            }
        }
    }
    assert!(!upstream.last_head().contains("dw1_"));
}

/// A gateway with the keys of another one and an unreachable store.
fn without_store(beside: &Gateway, upstream: &Upstream) -> Gateway {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = closed.local_addr().expect("an address").port();
    drop(closed);
    Gateway::start(Setup {
        routes: session_route(upstream.address),
        store: format!("redis://127.0.0.1:{port}"),
        clock: beside.clock.clone(),
        shared_directory: Some(beside.directory.clone()),
        ..Setup::default()
    })
}

/// Tokens that no gateway with these keys issued: truncated, altered, or of another installation.
fn forgeries(token: &str) -> Vec<String> {
    let mut altered: Vec<String> = [4, 5, 20, 40, 60, 107]
        .into_iter()
        .map(|at| {
            let other = if token[at..].starts_with('A') { "B" } else { "A" };
            format!("{}{other}{}", &token[..at], &token[at + 1..])
        })
        .collect();
    altered.extend([
        token[..107].to_owned(),
        token[4..].to_owned(),
        format!("{token}A"),
        format!("\"{token}\""),
        format!("DW1_{}", &token[4..]),
        format!("dw1_{}", "A".repeat(104)),
        "x".repeat(8000),
        String::new(),
    ]);
    altered
}

#[tokio::test]
async fn forged_cookie_is_rejected_without_a_store_query() {
    let (upstream, gateway) = app("").await;
    let token = alice(&gateway).await.token();
    let without_redis = without_store(&gateway, &upstream);
    // The store is unavailable, so a request that queries it gets a 503.
    let real = show(&without_redis, &token).await;
    assert_eq!(refused(&real), (503, "store-unavailable".to_owned()));
    assert_eq!(real.header("retry-after"), "2");
    let other_browser =
        Gateway::start(Setup { routes: session_route(upstream.address), ..Setup::default() });
    let mut forged = forgeries(&token);
    forged.push(alice(&other_browser).await.token());
    for cookie in &forged {
        assert_eq!(
            refused(&show(&without_redis, cookie).await),
            unauthorized("invalid-token"),
            "{cookie}"
        );
    }
    assert_eq!(counted(&without_redis, "session.token-invalid"), forged.len() as u64);
}

/// Returns true if a response deletes the session cookie.
fn deletes(response: &Response) -> bool {
    response.set_cookies().iter().any(|line| {
        let line = line.to_ascii_lowercase();
        line.starts_with("__host-doorward=")
            && (line.starts_with("__host-doorward=;")
                || line.contains("max-age")
                || line.contains("expires"))
    }) || response.header("clear-site-data").contains("cookies")
        || response.header("clear-site-data").contains('*')
}

#[tokio::test]
async fn only_logout_deletes_the_cookie() {
    let (upstream, gateway) = app("").await;
    let without_redis = without_store(&gateway, &upstream);
    let staff = format!(
        "{}access = {{ groups = [\"admins\"] }}\n",
        "[[route]]\nhost = \"app.test\"\npath = \"/\"\nupstream = \"http://127.0.0.1:9\"\n"
    );
    let narrow = Gateway::start(Setup {
        routes: staff,
        shared_directory: Some(gateway.directory.clone()),
        clock: gateway.clock.clone(),
        ..Setup::default()
    });
    let live = alice(&gateway).await.token();
    let other_gateway = alice(&narrow).await.token();
    let forged = format!("dw1_{}", "A".repeat(104));
    // Client, token, path, and the expected status for a browser and for a program.
    let cases = [
        (&gateway, &forged, "/", 303, 401),
        (&gateway, &other_gateway, "/", 303, 401),
        (&without_redis, &live, "/", 503, 503),
        (&without_redis, &live, "/.doorward/sessions", 503, 503),
        (&without_redis, &live, "/.doorward/logout", 503, 503),
        (&narrow, &other_gateway, "/", 403, 403),
        (&gateway, &live, "/a//b", 400, 400),
        (&gateway, &live, "/.doorward/none", 404, 404),
        (&gateway, &live, "/.doorward/login", 200, 200),
        (&gateway, &live, "/.doorward/logout", 200, 200),
        (&gateway, &live, "/", 200, 200),
    ];
    for (at, token, path, person, program) in cases {
        let mut browser = Browser::new(at).with_token(token);
        let (page, data) = (browser.navigate(path).await, browser.clone().fetch(path).await);
        assert_eq!((page.status.as_u16(), data.status.as_u16()), (person, program), "{path}");
        assert!(!deletes(&page) && !deletes(&data), "{path} with {token}");
    }
    for response in ended_sessions(&gateway).await {
        assert!(!deletes(&response), "{response:?}");
    }
}

/// Returns responses to tokens of sessions that ended in every way.
async fn ended_sessions(gateway: &Gateway) -> Vec<Response> {
    let mut responses = Vec::new();
    let mut browser = alice(gateway).await;
    let wrong = [("do", "end-all"), ("csrf", "wrong")];
    responses.push(browser.post_form("/.doorward/logout", &wrong).await);
    responses.push(browser.post_form("/.doorward/sessions", &wrong).await);
    let failed = [("username", "alice"), ("password", "wrong"), ("csrf", "wrong")];
    responses.push(browser.post_form("/.doorward/login", &failed).await);
    let (old, new) = rotated(gateway).await;
    gateway.advance(MINUTE);
    responses.push(show(gateway, &new).await);
    responses.push(show(gateway, &old).await);
    assert_eq!(refused(&show(gateway, &new).await), unauthorized("theft"));
    responses.push(show(gateway, &new).await);
    let mut idle = alice(gateway).await;
    gateway.advance(IDLE);
    responses.push(idle.fetch("/").await);
    responses.push(idle.navigate("/").await);
    responses.push(idle.fetch("/.doorward/session").await);
    responses
}

#[tokio::test]
async fn logout_ends_the_session_before_deleting_the_cookie() {
    let (_upstream, gateway) = app("").await;
    let mut browser = alice(&gateway).await;
    let token = browser.token();
    let csrf = browser.navigate("/.doorward/logout").await.form_field("csrf");
    let response = browser.post_form("/.doorward/logout", &[("csrf", &csrf)]).await;
    assert_eq!(response.status, StatusCode::OK);
    // Browsers delete a cookie only with the same name, path and attributes (CVE-2025-55162).
    let line = format!("{SESSION}=; HttpOnly; SameSite=Lax; Secure; Path=/; Max-Age=0");
    assert_eq!(response.set_cookies(), [line]);
    assert_eq!(refused(&show(&gateway, &token).await), unauthorized("logout"));
}

#[tokio::test]
async fn login_reuses_no_token_the_browser_sent() {
    let (upstream, gateway) = app("").await;
    let mut attacker = Browser::new(&gateway);
    attacker.log_in("bob").await;
    let planted = attacker.token();
    let mut victim = Browser::new(&gateway).with_token(&planted);
    victim.log_in("alice").await;
    assert_ne!(victim.token(), planted);
    assert_ne!(session_id(&victim.token()), session_id(&planted));
    assert_eq!(refused(&attacker.fetch("/").await), unauthorized("replaced"));
    assert_eq!(victim.fetch("/").await.status, StatusCode::OK);
    assert_eq!(upstream.last_values("x-forwarded-user"), ["alice"]);
}

#[tokio::test]
async fn login_never_accepts_a_client_chosen_id() {
    let (_upstream, gateway) = app("").await;
    let made_up = format!("dw1_{}", "A".repeat(104));
    let mut victim = Browser::new(&gateway).with_token(&made_up);
    victim.log_in("alice").await;
    assert_ne!(victim.token(), made_up);
    assert_eq!(refused(&show(&gateway, &made_up).await), unauthorized("invalid-token"));
}

#[tokio::test]
async fn session_limit_evicts_the_least_recently_used() {
    let (_upstream, gateway) = app("max_per_user = 2").await;
    let mut first = alice(&gateway).await;
    gateway.advance(MINUTE);
    let second = alice(&gateway).await;
    gateway.advance(MINUTE);
    assert_eq!(first.fetch("/").await.status, StatusCode::OK);
    let third = alice(&gateway).await;
    assert_eq!(refused(&show(&gateway, &second.token()).await), unauthorized("session-limit"));
    for browser in [first, third] {
        assert_eq!(show(&gateway, &browser.token()).await.status, StatusCode::OK);
    }
    let mut other = Browser::new(&gateway);
    other.log_in("bob").await;
    assert_eq!(other.fetch("/").await.status, StatusCode::OK);
}

// Changes of keys and accounts at run time

/// `version 1 | key id 1 | tag 8 | session id 16 | …`
fn bytes_of(token: &str) -> Vec<u8> {
    BASE64URL_NOPAD.decode(&token.as_bytes()[4..]).expect("a token")
}

fn session_id(token: &str) -> Vec<u8> {
    bytes_of(token)[10..26].to_vec()
}

fn key_id(token: &str) -> u8 {
    bytes_of(token)[1]
}

/// Rotates the keys file as `doorward keys rotate` does and waits until the gateway has reloaded it.
async fn rotate_keys(gateway: &Gateway) {
    let file = gateway.path("keys.toml");
    let mut ring = KeyRing::parse(&std::fs::read_to_string(&file).expect("a file")).expect("keys");
    ring.rotate("now").expect("below the limit of keys");
    std::fs::write(&file, ring.to_file().as_bytes()).expect("written");
    eventually("the new key mints", async || gateway.shared().keys.load().signing_key().0 == 2)
        .await;
}

#[tokio::test]
async fn key_rotation_keeps_old_tokens_and_signs_new_ones() {
    let (_upstream, gateway) = app("").await;
    let mut browser = alice(&gateway).await;
    rotate_keys(&gateway).await;
    assert_eq!(key_id(&browser.token()), 1);
    assert_eq!(browser.fetch("/").await.status, StatusCode::OK);
    for _ in 0..3 {
        gateway.advance(ROTATE);
        assert!(offered(&browser.fetch("/").await).is_some());
        assert_eq!(key_id(&browser.token()), 2);
        assert_eq!(browser.fetch("/").await.status, StatusCode::OK);
    }
    assert_eq!(key_id(&alice(&gateway).await.token()), 2);
}

#[tokio::test]
async fn key_rotation_between_offer_and_use_keeps_the_session() {
    let (_upstream, gateway) = app("").await;
    let old = alice(&gateway).await.token();
    gateway.advance(ROTATE);
    let before = offered(&show(&gateway, &old).await).expect("due");
    rotate_keys(&gateway).await;
    let after = offered(&show(&gateway, &old).await).expect("due");
    assert_eq!((key_id(&before), key_id(&after)), (1, 2));
    // The jar has the token of the new key; a pending request still sends the one of the old key.
    let mut browser = Browser::new(&gateway).with_token(&after);
    assert_eq!(show(&gateway, &before).await.status, StatusCode::OK);
    for _ in 0..3 {
        assert_eq!(browser.fetch("/").await.status, StatusCode::OK);
        gateway.advance(ROTATE);
        let rotation = browser.fetch("/").await;
        assert!(rotation.status == StatusCode::OK && offered(&rotation).is_some());
    }
    assert_eq!(counted(&gateway, "session.theft"), 0);
}

/// Rotation rule 1.
#[tokio::test]
async fn tokens_of_both_keys_get_the_same_successor() {
    let (_upstream, gateway) = app("").await;
    let old = alice(&gateway).await.token();
    gateway.advance(ROTATE);
    let before = offered(&show(&gateway, &old).await).expect("due");
    rotate_keys(&gateway).await;
    let after = offered(&show(&gateway, &old).await).expect("due");
    assert_eq!(show(&gateway, &after).await.status, StatusCode::OK);
    gateway.advance(ROTATE);
    let successor = offered(&show(&gateway, &after).await).expect("due");
    assert_eq!(offered(&show(&gateway, &before).await).as_ref(), Some(&successor));
    assert_eq!(show(&gateway, &successor).await.status, StatusCode::OK);
}

/// Changes alice's account in the users file.
fn change_account(gateway: &Gateway, change: Change) {
    let mut users = UsersFileEditor::open(&gateway.path("users.toml")).expect("the users file");
    match change {
        Change::Disable => assert!(users.set_disabled("alice", true).expect("alice is there")),
        Change::Remove => users.remove("alice").expect("alice is there"),
        Change::Password => {
            let cost = Cost::Argon2id { m: 256, t: 1, p: 1 };
            let new = Credential::hash("another long password", cost).expect("a hash");
            users.set_password("alice", &new).expect("alice is there");
        }
    }
    users.save().expect("saved");
}

#[derive(Clone, Copy, Debug)]
enum Change {
    Disable,
    Remove,
    Password,
}

const CHANGES: [(Change, &str); 3] = [
    (Change::Disable, "account-disabled"),
    (Change::Remove, "account-gone"),
    (Change::Password, "credential-changed"),
];

/// CVE-2025-53942.
#[tokio::test]
async fn disabled_or_changed_account_loses_its_sessions() {
    for (change, reason) in CHANGES {
        let (upstream, gateway) = app("").await;
        let mut browser = alice(&gateway).await;
        let mut bob = Browser::new(&gateway);
        bob.log_in("bob").await;
        assert_eq!(browser.fetch("/").await.status, StatusCode::OK);
        change_account(&gateway, change);
        eventually("the session ends", async || {
            browser.fetch("/").await.status == StatusCode::UNAUTHORIZED
        })
        .await;
        let before = upstream.heads().len();
        assert_eq!(refused(&browser.fetch("/").await), unauthorized(reason), "{change:?}");
        assert_eq!(upstream.heads().len(), before);
        assert_eq!(bob.fetch("/").await.status, StatusCode::OK);
        let again = Browser::new(&gateway).try_log_in("alice", PASSWORD, "/").await;
        assert_eq!(again.status, StatusCode::UNAUTHORIZED, "{change:?}");
    }
}

/// CVE-2025-53942.
#[tokio::test]
async fn account_change_cuts_websockets_within_5_seconds() {
    let accept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
    let switching = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    for (change, _) in CHANGES {
        let upstream = Upstream::with_response(&*switching).await;
        let setup = Setup {
            routes: session_route(upstream.address),
            clock: Clock::System,
            ..Setup::default()
        };
        let gateway = Gateway::start(setup);
        let browser = alice(&gateway).await;
        let mut tunnel = browser.connect().await;
        let handshake = format!(
            "GET /ws HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nCookie: {SESSION}={}\r\n\r\n",
            browser.token()
        );
        tunnel.write_all(handshake.as_bytes()).await.expect("sent");
        let mut head = vec![0; 1024];
        let read = tunnel.read(&mut head).await.expect("a response");
        assert!(head[..read].starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
        eventually("the tunnel is counted", async || {
            gateway.shared().metrics.render().contains("doorward_websocket_tunnels 1\n")
        })
        .await;
        change_account(&gateway, change);
        let end = tokio::time::timeout(5 * SECOND, tunnel.read_to_end(&mut head)).await;
        assert!(end.is_ok(), "{change:?}: the tunnel is still open after 5 s");
    }
}

#[tokio::test]
async fn ending_another_session_keeps_the_own_cookie() {
    let (_upstream, gateway) = app("").await;
    let (mut here, mut there) = (alice(&gateway).await, alice(&gateway).await);
    let page = here.navigate("/.doorward/sessions").await;
    let (csrf, session) = (page.form_field("csrf"), page.form_field("session"));
    let fields = [("csrf", &*csrf), ("session", &session), ("do", "end-one")];
    let response = here.post_form("/.doorward/sessions", &fields).await;
    assert!(response.header("location").starts_with("/.doorward/sessions?to="));
    assert_eq!(here.fetch("/").await.status, StatusCode::OK);
    assert_eq!(there.fetch("/").await.status, StatusCode::UNAUTHORIZED);
}
