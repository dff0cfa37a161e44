//! The webhook channel: signatures, certificates, retries and limits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use doorward::clock::UnixMillis;
use doorward::http_client::HttpClientError;
use doorward::notify::{DeliveryError, RetryPolicy, Settings, send_test};
use doorward::secret::SigningSecret;
use doorward::telemetry::SessionEvent;
use doorward::telemetry::events::EventContext;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::notifying_gateway::{NotifyingGateway, notify_config};
use super::receivers::{ACCEPTS, Receiver, ReceiverBehavior, header};
use super::{SECRET, TIMEOUT};
use test_support::gateway::prepare_directory;

#[test]
fn webhook_is_signed_json_and_client_data_adds_no_field() {
    let directory = prepare_directory();
    let receiver = Receiver::plain(&[ACCEPTS]);
    let notifier = NotifyingGateway::start(notify_config(&directory, &receiver.webhook()));
    let user = "a\"\r\nwebhook-id: x\n{\"event.action\":\"y\"}\u{1b}[31m";
    notifier.theft(1, user);
    let post = receiver.next();
    assert_eq!(notifier.close(), [1, 0, 0, 0]);
    let (head, body) = post.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("POST /doorward?x=y HTTP/1.1\r\n"), "{head}");
    assert_eq!(header(head, "host"), receiver.address.to_string());
    assert_eq!(header(head, "content-type"), "application/json");
    assert_eq!(head.matches("webhook-id").count(), 1);
    assert!(!body.bytes().any(|byte| byte.is_ascii_control()), "{body}");
    let message: Value = serde_json::from_str(body).expect("JSON");
    assert_eq!(
        (&message["user.name"], &message["event.action"]),
        (&user.into(), &"session.theft".into())
    );
    let (id, seconds) = (header(head, "webhook-id"), header(head, "webhook-timestamp"));
    let secret = SigningSecret::parse(SECRET).expect("a secret");
    let signed = secret.sign(id, seconds.parse().expect("a number"), body.as_bytes());
    assert_eq!(header(head, "webhook-signature"), signed);
    assert_eq!(message["event.id"], id);
}

#[test]
fn transient_failures_are_retried_and_permanent_ones_are_not() {
    let directory = prepare_directory();
    let busy = ["500 Oops", "503 Later", "429 Too Many Requests", "408 Request Timeout"];
    for status in busy {
        let receiver = Receiver::plain(&[
            ReceiverBehavior::Respond(status),
            ReceiverBehavior::Respond(status),
            ACCEPTS,
        ]);
        let notifier = NotifyingGateway::start(notify_config(&directory, &receiver.webhook()));
        notifier.theft(1, "alice");
        assert_eq!(notifier.close(), [1, 0, 0, 0], "{status}");
        let ids = [(); 3].map(|()| header(&receiver.next(), "webhook-id").to_owned());
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    }
    for status in ["400 Bad Request", "401 Unauthorized", "404 Not Found", "410 Gone"] {
        let receiver = Receiver::plain(&[ReceiverBehavior::Respond(status)]);
        let notifier = NotifyingGateway::start(notify_config(&directory, &receiver.webhook()));
        notifier.theft(1, "alice");
        assert_eq!((notifier.close(), receiver.rest()), ([0, 1, 0, 0], 1), "{status}");
    }
}

#[test]
fn retry_after_is_honoured_within_a_bound() {
    let directory = prepare_directory();
    let took = |response: &'static str| {
        let receiver = Receiver::plain(&[ReceiverBehavior::Respond(response), ACCEPTS]);
        let notifier = NotifyingGateway::start(notify_config(&directory, &receiver.webhook()));
        let start = Instant::now();
        notifier.theft(1, "alice");
        assert_eq!((notifier.close(), receiver.rest()), ([1, 0, 0, 0], 2), "{response}");
        start.elapsed()
    };
    assert!(took("429 Too Many Requests\r\nRetry-After: 1") >= Duration::from_secs(1));
    let day = took("503 Later\r\nRetry-After: 86400");
    assert!((Duration::from_secs(2)..TIMEOUT / 2).contains(&day), "{day:?}");
}

#[test]
fn unreachable_receiver_is_abandoned_after_a_few_attempts() {
    let directory = prepare_directory();
    let receiver = Receiver::plain(&[ReceiverBehavior::Respond("500 Oops")]);
    let notifier = NotifyingGateway::start(notify_config(&directory, &receiver.webhook()));
    notifier.theft(1, "alice");
    assert_eq!((notifier.close(), receiver.rest()), ([0, 1, 0, 0], 3));
    let gone = receiver.webhook();
    drop(receiver);
    let notifier = NotifyingGateway::start(notify_config(&directory, &gone));
    notifier.theft(1, "alice");
    assert_eq!(notifier.close(), [0, 1, 0, 0]);
}

#[test]
fn webhook_redirects_are_not_followed() {
    let directory = prepare_directory();
    let other_receiver = Receiver::plain(&[ACCEPTS]);
    for status in ["301 Moved", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"] {
        let moved = format!("{status}\r\nLocation: http://{}/", other_receiver.address);
        let receiver = Receiver::plain(&[ReceiverBehavior::Respond(moved.leak())]);
        let notifier = NotifyingGateway::start(notify_config(&directory, &receiver.webhook()));
        notifier.theft(1, "alice");
        assert_eq!((notifier.close(), receiver.rest()), ([0, 1, 0, 0], 1), "{status}");
    }
    assert_eq!(other_receiver.rest(), 0);
}

#[test]
fn burst_of_events_is_delivered_or_counted_without_blocking() {
    let directory = prepare_directory();
    let receiver = Receiver::plain(&[ReceiverBehavior::Hang]);
    let notify = format!("{}\ntimeout = \"100ms\"", receiver.webhook());
    let settings = notify_config(&directory, &notify);
    let notifier = NotifyingGateway::start(Settings {
        retry: RetryPolicy { attempts: 1, ..settings.retry },
        ..settings
    });
    for session in 0..5_000 {
        notifier.theft(session, "alice");
    }
    let [delivered, failed, duplicate, dropped] = notifier.close();
    // Thirty at once, and one more for each two seconds that the events take.
    assert!((30..=35).contains(&failed), "{failed}");
    assert_eq!((delivered, duplicate, failed + dropped), (0, 0, 5_000));
}

#[test]
fn repeated_event_of_one_session_is_sent_once() {
    let directory = prepare_directory();
    let receiver = Receiver::plain(&[ACCEPTS]);
    let notifier = NotifyingGateway::start(notify_config(&directory, &receiver.webhook()));
    for session in [1, 1, 2, 1] {
        notifier.theft(session, "alice");
    }
    assert_eq!((notifier.close(), receiver.rest()), ([2, 0, 2, 0], 2));
}

#[test]
fn unselected_and_anonymous_events_are_not_sent() {
    let directory = prepare_directory();
    let receiver = Receiver::plain(&[ACCEPTS]);
    let notifier = NotifyingGateway::start(notify_config(&directory, &receiver.webhook()));
    let events = [
        SessionEvent::Login,
        SessionEvent::LocationChanged,
        SessionEvent::TokenInvalid,
        SessionEvent::LoginFailed,
        SessionEvent::LoginThrottled,
        SessionEvent::Refused("theft"),
    ];
    for event in events {
        notifier.notifier.event(
            event,
            &EventContext { user: "alice", ..EventContext::default() },
            UnixMillis(0),
        );
    }
    assert_eq!((notifier.close(), receiver.rest()), ([0; 4], 0));
}

/// The certificate of a test gateway, for localhost.
fn certificate(directory: &TempDir) -> Arc<rustls::ServerConfig> {
    let at = |name: &str| directory.path().join(name);
    let chain = CertificateDer::pem_file_iter(at("doorward.pem")).expect("readable");
    let chain: Result<Vec<_>, _> = chain.collect();
    let key = PrivateKeyDer::from_pem_file(at("doorward.key")).expect("a key");
    let config = rustls::ServerConfig::builder_with_provider(doorward::tls::provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(chain.expect("certificates"), key);
    Arc::new(config.expect("usable"))
}

#[tokio::test]
async fn webhook_certificate_must_match_the_configured_ca() {
    let (directory, other_directory) = (prepare_directory(), prepare_directory());
    let receiver = Receiver::start(&[ACCEPTS], Some(certificate(&directory)));
    let webhook = format!("webhook = \"https://localhost:{}/\"", receiver.address.port());
    let message =
        send_test(notify_config(&directory, &format!("{webhook}\nca = \"ca.pem\""))).await;
    assert!(
        matches!(&message[..], [(_, Ok(response))] if response == "204 No Content"),
        "{message:?}"
    );
    assert!(receiver.next().contains("\"event.action\":\"notify.test\""));
    let other = format!("ca = \"{}\"", other_directory.path().join("ca.pem").display());
    let by_address = webhook.replace("localhost", "127.0.0.1") + "\nca = \"ca.pem\"";
    for notify in [format!("{webhook}\n{other}"), webhook.clone(), by_address] {
        let message = send_test(notify_config(&directory, &notify)).await;
        assert!(
            matches!(&message[..], [(_, Err(DeliveryError::Http(HttpClientError::Tls(_))))]),
            "{notify}: {message:?}"
        );
    }
    assert_eq!(receiver.rest(), 0);
}

#[test]
fn undelivered_message_is_dropped_after_its_deadline() {
    let directory = prepare_directory();
    let receiver = Receiver::plain(&[ReceiverBehavior::Hang]);
    let notify = format!("{}\ntimeout = \"60s\"", receiver.webhook());
    let settings = notify_config(&directory, &notify);
    let longest = Duration::from_millis(200);
    let notifier = NotifyingGateway::start(Settings {
        retry: RetryPolicy { total_timeout: longest, ..settings.retry },
        ..settings
    });
    let start = Instant::now();
    notifier.theft(1, "alice");
    assert_eq!(notifier.close(), [0, 1, 0, 0]);
    assert!(start.elapsed() < TIMEOUT / 2, "{:?}", start.elapsed());
}

#[test]
fn forced_shutdown_does_not_wait_for_receivers() {
    let directory = prepare_directory();
    let receiver = Receiver::plain(&[ReceiverBehavior::Hang]);
    let notify = format!("{}\ntimeout = \"60s\"", receiver.webhook());
    let notifier = NotifyingGateway::start(notify_config(&directory, &notify));
    notifier.theft(1, "alice");
    let (hurry, start) = (CancellationToken::new(), Instant::now());
    hurry.cancel();
    notifier.notifier.close(&hurry);
    assert!(start.elapsed() < TIMEOUT / 2, "{:?}", start.elapsed());
    assert_eq!(notifier.count("failed"), 1);
}
