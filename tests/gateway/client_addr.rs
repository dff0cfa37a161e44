//! Client address and request ID behind a trusted proxy, and the PROXY protocol.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use doorward::tls::dev_ca;
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use test_support::browser::Browser;
use test_support::gateway::{Gateway, Setup, prepare_directory, session_route};
use test_support::upstream::Upstream;

/// Starts a gateway with a public route and these keys in `[server]`.
async fn behind(server: &str) -> (Upstream, Gateway) {
    let upstream = Upstream::start().await;
    let routes = session_route(upstream.address).replace("\"session\"", "\"public\"");
    // The connection is closed at once, not at the handshake timeout.
    let limits = "connection_rate = 1000000\nhandshake_timeout = \"10m\"".to_owned();
    let server = server.to_owned();
    let gateway = Gateway::start(Setup { routes, server, limits, ..Setup::default() });
    (upstream, gateway)
}

const TRUSTED: &str = "trusted_proxies = [\"127.0.0.1\", \"10.0.0.0/8\"]";

#[tokio::test]
async fn trusted_proxy_headers_are_used_and_rewritten() {
    let (upstream, gateway) = behind(TRUSTED).await;
    let mut browser = Browser::new(&gateway);
    for (headers, received, forwarded) in [
        ("203.0.113.9", "203.0.113.9", "for=203.0.113.9;host=\"app.test\";proto=https"),
        (
            "1.1.1.1, 203.0.113.9, 10.9.9.9",
            "203.0.113.9",
            "for=203.0.113.9;host=\"app.test\";proto=https",
        ),
        ("2001:db8::9", "2001:db8::9", "for=\"[2001:db8::9]\";host=\"app.test\";proto=https"),
        ("::ffff:203.0.113.9", "203.0.113.9", "for=203.0.113.9;host=\"app.test\";proto=https"),
        ("nonsense", "127.0.0.1", "for=127.0.0.1;host=\"app.test\";proto=https"),
    ] {
        for h2 in [false, true] {
            browser.h2 = h2;
            let claims = [
                ("x-forwarded-for", headers),
                ("x-forwarded-host", "evil.test"),
                ("x-forwarded-proto", "http"),
            ];
            assert_eq!(browser.send("GET", "/", &claims, "").await.status.as_u16(), 200);
            assert_eq!(upstream.last_values("x-forwarded-for"), [received]);
            assert_eq!(upstream.last_values("forwarded"), [forwarded]);
            assert!(!upstream.last_head().contains("evil"), "{}", upstream.last_head());
        }
    }
}

/// Headers and the client address they give, or the reason for their rejection.
type Case<'a> = (&'a [(&'a str, &'a str)], Result<&'a str, &'a str>);

/// RFC 7239.
#[tokio::test]
async fn trusted_proxy_may_send_one_unambiguous_forwarded() {
    let (upstream, gateway) = behind(TRUSTED).await;
    let mut browser = Browser::new(&gateway);
    let long = ["203.0.113.9"; 33].join(",");
    let cases: [Case<'_>; 8] = [
        (&[("forwarded", "for=1.1.1.1, for=\"[2001:db8::9]:1\", for=10.9.9.9")], Ok("2001:db8::9")),
        (&[("forwarded", "for=1.1.1.1"), ("forwarded", "for=203.0.113.9")], Ok("203.0.113.9")),
        (&[("forwarded", "for=1.1.1.1, for=_hidden")], Ok("127.0.0.1")),
        (
            &[("forwarded", "for=203.0.113.9"), ("x-forwarded-for", "203.0.113.9")],
            Ok("203.0.113.9"),
        ),
        // The proxy set one of the two headers and forwarded its client's other one.
        (&[("forwarded", "for=203.0.113.9"), ("x-forwarded-for", "1.1.1.1")], Err("different")),
        // The client opened a quoted string that swallows the proxy's own element.
        (&[("forwarded", "for=1.1.1.1;by=\"x, for=203.0.113.9")], Err("malformed")),
        (&[("forwarded", "for=1.1.1.1;for=203.0.113.9")], Err("malformed")),
        (&[("x-forwarded-for", &long)], Err("32 hops")),
    ];
    for (fields, expected) in cases {
        for h2 in [false, true] {
            browser.h2 = h2;
            let before = upstream.heads().len();
            let response = browser.send("GET", "/", fields, "").await;
            match expected {
                Ok(client) => {
                    assert_eq!(response.status, StatusCode::OK, "{fields:?}");
                    assert_eq!(upstream.last_values("x-forwarded-for"), [client], "{fields:?}");
                }
                Err(why) => {
                    assert_eq!(response.status, StatusCode::BAD_REQUEST, "{fields:?}");
                    let reason = response.json()["reason"].to_string();
                    assert!(reason.contains(why), "{reason}");
                    assert_eq!(upstream.heads().len(), before, "the app received the request");
                }
            }
        }
    }
    // Headers of untrusted clients are ignored, so they are not ambiguous.
    let (upstream, gateway) = behind("").await;
    let fields = [("forwarded", "for=\""), ("x-forwarded-for", &*long)];
    let response = Browser::new(&gateway).send("GET", "/", &fields, "").await;
    assert_eq!(response.status, StatusCode::OK);
    assert_eq!(upstream.last_values("x-forwarded-for"), ["127.0.0.1"]);
}

#[tokio::test]
async fn request_id_is_generated_unless_a_trusted_proxy_sent_one() {
    let (upstream, gateway) = behind("").await;
    let mut browser = Browser::new(&gateway);
    let mut names = Vec::new();
    for h2 in [false, true] {
        browser.h2 = h2;
        for claim in ["chosen-by-a-client", "x", "<b>"] {
            let fields = [("x-request-id", claim), ("x_request_id", claim)];
            browser.send("GET", "/", &fields, "").await;
            let received = upstream.last_values("x-request-id");
            assert!(received.len() == 1 && received[0].len() == 16, "{received:?}");
            names.extend(received);
        }
    }
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 6, "each request has a name of its own");
    let (upstream, gateway) = behind(TRUSTED).await;
    let mut browser = Browser::new(&gateway);
    browser.send("GET", "/", &[("x-request-id", "from-the-edge_1.a")], "").await;
    assert_eq!(upstream.last_values("x-request-id"), ["from-the-edge_1.a"]);
    browser.send("GET", "/", &[("x-request-id", "not plain")], "").await;
    assert_eq!(upstream.last_values("x-request-id")[0].len(), 16);
}

#[tokio::test]
async fn request_id_is_shown_on_every_error_page() {
    let (_upstream, gateway) = behind("").await;
    let mut browser = Browser::new(&gateway);
    browser.host = "other.test".to_owned();
    let json = browser.fetch("/").await;
    assert_eq!((json.status.as_u16(), json.header("x-request-id").len()), (404, 16));
    assert_eq!(json.json()["request"], json.header("x-request-id"));
    let page = browser.navigate("/").await;
    let name = page.header("x-request-id").to_owned();
    assert!(name.len() == 16 && page.text().contains(&name), "{}", page.text());
    browser.host = "app.test".to_owned();
    let malformed = browser.fetch("/a//b").await;
    assert_eq!(malformed.json()["request"], malformed.header("x-request-id"));
    assert_ne!(malformed.header("x-request-id"), name);
}

// The PROXY protocol

const WITH_PROXY_PROTOCOL: &str = "trusted_proxies = [\"127.0.0.1\"]\nproxy_protocol = true";
const LINE: &[u8] = b"PROXY TCP4 203.0.113.9 192.0.2.1 32768 443\r\n";

/// Version 2, TCP over IPv6, from 2001:db8::9.
fn version_2() -> Vec<u8> {
    let mut out = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24".to_vec();
    for address in ["2001:db8::9", "2001:db8::1"] {
        let address: std::net::Ipv6Addr = address.parse().expect("an address");
        out.extend(address.octets());
    }
    out.extend([0x80, 0, 0x01, 0xbb]);
    out
}

/// Sends bytes without TLS and returns the response until the gateway closes.
async fn exchange(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    let mut response = Vec::new();
    let whole = async {
        stream.write_all(bytes).await?;
        stream.read_to_end(&mut response).await
    };
    // A reset also counts as closed.
    let _closed: io::Result<usize> =
        timeout(Duration::from_secs(15), whole).await.expect("the gateway closes");
    String::from_utf8_lossy(&response).into_owned()
}

#[tokio::test]
async fn proxy_protocol_sets_the_client_address() {
    let (upstream, gateway) = behind(WITH_PROXY_PROTOCOL).await;
    let mut browser = Browser::new(&gateway);
    for (introduction, client) in [(LINE.to_vec(), "203.0.113.9"), (version_2(), "2001:db8::9")] {
        browser.proxy_header = introduction;
        for h2 in [false, true] {
            browser.h2 = h2;
            let claims = [("x-forwarded-for", "198.51.100.1"), ("x-request-id", "mine")];
            assert_eq!(browser.send("GET", "/", &claims, "").await.status, StatusCode::OK);
            assert_eq!(upstream.last_values("x-forwarded-for"), [client]);
            assert_ne!(
                upstream.last_values("x-request-id"),
                ["mine"],
                "the client is no trusted proxy"
            );
        }
    }
    browser.proxy_header = b"PROXY UNKNOWN\r\n".to_vec();
    assert_eq!(browser.fetch("/").await.status, StatusCode::OK);
    assert_eq!(upstream.last_values("x-forwarded-for"), ["127.0.0.1"], "the proxy itself");
}

#[tokio::test]
async fn proxy_protocol_header_is_required_from_trusted_proxies() {
    let (upstream, gateway) = behind(WITH_PROXY_PROTOCOL).await;
    for bytes in [
        &b"\x16\x03\x01\x00\xf4\x01\x00\x00\xf0\x03\x03 a ClientHello"[..],
        b"GET / HTTP/1.1\r\n\r\n",
    ] {
        assert_eq!(exchange(gateway.address, bytes).await, "");
    }
    // From an address that is not a trusted proxy.
    let strange = "trusted_proxies = [\"10.0.0.0/8\"]\nproxy_protocol = true";
    let (_upstream, strange) = behind(strange).await;
    assert_eq!(exchange(strange.address, LINE).await, "");
    // Without `proxy_protocol`, the header is invalid TLS.
    let (_upstream, plain) = behind(TRUSTED).await;
    assert!(!exchange(plain.address, LINE).await.contains("HTTP"));
    assert!(upstream.heads().is_empty());
}

/// Every request of such a connection comes from the client, also that of a proxy's own health check.
#[tokio::test]
async fn proxy_protocol_leaves_forwarded_headers_unread() {
    let (upstream, gateway) = behind(WITH_PROXY_PROTOCOL).await;
    let unknown: &[u8] = b"PROXY UNKNOWN\r\n";
    let local: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";
    let trusted: &[u8] = b"PROXY TCP4 10.1.2.3 10.0.0.1 1 2\r\n";
    for (header, client) in [(unknown, "127.0.0.1"), (local, "127.0.0.1"), (trusted, "10.1.2.3")] {
        for h2 in [false, true] {
            let mut browser = Browser::new(&gateway);
            (browser.h2, browser.proxy_header) = (h2, header.to_vec());
            let claims = [
                ("x-forwarded-for", "203.0.113.9"),
                ("forwarded", "for=203.0.113.8"),
                ("x-request-id", "00000000000000aa"),
            ];
            assert_eq!(browser.send("GET", "/", &claims, "").await.status.as_u16(), 200);
            assert_eq!(upstream.last_values("x-forwarded-for"), [client]);
            assert_ne!(upstream.last_values("x-request-id"), ["00000000000000aa"]);
        }
    }
}

/// A balancer that writes one header may pass the client's other one.
#[tokio::test]
async fn forwarded_header_names_the_header_that_is_read() {
    for (header, client) in [("x-forwarded-for", "203.0.113.9"), ("forwarded", "198.51.100.7")] {
        let (upstream, gateway) =
            behind(&format!("{TRUSTED}\nforwarded_header = \"{header}\"")).await;
        let mut browser = Browser::new(&gateway);
        let headers = [("x-forwarded-for", "203.0.113.9"), ("forwarded", "for=198.51.100.7")];
        assert_eq!(browser.send("GET", "/", &headers, "").await.status.as_u16(), 200);
        assert_eq!(upstream.last_values("x-forwarded-for"), [client]);
    }
}

#[tokio::test]
async fn upstream_sees_only_ports_of_the_gateway() {
    let (upstream, gateway) = behind("public_port = 9443").await;
    let own = format!("app.test:{}", gateway.address.port());
    for (host, seen) in [
        ("app.test", "app.test"),
        ("app.test:9443", "app.test:9443"),
        (&*own, &*own),
        ("app.test:1", "app.test"),
        ("app.test:443", "app.test"),
    ] {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let response = Browser::new(&gateway).send_raw(request.as_bytes()).await;
        assert!(response.starts_with("HTTP/1.1 200"), "{response}");
        for name in ["host", "x-forwarded-host"] {
            assert_eq!(upstream.last_values(name), [seen], "{name}");
        }
        let forwarded = format!("for=127.0.0.1;host=\"{seen}\";proto=https");
        assert_eq!(upstream.last_values("forwarded"), [forwarded]);
    }
}

#[tokio::test]
async fn missing_proxy_protocol_header_releases_its_permit() {
    let setup = Setup {
        routes: session_route("127.0.0.1:1".parse().expect("an address")),
        server: WITH_PROXY_PROTOCOL.to_owned(),
        limits: "handshake_timeout = \"300ms\"".to_owned(),
        ..Setup::default()
    };
    let gateway = Gateway::start(setup);
    assert_eq!(exchange(gateway.address, b"PROXY TCP4 203.0").await, "");
    assert_eq!(exchange(gateway.http, b"").await, "");
}

#[tokio::test]
async fn proxy_protocol_works_on_the_plain_http_listener() {
    let (_upstream, gateway) = behind(WITH_PROXY_PROTOCOL).await;
    let request = b"GET /a HTTP/1.1\r\nHost: app.test\r\n\r\n";
    let response = exchange(gateway.http, &[LINE, request].concat()).await;
    assert!(response.starts_with("HTTP/1.1 307 "), "{response}");
    assert_eq!(exchange(gateway.http, request).await, "");
}

#[tokio::test]
async fn connection_limits_count_proxy_protocol_clients() {
    let setup = Setup {
        routes: session_route("127.0.0.1:1".parse().expect("an address")),
        server: WITH_PROXY_PROTOCOL.to_owned(),
        limits: "connections_per_network = 1\nhandshake_timeout = \"10m\"".to_owned(),
        ..Setup::default()
    };
    let gateway = Gateway::start(setup);
    let mut one = Browser::new(&gateway);
    one.proxy_header = LINE.to_vec();
    let _held = one.connect().await;
    assert_eq!(exchange(gateway.address, LINE).await, "", "a second of the same client");
    let mut other = Browser::new(&gateway);
    other.proxy_header = version_2();
    let _also = other.connect().await;
}

// Hosts and certificates

/// RFC 9110, section 7.4.
#[tokio::test]
async fn host_of_another_certificate_is_421() {
    let upstream = Upstream::start().await;
    let (directory, second) = (prepare_directory(), tempfile::tempdir().expect("a directory"));
    dev_ca::make(second.path(), &["second.test".to_owned()]).expect("certificates");
    let at = |name: &str| second.path().join(name).display().to_string();
    let public = session_route(upstream.address).replace("\"session\"", "\"public\"");
    let routes = ["app.test", "other.test", "second.test"]
        .map(|host| public.replace("app.test", host))
        .concat();
    let gateway = Gateway::start(Setup {
        routes,
        extra: format!(
            "[[tls.certificate]]\ncert = \"{}\"\nkey = \"{}\"",
            at("doorward.pem"),
            at("doorward.key")
        ),
        shared_directory: Some(directory),
        ..Setup::default()
    });
    let first = Browser::new(&gateway);
    let mut of_second = Browser::at_address(gateway.address, &second.path().join("ca.pem"));
    of_second.host = "second.test".to_owned();
    for (browser, host, status) in [
        (&first, "app.test", 200),
        // A browser may reuse a connection for all hosts of its certificate.
        (&first, "other.test", 200),
        (&first, "second.test", 421),
        (&of_second, "second.test", 200),
        (&of_second, "SECOND.test.", 200),
        (&of_second, "app.test", 421),
    ] {
        let raw = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let response = browser.send_raw(raw.as_bytes()).await;
        assert!(response.starts_with(&format!("HTTP/1.1 {status} ")), "{host}: {response}");
        assert_eq!(over_h2(browser, host).await, status, "{host} on HTTP/2");
    }
    assert_eq!(upstream.heads().len(), 8);
}

/// Requests a host on a connection opened for the browser's own host.
async fn over_h2(browser: &Browser, host: &str) -> u16 {
    let tls = TokioIo::new(browser.clone().over_h2().connect().await);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), tls).await.expect("HTTP/2");
    tokio::spawn(connection);
    let request = Request::get(format!("https://{host}/")).body(Empty::<Bytes>::new());
    let response = sender.send_request(request.expect("a request")).await;
    response.expect("a response").status().as_u16()
}
