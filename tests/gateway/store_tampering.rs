//! An attacker with write access to the store, but without the gateway's keys. They can end sessions, as by
//! deleting data, but cannot gain access, and tampering is reported.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use http::StatusCode;

use test_support::browser::Browser;
use test_support::gateway::{Gateway, Setup, manual_clock, session_route};
use test_support::redis_server::{RedisOptions, RedisServer};
use test_support::upstream::Upstream;

const TIMEOUT: Duration = Duration::from_secs(5);

/// Runs every test without and with the session cache.
macro_rules! rules {
    ($($rule:ident,)*) => {
        mod without_cache {
            $(#[tokio::test] async fn $rule() { super::$rule(super::TamperedStore::start("off").await).await; })*
        }
        mod with_cache {
            $(#[tokio::test] async fn $rule() { super::$rule(super::TamperedStore::start("on").await).await; })*
        }
    };
}

rules! {
    swapped_records_are_rejected_and_reported,
    forged_or_modified_record_is_rejected_and_reported,
    record_of_a_newer_format_is_unavailable,
    rolled_back_record_accepts_no_superseded_token,
    rolled_back_record_keeps_the_offered_successor,
    rollback_with_a_new_revision_is_detected_by_generation,
    record_restored_over_a_tombstone_stays_ended,
    removed_or_lowered_user_cutoff_stays_effective,
    lowered_global_cutoff_stays_effective_and_is_restored,
    user_index_cannot_move_a_cutoff_into_the_future,
    deleted_record_ends_the_session_and_is_reported_once,
    logout_with_a_newer_token_ends_the_session_unnamed,
    undecryptable_user_history_is_reported_and_ignored,
    rolled_back_user_history_is_reported_and_ignored,
}

/// A gateway with a Redis that the test modifies.
struct TamperedStore {
    upstream: Upstream,
    redis: RedisServer,
    gateway: Gateway,
    local_cache: &'static str,
}

impl TamperedStore {
    async fn start(local_cache: &'static str) -> TamperedStore {
        let (upstream, redis) =
            (Upstream::start().await, RedisServer::start(RedisOptions::default()));
        let gateway = Gateway::start(Setup {
            routes: session_route(upstream.address),
            store: format!("{}\"\nlocal_cache = \"{local_cache}\"\n#", redis.settings().url),
            clock: manual_clock(),
            ..Setup::default()
        });
        let store = TamperedStore { upstream, redis, gateway, local_cache };
        store.wait_for_invalidation();
        store
    }

    /// Waits until the gateway has received the invalidations of all writes so far. Without the cache, returns at once.
    fn wait_for_invalidation(&self) {
        if self.local_cache == "off" {
            return;
        }
        let written = Instant::now();
        loop {
            // Measured before the request: a heartbeat younger than this came after the writes.
            let since = written.elapsed();
            let age = self.invalidation_age();
            if age >= 0.0 && Duration::from_secs_f64(age) < since {
                return;
            }
            assert!(written.elapsed() < 4 * TIMEOUT, "changes do not arrive: {age}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn invalidation_age(&self) -> f64 {
        let mut stream = std::net::TcpStream::connect(self.gateway.admin).expect("connected");
        let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).expect("sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("a response");
        let name = "doorward_store_invalidation_age_seconds ";
        let age = text.lines().find_map(|line| line.strip_prefix(name)?.parse().ok());
        age.expect("a number")
    }

    /// Starts another gateway with the same store and an empty cache.
    fn fresh_gateway(&self) -> Gateway {
        Gateway::start(Setup {
            routes: session_route(self.upstream.address),
            store: format!(
                "{}\"\nlocal_cache = \"{}\"\n#",
                self.redis.settings().url,
                self.local_cache
            ),
            clock: self.gateway.clock.clone(),
            shared_directory: Some(Arc::clone(&self.gateway.directory)),
            ..Setup::default()
        })
    }

    async fn log_in(&self, user: &str) -> Browser {
        let mut browser = Browser::new(&self.gateway);
        browser.log_in(user).await;
        assert_eq!(browser.fetch("/").await.status, StatusCode::OK);
        browser
    }

    fn redis(&self, words: &[&str]) -> String {
        let response = self.redis.command(words);
        assert!(!response.starts_with('-'), "{words:?}: {response}");
        if !words[0].starts_with("GET") {
            self.wait_for_invalidation();
        }
        response
    }

    /// Saves a copy of a key for `restore_copy`.
    fn save_copy(&self, key: &str) {
        self.redis(&["COPY", key, &format!("kept {key}"), "REPLACE"]);
    }

    fn restore_copy(&self, key: &str) {
        self.redis(&["COPY", &format!("kept {key}"), key, "REPLACE"]);
    }

    async fn events(&self, event: &str) -> u64 {
        let text = self.gateway.metrics().await;
        let name = format!("doorward_session_events_total{{event=\"session.{event}\"}} ");
        let count = text.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok());
        count.unwrap_or(0)
    }

    /// Rotates the owner's token and uses the successor.
    async fn rotate(&self, browser: &mut Browser) {
        let before = browser.token();
        self.gateway.advance(Duration::from_secs(601));
        browser.fetch("/").await;
        assert_ne!(browser.token(), before);
        assert_eq!(browser.fetch("/").await.status, StatusCode::OK);
    }
}

/// The Redis keys of the session of a token.
struct SessionKeys {
    tag: String,
    id: String,
}

impl SessionKeys {
    fn from_token(browser: &Browser) -> SessionKeys {
        let token = browser.token();
        let bytes = token.strip_prefix("dw1_").expect("a token").as_bytes();
        let bytes = BASE64URL_NOPAD.decode(bytes).expect("base64");
        SessionKeys { tag: HEXLOWER.encode(&bytes[2..10]), id: HEXLOWER.encode(&bytes[10..26]) }
    }

    fn record(&self) -> String {
        format!("dw:s:{{{}}}:{}", self.tag, self.id)
    }

    fn touch(&self) -> String {
        format!("dw:t:{{{}}}:{}", self.tag, self.id)
    }

    fn cutoff(&self) -> String {
        format!("dw:nb:{{{}}}", self.tag)
    }

    fn index(&self) -> String {
        format!("dw:u:{{{}}}", self.tag)
    }
}

async fn revoke(gateway: &Gateway, query: &str) {
    let response = gateway.revoke(query).await;
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
}

async fn log_out(browser: &mut Browser) {
    let csrf = browser.navigate("/.doorward/logout").await.form_field("csrf");
    let response = browser.post_form("/.doorward/logout", &[("csrf", &csrf)]).await;
    assert_eq!(response.status, StatusCode::OK);
}

/// Asserts a rejection for this reason that keeps the cookie.
async fn refused(browser: &mut Browser, reason: &str) {
    let response = browser.fetch("/").await;
    let found =
        (response.status, response.json()["reason"].as_str().unwrap_or_default().to_owned());
    assert_eq!(found, (StatusCode::UNAUTHORIZED, reason.to_owned()));
    assert_eq!(response.set_cookies(), Vec::<String>::new());
}

async fn swapped_records_are_rejected_and_reported(store: TamperedStore) {
    let [mut alice, mut phone, mut bob] =
        [store.log_in("alice").await, store.log_in("alice").await, store.log_in("bob").await];
    let [a, p, b] = [&alice, &phone, &bob].map(|browser| SessionKeys::from_token(browser).record());
    let mut reported = 0;
    for (one, other) in [(&a, &b), (&a, &p), (&p, &b)] {
        store.save_copy(one);
        store.save_copy(other);
        store.redis(&["COPY", &format!("kept {one}"), other, "REPLACE"]);
        store.redis(&["COPY", &format!("kept {other}"), one, "REPLACE"]);
        for (key, browser) in [(&a, &mut alice), (&p, &mut phone), (&b, &mut bob)] {
            if key == one || key == other {
                refused(browser, "undecryptable").await;
                reported += 1;
            } else {
                assert_eq!(browser.fetch("/").await.status, StatusCode::OK);
            }
        }
        assert_eq!(store.events("undecryptable").await, reported);
        store.restore_copy(one);
        store.restore_copy(other);
    }
    let heads = store.upstream.heads();
    let wrong = heads.iter().filter(|head| head.contains("bob") && head.contains("alice"));
    assert_eq!(wrong.count(), 0, "a user received another identity");
}

async fn forged_or_modified_record_is_rejected_and_reported(store: TamperedStore) {
    let mut alice = store.log_in("alice").await;
    let record = SessionKeys::from_token(&alice).record();
    store.save_copy(&record);
    let patches = [
        "redis.call('SET', KEYS[1], '\\1\\0\\0\\0\\0\\0\\0\\0\\9\\5planted')",
        // Changes the plaintext generation, one bit of the ciphertext, and its last byte.
        "redis.call('SETRANGE', KEYS[1], 13, '\\7')",
        "redis.call('SETRANGE', KEYS[1], 40, 'x')",
        "redis.call('APPEND', KEYS[1], 'x')",
        "redis.call('SET', KEYS[1], string.sub(redis.call('GET', KEYS[1]), 1, -2))",
    ];
    for (count, patch) in (1..).zip(patches) {
        store.redis(&["EVAL", patch, "1", &record]);
        refused(&mut alice, "undecryptable").await;
        assert_eq!(store.events("undecryptable").await, count, "{patch}");
        store.restore_copy(&record);
        assert_eq!(alice.fetch("/").await.status, StatusCode::OK, "put back");
    }
}

async fn record_of_a_newer_format_is_unavailable(store: TamperedStore) {
    let mut alice = store.log_in("alice").await;
    let record = SessionKeys::from_token(&alice).record();
    store.save_copy(&record);
    let patch = "redis.call('SET', KEYS[1], '\\1\\0\\0\\0\\0\\0\\0\\0\\9\\6planted')";
    store.redis(&["EVAL", patch, "1", &record]);
    let response = alice.fetch("/").await;
    assert_eq!(response.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.set_cookies(), Vec::<String>::new());
    store.restore_copy(&record);
    assert_eq!(alice.fetch("/").await.status, StatusCode::OK, "put back");
}

async fn rolled_back_record_accepts_no_superseded_token(store: TamperedStore) {
    let mut alice = store.log_in("alice").await;
    let record = SessionKeys::from_token(&alice).record();
    let mut attacker = alice.clone();
    store.save_copy(&record);
    store.rotate(&mut alice).await;
    store.gateway.advance(Duration::from_secs(100));
    assert_eq!(alice.fetch("/").await.status, StatusCode::OK);

    store.restore_copy(&record);
    assert_eq!(alice.fetch("/").await.status, StatusCode::OK, "a failover ends no session");
    assert_eq!(store.events("rolled-back").await, 1);
    let fresh = store.fresh_gateway();
    let mut other_browser = alice.at_gateway(&fresh);
    assert_eq!(other_browser.fetch("/").await.status, StatusCode::OK, "the newer copy is back");

    store.restore_copy(&record);
    refused(&mut attacker, "theft").await;
    assert_eq!(store.events("rolled-back").await, 2);
    refused(&mut alice, "theft").await;
}

async fn rolled_back_record_keeps_the_offered_successor(store: TamperedStore) {
    let mut alice = store.log_in("alice").await;
    let (record, current) = (SessionKeys::from_token(&alice).record(), alice.token());
    store.save_copy(&record);
    store.gateway.advance(Duration::from_secs(601));
    alice.fetch("/").await;
    let offered = alice.token();
    assert_ne!(offered, current);
    store.restore_copy(&record);
    let mut tab = alice.clone().with_token(&current);
    tab.fetch("/").await;
    assert_eq!(tab.token(), offered, "S2: one successor for a token");
    assert_eq!(store.events("rolled-back").await, 1);
    assert_eq!(alice.fetch("/").await.status, StatusCode::OK);
}

async fn rollback_with_a_new_revision_is_detected_by_generation(store: TamperedStore) {
    let mut alice = store.log_in("alice").await;
    let record = SessionKeys::from_token(&alice).record();
    store.save_copy(&record);
    store.rotate(&mut alice).await;
    store.restore_copy(&record);
    store.redis(&["EVAL", "redis.call('SETRANGE', KEYS[1], 1, '\\0\\0\\1')", "1", &record]);
    assert_eq!(alice.fetch("/").await.status, StatusCode::OK);
    assert_eq!(store.events("rolled-back").await, 1);
}

async fn record_restored_over_a_tombstone_stays_ended(store: TamperedStore) {
    let mut alice = store.log_in("alice").await;
    let record = SessionKeys::from_token(&alice).record();
    let mut attacker = alice.clone();
    store.save_copy(&record);
    // Ended at another gateway, so this one only observed the end.
    log_out(&mut alice.at_gateway(&store.fresh_gateway())).await;
    store.wait_for_invalidation();
    refused(&mut attacker, "logout").await;
    for take_away in [false, true] {
        match take_away {
            true => _ = store.redis(&["DEL", &record]),
            false => store.restore_copy(&record),
        }
        refused(&mut attacker, "logout").await;
        let deadline = Instant::now() + TIMEOUT;
        while store.redis(&["GETRANGE", &record, "0", "0"]) != "\u{2}" {
            assert!(Instant::now() < deadline, "no tombstone");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    assert_eq!(store.events("rolled-back").await, 2);
    alice.log_in("alice").await;
    assert_eq!(alice.fetch("/").await.status, StatusCode::OK, "a new session is another one");
}

async fn removed_or_lowered_user_cutoff_stays_effective(store: TamperedStore) {
    let (mut first, second) = (store.log_in("alice").await, store.log_in("alice").await);
    let line = SessionKeys::from_token(&first).cutoff();
    let other = store.fresh_gateway();
    // "End all others", at another gateway.
    let mut there = second.at_gateway(&other);
    let csrf = there.navigate("/.doorward/sessions").await.form_field("csrf");
    there.post_form("/.doorward/sessions", &[("csrf", &csrf), ("do", "end-others")]).await;
    store.wait_for_invalidation();
    // A request of the remaining session makes this gateway observe the cutoff.
    assert_eq!(second.clone().fetch("/").await.status, StatusCode::OK);
    store.redis(&["SET", &line, "1"]);
    refused(&mut first, "revoked").await;
    assert_eq!(store.events("rolled-back").await, 1);
    assert_eq!(second.clone().fetch("/").await.status, StatusCode::OK, "the excepted one");
}

async fn lowered_global_cutoff_stays_effective_and_is_restored(store: TamperedStore) {
    let mut alice = store.log_in("alice").await;
    let record = SessionKeys::from_token(&alice).record();
    store.save_copy(&record);
    store.gateway.advance(Duration::from_secs(1));
    revoke(&store.fresh_gateway(), "all=1").await;
    let cutoff = store.redis(&["GET", "dw:everyone"]);
    let deadline = Instant::now() + TIMEOUT;
    while alice.fetch("/").await.status == StatusCode::OK {
        assert!(Instant::now() < deadline, "the line never arrived");
    }
    store.restore_copy(&record);
    store.redis(&["SET", "dw:everyone", "0"]);
    while store.redis(&["GET", "dw:everyone"]) != cutoff {
        assert!(Instant::now() < deadline, "not drawn again");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_ne!(alice.fetch("/").await.status, StatusCode::OK);
    assert!(store.events("rolled-back").await >= 1);
}

/// Touches send no invalidation, so the cached session does not contain this one.
#[tokio::test]
async fn future_activity_time_is_clamped_and_reported() {
    let store = TamperedStore::start("off").await;
    let mut alice = store.log_in("alice").await;
    let touch = SessionKeys::from_token(&alice).touch();
    store.redis(&["SET", &touch, "9000000000000"]);
    assert_eq!(alice.fetch("/").await.status, StatusCode::OK, "not the end of its time");
    let left = alice.fetch("/.doorward/session").await.json();
    assert_eq!(left["absolute_seconds"], 12 * 60 * 60);
    assert_eq!(store.events("activity-in-future").await, 1);
}

async fn user_index_cannot_move_a_cutoff_into_the_future(store: TamperedStore) {
    let alice = store.log_in("alice").await;
    store.redis(&["HSET", &SessionKeys::from_token(&alice).index(), "max", "9000000000000"]);
    revoke(&store.gateway, "user=alice").await;
    let mut again = Browser::new(&store.gateway);
    let response = again.try_log_in("alice", test_support::gateway::PASSWORD, "/").await;
    assert_eq!(response.status, StatusCode::SERVICE_UNAVAILABLE, "it would live for centuries");
    assert_eq!(store.events("undecryptable").await, 1);
}

async fn deleted_record_ends_the_session_and_is_reported_once(store: TamperedStore) {
    let mut alice = store.log_in("alice").await;
    store.redis(&["DEL", &SessionKeys::from_token(&alice).record()]);
    refused(&mut alice, "unknown-session").await;
    refused(&mut alice, "unknown-session").await;
    assert_eq!(store.events("rolled-back").await, 1);
}

async fn logout_with_a_newer_token_ends_the_session_unnamed(store: TamperedStore) {
    let mut alice = store.log_in("alice").await;
    let record = SessionKeys::from_token(&alice).record();
    store.save_copy(&record);
    store.rotate(&mut alice).await;
    store.restore_copy(&record);
    let fresh = store.fresh_gateway();
    let mut there = alice.at_gateway(&fresh);
    refused(&mut there, "generation-ahead").await;
    let form = there.navigate("/.doorward/logout").await;
    assert!(!form.text().contains("alice"), "a forged form shows no name");
    let csrf = form.form_field("csrf");
    let logout = there.post_form("/.doorward/logout", &[("csrf", &csrf)]).await;
    assert_eq!((logout.status, there.token()), (StatusCode::OK, String::new()));
    assert_eq!(store.redis(&["GETRANGE", &record, "0", "0"]), "\u{2}");
}

/// Returns the Redis key of the user's history.
fn user_history(browser: &Browser) -> String {
    format!("dw:m:{{{}}}", SessionKeys::from_token(browser).tag)
}

async fn undecryptable_user_history_is_reported_and_ignored(store: TamperedStore) {
    let alice = store.log_in("alice").await;
    let bob = store.log_in("bob").await;
    let (alices, bobs) = (user_history(&alice), user_history(&bob));
    for poison in ["garbage", "", "another user's"] {
        match poison {
            "another user's" => store.redis(&["COPY", &bobs, &alices, "REPLACE"]),
            text => store.redis(&["SET", &alices, text]),
        };
        let before = store.events("undecryptable").await;
        assert_eq!(store.log_in("alice").await.fetch("/").await.status, StatusCode::OK);
        let reported = store.events("undecryptable").await - before;
        assert_eq!(reported > 0, !poison.is_empty(), "{poison}: {reported}");
        let before = store.events("undecryptable").await;
        store.log_in("alice").await;
        assert_eq!(store.events("undecryptable").await, before, "{poison}: written anew");
    }
    store.redis(&["DEL", &alices]);
    store.redis(&["LPUSH", &alices, "a list"]);
    assert_eq!(store.log_in("alice").await.fetch("/").await.status, StatusCode::OK);
}

async fn rolled_back_user_history_is_reported_and_ignored(store: TamperedStore) {
    let alice = store.log_in("alice").await;
    let key = user_history(&alice);
    store.save_copy(&key);
    // A request of another program is recorded in it.
    let mut other = Browser::new(&store.gateway);
    other.headers = vec![("user-agent", "curl/8.5.0".to_owned())];
    other.log_in("alice").await;
    assert_eq!(store.events("rolled-back").await, 0);
    store.restore_copy(&key);
    assert_eq!(store.log_in("alice").await.fetch("/").await.status, StatusCode::OK);
    assert!(store.events("rolled-back").await > 0);
    let before = store.events("rolled-back").await;
    store.log_in("alice").await;
    assert_eq!(store.events("rolled-back").await, before, "a newer one stands there again");
    store.redis(&["DEL", &key]);
    assert_eq!(store.log_in("alice").await.fetch("/").await.status, StatusCode::OK);
    assert!(store.events("rolled-back").await > before, "rolled back");
}

#[tokio::test]
async fn store_tampering_is_audited_with_its_session() {
    let (upstream, redis) = (Upstream::start().await, RedisServer::start(RedisOptions::default()));
    let directory = test_support::gateway::prepare_directory();
    let file = directory.path().join("audit.jsonl");
    let gateway = Gateway::start(Setup {
        routes: session_route(upstream.address),
        store: format!("{}\"\nlocal_cache = \"off\"\n#", redis.settings().url),
        extra: format!("[audit]\nfile = \"{}\"\n", file.display()),
        clock: manual_clock(),
        shared_directory: Some(Arc::clone(&directory)),
        ..Setup::default()
    });
    let mut alice = Browser::new(&gateway);
    alice.log_in("alice").await;
    let location = SessionKeys::from_token(&alice);
    assert_eq!(
        redis.command(&["SET", &location.record(), "\u{1}planted \u{5}by an attacker"]),
        "+OK"
    );
    refused(&mut alice, "undecryptable").await;
    let key = gateway.shared().keys.load().audit().clone();
    gateway.stop();
    let text = std::fs::read_to_string(&file).expect("the audit log");
    let report = doorward::audit::verify(text.as_bytes(), &key, &[]).expect("memory");
    assert_eq!(report.findings, []);
    let lines = || text.lines().map(|line| serde_json::from_str(line).expect("JSON"));
    let reported: Vec<serde_json::Value> = lines()
        .filter(|line: &serde_json::Value| line["event.action"] == "session.undecryptable")
        .collect();
    let [reported] = reported.as_slice() else { panic!("{text}") };
    let id = HEXLOWER.decode(location.id.as_bytes()).expect("hex").try_into().expect("an id");
    assert_eq!(
        reported["doorward.session"],
        doorward::session::SessionId(id).handle(),
        "{reported}"
    );
}
