//! Identity headers: upstreams receive them only from the gateway, on every path and in every spelling.

use std::fmt::Write;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use test_support::browser::{Browser, SESSION};
use test_support::gateway::{Gateway, Setup, session_route};
use test_support::upstream::{HELLO, Upstream, header_values};

/// Headers that only the gateway may set. Deliberately independent of the lists in the source.
const RESERVED_HEADERS: [&str; 42] = [
    "X-Forwarded-User",
    "X-Forwarded-Email",
    "X-Forwarded-Groups",
    "X-Forwarded-Preferred-Username",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Port",
    "X-Forwarded-Proto",
    "X-Forwarded-Prefix",
    "X-Forwarded-Access-Token",
    "X-Real-IP",
    "X-Original-URL",
    "X-Rewrite-URL",
    "Forwarded",
    "Remote-User",
    "Remote-Groups",
    "X-Remote-User",
    "X-Remote-Groups",
    "X-Auth-Request-User",
    "X-Auth-Request-Groups",
    "X-WebAuth-User",
    "X-SSL-Client-Verify",
    "X-Client-IP",
    "True-Client-IP",
    "CF-Connecting-IP",
    "Fastly-Client-IP",
    "X-Cluster-Client-IP",
    "X-Original-Host",
    "X-Original-URI",
    "Client-Cert",
    "OIDC-Claim-Sub",
    "OIDC-Access-Token",
    "X-Auth-Request-Email",
    "X-Auth-User",
    "X-Authentik-Username",
    "X-Authenticated-User",
    "X-MS-Client-Principal-Name",
    "X-Goog-Authenticated-User-Email",
    "X-Amzn-OIDC-Data",
    "Remote-Anything",
    // Set on one route only, but reserved on all.
    "X-Team",
    "X-Full-Name",
];

/// Part of every value that the client sends in such a header.
const EVIL: &str = "evil-";

/// One header of the client.
#[derive(Clone, Debug)]
struct Field {
    name: String,
    channel: Channel,
}

#[derive(Clone, Copy, Debug)]
enum Channel {
    Head,
    /// In the head, and named by `Connection`, so that proxies drop it as hop-by-hop.
    Nominated,
    Trailer,
}

/// Route and purpose of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Path {
    Session,
    Custom,
    Options,
    Upgrade,
    Public,
    PublicWithSession,
    Unauthenticated,
    Forbidden,
    NoRoute,
    Ambiguous,
    OwnPage,
}

const PATHS: [Path; 11] = [
    Path::Session,
    Path::Custom,
    Path::Options,
    Path::Upgrade,
    Path::Public,
    Path::PublicWithSession,
    Path::Unauthenticated,
    Path::Forbidden,
    Path::NoRoute,
    Path::Ambiguous,
    Path::OwnPage,
];

impl Path {
    fn method(self) -> &'static str {
        match self {
            Path::Options => "OPTIONS",
            Path::Upgrade => "GET",
            Path::Session
            | Path::Custom
            | Path::Public
            | Path::PublicWithSession
            | Path::Unauthenticated
            | Path::Forbidden
            | Path::NoRoute
            | Path::Ambiguous
            | Path::OwnPage => "POST",
        }
    }

    fn target(self) -> &'static str {
        match self {
            Path::Session | Path::Options | Path::Upgrade | Path::Unauthenticated => "/app",
            Path::Custom => "/custom",
            Path::Public | Path::PublicWithSession => "/public",
            Path::Forbidden => "/admins",
            Path::NoRoute => "/",
            Path::Ambiguous => "/app/%2e%2e/public",
            Path::OwnPage => "/.doorward/login",
        }
    }

    fn host(self) -> &'static str {
        if self == Path::NoRoute { "other.test" } else { "app.test" }
    }

    fn shows_session(self) -> bool {
        !matches!(self, Path::Public | Path::Unauthenticated)
    }

    /// Status of the response and the identity that the upstream receives.
    fn expected(self) -> (u16, UpstreamRequest) {
        match self {
            Path::Session | Path::Options | Path::Upgrade => (200, UpstreamRequest::Standard),
            Path::Custom => (200, UpstreamRequest::Custom),
            Path::Public | Path::PublicWithSession => (200, UpstreamRequest::NoUser),
            Path::Unauthenticated => (401, UpstreamRequest::Nothing),
            Path::Forbidden => (403, UpstreamRequest::Nothing),
            Path::NoRoute => (404, UpstreamRequest::Nothing),
            Path::Ambiguous | Path::OwnPage => (400, UpstreamRequest::Nothing),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UpstreamRequest {
    Standard,
    Custom,
    /// A request without a user.
    NoUser,
    /// No request.
    Nothing,
}

fn routes(upstream: &Upstream) -> String {
    let route = |path: &str, rest: &str| {
        let to = upstream.address;
        format!(
            "[[route]]\nhost = \"app.test\"\npath = \"{path}\"\nupstream = \"http://{to}\"\n{rest}\n"
        )
    };
    [
        route("/", "access = \"session\""),
        route("/public", "access = \"public\""),
        route("/admins", "access = { groups = [\"admins\"] }"),
        route(
            "/custom",
            "access = \"session\"\nidentity = { X-Team = \"{groups}\", X-Full-Name = \"{name} <{email}>\" }",
        ),
    ]
    .concat()
}

/// A header name in any case, with any of the separators that upstreams treat alike.
fn spelling() -> impl Strategy<Value = String> {
    let plain = (0..RESERVED_HEADERS.len(), vec((any::<bool>(), 0..6_usize), 32));
    plain.prop_map(|(at, choices)| {
        let letters = RESERVED_HEADERS[at].chars().zip(choices);
        letters
            .map(|(letter, (upper, mark))| match letter {
                '-' => ['-', '-', '_', '_', '.', '~'][mark],
                _ if upper => letter.to_ascii_uppercase(),
                _ => letter.to_ascii_lowercase(),
            })
            .collect()
    })
}

fn fields() -> impl Strategy<Value = Vec<Field>> {
    let channel = prop_oneof![2 => Just(Channel::Head), 1 => Just(Channel::Nominated), 1 => Just(Channel::Trailer)];
    vec((spelling(), channel).prop_map(|(name, channel)| Field { name, channel }), 1..6)
}

/// Returns the request as HTTP/1.1 bytes.
fn bytes_of(path: Path, fields: &[Field], token: &str) -> Vec<u8> {
    let mut out = format!(
        "{} {} HTTP/1.1\r\nHost: {}\r\nX-Kept: kept\r\n",
        path.method(),
        path.target(),
        path.host()
    );
    let (mut connection, mut trailer) = (String::from("close"), String::new());
    for (number, Field { name, channel }) in fields.iter().enumerate() {
        let line = format!("{name}: {EVIL}{number}\r\n");
        match channel {
            Channel::Head => out.push_str(&line),
            Channel::Nominated => {
                out.push_str(&line);
                // The client's spelling and ours: a proxy that adds its header first would drop it.
                write!(connection, ", {name}, x-forwarded-user").expect("a string");
            }
            Channel::Trailer => trailer.push_str(&line),
        }
    }
    if path.shows_session() {
        write!(out, "Cookie: {SESSION}={token}\r\n").expect("a string");
    }
    if path == Path::Upgrade {
        out.push_str("Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n");
        write!(out, "Connection: {connection}, Upgrade\r\n\r\n").expect("a string");
        return out.into_bytes();
    }
    let names = fields.iter().map(|field| field.name.as_str()).collect::<Vec<_>>().join(", ");
    write!(
        out,
        "Connection: {connection}\r\nTrailer: {names}\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n{trailer}\r\n"
    )
    .expect("a string");
    out.into_bytes()
}

/// Sends the same request over HTTP/2 and returns the status.
async fn over_h2(browser: &Browser, path: Path, fields: &[Field], token: &str) -> u16 {
    let uri = format!("https://{}{}", path.host(), path.target());
    let mut request = Request::builder().method(path.method()).uri(uri).header("x-kept", "kept");
    let mut trailers = HeaderMap::new();
    for (number, Field { name, channel }) in fields.iter().enumerate() {
        let value = format!("{EVIL}{number}");
        match channel {
            Channel::Head | Channel::Nominated => request = request.header(name, value),
            Channel::Trailer => {
                let name: HeaderName = name.parse().expect("a name");
                trailers.append(name, HeaderValue::from_str(&value).expect("a value"));
            }
        }
    }
    if path.shows_session() {
        request = request.header("cookie", format!("{SESSION}={token}"));
    }
    let body = Full::<Bytes>::from("body").with_trailers(async move { Some(Ok(trailers)) });
    let tls = TokioIo::new(browser.clone().over_h2().connect().await);
    let executor = TokioExecutor::new();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(executor, tls).await.expect("HTTP/2");
    tokio::spawn(connection);
    let response = sender.send_request(request.body(Box::pin(body)).expect("a request")).await;
    response.expect("a response").status().as_u16()
}

fn status_of(response: &str) -> u16 {
    response.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default()
}

/// Normalises a header name as CGI and WSGI do.
fn folded(name: &str) -> String {
    let fold = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    name.chars().map(fold).collect()
}

/// Returns the reserved headers of a head, except forwarded headers.
fn identity_headers_in(head: &str) -> Vec<(String, String)> {
    let forwarding_headers =
        ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"];
    let ours: Vec<String> = RESERVED_HEADERS.iter().map(|name| folded(name)).collect();
    let lines = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    let mut out: Vec<_> = lines
        .map(|(name, value)| (folded(name), value.trim().to_owned()))
        .filter(|(name, _)| ours.contains(name) && !forwarding_headers.contains(&name.as_str()))
        .collect();
    out.sort();
    out
}

fn expected(received: UpstreamRequest) -> Vec<(String, String)> {
    let fields: &[(&str, &str)] = match received {
        UpstreamRequest::Standard => &[
            ("x-forwarded-email", "alice@example.test"),
            ("x-forwarded-groups", "staff"),
            ("x-forwarded-preferred-username", "alice"),
            ("x-forwarded-user", "alice"),
        ],
        UpstreamRequest::Custom => {
            &[("x-full-name", "The alice <alice@example.test>"), ("x-team", "staff")]
        }
        UpstreamRequest::NoUser | UpstreamRequest::Nothing => &[],
    };
    fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// CVE-2025-64484, CVE-2026-30851, HYP-06, HYP-18, HYP-20.
#[test]
fn client_identity_headers_never_reach_an_upstream() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (upstream, gateway, token) = runtime.block_on(async {
        let upstream = Upstream::start().await;
        let gateway = Gateway::start(Setup { routes: routes(&upstream), ..Setup::default() });
        let mut alice = Browser::new(&gateway);
        alice.log_in("alice").await;
        (upstream, gateway, alice.token())
    });
    let cases = (fields(), 0..PATHS.len(), any::<bool>());
    let mut runner =
        TestRunner::new(Config { cases: 300, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&cases, |(fields, at, h2)| {
        let path = PATHS[at];
        let h2 = h2 && path != Path::Upgrade;
        let before = upstream.heads().len();
        let mut browser = Browser::new(&gateway);
        browser.host = path.host().to_owned();
        let status = runtime.block_on(async {
            match h2 {
                true => over_h2(&browser, path, &fields, &token).await,
                false => status_of(&browser.send_raw(&bytes_of(path, &fields, &token)).await),
            }
        });
        let (wanted, received) = path.expected();
        prop_assert_eq!(status, wanted, "{:?} h2: {}", path, h2);
        let heads = upstream.heads().split_off(before);
        prop_assert_eq!(heads.len(), usize::from(received != UpstreamRequest::Nothing));
        for head in &heads {
            prop_assert!(!head.contains(EVIL), "{}", head);
            prop_assert_eq!(identity_headers_in(head), expected(received), "{}", head);
            prop_assert_eq!(header_values(head, "x-kept"), ["kept"]);
        }
        let bodies = upstream.bodies().split_off(before);
        prop_assert!(bodies.iter().all(|body| !body.contains(EVIL)), "{:?}", bodies);
        prop_assert!(path == Path::Upgrade || bodies.iter().all(|body| body.contains("body")));
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    assert!(upstream.heads().len() > 100, "few requests reached the upstream");
}

async fn started(routes: &str, user: &str, path: &str) -> (Upstream, Gateway) {
    let upstream = Upstream::start().await;
    let routes = routes.replace("UPSTREAM", &upstream.address.to_string());
    let gateway = Gateway::start(Setup { routes, ..Setup::default() });
    let mut browser = Browser::new(&gateway);
    browser.log_in(user).await;
    assert_eq!(browser.fetch(path).await.status, StatusCode::OK);
    (upstream, gateway)
}

#[tokio::test]
async fn each_route_sends_exactly_its_own_templates() {
    let (upstream, _gateway) = started(
        "[[route]]\nhost = \"app.test\"\npath = \"/\"\nupstream = \"http://UPSTREAM\"\naccess = \"session\"\nidentity = { X-Who = \"{user}/{groups}\", X-Mail = \"<{email}>\" }\n",
        "bob",
        "/",
    )
    .await;
    assert_eq!(upstream.last_values("x-who"), ["bob/guests"]);
    assert_eq!(upstream.last_values("x-mail"), ["<bob@example.test>"]);
    assert!(upstream.last_values("x-forwarded-user").is_empty());
}

#[tokio::test]
async fn identity_header_without_value_is_omitted() {
    let (upstream, _gateway) = started(&route_with(""), "zoë", "/").await;
    assert_eq!(upstream.last_values("x-forwarded-email"), ["zoÃ«@example.test"]);
    assert!(
        !upstream.last_head().to_ascii_lowercase().contains("groups"),
        "{}",
        upstream.last_head()
    );
}

fn route_with(more: &str) -> String {
    format!(
        "[[route]]\nhost = \"app.test\"\npath = \"/\"\nupstream = \"http://UPSTREAM\"\naccess = \"session\"\n{more}\n"
    )
}

#[tokio::test]
async fn non_ascii_names_use_the_encoding_of_the_route() {
    let cases = [
        ("", "zoÃ«", "The zoÃ«"),
        ("identity_encoding = \"utf8\"\n", "zoÃ«", "The zoÃ«"),
        ("identity_encoding = \"percent\"\n", "zo%C3%AB", "The zo%C3%AB"),
        ("identity_encoding = \"rfc2047\"\n", "=?UTF-8?B?em/Dqw==?=", "=?UTF-8?B?VGhlIHpvw6s=?="),
    ];
    for (encoding, user, name) in cases {
        let identity = "identity = { X-User = \"{user}\", X-Name = \"{name}\", X-Plain = \"ok\" }";
        let (upstream, _gateway) =
            started(&route_with(&format!("{encoding}{identity}")), "zoë", "/").await;
        // Heads are decoded as Latin-1: two characters for the two bytes of ë.
        assert_eq!(upstream.last_values("x-user"), [user], "{encoding}");
        assert_eq!(upstream.last_values("x-name"), [name], "{encoding}");
        assert_eq!(upstream.last_values("x-plain"), ["ok"], "{encoding}");
    }
}

#[tokio::test]
async fn identity_headers_carry_current_groups() {
    let (upstream, gateway) = started(&route_with(""), "bob", "/").await;
    let token = {
        let mut browser = Browser::new(&gateway);
        browser.log_in("bob").await;
        browser.token()
    };
    assert_eq!(upstream.last_values("x-forwarded-groups"), ["guests"]);
    let path = gateway.path("users.toml");
    let text = std::fs::read_to_string(&path).expect("the users file");
    assert!(text.contains("guests"));
    std::fs::write(&path, text.replace("guests", "visitors")).expect("written");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while upstream.last_values("x-forwarded-groups") != ["visitors"] {
        assert!(std::time::Instant::now() < deadline, "the app still receives the old groups");
        let response = Browser::new(&gateway).with_token(&token).fetch("/").await;
        assert_eq!(response.status, StatusCode::OK);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// Tabs and users of one browser share connections, and so do all clients of a trusted proxy.
#[tokio::test]
async fn identity_is_set_per_request_not_per_connection() {
    let upstream = Upstream::start().await;
    let server = "trusted_proxies = [\"127.0.0.1\"]\npublic_port = 8443".to_owned();
    let gateway = Gateway::start(Setup { routes: routes(&upstream), server, ..Setup::default() });
    let (mut alice, mut bob) = (Browser::new(&gateway), Browser::new(&gateway));
    alice.log_in("alice").await;
    bob.log_in("bob").await;
    let (alice, bob) = (alice.token(), bob.token());
    let standard = ["x-forwarded-email", "x-forwarded-user", "x-team", "x-full-name"];
    // Path, host, client, token, and the standard identity headers.
    let requests = [
        ("/", "app.test", "1.1.1.1", &alice, ["alice@example.test", "alice", "", ""]),
        ("/", "app.test", "1.1.1.1", &bob, ["bob@example.test", "bob", "", ""]),
        ("/custom", "app.test", "1.1.1.1", &bob, ["", "", "guests", "The bob <bob@example.test>"]),
        ("/public", "app.test", "1.1.1.1", &bob, [""; 4]),
        ("/", "app.test", "1.1.1.1", &bob, ["bob@example.test", "bob", "", ""]),
        ("/", "app.test", "2.2.2.2", &bob, ["bob@example.test", "bob", "", ""]),
        ("/", "app.test:8443", "2.2.2.2", &bob, ["bob@example.test", "bob", "", ""]),
        ("/", "app.test", "1.1.1.1", &alice, ["alice@example.test", "alice", "", ""]),
    ];
    let mut bytes = String::new();
    for (path, host, client, token, _) in &requests {
        write!(
            bytes,
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nX-Forwarded-For: {client}\r\nCookie: {SESSION}={token}\r\n\r\n"
        )
        .expect("a string");
    }
    let responses = Browser::new(&gateway).send_raw(bytes.as_bytes()).await;
    assert_eq!(responses.matches("HTTP/1.1 200").count(), requests.len(), "{responses}");
    let heads = upstream.heads();
    assert_eq!(heads.len(), requests.len());
    for (head, (path, host, client, _, joined)) in heads.iter().zip(&requests) {
        let received = standard.map(|name| header_values(head, name).concat());
        assert_eq!(received, *joined, "{path} {head}");
        assert_eq!(header_values(head, "host"), [*host]);
        assert_eq!(header_values(head, "x-forwarded-host"), [*host]);
        assert_eq!(header_values(head, "x-forwarded-for"), [*client]);
        let forwarded = format!("for={client};host=\"{host}\";proto=https");
        assert_eq!(header_values(head, "forwarded"), [forwarded]);
    }
}

// Cookies

/// CVE-2022-39201, HYP-24.
#[tokio::test]
async fn session_cookies_are_stripped_and_others_forwarded() {
    let (upstream, gateway) = started(&route_with(""), "alice", "/").await;
    let mut alice = Browser::new(&gateway);
    alice.log_in("alice").await;
    let token = alice.token();
    let login = "__Host-doorward-login=AAAAAAAAAAAAAAAAAAAAAA";
    let lines = [
        format!("a=1; {SESSION}={token}; b=\"two; three\""),
        format!("{login}; __HOST-Doorward={token}; c=4"),
    ];
    let raw = format!(
        "GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\nCookie: {}\r\nCookie: {}\r\n\r\n",
        lines[0], lines[1]
    );
    assert_eq!(status_of(&alice.send_raw(raw.as_bytes()).await), 200);
    assert_eq!(upstream.last_values("cookie"), ["a=1; b=\"two; three\"; c=4"]);
    // HTTP/2 crumbs.
    let mut h2 = Browser::new(&gateway).over_h2();
    let crumbs: Vec<_> = lines.iter().flat_map(|line| line.split("; ")).collect();
    let crumbs: Vec<_> = crumbs.iter().map(|crumb| ("cookie", *crumb)).collect();
    assert_eq!(h2.send("GET", "/", &crumbs, "").await.status, StatusCode::OK);
    assert_eq!(upstream.last_values("cookie"), ["a=1; b=\"two; three\"; c=4"]);
    let ours_alone = Browser::new(&gateway).with_token(&token).fetch("/").await;
    assert_eq!(ours_alone.status, StatusCode::OK);
    assert!(upstream.last_values("cookie").is_empty());
    let joined = upstream.heads().concat();
    assert!(
        !joined.contains("dw1_") && !joined.to_ascii_lowercase().contains("__host-doorward"),
        "{joined}"
    );
}

/// Returns a response that tries to set, replace, shadow and delete the gateway's cookies.
fn cookie_setting_response(status: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Length: 0\r\nSet-Cookie: app=1; Path=/\r\nSet-Cookie: __Host-doorward=dw1_planted; Path=/; Secure\r\nset-cookie: __host-doorward=; Max-Age=0; Path=/; Secure\r\nSet-Cookie:   __Host-doorward =x\r\nSet-Cookie: __HOST-DOORWARD-LOGIN=x; Path=/; Secure\r\nSet-Cookie: other=2\r\nClear-Site-Data: \"*\"\r\nClear-Site-Data: \"cookies\"\r\nConnection: close, x-hop\r\nX-Hop: 1\r\n\r\n"
    )
}

#[tokio::test]
async fn upstream_cannot_set_or_delete_gateway_cookies() {
    for (status, path) in
        [("200 OK", "/"), ("302 Found", "/"), ("500 No", "/"), ("200 OK", "/public")]
    {
        let upstream = Upstream::with_response(cookie_setting_response(status)).await;
        let gateway = Gateway::start(Setup { routes: routes(&upstream), ..Setup::default() });
        let mut browser = Browser::new(&gateway);
        browser.log_in("alice").await;
        let token = browser.token();
        for h2 in [false, true] {
            browser.h2 = h2;
            let response = browser.fetch(path).await;
            assert!(status.starts_with(response.status.as_str()));
            assert_eq!(response.set_cookies(), ["app=1; Path=/", "other=2"]);
            let cleared = response.header("clear-site-data");
            assert!(!cleared.contains("cookies") && !cleared.contains('*'), "{cleared}");
            assert!(!response.headers.contains_key("x-hop"));
            assert_eq!(browser.token(), token);
        }
    }
}

#[tokio::test]
async fn upstream_trailers_cannot_set_gateway_cookies() {
    let response = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Set-Cookie, Grpc-Status\r\n\r\n5\r\nhello\r\n0\r\nSet-Cookie: __Host-doorward=dw1_planted\r\nClear-Site-Data: \"cookies\"\r\nDoorward-Session: end\r\nGrpc-Status: 0\r\n\r\n";
    let upstream = Upstream::with_response(response).await;
    let gateway = Gateway::start(Setup { routes: routes(&upstream), ..Setup::default() });
    let tls = TokioIo::new(Browser::new(&gateway).over_h2().connect().await);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), tls).await.expect("HTTP/2");
    tokio::spawn(connection);
    let request = Request::get("https://app.test/public").body(Full::<Bytes>::default());
    let response = sender.send_request(request.expect("a request")).await.expect("a response");
    let whole = response.into_body().collect().await.expect("a whole body");
    let trailers = whole.trailers().cloned().expect("gRPC needs its trailers");
    assert_eq!(trailers.get("grpc-status"), Some(&HeaderValue::from_static("0")));
    assert_eq!(trailers.len(), 1, "{trailers:?}");
    let raw =
        "GET /public HTTP/1.1\r\nHost: app.test\r\nTE: trailers\r\nConnection: close, te\r\n\r\n";
    let raw = Browser::new(&gateway).send_raw(raw.as_bytes()).await;
    assert!(raw.contains("hello") && !raw.contains("planted"), "{raw}");
}

// Forwarded headers

#[tokio::test]
async fn forwarded_headers_name_the_client() {
    let upstream = Upstream::start().await;
    let gateway =
        Gateway::start(Setup { routes: session_route(upstream.address), ..Setup::default() });
    let mut browser = Browser::new(&gateway);
    browser.log_in("alice").await;
    let claims = [
        ("x-forwarded-for", "203.0.113.9"),
        ("x-forwarded-for", "10.0.0.1"),
        ("x-forwarded-host", "evil.test"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-port", "1"),
        ("forwarded", "for=203.0.113.9;host=evil.test"),
        ("x-real-ip", "203.0.113.9"),
        ("x-original-url", "/admin"),
        ("x-rewrite-url", "/admin"),
        ("proxy-authorization", "Basic ZXZpbA=="),
        ("via", "1.0 squid"),
        ("authorization", "Basic YXBw"),
    ];
    for (h2, via) in [(false, "1.1 doorward"), (true, "2.0 doorward")] {
        browser.h2 = h2;
        assert_eq!(browser.send("GET", "/a?b=c", &claims, "").await.status, StatusCode::OK);
        let head = upstream.last_head();
        assert!(head.starts_with("GET /a?b=c HTTP/1.1\r\n"), "{head}");
        assert_eq!(upstream.last_values("host"), ["app.test"]);
        assert_eq!(upstream.last_values("x-forwarded-for"), ["127.0.0.1"]);
        assert_eq!(upstream.last_values("x-forwarded-host"), ["app.test"]);
        assert_eq!(upstream.last_values("x-forwarded-proto"), ["https"]);
        let forwarded = "for=127.0.0.1;host=\"app.test\";proto=https";
        assert_eq!(upstream.last_values("forwarded"), [forwarded]);
        assert_eq!(upstream.last_values("via"), ["1.0 squid", via]);
        // Credentials for the app are forwarded unchanged.
        assert_eq!(upstream.last_values("authorization"), ["Basic YXBw"]);
        for claim in ["203.0.113.9", "evil", "/admin", "ZXZpbA", "x-forwarded-port"] {
            assert!(!head.to_ascii_lowercase().contains(claim), "{claim} in {head}");
        }
    }
}

#[tokio::test]
async fn public_route_sends_forwarded_headers_but_no_identity() {
    let upstream = Upstream::with_response(HELLO).await;
    let gateway = Gateway::start(Setup { routes: routes(&upstream), ..Setup::default() });
    let mut browser = Browser::new(&gateway);
    browser.log_in("alice").await;
    assert_eq!(browser.fetch("/public").await.status, StatusCode::OK);
    assert_eq!(upstream.last_values("x-forwarded-for"), ["127.0.0.1"]);
    assert!(!upstream.last_head().contains("alice"), "{}", upstream.last_head());
}
