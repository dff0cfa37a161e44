//! Step-up authentication: reading needs any login, writing needs a recent one.

use std::time::Duration;

use http::StatusCode;

use test_support::browser::{Browser, Response};
use test_support::gateway::{Gateway, PASSWORD, Setup, manual_clock};
use test_support::upstream::Upstream;

const MINUTE: Duration = Duration::from_secs(60);
const RULE: &str =
    "{ max_auth_age = \"5m\", auth_age_methods = [\"POST\", \"PUT\", \"PATCH\", \"DELETE\"] }";

/// A route `/bank` with step-up, a route without, and alice's login of ten minutes ago.
struct StepUpTest {
    bank: Upstream,
    _wiki: Upstream,
    gateway: Gateway,
    alice: Browser,
}

impl StepUpTest {
    async fn new() -> StepUpTest {
        let (bank, wiki) = (Upstream::start().await, Upstream::start().await);
        let route = |path: &str, upstream: &Upstream, access: &str| {
            format!(
                "[[route]]\nhost = \"app.test\"\npath = \"{path}\"\nupstream = \"http://{}\"\naccess = {access}\n",
                upstream.address
            )
        };
        let routes = route("/", &wiki, "\"session\"") + &route("/bank", &bank, RULE);
        let gateway = Gateway::start(Setup { routes, clock: manual_clock(), ..Setup::default() });
        let mut alice = Browser::new(&gateway);
        alice.log_in("alice").await;
        gateway.advance(10 * MINUTE);
        StepUpTest { bank, _wiki: wiki, gateway, alice }
    }
}

async fn write(browser: &mut Browser, method: &str, path: &str) -> Response {
    browser.send(method, path, &[("sec-fetch-site", "same-origin")], "amount=1").await
}

#[tokio::test]
async fn old_login_may_read_but_writing_needs_a_fresh_login() {
    let mut test = StepUpTest::new().await;
    for method in ["GET", "HEAD"] {
        let response = test.alice.send(method, "/bank", &[], "").await;
        assert_eq!(response.status, StatusCode::OK, "{method}");
    }
    assert_eq!(test.alice.navigate("/bank").await.status, StatusCode::OK);
    let seen = test.bank.heads().len();
    assert_eq!(seen, 3);
    for method in ["POST", "PUT", "PATCH", "DELETE"] {
        let response = write(&mut test.alice, method, "/bank/transfer").await;
        assert_eq!(response.status, StatusCode::UNAUTHORIZED, "{method}");
        assert_eq!(response.json()["error"], "reauthenticate", "{method}");
        assert!(response.set_cookies().is_empty(), "{:?}", response.set_cookies());
    }
    let page = test.alice.post_form("/bank/transfer", &[("amount", "1")]).await;
    assert_eq!(page.status, StatusCode::SEE_OTHER);
    let login = page.header("location");
    assert!(login.starts_with("/.doorward/login?to="));
    assert_eq!(test.bank.heads().len(), seen, "the bank sees nothing of them");
    assert_eq!(write(&mut test.alice, "POST", "/edit").await.status, StatusCode::OK);
}

#[tokio::test]
async fn unlisted_methods_need_a_fresh_login_too() {
    let mut test = StepUpTest::new().await;
    let handshake = [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("origin", "https://app.test"),
    ];
    let response = test.alice.send("GET", "/bank/live", &handshake, "").await;
    assert_eq!(response.json()["error"], "reauthenticate", "a WebSocket may write anything");
    let response = write(&mut test.alice, "MKCOL", "/bank/new").await;
    assert_eq!(response.json()["error"], "reauthenticate");
    assert!(test.bank.heads().is_empty());
}

#[tokio::test]
async fn new_token_may_write_after_login_and_the_old_one_is_dead() {
    let mut test = StepUpTest::new().await;
    assert_eq!(
        write(&mut test.alice, "POST", "/bank/transfer").await.status,
        StatusCode::UNAUTHORIZED
    );
    let old = test.alice.token();
    let response = test.alice.try_log_in("alice", PASSWORD, "/bank").await;
    assert_eq!(response.status, StatusCode::SEE_OTHER);
    assert_ne!(test.alice.token(), old);
    assert_eq!(write(&mut test.alice, "POST", "/bank/transfer").await.status, StatusCode::OK);
    let copy = Browser::new(&test.gateway).with_token(&old).fetch("/").await;
    assert_eq!(copy.status, StatusCode::UNAUTHORIZED);
    assert_eq!(copy.json()["reason"], "replaced");
    assert_eq!(
        test.alice.fetch("/bank").await.status,
        StatusCode::OK,
        "and the session stays active"
    );
    test.gateway.advance(5 * MINUTE);
    let late = write(&mut test.alice, "POST", "/bank/transfer").await;
    assert_eq!(late.json()["error"], "reauthenticate", "five minutes and not longer");
}

/// A request may name another method, and a form may do so in its body.
#[tokio::test]
async fn named_method_needs_a_fresh_login_like_the_real_one() {
    let mut test = StepUpTest::new().await;
    let seen = test.bank.heads().len();
    for h2 in [false, true] {
        test.alice.h2 = h2;
        for name in ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"] {
            for method in ["DELETE", "post", "GET, PATCH", "MERGE"] {
                for own in ["GET", "HEAD", "OPTIONS"] {
                    let response = test.alice.send(own, "/bank", &[(name, method)], "").await;
                    assert_eq!(response.status, StatusCode::UNAUTHORIZED, "{own} {name} {method}");
                }
            }
        }
        for query in ["_method=DELETE", "a=b&_METHOD=put", "%5fmethod=p%6fst", "x-http-method=PUT"]
        {
            let response = test.alice.fetch(&format!("/bank?{query}")).await;
            assert_eq!(response.status, StatusCode::UNAUTHORIZED, "{query}");
        }
    }
    assert_eq!(test.bank.heads().len(), seen, "the bank sees nothing of them");
    for (path, name) in [("/bank?method=DELETE", "X-Method"), ("/bank?_method=GET", "X-Other")] {
        assert_eq!(
            test.alice.send("GET", path, &[(name, "DELETE")], "").await.status,
            StatusCode::OK
        );
    }
    // Other spellings are removed.
    for name in ["X_HTTP_Method_Override", "X.HTTP.Method.Override", "X~Method~Override"] {
        assert_eq!(
            test.alice.send("GET", "/bank", &[(name, "DELETE")], "").await.status,
            StatusCode::OK
        );
        assert!(!test.bank.last_head().contains("DELETE"), "{}", test.bank.last_head());
    }
}

#[tokio::test]
async fn posted_form_needs_a_fresh_login_if_any_writing_method_does() {
    let bank = Upstream::start().await;
    let routes = format!(
        "[[route]]\nhost = \"app.test\"\nupstream = \"http://{}\"\naccess = {{ max_auth_age = \"5m\", auth_age_methods = [\"DELETE\"] }}\n",
        bank.address
    );
    let gateway = Gateway::start(Setup { routes, clock: manual_clock(), ..Setup::default() });
    let mut alice = Browser::new(&gateway);
    alice.log_in("alice").await;
    gateway.advance(10 * MINUTE);
    let origin = ("sec-fetch-site", "same-origin");
    for kind in ["application/x-www-form-urlencoded", "Multipart/Form-Data; boundary=x"] {
        let response =
            alice.send("POST", "/", &[origin, ("content-type", kind)], "_method=delete").await;
        assert_eq!(response.status, StatusCode::UNAUTHORIZED, "{kind}");
    }
    let json = [origin, ("content-type", "application/json")];
    assert_eq!(alice.send("POST", "/", &json, "{}").await.status, StatusCode::OK);
}
