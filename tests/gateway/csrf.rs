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
        let answer = self.alice.send_raw(request.as_bytes()).await;
        answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default()
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
        assert_eq!(test.upstream.heads().len(), before, "the app heard of it");
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

#[tokio::test]
async fn csrf_rejection_names_the_reason_and_keeps_the_session() {
    let mut test = CsrfTest::with("").await;
    let token = test.alice.token();
    let answer = test.alice.send("POST", "/a", &[CROSS, EVIL], "").await;
    assert_eq!(answer.json()["error"], "cross-site");
    assert!(answer.set_cookies().is_empty());
    assert_eq!(answer.header("cache-control"), "no-store");
    let page = test.alice.send("POST", "/a", &[CROSS, ("sec-fetch-mode", "navigate")], "").await;
    assert!(page.text().contains("<h1>"), "{}", page.text());
    assert_eq!(test.alice.token(), token);
    assert_eq!(test.alice.fetch("/a").await.status, StatusCode::OK);
}

#[tokio::test]
async fn cross_site_request_without_session_is_sent_to_login() {
    let test = CsrfTest::with("").await;
    let mut nobody = Browser::new(&test.gateway);
    let navigation = [CROSS, EVIL, ("sec-fetch-mode", "navigate")];
    assert_eq!(nobody.send("POST", "/a", &navigation, "").await.status, StatusCode::SEE_OTHER);
    assert_eq!(
        nobody.send("POST", "/a", &[CROSS, EVIL], "").await.status,
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
    assert_eq!(test.upstream.heads().len(), 0, "the app heard of it");
    for fields in ["", "Origin: https://app.test\r\n", "Origin: https://APP.test:443\r\n"] {
        assert_eq!(test.handshake(fields).await, 200, "{fields}");
    }
}
