//! Durations and upstream errors by route.

use std::net::SocketAddr;
use std::time::Duration;

use doorward::admin::ReloadMode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use test_support::browser::Browser;
use test_support::gateway::{Gateway, Setup, session_route};
use test_support::upstream::Upstream;

use crate::websocket::{Echo, logged_in, open};

/// Shortest time that the upstream in these tests needs for a response.
const WAIT: Duration = Duration::from_millis(120);

fn start(routes: String) -> Gateway {
    Gateway::start(Setup { routes, access_log: true, ..Setup::default() })
}

fn public(path: &str, upstream: SocketAddr) -> String {
    session_route(upstream)
        .replace("\"session\"", "\"public\"")
        .replace("path = \"/\"", &format!("path = \"{path}\""))
}

/// Returns the value of a sample; `None` without one.
async fn sample(gateway: &Gateway, name: &str) -> Option<f64> {
    let metrics = gateway.metrics().await;
    let value = metrics.lines().find_map(|line| line.strip_prefix(name));
    value.map(|value| value.trim().parse().expect("a number"))
}

/// Count and sum of the durations of a phase.
async fn durations(gateway: &Gateway, route: &str, phase: &str) -> (f64, f64) {
    let value = async |suffix| {
        let name = format!(
            "doorward_request_duration_seconds_{suffix}{{route=\"{route}\",phase=\"{phase}\"}}"
        );
        sample(gateway, &name).await.unwrap_or(-1.0)
    };
    (value("count").await, value("sum").await)
}

async fn errors(gateway: &Gateway, route: &str, cause: &str) -> Option<f64> {
    let name = format!("doorward_upstream_errors_total{{route=\"{route}\",cause=\"{cause}\"}}");
    sample(gateway, &name).await
}

/// An address that refuses connections.
async fn closed() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    listener.local_addr().expect("an address")
}

/// An upstream that closes in the middle of each response.
async fn cutting_upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 1024];
            let _ = stream.read(&mut head).await;
            let part = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nfour";
            let _ = stream.write_all(part.as_bytes()).await;
        }
    });
    address
}

/// Fetches a page whose response the upstream holds back for [`WAIT`].
async fn fetch_slowly(browser: &mut Browser, upstream: &Upstream, path: &str) {
    let requests = upstream.heads().len();
    upstream.hold_responses();
    let released = async {
        upstream.wait_for_requests(requests + 1).await;
        tokio::time::sleep(WAIT).await;
        upstream.release_responses();
    };
    let (response, ()) = tokio::join!(browser.fetch(path), released);
    assert_eq!(response.status, 200);
}

#[tokio::test]
async fn durations_are_measured_by_route_and_phase() {
    let upstream = Upstream::start().await;
    let routes = session_route(upstream.address) + &public("/open", upstream.address);
    let gateway = start(routes);
    let browser = logged_in(&gateway, "alice").await;
    for (mut browser, name) in [(browser.clone(), "1"), (browser.over_h2(), "2")] {
        for path in [format!("/app{name}"), format!("/open/{name}")] {
            fetch_slowly(&mut browser, &upstream, &path).await;
            gateway.access_log_entry(&path).await;
        }
    }
    for (route, count) in [("app.test/open", 2.0), ("app.test/", 2.0)] {
        let (waited, upstream) = durations(&gateway, route, "upstream").await;
        assert_eq!(waited, count, "{route}");
        assert!(upstream >= 2.0 * WAIT.as_secs_f64(), "{route}: {upstream} s");
        for phase in ["gateway", "response"] {
            let (passed, seconds) = durations(&gateway, route, phase).await;
            assert!(passed >= count && seconds < upstream, "{route} {phase}: {passed} {seconds}");
        }
    }
    let below = "doorward_request_duration_seconds_bucket{le=\"0.1\",route=\"app.test/open\",phase=\"upstream\"}";
    assert_eq!(sample(&gateway, below).await, Some(0.0));
}

#[tokio::test]
async fn a_refused_request_counts_in_the_phase_of_the_gateway() {
    let upstream = Upstream::start().await;
    let gateway = start(session_route(upstream.address));
    assert_eq!(Browser::new(&gateway).fetch("/refused").await.status, 401);
    gateway.access_log_entry("/refused").await;
    assert_eq!(durations(&gateway, "app.test/", "gateway").await.0, 1.0);
    for phase in ["upstream", "response"] {
        assert_eq!(durations(&gateway, "app.test/", phase).await.0, 0.0, "{phase}");
    }
}

#[tokio::test]
async fn waiting_for_an_upstream_counts_if_the_client_leaves() {
    let upstream = Upstream::start().await;
    // The second route forwards in a task of its own.
    let routes = public("/plain", upstream.address)
        + &public("/control", upstream.address)
        + "[route.session]\nupstream_control = [\"end\"]\n";
    let gateway = start(routes);
    upstream.hold_responses();
    for (requests, path) in ["/plain", "/control"].into_iter().enumerate() {
        let mut stream = Browser::new(&gateway).connect().await;
        let head = format!("GET {path} HTTP/1.1\r\nHost: app.test\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("sent");
        upstream.wait_for_requests(requests + 1).await;
        tokio::time::sleep(WAIT).await;
        drop(stream);
        assert_eq!(gateway.access_log_entry(path).await["status"], 499);
        let route = format!("app.test{path}");
        let (count, seconds) = durations(&gateway, &route, "upstream").await;
        assert!(count == 1.0 && seconds >= WAIT.as_secs_f64(), "{path}: {count} {seconds}");
        assert_eq!(durations(&gateway, &route, "response").await.0, 0.0, "{path}");
    }
    upstream.release_responses();
}

#[tokio::test]
async fn upstream_errors_are_counted_by_route_and_cause() {
    let strange = Upstream::with_response("HTTP/1.1 banana\r\n\r\n").await;
    let routes = public("/refused", closed().await)
        + &public("/cut", cutting_upstream().await)
        + &public("/strange", strange.address);
    let gateway = start(routes);
    for (path, cause) in [
        ("/refused", "connection_refused"),
        ("/cut", "http_response_incomplete"),
        ("/strange", "http_protocol_error"),
    ] {
        for browser in [Browser::new(&gateway), Browser::new(&gateway).over_h2()] {
            let path = format!("{path}/{}", browser.h2);
            // The end of a cut response is an error for the client.
            let fetch = tokio::spawn(async move { browser.clone().fetch(&path).await.status });
            let _ = fetch.await;
        }
        for end in ["false", "true"] {
            gateway.access_log_entry(&format!("{path}/{end}")).await;
        }
        assert_eq!(errors(&gateway, &format!("app.test{path}"), cause).await, Some(2.0), "{path}");
    }
}

#[tokio::test]
async fn a_failed_websocket_counts_as_an_upstream_error() {
    let (echo, upstream) = (Echo::start().await, Upstream::start().await);
    let routes = session_route(echo.address)
        + &public("/down", closed().await)
        + &public("/declined", upstream.address);
    let gateway = start(routes);
    drop(open(&logged_in(&gateway, "alice").await).await);
    for path in ["/down", "/declined"] {
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        Browser::new(&gateway).send_raw(head.as_bytes()).await;
        gateway.access_log_entry(path).await;
    }
    gateway.access_log_entry("/ws").await;
    assert_eq!(errors(&gateway, "app.test/down", "connection_refused").await, Some(1.0));
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.matches("\ndoorward_upstream_errors_total{").count(), 1, "{metrics}");
    for route in ["app.test/", "app.test/declined"] {
        assert_eq!(durations(&gateway, route, "response").await.0 as u64 % 2, 1, "{route}");
    }
}

#[tokio::test]
async fn counts_of_a_route_outlive_a_reload_and_end_with_it() {
    let upstream = Upstream::start().await;
    let gateway = start(public("/stays", upstream.address) + &public("/goes", upstream.address));
    let mut browser = Browser::new(&gateway);
    let fetch = async |browser: &mut Browser, path: &str| {
        assert_eq!(browser.fetch(path).await.status, 200);
        gateway.access_log_entry(path).await;
    };
    fetch(&mut browser, "/stays/1").await;
    fetch(&mut browser, "/goes/1").await;
    let text = gateway.config_text();
    gateway.set_config_text(&text.replace("\"/goes\"", "\"/comes\""));
    let count = async |route| durations(&gateway, route, "upstream").await.0;
    gateway.reload(ReloadMode::DryRun);
    assert_eq!(count("app.test/comes").await, -1.0, "a dry run adds no route");
    gateway.reload(ReloadMode::Apply);
    fetch(&mut browser, "/stays/2").await;
    fetch(&mut browser, "/comes/2").await;
    assert_eq!(count("app.test/stays").await, 2.0);
    assert_eq!(count("app.test/comes").await, 1.0);
    // The connection was idle when the routes changed: its next request used the new ones.
    assert_eq!(count("app.test/goes").await, -1.0, "a removed route has no counts");
}
