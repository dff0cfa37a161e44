//! The `[store]` section for Redis, from the configuration to the output of commands.

use std::time::{Duration, Instant};

use data_encoding::BASE64URL_NOPAD;
use doorward::session::SessionId;
use http::StatusCode;

use test_support::browser::Browser;
use test_support::gateway::{Gateway, PASSWORD, Setup, prepare_directory, session_route};
use test_support::redis_server::{RedisOptions, RedisServer};
use test_support::upstream::Upstream;

const TIMEOUT: Duration = Duration::from_secs(20);

fn setup(upstream: &Upstream, redis: &RedisServer, store: &str) -> Setup {
    let store = format!("{}\"\n{store}\n#", redis.settings().url);
    Setup { routes: session_route(upstream.address), store, ..Setup::default() }
}

/// Returns the session handle as in `doorward sessions list`.
fn handle(browser: &Browser) -> String {
    let token = browser.token();
    let token = token.strip_prefix("dw1_").expect("a token").as_bytes();
    let bytes = BASE64URL_NOPAD.decode(token).expect("base64");
    SessionId(bytes[10..26].try_into().expect("an id")).handle()
}

#[tokio::test]
async fn revocation_reports_replica_acknowledgement() {
    let (upstream, redis) = (Upstream::start().await, RedisServer::start(RedisOptions::default()));
    let waits = "wait_replicas = 1\nwait_timeout = \"200ms\"";
    let gateway = Gateway::start(setup(&upstream, &redis, waits));
    let mut alice = Browser::new(&gateway);
    alice.log_in("alice").await;
    let query = format!("session={}", handle(&alice));
    let alone = gateway.revoke(&query).await;
    assert!(alone.starts_with("HTTP/1.1 200"), "{alone}");
    let reported = r#""durable":false,"ended":1,"replicas":{"acknowledged":0,"requested":1}"#;
    assert!(alone.contains(reported), "{alone}");
    assert_eq!(alice.fetch("/").await.json()["reason"], "ended-by-operator", "it stands");
    assert!(gateway.revoke(&query).await.starts_with("HTTP/1.1 404"), "it is over");
    let port = redis.port().to_string();
    let follow = ["--repl-diskless-sync-delay", "0", "--replicaof", "127.0.0.1", &port];
    let _replica = RedisServer::start(RedisOptions::with_args(&follow));
    let both = r#""durable":true,"ended":0,"replicas":{"acknowledged":1,"requested":1}"#;
    for query in ["user=alice", "all=1"] {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let response = gateway.revoke(query).await;
            assert!(response.starts_with("HTTP/1.1 200"), "{response}");
            if response.contains(both) {
                break;
            }
            assert!(Instant::now() < deadline, "the replica never has it: {response}");
        }
    }
}

#[tokio::test]
async fn redis_password_file_is_used_and_checked() {
    let (upstream, redis) = (Upstream::start().await, RedisServer::start(RedisOptions::default()));
    assert_eq!(redis.command(&["CONFIG", "SET", "requirepass", "open sesame"]), "+OK");
    for (written, expected) in
        [("open sesame\n", StatusCode::SEE_OTHER), ("close", StatusCode::SERVICE_UNAVAILABLE)]
    {
        let directory = prepare_directory();
        let file = directory.path().join("redis-password");
        std::fs::write(&file, written).expect("written");
        let more = format!("password_file = \"{}\"", file.display());
        let gateway = Gateway::start(Setup {
            shared_directory: Some(directory),
            ..setup(&upstream, &redis, &more)
        });
        let mut alice = Browser::new(&gateway);
        let response = alice.try_log_in("alice", PASSWORD, "/").await;
        assert_eq!(response.status, expected, "{written:?}: {}", response.text());
    }
}
