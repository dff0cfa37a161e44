//! Upstreams that authenticate a connection instead of a request (NTLM, Kerberos), such as IIS.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use test_support::browser::Browser;
use test_support::gateway::{Gateway, Setup, session_route};
use test_support::upstream::header_values;

const TIMEOUT: Duration = Duration::from_secs(20);

/// Emulates the handshake of IIS: the user belongs to the connection. Tokens are `scheme hello` and
/// `scheme i-am-NAME`.
struct ConnectionAuthUpstream {
    address: SocketAddr,
    /// Number of open connections.
    open: watch::Sender<usize>,
    task: JoinHandle<()>,
}

impl ConnectionAuthUpstream {
    /// `extra` is added to each response after the handshake.
    async fn start(scheme: &'static str, extra: &'static str) -> ConnectionAuthUpstream {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let open = watch::Sender::new(0);
        let counter = open.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counter.send_modify(|open| *open += 1);
                let counter = counter.clone();
                tokio::spawn(async move {
                    serve_connection(stream, scheme, extra).await;
                    counter.send_modify(|open| *open -= 1);
                });
            }
        });
        ConnectionAuthUpstream { address, open, task }
    }

    /// Waits for less than the idle timeout of pooled connections, which would close them too.
    async fn until_open(&self, connections: usize) {
        let mut open = self.open.subscribe();
        let reached = open.wait_for(|open| *open == connections);
        let limit = Duration::from_secs(3);
        tokio::time::timeout(limit, reached).await.expect("in time").expect("running");
    }
}

impl Drop for ConnectionAuthUpstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve_connection(mut stream: TcpStream, scheme: &str, extra: &str) {
    let (mut user, mut challenged) = (None, false);
    while let Some(head) = read_request(&mut stream).await {
        let credentials = header_values(&head, "authorization").concat().to_ascii_lowercase();
        let credentials = credentials.strip_prefix(&scheme.to_ascii_lowercase()).unwrap_or("");
        let challenge = if credentials.ends_with("hello") {
            challenged = true;
            " challenge"
        } else {
            user = credentials
                .split_once("i-am-")
                .filter(|_| challenged)
                .map(|(_, name)| name.to_owned())
                .or(user);
            ""
        };
        let is_upgrade = !header_values(&head, "upgrade").is_empty();
        let response = match &user {
            Some(_) if is_upgrade => {
                let key = header_values(&head, "sec-websocket-key").concat();
                let accept =
                    tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
                format!(
                    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
                )
            }
            Some(user) => {
                let body = format!("hello {user}");
                format!("HTTP/1.1 200 OK\r\n{extra}Content-Length: {}\r\n\r\n{body}", body.len())
            }
            None => format!(
                "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: {scheme}{challenge}\r\nContent-Length: 0\r\n\r\n"
            ),
        };
        if stream.write_all(response.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).ok()?;
    let length = header_values(&head, "content-length").concat().parse().unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(head)
}

/// One client connection on HTTP/1.1.
struct Client {
    sender: SendRequest<Full<Bytes>>,
    browser: Browser,
}

impl Client {
    async fn new(browser: &Browser) -> Client {
        let tls = TokioIo::new(browser.connect().await);
        let (sender, connection) =
            hyper::client::conn::http1::handshake(tls).await.expect("HTTP/1.1");
        tokio::spawn(connection);
        Client { sender, browser: browser.clone() }
    }

    /// Returns status and body.
    async fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
        let cookie = format!("__Host-doorward={}", self.browser.token());
        let body = if method == "POST" { "order=1" } else { "" };
        let request = Request::builder().method(method).uri(path).header("host", "app.test");
        let request =
            headers.iter().fold(request.header("cookie", cookie), |request, (name, value)| {
                request.header(*name, *value)
            });
        let request = request.body(Full::from(body)).expect("a request");
        let response = tokio::time::timeout(TIMEOUT, self.sender.send_request(request))
            .await
            .expect("in time")
            .expect("a response");
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    async fn authenticate(&mut self, method: &str, path: &str, scheme: &str) -> (u16, String) {
        assert_eq!(self.send(method, path, &[]).await.0, 401);
        let hello = format!("{scheme} hello");
        assert_eq!(self.send(method, path, &[("authorization", &hello)]).await.0, 401);
        let name = format!("{scheme} i-am-alice");
        self.send(method, path, &[("authorization", &name)]).await
    }
}

/// A session route, and a public route at `/public`.
fn routes(upstream: SocketAddr) -> String {
    let session = session_route(upstream);
    let public = session.replace("\"session\"", "\"public\"");
    [session, public.replace("path = \"/\"", "path = \"/public\"")].concat()
}

async fn logged_in(gateway: &Gateway, user: &str) -> Browser {
    let mut browser = Browser::new(gateway);
    browser.log_in(user).await;
    browser
}

#[tokio::test]
async fn an_authenticated_connection_serves_no_other_client() {
    for scheme in ["NTLM", "negotiate", "Kerberos"] {
        let upstream = ConnectionAuthUpstream::start(scheme, "").await;
        let routes = routes(upstream.address);
        let gateway = Gateway::start(Setup { routes, ..Setup::default() });
        let (alice, bob) = (logged_in(&gateway, "alice").await, logged_in(&gateway, "bob").await);
        for path in ["/", "/public"] {
            for method in ["GET", "POST"] {
                let mut client = Client::new(&alice).await;
                let hello = (200, "hello alice".to_owned());
                assert_eq!(client.authenticate(method, path, scheme).await, hello);
                // Twice as many tries as there are workers with a pool of their own.
                for h2 in [false, true, false, true] {
                    let mut other = Browser { h2, ..bob.clone() };
                    for method in ["GET", "POST"] {
                        let response = other.send(method, path, &[], "").await;
                        assert_eq!(
                            response.status,
                            StatusCode::UNAUTHORIZED,
                            "{}",
                            response.text()
                        );
                    }
                }
                assert_eq!(client.send("GET", path, &[]).await, hello, "still pinned");
                assert_eq!(client.send("POST", path, &[]).await, hello, "with a body");
            }
        }
    }
}

#[tokio::test]
async fn preemptive_credentials_close_their_connection() {
    // The upstream admits the user without a challenge and without any sign in its response.
    let upstream = test_support::upstream::Upstream::start().await;
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = counting_relay(upstream.address, Arc::clone(&connections)).await;
    let gateway = Gateway::start(Setup { routes: routes(counted), ..Setup::default() });
    let mut client = Client::new(&logged_in(&gateway, "alice").await).await;
    let before = connections.load(Ordering::SeqCst);
    for method in ["GET", "POST", "GET"] {
        let sent = client.send(method, "/", &[("authorization", "Negotiate YII=")]).await;
        assert_eq!(sent.0, 200);
    }
    assert_eq!(connections.load(Ordering::SeqCst), before + 3, "each on a connection of its own");
}

#[tokio::test]
async fn a_connection_with_a_challenge_is_not_used_again() {
    for line in [
        "WWW-Authenticate: Basic realm=\"a, b\", Negotiate",
        "WWW-Authenticate: Basic realm=\"a\"\r\nwww-authenticate: ntlm",
        "Proxy-Authenticate: NTLM",
        "Persistent-Auth: true",
    ] {
        let response = format!("HTTP/1.1 200 OK\r\n{line}\r\nContent-Length: 2\r\n\r\nok");
        let upstream = test_support::upstream::Upstream::with_response(response).await;
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = counting_relay(upstream.address, Arc::clone(&connections)).await;
        let gateway = Gateway::start(Setup { routes: routes(counted), ..Setup::default() });
        let mut client = Client::new(&Browser::new(&gateway)).await;
        for (number, method) in ["GET", "GET", "POST", "POST"].into_iter().enumerate() {
            assert_eq!(client.send(method, "/public", &[]).await.0, 200);
            assert_eq!(connections.load(Ordering::SeqCst), number + 1, "{line}");
        }
    }
}

/// Counts the connections to `target`.
async fn counting_relay(target: SocketAddr, connections: Arc<AtomicUsize>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            connections.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let mut server = TcpStream::connect(target).await.expect("connected");
                tokio::io::copy_bidirectional(&mut client, &mut server).await.ok();
            });
        }
    });
    address
}

#[tokio::test]
async fn another_session_on_the_client_connection_starts_anew() {
    let upstream = ConnectionAuthUpstream::start("NTLM", "").await;
    let gateway = Gateway::start(Setup { routes: routes(upstream.address), ..Setup::default() });
    let (alice, bob) = (logged_in(&gateway, "alice").await, logged_in(&gateway, "bob").await);
    for path in ["/", "/public"] {
        let mut client = Client::new(&alice).await;
        assert_eq!(client.authenticate("GET", path, "NTLM").await.0, 200);
        client.browser = bob.clone();
        for method in ["GET", "POST"] {
            assert_eq!(client.send(method, path, &[]).await.0, 401, "{path}");
        }
        client.browser = logged_in(&gateway, "alice").await;
        assert_eq!(client.send("GET", path, &[]).await.0, 401, "a later session of alice");
    }
}

#[tokio::test]
async fn an_authenticated_connection_closes_with_its_client() {
    let upstream = ConnectionAuthUpstream::start("NTLM", "").await;
    let gateway = Gateway::start(Setup { routes: routes(upstream.address), ..Setup::default() });
    let mut client = Client::new(&logged_in(&gateway, "alice").await).await;
    assert_eq!(client.authenticate("POST", "/", "NTLM").await.0, 200);
    upstream.until_open(1).await;
    drop(client);
    upstream.until_open(0).await;
}

#[tokio::test]
async fn a_proxys_connection_pins_nothing_without_a_session() {
    for (server, headers) in [
        ("trusted_proxies = [\"127.0.0.1\"]", &[("x-forwarded-for", "192.0.2.1")][..]),
        ("trusted_proxies = [\"127.0.0.1\"]", &[]),
        ("", &[("via", "1.1 cdn")]),
        ("", &[("forwarded", "for=192.0.2.1")]),
    ] {
        let upstream = ConnectionAuthUpstream::start("NTLM", "").await;
        let gateway = Gateway::start(Setup {
            routes: routes(upstream.address),
            server: server.to_owned(),
            ..Setup::default()
        });
        let mut client = Client::new(&Browser::new(&gateway)).await;
        for token in ["hello", "i-am-alice"] {
            let token = format!("NTLM {token}");
            let lines = [headers, &[("authorization", token.as_str())][..]].concat();
            assert_eq!(client.send("GET", "/public", &lines).await.0, 401, "{headers:?}");
        }
        upstream.until_open(0).await;
    }
}

#[tokio::test]
async fn an_authenticated_connection_can_become_a_websocket() {
    let upstream = ConnectionAuthUpstream::start("NTLM", "").await;
    let gateway = Gateway::start(Setup { routes: routes(upstream.address), ..Setup::default() });
    let handshake = [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("origin", "https://app.test"),
    ];
    let mut client = Client::new(&logged_in(&gateway, "alice").await).await;
    assert_eq!(client.send("GET", "/", &handshake).await.0, 401);
    let with = |token| [&handshake[..], &[("authorization", token)]].concat();
    assert_eq!(client.send("GET", "/", &with("NTLM hello")).await.0, 401);
    assert_eq!(client.send("GET", "/", &with("NTLM i-am-alice")).await.0, 101);
}

#[tokio::test]
async fn an_h2_connection_with_credentials_is_not_shared() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let connections = Arc::new(AtomicUsize::new(0));
    let accepted = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let number = accepted.fetch_add(1, Ordering::SeqCst) + 1;
            let service = hyper::service::service_fn(move |_: Request<hyper::body::Incoming>| {
                let body = Full::<Bytes>::from(number.to_string());
                async move { Ok::<_, std::convert::Infallible>(Response::new(body)) }
            });
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
        }
    });
    let routes = routes(address).replace("http://", "h2c://");
    let gateway = Gateway::start(Setup { routes, ..Setup::default() });
    let mut client = Client::new(&Browser::new(&gateway)).await;
    let plain = client.send("GET", "/public", &[]).await;
    let credentials = [("authorization", "Negotiate YII=")];
    let authenticated = client.send("GET", "/public", &credentials).await;
    assert_ne!(authenticated.1, plain.1);
    assert_eq!(client.send("POST", "/public", &[]).await, plain, "the shared one");
    assert_ne!(client.send("POST", "/public", &credentials).await.1, authenticated.1);
}
