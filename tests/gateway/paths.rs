//! Ambiguous paths, and routes that allow them.

use test_support::browser::Browser;
use test_support::gateway::{Gateway, Setup};
use test_support::upstream::Upstream;

/// `/git` allows ambiguous paths, `/git/admin` has another access rule, `/open` is public, `/` rejects them.
async fn setup() -> (Upstream, Gateway, Browser) {
    let upstream = Upstream::start().await;
    let to = upstream.address;
    let route = |path: &str, rest: &str| {
        format!(
            "[[route]]\nhost = \"app.test\"\npath = \"{path}\"\nupstream = \"http://{to}\"\n{rest}\n"
        )
    };
    let routes = [
        route("/", "access = \"session\""),
        route("/git", "access = \"session\"\nambiguous_paths = \"require-session\""),
        route(
            "/git/admin",
            "access = { groups = [\"admins\"] }\nambiguous_paths = \"require-session\"",
        ),
        route("/open", "access = \"public\""),
    ]
    .concat();
    let gateway = Gateway::start(Setup { routes, ..Setup::default() });
    let mut alice = Browser::new(&gateway);
    alice.log_in("alice").await;
    (upstream, gateway, alice)
}

/// Ambiguous paths below `/git` that its route allows.
const ALLOWED: [&str; 11] = [
    "/git/group%2Fproject",
    "/git/a//b",
    "/git/a;v=1/b",
    "/git/a%5Cb",
    "/git/a%252Fb",
    "/git/a%3Bb",
    "/git/a%2Fb?x=/../y",
    // Latin-1, Shift-JIS with a backslash as second byte, and a per cent sign before hex digits.
    "/git/caf%E9",
    "/git/%83%5C.txt",
    "/git/50%25ab.txt",
    "/git/a%ff%2f",
];

/// Paths that no route allows.
const REFUSED: [&str; 16] = [
    "/git/../open",
    "/git/%2e%2e/open",
    "/git/..%2fopen",
    "/git/..;/open",
    "/git/a%5c..%5c..%5copen",
    "/git/%252e%252e/open",
    "/git/a%00",
    "/git/%2f%zz",
    "/git/a%25252Fb",
    "/git/%25%32%35%32%46",
    "/git/%83%5C..%5Copen",
    // Another route for one of the interpretations.
    "/git//admin/x",
    "/git/%61dmin%2Fx",
    "/git;x/admin/x",
    "//git/a",
    "/git%2Fadmin",
];

/// HYP-17.
#[tokio::test]
async fn route_can_allow_ambiguous_paths_for_sessions() {
    let (upstream, gateway, mut alice) = setup().await;
    for h2 in [false, true] {
        alice.h2 = h2;
        for path in ALLOWED {
            assert_eq!(alice.fetch(path).await.status.as_u16(), 200, "{path}");
            assert!(
                upstream.last_head().starts_with(&format!("GET {path} HTTP/1.1\r\n")),
                "{path}"
            );
            assert_eq!(upstream.last_values("x-forwarded-user"), ["alice"]);
        }
        let before = upstream.heads().len();
        let mut anonymous = Browser::new(&gateway);
        anonymous.h2 = h2;
        for path in ALLOWED {
            assert_eq!(anonymous.fetch(path).await.status.as_u16(), 401, "{path}");
        }
        assert_eq!(upstream.heads().len(), before);
    }
}

/// HYP-17.
#[tokio::test]
async fn ambiguous_path_never_bypasses_a_stricter_route() {
    let (upstream, _gateway, mut alice) = setup().await;
    for path in REFUSED {
        assert_eq!(alice.fetch(path).await.status.as_u16(), 400, "{path}");
    }
    for path in [
        "/open/a%2Fb",
        "/open//b",
        "/other/a%2Fb",
        "//",
        "/.doorward/a%2Fb",
        "/git%2F..%2F.doorward/login",
    ] {
        assert_eq!(alice.fetch(path).await.status.as_u16(), 400, "{path}");
    }
    assert_eq!(alice.fetch("/git/admin/a%2Fb").await.status.as_u16(), 403);
    assert!(upstream.heads().is_empty());
}

/// HYP-17.
#[tokio::test]
async fn path_is_public_only_if_every_parser_agrees() {
    let upstream = Upstream::start().await;
    let route = |path: &str, access: &str| {
        let to = upstream.address;
        format!(
            "[[route]]\nhost = \"app.test\"\npath = \"{path}\"\nupstream = \"http://{to}\"\naccess = {access}\n"
        )
    };
    let routes = [
        route("/", "\"public\""),
        route("/admin", "\"session\""),
        route("/admin/staff", "{ groups = [\"admins\"] }"),
    ]
    .concat();
    let gateway = Gateway::start(Setup { routes, ..Setup::default() });
    let mut anonymous = Browser::new(&gateway);
    let mut alice = Browser::new(&gateway);
    alice.log_in("alice").await;
    for h2 in [false, true] {
        (anonymous.h2, alice.h2) = (h2, h2);
        let requests = upstream.heads().len();
        for path in [
            "/ADMIN",
            "/Admin/x",
            "/admin.",
            "/admin%20",
            "/admin%2e/x",
            "/%61DMIN",
            "/admin::$DATA",
        ] {
            let response = anonymous.fetch(path).await;
            assert_eq!(response.status.as_u16(), 400, "{path}");
            assert!(response.json()["reason"].to_string().contains("another route"), "{path}");
        }
        assert_eq!(alice.fetch("/admin/STAFF").await.status.as_u16(), 400);
        assert_eq!(upstream.heads().len(), requests, "the app received the request");
        assert_eq!(anonymous.fetch("/admin").await.status.as_u16(), 401);
        for path in ["/Administrator", "/x/ADMIN", "/a.", "/A%20"] {
            assert_eq!(anonymous.fetch(path).await.status.as_u16(), 200, "{path}");
        }
        assert_eq!(alice.fetch("/admin/X.").await.status.as_u16(), 200);
    }
}

/// CVE-2026-32811.
#[tokio::test]
async fn encoded_delimiter_is_part_of_its_segment() {
    let (upstream, _gateway, mut alice) = setup().await;
    for path in ["/tags/C%23", "/wiki/What%3F", "/open/a%3Fb", "/git/a%23b"] {
        assert_eq!(alice.fetch(path).await.status.as_u16(), 200, "{path}");
        assert!(upstream.last_head().starts_with(&format!("GET {path} HTTP/1.1\r\n")), "{path}");
    }
    let before = upstream.heads().len();
    for path in ["/git/admin%3Fx", "/git/admin%23", "/open%3Fx", "/open%23/../x", "/.doorward%3Fx"]
    {
        assert_eq!(alice.fetch(path).await.status.as_u16(), 400, "{path}");
    }
    assert_eq!(upstream.heads().len(), before);
}

fn route(upstream: &Upstream, path: &str, keys: &str) -> String {
    let to = upstream.address;
    format!(
        "[[route]]\nhost = \"app.test\"\npath = \"{path}\"\nupstream = \"http://{to}\"\n{keys}\n"
    )
}

/// HYP-17.
#[tokio::test]
async fn public_route_can_allow_ambiguous_paths() {
    let upstream = Upstream::start().await;
    let routes = [
        route(&upstream, "/", "access = \"public\"\nambiguous_paths = \"allow\""),
        route(&upstream, "/admin", "access = \"session\""),
        route(&upstream, "/old", "access = \"public\""),
    ];
    let gateway = Gateway::start(Setup { routes: routes.concat(), ..Setup::default() });
    let mut anonymous = Browser::new(&gateway);
    for h2 in [false, true] {
        anonymous.h2 = h2;
        for path in
            ["/@scope%2fname", "/api/queues/%2F/jobs", "/a//b", "/a;v=1", "/caf%E9", "/x%5Cy"]
        {
            assert_eq!(anonymous.fetch(path).await.status.as_u16(), 200, "{path}");
            assert!(
                upstream.last_head().starts_with(&format!("GET {path} HTTP/1.1\r\n")),
                "{path}"
            );
        }
        let requests = upstream.heads().len();
        for path in [
            "/x%2f..%2fadmin",
            "//admin",
            "/admin%2fx",
            "/admin;x",
            "/ADMIN%2fx",
            "/old/a%2fb",
            "/x%2f%252e%252e%2fadmin",
            "/;/admin",
            "/.doorward%2flogin",
            "/a%25252fb",
        ] {
            assert_eq!(anonymous.fetch(path).await.status.as_u16(), 400, "{path}");
        }
        assert_eq!(upstream.heads().len(), requests, "the app received the request");
    }
}

/// HYP-17.
#[tokio::test]
async fn disguised_path_never_bypasses_a_stricter_route() {
    let upstream = Upstream::start().await;
    let routes = [
        route(&upstream, "/", "access = \"public\""),
        route(&upstream, "/admin", "access = \"session\""),
        route(&upstream, "/admin.js", "access = \"public\""),
    ];
    let gateway = Gateway::start(Setup { routes: routes.concat(), ..Setup::default() });
    let mut anonymous = Browser::new(&gateway);
    for path in [
        "/admin.json",
        "/admin.php/x",
        "/Admin.XML",
        // Full-width, ligature-like, invisible and right-to-left characters.
        "/%EF%BD%81%EF%BD%84%EF%BD%8D%EF%BD%89%EF%BD%8E",
        "/%F0%9D%90%9Admin",
        "/ad%E2%80%8Bmin",
        "/ad%C2%ADmin",
        "/adm%E2%80%AEin",
        // Spaces, dots, colons and slashes outside ASCII.
        "/admin%C2%A0",
        "/admin%C2%85",
        "/admin%EF%BC%8E",
        "/admin%EF%BC%9A$DATA",
        "/admin%EF%BC%8Fx",
        "/admin%E2%88%95x",
        "/admin%C2%A5x",
        "/x/%EF%BC%8E%EF%BC%8E/admin",
        "/x%E2%88%95%E2%80%A5%E2%88%95admin",
    ] {
        for h2 in [false, true] {
            anonymous.h2 = h2;
            assert_eq!(anonymous.fetch(path).await.status.as_u16(), 400, "{path}");
        }
    }
    assert!(upstream.heads().is_empty(), "the app received the request");
    for path in
        ["/admin.js", "/%C3%A1dmin", "/x.admin", "/%E6%97%A5%E6%9C%AC", "/administrator.json"]
    {
        assert_eq!(anonymous.fetch(path).await.status.as_u16(), 200, "{path}");
    }
}
