//! Notifications: thefts are delivered, and no receiver can affect the gateway.

mod notifying_gateway;
mod programs;
mod receivers;
mod webhooks;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

use doorward::config::Config;
use doorward::secret::SigningSecret;
use serde_json::Value;
use tempfile::TempDir;

use crate::risk::{ATTACKER, HOME, VPN_ABROAD, verdict};
use test_support::browser::Browser;
use test_support::gateway::{Gateway, Setup, manual_clock, prepare_directory, session_route};
use test_support::upstream::Upstream;

use notifying_gateway::text;
use receivers::{ACCEPTS, DocumentedReceiver, Receiver, ReceiverBehavior};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// Longest wait for an expected event.
const TIMEOUT: Duration = Duration::from_secs(20);

/// alice at home, and an attacker at another location who replays her superseded token.
struct NotifyTest {
    _upstream: Upstream,
    gateway: Gateway,
    alice: Browser,
    attacker: Browser,
}

impl NotifyTest {
    async fn with(directory: Arc<TempDir>, notify: &str) -> NotifyTest {
        std::fs::write(directory.path().join("notify-secret"), SECRET).expect("written");
        let upstream = Upstream::start().await;
        let gateway = Gateway::start(Setup {
            routes: format!("{}signals = \"enforce\"\n", session_route(upstream.address)),
            server: "trusted_proxies = [\"127.0.0.1\"]".to_owned(),
            extra: format!("[notify]\nsecret_file = \"notify-secret\"\n{notify}\n"),
            clock: manual_clock(),
            shared_directory: Some(directory),
            ..Setup::default()
        });
        let mut alice = Browser::new(&gateway);
        HOME.apply_to(&mut alice);
        alice.log_in("alice").await;
        let mut attacker = alice.clone();
        ATTACKER.apply_to(&mut attacker);
        gateway.advance(Duration::from_secs(601));
        alice.fetch("/").await;
        assert_eq!(verdict(&mut alice).await, "admitted");
        gateway.advance(Duration::from_secs(120));
        NotifyTest { _upstream: upstream, gateway, alice, attacker }
    }
}

#[tokio::test]
async fn theft_notification_names_both_clients_and_no_token() {
    let directory = prepare_directory();
    let receiver = DocumentedReceiver::start(directory.path());
    let notify = format!("webhook = \"http://{}/\"", receiver.address);
    let mut scene = NotifyTest::with(directory, &notify).await;
    assert_eq!(verdict(&mut scene.attacker).await, "401 theft");
    let line = receiver.next();
    assert!(!line.contains(&scene.attacker.token()), "{line}");
    let message: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(message["event.action"], "session.theft");
    assert_eq!(message["user.name"], "alice");
    assert_eq!(message["source.ip"], "203.0.113.9");
    assert_eq!(message["user_agent.original"], "curl/8.5.0");
    assert_eq!(message["doorward.other.ip"], "192.0.2.7");
    assert!(message["doorward.other.user_agent"].as_str().expect("text").contains("Firefox"));
    assert_eq!(message["doorward.session"].as_str().expect("a handle").len(), 16);
    assert!(message["event.id"].as_str().expect("an id").starts_with("msg_"));
}

#[tokio::test]
async fn risk_notification_lists_the_signals() {
    let directory = prepare_directory();
    let receiver = DocumentedReceiver::start(directory.path());
    let notify = format!("webhook = \"http://{}/\"", receiver.address);
    let scene = NotifyTest::with(directory, &notify).await;
    let mut attacker = scene.alice.clone();
    VPN_ABROAD.apply_to(&mut attacker);
    assert_eq!(
        verdict(&mut attacker).await,
        "admitted",
        "another network alone causes no notification"
    );
    ATTACKER.apply_to(&mut attacker);
    assert_eq!(verdict(&mut attacker).await, "401 reauthenticate");
    let message: Value = serde_json::from_str(&receiver.next()).expect("JSON");
    assert_eq!(message["event.action"], "session.location-changed");
    assert_eq!(message["doorward.signals"], serde_json::json!(["network", "browser"]));
    assert_eq!(
        (&message["doorward.action"], &message["doorward.enforced"]),
        (&"login".into(), &true.into())
    );
    assert_eq!(
        (&message["source.ip"], &message["doorward.other.ip"]),
        (&"203.0.113.9".into(), &"192.0.2.7".into())
    );
}

#[test]
fn documented_receiver_rejects_bad_or_old_signatures() {
    let directory = prepare_directory();
    let receiver = DocumentedReceiver::start(directory.path());
    let now = doorward::clock::Clock::System.now().seconds();
    let sign = |secret: &str, at| SigningSecret::parse(secret).expect("one").sign("m", at, b"{}");
    let other = format!("whsec_{}", "A".repeat(32));
    for (signature, at, status) in [
        (String::new(), now, "401"),
        (sign(&other, now), now, "401"),
        (sign(SECRET, now - 600), now, "401"),
        (sign(SECRET, now - 600), now - 600, "401"),
        (sign(SECRET, now), now, "204"),
    ] {
        let mut stream = TcpStream::connect(receiver.address).expect("connected");
        write!(stream, "POST / HTTP/1.0\r\nContent-Length: 2\r\nwebhook-id: m\r\nwebhook-timestamp: {at}\r\nwebhook-signature: {signature}\r\n\r\n{{}}").expect("sent");
        let mut response = String::new();
        stream.read_to_string(&mut response).expect("a response");
        assert_eq!(response.split(' ').nth(1), Some(status), "{signature} {at}");
    }
}

#[tokio::test]
async fn hanging_receiver_delays_neither_responses_nor_shutdown() {
    let receiver = Receiver::plain(&[ReceiverBehavior::Hang]);
    let notify = format!("{}\ntimeout = \"60s\"", receiver.webhook());
    let mut scene = NotifyTest::with(prepare_directory(), &notify).await;
    let start = Instant::now();
    assert_eq!(verdict(&mut scene.attacker).await, "401 theft");
    assert_eq!(verdict(&mut scene.attacker).await, "401 theft");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    scene.gateway.stop();
    assert!(start.elapsed() < TIMEOUT, "{:?}", start.elapsed());
}

#[tokio::test]
async fn pending_notifications_are_sent_before_exit() {
    let receiver = Receiver::plain(&[ReceiverBehavior::Late(Duration::from_millis(200))]);
    let mut scene = NotifyTest::with(prepare_directory(), &receiver.webhook()).await;
    assert_eq!(verdict(&mut scene.attacker).await, "401 theft");
    let shared = Arc::clone(scene.gateway.shared());
    scene.gateway.stop();
    assert!(receiver.next().contains("session.theft"));
    let delivered = "doorward_notifications_total{outcome=\"delivered\"} 1\n";
    assert!(shared.metrics.render().contains(delivered));
}

// The command `notify test`

fn notify_test(directory: &TempDir, notify: &str) -> Output {
    let config = directory.path().join("doorward.toml");
    std::fs::write(&config, text(directory, notify)).expect("written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_doorward"));
    command.args(["notify", "test", "--config"]).arg(config).current_dir(directory.path());
    command.output().expect("the program runs")
}

#[test]
fn notify_test_prints_the_receivers_response() {
    let directory = prepare_directory();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let receiver = Receiver::plain(&[ACCEPTS, ReceiverBehavior::Respond("302 Found")]);
    let good = notify_test(&directory, &receiver.webhook());
    let message = format!("http://{}: delivered (204 No Content)\n", receiver.address);
    assert_eq!((good.status.code(), text(&good.stdout)), (Some(0), message), "{good:?}");
    assert!(receiver.next().contains("\"event.action\":\"notify.test\""));
    let bad = notify_test(&directory, &receiver.webhook());
    assert_eq!(bad.status.code(), Some(1));
    assert!(text(&bad.stderr).contains("not delivered: response 302 Found; redirects"), "{bad:?}");
    let script = "command = [\"/bin/sh\", \"-c\", \"echo no pager here >&2; exit 3\"]";
    let bad = notify_test(&directory, script);
    assert_eq!(bad.status.code(), Some(1));
    let err = text(&bad.stderr);
    assert!(err.contains("no pager here") && err.contains("exit status: 3"), "{err}");
    let without_receiver = notify_test(&directory, "");
    assert_eq!(without_receiver.status.code(), Some(1));
    assert!(
        text(&without_receiver.stderr).contains("[notify] has no receiver"),
        "{without_receiver:?}"
    );
}

#[test]
fn unusable_notification_channel_prevents_startup() {
    let directory = prepare_directory();
    let missing = "command = [\"/nonexistent/missing-command\"]";
    let secret = format!("webhook = \"http://{}/\"", SocketAddr::from(([127, 0, 0, 1], 9)));
    for (notify, secret, wanted) in [
        (missing, SECRET, "/nonexistent/missing-command"),
        (secret.as_str(), "hunter2", "does not begin with whsec_"),
    ] {
        let text = text(&directory, notify);
        std::fs::write(directory.path().join("notify-secret"), secret).expect("written");
        let (config, _) = Config::parse(&text, "test.toml", directory.path()).expect("loads");
        let started = doorward::app::start(config, doorward::clock::Clock::System, None);
        let error = started.err().expect("refused").to_string();
        assert!(error.contains(wanted) && !error.contains("hunter2"), "{error}");
    }
}
