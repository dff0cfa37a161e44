//! The commands of the real program: output, exit code and shutdown.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::program::{CommandOutput, Program, command};
use test_support::browser::{Browser, SESSION};
use test_support::gateway::{Gateway, Setup, configuration, prepare_directory, session_route};
use test_support::upstream::Upstream;

// doorward sessions

/// A gateway with an upstream.
struct Fixture {
    _upstream: Upstream,
    gateway: Gateway,
}

impl Fixture {
    async fn start() -> Fixture {
        let upstream = Upstream::start().await;
        let gateway =
            Gateway::start(Setup { routes: session_route(upstream.address), ..Setup::default() });
        Fixture { _upstream: upstream, gateway }
    }

    async fn log_in(&self, user: &str) -> Browser {
        let mut browser = Browser::new(&self.gateway);
        browser.log_in(user).await;
        browser
    }

    /// Runs `doorward sessions …` on the gateway's socket.
    fn sessions(&self, arguments: &[&str]) -> crate::program::CommandOutput {
        let socket = self.gateway.socket();
        let socket = socket.to_str().expect("a path of letters");
        let arguments = [&["sessions", "--socket", socket], arguments].concat();
        command(self.gateway.directory.path(), &arguments, "")
    }

    fn listed(&self, arguments: &[&str]) -> Vec<Value> {
        let list = self.sessions(&[&["list", "--json"], arguments].concat()).expect_success();
        serde_json::from_str(&list).expect("a list")
    }

    /// Returns the handle of the user's only session.
    fn handle(&self, user: &str) -> String {
        let list = self.listed(&["--user", user]);
        assert_eq!(list.len(), 1, "{list:?}");
        list[0]["session"].as_str().expect("a handle").to_owned()
    }
}

fn socket_in(directory: &Path) -> PathBuf {
    let files = std::fs::read_dir(directory).expect("a directory");
    let mut paths = files.map(|file| file.expect("a file").path());
    paths.find(|path| path.extension().is_some_and(|end| end == "sock")).expect("a socket")
}

async fn reason(browser: &mut Browser) -> String {
    let response = browser.fetch("/").await;
    if response.status == StatusCode::OK {
        return "admitted".to_owned();
    }
    response.json()["reason"].as_str().expect("a reason").to_owned()
}

#[tokio::test]
async fn sessions_list_prints_every_session_as_text_and_json() {
    let fixture = Fixture::start().await;
    assert_eq!(
        fixture.sessions(&["list"]).expect_success(),
        "",
        "an empty list has no heading in a pipe"
    );
    assert_eq!(fixture.listed(&[]), Vec::<Value>::new());
    let (_alice, _bob) = (fixture.log_in("alice").await, fixture.log_in("bob").await);
    let (alice, bob) = (fixture.handle("alice"), fixture.handle("bob"));
    let text = fixture.sessions(&["list"]).expect_success();
    let mut lines: Vec<Vec<&str>> =
        text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines.remove(0), ["SESSION", "USER", "CREATED", "LAST", "USED", "FROM"]);
    lines.sort_by_key(|line| line[1]);
    assert_eq!(
        (lines.len(), &lines[0][..2], &lines[1][..2]),
        (2, &[&*alice, "alice"][..], &[&*bob, "bob"][..])
    );
    assert!(lines[0][2].ends_with('Z') && lines[0][4] == "127.0.0.1", "{text}");
    let users: Vec<Value> =
        fixture.listed(&[]).into_iter().map(|row| row["user"].clone()).collect();
    assert!(users.len() == 2 && users.contains(&"alice".into()), "{users:?}");
    assert_eq!(fixture.listed(&["--user", "zoë"]), Vec::<Value>::new());
}

#[tokio::test]
async fn sessions_show_prints_a_session_without_its_token() {
    let fixture = Fixture::start().await;
    let browser = fixture.log_in("alice").await;
    let handle = fixture.handle("alice");
    let text = fixture.sessions(&["show", &handle]).expect_success();
    for (name, value) in [
        ("session", handle.as_str()),
        ("user", "alice"),
        ("token", "rotated 0 times, last from 127.0.0.1"),
    ] {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        assert_eq!(line, Some(value), "{text}");
    }
    let json = fixture.sessions(&["show", &handle, "--json"]).expect_success();
    let one: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((&one["session"], &one["user"]), (&handle.into(), &"alice".into()));
    assert!(one["created"].as_u64() < one["absolute_end"].as_u64(), "{one}");
    for output in [text, json] {
        assert!(!output.contains(&browser.token()[5..20]), "{output}");
    }
}

#[tokio::test]
async fn sessions_revoke_ends_only_the_selected_sessions() {
    let fixture = Fixture::start().await;
    let (mut desk, mut bob) = (fixture.log_in("alice").await, fixture.log_in("bob").await);
    let handle = fixture.handle("alice");
    let mut phone = fixture.log_in("alice").await;
    assert_eq!(
        fixture.sessions(&["revoke", &handle]).expect_success(),
        format!("revoked {handle}: 1 session ended\n")
    );
    assert_eq!(reason(&mut desk).await, "ended-by-operator");
    assert_eq!(reason(&mut phone).await, "admitted");
    assert_eq!(
        fixture.sessions(&["revoke", "--user", "alice"]).expect_success(),
        "revoked alice: 1 session ended\n"
    );
    assert_eq!((&*reason(&mut phone).await, &*reason(&mut bob).await), ("revoked", "admitted"));
    let json = fixture.sessions(&["revoke", "--all", "--json"]).expect_success();
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((&json["revoked"], &json["ended"]), (&"all".into(), &1.into()));
    let (code, why) = fixture.sessions(&["revoke", "--user", "nobody"]).expect_failure();
    assert!(code == 1 && why.contains("no user nobody"), "{why}");
    assert_eq!(reason(&mut bob).await, "revoked");
    assert_eq!(fixture.listed(&[]), Vec::<Value>::new());
}

#[tokio::test]
async fn sessions_accept_only_a_complete_handle() {
    let fixture = Fixture::start().await;
    let mut alice = fixture.log_in("alice").await;
    let handle = fixture.handle("alice");
    let prefix = &handle[..4];
    for (name, wanted) in [
        (
            prefix,
            format!("doorward: no live session {prefix}; `doorward sessions list` shows them\n"),
        ),
        (
            "nonsense",
            "doorward: no live session nonsense; `doorward sessions list` shows them\n".to_owned(),
        ),
    ] {
        for verb in ["show", "revoke"] {
            assert_eq!(
                fixture.sessions(&[verb, name]).expect_failure(),
                (1, wanted.clone()),
                "{verb} {name}"
            );
        }
    }
    for invalid in ["", " ", "../revoke?all=1", "a b", "a\nb", "?", "#", "é", "%00"] {
        for verb in ["show", "revoke"] {
            let (code, why) = fixture.sessions(&[verb, invalid]).expect_failure();
            assert_eq!(code, 1, "{verb} {invalid:?}: {why}");
            assert!(why.contains("session"), "{verb} {invalid:?}: {why}");
        }
    }
    assert_eq!(reason(&mut alice).await, "admitted");
}

#[tokio::test]
async fn sessions_revoke_requires_exactly_one_selector() {
    let fixture = Fixture::start().await;
    let mut alice = fixture.log_in("alice").await;
    let handle = fixture.handle("alice");
    for wrong in [
        vec!["revoke"],
        vec!["revoke", &handle, "--all"],
        vec!["revoke", &handle, "--user", "bob"],
        vec!["revoke", "--user", "bob", "--all"],
        vec!["show"],
        vec!["end", &handle],
    ] {
        let (code, why) = fixture.sessions(&wrong).expect_failure();
        assert_eq!((code, why.contains("Usage: doorward sessions")), (2, true), "{wrong:?} {why}");
    }
    assert_eq!(reason(&mut alice).await, "admitted");
}

#[test]
fn sessions_without_a_gateway_report_the_socket() {
    let empty = tempfile::tempdir().expect("a directory");
    let left_over = empty.path().join("left-over.sock");
    drop(std::os::unix::net::UnixListener::bind(&left_over).expect("a socket"));
    for socket in ["none.sock", "left-over.sock"] {
        let output =
            command(empty.path(), &["sessions", "--socket", socket, "revoke", "--all"], "");
        let (code, why) = output.expect_failure();
        assert_eq!(code, 1);
        let start = format!("doorward: {socket}: no gateway listens on this socket");
        assert!(why.starts_with(&start), "{why}");
    }
}

// doorward demo

/// A demo on a free port, with its own temporary directory.
struct Demo {
    program: Program,
    welcome: String,
}

impl Demo {
    fn start() -> Demo {
        let directory = Arc::new(tempfile::tempdir().expect("a directory"));
        let program = Program::start(["demo", "--listen", "127.0.0.1:0"], directory, "info");
        let welcome = program.wait_for("welcome", || {
            Some(program.stdout()).filter(|out| out.contains("removes its files"))
        });
        Demo { program, welcome }
    }

    /// Returns the word after `before`.
    fn word_after(&self, before: &str) -> &str {
        let at = self.welcome.find(before).unwrap_or_else(|| panic!("{before}: {}", self.welcome));
        self.welcome[at + before.len()..].split_whitespace().next().expect("a word")
    }

    fn browser(&self) -> Browser {
        let port = self.word_after("https://localhost:").parse().expect("a port");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut browser =
            Browser::at_address(address, Path::new(self.word_after("continue, or trust")));
        browser.host = "localhost".to_owned();
        browser
    }

    async fn log_in(&self, user: &str) -> Browser {
        let mut browser = self.browser();
        let password = self.word_after(&format!("{user:<6} password"));
        let response = browser.try_log_in(user, password, "/").await;
        assert_eq!((response.status, response.header("location")), (StatusCode::SEE_OTHER, "/"));
        browser
    }

    /// Returns the files left in the temporary directory.
    fn remaining_files(&self) -> Vec<String> {
        remaining_files_in(self.program.directory.path())
    }
}

fn remaining_files_in(directory: &Path) -> Vec<String> {
    let files = std::fs::read_dir(directory).expect("a directory");
    let names = files.map(|file| file.expect("a file").file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("doorward-demo-")).collect()
}

#[tokio::test]
async fn demo_instructions_work_and_no_file_is_left() {
    let mut demo = Demo::start();
    assert_eq!(demo.remaining_files().len(), 1);
    let mut alice = demo.log_in("alice").await;
    let page = alice.navigate("/").await.text();
    assert!(page.contains("alice@example.com") && !page.contains(SESSION), "{page}");
    let mut bob = demo.log_in("bob").await;
    assert_eq!(bob.navigate("/").await.status, StatusCode::OK);
    assert_eq!(bob.navigate("/clock").await.status, StatusCode::FORBIDDEN);
    assert_eq!(alice.navigate("/clock").await.status, StatusCode::OK);
    assert!(first_tick(&alice).await.contains("alice, it is "));
    assert_eq!(alice.navigate("/.doorward/sessions").await.status, StatusCode::OK);
    let socket = demo.word_after("doorward sessions list --socket").to_owned();
    let list =
        command(demo.program.directory.path(), &["sessions", "list", "--socket", &socket], "")
            .expect_success();
    assert_eq!(list.lines().count(), 3, "{list}");

    assert_eq!(demo.program.stop(), Some(0), "{}", demo.program.log());
    assert_eq!(demo.remaining_files(), Vec::<String>::new());
}

#[tokio::test]
async fn demo_shows_a_login_at_an_identity_provider() {
    let demo = Demo::start();
    let mut browser = demo.browser();
    let login = browser.navigate("/").await.header("location").to_owned();
    assert!(browser.navigate(&login).await.text().contains("the demo provider"));
    let redirect = browser.navigate("/.doorward/oidc/demo/login").await;
    let url = redirect.header("location").to_owned();
    let users = get(&url).await;
    assert!(users.contains("asks for no") && users.contains("login=carol"), "{users}");
    let chosen = get(&format!("{url}&login=carol")).await;
    let callback = chosen.lines().find_map(|line| line.strip_prefix("location: "));
    let callback = callback.unwrap_or_else(|| panic!("{chosen}"));
    let target = callback.strip_prefix("https://localhost").expect("our callback");
    let done = browser.navigate(target).await;
    assert_eq!(done.status, StatusCode::SEE_OTHER, "{}", done.text());
    let page = browser.navigate("/").await.text();
    assert!(page.contains("carol@example.com"), "{page}");
    assert_eq!(
        browser.navigate("/clock").await.status,
        StatusCode::OK,
        "carol is in the group staff"
    );
    let foreign = url.replace("localhost", "evil.test");
    assert!(get(&format!("{foreign}&login=carol")).await.starts_with("HTTP/1.1 400"));
}

/// Returns the response to a GET of an http URL on a loopback port.
async fn get(url: &str) -> String {
    let rest = url.strip_prefix("http://").expect("an http URL");
    let (address, path) = rest.split_once('/').expect("a path");
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("a connection");
    let request = format!("GET /{path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("a response");
    text
}

/// Returns the first message of the clock WebSocket.
async fn first_tick(browser: &Browser) -> String {
    let mut socket = browser.connect().await;
    let handshake = format!(
        "GET /clock HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: https://localhost\r\nCookie: {SESSION}={}\r\n\r\n",
        browser.token()
    );
    socket.write_all(handshake.as_bytes()).await.expect("sent");
    read_until(&mut socket, "it is ").await
}

#[tokio::test]
async fn demo_uses_new_passwords_and_stops_on_ctrl_c() {
    let (mut one, other) = (Demo::start(), Demo::start());
    for user in ["alice ", "bob   "] {
        let before = format!("{user} password");
        assert_ne!(one.word_after(&before), other.word_after(&before));
    }
    one.program.signal("-INT");
    assert_eq!(one.program.wait_for_exit(), Some(0));
    assert_eq!(one.remaining_files(), Vec::<String>::new());
}

#[test]
fn demo_reports_a_port_in_use_and_leaves_no_file() {
    let occupied = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = occupied.local_addr().expect("bound").to_string();
    let directory = Arc::new(tempfile::tempdir().expect("a directory"));
    let mut program =
        Program::start(["demo", "--listen", &address], Arc::clone(&directory), "info");
    assert_eq!(program.wait_for_exit(), Some(1));
    assert!(program.log().contains(&address), "{}", program.log());
    assert_eq!(program.stdout(), "", "no welcome text");
    assert_eq!(remaining_files_in(directory.path()), Vec::<String>::new());
}

// Stopping

/// Starts `doorward run` in front of a slow upstream.
async fn start_with_drain(drain: &str) -> (Upstream, Program, Browser) {
    let upstream = Upstream::start().await;
    let setup = Setup {
        routes: session_route(upstream.address),
        extra: "[log]\nformat = \"json\"\n".to_owned(),
        ..Setup::default()
    };
    let directory = prepare_directory();
    let text = configuration(&setup, &directory)
        .replace("drain = \"2s\"", &format!("drain = \"{drain}\""));
    let program = Program::run(&text, directory, "info");
    let mut browser = Browser::at_address(program.address(), &program.path("ca.pem"));
    browser.log_in("alice").await;
    (upstream, program, browser)
}

/// Sends a request and waits until the upstream has received it. The upstream holds its response.
async fn pending_request(upstream: &Upstream, browser: &Browser) -> TlsStream<TcpStream> {
    upstream.hold_responses();
    let before = upstream.heads().len();
    let mut stream = browser.connect().await;
    let request = format!(
        "GET /slow HTTP/1.1\r\nHost: app.test\r\nCookie: {SESSION}={}\r\n\r\n",
        browser.token()
    );
    stream.write_all(request.as_bytes()).await.expect("sent");
    upstream.wait_for_requests(before + 1).await;
    stream
}

async fn read_until(stream: &mut TlsStream<TcpStream>, mark: &str) -> String {
    let mut received = String::new();
    while !received.contains(mark) {
        let mut buffer = [0; 4096];
        let read = tokio::time::timeout(Duration::from_secs(20), stream.read(&mut buffer));
        let read = read.await.expect("in time").expect("open");
        assert_ne!(read, 0, "closed after {received:?}");
        received.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
    received
}

/// Waits until the listener is closed.
async fn until_closed(address: SocketAddr) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match TcpStream::connect(address).await {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => return,
            Ok(_) | Err(_) => assert!(Instant::now() < deadline, "the listener still accepts"),
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn drain_completes_requests_and_accepts_no_connection() {
    for signal in ["-TERM", "-INT"] {
        let (upstream, mut program, browser) = start_with_drain("30s").await;
        let mut idle = browser.connect().await;
        let mut stream = pending_request(&upstream, &browser).await;
        program.signal(signal);
        until_closed(browser.address).await;
        assert_eq!(idle.read(&mut [0; 16]).await.ok(), Some(0), "an idle connection is closed");
        assert!(program.is_running(), "the drain waits for the request");
        upstream.release_responses();
        let response = read_until(&mut stream, "hello").await;
        assert!(response.starts_with("HTTP/1.1 200"), "{response}");
        assert!(response.to_ascii_lowercase().contains("connection: close"), "{response}");
        assert_eq!(program.wait_for_exit(), Some(0), "{}", program.log());
        program.wait_for_line("end", |line| line["event"] == "gateway.stopped");
        assert!(!program.log().contains("gateway.drain-timed-out"), "{}", program.log());
        assert!(!program.path("out").metadata().is_ok_and(|file| file.len() > 0));
    }
}

#[tokio::test]
async fn drain_closes_requests_after_server_drain() {
    let (upstream, mut program, browser) = start_with_drain("1s").await;
    let mut stream = pending_request(&upstream, &browser).await;
    assert_eq!(program.stop(), Some(0), "{}", program.log());
    program.wait_for_line("cut", |line| line["event"] == "gateway.drain-timed-out");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.ok();
    assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
}

#[tokio::test]
async fn sighup_and_the_reload_command_apply_a_changed_file() {
    let (upstream, mut program, browser) = start_with_drain("2s").await;
    let file = program.path("doorward.toml");
    let text = std::fs::read_to_string(&file).expect("readable");
    let add_public_route = |path: &str| {
        let route = session_route(upstream.address)
            .replace("path = \"/\"", &format!("path = \"{path}\""))
            .replace("\"session\"", "\"public\"");
        std::fs::write(&file, format!("{text}{route}")).expect("written");
    };
    let mut other_browser = Browser::at_address(browser.address, &program.path("ca.pem"));
    add_public_route("/signal");
    program.signal("-HUP");
    program.wait_for_line("reload", |line| line["event"] == "config.reloaded");
    assert_eq!(other_browser.fetch("/signal").await.status, StatusCode::OK);
    let socket = text.lines().find_map(|line| line.strip_prefix("socket = \""));
    let socket = socket.expect("a socket").trim_end_matches('"');
    let reload_at = |socket: [&str; 2], arguments: &[&str]| {
        let arguments = [&["reload"], &socket[..], arguments].concat();
        command(program.directory.path(), &arguments, "")
    };
    let reload = |arguments: &[&str]| reload_at(["--socket", socket], arguments);
    add_public_route("/command");
    let dry_run = reload(&["--dry-run"]).expect_success();
    assert!(dry_run.contains("+ route[app.test/command].access = \"public\""), "{dry_run}");
    assert_eq!(other_browser.fetch("/command").await.status, StatusCode::UNAUTHORIZED);
    // The configuration names the socket too.
    reload_at(["--config", "doorward.toml"], &[]).expect_success();
    assert_eq!(other_browser.fetch("/command").await.status, StatusCode::OK);
    std::fs::write(&file, "nonsense").expect("written");
    let (code, errors) = reload(&[]).expect_failure();
    assert_eq!(code, 1);
    assert!(errors.contains("doorward.toml:1") && errors.contains("stays in use"), "{errors}");
    assert_eq!(other_browser.fetch("/command").await.status, StatusCode::OK);
    assert_eq!(program.stop(), Some(0), "{}", program.log());
}

#[tokio::test]
async fn a_watched_file_is_reloaded_after_each_change() {
    let (upstream, mut program, browser) = start_with_drain("2s\"\nwatch = true\n#\"").await;
    let file = program.path("doorward.toml");
    let text = std::fs::read_to_string(&file).expect("readable");
    let public = session_route(upstream.address).replace("\"session\"", "\"public\"");
    let public = public.replace("path = \"/\"", "path = \"/public\"");
    std::fs::write(&file, "nonsense").expect("written");
    program.wait_for_line("failure", |line| line["event"] == "config.reload-failed");
    std::fs::write(&file, format!("{text}{public}")).expect("written");
    program.wait_for_line("reload", |line| line["event"] == "config.reloaded");
    let mut other_browser = Browser::at_address(browser.address, &program.path("ca.pem"));
    assert_eq!(other_browser.fetch("/public").await.status, StatusCode::OK);
    assert_eq!(program.stop(), Some(0), "{}", program.log());
}

#[tokio::test]
async fn drain_ends_at_once_on_a_second_signal() {
    for second in ["-TERM", "-INT"] {
        let (upstream, mut program, browser) = start_with_drain("1h").await;
        let socket = socket_in(program.directory.path());
        let mut stream = pending_request(&upstream, &browser).await;
        program.signal("-TERM");
        until_closed(browser.address).await;
        assert!(program.is_running(), "the drain waits for the request");
        program.signal(second);
        assert_eq!(program.wait_for_exit(), Some(0), "{}", program.log());
        program.wait_for_line("forced shutdown", |line| line["event"] == "gateway.shutdown-forced");
        program.wait_for_line("end", |line| line["event"] == "gateway.stopped");
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.ok();
        assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
        assert!(!socket.exists(), "the socket is removed");
    }
}

#[tokio::test]
async fn upstream_page_and_log_share_the_request_id() {
    let (upstream, program, mut browser) = start_with_drain("1s").await;
    browser.fetch("/").await;
    let head = upstream.last_head().to_ascii_lowercase();
    let id = head.lines().find_map(|line| line.strip_prefix("x-request-id: ")).expect("an id");
    let line = program.wait_for_line("the request", |line| line["request_id"] == id);
    assert_eq!((&line["status"], &line["verdict"]), (&200.into(), &"admit".into()), "{line}");
    browser.jar.clear();
    let refused = browser.fetch("/").await;
    let id = refused.header("x-request-id").to_owned();
    assert!(!id.is_empty());
    let line = program.wait_for_line("the refusal", |line| line["request_id"] == id.as_str());
    assert_eq!(line["status"], 401, "{line}");
}

#[tokio::test]
async fn stop_reports_not_ready_before_it_closes_the_listeners() {
    let (_upstream, mut program, mut browser) = start_with_drain("1s\"\ndrain_delay = \"3s").await;
    let line = program.wait_for_line("the admin port", |line| line["scheme"] == "admin");
    let admin: SocketAddr = line["address"].as_str().expect("one").parse().expect("an address");
    let ready = async || {
        let mut stream = TcpStream::connect(admin).await.expect("the admin port");
        let request = b"GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.expect("sent");
        let mut response = String::new();
        stream.read_to_string(&mut response).await.expect("a response");
        response[9..12].to_owned()
    };
    assert_eq!(ready().await, "200");
    let started = Instant::now();
    program.signal("-TERM");
    program.wait_for_line("the signal", |line| line["event"] == "gateway.stopping");
    while ready().await != "503" {
        assert!(started.elapsed() < Duration::from_secs(2), "not ready at once");
    }
    assert_eq!(browser.fetch("/").await.status, StatusCode::OK, "still accepted");
    assert!(started.elapsed() < Duration::from_secs(3), "within the delay");
    assert_eq!(program.wait_for_exit(), Some(0));
    assert!(started.elapsed() >= Duration::from_secs(3));
}

#[tokio::test]
async fn second_signal_ends_the_delay_before_the_drain() {
    let (_upstream, mut program, _browser) = start_with_drain("1h\"\ndrain_delay = \"1h").await;
    program.signal("-TERM");
    program.wait_for_line("the signal", |line| line["event"] == "gateway.stopping");
    program.signal("-TERM");
    assert_eq!(program.wait_for_exit(), Some(0));
}

#[tokio::test]
async fn drain_removes_the_admin_socket() {
    let (_upstream, mut program, _browser) = start_with_drain("1s").await;
    let socket = socket_in(program.directory.path());
    assert_eq!(program.stop(), Some(0));
    assert!(!socket.exists());
}

// Setting up

fn empty_directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

#[test]
fn check_and_run_accept_the_generated_files() {
    let home = empty_directory();
    let run = |arguments: &[&str], input: &str| command(home.path(), arguments, input);
    let config = home.path().join("config");
    std::fs::create_dir(&config).expect("a directory");
    let printed = run(&["print-config"], "").expect_success();
    std::fs::write(config.join("doorward.toml"), printed).expect("written");
    let missing = run(&["check"], "");
    assert_eq!(missing.status.code(), Some(1), "its files are missing");
    assert!(missing.stdout.contains("certs/doorward.pem"), "{}", missing.stdout);
    let (code, why) = run(&["run"], "").expect_failure();
    assert_eq!(code, 1, "{why}");

    let made = run(&["certs", "dev", "--dir", "config/certs", "--host", "wiki.example.com"], "")
        .expect_success();
    assert!(
        made.contains("config/certs/doorward.pem") && made.contains("config/certs/ca.pem"),
        "{made}"
    );
    let added = run(&["user", "add", "alice", "--password-stdin"], "correct horse battery\n")
        .expect_success();
    assert_eq!(added, "added alice in config/state/users.toml\n");
    let valid = run(&["check"], "").expect_success();
    let end = "state directory: config/state\nconfig/doorward.toml: valid: 1 route, 0 warnings\n";
    assert!(valid.ends_with(end), "{valid}");
    let json = run(&["check", "--json"], "").expect_success();
    let output: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(output["problems"].as_array().map(Vec::len), Some(0), "{output}");
}

/// Sets up a valid installation, and applies a mistake to it.
fn check_with(mistake: impl FnOnce(&Path, &mut String)) -> (i32, String) {
    let directory = prepare_directory();
    let routes = session_route(SocketAddr::from(([127, 0, 0, 1], 9)));
    let routes = routes.replace("\"session\"", "{ groups = [\"staff\"] }");
    let store = "embedded:state".to_owned();
    let mut text = configuration(&Setup { routes, store, ..Setup::default() }, &directory);
    for secret in ["doorward.key", "users.toml"] {
        set_mode(&directory.path().join(secret), 0o600);
    }
    mistake(directory.path(), &mut text);
    let file = directory.path().join("doorward.toml");
    std::fs::write(&file, text).expect("written");
    let file = file.to_str().expect("a path of letters");
    let output = command(directory.path(), &["check", "--config", file], "");
    (output.status.code().expect("an exit code"), output.stdout)
}

fn set_mode(path: &Path, mode: u32) {
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
    std::fs::set_permissions(path, permissions).expect("permissions");
}

fn other_certificate(directory: &Path) -> (PathBuf, PathBuf) {
    let made = command(directory, &["certs", "dev", "--dir", "other", "--host", "other.test"], "");
    made.expect_success();
    (directory.join("other/doorward.pem"), directory.join("other/doorward.key"))
}

#[test]
fn check_accepts_an_installation_that_can_start() {
    let (code, text) = check_with(|_, _| {});
    assert!(code == 0 && text.ends_with("valid: 1 route, 0 warnings\n"), "{text}");
}

#[test]
fn check_finds_every_file_that_a_start_would_reject() {
    type Mistake = fn(&Path, &mut String);
    let mistakes: [(&str, Mistake); 12] = [
        ("the keys file is missing, but", |directory, _| {
            std::fs::create_dir_all(directory.join("state")).expect("a directory");
            std::fs::write(directory.join("state/sessions.redb"), "").expect("written");
        }),
        ("the key cannot be used with its certificate", |directory, _| {
            let (_, key) = other_certificate(directory);
            std::fs::copy(key, directory.join("doorward.key")).expect("copied");
        }),
        ("holds no certificate", |directory, text| {
            let swapped = text.replace("doorward.pem", "x").replace("doorward.key", "doorward.pem");
            *text = swapped.replace("/x\"", "/doorward.key\"");
            assert!(directory.exists());
        }),
        ("users.toml:1:", |directory, _| {
            std::fs::write(directory.join("users.toml"), "nonsense").expect("written");
        }),
        ("it is not the TOML of a keys file", |directory, _| {
            std::fs::write(directory.join("keys.toml"), "nonsense").expect("written");
        }),
        ("no-such-style.css", |_, text| {
            text.push_str("[portal]\nstyle = \"no-such-style.css\"\n");
        }),
        ("no certificate in the CA file", |_, text| {
            to_https(text, "upstream_ca = \"doorward.key\"\n");
        }),
        ("not a usable CA certificate", |directory, text| {
            let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
            std::fs::write(directory.join("broken.pem"), broken).expect("written");
            to_https(text, "upstream_ca = \"broken.pem\"\n");
        }),
        (":31: ", |_, text| to_https(text, "upstream_ca = \"no-such-ca.pem\"\n")),
        ("doorward.key: holds no certificate", |_, text| {
            let files = "upstream_cert = \"doorward.key\"\nupstream_key = \"doorward.key\"\n";
            to_https(text, files);
        }),
        ("other.key: the key cannot be used with its certificate", |directory, text| {
            let (_, key) = other_certificate(directory);
            std::fs::copy(key, directory.join("other.key")).expect("copied");
            let files = "upstream_cert = \"doorward.pem\"\nupstream_key = \"other.key\"\n";
            to_https(text, files);
        }),
        ("the last line of the audit log", |directory, text| {
            std::fs::write(directory.join("audit.jsonl"), "nonsense\n").expect("written");
            let file = directory.join("audit.jsonl");
            text.push_str(&format!("[audit]\nfile = \"{}\"\n", file.display()));
        }),
    ];
    for (message, mistake) in mistakes {
        let (code, text) = check_with(mistake);
        assert!(code == 1 && text.contains(message), "{message}: {text}");
    }
}

#[test]
fn check_warns_about_what_fails_later() {
    type Mistake = fn(&Path, &mut String);
    let mistakes: [(&str, Mistake); 10] = [
        ("no certificate has the name elsewhere.test", |_, text| {
            *text = text.replace("\"app.test\"", "\"elsewhere.test\"");
        }),
        ("has the group staffs", |_, text| *text = text.replace("\"staff\"", "\"staffs\"")),
        ("has no user nobody", |_, text| {
            *text = text.replace("{ groups = [\"staff\"] }", "{ users = [\"nobody\"] }");
        }),
        ("doorward.key: every user of this machine may read", |directory, _| {
            set_mode(&directory.join("doorward.key"), 0o644);
        }),
        ("users.toml: every user of this machine may read", |directory, _| {
            set_mode(&directory.join("users.toml"), 0o644);
        }),
        ("state: other users of this machine can replace the keys", |directory, _| {
            std::fs::create_dir(directory.join("state")).expect("a directory");
            set_mode(&directory.join("state"), 0o770);
        }),
        ("gateway.key: every user of this machine may read", |directory, text| {
            client_certificate(directory, text, jiff::Timestamp::MAX);
            set_mode(&directory.join("gateway.key"), 0o644);
        }),
        ("gateway.pem: the certificate expired at", |directory, text| {
            client_certificate(directory, text, jiff::Timestamp::UNIX_EPOCH);
        }),
        ("secret: every user of this machine may read", |directory, text| {
            std::fs::write(directory.join("secret"), "s3cret").expect("written");
            set_mode(&directory.join("secret"), 0o644);
            text.push_str("set_header_files = { \"X-Api-Key\" = \"secret\" }\n");
        }),
        ("tokens never rotate", |_, text| {
            *text = text.replace("[session]", "[session]\nrotate_after = \"12h\"");
        }),
    ];
    for (message, mistake) in mistakes {
        let (code, text) = check_with(mistake);
        assert!(code == 0 && text.contains(message), "{message}: {text}");
        assert!(text.ends_with("valid: 1 route, 1 warning\n"), "{text}");
    }
}

/// Gives the last route an https upstream and further keys.
fn to_https(text: &mut String, keys: &str) {
    *text = text.replace("upstream = \"http:", "upstream = \"https:");
    text.push_str(keys);
}

/// Gives the last route a client certificate that ends at this time.
fn client_certificate(directory: &Path, text: &mut String, end: jiff::Timestamp) {
    let own = ["doorward.pem", "doorward.key"].map(|name| {
        let path = directory.join(name);
        std::fs::read(&path).map(|content| (path, content)).expect("a file")
    });
    certificate_until(
        directory,
        end.min(jiff::Timestamp::now() + jiff::SignedDuration::from_hours(9_000)),
    );
    for (name, other) in [("doorward.pem", "gateway.pem"), ("doorward.key", "gateway.key")] {
        std::fs::copy(directory.join(name), directory.join(other)).expect("copied");
    }
    own.into_iter().for_each(|(path, content)| std::fs::write(path, content).expect("written"));
    to_https(text, "upstream_cert = \"gateway.pem\"\nupstream_key = \"gateway.key\"\n");
}

/// A self-signed certificate of app.test that ends at this time.
fn certificate_until(directory: &Path, end: jiff::Timestamp) {
    let mut parameters =
        rcgen::CertificateParams::new(vec!["app.test".to_owned()]).expect("a name");
    let date = jiff::tz::TimeZone::UTC.to_datetime(end).date();
    let (month, day) = (date.month().unsigned_abs(), date.day().unsigned_abs());
    parameters.not_after = rcgen::date_time_ymd(i32::from(date.year()), month, day);
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = parameters.self_signed(&key).expect("a certificate");
    std::fs::write(directory.join("doorward.pem"), certificate.pem()).expect("written");
    std::fs::write(directory.join("doorward.key"), key.serialize_pem()).expect("written");
    set_mode(&directory.join("doorward.key"), 0o600);
}

#[test]
fn check_warns_three_weeks_before_a_certificate_expires() {
    let days = |days: i64| jiff::Timestamp::now() + jiff::SignedDuration::from_hours(days * 24);
    for (end, message) in [
        (days(-1), Some("the certificate expired at")),
        (days(20), Some("the certificate expires in")),
        (days(23), None),
    ] {
        let (code, text) = check_with(|directory, _| certificate_until(directory, end));
        assert_eq!(code, 0, "{text}");
        assert_eq!(text.contains("the certificate expire"), message.is_some(), "{text}");
        assert!(message.is_none_or(|message| text.contains(message)), "{text}");
    }
}

/// An installation with relative paths, and the arguments that name it.
fn relative_installation() -> (Arc<tempfile::TempDir>, String) {
    let directory = prepare_directory();
    let routes = session_route(SocketAddr::from(([127, 0, 0, 1], 9)));
    let extra = "[audit]\nfile = \"audit.jsonl\"\n".to_owned();
    let store = "embedded:state".to_owned();
    let text = configuration(&Setup { routes, extra, store, ..Setup::default() }, &directory);
    let text = text.replace(&format!("{}/", directory.path().display()), "");
    for secret in ["doorward.key", "users.toml"] {
        set_mode(&directory.path().join(secret), 0o600);
    }
    let file = directory.path().join("doorward.toml");
    std::fs::write(&file, text).expect("written");
    let file = file.to_str().expect("a path of letters").to_owned();
    (directory, file)
}

#[test]
fn relative_paths_start_at_the_configuration_file() {
    let (directory, file) = relative_installation();
    let other_directory = empty_directory();
    let valid = command(other_directory.path(), &["check", "--config", &file], "").expect_success();
    assert!(valid.ends_with("valid: 1 route, 0 warnings\n"), "{valid}");
    // The directory of earlier versions.
    std::fs::rename(directory.path().join("users.toml"), other_directory.path().join("users.toml"))
        .expect("moved");
    let old = command(other_directory.path(), &["check", "--config", &file], "").expect_success();
    assert!(old.contains("exists in the working directory only"), "{old}");
    assert!(old.ends_with("valid: 1 route, 1 warning\n"), "{old}");
}

#[tokio::test]
async fn commands_find_their_files_in_the_configuration() {
    let (directory, file) = relative_installation();
    let other_directory = empty_directory();
    let config = ["--config", file.as_str()];
    let run = |arguments: &[&str]| {
        command(other_directory.path(), &[arguments, &config].concat(), "").expect_success()
    };
    assert!(run(&["user", "list"]).contains("alice"));
    run(&["keys", "init"]);
    assert!(directory.path().join("keys.toml").exists());
    let text = std::fs::read_to_string(&file).expect("readable") + "[log]\nformat = \"json\"\n";
    let mut program = Program::run(&text, Arc::clone(&directory), "info");
    program.address();
    assert!(run(&["sessions", "list", "--json"]).starts_with('['));
    assert_eq!(program.stop(), Some(0));
    assert!(run(&["audit", "show"]).contains("audit.started"));
    assert!(run(&["audit", "verify"]).contains("intact"));
    let (code, why) =
        command(other_directory.path(), &["user", "list", "--config", "none.toml"], "")
            .expect_failure();
    assert!(code == 1 && why.contains("none.toml"), "{why}");
}

#[test]
fn a_start_creates_the_state_directory_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let directory = prepare_directory();
    let routes = session_route(SocketAddr::from(([127, 0, 0, 1], 9)));
    let text = configuration(&Setup { routes, ..Setup::default() }, &directory);
    let path = directory.path().display().to_string();
    // Without the keys that name files, except the users file, which is there.
    let is_default =
        |line: &&str| !["socket = ", "file = "].iter().any(|key| line.starts_with(key));
    let text: String = text
        .replace("[server]", &format!("[server]\nstate_dir = \"{path}/data\""))
        .replace("[store]\nurl = \"memory:\"", "[store]")
        .lines()
        .filter(is_default)
        .map(|line| format!("{line}\n"))
        .collect();
    let mut program =
        Program::run(&(text + "[log]\nformat = \"json\"\n"), Arc::clone(&directory), "info");
    program.address();
    let state = directory.path().join("data");
    let mode = std::fs::metadata(&state).expect("created").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    for file in ["keys.toml", "sessions.redb", "admin.sock"] {
        assert!(state.join(file).exists(), "{file}");
    }
    assert_eq!(std::fs::read_to_string(state.join(".gitignore")).expect("written"), "*\n");
    assert_eq!(program.stop(), Some(0));
}

#[test]
fn lost_keys_prevent_the_start_while_their_sessions_exist() {
    let directory = prepare_directory();
    let routes = session_route(SocketAddr::from(([127, 0, 0, 1], 9)));
    let store = format!("embedded:{}", directory.path().join("state").display());
    let text = configuration(&Setup { routes, store, ..Setup::default() }, &directory)
        + "[log]\nformat = \"json\"\n";
    let mut program = Program::run(&text, Arc::clone(&directory), "info");
    program.address();
    assert_eq!(program.stop(), Some(0));
    std::fs::remove_file(directory.path().join("keys.toml")).expect("removed");
    let mut program = Program::run(&text, Arc::clone(&directory), "info");
    assert_eq!(program.wait_for_exit(), Some(1));
    assert!(program.log().contains("the keys file is missing"), "{}", program.log());
    assert!(!directory.path().join("keys.toml").exists());
}

#[test]
fn commands_escape_what_a_terminal_would_execute() {
    let hostile = "\u{9b}31m\u{202e}\u{2028}";
    let home = empty_directory();
    let run = |arguments: &[&str]| command(home.path(), arguments, "correct horse battery\n");
    let add = ["user", "add", "alice", "--password-stdin", "--users", "users.toml"];
    run(&add).expect_success();
    let users = home.path().join("users.toml");
    let text = std::fs::read_to_string(&users).expect("readable");
    // A users file with control characters is refused.
    let text = text.replace("alice", "al\u{202e}\u{2028}ice");
    std::fs::write(&users, text).expect("written");
    let hostile_file = format!("no{hostile}file");
    let outputs = [
        run(&["user", "list", "--users", "users.toml"]),
        run(&["user", "list", "--json", "--users", "users.toml"]),
        run(&["user", "list", "--users", &hostile_file]),
        run(&["audit", "head", &hostile_file]),
        check_output(&format!("groups = [\"{hostile}\"]")),
        check_output(&format!("users = \"{hostile}\"")),
    ];
    for output in outputs {
        let shown = output.stdout + &output.stderr;
        let is_hostile = |c: &char| hostile.contains(*c) && !c.is_ascii();
        assert_eq!(shown.chars().find(is_hostile), None, "{shown}");
        assert!(shown.contains("\\u202e") || shown.contains('?'), "{shown}");
    }
}

/// The output of `doorward check` with an access rule.
fn check_output(rule: &str) -> CommandOutput {
    let directory = prepare_directory();
    let routes = session_route(SocketAddr::from(([127, 0, 0, 1], 9)));
    let routes = routes.replace("\"session\"", &format!("{{ {rule} }}"));
    let text = configuration(&Setup { routes, ..Setup::default() }, &directory);
    std::fs::write(directory.path().join("doorward.toml"), text).expect("written");
    command(directory.path(), &["check", "--config", "doorward.toml"], "")
}

#[test]
fn user_and_keys_report_failure_by_exit_code() {
    let home = empty_directory();
    let run = |arguments: &[&str], input: &str| command(home.path(), arguments, input);
    let (users, keys) = (["--users", "users.toml"], ["--keys", "keys.toml"]);
    let user =
        |arguments: &[&str], input: &str| run(&[&["user"][..], arguments, &users].concat(), input);
    let key = |arguments: &[&str]| run(&[&["keys"][..], arguments, &keys].concat(), "");
    let valid = "correct horse battery\n";
    user(&["add", "alice", "--password-stdin"], valid).expect_success();
    for (arguments, input, code, why) in [
        (vec!["add", "alice", "--password-stdin"], valid, 1, "exists already"),
        (vec!["add", "bob", "--password-stdin"], "short\n", 1, "shorter than"),
        (vec!["add", "a\nb", "--password-stdin"], valid, 2, "a\nb"),
        (vec!["passwd", "bob", "--password-stdin"], valid, 1, "no user \"bob\""),
        (vec!["remove", "bob"], "", 1, "bob"),
        (vec!["disable", "bob"], "", 1, "bob"),
        (vec!["import", "none.htpasswd"], "", 1, "none.htpasswd"),
        (vec!["promote", "alice"], "", 2, "promote"),
    ] {
        let output = user(&arguments, input).expect_failure();
        assert_eq!(output.0, code, "{arguments:?}: {}", output.1);
        assert!(output.1.contains(why), "{arguments:?}: {}", output.1);
    }
    let listed = user(&["list"], "").expect_success();
    assert!(listed.starts_with("NAME ") && listed.lines().count() == 2, "{listed}");

    let (code, why) = key(&["rotate"]).expect_failure();
    assert!(code == 1 && why.contains("doorward keys init --keys keys.toml"), "{why}");
    key(&["init"]).expect_success();
    let before = std::fs::read(home.path().join("keys.toml")).expect("the keys");
    assert_eq!(key(&["init"]).expect_failure().0, 1);
    assert_eq!(std::fs::read(home.path().join("keys.toml")).expect("the keys"), before);
    key(&["rotate"]).expect_success();
    let listed = key(&["list"]).expect_success();
    let works: Vec<_> = listed.lines().filter_map(|line| line.split_whitespace().nth(2)).collect();
    assert_eq!(works, ["USE", "signs", "signs"], "{listed}");
}

#[test]
fn missing_and_unknown_commands_are_usage_errors() {
    let home = empty_directory();
    for wrong in [&[][..], &["serve"], &["run", "--no-such"], &["check", "file.toml"]] {
        let (code, why) = command(home.path(), wrong, "").expect_failure();
        assert_eq!((code, why.contains("Usage: doorward")), (2, true), "{wrong:?} {why}");
    }
    let help = command(home.path(), &["--help"], "").expect_success();
    for name in [
        "run",
        "demo",
        "check",
        "explain",
        "print-config",
        "user",
        "keys",
        "sessions",
        "signals",
        "certs",
    ] {
        assert!(help.contains(&format!("\n  {name} ")), "{name}: {help}");
    }
    assert!(!help.contains("replay"), "{help}");
    assert_eq!(
        command(home.path(), &["--version"], "").expect_success(),
        concat!("doorward ", env!("CARGO_PKG_VERSION"), "\n")
    );
}

#[test]
fn the_former_name_of_signals_simulate_runs_with_a_note() {
    let home = empty_directory();
    let run = |arguments: &[&str], input: &str| command(home.path(), arguments, input);
    std::fs::create_dir(home.path().join("config")).expect("a directory");
    let config = run(&["print-config"], "").expect_success();
    std::fs::write(home.path().join("config/doorward.toml"), config).expect("written");
    std::fs::write(home.path().join("audit.jsonl"), "").expect("written");
    let former = run(&["replay", "audit.jsonl"], "");
    let current = run(&["signals", "simulate", "audit.jsonl"], "");
    assert_eq!((former.status.code(), current.status.code()), (Some(0), Some(0)));
    assert_eq!(former.stdout, current.stdout);
    assert!(former.stderr.contains("doorward signals simulate"), "{}", former.stderr);
    assert_eq!(current.stderr, "");
}

// Completions and manual pages

#[test]
fn completions_and_man_pages_name_every_command() {
    let directory = tempfile::TempDir::new().expect("a directory");
    let script = command(directory.path(), &["completions", "bash"], "").expect_success();
    let page = command(directory.path(), &["man"], "").expect_success();
    command(directory.path(), &["man", "--dir", "pages"], "").expect_success();
    for name in ["run", "reload", "check", "explain", "sessions", "audit"] {
        assert!(script.contains(&format!("doorward,{name})")), "{name}");
        assert!(page.contains(&format!("doorward\\-{name}(1)")), "{name}: {page}");
        let page = directory.path().join(format!("pages/doorward-{name}.1"));
        assert!(page.exists(), "{}", page.display());
    }
}
