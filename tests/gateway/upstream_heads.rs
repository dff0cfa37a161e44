//! Heads that upstreams receive and send, over HTTP/1.1 and HTTP/2.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use test_support::browser::Browser;
use test_support::gateway::{Gateway, Setup, session_route};
use test_support::upstream::Upstream;

/// An h2c upstream that records request headers and adds headers to its responses.
struct H2Upstream {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<HeaderMap>>>,
}

impl H2Upstream {
    async fn start(response_headers: HeaderMap) -> H2Upstream {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let heads = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&heads);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (record, response_headers) = (Arc::clone(&record), response_headers.clone());
                let service = move |request: Request<hyper::body::Incoming>| {
                    record.lock().expect("no panic").push(request.headers().clone());
                    let mut response = Response::new(Full::<Bytes>::from("ok"));
                    *response.headers_mut() = response_headers.clone();
                    async move { Ok::<_, std::convert::Infallible>(response) }
                };
                let service = hyper::service::service_fn(service);
                let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
            }
        });
        H2Upstream { address, heads }
    }

    fn last(&self, name: &str) -> Vec<String> {
        let heads = self.heads.lock().expect("no panic");
        let values = heads.last().expect("a request").get_all(name).into_iter();
        values.map(|value| value.to_str().expect("ASCII").to_owned()).collect()
    }
}

fn public_route(upstream: SocketAddr) -> String {
    session_route(upstream).replace("\"session\"", "\"public\"")
}

fn gateway(routes: String) -> Gateway {
    Gateway::start(Setup { routes, ..Setup::default() })
}

#[tokio::test]
async fn te_trailers_is_announced_on_each_upstream_connection() {
    let http1 = Upstream::start().await;
    let http2 = H2Upstream::start(HeaderMap::new()).await;
    let h2c = public_route(http2.address).replace("http://", "h2c://");
    let routes = public_route(http1.address) + &h2c.replace("path = \"/\"", "path = \"/h2\"");
    let gateway = gateway(routes);
    for h2 in [false, true] {
        let mut browser = Browser { h2, ..Browser::new(&gateway) };
        for (sent, is_announced) in
            [("trailers", true), ("gzip;q=0.5, Trailers", true), ("gzip", false)]
        {
            // RFC 9113 8.2.2: any other value is malformed.
            if h2 && sent != "trailers" {
                continue;
            }
            for method in ["GET", "POST"] {
                let expected = if is_announced { vec!["trailers"] } else { vec![] };
                browser.send(method, "/", &[("te", sent)], "").await;
                assert_eq!(http1.last_values("te"), expected);
                let nominated = if is_announced { vec!["TE"] } else { vec![] };
                assert_eq!(http1.last_values("connection"), nominated);
                browser.send(method, "/h2", &[("te", sent)], "").await;
                assert_eq!(http2.last("te"), expected);
                assert!(http2.last("connection").is_empty());
            }
        }
    }
}

#[tokio::test]
async fn header_names_are_in_title_case_towards_http1() {
    let upstream = Upstream::start().await;
    let gateway = gateway(public_route(upstream.address));
    for h2 in [false, true] {
        let mut browser = Browser { h2, ..Browser::new(&gateway) };
        for (method, body) in [("GET", ""), ("POST", ""), ("POST", "order=1")] {
            browser
                .send(method, "/", &[("content-type", "text/plain"), ("x-a-1b", "1")], body)
                .await;
            let head = upstream.last_head();
            for name in ["Host", "Content-Type", "X-A-1b", "X-Forwarded-For", "X-Request-Id"] {
                assert!(head.contains(&format!("\r\n{name}: ")), "{name} in {head}");
            }
            assert_eq!(head.contains("\r\nContent-Length: "), method == "POST", "{head}");
            assert_eq!(
                head.to_ascii_lowercase().matches("content-length").count(),
                usize::from(method == "POST")
            );
        }
    }
}

#[tokio::test]
async fn space_before_the_colon_of_a_response_header_is_removed() {
    let response =
        "HTTP/1.1 200 OK\r\nX-Frame-Options : DENY\r\nX-Tab\t: 1\r\nContent-Length: 2\r\n\r\nok";
    let upstream = Upstream::with_response(response).await;
    let gateway = gateway(public_route(upstream.address));
    for h2 in [false, true] {
        let mut browser = Browser { h2, ..Browser::new(&gateway) };
        for (method, body) in [("GET", ""), ("POST", "order=1")] {
            let response = browser.send(method, "/", &[], body).await;
            assert_eq!((response.status, response.text()), (StatusCode::OK, "ok".to_owned()));
            assert_eq!(
                (response.header("x-frame-options"), response.header("x-tab")),
                ("DENY", "1")
            );
        }
    }
}

#[tokio::test]
async fn space_before_the_colon_of_a_framing_header_is_refused() {
    for line in ["Content-Length : 2", "content-length\t: 2", "Transfer-Encoding : chunked"] {
        let response = format!("HTTP/1.1 200 OK\r\n{line}\r\n\r\n2\r\nok\r\n0\r\n\r\n");
        let upstream = Upstream::with_response(response).await;
        let gateway = gateway(public_route(upstream.address));
        let response = Browser::new(&gateway).fetch("/").await;
        assert_eq!(response.status, StatusCode::BAD_GATEWAY, "{line}");
    }
}

#[tokio::test]
async fn a_response_has_up_to_response_headers_headers() {
    let cookies =
        |count: usize| (0..count).map(|number| format!("c{number}=v")).collect::<Vec<_>>();
    for (count, limits, status) in [
        (200, "", StatusCode::OK),
        (300, "", StatusCode::BAD_GATEWAY),
        (900, "[route.limits]\nresponse_headers = 1000\n", StatusCode::OK),
        (20, "[route.limits]\nresponse_headers = 16\n", StatusCode::BAD_GATEWAY),
    ] {
        let lines: String =
            cookies(count).iter().map(|cookie| format!("Set-Cookie: {cookie}\r\n")).collect();
        let response = format!("HTTP/1.1 200 OK\r\n{lines}Content-Length: 2\r\n\r\nok");
        let http1 = Upstream::with_response(response).await;
        let mut headers = HeaderMap::new();
        for cookie in cookies(count) {
            headers.append("set-cookie", cookie.parse().expect("a value"));
        }
        let http2 = H2Upstream::start(headers).await;
        let routes = [
            public_route(http1.address) + limits,
            public_route(http2.address)
                .replace("http://", "h2c://")
                .replace("path = \"/\"", "path = \"/h2\"")
                + limits,
        ];
        let gateway = gateway(routes.concat());
        for path in ["/", "/h2"] {
            for method in ["GET", "POST"] {
                let body = if method == "POST" { "order=1" } else { "" };
                let response = Browser::new(&gateway).send(method, path, &[], body).await;
                assert_eq!(response.status, status, "{method} {path} with {count}");
                if status == StatusCode::OK {
                    assert_eq!(response.set_cookies(), cookies(count));
                }
            }
        }
    }
}

#[tokio::test]
async fn a_response_head_has_up_to_response_header_bytes() {
    for (size, status) in [(60_000, StatusCode::OK), (70_000, StatusCode::BAD_GATEWAY)] {
        let value = "v".repeat(size);
        let response = format!("HTTP/1.1 200 OK\r\nX-A: {value}\r\nContent-Length: 2\r\n\r\nok");
        let http1 = Upstream::with_response(response).await;
        let headers = HeaderMap::from_iter([(
            "x-a".parse().expect("a name"),
            value.parse().expect("a value"),
        )]);
        let http2 = H2Upstream::start(headers).await;
        let h2c = public_route(http2.address).replace("http://", "h2c://");
        let gateway =
            gateway(public_route(http1.address) + &h2c.replace("path = \"/\"", "path = \"/h2\""));
        for path in ["/", "/h2"] {
            for body in ["", "order=1"] {
                let response = Browser::new(&gateway).send("POST", path, &[], body).await;
                assert_eq!(response.status, status, "{path} {size}");
            }
            assert_eq!(Browser::new(&gateway).fetch(path).await.status, status, "{path} {size}");
        }
    }
}

#[tokio::test]
async fn all_cookie_headers_count_as_one() {
    let upstream = Upstream::start().await;
    let gateway = gateway(
        public_route(upstream.address)
            + &session_route(upstream.address).replace("path = \"/\"", "path = \"/in\""),
    );
    let mut browser = Browser::new(&gateway).over_h2();
    browser.headers = (0..180).map(|number| ("cookie", format!("c{number}=v"))).collect();
    browser.log_in("alice").await;
    for path in ["/", "/in"] {
        assert_eq!(browser.fetch(path).await.status, StatusCode::OK);
        let values = upstream.last_values("cookie");
        assert_eq!((values.len(), values[0].split("; ").count()), (1, 180));
    }
    assert_eq!(browser.navigate("/.doorward/logout").await.status, StatusCode::OK);
    browser.headers.extend((0..100).map(|number| ("x-a", format!("{number}"))));
    assert_eq!(browser.fetch("/").await.status, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
}

#[tokio::test]
async fn via_can_be_switched_off() {
    let upstream = Upstream::start().await;
    let route = public_route(upstream.address);
    let gateway = gateway(format!(
        "{route}{}via = false\n",
        route.replace("path = \"/\"", "path = \"/gzip\"")
    ));
    let mut browser = Browser::new(&gateway);
    browser.fetch("/").await;
    assert_eq!(upstream.last_values("via"), ["1.1 doorward"]);
    browser.send("GET", "/gzip", &[("via", "1.0 cache")], "").await;
    assert_eq!(upstream.last_values("via"), ["1.0 cache"]);
}

#[tokio::test]
async fn host_header_upstream_replaces_host_and_own_origin() {
    let upstream = Upstream::start().await;
    let address = upstream.address.to_string();
    let route = session_route(upstream.address);
    let gateway =
        gateway(format!("{route}host_header = \"upstream\"\nforwarded_prefix = \"/wiki\"\n"));
    for h2 in [false, true] {
        let mut alice = Browser { h2, ..Browser::new(&gateway) };
        alice.log_in("alice").await;
        let headers = [("origin", "https://app.test"), ("referer", "https://app.test/a?b")];
        for body in ["", "order=1"] {
            alice.send("POST", "/", &headers, body).await;
            assert_eq!(upstream.last_values("host"), [address.as_str()]);
            assert_eq!(upstream.last_values("origin"), [format!("http://{address}")]);
            assert_eq!(upstream.last_values("referer"), [format!("http://{address}/a?b")]);
            assert_eq!(upstream.last_values("x-forwarded-host"), ["app.test"]);
            assert_eq!(upstream.last_values("x-forwarded-prefix"), ["/wiki"]);
        }
        // A client cannot choose the prefix.
        alice.send("GET", "/", &[("x-forwarded-prefix", "/evil")], "").await;
        assert_eq!(upstream.last_values("x-forwarded-prefix"), ["/wiki"]);
    }
}

#[tokio::test]
async fn upstream_path_replaces_the_path_of_the_route() {
    let upstream = Upstream::start().await;
    let route = session_route(upstream.address).replace("path = \"/\"", "path = \"/wiki\"");
    let gateway = gateway(format!("{route}upstream_path = \"/\"\n"));
    for h2 in [false, true] {
        let mut alice = Browser { h2, ..Browser::new(&gateway) };
        alice.log_in("alice").await;
        for (target, received) in [
            ("/wiki", "/"),
            ("/wiki/", "/"),
            ("/wiki?a=/wiki", "/?a=/wiki"),
            ("/wiki/a%20b/wiki", "/a%20b/wiki"),
        ] {
            for (method, body) in [("GET", ""), ("POST", "order=1")] {
                let headers = [("origin", "https://app.test")];
                assert_eq!(alice.send(method, target, &headers, body).await.status, 200);
                let line = format!("{method} {received} HTTP/1.1\r\n");
                assert!(upstream.last_head().starts_with(&line), "{}", upstream.last_head());
            }
        }
        let sent = upstream.heads().len();
        for target in ["/%77iki/a", "/wik%69"] {
            let response = alice.fetch(target).await;
            assert_eq!(response.status, 400, "{target}");
            assert!(response.text().contains("prefix of its route"), "{}", response.text());
        }
        assert_eq!(alice.fetch("/wikipedia").await.status, 404);
        assert_eq!(upstream.heads().len(), sent, "the upstream saw no such request");
    }
}

#[tokio::test]
async fn paths_in_responses_become_public() {
    const REDIRECT: &str = "HTTP/1.1 302 Found\r\nLocation: /login\r\nSet-Cookie: a=1; Path=/\r\n\
                            Content-Length: 0\r\n\r\n";
    let upstream = Upstream::with_response(REDIRECT).await;
    let route = public_route(upstream.address).replace("path = \"/\"", "path = \"/wiki\"");
    let prefixed = "forwarded_prefix = \"/wiki\"\n";
    for (options, location, cookie) in
        [("", "/wiki/login", "a=1; Path=/wiki"), (prefixed, "/login", "a=1; Path=/")]
    {
        let gateway = gateway(format!("{route}upstream_path = \"/\"\n{options}"));
        for h2 in [false, true] {
            let mut browser = Browser { h2, ..Browser::new(&gateway) };
            let response = browser.fetch("/wiki/").await;
            assert_eq!(response.header("location"), location);
            assert_eq!(response.header("set-cookie"), cookie);
        }
    }
}

#[tokio::test]
async fn a_redirect_to_the_upstreams_own_origin_becomes_public() {
    for (sent, received) in [
        ("http://SELF/a?b", "https://app.test/a?b"),
        ("http://app.test/a", "https://app.test/a"),
        ("/a", "/a"),
        ("https://login.test/", "https://login.test/"),
        ("http://127.0.0.1:1/a", "http://127.0.0.1:1/a"),
    ] {
        let gateway = gateway(public_route(redirecting_to(sent).await));
        for h2 in [false, true] {
            let mut browser = Browser { h2, ..Browser::new(&gateway) };
            assert_eq!(browser.fetch("/").await.header("location"), received);
        }
    }
}

/// An upstream that redirects each request; `SELF` is its own address.
async fn redirecting_to(location: &str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let location = location.replace("SELF", &address.to_string());
    let response =
        format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let response = response.clone();
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while matches!(stream.read(&mut buffer).await, Ok(1..)) {
                    stream.write_all(response.as_bytes()).await.unwrap_or_default();
                }
            });
        }
    });
    address
}
