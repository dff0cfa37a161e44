//! Cross-site requests.

use http::StatusCode;

use test_support::browser::{Browser, SESSION};
use test_support::gateway::{Gateway, Setup, session_route};
use test_support::upstream::Upstream;

struct CsrfTest {
    upstream: Upstream,
    gateway: Gateway,
    alice: Browser,
}

impl CsrfTest {
    /// Starts a gateway with a session route that has these keys, a public route `/public`, and a logged-in user.
    async fn with(lines: &str) -> CsrfTest {
        let upstream = Upstream::start().await;
        let session = session_route(upstream.address);
        let public = session
            .replace("path = \"/\"", "path = \"/public\"")
            .replace("\"session\"", "\"public\"");
        let routes = format!("{session}{lines}\n{public}");
        let gateway = Gateway::start(Setup { routes, ..Setup::default() });
        let mut alice = Browser::new(&gateway);
        alice.log_in("alice").await;
        CsrfTest { upstream, gateway, alice }
    }

    async fn status(&mut self, method: &str, path: &str, fields: &[(&str, &str)]) -> u16 {
        self.alice.send(method, path, fields, "").await.status.as_u16()
    }

    /// Returns the status of a WebSocket handshake.
    async fn handshake(&self, fields: &str) -> u16 {
        let token = self.alice.token();
        let request = format!(
            "GET / HTTP/1.1\r\nHost: app.test\r\nCookie: {SESSION}={token}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{fields}\r\n"
        );
        let response = self.alice.send_raw(request.as_bytes()).await;
        response.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default()
    }
}

const OWN: (&str, &str) = ("origin", "https://app.test");
const EVIL: (&str, &str) = ("origin", "https://evil.test");
const CROSS: (&str, &str) = ("sec-fetch-site", "cross-site");
const SIBLING: (&str, &str) = ("sec-fetch-site", "same-site");

/// ASVS 3.5.
#[tokio::test]
async fn cross_site_requests_cannot_write() {
    let mut test = CsrfTest::with("").await;
    for h2 in [false, true] {
        test.alice.h2 = h2;
        let before = test.upstream.heads().len();
        for method in ["POST", "PUT", "PATCH", "DELETE", "PURGE"] {
            for fields in [&[CROSS][..], &[SIBLING], &[EVIL], &[CROSS, EVIL], &[SIBLING, OWN]] {
                assert_eq!(test.status(method, "/a", fields).await, 403, "{method} {fields:?}");
            }
            assert_eq!(test.status(method, "/a", &[("origin", "null")]).await, 403);
        }
        assert_eq!(test.upstream.heads().len(), before, "the app received the request");
        for fields in [
            &[][..],
            &[OWN],
            &[("sec-fetch-site", "same-origin"), OWN],
            &[("sec-fetch-site", "none")],
        ] {
            assert_eq!(test.status("POST", "/a", fields).await, 200, "{fields:?}");
        }
        for method in ["GET", "HEAD", "OPTIONS"] {
            assert_eq!(test.status(method, "/a", &[CROSS, EVIL]).await, 200, "{method} reads");
        }
    }
}

/// A request may name another method for the app to execute.
#[tokio::test]
async fn cross_site_requests_cannot_name_a_writing_method() {
    let mut test = CsrfTest::with("").await;
    for h2 in [false, true] {
        test.alice.h2 = h2;
        let before = test.upstream.heads().len();
        for path in ["/a?_method=DELETE", "/a?x=1&_METHOD=put", "/a?%5Fmethod=%50OST"] {
            assert_eq!(test.status("GET", path, &[CROSS, EVIL]).await, 403, "{path}");
        }
        for name in ["x-http-method-override", "x-http-method", "x-method-override"] {
            assert_eq!(
                test.status("GET", "/a", &[CROSS, EVIL, (name, "PUT")]).await,
                403,
                "{name}"
            );
        }
        assert_eq!(test.upstream.heads().len(), before, "the app received the request");
        assert_eq!(test.status("GET", "/a?_method=DELETE", &[OWN]).await, 200);
        assert_eq!(test.status("GET", "/a?_method=get&method=PUT", &[CROSS, EVIL]).await, 200);
    }
}

#[tokio::test]
async fn csrf_rejection_names_the_reason_and_keeps_the_session() {
    let mut test = CsrfTest::with("").await;
    let token = test.alice.token();
    let response = test.alice.send("POST", "/a", &[CROSS, EVIL], "").await;
    assert_eq!(response.json()["error"], "cross-site");
    assert!(response.set_cookies().is_empty());
    assert_eq!(response.header("cache-control"), "no-store");
    let page = test.alice.send("POST", "/a", &[CROSS, ("sec-fetch-mode", "navigate")], "").await;
    assert!(page.text().contains("<h1>"), "{}", page.text());
    assert_eq!(test.alice.token(), token);
    assert_eq!(test.alice.fetch("/a").await.status, StatusCode::OK);
}

#[tokio::test]
async fn cross_site_request_without_session_is_sent_to_login() {
    let test = CsrfTest::with("").await;
    let mut anonymous = Browser::new(&test.gateway);
    let navigation = [CROSS, EVIL, ("sec-fetch-mode", "navigate")];
    assert_eq!(anonymous.send("POST", "/a", &navigation, "").await.status, StatusCode::SEE_OTHER);
    assert_eq!(
        anonymous.send("POST", "/a", &[CROSS, EVIL], "").await.status,
        StatusCode::UNAUTHORIZED
    );
}

#[tokio::test]
async fn public_routes_accept_cross_site_requests() {
    let mut test = CsrfTest::with("").await;
    assert_eq!(test.status("POST", "/public", &[CROSS, EVIL]).await, 200);
    assert!(test.upstream.last_values("x-forwarded-user").is_empty());
}

#[tokio::test]
async fn route_can_allow_listed_sites_or_disable_the_check() {
    let mut test = CsrfTest::with("origins = [\"https://Friend.test\"]").await;
    let friend = ("origin", "https://friend.test");
    assert_eq!(test.status("POST", "/a", &[SIBLING, friend]).await, 200);
    assert_eq!(test.status("POST", "/a", &[CROSS, friend]).await, 200);
    for other in ["http://friend.test", "https://friend.test:444", "https://friend.test.evil.test"]
    {
        assert_eq!(test.status("POST", "/a", &[SIBLING, ("origin", other)]).await, 403, "{other}");
    }
    assert_eq!(test.handshake("Origin: https://friend.test\r\n").await, 200);
    assert_eq!(test.handshake("Origin: https://evil.test\r\n").await, 403);
    let mut open = CsrfTest::with("csrf = \"off\"").await;
    assert_eq!(open.status("POST", "/a", &[CROSS, EVIL]).await, 200);
    assert_eq!(open.handshake("Origin: https://evil.test\r\n").await, 200);
}

/// ASVS 4.4.2.
/// The upstream returns 200, so the status shows whether the request reached it.
#[tokio::test]
async fn cross_site_pages_cannot_open_websockets() {
    let test = CsrfTest::with("").await;
    for fields in [
        "Origin: https://evil.test\r\n",
        "Origin: https://app.test.evil.test\r\n",
        "Origin: https://app.test:444\r\n",
        "Origin: http://app.test\r\n",
        "Origin: null\r\n",
        "Origin: https://app.test\r\nSec-Fetch-Site: cross-site\r\n",
        "Sec-Fetch-Site: same-site\r\n",
    ] {
        assert_eq!(test.handshake(fields).await, 403, "{fields}");
    }
    assert_eq!(test.upstream.heads().len(), 0, "the app received the request");
    for fields in ["", "Origin: https://app.test\r\n", "Origin: https://APP.test:443\r\n"] {
        assert_eq!(test.handshake(fields).await, 200, "{fields}");
    }
}

/// A preflight has no cookie, so it can have no session.
#[tokio::test]
async fn preflight_of_a_listed_origin_gets_a_response() {
    let test = CsrfTest::with("origins = [\"https://friend.test\"]").await;
    let before = test.upstream.heads().len();
    let mut anonymous = Browser::new(&test.gateway);
    let friend = ("origin", "https://friend.test");
    let preflight = [
        ("access-control-request-method", "DELETE"),
        ("access-control-request-headers", "content-type,x-a"),
    ];
    for h2 in [false, true] {
        anonymous.h2 = h2;
        let response =
            anonymous.send("OPTIONS", "/a", &[friend, preflight[0], preflight[1], CROSS], "").await;
        assert_eq!(response.status, StatusCode::NO_CONTENT);
        for (name, value) in [
            ("access-control-allow-origin", "https://friend.test"),
            ("access-control-allow-credentials", "true"),
            ("access-control-allow-methods", "DELETE"),
            ("access-control-allow-headers", "content-type,x-a"),
            ("vary", "Origin"),
        ] {
            assert_eq!(response.header(name), value, "{name}");
        }
        assert!(response.set_cookies().is_empty());
        for fields in [&[EVIL, preflight[0]][..], &[preflight[0]], &[friend]] {
            let response = anonymous.send("OPTIONS", "/a", fields, "").await;
            assert_eq!(response.status, StatusCode::UNAUTHORIZED, "{fields:?}");
        }
    }
    assert_eq!(test.upstream.heads().len(), before, "the app receives no request");
    // A public app responds itself.
    let response = anonymous.send("OPTIONS", "/public", &[friend, preflight[0]], "").await;
    assert_eq!(response.text(), "hello");
}

#[tokio::test]
async fn listed_origin_can_read_local_responses() {
    let mut test = CsrfTest::with("origins = [\"https://friend.test\"]").await;
    let mut anonymous = Browser::new(&test.gateway);
    let friend = ("origin", "https://friend.test");
    for method in ["GET", "PUT"] {
        let response = anonymous.send(method, "/a", &[friend, CROSS], "").await;
        assert_eq!(response.status, StatusCode::UNAUTHORIZED);
        assert_eq!(response.header("access-control-allow-origin"), "https://friend.test");
        assert_eq!(response.header("access-control-allow-credentials"), "true");
        let response = anonymous.send(method, "/a", &[EVIL, CROSS], "").await;
        assert_eq!(response.header("access-control-allow-origin"), "");
    }
    let response = test.alice.send("PUT", "/a", &[EVIL, CROSS], "").await;
    assert_eq!(
        (response.status.as_u16(), response.header("access-control-allow-origin")),
        (403, "")
    );
    let response = test.alice.send("PUT", "/a", &[friend, CROSS], "").await;
    assert_eq!(
        (response.status.as_u16(), response.header("access-control-allow-origin")),
        (200, "")
    );
}
