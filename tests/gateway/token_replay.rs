//! `session.on_reuse`: the consequences of a replayed token, and the notice to the user.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;

use crate::risk::ATTACKER;
use crate::streaming::{StreamingUpstream, open_response, open_websocket};
use crate::tracked_connections::{CHECKED_BY_BOTH, wait_for_reads};
use test_support::browser::Browser;
use test_support::gateway::{Gateway, PASSWORD, Setup, manual_clock, session_route};
use test_support::redis_server::{RedisOptions, RedisServer};
use test_support::upstream::Upstream;

const FIREFOX: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0";

/// alice with a session that was rotated once, her phone, bob, and an attacker with her old token.
struct ReplayTest {
    _upstream: Upstream,
    gateway: Gateway,
    desk: Browser,
    phone: Browser,
    bob: Browser,
    attacker: Browser,
}

impl ReplayTest {
    /// Starts everything up to the replay of the old token.
    async fn with(on_reuse: &str) -> ReplayTest {
        let upstream = Upstream::start().await;
        let gateway = Gateway::start(Setup {
            routes: session_route(upstream.address),
            session: format!("on_reuse = \"{on_reuse}\""),
            clock: manual_clock(),
            ..Setup::default()
        });
        let [mut desk, mut phone, mut bob] = [(); 3].map(|()| Browser::new(&gateway));
        desk.log_in("alice").await;
        let attacker = desk.clone();
        gateway.advance(Duration::from_secs(601));
        desk.fetch("/").await;
        assert_ne!(desk.token(), attacker.token(), "renewed");
        assert_eq!(verdict(&mut desk).await, "admitted");
        phone.log_in("alice").await;
        bob.log_in("bob").await;
        gateway.advance(Duration::from_secs(120));
        assert_eq!(verdict(&mut desk).await, "admitted");
        ReplayTest { _upstream: upstream, gateway, desk, phone, bob, attacker }
    }

    /// Replays the old token; asserts that it is rejected and that the cookie is kept.
    async fn steal(&mut self) {
        let token = self.attacker.token();
        assert_eq!(verdict(&mut self.attacker).await, "401 theft");
        assert_eq!(self.attacker.token(), token);
    }

    fn thefts(&self) -> u64 {
        let text = self.gateway.shared().metrics.render();
        let start = "doorward_session_events_total{event=\"session.theft\"} ";
        let count = text.lines().find_map(|line| line.strip_prefix(start));
        count.map_or(0, |count| count.parse().expect("a number"))
    }
}

async fn verdict(browser: &mut Browser) -> String {
    let response = browser.fetch("/").await;
    if response.status == StatusCode::OK {
        return "admitted".to_owned();
    }
    format!(
        "{} {}",
        response.status.as_u16(),
        response.json()["reason"].as_str().unwrap_or_default()
    )
}

#[tokio::test]
async fn revoke_ends_the_session_for_both_clients() {
    let mut scene = ReplayTest::with("revoke").await;
    scene.steal().await;
    assert_eq!(verdict(&mut scene.desk).await, "401 theft");
    assert_eq!(verdict(&mut scene.phone).await, "admitted");
    assert_eq!(verdict(&mut scene.bob).await, "admitted");
    assert_eq!(scene.thefts(), 1);
}

#[tokio::test]
async fn revoke_all_ends_every_session_of_the_user() {
    let mut scene = ReplayTest::with("revoke-all").await;
    scene.steal().await;
    assert_eq!(verdict(&mut scene.desk).await, "401 theft");
    for _ in 0..2 {
        assert_eq!(verdict(&mut scene.phone).await, "401 theft-elsewhere");
    }
    assert_eq!(verdict(&mut scene.bob).await, "admitted");
    assert_eq!(scene.thefts(), 1);
    let login = scene.phone.navigate("/wiki").await.header("location").to_owned();
    let form = scene.phone.navigate(&login).await.text();
    assert!(form.contains("old copy of another session of yours"), "{form}");
    scene.desk.log_in("alice").await;
    assert_eq!(verdict(&mut scene.desk).await, "admitted");
}

#[tokio::test]
async fn reauthenticate_blocks_both_clients_until_a_login() {
    let mut scene = ReplayTest::with("reauthenticate").await;
    scene.steal().await;
    let response = scene.desk.clone().fetch("/").await;
    assert_eq!(
        (response.status, &response.json()["error"]),
        (StatusCode::UNAUTHORIZED, &"reauthenticate".into())
    );
    let page = scene.desk.clone().navigate("/wiki").await;
    assert!(page.header("location").starts_with("/.doorward/login?to="));
    assert_eq!(verdict(&mut scene.phone).await, "admitted");
    assert_eq!(verdict(&mut scene.bob).await, "admitted");
    let stolen = scene.desk.token();
    scene.desk.log_in("alice").await;
    assert_eq!(verdict(&mut scene.desk).await, "admitted");
    let mut copy = Browser::new(&scene.gateway).with_token(&stolen);
    assert_eq!(verdict(&mut copy).await, "401 replaced");
}

#[tokio::test]
async fn log_rejects_the_old_token_and_ends_nothing() {
    let mut scene = ReplayTest::with("log").await;
    for seen in 1..=2 {
        scene.steal().await;
        assert_eq!(scene.thefts(), seen);
        for browser in [&mut scene.desk, &mut scene.phone, &mut scene.bob] {
            assert_eq!(verdict(browser).await, "admitted");
        }
    }
}

#[tokio::test]
async fn only_a_theft_cutoff_is_reported_as_theft() {
    let mut scene = ReplayTest::with("revoke-all").await;
    scene.steal().await;
    scene.phone.log_in("alice").await;
    scene.gateway.advance(Duration::from_secs(1));
    scene.gateway.revoke("user=alice").await;
    assert_eq!(verdict(&mut scene.phone).await, "401 revoked");
}

/// Returns the page with the user's notices.
async fn page(browser: &mut Browser) -> String {
    let response = browser.navigate("/.doorward/sessions").await;
    assert_eq!(response.status, StatusCode::OK, "{}", response.text());
    response.text()
}

#[tokio::test]
async fn theft_notice_is_shown_at_login_until_dismissed() {
    let mut scene = ReplayTest::with("revoke").await;
    scene.desk.headers = vec![("user-agent", FIREFOX.to_owned())];
    scene.attacker.headers = vec![("user-agent", "curl/8.5.0".to_owned())];
    scene.steal().await;
    let login = scene.desk.try_log_in("alice", PASSWORD, "/wiki?page=7").await;
    let first = login.header("location").to_owned();
    assert!(first.starts_with("/.doorward/sessions?to="), "{first}");
    let shown = scene.desk.navigate(&first).await;
    let text = shown.text();
    assert!(text.contains("An old copy of your session was used"), "{text}");
    assert!(text.contains("curl, network 127.0.0.0/24"), "who showed it: {text}");
    assert!(text.contains("href=\"/wiki?page=7\">Continue</a>"), "{text}");
    assert!(page(&mut scene.phone).await.contains("An old copy"), "every session of the user");
    assert!(!page(&mut scene.bob).await.contains("An old copy"), "and of no other user");

    let [csrf, to, notice] = ["csrf", "to", "notice"].map(|field| shown.form_field(field));
    let dismiss = [("do", "dismiss"), ("notice", &notice), ("to", &to)];
    let forged = scene.desk.post_form("/.doorward/sessions", &dismiss).await;
    assert_eq!(forged.status, StatusCode::FORBIDDEN, "without the form's token");
    assert!(page(&mut scene.desk).await.contains("An old copy"));
    let dismiss = [dismiss.as_slice(), &[("csrf", &csrf)]].concat();
    let done = scene.desk.post_form("/.doorward/sessions", &dismiss).await;
    let next = done.header("location");
    assert!(next.starts_with("/.doorward/sessions?to="), "{next}");
    let text = scene.desk.navigate(next).await.text();
    assert!(!text.contains("An old copy") && text.contains("The notice is marked as read."));
    assert!(text.contains("href=\"/wiki?page=7\">Continue</a>"), "the user can go on: {text}");
    let again = scene.phone.log_in("alice").await;
    assert_eq!(again.header("location"), "/", "nothing to read");
}

#[tokio::test]
async fn unread_theft_notice_expires_after_a_month() {
    let mut scene = ReplayTest::with("revoke").await;
    scene.steal().await;
    scene.gateway.advance(Duration::from_secs(29 * 24 * 3_600));
    scene.desk.log_in("alice").await;
    assert!(page(&mut scene.desk).await.contains("An old copy"));
    scene.gateway.advance(Duration::from_secs(24 * 3_600));
    assert_eq!(scene.phone.log_in("alice").await.header("location"), "/");
    assert!(!page(&mut scene.phone).await.contains("An old copy"));
}

#[tokio::test]
async fn replay_that_requires_a_login_shows_one_notice() {
    let mut scene = ReplayTest::with("reauthenticate").await;
    for _ in 0..3 {
        scene.attacker.fetch("/").await;
    }
    scene.desk.log_in("alice").await;
    let text = page(&mut scene.desk).await;
    assert_eq!(text.matches("requires a new login").count(), 1, "{text}");
}

#[tokio::test]
async fn logged_replay_shows_no_notice() {
    let mut scene = ReplayTest::with("log").await;
    scene.steal().await;
    assert_eq!(scene.phone.log_in("alice").await.header("location"), "/");
}

#[tokio::test]
async fn program_reaches_its_target_after_login() {
    let mut scene = ReplayTest::with("revoke").await;
    scene.steal().await;
    let form = scene.desk.navigate("/.doorward/login").await;
    let (csrf, to) = (form.form_field("csrf"), form.form_field("to"));
    let fields = [("username", "alice"), ("password", PASSWORD), ("csrf", &csrf), ("to", &to)];
    let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    let headers = [("content-type", "application/x-www-form-urlencoded"), ("accept", "*/*")];
    let response = scene.desk.send("POST", "/.doorward/login", &headers, &body).await;
    assert_eq!(response.header("location"), "/");
}

/// Two gateways with one Redis.
struct TwoGateways {
    streams: StreamingUpstream,
    controlling: Upstream,
    redis: RedisServer,
    here: Gateway,
    there: Gateway,
}

impl TwoGateways {
    async fn start() -> TwoGateways {
        let (streams, redis) =
            (StreamingUpstream::start().await, RedisServer::start(RedisOptions::default()));
        let controlling =
            "HTTP/1.1 200 OK\r\nDoorward-Session: reauthenticate\r\nContent-Length: 0\r\n\r\n";
        let (controlling, clock) = (Upstream::with_response(controlling).await, manual_clock());
        let controlled_route =
            session_route(controlling.address).replace("path = \"/\"", "path = \"/say\"");
        let controlled_route =
            format!("{controlled_route}[route.session]\nobey_upstream = [\"reauthenticate\"]\n");
        let setup = |shared_directory| Setup {
            routes: format!("{}{controlled_route}", streams.routes("signals = \"enforce\"")),
            server: "trusted_proxies = [\"127.0.0.1\"]".to_owned(),
            session: "on_reuse = \"reauthenticate\"".to_owned(),
            extra: "[signals]\nlog_at = 10\nrenew_at = 10\nlogin_at = 10\n".to_owned(),
            // Long enough for a busy machine.
            store: format!("{}\"\nresponse_timeout = \"10s\"\n#", redis.settings().url),
            clock: clock.clone(),
            shared_directory,
            ..Setup::default()
        };
        let here = Gateway::start(setup(None));
        let there = Gateway::start(setup(Some(Arc::clone(&here.directory))));
        TwoGateways { streams, controlling, redis, here, there }
    }

    /// Returns alice with a token that was rotated once, and a copy of the superseded token.
    async fn owner_and_attacker(&self) -> (Browser, Browser) {
        let mut alice = Browser::new(&self.here);
        alice.log_in("alice").await;
        let copy = alice.clone();
        for pause in [601, 0, 120] {
            self.here.advance(Duration::from_secs(pause));
            assert_eq!(alice.fetch("/small").await.status, StatusCode::OK);
        }
        (alice, copy)
    }
}

#[tokio::test]
async fn frozen_session_loses_connections_at_every_gateway() {
    let two = TwoGateways::start().await;
    for cause in ["replay", "signals", "the app's control header"] {
        let (mut alice, mut attacker) = two.owner_and_attacker().await;
        let tag = cause.replace([' ', '\''], "-");
        let mut held = Vec::new();
        for (at, gateway) in [("here", &two.here), ("there", &two.there)] {
            let alice = alice.at_gateway(gateway);
            held.push((at, open_websocket(&alice, format!("/ws/{tag}/{at}")).await));
            let path = format!("/{tag}/{at}/download");
            held.push((at, open_response(&alice, "download", path.clone()).await));
            two.streams.wait_until_seen(&path).await;
        }
        match cause {
            "replay" => assert_eq!(attacker.fetch("/small").await.json()["reason"], "theft"),
            "signals" => {
                attacker = alice.clone();
                ATTACKER.apply_to(&mut attacker);
                assert_eq!(attacker.fetch("/small").await.json()["reason"], "reauthenticate");
            }
            _ => assert_eq!(alice.fetch("/say").await.status, StatusCode::OK),
        }
        let frozen = Instant::now();
        for (at, held) in held {
            let kind = held.kind;
            let (ended, how) = held.wait_until_closed().await;
            let took = ended.saturating_duration_since(frozen);
            assert!(took < Duration::from_secs(3), "{cause}, {kind} {at}: after {took:?}");
            let cut = if kind == "WebSocket" { "close 1008" } else { "broken" };
            assert_eq!(how, cut, "{cause}, {kind} {at}");
        }
        // The new login is another session, so its connections stay.
        alice.log_in("alice").await;
        let fresh = open_websocket(&alice.at_gateway(&two.there), format!("/ws/{tag}/fresh")).await;
        wait_for_reads(&two.redis, CHECKED_BY_BOTH).await;
        assert!(fresh.is_open(), "{cause}");
    }
    assert_eq!(two.controlling.heads().len(), 1);
}

/// The write hangs in Redis until after the attacker has disconnected.
#[tokio::test]
async fn disconnecting_attacker_is_still_stopped_and_reported() {
    let two = TwoGateways::start().await;
    for (cause, event, notice) in [
        ("replay", "session.theft", "An old copy of your session was used"),
        ("signals", "session.location-changed", "Your session was used from somewhere else"),
    ] {
        let (mut alice, mut attacker) = two.owner_and_attacker().await;
        if cause == "signals" {
            attacker = alice.clone();
            ATTACKER.apply_to(&mut attacker);
        }
        assert_eq!(two.redis.command(&["CLIENT", "PAUSE", "20000", "WRITE"]), "+OK");
        let asking = tokio::spawn(async move { attacker.fetch("/small").await });
        within_seconds("nothing is written", async || {
            let clients = two.redis.command(&["CLIENT", "LIST"]);
            clients.lines().any(|one| one.contains("flags=b") && one.contains("cmd=eval"))
        })
        .await;
        asking.abort();
        within_seconds("the attacker's connection stays open", async || {
            two.here.metrics().await.contains("doorward_client_connections 0\n")
        })
        .await;
        assert_eq!(two.redis.command(&["CLIENT", "UNPAUSE"]), "+OK");
        let counted = format!("doorward_session_events_total{{event=\"{event}\"}} 1\n");
        within_seconds(&format!("{cause}: no line"), async || {
            two.here.metrics().await.contains(&counted)
        })
        .await;
        assert_eq!(alice.fetch("/small").await.json()["reason"], "reauthenticate");
        alice.log_in("alice").await;
        let text = page(&mut alice).await;
        assert!(text.contains(notice), "{cause}: {text}");
    }
}

async fn within_seconds(otherwise: &str, holds: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(9);
    while !holds().await {
        assert!(Instant::now() < deadline, "{otherwise}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
