//! Access tokens of an OpenID Connect provider (RFC 9068), which programs present as Bearer credentials.

use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};

use test_support::browser::{Browser, Response};
use test_support::gateway::{Gateway, Setup, manual_clock};
use test_support::oidc_server::{CLIENT_ID, OidcServer};
use test_support::upstream::Upstream;

struct BearerTest {
    provider: OidcServer,
    upstream: Upstream,
    gateway: Gateway,
}

impl BearerTest {
    async fn new() -> BearerTest {
        BearerTest::with("", false).await
    }

    /// `/` accepts access tokens, `/it` of one group, `/bank` with a recent login, `/phr` with an acr; `/plain`
    /// does not.
    async fn with(provider_keys: &str, is_down: bool) -> BearerTest {
        let clock = manual_clock();
        let provider = OidcServer::start(clock.clone()).await;
        provider.set_down(is_down);
        let upstream = Upstream::start().await;
        let route = |path: &str, access: &str, more: &str| {
            format!(
                "[[route]]\nhost = \"app.test\"\npath = \"{path}\"\nupstream = \"http://{}\"\naccess = {access}\n{more}\n",
                upstream.address
            )
        };
        let bearer = "bearer = [\"corp\"]";
        let identity = format!(
            "{bearer}\nassertion = true\nidentity = {{ \"X-User\" = \"{{user}}\", \"X-Team\" = \"{{claim:team}}\" }}"
        );
        let routes = [
            route("/", "\"session\"", &identity),
            route("/it", "{ groups = [\"it\"] }", bearer),
            route("/bank", "{ max_auth_age = \"5m\" }", bearer),
            route("/phr", "{ acr = [\"phr\"] }", bearer),
            route("/plain", "\"session\"", ""),
        ];
        let keys = format!("bearer_audience = [\"api\", \"other-api\"]\n{provider_keys}");
        let extra = provider.configuration(&keys);
        let routes = routes.concat();
        let setup = Setup { routes, extra, clock, access_log: true, ..Setup::default() };
        BearerTest { provider, upstream, gateway: Gateway::start(setup) }
    }

    async fn get(&self, path: &str, token: &str) -> Response {
        let authorization = format!("Bearer {token}");
        let headers = [("authorization", authorization.as_str())];
        Browser::new(&self.gateway).send("GET", path, &headers, "").await
    }

    /// Status and reason of a GET with a token that `change` alters.
    async fn outcome(&self, change: impl FnOnce(&mut Value, &mut Value)) -> (u16, String) {
        reason(&self.get("/", &self.provider.access_token(change)).await)
    }
}

fn valid(_: &mut Value, _: &mut Value) {}

fn reason(answer: &Response) -> (u16, String) {
    let body: Value = serde_json::from_str(&answer.text()).unwrap_or_default();
    (answer.status.as_u16(), body["reason"].as_str().unwrap_or_default().to_owned())
}

fn refused(status: u16, reason: &str) -> (u16, String) {
    (status, reason.to_owned())
}

#[tokio::test]
async fn an_access_token_of_the_provider_admits_its_user() {
    let test = BearerTest::new().await;
    for h2 in [false, true] {
        let token = test.provider.access_token(|_, claims| claims["team"] = json!("blue"));
        let authorization = format!("bearer {token}");
        let headers = [("authorization", authorization.as_str()), ("origin", "https://evil.test")];
        let mut program = Browser { h2, ..Browser::new(&test.gateway) };
        let answer = program.send("PUT", "/a", &headers, "x").await;
        assert_eq!(
            answer.status,
            StatusCode::OK,
            "no CSRF check without a cookie: {}",
            answer.text()
        );
        assert!(answer.set_cookies().is_empty(), "no session");
        assert_eq!(test.upstream.last_values("x-user"), ["alice"]);
        assert_eq!(test.upstream.last_values("x-team"), ["blue"]);
        assert_eq!(test.upstream.last_values("x-doorward-assertion").len(), 1);
        let head = test.upstream.last_head();
        assert!(!head.contains(&token) && test.upstream.last_values("authorization").is_empty());
    }
    let entry = test.gateway.access_log_entry("/a").await;
    assert_eq!((&entry["verdict"], &entry["user"]), (&json!("admit-token"), &json!("alice")));
    assert_eq!(test.provider.requests("/token"), 0);
    let several = json!(["x", "other-api"]);
    let answer = test.outcome(|_, claims| claims["aud"] = several).await;
    assert_eq!(answer.0, 200, "one of several audiences");
}

#[tokio::test]
async fn an_access_token_with_one_fault_is_refused() {
    let test = BearerTest::new().await;
    type Change = fn(&mut Value, &mut Value);
    let faults: [(&str, Change); 12] = [
        ("typ", |header, _| header["typ"] = json!("JWT")),
        ("typ of an ID token", |header, claims| {
            header["typ"] = json!("JWT");
            claims["aud"] = json!(CLIENT_ID);
        }),
        ("typ missing", |header, _| drop(header.as_object_mut().expect("an object").remove("typ"))),
        ("alg", |header, _| header["alg"] = json!("none")),
        ("alg of a MAC", |header, _| header["alg"] = json!("HS256")),
        ("kid", |header, _| header["kid"] = json!("2")),
        ("iss", |_, claims| claims["iss"] = json!("https://evil.test")),
        ("aud", |_, claims| claims["aud"] = json!(CLIENT_ID)),
        ("nbf", |_, claims| claims["nbf"] = json!(claims["iat"].as_u64().expect("a time") + 120)),
        ("sub", |_, claims| claims["sub"] = json!("")),
        ("cnf", |_, claims| claims["cnf"] = json!({ "jkt": "x" })),
        ("user name", |_, claims| claims["preferred_username"] = json!("a:b")),
    ];
    for (name, change) in faults {
        let answer = test.get("/", &test.provider.access_token(change)).await;
        assert_eq!(reason(&answer), refused(401, "token-invalid"), "{name}");
        let challenge = answer.header("www-authenticate");
        assert_eq!(challenge, "Bearer error=\"invalid_token\"", "{name}");
    }
    let expired = |_: &mut Value, claims: &mut Value| {
        claims["exp"] = json!(claims["iat"].as_u64().expect("a time") - 60);
    };
    assert_eq!(test.outcome(expired).await, refused(401, "token-expired"));
    let token = test.provider.access_token(valid);
    let (signed, _) = token.rsplit_once('.').expect("three parts");
    let forged = format!("{signed}.{}", "A".repeat(86));
    for text in [&forged, signed, "opaque", "", &"a.b.c".repeat(1000)] {
        let outcome = reason(&test.get("/", text).await);
        assert_eq!(outcome.0, 401, "{text}");
    }
    assert!(test.upstream.heads().is_empty(), "no refused request is forwarded");
    assert_eq!(test.outcome(valid).await.0, 200);
}

#[tokio::test]
async fn several_access_tokens_are_refused() {
    let test = BearerTest::new().await;
    let authorization = format!("Bearer {}", test.provider.access_token(valid));
    let twice = ("authorization", authorization.as_str());
    let answer = Browser::new(&test.gateway).send("GET", "/", &[twice, twice], "").await;
    assert_eq!(reason(&answer), refused(401, "token-several"));
}

#[tokio::test]
async fn an_access_token_does_not_replace_the_rules_of_its_route() {
    let test = BearerTest::with("allow = { domains = [\"example.test\"] }", false).await;
    let token = test.provider.access_token(valid);
    assert_eq!(reason(&test.get("/it", &token).await), refused(403, "not-allowed"));
    assert_eq!(reason(&test.get("/bank", &token).await), refused(403, "token-needs-session"));
    assert_eq!(reason(&test.get("/phr", &token).await), refused(403, "token-needs-session"));
    assert_eq!(reason(&test.get("/plain", &token).await), refused(401, "no-session"));
    let strong = test.provider.access_token(|_, claims| claims["acr"] = json!("phr"));
    assert_eq!(test.get("/phr", &strong).await.status, StatusCode::OK);
    let unverified = |_: &mut Value, claims: &mut Value| claims["email_verified"] = json!(false);
    assert_eq!(test.outcome(unverified).await, refused(403, "not-allowed"), "allow rules apply");
    let upgrade = format!(
        "GET / HTTP/1.1\r\nHost: app.test\r\nAuthorization: Bearer {token}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    let answer = Browser::new(&test.gateway).send_raw(upgrade.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("needs-session"), "{answer}");
}

#[tokio::test]
async fn a_program_without_a_token_gets_a_challenge() {
    let test = BearerTest::new().await;
    let answer = Browser::new(&test.gateway).fetch("/").await;
    let mut challenges = answer.headers.get_all("www-authenticate").iter();
    assert!(
        challenges.any(|challenge| challenge == "Bearer realm=\"app\""),
        "{:?}",
        answer.headers
    );
    let browser = [("sec-fetch-mode", "cors")];
    let answer = Browser::new(&test.gateway).send("GET", "/", &browser, "").await;
    assert!(!answer.header("www-authenticate").contains("Bearer"), "{:?}", answer.headers);
}

#[tokio::test]
async fn a_session_cookie_decides_before_an_access_token() {
    let test = BearerTest::new().await;
    let authorization = format!("Bearer {}", test.provider.access_token(valid));
    let headers = [("authorization", authorization.as_str())];
    let mut stale = Browser::new(&test.gateway).with_token("dw1_forged");
    let answer = stale.send("GET", "/", &headers, "").await;
    assert_eq!(reason(&answer), refused(401, "invalid-token"));
    let mut bob = Browser::new(&test.gateway);
    bob.log_in("bob").await;
    assert_eq!(bob.send("GET", "/", &headers, "").await.status, StatusCode::OK);
    assert_eq!(test.upstream.last_values("x-user"), ["bob"]);
    assert!(test.upstream.last_values("authorization").is_empty(), "removed on this route");
}

#[tokio::test]
async fn access_tokens_need_the_keys_of_the_provider_only() {
    let test = BearerTest::with("", true).await;
    let token = test.provider.access_token(valid);
    let answer = test.get("/", &token).await;
    assert_eq!(reason(&answer), refused(503, "provider-unavailable"));
    assert!(answer.headers.contains_key("retry-after"));
    let test = BearerTest::new().await;
    assert_eq!(test.outcome(valid).await.0, 200);
    test.provider.set_down(true);
    assert_eq!(test.outcome(valid).await.0, 200, "the keys are known");
}

#[tokio::test]
async fn a_revocation_refuses_the_access_tokens_before_it() {
    for query in ["all=1", "account"] {
        let test = BearerTest::new().await;
        let old = test.provider.access_token(valid);
        assert_eq!(test.get("/", &old).await.status, StatusCode::OK);
        test.gateway.advance(Duration::from_secs(2));
        match query {
            "account" => {
                let form = test.provider.logout_form(None, Some("subject-1"));
                let headers = [("content-type", "application/x-www-form-urlencoded")];
                let page = "/.doorward/oidc/corp/backchannel-logout";
                let done = Browser::new(&test.gateway).send("POST", page, &headers, &form).await;
                assert_eq!(done.status, StatusCode::OK, "{}", done.text());
            }
            query => drop(test.gateway.revoke(query).await),
        }
        let answer = test.get("/", &old).await;
        assert_eq!(reason(&answer), refused(401, "token-revoked"), "{query}");
        test.gateway.advance(Duration::from_secs(2));
        assert_eq!(test.outcome(valid).await.0, 200, "issued later");
    }
}

#[tokio::test]
async fn a_refused_access_token_is_throttled_alone() {
    let test = BearerTest::new().await;
    let bad = test.provider.access_token(|_, claims| claims["aud"] = json!("x"));
    for _ in 0..30 {
        assert_eq!(reason(&test.get("/", &bad).await), refused(401, "token-invalid"));
    }
    let answer = test.get("/", &bad).await;
    assert_eq!(reason(&answer), refused(429, "token-throttled"));
    assert_eq!(answer.header("retry-after"), "2");
    assert_eq!(test.outcome(valid).await.0, 200);
}
