//! Reloads: the new configuration applies as a whole, and nothing in progress fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use doorward::admin::{ReloadMode, ReloadReport};
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use test_support::browser::{Browser, SESSION};
use test_support::gateway::{Gateway, Setup, session_route};
use test_support::upstream::Upstream;

use crate::websocket::{Echo, close_code, logged_in, open, open_with, responses};

/// Longest time between a reload and its effect on tracked connections.
const SECOND: Duration = Duration::from_secs(1);

fn route(path: &str, upstream: &impl Address, keys: &str) -> String {
    let address = upstream.address();
    format!(
        "[[route]]\nhost = \"app.test\"\npath = \"{path}\"\nupstream = \"http://{address}\"\n{keys}\n"
    )
}

trait Address {
    fn address(&self) -> std::net::SocketAddr;
}

impl Address for Upstream {
    fn address(&self) -> std::net::SocketAddr {
        self.address
    }
}

impl Address for Echo {
    fn address(&self) -> std::net::SocketAddr {
        self.address
    }
}

const PUBLIC: &str = "access = \"public\"";
const SESSION_KEYS: &str = "access = \"session\"";

fn gateway(routes: String) -> Gateway {
    Gateway::start(Setup { routes, ..Setup::default() })
}

fn reload(gateway: &Gateway, from: &str, to: &str) -> ReloadReport {
    let text = gateway.config_text();
    assert!(text.contains(from), "{from} is not in\n{text}");
    gateway.set_config_text(&text.replace(from, to));
    gateway.reload(ReloadMode::Apply)
}

#[tokio::test]
async fn a_reload_adds_changes_and_removes_routes() {
    let upstream = Upstream::start().await;
    let gateway = gateway(route("/old", &upstream, PUBLIC));
    let mut browser = Browser::new(&gateway);
    assert_eq!(browser.fetch("/old").await.status, 200);
    assert_eq!(browser.fetch("/new").await.status, 404);
    let report = reload(&gateway, "/old", "/new");
    assert_eq!(report.problems, Vec::<String>::new());
    assert_eq!(browser.fetch("/old").await.status, 404);
    assert_eq!(browser.fetch("/new").await.status, 200);
    reload(&gateway, PUBLIC, SESSION_KEYS);
    assert_eq!(browser.fetch("/new").await.status, 401);
}

#[tokio::test]
async fn sessions_survive_a_reload_with_a_new_policy() {
    let upstream = Upstream::start().await;
    let setup = Setup {
        routes: session_route(upstream.address),
        session: "idle_timeout = \"30m\"".to_owned(),
        clock: test_support::gateway::manual_clock(),
        ..Setup::default()
    };
    let gateway = Gateway::start(setup);
    let mut alice = logged_in(&gateway, "alice").await;
    gateway.advance(Duration::from_mins(20));
    reload(&gateway, "idle_timeout = \"30m\"", "idle_timeout = \"1h\"");
    gateway.advance(Duration::from_mins(20));
    assert_eq!(alice.fetch("/").await.status, 200, "40 minutes of one hour");
    reload(&gateway, "idle_timeout = \"1h\"", "idle_timeout = \"10m\"\nrotation_grace = \"30s\"");
    gateway.advance(Duration::from_mins(11));
    assert_eq!(alice.fetch("/").await.status, 401);
}

#[tokio::test]
async fn a_reload_applies_to_open_client_connections() {
    let upstream = Upstream::start().await;
    let gateway = gateway(route("/old", &upstream, PUBLIC));
    let mut client = KeepAlive::connect(&Browser::new(&gateway)).await;
    assert_eq!(client.get("/old").await, 200);
    reload(&gateway, "/old", "/new");
    assert_eq!(client.get("/old").await, 404);
    assert_eq!(client.get("/new").await, 200);
}

#[tokio::test]
async fn a_bad_configuration_changes_nothing() {
    let upstream = Upstream::start().await;
    let gateway = gateway(route("/", &upstream, PUBLIC));
    let good = gateway.config_text();
    let missing = "style = \"/nowhere/portal.css\"";
    let bad = [
        good.replace("access = \"public\"", "access = \"publik\""),
        good.replace("workers = 2", "workers = 2\nwrong = 1"),
        format!("{good}[portal]\n{missing}\n"),
        "not toml".to_owned(),
        String::new(),
    ];
    for (number, text) in bad.iter().enumerate() {
        gateway.set_config_text(text);
        let report = gateway.reload(ReloadMode::Apply);
        assert!(!report.problems.is_empty(), "{number}");
        assert_eq!(Browser::new(&gateway).fetch("/").await.status, 200, "{number}");
    }
    let metrics = gateway.metrics().await;
    assert!(metrics.contains("doorward_config_reloads_total{result=\"failure\"} 5"), "{metrics}");
    assert!(metrics.contains("doorward_config_reload_failed 1"), "{metrics}");
    gateway.set_config_text(&good);
    let report = gateway.reload(ReloadMode::Apply);
    assert_eq!((report.problems, report.changes), (vec![], vec![]));
    assert!(gateway.metrics().await.contains("doorward_config_reload_failed 0"));
}

#[tokio::test]
async fn a_dry_run_reports_changes_and_applies_none() {
    let upstream = Upstream::start().await;
    let gateway = gateway(route("/", &upstream, PUBLIC));
    let text = gateway.config_text();
    gateway.set_config_text(&text.replace(PUBLIC, SESSION_KEYS));
    let report = gateway.reload(ReloadMode::DryRun);
    let lines: Vec<String> = report.changes.iter().map(ToString::to_string).collect();
    assert_eq!(lines, ["~ route[app.test/].access: \"public\" -> \"session\""]);
    assert_eq!(Browser::new(&gateway).fetch("/").await.status, 200);
    let metrics = gateway.metrics().await;
    assert!(!metrics.contains("doorward_config_reloads_total{"), "{metrics}");
}

#[tokio::test]
async fn keys_that_need_a_restart_are_named_and_kept() {
    let upstream = Upstream::start().await;
    let gateway = gateway(route("/old", &upstream, PUBLIC));
    let text = gateway.config_text().replace("workers = 2", "workers = 3").replace("/old", "/new");
    gateway.set_config_text(&text.replace("url = \"memory:\"", "url = \"embedded:store\""));
    let report = gateway.reload(ReloadMode::Apply);
    assert_eq!(report.restart_keys, ["server.workers", "store"]);
    assert_eq!(Browser::new(&gateway).fetch("/new").await.status, 200, "the rest applies");
    let again = gateway.reload(ReloadMode::Apply);
    assert_eq!(again.restart_keys, report.restart_keys, "still needed");
}

#[tokio::test]
async fn a_request_in_progress_keeps_its_snapshot() {
    let upstream = Upstream::start().await;
    let gateway = gateway(route("/old", &upstream, PUBLIC));
    upstream.hold_responses();
    let mut browser = Browser::new(&gateway);
    let pending = tokio::spawn(async move { browser.fetch("/old").await.status });
    upstream.wait_for_requests(1).await;
    reload(&gateway, "/old", "/new");
    upstream.release_responses();
    assert_eq!(pending.await.expect("no panic"), 200);
}

#[tokio::test]
async fn tunnels_of_stricter_or_removed_routes_close() {
    let echo = Echo::start().await;
    let strict = "access = { groups = [\"guests\"] }";
    let narrower = route("/", &echo, SESSION_KEYS) + &route("/ws", &echo, strict);
    for (name, routes) in [
        ("groups", route("/", &echo, strict)),
        ("removed", route("/other", &echo, SESSION_KEYS)),
        ("a new route below it", narrower),
    ] {
        let gateway = gateway(route("/", &echo, SESSION_KEYS));
        let alice = logged_in(&gateway, "alice").await;
        let mut socket = open(&alice).await;
        let started = Instant::now();
        let report = reload(&gateway, &route("/", &echo, SESSION_KEYS), &routes);
        assert_eq!(report.problems, Vec::<String>::new(), "{name}");
        assert_eq!(close_code(&mut socket).await, CloseCode::Restart, "{name}");
        assert!(started.elapsed() < SECOND, "{name}: {:?}", started.elapsed());
        let closed = "doorward_tracked_connections_closed_total{reason=\"route-changed\"} 1";
        assert!(gateway.metrics().await.contains(closed), "{name}");
    }
}

#[tokio::test]
async fn tunnels_survive_reloads_that_still_admit_their_user() {
    let echo = Echo::start().await;
    let gateway = gateway(route("/", &echo, SESSION_KEYS));
    let alice = logged_in(&gateway, "alice").await;
    let mut socket = open(&alice).await;
    let staff = "access = { groups = [\"staff\"] }";
    for (from, to) in [(SESSION_KEYS, staff), (staff, PUBLIC), (PUBLIC, SESSION_KEYS)] {
        let report = reload(&gateway, from, to);
        assert_eq!(report.problems, Vec::<String>::new());
        // Longer than two sweeps of the tracked connections.
        tokio::time::sleep(SECOND).await;
        responses(&mut socket).await;
    }
}

#[tokio::test]
async fn tunnels_of_a_public_route_close_once_it_needs_a_session() {
    let echo = Echo::start().await;
    let gateway = gateway(route("/", &echo, PUBLIC));
    let anonymous = Browser::new(&gateway);
    let mut socket = open(&anonymous).await;
    reload(&gateway, "drain = \"2s\"", "drain = \"3s\"");
    responses(&mut socket).await;
    reload(&gateway, PUBLIC, SESSION_KEYS);
    assert_eq!(close_code(&mut socket).await, CloseCode::Restart);
}

/// Such a tunnel has no session that could end it.
#[tokio::test]
async fn tunnels_with_app_credentials_close_once_they_are_refused() {
    const SESSION_OR_PUBLIC: &str = "access = \"session-or-public\"";
    let echo = Echo::start().await;
    for (from, to, closes) in [
        (SESSION_OR_PUBLIC, SESSION_KEYS, true),
        (SESSION_OR_PUBLIC, "access = { users = [\"alice\"] }", true),
        (PUBLIC, SESSION_OR_PUBLIC, true),
        (SESSION_OR_PUBLIC, PUBLIC, false),
        ("drain = \"2s\"", "drain = \"3s\"", false),
    ] {
        let access = if from == PUBLIC { PUBLIC } else { SESSION_OR_PUBLIC };
        let gateway = gateway(route("/", &echo, access));
        let client = Browser::new(&gateway);
        let mut socket = open_with(&client, &[("authorization", "Basic YTpi")]).await;
        let report = reload(&gateway, from, to);
        assert_eq!(report.problems, Vec::<String>::new(), "{from} {to}");
        if closes {
            assert_eq!(close_code(&mut socket).await, CloseCode::Restart, "{from} {to}");
        } else {
            responses(&mut socket).await;
        }
    }
}

#[tokio::test]
async fn the_admin_socket_reloads_and_reports_problems() {
    let upstream = Upstream::start().await;
    let gateway = gateway(route("/old", &upstream, PUBLIC));
    let text = gateway.config_text();
    gateway.set_config_text(&text.replace("/old", "/new"));
    let dry = gateway.admin_post("/reload?dry_run=1").await;
    assert!(dry.starts_with("HTTP/1.1 200") && dry.contains("app.test/new"), "{dry}");
    assert_eq!(Browser::new(&gateway).fetch("/old").await.status, 200);
    let applied = gateway.admin_post("/reload").await;
    assert!(applied.starts_with("HTTP/1.1 200"), "{applied}");
    assert_eq!(Browser::new(&gateway).fetch("/new").await.status, 200);
    gateway.set_config_text("[server]\n");
    let refused = gateway.admin_post("/reload").await;
    assert!(refused.starts_with("HTTP/1.1 422"), "{refused}");
    assert!(refused.contains("no route is configured"), "{refused}");
}

/// `RELOADS=1000` runs the long form.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloads_under_load_fail_no_request() {
    let reloads: usize =
        std::env::var("RELOADS").map_or(25, |text| text.parse().expect("a number"));
    let upstream = Upstream::start().await;
    let gateway = Arc::new(gateway(session_route(upstream.address)));
    let alice = logged_in(&gateway, "alice").await;
    let (done, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..4 {
        let (mut browser, done, sent) = (alice.clone(), Arc::clone(&done), Arc::clone(&sent));
        clients.spawn(async move {
            let mut connection = KeepAlive::connect(&browser).await;
            while !done.load(Ordering::Relaxed) {
                let status = match number % 2 {
                    0 => connection.get("/page").await,
                    _ => browser.fetch("/page").await.status.as_u16(),
                };
                assert_eq!(status, 200);
                sent.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let text = gateway.config_text();
    for number in 0..reloads {
        let new = route(&format!("/r{number}"), &upstream, PUBLIC);
        gateway.set_config_text(&format!("{text}\n{new}"));
        let reloaded = Arc::clone(&gateway);
        let report = tokio::task::spawn_blocking(move || reloaded.reload(ReloadMode::Apply)).await;
        assert_eq!(report.expect("no panic").problems, Vec::<String>::new());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    done.store(true, Ordering::Relaxed);
    while let Some(client) = clients.join_next().await {
        client.expect("no request failed");
    }
    assert!(sent.load(Ordering::Relaxed) >= reloads, "{sent:?} requests");
}

/// One client connection that sends several requests.
struct KeepAlive {
    sender: hyper::client::conn::http1::SendRequest<Empty<Bytes>>,
    host: String,
    cookie: String,
}

impl KeepAlive {
    async fn connect(browser: &Browser) -> KeepAlive {
        let tls = TokioIo::new(browser.connect().await);
        let (sender, connection) =
            hyper::client::conn::http1::handshake(tls).await.expect("HTTP/1.1");
        tokio::spawn(connection);
        let cookie = format!("{SESSION}={}", browser.token());
        KeepAlive { sender, host: browser.host.clone(), cookie }
    }

    async fn get(&mut self, path: &str) -> u16 {
        self.sender.ready().await.expect("the connection is open");
        let request = Request::get(path).header("host", &self.host).header("cookie", &self.cookie);
        let request = request.body(Empty::new()).expect("a request");
        let response = self.sender.send_request(request).await.expect("a response");
        let status = response.status().as_u16();
        response.into_body().collect().await.expect("a whole body");
        status
    }
}
