//! The end of a session, and what it does not affect.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use test_support::browser::{Browser, SESSION};
use test_support::gateway::{Gateway, PASSWORD, Setup, manual_clock, session_route};
use test_support::upstream::Upstream;

/// Bound of one second, plus one for a busy machine.
const CUT: Duration = Duration::from_secs(3);

async fn read_until(stream: &mut TlsStream<TcpStream>, mark: &str) {
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains(mark) {
        let mut chunk = [0; 1024];
        let read = timeout(CUT, stream.read(&mut chunk)).await.expect("in time").expect("open");
        assert_ne!(read, 0, "{}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&chunk[..read]);
    }
}

async fn is_cut(stream: &mut TlsStream<TcpStream>) -> bool {
    let mut rest = Vec::new();
    timeout(CUT, stream.read_to_end(&mut rest)).await.is_ok()
}

async fn log_out(browser: &mut Browser) {
    let page = browser.navigate("/.doorward/logout").await;
    let csrf = page.form_field("csrf");
    let response = browser.post_form("/.doorward/logout", &[("csrf", &csrf)]).await;
    assert_eq!(response.status, 200);
}

async fn log_in_again(browser: &mut Browser, user: &str) {
    let form = browser.navigate("/.doorward/login").await;
    let (csrf, to) = (form.form_field("csrf"), form.form_field("to"));
    let fields = [("username", user), ("password", PASSWORD), ("csrf", &csrf), ("to", &to)];
    assert_eq!(browser.post_form("/.doorward/login", &fields).await.status, 303);
}

async fn status_of(gateway: &Gateway, token: &str) -> u16 {
    Browser::new(gateway).with_token(token).fetch("/").await.status.as_u16()
}

#[tokio::test]
async fn download_is_cut_when_its_session_ends() {
    let endless = "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    let upstream = Upstream::with_response(endless).await;
    let gateway =
        Gateway::start(Setup { routes: session_route(upstream.address), ..Setup::default() });
    let mut alice = Browser::new(&gateway);
    log_in_again(&mut alice, "alice").await;
    let mut stream = alice.connect().await;
    let head =
        format!("GET / HTTP/1.1\r\nHost: app.test\r\nCookie: {SESSION}={}\r\n\r\n", alice.token());
    stream.write_all(head.as_bytes()).await.expect("sent");
    read_until(&mut stream, "hello").await;
    log_out(&mut alice).await;
    assert!(is_cut(&mut stream).await, "the download outlives its session");
}

#[tokio::test]
async fn upload_is_cut_when_its_session_ends() {
    let upstream = Upstream::start().await;
    let gateway =
        Gateway::start(Setup { routes: session_route(upstream.address), ..Setup::default() });
    let mut alice = Browser::new(&gateway);
    alice.log_in("alice").await;
    let mut stream = alice.connect().await;
    let head = format!(
        "PUT / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 1000000\r\nCookie: {SESSION}={}\r\n\r\nhalf",
        alice.token()
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    upstream.wait_for_requests(1).await;
    log_out(&mut alice).await;
    assert!(is_cut(&mut stream).await, "the upload outlives its session");
}

#[tokio::test]
async fn login_in_progress_at_shutdown_succeeds() {
    let upstream = Upstream::start().await;
    let state = tempfile::tempdir().expect("a directory");
    let gateway = Gateway::start(Setup {
        routes: session_route(upstream.address),
        store: format!("embedded:{}", state.path().display()),
        ..Setup::default()
    });
    let mut alice = Browser::new(&gateway);
    let form = alice.navigate("/.doorward/login").await;
    let fields =
        [("username", "alice"), ("password", PASSWORD), ("csrf", &form.form_field("csrf"))];
    let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    let (name, nonce) = alice.jar.iter().next().expect("the login cookie");
    let head = format!(
        "POST /.doorward/login HTTP/1.1\r\nHost: app.test\r\nSec-Fetch-Site: same-origin\r\nExpect: 100-continue\r\nCookie: {name}={nonce}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = alice.connect().await;
    stream.write_all(head.as_bytes()).await.expect("sent");
    read_until(&mut stream, "HTTP/1.1 100").await;
    let mut idle = alice.connect().await;
    let stopping = tokio::task::spawn_blocking(move || gateway.stop());
    assert!(is_cut(&mut idle).await, "the stop has begun when idle connections go");
    stream.write_all(body.as_bytes()).await.expect("sent");
    read_until(&mut stream, "HTTP/1.1 303").await;
    drop(stream);
    stopping.await.expect("stopped");
}

#[tokio::test]
async fn form_without_body_releases_its_permit() {
    let upstream = Upstream::start().await;
    let gateway =
        Gateway::start(Setup { routes: session_route(upstream.address), ..Setup::default() });
    let mut stream = Browser::new(&gateway).connect().await;
    let head = "POST /.doorward/login HTTP/1.1\r\nHost: app.test\r\nContent-Length: 10\r\n\r\n";
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut response = Vec::new();
    let ended = timeout(Duration::from_secs(15), stream.read_to_end(&mut response)).await;
    assert!(ended.is_ok(), "a request without its body is ended");
    assert!(response.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&response));
}

#[tokio::test]
async fn login_with_a_successor_token_ends_its_old_session() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(Setup {
        routes: session_route(upstream.address),
        clock: manual_clock(),
        ..Setup::default()
    });
    let mut alice = Browser::new(&gateway);
    alice.log_in("alice").await;
    let old = alice.token();
    gateway.advance(Duration::from_secs(11 * 60));
    alice.fetch("/").await;
    assert_ne!(alice.token(), old, "an offer is in the jar");
    log_in_again(&mut alice, "alice").await;
    assert_eq!(status_of(&gateway, &old).await, 401, "the session before the login is active");
}

#[tokio::test]
async fn repeated_login_ends_no_session_of_other_devices() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(Setup {
        routes: session_route(upstream.address),
        session: "max_per_user = 2".to_owned(),
        clock: manual_clock(),
        ..Setup::default()
    });
    let (mut desk, mut phone) = (Browser::new(&gateway), Browser::new(&gateway));
    desk.log_in("alice").await;
    phone.log_in("alice").await;
    gateway.advance(Duration::from_secs(60));
    desk.fetch("/").await;
    log_in_again(&mut desk, "alice").await;
    assert_eq!(status_of(&gateway, &phone.token()).await, 200, "two sessions are allowed");
}

async fn ask_socket(gateway: &Gateway, request: &str) -> String {
    let mut files = std::fs::read_dir(gateway.directory.path()).expect("lists");
    let path = files
        .find_map(|file| {
            Some(file.ok()?.path()).filter(|path| path.extension().is_some_and(|e| e == "sock"))
        })
        .expect("the socket");
    let mut stream = UnixStream::connect(path).await.expect("connects");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut response = String::new();
    stream.read_to_string(&mut response).await.expect("a response");
    response
}

#[tokio::test]
async fn revocation_by_login_name_ends_the_users_sessions() {
    let upstream = Upstream::start().await;
    let gateway =
        Gateway::start(Setup { routes: session_route(upstream.address), ..Setup::default() });
    let mut alice = Browser::new(&gateway);
    let response = alice.try_log_in("ALICE", PASSWORD, "/").await;
    assert_eq!(response.status, 303, "names fold at login");
    let revoke = "POST /revoke?user=ALICE HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    assert!(ask_socket(&gateway, revoke).await.starts_with("HTTP/1.1 200"));
    assert_eq!(status_of(&gateway, &alice.token()).await, 401, "reported as revoked, but active");
}

#[tokio::test]
async fn upstream_cannot_set_a_nameless_session_cookie() {
    let response =
        "HTTP/1.1 200 OK\r\nSet-Cookie: =__Host-doorward=evil\r\nContent-Length: 0\r\n\r\n";
    let upstream = Upstream::with_response(response).await;
    let routes = session_route(upstream.address).replace("\"session\"", "\"public\"");
    let gateway = Gateway::start(Setup { routes, ..Setup::default() });
    let response = Browser::new(&gateway).fetch("/").await;
    assert_eq!(response.set_cookies(), Vec::<String>::new());
}
