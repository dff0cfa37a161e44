//! Request framing: raw bytes in, and the request that the upstream received. The HYP numbers are those of the
//! review in `docs/proxy-vulnerabilities.md`.

use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use test_support::browser::Browser;
use test_support::gateway::{Gateway, Setup};
use test_support::upstream::{Upstream, header_values};

/// A gateway with a public route, so that only framing can cause a rejection.
pub(super) struct FramingTest {
    pub(super) upstream: Upstream,
    // Stops when dropped.
    _gateway: Gateway,
    pub(super) browser: Browser,
}

/// Sent after an ambiguous request; a response to it, or its arrival at the upstream, is request smuggling.
pub(super) const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: app.test\r\n\r\n";

pub(super) async fn framing_test() -> FramingTest {
    let upstream = Upstream::start().await;
    let routes = format!(
        "[[route]]\nhost = \"app.test\"\npath = \"/\"\nupstream = \"http://{}\"\naccess = \"public\"\n",
        upstream.address
    );
    let gateway = Gateway::start(Setup { routes, ..Setup::default() });
    let browser = Browser::new(&gateway);
    FramingTest { upstream, _gateway: gateway, browser }
}

impl FramingTest {
    /// Sends bytes and returns the statuses of all responses.
    pub(super) async fn send(&self, bytes: impl AsRef<[u8]>) -> Vec<u16> {
        let response = self.browser.send_raw(bytes.as_ref()).await;
        let heads = response.split("HTTP/1.").skip(1);
        heads.map(|head| head[2..5].parse().expect("a status")).collect()
    }

    /// Asserts that a request is rejected, does not reach the upstream and ends its connection.
    pub(super) async fn assert_rejected(&self, status: u16, bytes: impl AsRef<[u8]>) {
        let shown = String::from_utf8_lossy(bytes.as_ref()).into_owned();
        let before = self.upstream.heads().len();
        let responses = self.send([bytes.as_ref(), SMUGGLED.as_bytes()].concat()).await;
        assert_eq!(responses, [status], "{shown}");
        assert_eq!(self.upstream.heads().len(), before, "{shown}");
    }

    /// Sends a request, asserts that it is served and returns the head that reached the upstream.
    pub(super) async fn assert_forwarded(&self, bytes: impl AsRef<[u8]>) -> String {
        let shown = String::from_utf8_lossy(bytes.as_ref()).into_owned();
        let before = self.upstream.heads().len();
        assert_eq!(self.send(bytes).await, [200], "{shown}");
        assert_eq!(self.upstream.heads().len(), before + 1, "{shown}");
        self.upstream.last_head()
    }
}

/// Builds a GET with additional headers that closes the connection.
pub(super) fn get(target: &str, fields: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n{fields}\r\n")
}

pub(super) fn post(fields: &str, body: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: app.test\r\n{fields}\r\n{body}")
}

/// HYP-01.
#[tokio::test]
async fn content_length_with_chunked_closes_the_connection() {
    let test = framing_test().await;
    let body = format!("0\r\n\r\n{SMUGGLED}");
    let length = format!("Content-Length: {}\r\n", body.len());
    let chunked = "Transfer-Encoding: chunked\r\n";
    for fields in [format!("{length}{chunked}"), format!("{chunked}{length}")] {
        let responses = test.send(post(&fields, &body)).await;
        assert_eq!(responses.len(), 1, "{responses:?}");
    }
    for head in test.upstream.heads() {
        let both = header_values(&head, "content-length").len()
            + header_values(&head, "transfer-encoding").len();
        assert!(both <= 1 && !head.contains("/smuggled"), "{head}");
    }
}

/// HYP-02, HYP-03, HYP-04.
#[tokio::test]
async fn transfer_codings_other_than_chunked_are_rejected() {
    let test = framing_test().await;
    let chunks = "4\r\nbody\r\n0\r\n\r\n";
    for value in ["gzip, chunked", "chunked, chunked", "identity, chunked", "chunked, identity"] {
        test.assert_rejected(400, post(&format!("Transfer-Encoding: {value}\r\n"), chunks)).await;
    }
    for lines in [
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: \u{b}chunked\r\n",
        "Transfer-Encoding: xchunked\r\n",
    ] {
        test.assert_rejected(400, post(lines, chunks)).await;
    }
}

/// HYP-05, HYP-06.
#[tokio::test]
async fn headers_with_underscores_carry_no_framing_or_identity() {
    let test = framing_test().await;
    let fields = "Transfer_Encoding: chunked\r\nContent_Length: 50\r\nX_Forwarded_User: evil\r\nConnection: close\r\n";
    let head = test.assert_forwarded(post(fields, "")).await;
    assert!(!head.contains('_') && !head.contains("evil"), "{head}");
    let responses = test.send(post(fields, &format!("0\r\n\r\n{SMUGGLED}"))).await;
    assert_eq!(responses.len(), 1, "{responses:?}");
    assert!(!test.upstream.heads().concat().contains("/smuggled"));
}

/// HYP-07, HYP-08, HYP-09.
#[tokio::test]
async fn exactly_one_valid_host_is_required() {
    let test = framing_test().await;
    for lines in [
        "",
        "Host: app.test\r\nHost: app.test\r\n",
        "Host: app.test\r\nHost: evil.test\r\n",
        "Host: app.test, evil.test\r\n",
        "Host: user@app.test\r\n",
        "Host: app.test/x\r\n",
        "Host: app.test?x\r\n",
        "Host: app.test#x\r\n",
        "Host: app test\r\n",
        "Host: app.test:\r\n",
        "Host: app.test:99999\r\n",
        "Host: app.test:+443\r\n",
        "Host: app%2etest\r\n",
        "Host: \r\n",
        "Host:\r\n",
    ] {
        test.assert_rejected(400, format!("GET / HTTP/1.1\r\n{lines}\r\n")).await;
    }
    test.assert_rejected(400, b"GET / HTTP/1.1\r\nHost: app.t\xc3\xa9st\r\n\r\n").await;
}

/// HYP-10.
#[tokio::test]
async fn absolute_target_must_match_host() {
    let test = framing_test().await;
    let request = |target: &str, host: &str| {
        format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
    };
    test.assert_rejected(400, request("https://evil.test/", "app.test")).await;
    test.assert_rejected(400, request("https://app.test/", "evil.test")).await;
    test.assert_rejected(400, request("https://app.test:444/", "app.test")).await;
    test.assert_rejected(400, request("https://user@app.test/", "app.test")).await;
    let head = test.assert_forwarded(request("https://app.test/a?b", "app.test")).await;
    assert!(head.starts_with("GET /a?b HTTP/1.1\r\n"), "{head}");
    assert_eq!(header_values(&head, "host"), ["app.test"]);
    let head = test.assert_forwarded(request("https://app.test", "app.test")).await;
    assert!(head.starts_with("GET / HTTP/1.1\r\n"), "{head}");
}

/// HYP-14.
/// The HTTP library removes fragments on both protocols, so they cannot be rejected. Route selection and forwarding
/// use the same bytes without the fragment.
#[tokio::test]
async fn fragment_in_target_never_reaches_the_upstream() {
    let test = framing_test().await;
    for (target, line) in [
        ("/a#b", "GET /a HTTP/1.1"),
        ("/a#/../admin", "GET /a HTTP/1.1"),
        ("/a#?x", "GET /a HTTP/1.1"),
        ("/a?b#c", "GET /a?b HTTP/1.1"),
        ("https://app.test/a#@evil.test/", "GET /a HTTP/1.1"),
    ] {
        let head = test.assert_forwarded(get(target, "")).await;
        assert_eq!(head.lines().next(), Some(line), "{target}");
        if target.starts_with('/') {
            assert_eq!(test.block(&with(":path", target)).await, H2::Ok, "{target}");
            assert_eq!(test.upstream.last_head().lines().next(), Some(line), "{target} on HTTP/2");
        }
    }
    for target in ["/a/..#b", "/a//b#c", "#", "#/a"] {
        test.assert_rejected(400, get(target, "")).await;
    }
    for target in ["/a/..#b", "/a//b#c"] {
        test.assert_h2_rejected(&with(":path", target)).await;
    }
    // The rest is empty, which the HTTP/2 library reads as the root path.
    assert_eq!(test.block(&with(":path", "#/a")).await, H2::Ok);
    assert!(
        test.upstream.last_head().starts_with("GET / HTTP/1.1"),
        "{}",
        test.upstream.last_head()
    );
}

/// HYP-15, HYP-23.
#[tokio::test]
async fn target_must_be_a_path_and_connect_trace_are_rejected() {
    let test = framing_test().await;
    for target in ["foo", "app.test:443", "app.test", "http://app.test/", "ftp://app.test/", "*"] {
        test.assert_rejected(400, get(target, "")).await;
    }
    test.assert_rejected(400, "OPTIONS * HTTP/1.1\r\nHost: app.test\r\n\r\n").await;
    test.assert_rejected(405, "TRACE / HTTP/1.1\r\nHost: app.test\r\n\r\n").await;
    test.assert_rejected(405, "CONNECT app.test:443 HTTP/1.1\r\nHost: app.test:443\r\n\r\n").await;
    test.assert_rejected(405, "CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: 127.0.0.1:22\r\n\r\n").await;
}

/// HYP-16, HYP-17.
#[tokio::test]
async fn ambiguous_paths_are_rejected() {
    let test = framing_test().await;
    for target in [
        "/a\\b",
        "/a%5cb",
        "/a/..;/b",
        "/a;d=1",
        "/a%3bd=1",
        "/..",
        "/../b",
        "/a/../b",
        "/a/./b",
        "/a/%2e%2e/b",
        "/a/.%2E/b",
        "//b",
        "/a//b",
        "/%2fb",
        "/a%2Fb",
        "/a%252fb",
        "/a%25%32%66b",
        "/a%00b",
        "/a%0ab",
        "/a%c0%af",
        "/a%ff",
        "/a%",
        "/a%4",
        "/a%zz",
        "/a%7f",
        "//evil.test/%2e%2e",
    ] {
        test.assert_rejected(400, get(target, "")).await;
    }
    for raw in ["/\u{e9}", "/\u{ff0f}b", "/a?\u{e9}", "/a?b=\u{ff0f}"] {
        test.assert_rejected(400, get(raw, "")).await;
    }
    // Encoded as browsers do.
    let query = "/a?path=C:\\x&q={[1|2]}^`";
    assert!(
        test.assert_forwarded(get(query, "")).await.starts_with(&format!("GET {query} HTTP/1.1"))
    );
}

/// HYP-17.
#[tokio::test]
async fn path_bytes_are_forwarded_unchanged() {
    let test = framing_test().await;
    for target in [
        "/",
        "/a/",
        "/a%20b/%C3%A9/%c3%a9",
        "/a/b.c/..d/e..",
        "/a?x=/../;//\\%2f%00#".trim_end_matches('#'),
        "/?",
        "/a?b?c",
        "/%41~!$&'()*+,=:@",
    ] {
        let head = test.assert_forwarded(get(target, "")).await;
        assert!(head.starts_with(&format!("GET {target} HTTP/1.1\r\n")), "{target}: {head}");
    }
}

/// HYP-18.
#[tokio::test]
async fn headers_named_by_any_connection_header_are_dropped() {
    let test = framing_test().await;
    let fields = "Connection: x-one, X-Forwarded-For, x-forwarded-proto\r\nConnection: X-Two,host , via\r\nX-One: 1\r\nX-Two: 2\r\nX-Kept: 3\r\n";
    let head = test.assert_forwarded(get("/", fields)).await;
    assert!(!head.to_ascii_lowercase().contains("x-one") && !head.contains("x-two"), "{head}");
    assert!(header_values(&head, "connection").is_empty(), "{head}");
    assert_eq!(header_values(&head, "x-kept"), ["3"]);
    assert_eq!(header_values(&head, "x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(header_values(&head, "x-forwarded-proto"), ["https"]);
    assert_eq!(header_values(&head, "host"), ["app.test"]);
}

/// HYP-19.
#[tokio::test]
async fn hop_by_hop_headers_and_other_upgrades_are_dropped() {
    let test = framing_test().await;
    for upgrade in ["h2c", "h2c, websocket", "websocket, h2c", "TLS/1.0", "websocket2"] {
        let fields = format!(
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: {upgrade}\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nTE: gzip\r\nProxy-Authorization: Basic ZXZpbA==\r\nTrailer: x-a\r\n"
        );
        let head = test.assert_forwarded(get("/", &fields)).await;
        for name in [
            "connection",
            "upgrade",
            "http2-settings",
            "keep-alive",
            "proxy-connection",
            "te",
            "proxy-authorization",
            "trailer",
        ] {
            assert!(header_values(&head, name).is_empty(), "{name} in {head}");
        }
    }
}

/// HYP-20.
#[tokio::test]
async fn client_trailers_are_dropped() {
    let test = framing_test().await;
    let trailers =
        "X-Forwarded-User: evil\r\nHost: evil.test\r\nContent-Length: 9\r\nX-A: evil\r\n";
    for declared in ["", "Trailer: X-Forwarded-User, X-A\r\n"] {
        let fields = format!("Connection: close\r\nTransfer-Encoding: chunked\r\n{declared}");
        let head = test
            .assert_forwarded(post(&fields, &format!("4\r\nbody\r\n0\r\n{trailers}\r\n")))
            .await;
        assert!(!head.contains("evil"), "{head}");
    }
    assert_eq!(test.upstream.bodies(), ["body"; 2]);
    let long = "x".repeat(100_000);
    let request = post(
        "Connection: close\r\nTransfer-Encoding: chunked\r\n",
        &format!("{:x}\r\n{long}\r\n0\r\n{trailers}\r\n", long.len()),
    );
    let head = test.assert_forwarded(request).await;
    assert_eq!(header_values(&head, "transfer-encoding"), ["chunked"]);
    let body = test.upstream.bodies().pop().expect("a body");
    assert!(body.ends_with("x\r\n0\r\n\r\n"));
}

/// HYP-20.
#[tokio::test]
async fn client_trailers_are_dropped_for_http2_upstreams() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (report, mut reports) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let report = report.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let report = report.clone();
                async move {
                    let whole = request.into_body().collect().await?;
                    report.send(whole).expect("the test listens");
                    Ok::<_, hyper::Error>(Response::new(String::new()))
                }
            });
            let server = http2::Builder::new(TokioExecutor::new());
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
        }
    });
    let routes = format!(
        "[[route]]\nhost = \"app.test\"\npath = \"/\"\nupstream = \"h2c://{address}\"\naccess = \"public\"\n"
    );
    let gateway = Gateway::start(Setup { routes, ..Setup::default() });
    let fields = "Connection: close\r\nTransfer-Encoding: chunked\r\nTrailer: X-Forwarded-User\r\n";
    let request = post(fields, "4\r\nbody\r\n0\r\nX-Forwarded-User: evil\r\n\r\n");
    let response = Browser::new(&gateway).send_raw(request.as_bytes()).await;
    assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
    let received = reports.recv().await.expect("a request");
    assert_eq!(received.trailers(), None);
    assert_eq!(received.to_bytes(), "body");
}

/// HYP-21.
#[tokio::test]
async fn bare_line_feeds_never_reach_the_upstream() {
    let test = framing_test().await;
    let responses =
        test.send("GET /a HTTP/1.1\nHost: app.test\nConnection: close\nX-A: b\n\n").await;
    assert!(responses == [200] || responses == [400], "{responses:?}");
    for head in test.upstream.heads() {
        assert_eq!(head.matches('\n').count(), head.matches("\r\n").count(), "{head:?}");
    }
    // Parsers disagree about a bare LF in a chunk size or extension (CVE-2025-55315).
    for body in ["4;a\nb\r\nbody\r\n0\r\n\r\n", "4\nbody\r\n0\r\n\r\n", "4\r\nbody\n0\r\n\r\n"] {
        let responses = test.send(post("Transfer-Encoding: chunked\r\n", body)).await;
        assert_eq!(responses, [400], "{body:?}");
    }
}

/// HYP-22.
#[tokio::test]
async fn content_length_must_be_one_plain_number() {
    let test = framing_test().await;
    let head =
        test.assert_forwarded(post("Connection: close\r\nContent-Length: 002\r\n", "hi")).await;
    assert_eq!(header_values(&head, "content-length"), ["2"]);
    assert_eq!(test.upstream.bodies(), ["hi"]);
    for length in
        ["+2", "2, 2", "-2", "", "0x2", "2 2", "99999999999999999999", "2\r\nContent-Length: 3"]
    {
        test.assert_rejected(400, post(&format!("Content-Length: {length}\r\n"), "hi")).await;
    }
}

/// HYP-23.
#[tokio::test]
async fn unknown_expect_is_rejected_and_get_bodies_stay_framed() {
    let test = framing_test().await;
    for expect in ["foo", "100-continue, foo", "200-ok"] {
        test.assert_rejected(417, get("/", &format!("Expect: {expect}\r\n"))).await;
    }
    for (length, body) in [
        ("Content-Length: 4\r\n", "body"),
        ("Transfer-Encoding: chunked\r\n", "4\r\nbody\r\n0\r\n\r\n"),
    ] {
        let request = format!("{}{body}", get("/", length));
        let head = test.assert_forwarded(request).await;
        let framing = header_values(&head, "content-length").len()
            + header_values(&head, "transfer-encoding").len();
        assert_eq!(framing, 1, "{head}");
    }
    assert!(test.upstream.bodies().iter().all(|body| body.contains("body")));
    // A request inside the body of a GET stays a body.
    let request =
        format!("{}{SMUGGLED}", get("/", &format!("Content-Length: {}\r\n", SMUGGLED.len())));
    let head = test.assert_forwarded(request).await;
    assert!(head.starts_with("GET / "), "{head}");
    assert_eq!(test.upstream.bodies().last().map(String::as_str), Some(SMUGGLED));
}

/// HYP-24.
#[tokio::test]
async fn cookie_headers_are_merged_into_one() {
    let test = framing_test().await;
    let head = test.assert_forwarded(get("/", "Cookie: a=1\r\nCookie: b=2; c=3\r\n")).await;
    assert_eq!(header_values(&head, "cookie"), ["a=1; b=2; c=3"]);
}

/// HYP-27.
#[tokio::test]
async fn broken_chunked_body_is_a_client_error() {
    let test = framing_test().await;
    for body in [
        "x\r\nbody\r\n0\r\n\r\n",
        "-4\r\nbody\r\n0\r\n\r\n",
        "0x4\r\nbody\r\n0\r\n\r\n",
        "4\r\nbodyX\r\n0\r\n\r\n",
        "5\r\nbody\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nbody\r\n0\r\n\r\n",
        "10000000000000004\r\nbody\r\n0\r\n\r\n",
    ] {
        let responses = test.send(post("Transfer-Encoding: chunked\r\n", body)).await;
        assert_eq!(responses, [400], "{body:?}");
    }
    // The data before the error may reach the upstream, but never as a complete body.
    let bodies = test.upstream.bodies();
    assert!(bodies.iter().all(|body| !body.ends_with("0\r\n\r\n")), "{bodies:?}");
}

/// CVE-2025-4366, CVE-2024-24791.
#[tokio::test]
async fn bytes_after_an_early_response_are_not_a_request() {
    let test = framing_test().await;
    let length = format!("Content-Length: {}\r\n", SMUGGLED.len());
    for target in ["/.doorward/none", "/.doorward/style.css", "/a//b"] {
        for expect in ["", "Expect: 100-continue\r\n"] {
            let head = format!("POST {target} HTTP/1.1\r\nHost: app.test\r\n{length}{expect}\r\n");
            let responses = test.send(format!("{head}{SMUGGLED}")).await;
            let last: Vec<_> = responses.into_iter().filter(|status| *status != 100).collect();
            assert!(matches!(last[..], [status] if status >= 400), "{head}: {last:?}");
        }
    }
    assert!(test.upstream.heads().is_empty());
}

/// CVE-2026-2835.
#[tokio::test]
async fn http10_request_without_length_has_no_body() {
    let test = framing_test().await;
    let old = format!("POST / HTTP/1.0\r\nHost: app.test\r\n\r\n{SMUGGLED}");
    assert_eq!(test.send(old).await.len(), 1);
    assert!(!test.upstream.heads().concat().contains("/smuggled"));
    assert!(test.upstream.bodies().iter().all(String::is_empty));
    let chunked =
        "POST / HTTP/1.0\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    test.assert_rejected(400, chunked).await;
}

#[tokio::test]
async fn pipelined_requests_get_responses_in_order() {
    let test = framing_test().await;
    let two = format!("{}{}", get("/1", "").replace("Connection: close\r\n", ""), get("/2", ""));
    assert_eq!(test.send(two).await, [200, 200]);
    let lines: Vec<_> = test.upstream.heads().iter().map(|head| head[..6].to_owned()).collect();
    assert_eq!(lines, ["GET /1", "GET /2"]);
}

// HTTP/2, block by block

/// The gateway's response to a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum H2 {
    Ok,
    BadRequest,
    OtherStatus,
    /// RST_STREAM or GOAWAY.
    Rejected,
}

pub(super) const PSEUDO: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "https"), (":authority", "app.test"), (":path", "/a")];

impl FramingTest {
    /// Sends one header block with exactly these fields.
    pub(super) async fn block(&self, fields: &[(&str, &str)]) -> H2 {
        // END_HEADERS and END_STREAM.
        self.frames(&frame(1, 5, 1, &literal(fields))).await
    }

    /// Sends frames of stream 1 after the preface and returns the first response to it.
    pub(super) async fn frames(&self, frames: &[u8]) -> H2 {
        let mut stream = self.browser.clone().over_h2().connect().await;
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend(frame(4, 0, 0, &[]));
        bytes.extend(frames);
        stream.write_all(&bytes).await.expect("sent");
        loop {
            let mut head = [0; 9];
            if stream.read_exact(&mut head).await.is_err() {
                return H2::Rejected;
            }
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length.try_into().expect("a length")];
            stream.read_exact(&mut payload).await.expect("a whole frame");
            match head[3] {
                // The static table's `:status 200` and `:status 400` (RFC 7541, appendix A).
                1 if payload[0] == 0x88 => return H2::Ok,
                1 if payload[0] == 0x8c => return H2::BadRequest,
                1 => return H2::OtherStatus,
                3 | 7 => return H2::Rejected,
                _ => {}
            }
        }
    }

    pub(super) async fn assert_h2_rejected(&self, fields: &[(&str, &str)]) {
        let before = self.upstream.heads().len();
        let response = self.block(fields).await;
        assert!(matches!(response, H2::BadRequest | H2::Rejected), "{response:?}: {fields:?}");
        assert_eq!(self.upstream.heads().len(), before, "{fields:?}");
    }
}

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut out = length[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

/// Encodes fields in HPACK as literals without indexing and without Huffman coding.
pub(super) fn literal(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        for text in [name, value] {
            out.push(u8::try_from(text.len()).ok().filter(|n| *n < 127).expect("short"));
            out.extend(text.as_bytes());
        }
    }
    out
}

/// Returns the plain request with one pseudo-header changed.
pub(super) fn with<'a>(name: &str, value: &'a str) -> Vec<(&'a str, &'a str)> {
    let change = |(key, old): &(&'static str, &'static str)| {
        if *key == name { (*key, value) } else { (*key, *old) }
    };
    PSEUDO.iter().map(change).collect()
}

pub(super) fn plus<'a>(name: &'a str, value: &'a str) -> Vec<(&'a str, &'a str)> {
    PSEUDO.iter().copied().chain([(name, value)]).collect()
}

/// HYP-11, HYP-12, HYP-13.
#[tokio::test]
async fn h2_authority_must_be_single_and_match_host() {
    let test = framing_test().await;
    assert_eq!(test.block(&PSEUDO).await, H2::Ok);
    assert_eq!(test.block(&plus("host", "app.test")).await, H2::Ok);
    assert_eq!(header_values(&test.upstream.last_head(), "host"), ["app.test"]);
    test.assert_h2_rejected(&plus("host", "evil.test")).await;
    let without: Vec<_> = PSEUDO.into_iter().filter(|(name, _)| *name != ":authority").collect();
    test.assert_h2_rejected(&without).await;
    for authority in ["user@app.test", "", "app.test/x", "app.test, evil.test", "app.test:99999"] {
        test.assert_h2_rejected(&with(":authority", authority)).await;
    }
    let twice: Vec<_> = PSEUDO.into_iter().chain([(":authority", "evil.test")]).collect();
    test.assert_h2_rejected(&twice).await;
}

/// HYP-14, HYP-16, HYP-17.
#[tokio::test]
async fn h2_paths_follow_the_http1_rules() {
    let test = framing_test().await;
    for path in [
        "/a/../b",
        "/a//b",
        "/a;b",
        "/a\\b",
        "/%2e%2e/",
        "/a%2fb",
        "/a%00",
        "/a%25%32%66b",
        "?x",
        "a",
        "",
        "*",
        "/\u{e9}",
        "https://app.test/",
        "/a?\u{e9}",
    ] {
        test.assert_h2_rejected(&with(":path", path)).await;
    }
}

/// HYP-25.
#[tokio::test]
async fn h2_whitespace_around_values_is_stripped() {
    let test = framing_test().await;
    for value in [" x", "x ", "\tx\t", "  x  "] {
        let response = test.block(&plus("x-padded", value)).await;
        assert_eq!(response, H2::Ok, "{value:?}");
        let head = test.upstream.last_head();
        let line = head.lines().find(|line| line.starts_with("X-Padded")).expect("forwarded");
        assert_eq!(line, "X-Padded: x");
    }
}

/// HYP-26.
#[tokio::test]
async fn h2_scheme_must_match_the_transport() {
    let test = framing_test().await;
    for scheme in ["http", "ftp", "", "https://evil.test/?"] {
        test.assert_h2_rejected(&with(":scheme", scheme)).await;
    }
}

/// CVE-2023-27491.
#[tokio::test]
async fn h2_framing_headers_are_rejected_or_dropped() {
    let test = framing_test().await;
    for (name, value) in [
        ("transfer-encoding", "chunked"),
        ("connection", "close"),
        ("upgrade", "websocket"),
        ("te", "gzip"),
        ("x-a", "b\r\nx-forwarded-user: evil"),
        ("x-a", "b\nc"),
        ("X-Forwarded-User", "evil"),
        ("x a", "b"),
        ("content-length", "5"),
    ] {
        test.assert_h2_rejected(&plus(name, value)).await;
    }
    for (name, value) in [("x_forwarded_user", "evil"), ("proxy-connection", "x")] {
        let response = test.block(&plus(name, value)).await;
        assert!(matches!(response, H2::Ok | H2::Rejected), "{name}: {response:?}");
    }
    let joined = test.upstream.heads().concat().to_ascii_lowercase();
    for forbidden in ["evil", "proxy-connection", "te:", "_"] {
        assert!(
            !joined.contains(&format!("\n{forbidden}")) && !joined.contains("evil"),
            "{forbidden} in {joined}"
        );
    }
}
