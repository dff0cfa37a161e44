//! Operator interfaces: the redirect listener, the admin listener, error responses and the audit log.

use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use doorward::identity::users_file_editor::UsersFileEditor;

use test_support::browser::Browser;
use test_support::gateway::{Gateway, Setup, session_route};
use test_support::upstream::Upstream;

async fn one_app() -> (Upstream, Gateway) {
    let upstream = Upstream::start().await;
    let gateway =
        Gateway::start(Setup { routes: session_route(upstream.address), ..Setup::default() });
    (upstream, gateway)
}

/// Sends a request without TLS and returns the raw response.
async fn plain(address: std::net::SocketAddr, host: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut response = String::new();
    stream.read_to_string(&mut response).await.expect("a response");
    response
}

/// ASVS 4.1.2.
#[tokio::test]
async fn plain_http_listener_redirects_known_hosts_only() {
    let (upstream, gateway) = one_app().await;
    let host = format!("app.test:{}", gateway.http.port());
    let response = plain(gateway.http, &host, "/wiki?x=1").await;
    assert!(response.starts_with("HTTP/1.1 307"), "{response}");
    let location = format!("location: https://app.test:{}/wiki?x=1\r\n", gateway.address.port());
    assert!(response.contains(&location), "{response}");
    assert!(plain(gateway.http, "evil.test", "/").await.starts_with("HTTP/1.1 400"));
    assert!(upstream.heads().is_empty());
}

/// A container publishes 80 and 443 for the listeners 8080 and 8443.
#[tokio::test]
async fn redirect_behind_a_port_mapping_has_no_port() {
    let upstream = Upstream::start().await;
    let gateway = |server: &str| {
        let (routes, server) = (session_route(upstream.address), server.to_owned());
        Gateway::start(Setup { routes, server, ..Setup::default() })
    };
    let (unset, set) = (gateway(""), gateway("public_port = 443"));
    let response = plain(unset.http, "app.test", "/wiki").await;
    assert!(response.starts_with("HTTP/1.1 307"), "{response}");
    assert!(response.contains("location: https://app.test/wiki\r\n"), "{response}");
    for host in ["app.test", "app.test:8080"] {
        let response = plain(set.http, host, "/wiki").await;
        assert!(response.starts_with("HTTP/1.1 308"), "{response}");
        assert!(response.contains("location: https://app.test/wiki\r\n"), "{response}");
    }
}

/// RFC 9110 9.3.2.
#[tokio::test]
async fn health_pages_answer_head_like_get() {
    let (_upstream, gateway) = one_app().await;
    for path in ["/live", "/ready"] {
        let mut stream = TcpStream::connect(gateway.admin).await.expect("a connection");
        let request =
            format!("HEAD {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut response = String::new();
        stream.read_to_string(&mut response).await.expect("a response");
        assert!(
            response.starts_with("HTTP/1.1 200") && response.ends_with("\r\n\r\n"),
            "{response}"
        );
    }
}

#[tokio::test]
async fn health_and_metrics_contain_no_user_data() {
    let (_upstream, gateway) = one_app().await;
    Browser::new(&gateway).log_in("alice").await;
    assert!(plain(gateway.admin, "localhost", "/live").await.starts_with("HTTP/1.1 200"));
    assert!(plain(gateway.admin, "127.0.0.1:9180", "/ready").await.contains("ready"));
    let metrics = plain(gateway.admin, "localhost", "/metrics").await;
    assert!(
        metrics.contains("doorward_session_events_total{event=\"session.login\"} 1"),
        "{metrics}"
    );
    assert!(!metrics.contains("alice"));
    for path in ["/sessions", "/revoke?all=1"] {
        assert!(
            plain(gateway.admin, "localhost", path).await.starts_with("HTTP/1.1 404"),
            "{path}"
        );
    }
}

/// CVE-2026-27589.
#[tokio::test]
async fn metrics_reject_dns_rebinding() {
    let (_upstream, gateway) = one_app().await;
    let response = plain(gateway.admin, "evil.test", "/metrics").await;
    assert!(response.starts_with("HTTP/1.1 403"), "{response}");
}

#[tokio::test]
async fn upstream_failure_is_502_with_a_reason_and_a_page() {
    let upstream = Upstream::start().await;
    let address = upstream.address;
    drop(upstream);
    let closed =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let routes = session_route(closed.unwrap_or(address));
    let gateway = Gateway::start(Setup { routes, ..Setup::default() });
    let mut browser = Browser::new(&gateway);
    browser.log_in("alice").await;
    let response = browser.fetch("/").await;
    assert_eq!(response.status, StatusCode::BAD_GATEWAY);
    assert_eq!(response.header("proxy-status"), "doorward; error=connection_refused");
    assert_eq!(response.json()["error"], "upstream-down");
    let page = browser.navigate("/").await;
    assert_eq!(page.status, StatusCode::BAD_GATEWAY);
    assert!(page.text().contains("<!doctype html>") || page.text().contains("<!DOCTYPE html>"));
}

#[tokio::test]
async fn missing_group_is_403_and_accept_selects_the_format() {
    let upstream = Upstream::start().await;
    let routes = format!(
        "{}[[route]]\nhost = \"app.test\"\npath = \"/staff\"\nupstream = \"http://{}\"\naccess = {{ groups = [\"staff\"] }}\n",
        session_route(upstream.address),
        upstream.address
    );
    let gateway = Gateway::start(Setup { routes, ..Setup::default() });
    let mut bob = Browser::new(&gateway);
    bob.log_in("bob").await;
    let program = bob.fetch("/staff/x").await;
    assert_eq!(
        (program.status, program.json()["reason"].as_str()),
        (StatusCode::FORBIDDEN, Some("not-allowed"))
    );
    let person = bob.navigate("/staff/x").await;
    assert_eq!(person.status, StatusCode::FORBIDDEN);
    assert!(person.text().contains("bob"));
    assert!(upstream.heads().is_empty());
    assert_eq!(bob.fetch("/other").await.status, StatusCode::OK);
}

#[tokio::test]
async fn login_form_requires_same_site_and_its_csrf_token() {
    let (_upstream, gateway) = one_app().await;
    let mut browser = Browser::new(&gateway);
    let form = browser.navigate("/.doorward/login").await;
    let csrf = form.form_field("csrf");
    let body = form_urlencoded::Serializer::new(String::new())
        .append_pair("username", "alice")
        .append_pair("password", test_support::gateway::PASSWORD)
        .append_pair("csrf", &csrf)
        .finish();
    let kind = ("content-type", "application/x-www-form-urlencoded");
    for from in [
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("origin", "https://evil.test"),
        ("origin", "null"),
    ] {
        let response = browser.send("POST", "/.doorward/login", &[kind, from], &body).await;
        assert_eq!(response.status, StatusCode::FORBIDDEN, "{from:?}");
    }
    let mut anonymous = Browser::new(&gateway);
    let response = anonymous.send("POST", "/.doorward/login", &[kind], &body).await;
    assert_eq!(response.status, StatusCode::BAD_REQUEST, "a form of another browser");
    assert!(anonymous.token().is_empty() && browser.token().is_empty());
}

/// ASVS 3.5.
#[tokio::test]
async fn logout_needs_a_post_and_the_sessions_page_ends_sessions() {
    let (_upstream, gateway) = one_app().await;
    let (mut laptop, mut phone) = (Browser::new(&gateway), Browser::new(&gateway));
    laptop.log_in("alice").await;
    phone.log_in("alice").await;
    assert_eq!(laptop.navigate("/.doorward/logout").await.status, StatusCode::OK);
    assert_eq!(laptop.fetch("/").await.status, StatusCode::OK, "a GET ends nothing");

    let page = laptop.navigate("/.doorward/sessions").await;
    let csrf = page.form_field("csrf");
    let fields = [("csrf", csrf.as_str()), ("do", "end-others")];
    assert_eq!(
        laptop.post_form("/.doorward/sessions", &fields).await.status,
        StatusCode::SEE_OTHER
    );
    assert_eq!(laptop.fetch("/").await.status, StatusCode::OK);
    assert_eq!(phone.fetch("/").await.json()["reason"], "revoked");

    phone.log_in("alice").await;
    let fields = [("csrf", csrf.as_str()), ("do", "end-all")];
    let logout = laptop.post_form("/.doorward/sessions", &fields).await;
    assert_eq!(logout.status, StatusCode::OK);
    assert!(laptop.token().is_empty());
    assert_eq!(phone.fetch("/").await.status, StatusCode::UNAUTHORIZED);
}

/// Waits until a request of the browser is rejected for this reason.
async fn reason_becomes(browser: &mut Browser, reason: &str) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
    loop {
        let response = browser.fetch("/").await;
        if response.status == StatusCode::UNAUTHORIZED && response.json()["reason"] == reason {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "{} within 5 s", response.status);
    }
}

/// ASVS 7.4.2.
#[tokio::test]
async fn reenabled_account_does_not_restore_its_sessions() {
    let (_upstream, gateway) = one_app().await;
    let mut browser = Browser::new(&gateway);
    browser.log_in("alice").await;
    let set_disabled = |disabled| {
        let mut users = UsersFileEditor::open(&gateway.path("users.toml")).expect("the users file");
        users.set_disabled("alice", disabled).expect("alice");
        users.save().expect("saved");
    };
    set_disabled(true);
    reason_becomes(&mut browser, "account-disabled").await;
    // The sessions end within a second. New logins are possible after that.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
    while !gateway.shared().metrics.render().contains("event=\"session.ended\"} 1") {
        assert!(std::time::Instant::now() < deadline, "ended within 5 s");
        tokio::task::yield_now().await;
    }
    set_disabled(false);
    reason_becomes(&mut browser, "revoked").await;
}

#[tokio::test]
async fn theft_audit_entry_names_both_clients_and_no_secret() {
    let upstream = Upstream::start().await;
    let directory = test_support::gateway::prepare_directory();
    let file = directory.path().join("audit.jsonl");
    let gateway = Gateway::start(Setup {
        routes: session_route(upstream.address),
        session: "rotate_after = \"10m\"".to_owned(),
        extra: format!("[audit]\nfile = \"{}\"\n", file.display()),
        clock: test_support::gateway::manual_clock(),
        shared_directory: Some(std::sync::Arc::clone(&directory)),
        ..Setup::default()
    });
    let mut owner = Browser::new(&gateway);
    owner.log_in("alice").await;
    let stolen = owner.token();
    for _ in 0..2 {
        gateway.advance(std::time::Duration::from_secs(601));
        owner.fetch("/").await;
        owner.fetch("/").await;
    }
    let attacker = Browser::new(&gateway).with_token(&stolen).fetch("/").await;
    assert_eq!(attacker.json()["reason"], "theft");
    let key = gateway.shared().keys.load().audit().clone();
    gateway.stop();
    let text = std::fs::read_to_string(&file).expect("the audit log");
    let report = doorward::audit::verify(text.as_bytes(), &key, &[]).expect("memory");
    assert_eq!(report.findings, []);
    let theft = text.lines().find(|line| line.contains("session.theft")).expect("the theft");
    let theft: serde_json::Value = serde_json::from_str(theft).expect("JSON");
    assert_eq!(theft["user.name"], "alice");
    assert_eq!(theft["source.ip"], "127.0.0.1");
    assert_eq!(theft["doorward.other.ip"], "127.0.0.1");
    for action in ["session.login", "session.ended"] {
        assert!(text.contains(action), "{text}");
    }
    assert!(!text.contains("dw1_"), "{text}");
}

#[tokio::test]
async fn repeated_replay_writes_few_log_entries_and_a_count() {
    let upstream = Upstream::start().await;
    let directory = test_support::gateway::prepare_directory();
    let file = directory.path().join("audit.jsonl");
    let gateway = Gateway::start(Setup {
        routes: session_route(upstream.address),
        session: "rotate_after = \"10m\"\non_reuse = \"log\"".to_owned(),
        extra: format!("[audit]\nfile = \"{}\"\n", file.display()),
        clock: test_support::gateway::manual_clock(),
        shared_directory: Some(std::sync::Arc::clone(&directory)),
        ..Setup::default()
    });
    let mut owner = Browser::new(&gateway);
    owner.log_in("alice").await;
    let stolen = owner.token();
    for _ in 0..2 {
        gateway.advance(std::time::Duration::from_secs(601));
        owner.fetch("/").await;
        owner.fetch("/").await;
    }
    for number in 0..30 {
        let mut attacker = Browser::new(&gateway).with_token(&stolen);
        attacker.headers.push(("user-agent", format!("Attacker/{number}")));
        assert_eq!(attacker.fetch("/").await.json()["reason"], "theft");
    }
    gateway.stop();
    let text = std::fs::read_to_string(&file).expect("the audit log");
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let of = |action: &'static str| {
        lines.iter().filter(move |line| line["event.action"] == action).collect::<Vec<_>>()
    };
    let thefts = of("session.theft").len() as u64;
    // A new minute can have started since.
    assert!((5..=10).contains(&thefts), "{text}");
    let counted = of("audit.suppressed");
    let counted: u64 = counted.iter().filter_map(|line| line["doorward.count"].as_u64()).sum();
    assert_eq!(thefts + counted, 30, "{text}");
}

/// A named pipe without a writer simulates a file on a disk that hangs.
#[tokio::test]
async fn slow_geoip_load_does_not_delay_account_removal() {
    use std::os::unix::fs::OpenOptionsExt;
    const NONBLOCK: i32 = 0o4000;
    let upstream = Upstream::start().await;
    let directory = test_support::gateway::prepare_directory();
    let database = directory.path().join("city.mmdb");
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/city.mmdb");
    std::fs::copy(sample, &database).expect("copied");
    let gateway = Gateway::start(Setup {
        routes: session_route(upstream.address),
        extra: format!("[signals]\ncountry_db = \"{}\"\n", database.display()),
        shared_directory: Some(std::sync::Arc::clone(&directory)),
        ..Setup::default()
    });
    let mut alice = Browser::new(&gateway);
    alice.log_in("alice").await;
    let pipe = directory.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("runs").success());
    std::fs::rename(&pipe, &database).expect("renamed");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    let writer = loop {
        // Blocks until the gateway opens the pipe.
        let mut options = std::fs::OpenOptions::new();
        if let Ok(writer) = options.write(true).custom_flags(NONBLOCK).open(&database) {
            break writer;
        }
        assert!(std::time::Instant::now() < deadline, "read within 10 s");
        tokio::task::yield_now().await;
    };
    let mut users = UsersFileEditor::open(&gateway.path("users.toml")).expect("the users file");
    users.set_disabled("alice", true).expect("alice");
    users.save().expect("saved");
    reason_becomes(&mut alice, "account-disabled").await;
    drop(writer);
}

/// A load balancer sends its own address as the host, or none.
#[tokio::test]
async fn health_check_needs_no_host() {
    let (upstream, gateway) = one_app().await;
    let browser = test_support::browser::Browser::new(&gateway);
    for host in ["", "Host: 10.0.0.7:8443\r\n", "Host: app.test\r\n", "Host: unknown.test\r\n"] {
        for method in ["GET", "HEAD"] {
            let request =
                format!("{method} /.doorward/health HTTP/1.1\r\n{host}Connection: close\r\n\r\n");
            let response = browser.send_raw(request.as_bytes()).await;
            assert!(response.starts_with("HTTP/1.1 204"), "{host}: {response}");
        }
    }
    let request = "POST /.doorward/health HTTP/1.1\r\nHost: app.test\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    assert!(browser.send_raw(request.as_bytes()).await.starts_with("HTTP/1.1 404"));
    assert!(upstream.heads().is_empty());
}
