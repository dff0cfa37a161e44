//! Sessions across restarts of the gateway and its store.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use test_support::browser::{Browser, Response};
use test_support::gateway::{Gateway, Setup, manual_clock, prepare_directory, session_route};
use test_support::redis_server::{RedisOptions, RedisServer};
use test_support::upstream::Upstream;

/// Longest wait for an expected event.
const TIMEOUT: Duration = Duration::from_secs(20);

async fn verdict(gateway: &Gateway, token: &str) -> String {
    let response = Browser::new(gateway).with_token(token).fetch("/").await;
    if response.status == StatusCode::OK {
        return "admitted".to_owned();
    }
    format!(
        "{} {}",
        response.status.as_u16(),
        response.json()["reason"].as_str().unwrap_or_default()
    )
}

async fn revoke_bob(gateway: &Gateway) {
    let mut stream = UnixStream::connect(gateway.socket()).await.expect("the socket");
    let request = "POST /revoke?user=bob HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut response = String::new();
    stream.read_to_string(&mut response).await.expect("a response");
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
}

async fn log_out(browser: &mut Browser) {
    let form = browser.navigate("/.doorward/logout").await;
    let fields = [("csrf", &*form.form_field("csrf"))];
    assert_eq!(browser.post_form("/.doorward/logout", &fields).await.status, StatusCode::OK);
}

async fn stop(gateway: Gateway) {
    tokio::task::spawn_blocking(move || gateway.stop()).await.expect("stopped");
}

#[tokio::test]
async fn embedded_store_keeps_sessions_and_revocations_on_restart() {
    let (upstream, directory, clock) =
        (Upstream::start().await, prepare_directory(), manual_clock());
    let begin = || {
        Gateway::start(Setup {
            routes: session_route(upstream.address),
            store: format!("embedded:{}", directory.path().join("state").display()),
            shared_directory: Some(Arc::clone(&directory)),
            clock: clock.clone(),
            ..Setup::default()
        })
    };
    let mut gateway = begin();
    let [mut desk, mut phone, mut bob] = [(); 3].map(|()| Browser::new(&gateway));
    desk.log_in("alice").await;
    let old = desk.token();
    gateway.advance(Duration::from_secs(601));
    desk.fetch("/").await;
    assert_ne!(desk.token(), old, "renewed");
    assert_eq!(desk.fetch("/").await.status, StatusCode::OK);
    phone.log_in("alice").await;
    let left = phone.token();
    log_out(&mut phone).await;
    bob.log_in("bob").await;
    revoke_bob(&gateway).await;

    for _ in 0..2 {
        stop(gateway).await;
        gateway = begin();
        assert_eq!(verdict(&gateway, &desk.token()).await, "admitted");
        assert_eq!(verdict(&gateway, &left).await, "401 logout");
        assert_eq!(verdict(&gateway, &bob.token()).await, "401 revoked");
    }
    gateway.advance(Duration::from_secs(120));
    assert_eq!(verdict(&gateway, &desk.token()).await, "admitted");
    assert_eq!(verdict(&gateway, &old).await, "401 theft", "the record has the superseded token");
    stop(gateway).await;
    let gateway = begin();
    assert_eq!(verdict(&gateway, &desk.token()).await, "401 theft");
}

/// Sends requests until the status changes from `before` to `after`; any other status fails.
async fn until(browser: &mut Browser, wanted: StatusCode, before: StatusCode) -> Response {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let response = browser.fetch("/").await;
        assert_eq!(response.set_cookies(), Vec::<String>::new(), "{}", response.status);
        if response.status == wanted {
            return response;
        }
        assert_eq!(response.status, before, "{}", response.text());
        assert!(Instant::now() < deadline, "{wanted} never comes");
    }
}

#[tokio::test]
async fn redis_outage_is_503_and_data_loss_401_keeping_the_cookie() {
    for local_cache in ["on", "off"] {
        let (upstream, mut redis) =
            (Upstream::start().await, RedisServer::start(RedisOptions::default()));
        let store = format!("{}\"\nlocal_cache = \"{local_cache}", redis.settings().url);
        let gateway = Gateway::start(Setup {
            routes: session_route(upstream.address),
            store,
            ..Setup::default()
        });
        let mut alice = Browser::new(&gateway);
        alice.log_in("alice").await;
        let token = alice.token();
        assert_eq!(alice.fetch("/").await.status, StatusCode::OK);

        redis.kill();
        let (ok, away) = (StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE);
        let response = until(&mut alice, away, ok).await;
        assert_eq!(response.json()["reason"], "store-unavailable");
        assert!(!response.header("retry-after").is_empty());
        let page = alice.navigate("/").await;
        assert_eq!((page.status, page.set_cookies()), (away, Vec::new()));
        let reached = upstream.heads().len();
        assert_eq!(alice.fetch("/").await.status, away);
        assert_eq!(upstream.heads().len(), reached, "no request passes without the store");
        let login =
            Browser::new(&gateway).try_log_in("alice", test_support::gateway::PASSWORD, "/").await;
        assert_eq!(login.status, away, "a login that cannot be kept is none");

        redis.restart();
        let response = until(&mut alice, StatusCode::UNAUTHORIZED, away).await;
        assert_eq!(response.json()["reason"], "unknown-session");
        assert_eq!(alice.token(), token);
        let person = alice.clone().navigate("/wiki").await;
        assert!(person.header("location").starts_with("/.doorward/login?"));
        alice.log_in("alice").await;
        assert_eq!(alice.fetch("/").await.status, ok);
        assert_ne!(alice.token(), token);
    }
}
