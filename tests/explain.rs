//! `doorward explain` says what the gateway does, by the gateway's own code.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use doorward::clock::UnixMillis;
use doorward::config::Config;
use doorward::gateway::{Explanation, Hypothesis, HypotheticalSession, explain};
use doorward::session::Identity;

const CONFIG: &str = r#"
[server]
https = ["127.0.0.1:0"]
[[tls.certificate]]
cert = "cert.pem"
key = "key.pem"
[login.password]
users = "users.toml"
[[route]]
host = "wiki.test"
upstream = "http://127.0.0.1:3000"
access = "session"
[[route]]
host = "wiki.test"
path = "/admin"
upstream = "http://127.0.0.1:3000"
access = { groups = ["admin"], max_auth_age = "5m" }
session = { idle_timeout = "10m" }
[[route]]
host = "wiki.test"
path = "/open"
upstream = "http://127.0.0.1:3000"
access = "public"
"#;

const MINUTE: Duration = Duration::from_secs(60);

fn config() -> Config {
    Config::parse(CONFIG, "test.toml", Path::new("")).expect("a good configuration").0
}

/// Minutes since the session began, since its last activity, since the last login.
fn explained(url: &str, session: Option<[u32; 3]>) -> Explanation {
    let identity =
        Identity { user: "alice".into(), groups: vec!["admin".into()], ..Identity::default() };
    let session = session.map(|[age, idle, auth_age]| HypotheticalSession {
        identity,
        age: MINUTE * age,
        idle: MINUTE * idle,
        auth_age: MINUTE * auth_age,
    });
    let hypothesis = Hypothesis {
        method: http::Method::GET,
        url: url.parse().expect("a URL"),
        client: [192, 0, 2, 1].into(),
        session,
        now: UnixMillis(1_800_000_000_000),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(explain(&config(), &hypothesis)).expect("an explanation")
}

#[test]
fn every_kind_of_verdict_is_named_as_the_log_names_it() {
    let cases: [(&str, Option<[u32; 3]>, &str); 11] = [
        ("https://wiki.test/", None, "no-session"),
        ("https://wiki.test/", Some([0, 0, 0]), "admit"),
        ("https://wiki.test/", Some([60, 29, 60]), "admit"),
        ("https://wiki.test/", Some([60, 30, 60]), "idle"),
        ("https://wiki.test/", Some([720, 0, 0]), "absolute"),
        ("https://wiki.test/admin", Some([60, 0, 4]), "admit"),
        ("https://wiki.test/admin", Some([60, 0, 5]), "reauthenticate"),
        ("https://wiki.test/admin", Some([60, 10, 4]), "reauthenticate"),
        ("https://wiki.test/open", None, "public"),
        ("https://wiki.test/open/%2e%2e/admin", None, "malformed"),
        ("https://other.test/", Some([0, 0, 0]), "no-route"),
    ];
    for (url, session, verdict) in cases {
        assert_eq!(explained(url, session).verdict, verdict, "{url} with {session:?}");
    }
}

#[test]
fn a_route_that_wants_a_login_names_the_limit_that_was_reached() {
    let stale = explained("https://wiki.test/admin", Some([60, 0, 7]));
    assert_eq!(stale.why, "the session lives, but its last login is 7m old; this route allows 5m");
    let idle = explained("https://wiki.test/admin", Some([60, 12, 4]));
    assert_eq!(
        idle.why,
        "the session lives, but its last activity is 12m old; this route allows 10m"
    );
}

#[test]
fn an_admitted_request_shows_what_the_upstream_is_told() {
    let told = explained("https://wiki.test/", Some([0, 0, 0]));
    let user = ("x-forwarded-user".to_owned(), "alice".to_owned());
    assert!(told.upstream_headers.contains(&user), "{:?}", told.upstream_headers);
    assert!(!told.renews && told.answers.is_empty());
    assert!(explained("https://wiki.test/", Some([10, 0, 10])).renews, "older than rotate_after");
}

#[test]
fn a_refusal_shows_the_answer_to_a_browser_and_to_a_program() {
    let told = explained("https://wiki.test/page?secret=1", None);
    let shown: Vec<_> = told
        .answers
        .iter()
        .map(|answer| (answer.to, answer.status, answer.location.as_deref()))
        .collect();
    assert_eq!(shown, [("a browser", 303, Some("/.doorward/login")), ("a program", 401, None)]);
}

#[test]
fn the_command_explains_with_the_users_file_and_refuses_ages_that_cannot_be() {
    let place = tempfile::tempdir().expect("a directory");
    let file = place.path().join("doorward.toml");
    std::fs::write(&file, CONFIG).expect("a file");
    let run = |arguments: &[&str]| -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_doorward"));
        command.arg("explain").args(arguments).arg("--config").arg(&file);
        command.output().expect("the program runs")
    };
    let admitted = run(&["https://wiki.test/admin", "--user", "bob", "--groups", "staff"]);
    let text = String::from_utf8_lossy(&admitted.stdout);
    assert!(admitted.status.success() && text.contains("verdict   forbidden"), "{text}");
    let wrong = run(&[
        "https://wiki.test/",
        "--user",
        "bob",
        "--groups",
        "staff",
        "--session-age",
        "1m",
        "--idle",
        "2m",
    ]);
    let text = String::from_utf8_lossy(&wrong.stderr);
    assert!(!wrong.status.success() && text.contains("--session-age"), "{text}");
    let unknown = run(&["https://wiki.test/", "--user", "bob"]);
    let text = String::from_utf8_lossy(&unknown.stderr);
    assert!(!unknown.status.success() && text.contains("--groups"), "{text}");
}
