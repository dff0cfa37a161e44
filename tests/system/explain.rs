//! `doorward explain` reports what the proxy does, with the code of the proxy.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use doorward::clock::UnixMillis;
use doorward::config::Config;
use doorward::explain::{Explanation, Hypothesis, HypotheticalSession, explain};
use doorward::risk::GeoIp;
use doorward::session::{ClientContext, Identity};
use http::HeaderMap;

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
path = "/bank"
upstream = "http://127.0.0.1:3000"
access = { max_auth_age = "5m", auth_age_methods = ["POST", "DELETE"] }
[[route]]
host = "wiki.test"
path = "/forum"
upstream = "http://127.0.0.1:3000"
access = "session"
[route.session]
logout_paths = ["/forum/logout"]
rotate_on = [{ path = "/forum/password" }]
upstream_control = ["end", "rotate"]
activity = { except = ["/forum/poll"], methods = ["GET", "POST"], navigations_only = true, websocket = "any" }
[[route]]
host = "wiki.test"
path = "/open"
upstream = "http://127.0.0.1:3000"
access = "public"
[[route]]
host = "wiki.test"
path = "/programs"
upstream = "http://127.0.0.1:3000"
access = { groups = ["admin"] }
tokens = true
bearer = ["corp"]
client_certificates = true
[login.oidc.corp]
issuer = "https://id.test"
client_id = "doorward"
client_auth = "none"
trust_user_names = true
bearer_audience = ["api"]
[[tls.client_auth]]
host = "*"
ca = "clients.pem"
"#;

const MINUTE: Duration = Duration::from_secs(60);

fn config() -> Config {
    Config::parse(CONFIG, "test.toml", Path::new("")).expect("a good configuration").0
}

/// Minutes since the session began, since its last activity, since the last login.
fn explained(url: &str, session: Option<[u32; 3]>) -> Explanation {
    explained_for(http::Method::GET, url, session)
}

fn explained_for(method: http::Method, url: &str, session: Option<[u32; 3]>) -> Explanation {
    let identity =
        Identity { user: "alice".into(), groups: vec!["admin".into()], ..Identity::default() };
    let session = session.map(|[age, idle, auth_age]| HypotheticalSession {
        identity,
        age: MINUTE * age,
        idle: MINUTE * idle,
        auth_age: MINUTE * auth_age,
        from: ClientContext::new([192, 0, 2, 1].into(), b""),
    });
    let hypothesis = Hypothesis {
        method,
        url: url.parse().expect("a URL"),
        client: [192, 0, 2, 1].into(),
        headers: HeaderMap::new(),
        session,
        now: UnixMillis(1_800_000_000_000),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let config = config();
    let explained = explain(&config, GeoIp::default(), &hypothesis);
    runtime.expect("a runtime").block_on(explained).expect("an explanation")
}

#[test]
fn verdicts_have_the_names_of_the_access_log() {
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
fn route_names_the_credentials_of_programs() {
    let explained = explained("https://wiki.test/programs", None);
    let route = explained.route.expect("a route");
    assert_eq!(
        route.access,
        "the groups admin, or a personal access token, or an access token of corp, or a client certificate"
    );
}

#[test]
fn reauthentication_names_the_limit_that_was_reached() {
    let stale = explained("https://wiki.test/admin", Some([60, 0, 7]));
    assert_eq!(
        stale.why,
        "the session is valid, but its last login is 7m old; this route allows 5m"
    );
    let idle = explained("https://wiki.test/admin", Some([60, 12, 4]));
    assert_eq!(
        idle.why,
        "the session is valid, but its last activity is 12m old; this route allows 10m"
    );
}

#[test]
fn auth_age_methods_limit_reauthentication_to_methods() {
    let old = Some([60, 0, 7]);
    let read = explained("https://wiki.test/bank", old);
    assert_eq!(read.verdict, "admit");
    let limit = ("max_auth_age", "5m for POST, DELETE and WebSockets".to_owned());
    assert!(read.route.expect("a route").limits.contains(&limit));
    let write = explained_for(http::Method::POST, "https://wiki.test/bank", old);
    assert_eq!(write.verdict, "reauthenticate");
    assert_eq!(
        write.why,
        "the session is valid, but its last login is 7m old; this route allows 5m"
    );
}

#[test]
fn effects_follow_the_session_rules_of_the_route() {
    // Page counts, fetch counts, rotates, logs out.
    let cases = [
        ("GET", "/", [true, true, false, false]),
        ("GET", "/forum", [true, false, false, false]),
        ("PUT", "/forum", [false, false, false, false]),
        ("GET", "/forum/poll", [false, false, false, false]),
        ("POST", "/forum/password", [true, false, true, false]),
        ("GET", "/forum/password", [true, false, false, false]),
        ("GET", "/forum/logout", [true, false, false, true]),
    ];
    for (method, path, expected) in cases {
        let method = method.parse().expect("a method");
        let explanation =
            explained_for(method, &format!("https://wiki.test{path}"), Some([0, 0, 0]));
        let done = explanation.effects.expect("a session");
        let done = [done.page_counts, done.fetch_counts, done.rotates, done.logs_out];
        assert_eq!(done, expected, "{path}");
    }
    assert_eq!(explained("https://wiki.test/open", None).effects, None);
}

#[test]
fn the_command_renders_session_rules_and_effects() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("doorward.toml");
    std::fs::write(&file, CONFIG).expect("a file");
    let run = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_doorward"));
        command.args(["explain", "https://wiki.test/forum/logout", "--config"]).arg(&file);
        let out = command.args(more).output().expect("the program runs");
        String::from_utf8(out.stdout).expect("text")
    };
    let text = run(&[]);
    for line in [
        "  activity  not /forum/poll; only GET, POST; only navigations; WebSocket frames: any\n",
        "  rotate_on POST /forum/password\n",
        "  logout    /forum/logout\n",
        "  accepts   Doorward-Session: end, rotate\n",
        "  request   is activity as a navigation, not as a fetch\n",
        "  request   is a logout path: the response ends the session\n",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let explanation: serde_json::Value = serde_json::from_str(&run(&["--json"])).expect("JSON");
    let rules = &explanation["route"]["session"];
    assert_eq!(rules["activity"]["except"], serde_json::json!(["/forum/poll"]));
    assert_eq!(rules["upstream_control"], serde_json::json!(["end", "rotate"]));
    assert_eq!(explanation["effects"]["logs_out"], true);
}

#[test]
fn a_permitted_request_shows_the_upstream_headers() {
    let explanation = explained("https://wiki.test/", Some([0, 0, 0]));
    let user = ("x-forwarded-user".to_owned(), "alice".to_owned());
    assert!(explanation.upstream_headers.contains(&user), "{:?}", explanation.upstream_headers);
    assert!(!explanation.rotates && explanation.responses.is_empty());
    assert!(explained("https://wiki.test/", Some([10, 0, 10])).rotates, "older than rotate_after");
}

#[test]
fn a_denial_shows_the_responses_to_browser_and_program() {
    let explanation = explained("https://wiki.test/page?secret=1", None);
    let shown: Vec<_> = explanation
        .responses
        .iter()
        .map(|response| (response.to, response.status, response.location.as_deref()))
        .collect();
    assert_eq!(shown, [("a browser", 303, Some("/.doorward/login")), ("a program", 401, None)]);
}

#[test]
fn the_command_rejects_impossible_ages_and_unknown_users() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("doorward.toml");
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

const FIREFOX: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0";

/// Output of `doorward explain --json` for a session of bob used from a new location.
fn explain_location_change(
    signals: &str,
    databases: bool,
    arguments: &[&str],
) -> serde_json::Value {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("doorward.toml");
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data");
    let databases = match databases {
        true => {
            format!("[signals]\ncountry_db = \"{data}/city.mmdb\"\nasn_db = \"{data}/asn.mmdb\"\n")
        }
        false => String::new(),
    };
    let setting = format!("access = \"session\"\nsignals = \"{signals}\"");
    let text = CONFIG.replacen("access = \"session\"", &setting, 1) + &databases;
    std::fs::write(&file, text).expect("a file");
    let mut command = Command::new(env!("CARGO_BIN_EXE_doorward"));
    command.args(["explain", "https://wiki.test/", "--user", "bob", "--groups", "staff", "--json"]);
    let out =
        command.args(arguments).arg("--config").arg(&file).output().expect("the program runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).expect("JSON")
}

#[test]
fn a_location_change_is_scored_with_the_geoip_databases() {
    let attacker = [
        "--last-from",
        "192.0.2.7",
        "--from",
        "203.0.113.9",
        "--last-agent",
        FIREFOX,
        "--agent",
        "curl/8.5.0",
        "--away",
        "2m",
        "--session-age",
        "4m",
    ];
    let explanation = explain_location_change("enforce", true, &attacker);
    let risk = &explanation["risk"];
    let expected =
        [("network", 10), ("country", 25), ("operator", 5), ("speed", 5), ("browser", 50)];
    assert_eq!(risk["signals"], serde_json::json!(expected), "{explanation:#}");
    assert_eq!((&risk["score"], &risk["action"]), (&95.into(), &"login".into()));
    assert_eq!(risk["last_from"], "192.0.2.0/24, DE, AS64496, Firefox, Linux or Android");
    assert_eq!(explanation["verdict"], "reauthenticate");
    let why = "the session is valid, but its risk score (95) requires reauthentication";
    assert_eq!(explanation["why"], why);
    let watched = explain_location_change("monitor", true, &attacker);
    assert_eq!((&watched["verdict"], &watched["risk"]["score"]), (&"admit".into(), &95.into()));
    assert_eq!(
        watched["risk"]["in_enforce"],
        "an event, and no further request before reauthentication"
    );
}

#[test]
fn a_missing_or_broken_geoip_database_is_a_warning() {
    let directory = tempfile::tempdir().expect("a directory");
    let broken = directory.path().join("broken.mmdb");
    std::fs::write(&broken, "no database").expect("a file");
    let file = directory.path().join("doorward.toml");
    let databases = "[signals]\ncountry_db = \"broken.mmdb\"\nasn_db = \"gone.mmdb\"\n";
    std::fs::write(&file, CONFIG.to_owned() + databases).expect("a file");
    let mut command = Command::new(env!("CARGO_BIN_EXE_doorward"));
    command.args(["explain", "https://wiki.test/", "--user", "bob", "--groups", "staff", "--json"]);
    command.arg("--config").arg(&file).current_dir(directory.path());
    let out = command.output().expect("the program runs");
    let warnings = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{warnings}");
    for (name, why) in [("broken.mmdb", "MaxMind"), ("gone.mmdb", "No such file")] {
        let line = warnings.lines().find(|line| line.contains(name)).unwrap_or_default();
        assert!(line.starts_with("warning: ") && line.contains(why), "{warnings}");
    }
    let explanation: serde_json::Value = serde_json::from_slice(&out.stdout).expect("JSON alone");
    assert_eq!(explanation["verdict"], "admit");
}

#[test]
fn countries_and_languages_can_be_given_without_a_database() {
    let abroad =
        ["--last-country", "DE", "--country", "fr", "--last-language", "de", "--language", "fr"];
    let explanation = explain_location_change("monitor", false, &abroad);
    let expected = [("network", 10), ("country", 25), ("language", 10)];
    assert_eq!(explanation["risk"]["signals"], serde_json::json!(expected), "{explanation:#}");
    assert_eq!(explanation["risk"]["action"], "rotate");
    let home =
        explain_location_change("enforce", false, &["--country", "DE", "--last-country", "DE"]);
    assert_eq!(home["risk"]["signals"], serde_json::json!([("network", 10)]), "{home:#}");
    let same = explain_location_change("enforce", false, &[]);
    assert_eq!(same["risk"]["signals"], serde_json::json!([]), "{same:#}");
}
