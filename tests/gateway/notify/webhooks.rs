//! A webhook is told: signed, verified, tried again, and never beyond bounds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use doorward::clock::UnixMillis;
use doorward::secret::SigningSecret;
use doorward::telemetry::SessionEvent;
use doorward::telemetry::events::About;
use doorward::telemetry::hook::{Failure, Pace, Settings, try_out};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::receivers::{Act, GOOD, Receiver, field};
use super::teller::{Teller, told_by};
use super::{PATIENCE, SECRET};
use crate::gateway::prepare;

#[test]
fn a_letter_is_a_signed_post_of_json_and_what_a_client_sent_makes_no_field_of_its_own() {
    let directory = prepare();
    let receiver = Receiver::plain(&[GOOD]);
    let teller = Teller::start(told_by(&directory, &receiver.webhook()));
    let user = "a\"\r\nwebhook-id: x\n{\"event.action\":\"y\"}\u{1b}[31m";
    teller.theft(1, user);
    let post = receiver.next();
    assert_eq!(teller.close(), [1, 0, 0, 0]);
    let (head, body) = post.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("POST /doorward?x=y HTTP/1.1\r\n"), "{head}");
    assert_eq!(field(head, "host"), receiver.address.to_string());
    assert_eq!(field(head, "content-type"), "application/json");
    assert_eq!(head.matches("webhook-id").count(), 1);
    assert!(!body.bytes().any(|byte| byte.is_ascii_control()), "{body}");
    let told: Value = serde_json::from_str(body).expect("JSON");
    assert_eq!(
        (&told["user.name"], &told["event.action"]),
        (&user.into(), &"session.theft".into())
    );
    let (id, seconds) = (field(head, "webhook-id"), field(head, "webhook-timestamp"));
    let secret = SigningSecret::parse(SECRET).expect("a secret");
    let signed = secret.sign(id, seconds.parse().expect("a number"), body.as_bytes());
    assert_eq!(field(head, "webhook-signature"), signed);
    assert_eq!(told["event.id"], id);
}

#[test]
fn what_may_pass_is_tried_again_with_the_same_id_and_what_will_not_is_final() {
    let directory = prepare();
    let busy = ["500 Oops", "503 Later", "429 Too Many Requests", "408 Request Timeout"];
    for status in busy {
        let receiver = Receiver::plain(&[Act::Answer(status), Act::Answer(status), GOOD]);
        let teller = Teller::start(told_by(&directory, &receiver.webhook()));
        teller.theft(1, "alice");
        assert_eq!(teller.close(), [1, 0, 0, 0], "{status}");
        let ids = [(); 3].map(|()| field(&receiver.next(), "webhook-id").to_owned());
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    }
    for status in ["400 Bad Request", "401 Unauthorized", "404 Not Found", "410 Gone"] {
        let receiver = Receiver::plain(&[Act::Answer(status)]);
        let teller = Teller::start(told_by(&directory, &receiver.webhook()));
        teller.theft(1, "alice");
        assert_eq!((teller.close(), receiver.rest()), ([0, 1, 0, 0], 1), "{status}");
    }
}

#[test]
fn a_receiver_that_asks_to_be_left_alone_is_left_alone_for_a_bounded_while() {
    let directory = prepare();
    let took = |answer: &'static str| {
        let receiver = Receiver::plain(&[Act::Answer(answer), GOOD]);
        let teller = Teller::start(told_by(&directory, &receiver.webhook()));
        let start = Instant::now();
        teller.theft(1, "alice");
        assert_eq!((teller.close(), receiver.rest()), ([1, 0, 0, 0], 2), "{answer}");
        start.elapsed()
    };
    assert!(took("429 Too Many Requests\r\nRetry-After: 1") >= Duration::from_secs(1));
    let day = took("503 Later\r\nRetry-After: 86400");
    assert!((Duration::from_secs(2)..PATIENCE / 2).contains(&day), "{day:?}");
}

#[test]
fn a_receiver_that_stays_away_is_given_up_after_a_few_attempts() {
    let directory = prepare();
    let receiver = Receiver::plain(&[Act::Answer("500 Oops")]);
    let teller = Teller::start(told_by(&directory, &receiver.webhook()));
    teller.theft(1, "alice");
    assert_eq!((teller.close(), receiver.rest()), ([0, 1, 0, 0], 3));
    let gone = receiver.webhook();
    drop(receiver);
    let teller = Teller::start(told_by(&directory, &gone));
    teller.theft(1, "alice");
    assert_eq!(teller.close(), [0, 1, 0, 0]);
}

#[test]
fn a_redirect_is_not_followed() {
    let directory = prepare();
    let elsewhere = Receiver::plain(&[GOOD]);
    for status in ["301 Moved", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"] {
        let moved = format!("{status}\r\nLocation: http://{}/", elsewhere.address);
        let receiver = Receiver::plain(&[Act::Answer(moved.leak())]);
        let teller = Teller::start(told_by(&directory, &receiver.webhook()));
        teller.theft(1, "alice");
        assert_eq!((teller.close(), receiver.rest()), ([0, 1, 0, 0], 1), "{status}");
    }
    assert_eq!(elsewhere.rest(), 0);
}

#[test]
fn of_thousands_at_once_each_is_told_or_counted_and_nobody_waits() {
    let directory = prepare();
    let receiver = Receiver::plain(&[Act::Hang]);
    let notify = format!("{}\ntimeout = \"100ms\"", receiver.webhook());
    let settings = told_by(&directory, &notify);
    let teller =
        Teller::start(Settings { pace: Pace { attempts: 1, ..settings.pace }, ..settings });
    for session in 0..5_000 {
        teller.theft(session, "alice");
    }
    assert_eq!(teller.close(), [0, 30, 0, 4_970]);
}

#[test]
fn the_same_event_of_one_session_is_told_once() {
    let directory = prepare();
    let receiver = Receiver::plain(&[GOOD]);
    let teller = Teller::start(told_by(&directory, &receiver.webhook()));
    for session in [1, 1, 2, 1] {
        teller.theft(session, "alice");
    }
    assert_eq!((teller.close(), receiver.rest()), ([2, 0, 2, 0], 2));
}

#[test]
fn events_that_nobody_chose_and_events_of_strangers_are_not_told() {
    let directory = prepare();
    let receiver = Receiver::plain(&[GOOD]);
    let teller = Teller::start(told_by(&directory, &receiver.webhook()));
    let events = [
        SessionEvent::Login,
        SessionEvent::Moved,
        SessionEvent::Forged,
        SessionEvent::LoginRefused,
        SessionEvent::LoginThrottled,
        SessionEvent::Refused("theft"),
    ];
    for event in events {
        teller.hook.event(event, &About { user: "alice", ..About::default() }, UnixMillis(0));
    }
    assert_eq!((teller.close(), receiver.rest()), ([0; 4], 0));
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
async fn a_webhook_shows_a_certificate_of_its_authority_or_is_told_nothing() {
    let (directory, stranger) = (prepare(), prepare());
    let receiver = Receiver::start(&[GOOD], Some(certificate(&directory)));
    let webhook = format!("webhook = \"https://localhost:{}/\"", receiver.address.port());
    let told = try_out(told_by(&directory, &format!("{webhook}\nca = \"ca.pem\""))).await;
    assert!(matches!(&told[..], [(_, Ok(answer))] if answer == "204 No Content"), "{told:?}");
    assert!(receiver.next().contains("\"event.action\":\"notify.test\""));
    let other = format!("ca = \"{}\"", stranger.path().join("ca.pem").display());
    let by_address = webhook.replace("localhost", "127.0.0.1") + "\nca = \"ca.pem\"";
    for notify in [format!("{webhook}\n{other}"), webhook.clone(), by_address] {
        let told = try_out(told_by(&directory, &notify)).await;
        assert!(matches!(&told[..], [(_, Err(Failure::Tls(_)))]), "{notify}: {told:?}");
    }
    assert_eq!(receiver.rest(), 0);
}

#[test]
fn a_letter_that_nobody_takes_is_given_up_after_a_while_however_long_an_attempt_may_last() {
    let directory = prepare();
    let receiver = Receiver::plain(&[Act::Hang]);
    let notify = format!("{}\ntimeout = \"60s\"", receiver.webhook());
    let settings = told_by(&directory, &notify);
    let longest = Duration::from_millis(200);
    let teller = Teller::start(Settings { pace: Pace { longest, ..settings.pace }, ..settings });
    let start = Instant::now();
    teller.theft(1, "alice");
    assert_eq!(teller.close(), [0, 1, 0, 0]);
    assert!(start.elapsed() < PATIENCE / 2, "{:?}", start.elapsed());
}

#[test]
fn who_is_in_a_hurry_waits_for_no_receiver() {
    let directory = prepare();
    let receiver = Receiver::plain(&[Act::Hang]);
    let notify = format!("{}\ntimeout = \"60s\"", receiver.webhook());
    let teller = Teller::start(told_by(&directory, &notify));
    teller.theft(1, "alice");
    let (hurry, start) = (CancellationToken::new(), Instant::now());
    hurry.cancel();
    teller.hook.close(&hurry);
    assert!(start.elapsed() < PATIENCE / 2, "{:?}", start.elapsed());
    assert_eq!(teller.count("failed"), 1);
}
