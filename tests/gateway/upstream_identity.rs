//! How an app recognises the user and the gateway: templates, Basic credentials and the signed assertion.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use data_encoding::{BASE64, BASE64URL_NOPAD};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use doorward::admin::ReloadMode;
use test_support::browser::{Browser, SESSION};
use test_support::gateway::{Gateway, Setup, manual_clock};
use test_support::upstream::Upstream;

const ASSERTION: &str = "x-doorward-assertion";

async fn started(keys: &str) -> (Upstream, Gateway, Browser) {
    let upstream = Upstream::start().await;
    let directory = test_support::gateway::prepare_directory();
    std::fs::write(directory.path().join("password"), "hunter2\n").expect("written");
    let route = |path: &str, keys: &str| {
        format!(
            "[[route]]\nhost = \"app.test\"\npath = \"{path}\"\nupstream = \"http://{}\"\n{keys}\n",
            upstream.address
        )
    };
    let routes = [
        route("/", keys),
        route("/wiki", "access = \"session\"\nassertion = true"),
        route("/plain", "access = \"session\""),
        route("/public", "access = \"public\""),
    ];
    let gateway = Gateway::start(Setup {
        routes: routes.concat(),
        clock: manual_clock(),
        shared_directory: Some(directory),
        ..Setup::default()
    });
    let mut alice = Browser::new(&gateway);
    alice.log_in("alice").await;
    (upstream, gateway, alice)
}

const ASSERTED: &str = "access = \"session\"\nassertion = true";

/// Returns the claims if a key of the page verifies the signature.
async fn claims(browser: &mut Browser, token: &str) -> Value {
    let page = browser.fetch("/.doorward/jwks.json").await;
    assert_eq!(page.header("content-type"), "application/jwk-set+json");
    let decode = |text: &str| BASE64URL_NOPAD.decode(text.as_bytes()).expect("base64url");
    let parts: Vec<&str> = token.split('.').collect();
    let [head, body, signature] = parts[..] else { panic!("{token}") };
    let header: Value = serde_json::from_slice(&decode(head)).expect("JSON");
    assert_eq!((&header["alg"], &header["typ"]), (&"ES256".into(), &"JWT".into()));
    let keys = page.json()["keys"].as_array().expect("keys").clone();
    let key = keys.iter().find(|key| key["kid"] == header["kid"]).expect("the key of the token");
    assert!(key.get("d").is_none(), "the private half");
    let [x, y] = ["x", "y"].map(|half| decode(key[half].as_str().expect("text")));
    let point = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, [vec![4], x, y].concat());
    let signed = format!("{head}.{body}");
    point.verify(signed.as_bytes(), &decode(signature)).expect("a valid signature");
    serde_json::from_slice(&decode(body)).expect("JSON")
}

#[tokio::test]
async fn an_app_receives_groups_roles_and_credentials() {
    let keys = r#"access = "session"
identity = { "X-Groups" = "{groups:|}", "X-Role" = "{role}", "X-Provider" = "{provider}" }
roles = { admins = "Admin", staff = "Viewer" }
upstream_password_file = "password""#;
    let (upstream, gateway, mut alice) = started(keys).await;
    let credentials = |password: &str| format!("Basic {}", BASE64.encode(password.as_bytes()));
    for h2 in [false, true] {
        alice.h2 = h2;
        let own = [("authorization", "Basic eDp5"), ("x-role", "Admin"), ("x.role", "Admin")];
        assert_eq!(alice.send("GET", "/", &own, "").await.status, 200);
        assert_eq!(upstream.last_values("x-groups"), ["staff"]);
        assert_eq!(upstream.last_values("x-role"), ["Viewer"]);
        assert_eq!(upstream.last_values("x-provider"), ["password"]);
        assert_eq!(upstream.last_values("authorization"), [credentials("alice:hunter2")]);
        assert_eq!(alice.send("GET", "/public", &own, "").await.status, 200);
        assert!(upstream.last_values("authorization").is_empty(), "of the same app");
    }
    std::fs::write(gateway.path("password"), "hunter3").expect("written");
    assert!(gateway.reload(ReloadMode::Apply).is_ok());
    assert_eq!(alice.fetch("/").await.status, 200);
    assert_eq!(upstream.last_values("authorization"), [credentials("alice:hunter3")]);
    let mut bob = Browser::new(&gateway);
    bob.log_in("bob").await;
    assert_eq!(bob.fetch("/").await.status, 200);
    assert!(upstream.last_values("x-role").is_empty(), "bob has no role");
}

#[tokio::test]
async fn an_assertion_names_the_user_and_the_route() {
    let (upstream, gateway, mut alice) = started(ASSERTED).await;
    assert_eq!(alice.fetch("/").await.status, 200);
    let root = upstream.last_values(ASSERTION).concat();
    let found = claims(&mut alice, &root).await;
    assert_eq!((&found["iss"], &found["aud"]), (&"doorward".into(), &"app.test/".into()));
    assert_eq!((&found["sub"], &found["email"]), (&"alice".into(), &"alice@example.test".into()));
    assert_eq!((&found["groups"], &found["provider"]), (&["staff"].into(), &"password".into()));
    let now = gateway.clock.now().seconds();
    assert_eq!((found["iat"].as_u64(), found["exp"].as_u64()), (Some(now), Some(now + 60)));
    alice.fetch("/wiki").await;
    let wiki = upstream.last_values(ASSERTION).concat();
    assert_eq!(claims(&mut alice, &wiki).await["aud"], "app.test/wiki");
    let mut bob = Browser::new(&gateway);
    bob.log_in("bob").await;
    bob.fetch("/").await;
    let other = upstream.last_values(ASSERTION).concat();
    assert_eq!(claims(&mut bob, &other).await["sub"], "bob");
}

/// Returns the different assertions of many requests. Each worker signs its own.
async fn assertions(alice: &mut Browser, upstream: &Upstream) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for _ in 0..16 {
        assert_eq!(alice.fetch("/").await.status, 200);
        found.insert(upstream.last_values(ASSERTION).concat());
    }
    found
}

#[tokio::test]
async fn a_worker_signs_an_assertion_once_until_a_change() {
    let (upstream, gateway, mut alice) = started(ASSERTED).await;
    let mut first = assertions(&mut alice, &upstream).await;
    gateway.advance(Duration::from_secs(19));
    first.extend(assertions(&mut alice, &upstream).await);
    assert!(first.len() <= 2, "one for each worker");
    gateway.advance(Duration::from_secs(20));
    assert!(assertions(&mut alice, &upstream).await.is_disjoint(&first));
    let (users, signed) = (gateway.path("users.toml"), gateway.clock.now());
    let text = std::fs::read_to_string(&users).expect("the users file");
    std::fs::write(&users, text.replace("staff", "visitors")).expect("written");
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        alice.fetch("/").await;
        let token = upstream.last_values(ASSERTION).concat();
        if claims(&mut alice, &token).await["groups"] == serde_json::json!(["visitors"]) {
            break;
        }
        assert!(Instant::now() < deadline, "the old groups are still asserted");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(gateway.clock.now(), signed, "the assertion did not expire");
}

#[tokio::test]
async fn no_client_sends_an_assertion() {
    let (upstream, _gateway, mut alice) = started(ASSERTED).await;
    let names =
        ["x-doorward-assertion", "x_doorward_assertion", "x.doorward.assertion", "x-doorward-x"];
    for (path, expected) in [("/", 1), ("/plain", 0), ("/public", 0)] {
        for h2 in [false, true] {
            alice.h2 = h2;
            let headers = names.map(|name| (name, "forged"));
            assert_eq!(alice.send("GET", path, &headers, "").await.status, 200);
            let head = upstream.last_head().to_ascii_lowercase();
            assert!(!head.contains("forged"), "{head}");
            assert_eq!(upstream.last_values(ASSERTION).len(), expected, "{path}");
        }
    }
}

/// Sends a request on an open connection and reads the response of the upstream.
async fn exchange(client: &mut (impl AsyncRead + AsyncWrite + Unpin), path: &str, token: &str) {
    let head =
        format!("GET {path} HTTP/1.1\r\nhost: app.test\r\ncookie: {SESSION}={token}\r\n\r\n");
    client.write_all(head.as_bytes()).await.expect("sent");
    let mut response = Vec::new();
    while !response.ends_with(b"hello") {
        response.push(client.read_u8().await.expect("a response"));
    }
}

/// A connection keeps the identity headers of its last request. A proxy sends requests of several users on one.
#[tokio::test]
async fn each_request_of_a_connection_has_its_own_identity() {
    let keys = "access = \"session\"\nidentity = { \"X-Name\" = \"on root: {user}\" }";
    let (upstream, gateway, alice) = started(keys).await;
    let mut bob = Browser::new(&gateway);
    bob.log_in("bob").await;
    let mut client = alice.connect().await;
    let users = [("alice", alice.token()), ("bob", bob.token())];
    let steps = [(0, "/"), (0, "/"), (1, "/"), (0, "/plain"), (1, "/public"), (1, "/"), (0, "/")];
    for (user, path) in steps {
        let (name, token) = &users[user];
        exchange(&mut client, path, token).await;
        let (on_root, standard) = match path {
            "/" => (vec![format!("on root: {name}")], vec![]),
            "/plain" => (vec![], vec![(*name).to_owned()]),
            _ => (vec![], vec![]),
        };
        assert_eq!(upstream.last_values("x-name"), on_root, "{name} {path}");
        assert_eq!(upstream.last_values("x-forwarded-user"), standard, "{name} {path}");
    }
    gateway.set_config_text(&gateway.config_text().replace("on root", "reloaded"));
    gateway.reload(ReloadMode::Apply);
    exchange(&mut client, "/", &users[0].1).await;
    assert_eq!(upstream.last_values("x-name"), ["reloaded: alice"]);
}
