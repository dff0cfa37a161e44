//! Open redirects: every response with a `Location`, tested with every spelling of another host.

use std::time::Duration;

use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::advisories::{location_url, other_hosts};
use test_support::browser::Browser;
use test_support::gateway::{Gateway, PASSWORD, Setup, manual_clock, session_route};
use test_support::upstream::{Upstream, header_values};

/// A gateway with a manual clock, because login throttling depends on time.
async fn one_app() -> (Upstream, Gateway) {
    let upstream = Upstream::start().await;
    let setup = Setup {
        routes: session_route(upstream.address),
        clock: manual_clock(),
        ..Setup::default()
    };
    (upstream, Gateway::start(setup))
}

/// Returns the named spellings and every fifth of the combined ones.
fn spellings() -> Vec<String> {
    let all = other_hosts();
    let (named, made) = all.split_at(24);
    let some = named.iter().chain(made.iter().step_by(5)).cloned().collect::<Vec<_>>();
    assert!(some.len() > 150, "{}", some.len());
    some
}

/// Returns the spellings that are valid in a request line, alone and after one of our paths.
fn targets() -> Vec<String> {
    let sendable = |trick: &String| trick.bytes().all(|byte| byte > b' ');
    let tricks: Vec<_> = spellings().into_iter().filter(sendable).collect();
    let prefixes = ["", "/?", "/@", "/wiki;", "/wiki?to="];
    let all = tricks.iter().flat_map(|trick| prefixes.map(|prefixes| format!("{prefixes}{trick}")));
    let all: Vec<_> = all.collect();
    assert!(all.len() > 200, "{}", all.len());
    all
}

fn head(method: &str, target: &str, more: &str) -> String {
    format!(
        "{method} {target} HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\nAccept: text/html\r\nSec-Fetch-Mode: navigate\r\n{more}\r\n"
    )
}

/// Asserts that a location is one of our pages at app.test.
fn stays(location: &str, trick: &str) {
    let url = location_url(location);
    assert_eq!(
        (url.scheme(), url.host_str()),
        ("https", Some("app.test")),
        "{trick:?}: {location}"
    );
}

#[tokio::test]
async fn login_ignores_redirect_parameters() {
    let (_upstream, gateway) = one_app().await;
    let mut browser = Browser::new(&gateway);
    let csrf = browser.navigate("/.doorward/login").await.form_field("csrf");
    for trick in spellings() {
        gateway.advance(Duration::from_secs(6));
        let fields = [
            ("username", "alice"),
            ("password", PASSWORD),
            ("csrf", &*csrf),
            ("to", &*trick),
            ("next", &*trick),
            ("rd", &*trick),
            ("redirect_uri", &*trick),
        ];
        let response = browser.clone().post_form("/.doorward/login", &fields).await;
        let found = (response.status, response.header("location"));
        assert_eq!(found, (StatusCode::SEE_OTHER, "/"), "{trick:?}");
    }
}

#[tokio::test]
async fn odd_path_returns_to_this_host_after_login() {
    let (_upstream, gateway) = one_app().await;
    let mut browser = Browser::new(&gateway);
    let csrf = browser.navigate("/.doorward/login").await.form_field("csrf");
    let mut kept = 0;
    for trick in targets() {
        let response = browser.send_raw(head("GET", &trick, "").as_bytes()).await;
        for location in header_values(&response, "location") {
            stays(&location, &trick);
            let query = location_url(&location)
                .query_pairs()
                .find(|(name, _)| name == "to")
                .map(|(_, to)| to.into_owned());
            let Some(to) = query else { continue };
            gateway.advance(Duration::from_secs(6));
            let fields =
                [("username", "alice"), ("password", PASSWORD), ("csrf", &*csrf), ("to", &*to)];
            let response = browser.clone().post_form("/.doorward/login", &fields).await;
            assert_eq!(response.status, StatusCode::SEE_OTHER, "{}", response.text());
            stays(response.header("location"), &trick);
            kept += 1;
        }
    }
    assert!(kept > 50, "{kept} of them led to a login");
}

#[tokio::test]
async fn logout_and_sessions_page_ignore_redirect_parameters() {
    let (_upstream, gateway) = one_app().await;
    let mut browser = Browser::new(&gateway);
    browser.log_in("alice").await;
    let sessions = browser.navigate("/.doorward/sessions").await.form_field("csrf");
    for trick in spellings() {
        let named = [("to", &*trick), ("next", &*trick), ("rd", &*trick)];
        let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(named).finish();
        let question = browser.navigate(&format!("/.doorward/logout?{query}")).await;
        assert_eq!(
            (question.status, question.header("location")),
            (StatusCode::OK, ""),
            "{trick:?}"
        );
        // Without a session, logout needs no CSRF token and returns the logout page.
        let mut anonymous = Browser::new(&gateway);
        let left = anonymous.post_form(&format!("/.doorward/logout?{query}"), &named).await;
        assert_eq!((left.status, left.header("location")), (StatusCode::OK, ""), "{trick:?}");
        let fields = [&[("csrf", &*sessions), ("do", "end-others")], &named[..]].concat();
        let ended = browser.post_form(&format!("/.doorward/sessions?{query}"), &fields).await;
        assert_eq!(ended.status, StatusCode::SEE_OTHER, "{trick:?}");
        // The location carries what was done, and no return URL.
        let done = ended.header("location");
        assert!(done.starts_with("/.doorward/sessions?to="), "{trick:?}: {done}");
        for page in [done, &format!("/.doorward/sessions?{query}")] {
            let page = browser.navigate(page).await.text();
            assert!(!page.contains("Continue"), "{trick:?}");
        }
    }
    let form = browser.navigate("/.doorward/logout").await;
    let fields =
        [("csrf", &*form.form_field("csrf")), ("to", "//evil.test"), ("next", "https://evil.test")];
    let left = browser.post_form("/.doorward/logout", &fields).await;
    assert_eq!((left.status, left.header("location")), (StatusCode::OK, ""));
}

/// Sends a request without TLS and returns the raw response.
async fn plain(gateway: &Gateway, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(gateway.http).await.expect("a connection");
    stream.write_all(bytes).await.expect("sent");
    let mut response = Vec::new();
    stream.read_to_end(&mut response).await.unwrap_or_default();
    String::from_utf8_lossy(&response).into_owned()
}

/// Hosts that start with, end with or resemble ours.
fn hosts() -> Vec<String> {
    let joints = [
        ".", "@", ":", "/", "\\", "#", "?", "%", "%00", "%2e", "%2f", "%40", " ", "\t", ",", ";",
        "&", "..", ":443@", ":443#", ":x", "\u{0}", "\u{b}", "\u{a0}", "\u{3002}", "\u{ff0e}",
        "\"", "'", "<", "|", "^", "`", "{", "~", "!", "$", "(", "*", "+", "=", "_", "-", "",
    ];
    let mut out: Vec<String> =
        ["evil.test", "[::1]", "127.1", "[app.test]", "", ".", "*", "localhost"]
            .map(str::to_owned)
            .to_vec();
    for joint in joints {
        out.push(format!("app.test{joint}evil.test"));
        out.push(format!("evil.test{joint}app.test"));
        out.push(format!("{joint}app.test"));
        out.push(format!("app.test{joint}"));
    }
    out
}

#[tokio::test]
async fn plain_http_redirects_only_to_configured_hosts() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(Setup {
        routes: session_route(upstream.address),
        server: "public_port = 9443".to_owned(),
        ..Setup::default()
    });
    let ours = "https://app.test:9443/".to_owned();
    let sent = plain(&gateway, b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n").await;
    assert_eq!(header_values(&sent, "location"), [ours.as_str()]);
    assert!(hosts().len() > 150);
    for host in hosts() {
        for request in [
            format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"),
            format!("GET / HTTP/1.1\r\nHost: app.test\r\nHost: {host}\r\n\r\n"),
            format!("GET / HTTP/1.1\r\nHost: {host}\r\nHost: app.test\r\n\r\n"),
            format!("GET / HTTP/1.1\r\nHost: app.test\r\nX-Forwarded-Host: {host}\r\n\r\n"),
            format!("GET http://{host}/ HTTP/1.1\r\nHost: app.test\r\n\r\n"),
        ] {
            for location in header_values(&plain(&gateway, request.as_bytes()).await, "location") {
                assert!(location.starts_with(&ours), "{request:?}: {location}");
            }
        }
    }
    for target in targets() {
        let request = format!("GET {target} HTTP/1.1\r\nHost: app.test\r\n\r\n");
        for location in header_values(&plain(&gateway, request.as_bytes()).await, "location") {
            let whole = url::Url::parse(&location).expect("an address");
            assert_eq!((whole.scheme(), whole.host_str()), ("https", Some("app.test")), "{target}");
            assert_eq!(whole.port(), Some(9443), "{target}");
        }
    }
    assert!(upstream.heads().is_empty());
}
