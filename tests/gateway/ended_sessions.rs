//! The audit log states for every end of a session why it ended, by whom, and how long it lived.

use std::sync::Arc;
use std::time::{Duration, Instant};

use doorward::clock::{Clock, UnixMillis};
use doorward::identity::users_file_editor::UsersFileEditor;
use doorward::identity::{Cost, Credential};
use http::StatusCode;
use serde_json::Value;

use test_support::browser::Browser;
use test_support::gateway::{Gateway, PASSWORD, Setup, manual_clock, session_route};
use test_support::redis_server::{RedisOptions, RedisServer};
use test_support::upstream::Upstream;

const TIMEOUT: Duration = Duration::from_secs(10);
const MINUTE: Duration = Duration::from_secs(60);

fn audit_section(file: &str) -> String {
    format!("[audit]\nfile = \"{file}\"\n")
}

async fn start(session: &str, routes: impl Fn(&Upstream) -> String) -> (Upstream, Gateway) {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(Setup {
        routes: routes(&upstream),
        session: session.to_owned(),
        extra: audit_section("audit.jsonl"),
        clock: manual_clock(),
        ..Setup::default()
    });
    (upstream, gateway)
}

async fn one_app(session: &str) -> (Upstream, Gateway) {
    start(session, |upstream| session_route(upstream.address)).await
}

fn events(gateway: &Gateway, file: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(gateway.path(file)).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn ends(gateway: &Gateway, file: &str) -> Vec<Value> {
    let mut events = events(gateway, file);
    events.retain(|event| event["event.action"] == "session.ended");
    events
}

/// Waits until this many sessions ended, and returns their events.
async fn wait_for_ends(gateway: &Gateway, count: usize) -> Vec<Value> {
    wait_for(|| {
        let ends = ends(gateway, "audit.jsonl");
        (ends.len() >= count).then_some(ends)
    })
    .await
}

async fn wait_for<T>(mut found: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < deadline, "not in time");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn log_in(gateway: &Gateway, user: &str) -> (Browser, String) {
    let mut browser = Browser::new(gateway);
    browser.log_in(user).await;
    let handle = handle(&browser);
    (browser, handle)
}

/// Returns the session handle of a browser's token.
fn handle(browser: &Browser) -> String {
    let token = browser.token();
    let bytes = data_encoding::BASE64URL_NOPAD.decode(token.trim_start_matches("dw1_").as_bytes());
    let id = bytes.expect("a token")[10..26].try_into().expect("an id");
    doorward::session::SessionId(id).handle()
}

fn summary(event: &Value) -> [&str; 4] {
    ["event.reason", "user.name", "doorward.session", "doorward.actor"]
        .map(|name| event[name].as_str().unwrap_or_default())
}

async fn sessions_page(browser: &mut Browser, fields: &[(&str, &str)]) {
    let csrf = browser.navigate("/.doorward/sessions").await.form_field("csrf");
    let fields = [&[("csrf", csrf.as_str())], fields].concat();
    browser.post_form("/.doorward/sessions", &fields).await;
}

#[tokio::test]
async fn operator_is_the_actor_of_a_revocation() {
    let (_upstream, gateway) = one_app("").await;
    let ((_one, first), (_two, second)) =
        (log_in(&gateway, "alice").await, log_in(&gateway, "alice").await);
    let (_bob, bobs) = log_in(&gateway, "bob").await;
    let response = gateway.revoke(&format!("session={bobs}")).await;
    assert!(response.contains("\"ended\":1"), "{response}");
    let response = gateway.revoke("user=Alice").await;
    assert!(response.contains("\"ended\":2"), "{response}");
    let ends = wait_for_ends(&gateway, 3).await;
    assert_eq!(summary(&ends[0]), ["ended-by-operator", "bob", &bobs, "operator"]);
    let mut alices: Vec<_> = ends[1..].iter().map(summary).collect();
    alices.sort_unstable();
    let mut expected = [first, second];
    expected.sort_unstable();
    for (found, handle) in alices.iter().zip(&expected) {
        assert_eq!(*found, ["ended-by-operator", "alice", handle, "operator"]);
    }
    let uid = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").expect("proc"));
    assert_eq!(ends[0]["doorward.actor_uid"], uid);
}

#[tokio::test]
async fn revocation_of_an_unknown_user_is_an_error() {
    let (_upstream, gateway) = one_app("").await;
    let response = gateway.revoke("user=nobody").await;
    assert!(
        response.starts_with("HTTP/1.1 404") && response.contains("no user nobody"),
        "{response}"
    );
    let response = gateway.revoke("user=alice").await;
    assert!(response.starts_with("HTTP/1.1 200") && response.contains("\"ended\":0"), "{response}");
    log_in(&gateway, "alice").await;
    let response = gateway.revoke("all=1").await;
    assert!(response.contains("\"ended\":1"), "{response}");
    let all = wait_for(|| {
        let events = events(&gateway, "audit.jsonl");
        events.into_iter().find(|event| event["user.name"] == "*")
    });
    let all = all.await;
    assert_eq!(all["event.action"], "user.sessions-revoked");
    assert_eq!((&all["doorward.count"], &all["doorward.actor"]), (&1.into(), &"operator".into()));
}

#[tokio::test]
async fn user_is_the_actor_on_their_own_pages() {
    let (_upstream, gateway) = one_app("").await;
    let (mut laptop, here) = log_in(&gateway, "alice").await;
    let (_phone, phone) = log_in(&gateway, "alice").await;
    sessions_page(&mut laptop, &[("do", "end-one"), ("session", &phone)]).await;
    let ends = wait_for_ends(&gateway, 1).await;
    assert_eq!(summary(&ends[0]), ["ended-by-user", "alice", &phone, "user"]);
    assert_eq!(ends[0]["doorward.actor_session"], here, "it names the acting session");
    assert_eq!(ends[0]["source.ip"], "127.0.0.1");
    let (_tablet, tablet) = log_in(&gateway, "alice").await;
    sessions_page(&mut laptop, &[("do", "end-others")]).await;
    let ends = wait_for_ends(&gateway, 2).await;
    assert_eq!(summary(&ends[1]), ["logout-everywhere", "alice", &tablet, "user"]);
    let csrf = laptop.navigate("/.doorward/logout").await.form_field("csrf");
    laptop.post_form("/.doorward/logout", &[("csrf", &csrf)]).await;
    let ends = wait_for_ends(&gateway, 3).await;
    assert_eq!(summary(&ends[2]), ["logout", "alice", &here, "user"]);
}

#[tokio::test]
async fn app_is_the_actor_of_its_logout() {
    let rules = "[route.session]\nlogout_paths = [\"/logout\"]\n";
    let routes = |upstream: &Upstream| session_route(upstream.address) + rules;
    let (_upstream, gateway) = start("", routes).await;
    let (mut alice, session) = log_in(&gateway, "alice").await;
    alice.fetch("/logout").await;
    let ends = wait_for_ends(&gateway, 1).await;
    assert_eq!(summary(&ends[0]), ["logout-by-app", "alice", &session, "app"]);
}

/// Changes the users file and waits until the gateway has reported the change.
async fn change_users(gateway: &Gateway, change: &str, edit: impl FnOnce(&mut UsersFileEditor)) {
    let mut users = UsersFileEditor::open(&gateway.path("users.toml")).expect("the users file");
    edit(&mut users);
    users.save().expect("saved");
    let is_change = |event: &Value| {
        event["event.action"] == "account.changed" && event["event.reason"] == change
    };
    wait_for(|| events(gateway, "audit.jsonl").iter().any(is_change).then_some(())).await;
}

#[tokio::test]
async fn changed_account_is_the_reason_of_its_ends() {
    let (_upstream, gateway) = one_app("").await;
    let (_browser, first) = log_in(&gateway, "bob").await;
    change_users(&gateway, "disabled", |users| {
        users.set_disabled("bob", true).expect("bob");
    })
    .await;
    let ends = wait_for_ends(&gateway, 1).await;
    assert_eq!(summary(&ends[0]), ["account-disabled", "bob", &first, "gateway"]);
    change_users(&gateway, "enabled", |users| {
        users.set_disabled("bob", false).expect("bob");
    })
    .await;
    let (_browser, second) = log_in(&gateway, "bob").await;
    change_users(&gateway, "password-changed", |users| {
        let cost = Cost::Argon2id { m: 256, t: 1, p: 1 };
        let password = Credential::hash("another long password", cost).expect("a hash");
        users.set_password("bob", &password).expect("bob");
    })
    .await;
    let ends = wait_for_ends(&gateway, 2).await;
    assert_eq!(summary(&ends[1]), ["credential-changed", "bob", &second, "gateway"]);
    let (_browser, alices) = log_in(&gateway, "alice").await;
    change_users(&gateway, "removed", |users| users.remove("alice").expect("alice")).await;
    let ends = wait_for_ends(&gateway, 3).await;
    assert_eq!(summary(&ends[2]), ["account-gone", "alice", &alices, "gateway"]);
}

#[tokio::test]
async fn login_names_the_sessions_that_it_ends() {
    let (_upstream, gateway) = one_app("max_per_user = 1").await;
    let (_phone, first) = log_in(&gateway, "alice").await;
    let (mut laptop, second) = log_in(&gateway, "alice").await;
    let ends = wait_for_ends(&gateway, 1).await;
    assert_eq!(summary(&ends[0]), ["session-limit", "alice", &first, "user"]);
    assert_eq!(ends[0]["doorward.actor_session"], second);
    let form = laptop.navigate("/.doorward/login").await;
    let (csrf, to) = (form.form_field("csrf"), form.form_field("to"));
    let fields = [("username", "alice"), ("password", PASSWORD), ("csrf", &csrf), ("to", &to)];
    laptop.post_form("/.doorward/login", &fields).await;
    let ends = wait_for_ends(&gateway, 2).await;
    assert_eq!(summary(&ends[1]), ["replaced", "alice", &second, "user"]);
    assert_eq!(ends[1]["doorward.actor_session"], handle(&laptop));
}

fn seconds_between(event: &Value, from: &str, to: &str) -> u64 {
    let at = |name: &str| {
        let text = event[name].as_str().unwrap_or_else(|| panic!("{name} in {event}"));
        text.parse::<jiff::Timestamp>().expect("a time").as_second()
    };
    u64::try_from(at(to) - at(from)).expect("in order")
}

#[tokio::test]
async fn timeout_without_a_request_is_reported_once() {
    let (_upstream, gateway) = one_app("idle_timeout = \"30m\"\nabsolute_timeout = \"40m\"").await;
    let (mut alice, idle) = log_in(&gateway, "alice").await;
    gateway.advance(5 * MINUTE);
    alice.fetch("/").await;
    gateway.advance(2 * MINUTE);
    let (mut bob, absolute) = log_in(&gateway, "bob").await;
    gateway.advance(27 * MINUTE);
    bob.fetch("/").await;
    gateway.advance(3 * MINUTE);
    let ends = wait_for_ends(&gateway, 1).await;
    assert_eq!(summary(&ends[0]), ["idle", "alice", &idle, "gateway"]);
    assert_eq!(seconds_between(&ends[0], "doorward.created", "doorward.last_active"), 5 * 60);
    assert_eq!(seconds_between(&ends[0], "doorward.last_active", "doorward.ended"), 30 * 60);
    assert_eq!(ends[0]["doorward.limit"], "session.idle_timeout");
    assert_eq!(ends[0]["doorward.limit_seconds"], 30 * 60);
    gateway.advance(12 * MINUTE);
    let ends = wait_for_ends(&gateway, 2).await;
    assert_eq!(summary(&ends[1]), ["absolute", "bob", &absolute, "gateway"]);
    assert_eq!(seconds_between(&ends[1], "doorward.created", "doorward.ended"), 40 * 60);
    assert_eq!(ends[1]["doorward.limit"], "session.absolute_timeout");
    assert_eq!(alice.fetch("/").await.json()["reason"], "idle");
    assert_eq!(bob.fetch("/").await.json()["reason"], "absolute");
    let directory = Arc::clone(&gateway.directory);
    gateway.stop();
    let text = std::fs::read_to_string(directory.path().join("audit.jsonl")).expect("the log");
    assert_eq!(text.matches("session.ended").count(), 2, "{text}");
}

#[tokio::test]
async fn timeout_seen_by_a_request_is_reported_with_its_limit() {
    let (_upstream, gateway) = one_app("idle_timeout = \"30m\"").await;
    let (mut alice, session) = log_in(&gateway, "alice").await;
    gateway.advance(30 * MINUTE);
    assert_eq!(alice.fetch("/").await.json()["reason"], "idle");
    let ends = wait_for_ends(&gateway, 1).await;
    assert_eq!(summary(&ends[0]), ["idle", "alice", &session, "gateway"]);
    assert_eq!(seconds_between(&ends[0], "doorward.last_active", "doorward.ended"), 30 * 60);
    assert_eq!(ends[0]["doorward.limit_seconds"], 30 * 60);
}

/// A clock far enough behind that of Redis: a session expires there only by both clocks.
fn clock_of_yesterday() -> Clock {
    Clock::manual(UnixMillis(Clock::System.now().0 - 24 * 60 * 60 * 1_000))
}

#[tokio::test]
async fn one_of_two_gateways_reports_an_end_without_a_request() {
    let (upstream, redis) = (Upstream::start().await, RedisServer::start(RedisOptions::default()));
    let clock = clock_of_yesterday();
    let setup = |file: &str| Setup {
        routes: session_route(upstream.address),
        session: "idle_timeout = \"30m\"".to_owned(),
        store: redis.settings().url,
        extra: audit_section(file),
        clock: clock.clone(),
        ..Setup::default()
    };
    let one = Gateway::start(setup("one.jsonl"));
    let two = Gateway::start(Setup {
        shared_directory: Some(Arc::clone(&one.directory)),
        ..setup("two.jsonl")
    });
    for user in ["alice", "bob"] {
        let (browser, _) = log_in(&one, user).await;
        assert_eq!(browser.at_gateway(&two).fetch("/").await.status, StatusCode::OK);
    }
    let all = || [ends(&one, "one.jsonl"), ends(&one, "two.jsonl")].concat();
    one.advance(29 * MINUTE);
    let (mut zoe, zoes) = log_in(&one, "zoë").await;
    // Each is known to one gateway. Its end shows that this gateway has checked all older ones.
    log_in(&one, "alice").await;
    log_in(&two, "bob").await;
    one.advance(3 * MINUTE);
    wait_for(|| Some(all()).filter(|ends| ends.len() >= 2)).await;
    zoe.fetch("/").await;
    one.advance(29 * MINUTE);
    let found = wait_for(|| Some(all()).filter(|ends| ends.len() >= 4)).await;
    let mut users: Vec<_> = found.iter().map(|end| end["user.name"].clone()).collect();
    users.sort_by_key(ToString::to_string);
    let expected = ["alice", "alice", "bob", "bob"];
    assert_eq!(users, expected, "each once, and not the session in use: {found:?} {zoes}");
    // A gateway that starts later finds a session that no running gateway has seen.
    let shared_directory = Some(Arc::clone(&one.directory));
    drop((one, two));
    let three = Gateway::start(Setup { shared_directory, ..setup("three.jsonl") });
    wait_for(|| {
        // The search runs at an unknown time, and spreads its checks over one idle timeout.
        three.advance(MINUTE);
        Some(ends(&three, "three.jsonl")).filter(|ends| ends.len() == 1)
    })
    .await;
}
