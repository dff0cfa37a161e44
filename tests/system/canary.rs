//! Secrets never reach the log of the real program, even at trace level.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use doorward::secret::KeyRing;
use doorward::session::Token;
use http::StatusCode;

use crate::program::Program;
use test_support::browser::Browser;
use test_support::gateway::{PASSWORD, Setup, configuration, prepare_directory, session_route};
use test_support::upstream::Upstream;

fn start(upstream: SocketAddr) -> Program {
    let setup = Setup {
        routes: session_route(upstream),
        session: "rotate_after = \"2s\"\nrotation_grace = \"1s\"\n".to_owned(),
        extra: "[log]\nlevel = \"debug\"\nformat = \"json\"\n".to_owned(),
        ..Setup::default()
    };
    let directory = prepare_directory();
    Program::run(&configuration(&setup, &directory), directory, "trace")
}

/// All encodings in which a token could leak.
fn forms(token: &str, keys: &Path) -> Vec<String> {
    let ring = KeyRing::parse(&std::fs::read_to_string(keys).expect("the keys")).expect("keys");
    let parsed = Token::parse(&ring, token.as_bytes()).expect("our token");
    let body = &token["dw1_".len()..];
    vec![
        body.to_owned(),
        body[60..].to_owned(),
        data_encoding::HEXLOWER.encode(&parsed.key.id.0),
        data_encoding::BASE64.encode(&parsed.key.id.0),
        format!("{:?}", parsed.key.id.0),
    ]
}

/// Invariant S6; OWASP ASVS 16.2.5. Every event reaches the log.
#[tokio::test]
async fn no_secret_reaches_the_log() {
    let upstream = Upstream::start().await;
    let mut program = start(upstream.address);
    let (address, ca) = (program.address(), program.path("ca.pem"));
    let mut alice = Browser::at_address(address, &ca);
    let mut secrets = vec![PASSWORD.to_owned(), "planted-wrong-password".to_owned()];

    let refused = alice.try_log_in("alice", "planted-wrong-password", "/").await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    secrets.push(refused.form_field("csrf"));
    alice.try_log_in("planted-password-as-name", PASSWORD, "/").await;
    secrets.push("planted-password-as-name".to_owned());
    alice.log_in("alice").await;
    let first = alice.token();
    secrets.extend(alice.jar.values().cloned());
    alice.fetch(&format!("/?token={first}")).await;
    alice.send("GET", "/", &[("authorization", "Bearer planted-bearer")], "").await;
    secrets.push("planted-bearer".to_owned());
    Browser::at_address(address, &ca).with_token(&format!("{first}x")).fetch("/").await;

    let deadline = Instant::now() + Duration::from_secs(20);
    while alice.token() == first {
        assert!(Instant::now() < deadline, "the token is rotated");
        alice.fetch("/").await;
    }
    alice.fetch("/").await;
    let second = alice.token();
    let page = alice.navigate("/.doorward/sessions").await;
    secrets.push(page.form_field("csrf"));
    let mut attacker = Browser::at_address(address, &ca).with_token(&first);
    while attacker.send("GET", "/", &[("user-agent", "attacker")], "").await.status
        == StatusCode::OK
    {
        assert!(Instant::now() < deadline, "the superseded token is rejected");
    }
    assert_eq!(alice.fetch("/").await.json()["reason"], "theft");
    for token in [&first, &second] {
        secrets.extend(forms(token, &program.path("keys.toml")));
    }

    assert_eq!(program.stop(), Some(0));
    let log = program.log();
    for event in [
        "session.login",
        "session.login-failed",
        "session.token-rotated",
        "session.theft",
        "session.ended",
        "session.token-invalid",
    ] {
        assert!(log.contains(&format!("\"event\":\"{event}\"")), "{event} in\n{log}");
    }
    let requests = log.lines().filter(|line| line.contains("\"target\":\"access\"")).count();
    assert!(requests >= 12, "{requests} request lines");
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        assert!(!log.contains(secret.as_str()), "{secret} is in\n{log}");
    }
}
