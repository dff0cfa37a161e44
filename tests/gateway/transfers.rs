//! What a body may do on its way: trailers, lengths, the end of a TLS connection, and activity of its session.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, StatusCode};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::streaming::{OpenConnection, StreamingUpstream, open_response, open_upload};
use test_support::browser::Browser;
use test_support::gateway::{Gateway, Setup, manual_clock, prepare_directory, session_route};
use test_support::upstream::{Upstream, header_values};

/// Longest wait for an expected event.
const TIMEOUT: Duration = Duration::from_secs(20);
const MINUTE: Duration = Duration::from_secs(60);

fn public(upstream: SocketAddr) -> String {
    session_route(upstream).replace("\"session\"", "\"public\"")
}

// Trailers

const WITH_TRAILERS: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Checksum, Set-Cookie\r\n\r\n5\r\nhello\r\n0\r\nX-Checksum: 1\r\nSet-Cookie: a=b\r\n\r\n";

/// RFC 9110, section 6.5.1.
#[tokio::test]
async fn announced_trailers_reach_http_1_1_clients_that_accept_them() {
    let upstream = Upstream::with_response(WITH_TRAILERS).await;
    let gateway = Gateway::start(Setup { routes: public(upstream.address), ..Setup::default() });
    for (accepts, fields) in [(true, "TE: trailers\r\nConnection: TE, close\r\n"), (false, "")] {
        let request = format!("GET / HTTP/1.1\r\nHost: app.test\r\n{fields}\r\n");
        let received = Browser::new(&gateway).send_raw(request.as_bytes()).await;
        let (head, body) = received.split_once("\r\n\r\n").expect("a head");
        assert_eq!(header_values(head, "trailer"), ["X-Checksum, Set-Cookie"], "{received}");
        assert!(body.starts_with("5\r\nhello\r\n0\r\n"), "{received}");
        assert_eq!(body.contains("x-checksum: 1\r\n"), accepts, "{received}");
        assert!(!received.contains("a=b"), "{received}");
    }
}

// Request bodies of unknown length

/// Sends a request in parts, 20 ms apart, and returns the head and the body that the upstream received.
async fn received_from(gateway: &Gateway, upstream: &Upstream, parts: &[&str]) -> (String, String) {
    let before = upstream.heads().len();
    let mut client = Browser::new(gateway).connect().await;
    for part in parts {
        client.write_all(part.as_bytes()).await.expect("sent");
        sleep(Duration::from_millis(20)).await;
    }
    let mut response = [0; 12];
    let read = timeout(TIMEOUT, client.read_exact(&mut response)).await;
    read.expect("in time").expect("a response");
    assert_eq!(upstream.heads().len(), before + 1);
    (upstream.last_head(), upstream.bodies().last().expect("a body").clone())
}

const CHUNKED: &str = "POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n";

#[tokio::test]
async fn small_bodies_without_a_length_get_one() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(Setup { routes: public(upstream.address), ..Setup::default() });
    let head = format!("{CHUNKED}\r\n");
    let at_once = format!("{head}4\r\nbody\r\n0\r\n\r\n");
    for parts in [&[at_once.as_str()][..], &[&head, "2\r\nbo\r\n", "2\r\ndy\r\n0\r\n\r\n"]] {
        let (head, body) = received_from(&gateway, &upstream, parts).await;
        assert_eq!(header_values(&head, "content-length"), ["4"], "{head}");
        assert!(header_values(&head, "transfer-encoding").is_empty(), "{head}");
        assert_eq!(body, "body");
    }
    let empty = format!("{head}0\r\n\r\n");
    let (head, body) = received_from(&gateway, &upstream, &[&empty]).await;
    assert_eq!((header_values(&head, "content-length"), body.as_str()), (vec!["0".to_owned()], ""));
    // Over HTTP/2, a body needs no length.
    let (mut sender, connection) =
        h2::client::handshake(Browser::new(&gateway).over_h2().connect().await)
            .await
            .expect("HTTP/2");
    tokio::spawn(connection);
    let head =
        http::Request::builder().method("POST").uri("https://app.test/").body(()).expect("a head");
    let (response, mut upload) = sender.send_request(head, false).expect("sent");
    upload.send_data("body".into(), true).expect("sent");
    timeout(TIMEOUT, response).await.expect("in time").expect("a response");
    assert_eq!(upstream.last_values("content-length"), ["4"]);
}

#[tokio::test]
async fn long_or_slow_bodies_without_a_length_are_streamed() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(Setup { routes: public(upstream.address), ..Setup::default() });
    let long = format!("{CHUNKED}\r\n{:x}\r\n{}\r\n0\r\n\r\n", 200_000, "x".repeat(200_000));
    let grpc = format!("{CHUNKED}Content-Type: application/grpc\r\n\r\n4\r\nbody\r\n0\r\n\r\n");
    for request in [long, grpc] {
        let (head, _) = received_from(&gateway, &upstream, &[&request]).await;
        assert_eq!(header_values(&head, "transfer-encoding"), ["chunked"], "{head}");
        assert!(header_values(&head, "content-length").is_empty(), "{head}");
    }
    // The upstream receives the head while the client waits before it goes on.
    let mut client = Browser::new(&gateway).connect().await;
    let heads = upstream.heads().len();
    client.write_all(format!("{CHUNKED}\r\n4\r\nbody\r\n").as_bytes()).await.expect("sent");
    upstream.wait_for_requests(heads + 1).await;
    client.write_all(b"0\r\n\r\n").await.expect("sent");
    let mut response = [0; 12];
    client.read_exact(&mut response).await.expect("a response");
    assert_eq!(upstream.last_values("transfer-encoding"), ["chunked"]);
}

#[tokio::test]
async fn buffer_requests_waits_for_the_end_up_to_its_size() {
    let upstream = Upstream::start().await;
    let routes = public(upstream.address) + "buffer_requests = \"1KiB\"\n";
    let gateway = Gateway::start(Setup { routes, ..Setup::default() });
    let mut client = Browser::new(&gateway).connect().await;
    client.write_all(format!("{CHUNKED}\r\n2\r\nbo\r\n").as_bytes()).await.expect("sent");
    let early = timeout(Duration::from_millis(600), upstream.wait_for_requests(1)).await;
    assert!(early.is_err(), "the request was forwarded before its end");
    client.write_all(b"2\r\ndy\r\n0\r\n\r\n").await.expect("sent");
    upstream.wait_for_requests(1).await;
    let mut response = [0; 12];
    client.read_exact(&mut response).await.expect("a response");
    assert_eq!(upstream.last_values("content-length"), ["4"]);
    let longer = format!("{CHUNKED}\r\n{:x}\r\n{}\r\n0\r\n\r\n", 2_000, "x".repeat(2_000));
    let (head, _) = received_from(&gateway, &upstream, &[&longer]).await;
    assert_eq!(header_values(&head, "transfer-encoding"), ["chunked"], "{head}");
}

#[tokio::test]
async fn buffered_bodies_keep_their_limits() {
    let upstream = Upstream::start().await;
    let limits = "[route.limits]\nmax_body = \"1KiB\"\nbody_timeout = \"300ms\"\n";
    let routes = public(upstream.address) + "buffer_requests = \"1MiB\"\n" + limits;
    let gateway = Gateway::start(Setup { routes, ..Setup::default() });
    let long = format!("{CHUNKED}\r\n{:x}\r\n{}\r\n0\r\n\r\n", 2_000, "x".repeat(2_000));
    let slow = format!("{CHUNKED}\r\n2\r\nbo\r\n");
    for (request, status) in [(long, "413"), (slow, "408")] {
        let received = Browser::new(&gateway).send_raw(request.as_bytes()).await;
        assert!(received.starts_with(&format!("HTTP/1.1 {status} ")), "{received}");
    }
    assert!(upstream.heads().is_empty());
}

// The end of a TLS connection

/// Starts an https upstream that ends its connection without close_notify.
async fn closing_upstream(directory: &tempfile::TempDir) -> SocketAddr {
    let file = |name: &str| directory.path().join(name);
    let chain = vec![CertificateDer::from_pem_file(file("doorward.pem")).expect("a certificate")];
    let key = PrivateKeyDer::from_pem_file(file("doorward.key")).expect("a key");
    let config = rustls::ServerConfig::builder_with_provider(doorward::tls::provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("a certificate");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await.expect("a handshake");
                let mut request = vec![0; 4096];
                let read = stream.read(&mut request).await.expect("a request");
                let is_short = request[..read].starts_with(b"GET /short")
                    || request[..read].starts_with(b"POST /short");
                let framing = if is_short { "Content-Length: 100\r\n" } else { "" };
                let response = format!("HTTP/1.1 200 OK\r\n{framing}\r\nall of it");
                stream.write_all(response.as_bytes()).await.expect("sent");
                stream.flush().await.expect("sent");
            });
        }
    });
    address
}

/// RFC 9112, section 9.8.
#[tokio::test]
async fn close_notify_is_required_unless_the_route_disables_it() {
    let directory = prepare_directory();
    let upstream = closing_upstream(&directory).await;
    let ca = directory.path().join("ca.pem").display().to_string();
    let https = format!("https://localhost:{}", upstream.port());
    let strict = public(upstream).replace(&format!("http://{upstream}"), &https)
        + &format!("upstream_ca = \"{ca}\"\n");
    let lenient =
        strict.replace("path = \"/\"", "path = \"/lenient\"") + "require_close_notify = false\n";
    let short = lenient.replace("path = \"/lenient\"", "path = \"/short\"");
    let routes = [strict, lenient, short].concat();
    let setup = Setup { routes, shared_directory: Some(directory), ..Setup::default() };
    let gateway = Gateway::start(setup);
    for method in ["GET", "POST"] {
        let body = if method == "POST" { "body" } else { "" };
        let mut browser = Browser::new(&gateway);
        let lenient = browser.send(method, "/lenient", &[], body).await;
        assert_eq!((lenient.status, lenient.text().as_str()), (StatusCode::OK, "all of it"));
        // A length decides in any case.
        for path in ["/", "/short"] {
            let request = format!(
                "{method} {path} HTTP/1.1\r\nHost: app.test\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            let received = browser.send_raw(request.as_bytes()).await;
            assert!(
                received.starts_with("HTTP/1.1 502 ") || !received.contains("\r\n0\r\n\r\n"),
                "{method} {path}: {received}"
            );
            assert!(!received.is_empty(), "{method} {path}");
        }
    }
}

// Activity

struct Transfers {
    streams: StreamingUpstream,
    gateway: Gateway,
    alice: Browser,
}

impl Transfers {
    async fn start(activity: &str) -> Transfers {
        let streams = StreamingUpstream::start().await;
        let setup =
            Setup { routes: streams.routes(activity), clock: manual_clock(), ..Setup::default() };
        let gateway = Gateway::start(setup);
        let mut alice = Browser::new(&gateway);
        alice.log_in("alice").await;
        Transfers { streams, gateway, alice }
    }

    async fn open(&self, kind: &'static str, h2: bool) -> OpenConnection {
        let mut alice = self.alice.clone();
        alice.h2 = h2;
        let path = format!("/{kind}/{h2}/{kind}");
        let open = match kind {
            "upload" => open_upload(&alice, kind, path.clone()).await,
            _ => open_response(&alice, kind, path.clone()).await,
        };
        self.streams.wait_until_seen(&path).await;
        open
    }

    /// Advances the clock by 20 minutes, and gives data and checks of the session some time.
    async fn pass_20_minutes(&self) {
        sleep(Duration::from_millis(1_500)).await;
        self.gateway.advance(20 * MINUTE);
        sleep(Duration::from_millis(1_500)).await;
    }
}

#[tokio::test]
async fn transfers_count_as_activity_until_the_absolute_timeout() {
    for kind in ["upload", "download"] {
        for h2 in [false, true] {
            let mut transfers = Transfers::start("").await;
            let open = transfers.open(kind, h2).await;
            for _ in 0..3 {
                transfers.pass_20_minutes().await;
            }
            assert!(open.is_open(), "{kind}, HTTP/2: {h2}");
            assert_eq!(transfers.alice.fetch("/x/small").await.status, StatusCode::OK, "{kind}");
            transfers.gateway.advance(12 * 60 * MINUTE);
            let cut = Instant::now();
            open.wait_until_closed().await;
            assert!(cut.elapsed() < Duration::from_secs(5), "{kind}");
        }
    }
}

#[tokio::test]
async fn transfers_do_not_count_if_disabled_or_excepted() {
    for activity in
        ["transfers = false", "except = [\"/upload\", \"/download\"]", "navigations_only = true"]
    {
        let section = format!("[route.session.activity]\n{activity}\n");
        for kind in ["upload", "download"] {
            let transfers = Transfers::start(&section).await;
            let open = transfers.open(kind, false).await;
            transfers.pass_20_minutes().await;
            assert!(open.is_open(), "{activity}: {kind}");
            transfers.pass_20_minutes().await;
            timeout(TIMEOUT, open.wait_until_closed()).await.expect("cut");
        }
    }
}

#[tokio::test]
async fn event_streams_do_not_count_as_activity() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                read_head(&mut stream).await;
                let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
                stream.write_all(head.as_bytes()).await.expect("sent");
                while stream.write_all(b"data: 1\n\n").await.is_ok() {
                    sleep(Duration::from_millis(20)).await;
                }
            });
        }
    });
    let setup = Setup { routes: session_route(address), clock: manual_clock(), ..Setup::default() };
    let gateway = Gateway::start(setup);
    let mut alice = Browser::new(&gateway);
    alice.log_in("alice").await;
    let open = open_response(&alice, "events", "/".to_owned()).await;
    sleep(Duration::from_millis(1_500)).await;
    gateway.advance(20 * MINUTE);
    sleep(Duration::from_millis(1_500)).await;
    assert!(open.is_open());
    gateway.advance(10 * MINUTE);
    timeout(TIMEOUT, open.wait_until_closed()).await.expect("cut");
}

async fn read_head(stream: &mut TcpStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else { return };
        head.push(byte);
    }
}

// Flow control

/// Starts a relay that delays each byte by `delay` in each direction, at any rate.
async fn delaying_relay(target: SocketAddr, delay: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(target).await.expect("connected");
            for stream in [&client, &server] {
                stream.set_nodelay(true).expect("a socket");
            }
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            tokio::spawn(delayed(from_client, to_server, delay));
            tokio::spawn(delayed(from_server, to_client, delay));
        }
    });
    address
}

async fn delayed(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration) {
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let writing = async move {
        while let Some((due, bytes)) = receiver.recv().await {
            let bytes: Vec<u8> = bytes;
            tokio::time::sleep_until(due).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    let reading = async move {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            let due = tokio::time::Instant::now() + delay;
            if sender.send((due, buffer[..read].to_vec())).is_err() {
                return;
            }
        }
    };
    tokio::join!(writing, reading);
}

/// A window of 64 KiB, the default of the protocol, would allow 1.3 MB/s at this delay.
#[tokio::test]
async fn an_h2_upload_is_fast_over_a_link_with_delay() {
    const BYTES: usize = 20_000_000;
    const ROUND_TRIP: Duration = Duration::from_millis(50);
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(Setup { routes: public(upstream.address), ..Setup::default() });
    let mut browser = Browser::new(&gateway).over_h2();
    browser.address = delaying_relay(browser.address, ROUND_TRIP / 2).await;
    let connected = h2::client::handshake(browser.connect().await).await;
    let (mut sender, connection) = connected.expect("HTTP/2");
    tokio::spawn(connection);
    let head = Request::builder().method("POST").uri("https://app.test/");
    let head = head.header("content-length", BYTES).body(()).expect("a head");
    let started = Instant::now();
    let (response, mut upload) = sender.send_request(head, false).expect("sent");
    upload.send_data(Bytes::from(vec![b'x'; BYTES]), true).expect("sent");
    let response = timeout(TIMEOUT, response).await.expect("in time").expect("a response");
    assert_eq!(response.status(), StatusCode::OK);
    let rate = BYTES as f64 / started.elapsed().as_secs_f64() / 1e6;
    println!("{rate:.1} MB/s at {ROUND_TRIP:?}");
    assert!(rate > 5.0, "{rate} MB/s");
}

/// At 100 ms of round trip, a window of 1 MiB allows 10 MB/s.
#[tokio::test]
async fn h2_upload_windows_are_1_mib_per_stream() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(Setup { routes: public(upstream.address), ..Setup::default() });
    let mut stream = Browser::new(&gateway).over_h2().connect().await;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.expect("sent");
    let (mut stream_window, mut connection_window) = (0, 65_535);
    while stream_window == 0 || connection_window == 65_535 {
        let mut head = [0; 9];
        timeout(TIMEOUT, stream.read_exact(&mut head)).await.expect("in time").expect("a frame");
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        stream.read_exact(&mut payload).await.expect("a payload");
        let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().expect("four bytes"));
        match head[3] {
            4 => {
                let window = payload.chunks(6).find(|setting| setting[..2] == [0, 4]);
                stream_window = window.map_or(stream_window, |setting| number(&setting[2..]));
            }
            8 => connection_window += number(&payload),
            _ => {}
        }
    }
    assert_eq!((stream_window, connection_window), (1 << 20, 4 << 20));
}
