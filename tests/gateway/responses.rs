//! Response headers.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::framing::SMUGGLED;
use test_support::browser::{Browser, Response};
use test_support::gateway::{Gateway, Setup, manual_clock, session_route};
use test_support::upstream::Upstream;

/// A session route at `app.test` and public routes at `/public` and at `localhost`.
async fn start(response: &str, server: &str) -> (Upstream, Gateway) {
    let upstream = Upstream::with_response(response).await;
    let session = session_route(upstream.address);
    let public = session.replace("\"session\"", "\"public\"");
    let routes = [
        session,
        public.replace("path = \"/\"", "path = \"/public\""),
        public.replace("app.test", "localhost"),
    ]
    .concat();
    let gateway = Gateway::start(Setup { routes, server: server.to_owned(), ..Setup::default() });
    (upstream, gateway)
}

/// A response with server software headers and an HSTS header that disables HSTS.
const BANNER_HEADERS: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nServer: Apache/2.4.1 (Unix)\r\nX-Powered-By: PHP/5.3\r\nX-AspNet-Version: 4\r\nX-AspNetMvc-Version: 5\r\nStrict-Transport-Security: max-age=0\r\nProxy-Status: cache; hit\r\nConnection: x-one\r\nConnection: close, X-Two\r\nX-One: 1\r\nX-Two: 2\r\nX-Kept: 3\r\n\r\n";

/// One response of each kind: upstream, login, 401, 404, own page and 400.
async fn kinds(gateway: &Gateway, h2: bool) -> Vec<Response> {
    let mut alice = Browser::new(gateway);
    alice.h2 = h2;
    let login = alice.log_in("alice").await;
    let mut anonymous = Browser::new(gateway);
    anonymous.h2 = h2;
    let mut other_host = Browser::new(gateway);
    other_host.host = "other.test".to_owned();
    vec![
        login,
        alice.fetch("/").await,
        alice.fetch("/a//b").await,
        alice.send("POST", "/", &[("sec-fetch-site", "cross-site")], "").await,
        alice.navigate("/.doorward/sessions").await,
        anonymous.navigate("/").await,
        anonymous.fetch("/").await,
        anonymous.fetch("/public").await,
        anonymous.navigate("/.doorward/login").await,
        anonymous.navigate("/.doorward/style.css").await,
        other_host.fetch("/").await,
    ]
}

/// ASVS 3.4.1.
#[tokio::test]
async fn every_response_has_hsts() {
    let (_upstream, gateway) = start(BANNER_HEADERS, "").await;
    for h2 in [false, true] {
        for response in kinds(&gateway, h2).await {
            let lines: Vec<_> =
                response.headers.get_all("strict-transport-security").iter().collect();
            assert_eq!(lines, ["max-age=31536000"], "{}", response.status);
        }
    }
    // On localhost, HSTS would affect every other program of the developer.
    let mut local = Browser::new(&gateway);
    local.host = "localhost".to_owned();
    assert_eq!(local.fetch("/").await.header("strict-transport-security"), "max-age=0");
    for h2 in [false, true] {
        local.h2 = h2;
        let malformed = local.fetch("/a//b").await;
        assert_eq!(malformed.status, StatusCode::BAD_REQUEST);
        assert_eq!(malformed.header("strict-transport-security"), "");
    }
}

/// ASVS 3.4.1.
#[tokio::test]
async fn hsts_value_is_configurable() {
    let server = "hsts = \"max-age=60; includeSubDomains\"";
    let (_upstream, gateway) = start(BANNER_HEADERS, server).await;
    let response = Browser::new(&gateway).fetch("/public").await;
    assert_eq!(response.header("strict-transport-security"), "max-age=60; includeSubDomains");
    let (_upstream, gateway) = start(BANNER_HEADERS, "hsts = \"\"").await;
    let response = Browser::new(&gateway).fetch("/public").await;
    assert_eq!(response.header("strict-transport-security"), "max-age=0", "the app's own value");
    assert_eq!(Browser::new(&gateway).fetch("/").await.header("strict-transport-security"), "");
}

/// ASVS 13.4.6.
#[tokio::test]
async fn no_response_names_server_software() {
    let (_upstream, gateway) = start(BANNER_HEADERS, "").await;
    for h2 in [false, true] {
        for response in kinds(&gateway, h2).await {
            for name in ["server", "x-powered-by", "x-aspnet-version", "x-aspnetmvc-version"] {
                assert!(!response.headers.contains_key(name), "{name} in {:?}", response.headers);
            }
        }
    }
}

/// RFC 9110, section 7.6.1.
#[tokio::test]
async fn response_headers_named_by_connection_are_dropped() {
    let (_upstream, gateway) = start(BANNER_HEADERS, "").await;
    for h2 in [false, true] {
        let mut browser = Browser::new(&gateway);
        browser.h2 = h2;
        let response = browser.fetch("/public").await;
        for name in ["x-one", "x-two"] {
            assert!(!response.headers.contains_key(name), "{name}");
        }
        assert_eq!(response.header("x-kept"), "3");
        // RFC 9209, section 2: earlier `Proxy-Status` members are kept.
        assert_eq!(response.header("proxy-status"), "cache; hit");
    }
}

/// ASVS 14.3.2.
#[tokio::test]
async fn own_pages_are_no_store_and_have_a_strict_csp() {
    let (_upstream, gateway) = start(BANNER_HEADERS, "").await;
    let mut alice = Browser::new(&gateway);
    alice.log_in("alice").await;
    let mut anonymous = Browser::new(&gateway);
    let refused = anonymous.fetch("/").await;
    assert_eq!((refused.status.as_u16(), refused.header("cache-control")), (401, "no-store"));
    let pages = [
        anonymous.navigate("/.doorward/login").await,
        anonymous.navigate("/.doorward/logout").await,
        alice.navigate("/.doorward/sessions").await,
        alice.navigate("/.doorward/password").await,
        alice.navigate("/.doorward/logout").await,
    ];
    for page in pages {
        assert_eq!(page.header("cache-control"), "no-store");
        assert_eq!(page.header("x-content-type-options"), "nosniff");
        assert_eq!(page.header("x-frame-options"), "DENY");
        assert_eq!(page.header("referrer-policy"), "same-origin");
        assert_eq!(page.header("cross-origin-opener-policy"), "same-origin");
        assert_eq!(page.header("cross-origin-resource-policy"), "same-origin");
        let policy = page.header("content-security-policy");
        for rule in [
            "default-src 'none'",
            "frame-ancestors 'none'",
            "base-uri 'none'",
            "form-action 'self'",
        ] {
            assert!(policy.contains(rule), "{rule} in {policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
    }
    // An app may show an error page in its own frames. It has no form.
    let error = anonymous.navigate("/.doorward/none").await;
    assert_eq!(error.header("x-frame-options"), "SAMEORIGIN");
    let policy = error.header("content-security-policy");
    for rule in ["default-src 'none'", "frame-ancestors 'self'", "form-action 'none'"] {
        assert!(policy.contains(rule), "{rule} in {policy}");
    }
    assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
}

/// ASVS 14.2.2.
#[tokio::test]
async fn authenticated_responses_are_private_by_default() {
    let plain = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let (_upstream, gateway) = start(plain, "").await;
    let mut alice = Browser::new(&gateway);
    alice.log_in("alice").await;
    assert_eq!(alice.fetch("/").await.header("cache-control"), "private");
    assert_eq!(alice.fetch("/public").await.header("cache-control"), "");
    let cached =
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nCache-Control: public, max-age=60\r\n\r\n";
    let (_upstream, gateway) = start(cached, "").await;
    let mut alice = Browser::new(&gateway);
    alice.log_in("alice").await;
    assert_eq!(alice.fetch("/").await.header("cache-control"), "public, max-age=60");
}

/// ASVS 14.3.1.
#[tokio::test]
async fn logout_sends_clear_site_data() {
    let (_upstream, gateway) = start(BANNER_HEADERS, "").await;
    let mut alice = Browser::new(&gateway);
    alice.log_in("alice").await;
    let question = alice.navigate("/.doorward/logout").await;
    let out = alice.post_form("/.doorward/logout", &[("csrf", &question.form_field("csrf"))]).await;
    assert_eq!(out.status, StatusCode::OK);
    assert_eq!(out.header("clear-site-data"), "\"cache\", \"storage\"");
    assert!(alice.token().is_empty());
}

/// ASVS 14.3.1.
#[tokio::test]
async fn upstream_logout_gets_the_headers_of_our_own() {
    let cached = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nCache-Control: public, max-age=600\r\nCDN-Cache-Control: max-age=600\r\nSurrogate-Control: max-age=600\r\nClear-Site-Data: \"cookies\", \"executionContexts\"\r\n\r\n";
    let upstream = Upstream::with_response(cached).await;
    let rules = "[route.session]\nlogout_paths = [\"/logout\"]\n";
    let routes = format!("{}{rules}", session_route(upstream.address));
    let gateway = Gateway::start(Setup { routes, ..Setup::default() });
    for h2 in [false, true] {
        let mut alice = Browser::new(&gateway);
        alice.h2 = h2;
        alice.log_in("alice").await;
        assert_eq!(alice.fetch("/").await.header("cache-control"), "public, max-age=600");
        let out = alice.fetch("/logout").await;
        assert!(alice.token().is_empty());
        let all = |name| {
            let lines = out.headers.get_all(name).iter();
            lines.map(|line| line.to_str().expect("ASCII")).collect::<Vec<_>>().join(", ")
        };
        assert_eq!(all("cache-control"), "no-store");
        assert_eq!(all("cdn-cache-control") + &all("surrogate-control"), "");
        assert_eq!(all("clear-site-data"), "\"executionContexts\", \"cache\", \"storage\"");
    }
}

/// ASVS 14.3.2.
#[tokio::test]
async fn response_with_a_token_is_never_cacheable() {
    let cached = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nCache-Control: public, max-age=600\r\nX-CDN-Cache-Control: max-age=600\r\nSurrogate-Control: max-age=600\r\n\r\n";
    let upstream = Upstream::with_response(cached).await;
    let routes = session_route(upstream.address);
    let clock = manual_clock();
    let gateway = Gateway::start(Setup { routes, clock, ..Setup::default() });
    let mut alice = Browser::new(&gateway);
    alice.log_in("alice").await;
    gateway.advance(Duration::from_secs(11 * 60));
    let rotated = alice.fetch("/").await;
    assert_eq!(rotated.set_cookies().len(), 1, "{:?}", rotated.headers);
    assert_eq!(rotated.header("cache-control"), "no-store");
    for name in ["x-cdn-cache-control", "surrogate-control"] {
        assert!(!rotated.headers.contains_key(name), "{name}");
    }
}

/// RFC 6585, section 5.
#[tokio::test]
async fn too_many_headers_response_has_the_common_headers() {
    let upstream = Upstream::start().await;
    let routes = session_route(upstream.address);
    let limits = "headers = 16".to_owned();
    let gateway = Gateway::start(Setup { routes, limits, ..Setup::default() });
    let many: Vec<_> = (0..17).map(|number| format!("x-{number}")).collect();
    let many: Vec<_> = many.iter().map(|name| (name.as_str(), "1")).collect();
    let response = Browser::new(&gateway).over_h2().send("GET", "/", &many, "").await;
    assert_eq!(response.status, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    assert_eq!(response.header("cache-control"), "no-store");
    assert_eq!(response.header("strict-transport-security"), "max-age=31536000");
    assert_eq!(response.json()["request"], response.header("x-request-id"));
    let counted = "doorward_requests_total{verdict=\"malformed\",status=\"431\"} 1";
    let metrics = gateway.metrics().await;
    assert!(metrics.contains(counted), "{metrics}");
}

/// The HTTP library refuses these before the request handler is called.
#[tokio::test]
async fn an_unreadable_request_gets_a_reason_and_is_counted() {
    let (upstream, gateway) = start(BANNER_HEADERS, "").await;
    let browser = Browser::new(&gateway);
    let long = "x".repeat(40_000);
    for (number, (line, status, reason)) in [
        ("GET /public?query=up{job=\"x\"} HTTP/1.1\r\n", "400 Bad Request", "%22"),
        ("GET /public?a=<b> HTTP/1.1\r\n", "400 Bad Request", "%3C"),
        ("GET /public HTTP/1.1\r\nBad Name: 1\r\n", "400 Bad Request", "malformed"),
        (
            // Not even the request line is complete.
            &*format!("GET /public?{long} HTTP/1.1\r\n"),
            "431 Request Header Fields Too Large",
            "cookies",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let response = browser.send_raw(format!("{line}Host: app.test\r\n\r\n").as_bytes()).await;
        assert!(response.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{response}");
        let (head, body) = response.split_once("\r\n\r\n").expect("a head");
        assert!(body.contains(reason) && body.ends_with('\n'), "{response}");
        assert!(head.contains(&format!("content-length: {}", body.len())), "{response}");
        let code = status.split(' ').next().expect("a code");
        let count = if code == "400" { number + 1 } else { 1 };
        let counted =
            format!("doorward_requests_total{{verdict=\"malformed\",status=\"{code}\"}} {count}");
        timeout(Duration::from_secs(5), async {
            while !gateway.metrics().await.contains(&counted) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
        .unwrap_or_else(|_| panic!("{counted}"));
    }
    assert!(upstream.heads().is_empty());
    // Characters that only some programs refuse pass unchanged.
    let mut browser = Browser::new(&gateway);
    for query in ["/public?query=up{job='x'}", "/public?a=[1]|^`b\\"] {
        browser.fetch(query).await;
        assert!(upstream.last_head().starts_with(&format!("GET {query} HTTP/1.1")), "{query}");
    }
}

/// The HTTP library refuses it on HTTP/1.1, and the request handler on HTTP/2.
#[tokio::test]
async fn an_oversized_head_is_logged_with_its_path() {
    let upstream = Upstream::start().await;
    let routes = session_route(upstream.address);
    let gateway = Gateway::start(Setup { routes, access_log: true, ..Setup::default() });
    for (number, (h2, size)) in
        [(false, 40_000), (false, 200_000), (true, 40_000)].into_iter().enumerate()
    {
        let mut browser = Browser::new(&gateway);
        browser.h2 = h2;
        for method in ["GET", "HEAD"] {
            let path = format!("/{number}/{method}");
            let response = browser.send(method, &path, &[("x-large", &"x".repeat(size))], "").await;
            assert_eq!(response.status, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "{path}");
            let entry = gateway.access_log_entry(&path).await;
            assert_eq!(
                (&entry["status"], &entry["verdict"], &entry["host"]),
                (&431.into(), &"malformed".into(), &"app.test".into()),
                "{entry}"
            );
            assert_eq!(entry["request_id"], response.header("x-request-id"), "{entry}");
            assert_eq!(entry["detail"], "the request has too many headers", "{entry}");
        }
    }
    let metrics = gateway.metrics().await;
    assert!(
        metrics.contains("doorward_requests_total{verdict=\"malformed\",status=\"431\"} 6"),
        "{metrics}"
    );
    assert!(upstream.heads().is_empty());
}

/// The HTTP/2 library refuses these without a call of the request handler.
#[tokio::test]
async fn refusals_of_the_h2_library_are_logged_and_counted() {
    let upstream = Upstream::start().await;
    let start = || {
        let routes = session_route(upstream.address);
        Gateway::start(Setup { routes, access_log: true, ..Setup::default() })
    };
    let gateway = start();
    let mut browser = Browser::new(&gateway).over_h2();
    let response = browser.send("GET", "/", &[("x-large", &"x".repeat(100_000))], "").await;
    assert_eq!(response.status, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    is_logged(&gateway, 431, "the head is too large").await;
    // HPACK: :method GET, :scheme https, :path /, :authority app.test. The first one resets the stream, the second
    // one ends the connection.
    for field in [&b"\x40\x0aconnection\x01x"[..], b"\x40\x01A\x01b"] {
        let gateway = start();
        let mut stream = Browser::new(&gateway).over_h2().connect().await;
        let head = [&b"\x82\x87\x84\x41\x08app.test"[..], field].concat();
        let length = u8::try_from(head.len()).expect("short");
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        let frames = [&preface[..], &[0, 0, length, 1, 5, 0, 0, 0, 1], &*head].concat();
        stream.write_all(&frames).await.expect("sent");
        is_logged(&gateway, 400, "the head is malformed").await;
    }
}

/// Asserts that a request without a readable head has one entry.
async fn is_logged(gateway: &Gateway, status: u16, detail: &str) {
    let entry = gateway.access_log_entry("").await;
    assert_eq!(
        (&entry["status"], &entry["protocol"], &entry["detail"]),
        (&status.into(), &"HTTP/2".into(), &detail.into())
    );
    let counted = format!("doorward_requests_total{{verdict=\"malformed\",status=\"{status}\"}} 1");
    assert!(gateway.metrics().await.contains(&counted), "{counted}");
}

/// RFC 9110, section 15.5.6.
#[tokio::test]
async fn unsupported_method_is_405_with_allow() {
    let (_upstream, gateway) = start(BANNER_HEADERS, "").await;
    for h2 in [false, true] {
        let mut browser = Browser::new(&gateway);
        browser.h2 = h2;
        for (method, path, allowed) in [
            ("TRACE", "/public", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
            ("PUT", "/.doorward/login", "GET, HEAD, POST"),
            ("DELETE", "/.doorward/session", "GET, HEAD"),
            ("POST", "/.doorward/session", "GET, HEAD"),
        ] {
            let response = browser.send(method, path, &[], "").await;
            assert_eq!(response.status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
            assert_eq!(response.header("allow"), allowed, "{method} {path}");
        }
    }
}

/// RFC 9209, section 4.
#[tokio::test]
async fn proxy_status_details_can_be_disabled() {
    for (server, is_present) in [("", true), ("proxy_status = false", false)] {
        let (_upstream, gateway) = start(BANNER_HEADERS, server).await;
        let mut browser = Browser::new(&gateway);
        assert_eq!(browser.fetch("/public").await.headers.contains_key("proxy-status"), is_present);
        let round = [("via", &*["1.1 doorward"; 8].join(", "))];
        let response = browser.send("GET", "/public", &round, "").await;
        assert_eq!(response.status, StatusCode::BAD_GATEWAY);
        assert_eq!(response.headers.contains_key("proxy-status"), is_present, "{server}");
    }
}

/// RFC 9110, section 15.2.
/// The HTTP library cannot send informational responses on HTTP/1.1, so the gateway drops them.
#[tokio::test]
async fn early_hints_are_dropped_and_the_response_follows() {
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nSet-Cookie: __Host-doorward=x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
    let (_upstream, gateway) = start(hints, "").await;
    for h2 in [false, true] {
        let mut browser = Browser::new(&gateway);
        browser.h2 = h2;
        let response = browser.fetch("/public").await;
        assert_eq!((response.status, response.text().as_str()), (StatusCode::OK, "hello"));
        assert!(response.set_cookies().is_empty() && !response.headers.contains_key("link"));
    }
}

/// RFC 9110, section 7.6.2.
#[tokio::test]
async fn max_forwards_counts_down_and_stops_at_zero() {
    let (upstream, gateway) = start(BANNER_HEADERS, "").await;
    for h2 in [false, true] {
        let mut browser = Browser::new(&gateway);
        browser.h2 = h2;
        let mut left = async |method, value| {
            let response = browser.send(method, "/public", &[("max-forwards", value)], "").await;
            (response.status.as_u16(), upstream.last_values("max-forwards"))
        };
        assert_eq!(left("OPTIONS", "5").await, (200, vec!["4".to_owned()]));
        let before = upstream.heads().len();
        for zero in ["0", "00", " 000 "] {
            assert_eq!(left("OPTIONS", zero).await.0, 204, "{zero}");
        }
        assert_eq!(upstream.heads().len(), before, "the app received the request");
        assert_eq!(left("GET", "0").await, (200, vec!["0".to_owned()]), "of no meaning there");
        let end = browser.send("OPTIONS", "/public", &[("max-forwards", "0")], "").await;
        assert_eq!(end.header("cache-control"), "no-store");
    }
}

/// RFC 9209, section 2.3.27.
#[tokio::test]
async fn proxy_loop_is_detected() {
    let (upstream, gateway) = start(BANNER_HEADERS, "").await;
    let rounds = ["1.1 doorward"; 8].join(", ");
    let mut browser = Browser::new(&gateway);
    let response = browser.send("GET", "/public", &[("via", &rounds)], "").await;
    assert_eq!(response.status, StatusCode::BAD_GATEWAY);
    assert_eq!(response.header("proxy-status"), "doorward; error=proxy_loop_detected");
    assert!(upstream.heads().is_empty());
}

/// An upstream that responds before it reads the body and keeps its connection open.
async fn early_response_upstream() -> (std::net::SocketAddr, Arc<Mutex<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let received = Arc::new(Mutex::new(String::new()));
    let record = Arc::clone(&received);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let record = Arc::clone(&record);
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                let mut responded = false;
                while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                    let text = String::from_utf8_lossy(&buffer[..read]).into_owned();
                    record.lock().expect("no panic").push_str(&text);
                    if !responded {
                        responded = true;
                        let no = b"HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n";
                        stream.write_all(no).await.expect("sent");
                    }
                }
            });
        }
    });
    (address, received)
}

/// CVE-2025-4366.
#[tokio::test]
async fn early_upstream_response_closes_the_client_connection() {
    let (address, received) = early_response_upstream().await;
    let routes = session_route(address).replace("\"session\"", "\"public\"");
    let gateway = Gateway::start(Setup { routes, ..Setup::default() });
    // The rest of the body contains another request.
    let request =
        format!("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 100000\r\n\r\n{SMUGGLED}");
    let mut stream = Browser::new(&gateway).connect().await;
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut response = Vec::new();
    let closed = timeout(Duration::from_secs(10), stream.read_to_end(&mut response)).await;
    assert!(closed.is_ok(), "the connection stays open");
    let response = String::from_utf8_lossy(&response).into_owned();
    assert_eq!(response.matches("HTTP/1.1 ").count(), 1, "{response}");
    assert!(response.starts_with("HTTP/1.1 413 "), "{response}");
    // The next client must not get the connection with the unfinished body.
    let next = Browser::new(&gateway).fetch("/next").await;
    assert_eq!(next.status.as_u16(), 413);
    let received = received.lock().expect("no panic").clone();
    assert_eq!(received.matches("GET /next HTTP/1.1").count(), 1, "{received}");
    assert_eq!(
        received.matches(" HTTP/1.1\r\n").count() - received.matches("/smuggled").count(),
        2
    );
}

/// RFC 9110 9.3.2.
#[tokio::test]
async fn local_response_to_head_has_no_content() {
    let upstream = Upstream::start().await;
    let gateway =
        Gateway::start(Setup { routes: session_route(upstream.address), ..Setup::default() });
    let mut anonymous = Browser::new(&gateway);
    for h2 in [false, true] {
        anonymous.h2 = h2;
        for (path, status) in
            [("/", 401), ("/.doorward/login", 200), ("/.doorward/none", 404), ("/a/../b", 400)]
        {
            let response = anonymous.send("HEAD", path, &[], "").await;
            assert_eq!(response.status.as_u16(), status, "{path}");
            assert!(response.body.is_empty());
            let length: u64 = response.header("content-length").parse().expect("a length");
            assert!(length > 10, "{path}: {length}");
        }
    }
}
