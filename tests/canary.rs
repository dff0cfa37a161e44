//! The real program, its log at its most talkative, and planted secrets that must not be in it.

#[path = "support/browser.rs"]
#[allow(dead_code, reason = "the suite of the gateway uses the rest of it")]
mod browser;
#[path = "support/gateway.rs"]
#[allow(dead_code, reason = "the suite of the gateway uses the rest of it")]
mod gateway;
#[path = "support/program.rs"]
#[allow(dead_code, reason = "the suite of the commands uses the rest of it")]
mod program;
#[path = "support/upstream.rs"]
#[allow(dead_code, reason = "the suite of the gateway uses the rest of it")]
mod upstream;

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use doorward::secret::KeyRing;
use doorward::session::Token;
use http::StatusCode;

use browser::Browser;
use gateway::{PASSWORD, Setup, configuration, prepare, route};
use program::Program;
use upstream::Upstream;

fn start(upstream: SocketAddr) -> Program {
    let setup = Setup {
        routes: route(upstream),
        session: "rotate_after = \"2s\"\nrotation_grace = \"1s\"\n".to_owned(),
        more: "[log]\nlevel = \"debug\"\nformat = \"json\"\n".to_owned(),
        ..Setup::default()
    };
    let directory = prepare();
    Program::run(&configuration(&setup, &directory), directory, "trace")
}

/// A token in all forms in which it could slip out.
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

#[tokio::test]
async fn s6_asvs_16_2_5_no_planted_secret_reaches_the_log_and_every_event_does() {
    let upstream = Upstream::start().await;
    let mut program = start(upstream.address);
    let (address, ca) = (program.address(), program.path("ca.pem"));
    let mut alice = Browser::to(address, &ca);
    let mut secrets = vec![PASSWORD.to_owned(), "planted-wrong-password".to_owned()];

    let refused = alice.try_log_in("alice", "planted-wrong-password", "/").await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    secrets.push(refused.field("csrf"));
    alice.try_log_in("planted-password-as-name", PASSWORD, "/").await;
    secrets.push("planted-password-as-name".to_owned());
    alice.log_in("alice").await;
    let first = alice.token();
    secrets.extend(alice.jar.values().cloned());
    alice.fetch(&format!("/?token={first}")).await;
    alice.send("GET", "/", &[("authorization", "Bearer planted-bearer")], "").await;
    secrets.push("planted-bearer".to_owned());
    Browser::to(address, &ca).with_token(&format!("{first}x")).fetch("/").await;

    let deadline = Instant::now() + Duration::from_secs(20);
    while alice.token() == first {
        assert!(Instant::now() < deadline, "the token is renewed");
        alice.fetch("/").await;
    }
    alice.fetch("/").await;
    let second = alice.token();
    let page = alice.visit("/.doorward/sessions").await;
    secrets.push(page.field("csrf"));
    let mut thief = Browser::to(address, &ca).with_token(&first);
    while thief.send("GET", "/", &[("user-agent", "thief")], "").await.status == StatusCode::OK {
        assert!(Instant::now() < deadline, "the old token dies");
    }
    assert_eq!(alice.fetch("/").await.json()["reason"], "theft");
    for token in [&first, &second] {
        secrets.extend(forms(token, &program.path("keys.toml")));
    }

    assert_eq!(program.stop(), Some(0));
    let log = program.log();
    for event in [
        "session.login",
        "session.login-refused",
        "session.renewed",
        "session.theft",
        "session.ended",
        "session.forged",
    ] {
        assert!(log.contains(&format!("\"event\":\"{event}\"")), "{event} in\n{log}");
    }
    let requests = log.lines().filter(|line| line.contains("\"target\":\"request\"")).count();
    assert!(requests >= 12, "{requests} request lines");
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        assert!(!log.contains(secret.as_str()), "{secret} is in\n{log}");
    }
}
