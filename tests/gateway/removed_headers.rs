//! Which client headers reach an upstream: families, siblings of configured names, and the keys of a route.

use test_support::browser::Browser;
use test_support::gateway::{Gateway, Setup};
use test_support::upstream::Upstream;

/// `/` and `/team` lead to one app, `/other` to another one.
struct HeadersTest {
    app: Upstream,
    other: Upstream,
    gateway: Gateway,
}

const TEAM: &str = r#"
access = "session"
identity = { "X-Acme-User" = "{user}", "X-Key" = "k-{user}", "Authorization" = "Basic {user}" }
strip = ["X-Debug"]
set_headers = { "X-Source" = "gateway" }
set_header_files = { "X-Secret" = "secret" }
"#;

impl HeadersTest {
    async fn new(root: &str) -> HeadersTest {
        let (app, other) = (Upstream::start().await, Upstream::start().await);
        let directory = test_support::gateway::prepare_directory();
        let secret = directory.path().join("secret");
        std::fs::write(&secret, "hunter2\n").expect("written");
        let team = TEAM.replace("\"secret\"", &format!("\"{}\"", secret.display()));
        let route = |path: &str, to: &Upstream, keys: &str| {
            format!(
                "[[route]]\nhost = \"app.test\"\npath = \"{path}\"\nupstream = \"http://{}\"\n{keys}\n",
                to.address
            )
        };
        let routes = [
            route("/", &app, root),
            route("/team", &app, &team),
            route("/other", &other, "access = \"public\""),
        ];
        let setup = Setup {
            routes: routes.concat(),
            shared_directory: Some(directory),
            ..Setup::default()
        };
        HeadersTest { app, other, gateway: Gateway::start(setup) }
    }

    async fn alice(&self) -> Browser {
        let mut alice = Browser::new(&self.gateway);
        alice.log_in("alice").await;
        alice
    }
}

const EVIL: &str = "evil";

/// Sends the headers and returns the names of those that reached the upstream.
async fn passed<'a>(
    browser: &mut Browser,
    upstream: &Upstream,
    path: &str,
    names: &[&'a str],
) -> Vec<&'a str> {
    let headers: Vec<_> = names.iter().map(|name| (*name, EVIL)).collect();
    let response = browser.send("GET", path, &headers, "").await;
    assert_eq!(response.status.as_u16(), 200, "{path}");
    let is_passed = |name: &&str| upstream.last_values(name).iter().any(|value| value == EVIL);
    names.iter().copied().filter(|name| is_passed(name)).collect()
}

const FAMILIES: [&str; 24] = [
    "x-proxy-roles",
    "impersonate-user",
    "impersonate-group",
    "x-consumer-groups",
    "x-consumer-username",
    "x-user-roles",
    "x-userinfo",
    "x-sso-user",
    "x-client-dn",
    "cf-access-jwt-assertion",
    "x-goog-iap-jwt-assertion",
    "x-pomerium-jwt-assertion",
    "teleport-jwt-assertion",
    "x-amzn-oidc-data",
    "x-jwt-assertion",
    "x-ms-token-aad-id-token",
    "x-id-token",
    "iv-user",
    "sm-user",
    "shib-identity-provider",
    "x-auth-roles",
    "x-role",
    "x.user.roles",
    "X~Consumer~Groups",
];

#[tokio::test]
async fn identity_headers_of_other_gateways_never_pass() {
    let test = HeadersTest::new("access = \"public\"").await;
    let mut alice = test.alice().await;
    for h2 in [false, true] {
        alice.h2 = h2;
        for (path, upstream) in [("/", &test.app), ("/team", &test.app), ("/other", &test.other)] {
            assert!(passed(&mut alice, upstream, path, &FAMILIES).await.is_empty(), "{path}");
            let harmless =
                ["x-auth-token", "x-api-key", "x-csrf-token", "x-client-id", "x-user-agent"];
            assert_eq!(passed(&mut alice, upstream, path, &harmless).await, harmless, "{path}");
        }
    }
}

#[tokio::test]
async fn siblings_of_an_identity_header_never_pass() {
    let test = HeadersTest::new("access = \"public\"").await;
    let mut alice = test.alice().await;
    let siblings =
        ["x-acme-user", "x-acme-roles", "x-acme-tenant", "x-acme-user-id", "X.Acme.Roles"];
    for path in ["/team", "/"] {
        assert!(passed(&mut alice, &test.app, path, &siblings).await.is_empty(), "{path}");
        assert_eq!(passed(&mut alice, &test.app, path, &["x-acme"]).await, ["x-acme"], "{path}");
    }
}

#[tokio::test]
async fn identity_header_is_removed_only_where_its_app_is() {
    let test = HeadersTest::new("access = \"public\"").await;
    let mut alice = test.alice().await;
    let names = ["authorization", "x-acme-user", "x-key", "x-secret", "x-source"];
    for path in ["/team", "/"] {
        assert!(passed(&mut alice, &test.app, path, &names).await.is_empty(), "{path}");
    }
    // Another app has its own Basic authentication and its own API keys.
    assert_eq!(passed(&mut alice, &test.other, "/other", &names).await, names);
    assert_eq!(passed(&mut alice, &test.app, "/", &["x-debug"]).await, ["x-debug"]);
    assert!(passed(&mut alice, &test.app, "/team", &["x-debug"]).await.is_empty());
}

#[tokio::test]
async fn fixed_headers_are_set_on_every_request_of_the_route() {
    let test = HeadersTest::new("access = \"public\"\nset_headers = { \"X-App\" = \"a b\" }").await;
    let mut alice = test.alice().await;
    alice.send("GET", "/team", &[("x-source", EVIL), ("x-secret", EVIL)], "").await;
    assert_eq!(test.app.last_values("x-source"), ["gateway"]);
    assert_eq!(test.app.last_values("x-secret"), ["hunter2"]);
    assert_eq!(test.app.last_values("authorization"), ["Basic alice"]);
    assert!(test.app.last_values("x-app").is_empty());
    Browser::new(&test.gateway).send("GET", "/", &[("x-app", EVIL)], "").await;
    assert_eq!(test.app.last_values("x-app"), ["a b"]);
    assert!(test.app.last_values("x-secret").is_empty());
}

#[tokio::test]
async fn route_passes_named_headers_of_its_own_api() {
    let keys = "access = \"public\"\npass_headers = [\"X-User-Id\", \"api_key\"]";
    let test = HeadersTest::new(keys).await;
    let mut alice = test.alice().await;
    let names = ["x-user-id", "api_key"];
    for h2 in [false, true] {
        alice.h2 = h2;
        assert_eq!(passed(&mut alice, &test.app, "/", &names).await, names);
        assert!(passed(&mut alice, &test.other, "/other", &names).await.is_empty());
        let others = ["x-user-name", "x_user_id", "api_key2", "x.user.id", "x-forwarded-user"];
        assert!(passed(&mut alice, &test.app, "/", &others).await.is_empty());
    }
}
