//! The real program as an operator meets it: what it says, how it ends, and with which exit code.

#[path = "support/browser.rs"]
#[allow(dead_code, reason = "the suite of the gateway uses the rest of it")]
mod browser;
#[path = "support/gateway.rs"]
#[allow(dead_code, reason = "the suite of the gateway uses the rest of it")]
mod gateway;
#[path = "support/program.rs"]
mod program;
#[path = "support/upstream.rs"]
#[allow(dead_code, reason = "the suite of the gateway uses the rest of it")]
mod upstream;

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

use browser::{Browser, SESSION};
use gateway::{Gateway, Setup, configuration, prepare, route};
use program::{Program, command};
use upstream::Upstream;

// doorward sessions

/// A gateway with an app, and what finds its socket.
struct Stage {
    _upstream: Upstream,
    gateway: Gateway,
}

impl Stage {
    async fn start() -> Stage {
        let upstream = Upstream::start().await;
        let gateway = Gateway::start(Setup { routes: route(upstream.address), ..Setup::default() });
        Stage { _upstream: upstream, gateway }
    }

    async fn log_in(&self, user: &str) -> Browser {
        let mut browser = Browser::new(&self.gateway);
        browser.log_in(user).await;
        browser
    }

    /// `doorward sessions …` on the gateway's socket.
    fn sessions(&self, arguments: &[&str]) -> program::Said {
        let socket = self.gateway.socket();
        let socket = socket.to_str().expect("a path of letters");
        let arguments = [&["sessions", "--socket", socket], arguments].concat();
        command(self.gateway.directory.path(), &arguments, "")
    }

    fn listed(&self, arguments: &[&str]) -> Vec<Value> {
        let list = self.sessions(&[&["list", "--json"], arguments].concat()).good();
        serde_json::from_str(&list).expect("a list")
    }

    /// The handle of a user's only session.
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
    let answer = browser.fetch("/").await;
    if answer.status == StatusCode::OK {
        return "admitted".to_owned();
    }
    answer.json()["reason"].as_str().expect("a reason").to_owned()
}

#[tokio::test]
async fn sessions_list_shows_every_live_session_as_text_and_as_json() {
    let stage = Stage::start().await;
    assert_eq!(stage.sessions(&["list"]).good(), "", "a pipe gets no headline over nothing");
    assert_eq!(stage.listed(&[]), Vec::<Value>::new());
    let (_alice, _bob) = (stage.log_in("alice").await, stage.log_in("bob").await);
    let (alice, bob) = (stage.handle("alice"), stage.handle("bob"));
    let text = stage.sessions(&["list"]).good();
    let mut lines: Vec<Vec<&str>> =
        text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines.remove(0), ["SESSION", "USER", "BEGUN", "LAST", "USED", "FROM"]);
    lines.sort_by_key(|line| line[1]);
    assert_eq!(
        (lines.len(), &lines[0][..2], &lines[1][..2]),
        (2, &[&*alice, "alice"][..], &[&*bob, "bob"][..])
    );
    assert!(lines[0][2].ends_with('Z') && lines[0][4] == "127.0.0.1", "{text}");
    let users: Vec<Value> = stage.listed(&[]).into_iter().map(|row| row["user"].clone()).collect();
    assert!(users.len() == 2 && users.contains(&"alice".into()), "{users:?}");
    assert_eq!(stage.listed(&["--user", "zoë"]), Vec::<Value>::new());
}

#[tokio::test]
async fn sessions_show_tells_all_of_one_session_but_its_token() {
    let stage = Stage::start().await;
    let browser = stage.log_in("alice").await;
    let handle = stage.handle("alice");
    let text = stage.sessions(&["show", &handle]).good();
    for (name, value) in [
        ("session", handle.as_str()),
        ("user", "alice"),
        ("token", "renewed 0 times, last shown first from 127.0.0.1"),
    ] {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        assert_eq!(line, Some(value), "{text}");
    }
    let json = stage.sessions(&["show", &handle, "--json"]).good();
    let one: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((&one["session"], &one["user"]), (&handle.into(), &"alice".into()));
    assert!(one["begun"].as_u64() < one["absolute_end"].as_u64(), "{one}");
    for said in [text, json] {
        assert!(!said.contains(&browser.token()[5..20]), "{said}");
    }
}

#[tokio::test]
async fn sessions_revoke_ends_one_a_user_or_all_and_nobody_else() {
    let stage = Stage::start().await;
    let (mut desk, mut bob) = (stage.log_in("alice").await, stage.log_in("bob").await);
    let handle = stage.handle("alice");
    let mut phone = stage.log_in("alice").await;
    assert_eq!(stage.sessions(&["revoke", &handle]).good(), format!("revoked {handle}\n"));
    assert_eq!((&*reason(&mut desk).await, &*reason(&mut phone).await), ("revoked", "admitted"));
    assert_eq!(stage.sessions(&["revoke", "--user", "alice"]).good(), "revoked alice\n");
    assert_eq!((&*reason(&mut phone).await, &*reason(&mut bob).await), ("revoked", "admitted"));
    let json = stage.sessions(&["revoke", "--all", "--json"]).good();
    assert_eq!(serde_json::from_str::<Value>(&json).expect("JSON")["revoked"], "all");
    assert_eq!(reason(&mut bob).await, "revoked");
    assert_eq!(stage.listed(&[]), Vec::<Value>::new());
}

#[tokio::test]
async fn sessions_only_a_whole_handle_names_a_session() {
    let stage = Stage::start().await;
    let mut alice = stage.log_in("alice").await;
    let handle = stage.handle("alice");
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
            assert_eq!(stage.sessions(&[verb, name]).bad(), (1, wanted.clone()), "{verb} {name}");
        }
    }
    for odd in ["", " ", "../revoke?all=1", "a b", "a\nb", "?", "#", "é", "%00"] {
        for verb in ["show", "revoke"] {
            let (code, why) = stage.sessions(&[verb, odd]).bad();
            assert_eq!(code, 1, "{verb} {odd:?}: {why}");
            assert!(why.contains("session"), "{verb} {odd:?}: {why}");
        }
    }
    assert_eq!(reason(&mut alice).await, "admitted");
}

#[tokio::test]
async fn sessions_a_revocation_that_names_nothing_or_two_things_is_wrong_usage() {
    let stage = Stage::start().await;
    let mut alice = stage.log_in("alice").await;
    let handle = stage.handle("alice");
    for wrong in [
        vec!["revoke"],
        vec!["revoke", &handle, "--all"],
        vec!["revoke", &handle, "--user", "bob"],
        vec!["revoke", "--user", "bob", "--all"],
        vec!["show"],
        vec!["end", &handle],
    ] {
        let (code, why) = stage.sessions(&wrong).bad();
        assert_eq!((code, why.contains("Usage: doorward sessions")), (2, true), "{wrong:?} {why}");
    }
    assert_eq!(reason(&mut alice).await, "admitted");
}

#[test]
fn sessions_without_a_gateway_the_socket_is_named() {
    let empty = tempfile::tempdir().expect("a directory");
    let left_over = empty.path().join("left-over.sock");
    drop(std::os::unix::net::UnixListener::bind(&left_over).expect("a socket"));
    for socket in ["none.sock", "left-over.sock"] {
        let told = command(empty.path(), &["sessions", "--socket", socket, "revoke", "--all"], "");
        let (code, why) = told.bad();
        assert_eq!(code, 1);
        let start = format!("doorward: {socket}: no gateway answers; is it running");
        assert!(why.starts_with(&start), "{why}");
    }
}

// doorward demo

/// A demo on a free port, in a directory of its own for temporary files.
struct Demo {
    program: Program,
    welcome: String,
}

impl Demo {
    fn start() -> Demo {
        let directory = Arc::new(tempfile::tempdir().expect("a directory"));
        let program = Program::start(["demo", "--listen", "127.0.0.1:0"], directory, "info");
        let welcome = program.wait_for("welcome", || {
            Some(program.out()).filter(|out| out.contains("removes its files"))
        });
        Demo { program, welcome }
    }

    /// The first word behind `before`.
    fn word(&self, before: &str) -> &str {
        let at = self.welcome.find(before).unwrap_or_else(|| panic!("{before}: {}", self.welcome));
        self.welcome[at + before.len()..].split_whitespace().next().expect("a word")
    }

    fn browser(&self) -> Browser {
        let port = self.word("https://localhost:").parse().expect("a port");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut browser =
            Browser::to(address, Path::new(self.word("your browser will warn. Go on, or trust")));
        browser.host = "localhost".to_owned();
        browser
    }

    async fn log_in(&self, user: &str) -> Browser {
        let mut browser = self.browser();
        let password = self.word(&format!("{user:<6} password"));
        let answer = browser.try_log_in(user, password, "/").await;
        assert_eq!((answer.status, answer.header("location")), (StatusCode::SEE_OTHER, "/"));
        browser
    }

    /// What it left of its temporary directory.
    fn left(&self) -> Vec<String> {
        left_in(self.program.directory.path())
    }
}

fn left_in(directory: &Path) -> Vec<String> {
    let files = std::fs::read_dir(directory).expect("a directory");
    let names = files.map(|file| file.expect("a file").file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("doorward-demo-")).collect()
}

#[tokio::test]
async fn demo_what_it_prints_works_and_nothing_is_left_of_it() {
    let mut demo = Demo::start();
    assert_eq!(demo.left().len(), 1);
    let mut alice = demo.log_in("alice").await;
    let page = alice.visit("/").await.text();
    assert!(page.contains("alice@example.com") && !page.contains(SESSION), "{page}");
    let mut bob = demo.log_in("bob").await;
    assert_eq!(bob.visit("/").await.status, StatusCode::OK);
    assert_eq!(bob.visit("/clock").await.status, StatusCode::FORBIDDEN);
    assert_eq!(alice.visit("/clock").await.status, StatusCode::OK);
    assert!(first_tick(&alice).await.contains("alice, it is "));
    assert_eq!(alice.visit("/.doorward/sessions").await.status, StatusCode::OK);
    let socket = demo.word("doorward sessions list --socket").to_owned();
    let list =
        command(demo.program.directory.path(), &["sessions", "list", "--socket", &socket], "")
            .good();
    assert_eq!(list.lines().count(), 3, "{list}");

    assert_eq!(demo.program.stop(), Some(0), "{}", demo.program.log());
    assert_eq!(demo.left(), Vec::<String>::new());
}

/// What the clock says first on its WebSocket.
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
async fn demo_each_run_has_passwords_of_its_own_and_ctrl_c_ends_it() {
    let (mut one, other) = (Demo::start(), Demo::start());
    for user in ["alice ", "bob   "] {
        let before = format!("{user} password");
        assert_ne!(one.word(&before), other.word(&before));
    }
    one.program.signal("-INT");
    assert_eq!(one.program.ended(), Some(0));
    assert_eq!(one.left(), Vec::<String>::new());
}

#[test]
fn demo_a_port_that_is_taken_is_told_and_leaves_nothing() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    let directory = Arc::new(tempfile::tempdir().expect("a directory"));
    let mut program =
        Program::start(["demo", "--listen", &address], Arc::clone(&directory), "info");
    assert_eq!(program.ended(), Some(1));
    assert!(program.log().contains(&address), "{}", program.log());
    assert_eq!(program.out(), "", "nobody is welcome");
    assert_eq!(left_in(directory.path()), Vec::<String>::new());
}

// Stopping

/// `doorward run` in front of an app that takes its time.
async fn busy(drain: &str) -> (Upstream, Program, Browser) {
    let upstream = Upstream::start().await;
    let setup = Setup {
        routes: route(upstream.address),
        more: "[log]\nformat = \"json\"\n".to_owned(),
        ..Setup::default()
    };
    let directory = prepare();
    let text = configuration(&setup, &directory)
        .replace("drain = \"2s\"", &format!("drain = \"{drain}\""));
    let program = Program::run(&text, directory, "info");
    let mut browser = Browser::to(program.address(), &program.path("ca.pem"));
    browser.log_in("alice").await;
    (upstream, program, browser)
}

/// Sends a request of alice's and waits until the app has it, which answers only when told to.
async fn under_way(upstream: &Upstream, browser: &Browser) -> TlsStream<TcpStream> {
    upstream.hold();
    let before = upstream.heads().len();
    let mut stream = browser.connect().await;
    let request = format!(
        "GET /slow HTTP/1.1\r\nHost: app.test\r\nCookie: {SESSION}={}\r\n\r\n",
        browser.token()
    );
    stream.write_all(request.as_bytes()).await.expect("sent");
    upstream.begun(before + 1).await;
    stream
}

async fn read_until(stream: &mut TlsStream<TcpStream>, mark: &str) -> String {
    let mut seen = String::new();
    while !seen.contains(mark) {
        let mut piece = [0; 4096];
        let read = tokio::time::timeout(Duration::from_secs(20), stream.read(&mut piece));
        let read = read.await.expect("in time").expect("open");
        assert_ne!(read, 0, "closed after {seen:?}");
        seen.push_str(&String::from_utf8_lossy(&piece[..read]));
    }
    seen
}

/// Waits until nobody listens any more.
async fn is_deaf(address: SocketAddr) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match TcpStream::connect(address).await {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => return,
            Ok(_) | Err(_) => assert!(Instant::now() < deadline, "connections are still taken"),
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn drain_what_is_under_way_ends_well_and_nothing_new_begins() {
    for signal in ["-TERM", "-INT"] {
        let (upstream, mut program, browser) = busy("30s").await;
        let mut idle = browser.connect().await;
        let mut stream = under_way(&upstream, &browser).await;
        program.signal(signal);
        is_deaf(browser.address).await;
        assert_eq!(idle.read(&mut [0; 16]).await.ok(), Some(0), "an idle connection is closed");
        assert!(program.is_running(), "it waits for its request");
        upstream.release();
        let answer = read_until(&mut stream, "hello").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.to_ascii_lowercase().contains("connection: close"), "{answer}");
        assert_eq!(program.ended(), Some(0), "{}", program.log());
        program.wait_for_line("end", |line| line["event"] == "stopped");
        assert!(!program.log().contains("drain-cut"), "{}", program.log());
        assert!(!program.path("out").metadata().is_ok_and(|file| file.len() > 0));
    }
}

#[tokio::test]
async fn drain_what_takes_longer_than_server_drain_is_cut_and_told() {
    let (upstream, mut program, browser) = busy("1s").await;
    let mut stream = under_way(&upstream, &browser).await;
    assert_eq!(program.stop(), Some(0), "{}", program.log());
    program.wait_for_line("cut", |line| line["event"] == "drain-cut");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.ok();
    assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
}

#[tokio::test]
async fn drain_a_second_signal_cuts_what_is_under_way_and_ends_at_once() {
    for second in ["-TERM", "-INT"] {
        let (upstream, mut program, browser) = busy("1h").await;
        let socket = socket_in(program.directory.path());
        let mut stream = under_way(&upstream, &browser).await;
        program.signal("-TERM");
        is_deaf(browser.address).await;
        assert!(program.is_running(), "it waits for its request");
        program.signal(second);
        assert_eq!(program.ended(), Some(0), "{}", program.log());
        program.wait_for_line("hurry", |line| line["event"] == "stopping-now");
        program.wait_for_line("end", |line| line["event"] == "stopped");
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.ok();
        assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
        assert!(!socket.exists(), "it cleans up all the same");
    }
}

#[tokio::test]
async fn the_log_has_the_request_id_that_app_and_page_are_told() {
    let (upstream, program, mut browser) = busy("1s").await;
    browser.fetch("/").await;
    let head = upstream.last().to_ascii_lowercase();
    let id = head.lines().find_map(|line| line.strip_prefix("x-request-id: ")).expect("an id");
    let line = program.wait_for_line("the request", |line| line["request"] == id);
    assert_eq!((&line["status"], &line["verdict"]), (&200.into(), &"admit".into()), "{line}");
    browser.jar.clear();
    let refused = browser.fetch("/").await;
    let id = refused.header("x-request-id").to_owned();
    assert!(!id.is_empty());
    let line = program.wait_for_line("the refusal", |line| line["request"] == id.as_str());
    assert_eq!(line["status"], 401, "{line}");
}

#[tokio::test]
async fn drain_the_admin_socket_goes_with_the_gateway() {
    let (_upstream, mut program, _browser) = busy("1s").await;
    let socket = socket_in(program.directory.path());
    assert_eq!(program.stop(), Some(0));
    assert!(!socket.exists());
}

// Setting up

/// A directory where nothing is yet.
fn nowhere() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

#[test]
fn check_and_run_take_what_print_config_certs_and_user_add_made() {
    let home = nowhere();
    let run = |arguments: &[&str], input: &str| command(home.path(), arguments, input);
    std::fs::create_dir(home.path().join("config")).expect("a directory");
    let printed = run(&["print-config"], "").good();
    std::fs::write(home.path().join("config/doorward.toml"), printed).expect("written");
    let missing = run(&["check"], "");
    assert_eq!(missing.status.code(), Some(1), "its files are missing");
    assert!(missing.out.contains("certs/doorward.pem"), "{}", missing.out);
    let (code, why) = run(&["run"], "").bad();
    assert_eq!(code, 1, "{why}");

    let made = run(&["certs", "dev", "--host", "wiki.localhost"], "").good();
    assert!(made.contains("certs/doorward.pem") && made.contains("certs/ca.pem"), "{made}");
    let added =
        run(&["user", "add", "alice", "--password-stdin"], "correct horse battery\n").good();
    assert_eq!(added, "", "quiet in a pipe");
    let good = run(&["check"], "").good();
    assert!(good.ends_with("config/doorward.toml: good: 1 route, 0 warnings\n"), "{good}");
    let json = run(&["check", "--json"], "").good();
    let said: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(said["problems"].as_array().map(Vec::len), Some(0), "{said}");
}

#[test]
fn user_and_keys_commands_tell_failure_by_the_exit_code() {
    let home = nowhere();
    let run = |arguments: &[&str], input: &str| command(home.path(), arguments, input);
    let (users, keys) = (["--users", "users.toml"], ["--keys", "keys.toml"]);
    let user =
        |arguments: &[&str], input: &str| run(&[&["user"][..], arguments, &users].concat(), input);
    let key = |arguments: &[&str]| run(&[&["keys"][..], arguments, &keys].concat(), "");
    let good = "correct horse battery\n";
    user(&["add", "alice", "--password-stdin"], good).good();
    for (arguments, input, code, why) in [
        (vec!["add", "alice", "--password-stdin"], good, 1, "is there already"),
        (vec!["add", "bob", "--password-stdin"], "short\n", 1, "shorter than"),
        (vec!["add", "a\nb", "--password-stdin"], good, 2, "a\nb"),
        (vec!["passwd", "bob", "--password-stdin"], good, 1, "no user \"bob\""),
        (vec!["remove", "bob"], "", 1, "bob"),
        (vec!["disable", "bob"], "", 1, "bob"),
        (vec!["import", "none.htpasswd"], "", 1, "none.htpasswd"),
        (vec!["promote", "alice"], "", 2, "promote"),
    ] {
        let said = user(&arguments, input).bad();
        assert_eq!(said.0, code, "{arguments:?}: {}", said.1);
        assert!(said.1.contains(why), "{arguments:?}: {}", said.1);
    }
    let listed = user(&["list"], "").good();
    assert!(listed.starts_with("alice\tenabled\t") && listed.lines().count() == 1, "{listed}");

    let (code, why) = key(&["rotate"]).bad();
    assert!(code == 1 && why.contains("doorward keys init --keys keys.toml"), "{why}");
    key(&["init"]).good();
    let before = std::fs::read(home.path().join("keys.toml")).expect("the keys");
    assert_eq!(key(&["init"]).bad().0, 1);
    assert_eq!(std::fs::read(home.path().join("keys.toml")).expect("the keys"), before);
    key(&["rotate"]).good();
    let listed = key(&["list"]).good();
    let works: Vec<_> = listed.lines().filter_map(|line| line.rsplit('\t').next()).collect();
    assert_eq!(works, ["verifies", "mints"], "{listed}");
}

#[test]
fn no_command_and_an_unknown_one_are_wrong_usage_and_help_is_not() {
    let home = nowhere();
    for wrong in [&[][..], &["serve"], &["run", "--no-such"], &["check", "file.toml"]] {
        let (code, why) = command(home.path(), wrong, "").bad();
        assert_eq!((code, why.contains("Usage: doorward")), (2, true), "{wrong:?} {why}");
    }
    let help = command(home.path(), &["--help"], "").good();
    for name in
        ["run", "demo", "check", "explain", "print-config", "user", "keys", "sessions", "certs"]
    {
        assert!(help.contains(&format!("\n  {name} ")), "{name}: {help}");
    }
    assert_eq!(
        command(home.path(), &["--version"], "").good(),
        concat!("doorward ", env!("CARGO_PKG_VERSION"), "\n")
    );
}
