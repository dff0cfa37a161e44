//! Vulnerabilities of other gateways, tested against this one. `docs/proxy-vulnerabilities.md` describes the
//! advisories named above each test.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use doorward::app;
use doorward::config::Config;
use doorward::portal::forms::{open_return_url, seal_return_url};
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::HandshakeKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use test_support::browser::{Browser, SESSION};
use test_support::gateway::{
    Gateway, PASSWORD, Setup, configuration, prepare_directory, session_route,
};
use test_support::upstream::{Upstream, header_values};

/// A gateway with a session route and a public route to the same upstream.
struct AdvisoryTest {
    upstream: Upstream,
    gateway: Gateway,
}

impl AdvisoryTest {
    async fn start() -> AdvisoryTest {
        AdvisoryTest::with("").await
    }

    /// Starts a gateway with these keys in the `[[route]]` of the session.
    async fn with(lines: &str) -> AdvisoryTest {
        let upstream = Upstream::start().await;
        let public = session_route(upstream.address)
            .replace("path = \"/\"", "path = \"/public\"")
            .replace("\"session\"", "\"public\"");
        let routes = format!("{}{lines}\n{public}", session_route(upstream.address));
        let gateway = Gateway::start(Setup { routes, ..Setup::default() });
        AdvisoryTest { upstream, gateway }
    }

    fn browser(&self) -> Browser {
        Browser::new(&self.gateway)
    }

    /// Sends bytes and returns the statuses of all responses.
    async fn send(&self, bytes: impl AsRef<[u8]>) -> Vec<u16> {
        statuses(&self.browser().send_raw(bytes.as_ref()).await)
    }

    /// Asserts that a request is rejected and does not reach the upstream.
    async fn assert_rejected(&self, bytes: impl AsRef<[u8]>) {
        let shown = String::from_utf8_lossy(bytes.as_ref()).into_owned();
        let responses = self.send(bytes).await;
        let out = |status: &u16| matches!(status, 303 | 400 | 401 | 404 | 405 | 431);
        assert!(!responses.is_empty() && responses.iter().all(out), "{responses:?}: {shown}");
        assert_eq!(self.upstream.heads(), Vec::<String>::new(), "{shown}");
    }
}

fn statuses(response: &str) -> Vec<u16> {
    let heads = response.split("HTTP/1.").skip(1);
    heads.filter_map(|head| head.get(2..5)?.parse().ok()).collect()
}

fn get(target: &str, fields: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n{fields}\r\n")
}

// Identity

/// CVE-2026-25748, CVE-2023-27488.
#[tokio::test]
async fn malformed_cookies_never_authenticate() {
    let test = AdvisoryTest::start().await;
    let junk = "A".repeat(104);
    for value in [
        "",
        "=",
        "\"\"",
        "dw1_",
        "null",
        "undefined",
        "0",
        "true",
        "%00",
        "../../etc/passwd",
        "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSJ9.",
        &format!("dw1_{junk}"),
        &format!("dw1_{junk}="),
        &format!("\"dw1_{junk}\""),
        &"x".repeat(20_000),
    ] {
        test.assert_rejected(get("/", &format!("Cookie: {SESSION}={value}\r\n"))).await;
    }
    for raw in [&b"\xff\xfe\x80"[..], b"dw1_\xc3\x28", b"\xe2\x80\xa8", b"a\tb"] {
        let start = format!("GET / HTTP/1.1\r\nHost: app.test\r\nCookie: {SESSION}=");
        let end = b"\r\nX-A: \xff\xfe\r\nConnection: close\r\n\r\n";
        test.assert_rejected([start.as_bytes(), raw, end].concat()).await;
    }
    test.assert_rejected(get("/", &format!("Cookie: {SESSION}\r\n"))).await;
}

#[tokio::test]
async fn token_is_accepted_only_under_the_exact_cookie_name() {
    let test = AdvisoryTest::start().await;
    let mut alice = test.browser();
    alice.log_in("alice").await;
    let token = alice.token();
    for pair in [
        format!("\u{a0}{SESSION}={token}"),
        format!("\u{2003}{SESSION}={token}"),
        format!("{SESSION}=\"{token}\""),
        format!("{SESSION} ={token}"),
        format!("{SESSION}= {token}"),
        format!("$Version=1; ${SESSION}={token}"),
        format!("{SESSION}[]={token}"),
        format!("__Secure-doorward={token}"),
        format!("{SESSION}={token}, a=b"),
    ] {
        test.assert_rejected(get("/", &format!("Cookie: {pair}\r\n"))).await;
    }
    assert_eq!(alice.fetch("/").await.status, StatusCode::OK);
}

/// CVE-2026-33433, CVE-2026-54763.
#[tokio::test]
async fn identity_header_names_are_reserved_in_any_spelling() {
    let test = AdvisoryTest::with("identity = { \"x-TEAM-name\" = \"{user}\" }").await;
    let mut alice = test.browser();
    alice.log_in("alice").await;
    for name in
        ["X-Team-Name", "x-team-name", "X-TEAM-NAME", "X_Team_Name", "x_team-name", "X.Team.Name"]
    {
        let cookie = format!("Cookie: {SESSION}={}\r\n", alice.token());
        let head = format!("{cookie}{name}: evil\r\n{name}: evil\r\n");
        assert_eq!(test.send(get("/", &head)).await, [200], "{name}");
        assert_eq!(test.upstream.last_values("x-team-name"), ["alice"], "{name}");
        assert!(!test.upstream.last_head().contains("evil"), "{}", test.upstream.last_head());
        // The other route sends no identity, and a client cannot set one.
        assert_eq!(test.send(get("/public", &head)).await, [200], "{name}");
        assert!(!test.upstream.last_head().contains("evil"), "{}", test.upstream.last_head());
    }
}

/// CVE-2023-25725.
#[tokio::test]
async fn empty_header_name_does_not_hide_later_headers() {
    let test = AdvisoryTest::start().await;
    for line in [":", ": x", ":\t", " : x"] {
        let raw = format!(
            "GET /public HTTP/1.1\r\nHost: app.test\r\n{line}\r\nX-Forwarded-User: evil\r\n\r\n"
        );
        assert_eq!(test.send(raw).await, [400], "{line:?}");
    }
    assert!(test.upstream.heads().is_empty());
}

/// CVE-2026-34454.
#[tokio::test]
async fn login_replaces_all_state_of_the_previous_user() {
    let test = AdvisoryTest::start().await;
    let mut browser = test.browser();
    browser.log_in("alice").await;
    let alices = browser.token();
    browser.log_in("bob").await;
    assert_ne!(browser.token(), alices);
    browser.fetch("/").await;
    assert_eq!(test.upstream.last_values("x-forwarded-user"), ["bob"]);
    let old = test.browser().with_token(&alices).fetch("/").await;
    assert_eq!(old.status, StatusCode::UNAUTHORIZED);
}

/// CVE-2025-31492, CVE-2021-32637.
#[tokio::test]
async fn unauthenticated_response_contains_no_upstream_data() {
    let test = AdvisoryTest::start().await;
    for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PROPFIND", "get"] {
        let raw = format!(
            "{method} /account HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\nContent-Length: 3\r\n\r\na=b"
        );
        let response = test.browser().send_raw(raw.as_bytes()).await;
        assert!(!response.contains("hello"), "{method}: {response}");
        assert!(matches!(statuses(&response)[..], [303 | 400 | 401 | 403]), "{method}: {response}");
    }
    assert!(test.upstream.heads().is_empty());
}

// Route selection

/// Targets that bypassed the rules of other gateways, given a public route `/public`.
const DISGUISES: [&str; 46] = [
    "/private?x=/public",
    "/private?/public",
    "/private#/public",
    "/private#/../public",
    "/private;/public",
    "/private;x=/public/",
    "/private%3f/public",
    "/private%23/public",
    "/public/..%3fprivate",
    "/public/%2e%2e%23/private",
    "/private/../public/../private",
    "/public/../private",
    "/public/%2e%2e/private",
    "/public/.%2e/private",
    "/public/..;/private",
    "/public/..%2fprivate",
    "/public/..%5cprivate",
    "/public/..\\private",
    "/public/%252e%252e/private",
    "/public/%25%32%65%25%32%65/private",
    "/public/..%00/private",
    "/public%2f..%2fprivate",
    "/public/./../private",
    "/public//../private",
    "//public/../private",
    "//app.test/private",
    "///private",
    "/./private",
    "/private/",
    "/private/.",
    "/private%20",
    "/%70rivate",
    "/PUBLIC/../private",
    "/Public",
    "/publicly",
    "/public.private",
    "/public%2fprivate",
    "/public%5c..%5cprivate",
    "/%2e/private",
    "/x/../private",
    "/private%09",
    "/private.json",
    "/robots.txt/../private",
    "/ping",
    "/healthz",
    "/oauth2/auth",
];

/// Headers that other gateways used for route selection.
const BYPASS_HEADERS: [&str; 14] = [
    "",
    "User-Agent: GoogleHC/1.0\r\n",
    "User-Agent: kube-probe/1.31\r\n",
    "User-Agent: \r\n",
    "X-Forwarded-Uri: /public\r\n",
    "X-Original-URL: /public\r\n",
    "X-Original-URI: /public\r\n",
    "X-Rewrite-URL: /public\r\n",
    "X-Forwarded-Prefix: /public\r\n",
    "X-Forwarded-Path: /public\r\nX-Envoy-Original-Path: /public\r\n",
    "X-HTTP-Method-Override: OPTIONS\r\nX-Method-Override: OPTIONS\r\n",
    "X-Forwarded-For: 127.0.0.1\r\nX-Real-IP: 127.0.0.1\r\nX-Envoy-Internal: true\r\n",
    "Authorization: Bearer x\r\nX-Forwarded-User: admin\r\n",
    "X-Forwarded-Method: OPTIONS\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Port: 80\r\n",
];

/// CVE-2025-54576, CVE-2026-41059, CVE-2026-34457, CVE-2026-40575.
#[tokio::test]
async fn disguised_paths_never_become_public() {
    let test = AdvisoryTest::start().await;
    for target in DISGUISES {
        test.assert_rejected(get(target, "")).await;
    }
    for fields in BYPASS_HEADERS {
        test.assert_rejected(get("/private", fields)).await;
    }
    // The plain path is public, so the route works.
    assert_eq!(test.send(get("/public", "")).await, [200]);
    assert_eq!(test.upstream.heads().len(), 1);
}

/// CVE-2026-40575.
#[tokio::test]
async fn forwarded_headers_never_select_the_route() {
    let upstream = Upstream::start().await;
    let public = session_route(upstream.address)
        .replace("app.test", "other.test")
        .replace("\"session\"", "\"public\"");
    let routes = format!("{}{public}", session_route(upstream.address));
    let setup = Setup { routes, ..Setup::default() };
    let directory = prepare_directory();
    let text = configuration(&setup, &directory)
        .replace("workers = 2", "workers = 1\ntrusted_proxies = [\"127.0.0.0/8\"]");
    let (config, _) = Config::parse(&text, "test.toml", directory.path()).expect("it loads");
    let running = app::start(config, setup.clock.clone(), None).expect("it starts");
    let browser = Browser::at_address(running.https[0], &directory.path().join("ca.pem"));
    let fields = "X-Forwarded-Host: other.test\r\nForwarded: host=other.test\r\nX-Forwarded-Uri: /public\r\n";
    let response = browser.send_raw(get("/", fields).as_bytes()).await;
    assert_eq!(statuses(&response), [401]);
    assert!(upstream.heads().is_empty());
    running.stop();
}

/// CVE-2013-4547.
#[tokio::test]
async fn whitespace_in_the_request_target_is_rejected() {
    let test = AdvisoryTest::start().await;
    for target in ["/public /../private", "/public\t/private", "/pub lic", " /public", "/public \0"]
    {
        let raw = format!("GET {target} HTTP/1.1\r\nHost: app.test\r\n\r\n");
        assert_eq!(test.send(raw).await, [400], "{target:?}");
    }
    assert!(test.upstream.heads().is_empty());
}

/// CVE-2026-27588.
#[tokio::test]
async fn host_matching_ignores_case_with_many_hosts() {
    let upstream = Upstream::start().await;
    let one = session_route(upstream.address);
    let mut routes: String =
        (0..150).map(|number| one.replace("app.test", &format!("h{number}.test"))).collect();
    routes.push_str(&one.replace("app.test", "*.test").replace("\"session\"", "\"public\""));
    let gateway = Gateway::start(Setup { routes, ..Setup::default() });
    for host in ["h7.test", "H7.TEST", "h149.Test", "H149.tEST.", "H0.test:8443"] {
        let raw = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let response = Browser::new(&gateway).send_raw(raw.as_bytes()).await;
        assert_eq!(statuses(&response), [401], "{host}");
    }
    assert!(upstream.heads().is_empty());
}

// Redirects

/// Returns addresses of other hosts that look like paths.
pub(crate) fn other_hosts() -> Vec<String> {
    let marks =
        ["/", "\\", "\t", "\n", "\r", " ", "\u{0}", "\u{b}", "\u{a0}", "\u{2028}", "%09", "%5c"];
    let mut out: Vec<String> = [
        "https://evil.test",
        "http:evil.test",
        "https:/evil.test",
        "HTTPS:\\\\evil.test",
        "javascript:alert(1)",
        "java\nscript:alert(1)",
        "data:text/html,x",
        "evil.test",
        ".evil.test",
        "@evil.test",
        ":443@evil.test",
        "?to=//evil.test",
        "#//evil.test",
        "//evil.test:443/",
        "//user@evil.test",
        "//[::1]",
        "////evil.test",
        "\u{feff}//evil.test",
        "https://app.test.evil.test",
        "https://app.test@evil.test",
        "//app.test@evil.test",
        "https://evil.test#app.test",
        "https://evil.test\\.app.test",
        "https://eviltest/app.test",
    ]
    .map(str::to_owned)
    .to_vec();
    for first in marks {
        for second in marks {
            for slash in ["/", "\\"] {
                out.push(format!("{first}{second}{slash}evil.test"));
                out.push(format!("/{first}{second}{slash}evil.test"));
                out.push(format!("{slash}{first}{slash}{second}evil.test"));
            }
        }
    }
    out
}

/// Resolves a `Location` against the login page, as a browser does.
pub(crate) fn location_url(location: &str) -> url::Url {
    let page = url::Url::parse("https://app.test/.doorward/login").expect("our page");
    page.join(location).expect("an address")
}

/// CVE-2020-5233, CVE-2020-11053, CVE-2020-4037, CVE-2019-14857, CVE-2026-3872.
#[tokio::test]
async fn login_redirects_only_to_the_same_host() {
    let test = AdvisoryTest::start().await;
    let keys = test.gateway.shared().keys.load();
    let now = test.gateway.clock.now();
    let tricks = other_hosts();
    assert!(tricks.len() > 800, "{}", tricks.len());
    for trick in &tricks {
        assert_eq!(
            open_return_url(&keys, "app.test", trick, now),
            None,
            "nothing unsealed is followed"
        );
        let Some(kept) = seal_return_url(&keys, "app.test", trick, now) else { continue };
        let followed = open_return_url(&keys, "app.test", &kept, now).expect("kept");
        assert_eq!(location_url(&followed).host_str(), Some("app.test"), "{trick:?}");
    }
    for trick in ["//evil.test", "https://evil.test", "/\\evil.test", "/%09/evil.test"] {
        let mut browser = test.browser();
        let query =
            form_urlencoded::Serializer::new(String::new()).append_pair("to", trick).finish();
        let form = browser.navigate(&format!("/.doorward/login?{query}")).await;
        let (csrf, to) = (form.form_field("csrf"), form.form_field("to"));
        let fields = [("username", "alice"), ("password", PASSWORD), ("csrf", &csrf), ("to", &to)];
        let response = browser.post_form("/.doorward/login", &fields).await;
        assert_eq!((response.status, response.header("location")), (StatusCode::SEE_OTHER, "/"));
    }
}

/// CVE-2020-15129, CVE-2024-52003.
#[tokio::test]
async fn client_headers_never_change_a_redirect_target() {
    let test = AdvisoryTest::start().await;
    for fields in [
        "X-Forwarded-Prefix: //evil.test\r\n",
        "X-Forwarded-Host: evil.test\r\nX-Forwarded-Proto: javascript\r\nX-Forwarded-Port: 1\r\n",
        "Forwarded: host=evil.test;proto=http\r\nX-Original-Host: evil.test\r\n",
        "X-Forwarded-Uri: //evil.test/\r\nX-Original-URL: //evil.test/\r\n",
    ] {
        let fields = format!("{fields}Accept: text/html\r\nSec-Fetch-Mode: navigate\r\n");
        let response = test.browser().send_raw(get("/a", &fields).as_bytes()).await;
        let [location] = &header_values(&response, "location")[..] else { panic!("{response}") };
        assert!(location.starts_with("/.doorward/login?"), "{location}");
        assert_eq!(location_url(location).host_str(), Some("app.test"), "{location}");
        assert!(!response.contains("evil.test"), "{response}");
    }
}

// Forwarding

/// CVE-2026-2833.
#[tokio::test]
async fn data_after_an_upgrade_request_waits_for_the_101() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let gateway = Gateway::start(Setup { routes: session_route(address), ..Setup::default() });
    let mut alice = Browser::new(&gateway);
    alice.log_in("alice").await;
    let mut client = alice.connect().await;
    let handshake = format!(
        "GET /ws HTTP/1.1\r\nHost: app.test\r\nCookie: {SESSION}={}\r\nOrigin: https://app.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: app.test\r\n\r\n",
        alice.token()
    );
    client.write_all(handshake.as_bytes()).await.expect("sent");
    let (mut app, _) = listener.accept().await.expect("a connection");
    let head = read_head(&mut app).await;
    assert!(head.starts_with("GET /ws ") && !head.contains("/smuggled"), "{head}");
    app.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno").await.expect("answered");
    let (mut rest, mut response) = (Vec::new(), Vec::new());
    let ended = timeout(Duration::from_secs(10), app.read_to_end(&mut rest)).await;
    assert!(ended.is_ok() && rest.is_empty(), "{:?}", String::from_utf8_lossy(&rest));
    let _open = timeout(Duration::from_secs(1), client.read_to_end(&mut response)).await;
    let responses = statuses(&String::from_utf8_lossy(&response));
    assert!(matches!(responses[..], [200] | [200, 400 | 401]), "{responses:?}");
}

async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("a whole head"));
    }
    String::from_utf8(head).expect("ASCII")
}

/// CVE-2026-71324, CVE-2025-64763.
#[tokio::test]
async fn connect_over_http2_is_rejected() {
    let test = AdvisoryTest::start().await;
    let tls = TokioIo::new(test.browser().over_h2().connect().await);
    let executor = TokioExecutor::new();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(executor, tls).await.expect("HTTP/2");
    tokio::spawn(connection);
    let tunnel = Request::connect("app.test:443").body(Empty::<Bytes>::new()).expect("a request");
    let response = sender.send_request(tunnel).await;
    let refused =
        response.map_or(true, |response| response.status() == StatusCode::METHOD_NOT_ALLOWED);
    assert!(refused && test.upstream.heads().is_empty());
    // A connection that stays open must not deliver these bytes as a response.
    let after = Request::get("https://app.test/public").body(Empty::new()).expect("a request");
    if let Ok(response) = sender.send_request(after).await {
        assert_eq!(response.status(), StatusCode::OK);
    }
}

/// CVE-2022-3212.
#[tokio::test]
async fn oversized_form_is_rejected_without_reading_it() {
    let test = AdvisoryTest::start().await;
    let form = test.browser().navigate("/.doorward/login").await;
    assert_eq!(form.status, StatusCode::OK);
    let mut client = test.browser().connect().await;
    let head = "POST /.doorward/login HTTP/1.1\r\nHost: app.test\r\nOrigin: https://app.test\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 1000000000\r\n\r\n";
    client.write_all(head.as_bytes()).await.expect("sent");
    client.write_all(&[b'a'; 17 * 1024]).await.expect("sent");
    let mut response = Vec::new();
    let ended = timeout(Duration::from_secs(5), client.read_to_end(&mut response)).await;
    assert!(ended.is_ok(), "the gateway goes on reading");
    assert_eq!(statuses(&String::from_utf8_lossy(&response)), [413]);
}

// TLS

/// Splits the first handshake record into records of a few bytes.
fn fragmented(record: &[u8], length: usize) -> Vec<u8> {
    let (head, rest) = record.split_at(5);
    let size = usize::from(u16::from_be_bytes([head[3], head[4]]));
    let (hello, after) = rest.split_at(size);
    let mut out = Vec::new();
    for chunk in hello.chunks(length) {
        out.extend_from_slice(&head[..3]);
        out.extend_from_slice(&u16::try_from(chunk.len()).expect("short").to_be_bytes());
        out.extend_from_slice(chunk);
    }
    out.extend_from_slice(after);
    out
}

/// CVE-2024-11738, CVE-2026-32305.
#[tokio::test]
async fn fragmented_client_hello_is_parsed_like_a_whole_one() {
    let test = AdvisoryTest::start().await;
    for length in [1, 7, 100] {
        let mut tls = client(&test.gateway);
        let mut stream = std::net::TcpStream::connect(test.gateway.address).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket");
        let mut hello = Vec::new();
        tls.write_tls(&mut hello).expect("a hello");
        let pieces = fragmented(&hello, length);
        let worked = tokio::task::spawn_blocking(move || {
            std::io::Write::write_all(&mut stream, &pieces)?;
            tls.complete_io(&mut stream).map(|_| tls.is_handshaking())
        });
        let handshaking = worked.await.expect("no panic");
        assert!(matches!(handshaking, Ok(false)), "pieces of {length}: {handshaking:?}");
    }
    // Other clients are still served.
    assert_eq!(test.send(get("/public", "")).await, [200]);
}

/// CVE-2024-39321.
#[tokio::test]
async fn resumed_tls_connection_is_offered_no_early_data() {
    let test = AdvisoryTest::start().await;
    let address = test.gateway.address;
    let config = Arc::new(client_config(&test.gateway));
    let requests = tokio::task::spawn_blocking(move || {
        (0..8).map(|_| visit(address, &config)).collect::<Vec<_>>()
    });
    let requests = requests.await.expect("no panic");
    assert!(requests.iter().all(|(status, _, _)| *status == 200), "{requests:?}");
    let (first, later) = requests.split_first().expect("eight visits");
    assert_eq!(first.1, Some(HandshakeKind::Full));
    // Each worker accepts the session tickets of all workers.
    assert!(later.iter().all(|(_, kind, _)| *kind == Some(HandshakeKind::Resumed)), "{requests:?}");
    assert!(requests.iter().all(|(_, _, early)| !early), "early data could be sent: {requests:?}");
}

/// Sends a request; returns its status, the kind of handshake and whether early data was possible.
fn visit(
    address: std::net::SocketAddr,
    config: &Arc<rustls::ClientConfig>,
) -> (u16, Option<HandshakeKind>, bool) {
    use std::io::{Read, Write};
    let name = rustls::pki_types::ServerName::try_from("app.test").expect("a name");
    let mut tls = rustls::ClientConnection::new(Arc::clone(config), name).expect("a client");
    let early = tls.early_data().is_some();
    let mut stream = std::net::TcpStream::connect(address).expect("a connection");
    let mut both = rustls::Stream::new(&mut tls, &mut stream);
    both.write_all(get("/public", "").as_bytes()).expect("sent");
    let mut response = Vec::new();
    // The stream ends with or without a close_notify.
    let _ended = both.read_to_end(&mut response);
    let status = statuses(&String::from_utf8_lossy(&response)).first().copied().unwrap_or_default();
    (status, tls.handshake_kind(), early)
}

fn client(gateway: &Gateway) -> rustls::ClientConnection {
    let name = rustls::pki_types::ServerName::try_from("app.test").expect("a name");
    rustls::ClientConnection::new(Arc::new(client_config(gateway)), name).expect("a client")
}

fn client_config(gateway: &Gateway) -> rustls::ClientConfig {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    let mut roots = rustls::RootCertStore::empty();
    let ca = CertificateDer::from_pem_file(gateway.path("ca.pem")).expect("the CA");
    roots.add(ca).expect("a root");
    let mut config = rustls::ClientConfig::builder_with_provider(doorward::tls::provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.enable_early_data = true;
    config
}

// Unusable files

/// CVE-2026-27586, CVE-2026-54762.
#[test]
fn unusable_file_prevents_startup() {
    let broken = [
        ("users.toml", "[[user]\n"),
        ("users.toml", "[[user]]\nname = \"alice\"\npassword = \"\"\n"),
        ("keys.toml", "tag = \"x\"\n"),
        ("doorward.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        ("doorward.key", ""),
        ("upstream-ca.pem", ""),
        ("upstream-ca.pem", "not a certificate"),
    ];
    for (name, text) in broken {
        let directory = prepare_directory();
        let ca = directory.path().join("upstream-ca.pem");
        std::fs::copy(directory.path().join("ca.pem"), &ca).expect("an authority");
        let ca = ca.display();
        let routes = format!(
            "[[route]]\nhost = \"app.test\"\nupstream = \"https://127.0.0.1:1\"\naccess = \"session\"\nupstream_ca = \"{ca}\"\n"
        );
        let setup = Setup { routes, ..Setup::default() };
        let config =
            |text: &str| Config::parse(text, "test.toml", directory.path()).expect("it loads").0;
        let text_of_config = configuration(&setup, &directory);
        let running = app::start(config(&text_of_config), setup.clock.clone(), None);
        running.expect("it starts as long as all is well").stop();
        std::fs::write(directory.path().join(name), text).expect("written");
        let started = app::start(config(&text_of_config), setup.clock.clone(), None);
        assert!(started.is_err(), "{name} with {text:?}");
        std::fs::remove_file(directory.path().join(name)).expect("removed");
        // Missing keys are created at the first start; any other missing file prevents it.
        if name != "keys.toml" {
            let started = app::start(config(&text_of_config), setup.clock.clone(), None);
            assert!(started.is_err(), "no {name}");
        }
    }
}
