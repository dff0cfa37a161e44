//! Pages around the login: for users who are logged in, in frames, without cookies, and errors.

use std::time::Duration;

use http::StatusCode;

use test_support::browser::{Browser, Response};
use test_support::gateway::{Gateway, PASSWORD, Setup, manual_clock, session_route};
use test_support::upstream::Upstream;

async fn gateway() -> (Upstream, Gateway) {
    gateway_with("").await
}

async fn gateway_with(extra: &str) -> (Upstream, Gateway) {
    let upstream = Upstream::start().await;
    let setup = Setup {
        routes: session_route(upstream.address),
        clock: manual_clock(),
        extra: extra.to_owned(),
        ..Setup::default()
    };
    let gateway = Gateway::start(setup);
    (upstream, gateway)
}

const NAVIGATION: [(&str, &str); 2] = [("accept", "text/html"), ("sec-fetch-mode", "navigate")];

async fn post_to_app(browser: &mut Browser, referer: &str) -> Response {
    let headers = [&NAVIGATION[..], &[("sec-fetch-site", "same-origin"), ("referer", referer)]];
    browser.send("POST", "/wiki/save", &headers.concat(), "text=x").await
}

#[tokio::test]
async fn a_second_tab_at_the_login_continues_after_the_first() {
    let (_upstream, gateway) = gateway().await;
    let mut browser = Browser::new(&gateway);
    let second = browser.navigate("/wiki?page=2").await.header("location").to_owned();
    browser.try_log_in("alice", PASSWORD, "/wiki?page=1").await;
    for _ in 0..2 {
        let reloaded = browser.navigate(&second).await;
        assert_eq!(reloaded.status, StatusCode::SEE_OTHER, "{}", reloaded.text());
        assert_eq!(reloaded.header("location"), "/wiki?page=2");
    }
    assert_eq!(browser.navigate("/wiki?page=2").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_bookmarked_login_page_names_the_logged_in_user() {
    let (_upstream, gateway) = gateway().await;
    let mut browser = Browser::new(&gateway);
    browser.log_in("alice").await;
    let token = browser.token();
    let page = browser.navigate("/.doorward/login").await;
    let text = page.text();
    assert!(text.contains("You are logged in as <strong><bdi>alice</bdi>"), "{text}");
    assert!(text.contains("href=\"/\">Continue</a>") && text.contains("Use another account"));
    assert_eq!(browser.token(), token, "it changes nothing");
    let csrf = page.form_field("csrf");
    let fields = [("username", "bob"), ("password", PASSWORD), ("csrf", &*csrf)];
    let response = browser.post_form("/.doorward/login", &fields).await;
    assert_eq!(response.status, StatusCode::SEE_OTHER);
    assert!(browser.navigate("/.doorward/login").await.text().contains("<bdi>bob</bdi>"));
}

/// Otherwise the login page and the route would redirect to each other without end.
#[tokio::test]
async fn a_refused_session_gets_the_form_and_not_a_redirect() {
    let upstream = Upstream::start().await;
    let strict = session_route(upstream.address).replace("path = \"/\"", "path = \"/bank\"")
        + "[route.session]\nidle_timeout = \"5m\"\n";
    let routes = format!("{}{strict}", session_route(upstream.address));
    let gateway = Gateway::start(Setup { routes, clock: manual_clock(), ..Setup::default() });
    let mut alice = Browser::new(&gateway);
    alice.log_in("alice").await;
    gateway.advance(Duration::from_secs(301));
    let refused = alice.navigate("/bank").await;
    assert_eq!(refused.status, StatusCode::SEE_OTHER);
    let form = alice.navigate(refused.header("location")).await;
    assert_eq!(form.status, StatusCode::OK, "a loop");
    assert!(form.text().contains("asks you to log in again"), "{}", form.text());
}

#[tokio::test]
async fn a_lost_form_is_reported_on_the_login_page() {
    let (upstream, gateway) = gateway().await;
    let mut alice = Browser::new(&gateway);
    alice.log_in("alice").await;
    gateway.advance(Duration::from_secs(31 * 60));
    let refused = post_to_app(&mut alice, "https://app.test/wiki/edit").await;
    assert_eq!(refused.status, StatusCode::SEE_OTHER);
    let form = alice.navigate(refused.header("location")).await;
    assert!(form.text().contains("What you sent was not saved"), "{}", form.text());
    let (csrf, to) = (form.form_field("csrf"), form.form_field("to"));
    let wrong = [("username", "alice"), ("password", "x"), ("csrf", &*csrf), ("to", &*to)];
    let again = alice.post_form("/.doorward/login", &wrong).await;
    assert!(again.text().contains("What you sent was not saved"), "also after a wrong password");
    let page = alice.navigate("/wiki/edit").await;
    let form = alice.navigate(page.header("location")).await;
    assert!(!form.text().contains("What you sent"), "{}", form.text());
    assert!(upstream.heads().is_empty());
}

/// The `Lax` cookie is missing in the post of another site, and present in the redirect that follows.
#[tokio::test]
async fn a_form_of_another_site_is_reported_as_lost() {
    let (upstream, gateway) = gateway().await;
    let mut alice = Browser::new(&gateway);
    alice.log_in("alice").await;
    let mut post = Browser::new(&gateway);
    let headers = [&NAVIGATION[..], &[("sec-fetch-site", "cross-site")]].concat();
    let refused = post.send("POST", "/saml", &headers, "response=x").await;
    assert_eq!(refused.status, StatusCode::SEE_OTHER, "{}", refused.text());
    let page = alice.navigate(refused.header("location")).await;
    assert_eq!(page.status, StatusCode::OK);
    assert!(page.text().contains("What you sent was not saved"), "{}", page.text());
    assert!(page.text().contains(">Continue</a>"), "{}", page.text());
    assert!(upstream.heads().is_empty());
}

#[tokio::test]
async fn a_deep_link_of_8_kib_survives_the_login() {
    let (_upstream, gateway) = gateway().await;
    for (length, survives) in [(2_001, true), (8_192, true), (8_193, false)] {
        let deep = format!("/wiki?q={}", "x".repeat(length - "/wiki?q=".len()));
        let mut browser = Browser::new(&gateway);
        let refused = browser.navigate(&deep).await;
        assert_eq!(refused.status, StatusCode::SEE_OTHER);
        let form = browser.navigate(refused.header("location")).await;
        let notice = form.text().contains("too long to return to it");
        assert_eq!(notice, !survives, "{length}");
        let response = browser.try_log_in("alice", PASSWORD, &deep).await;
        let expected = if survives { deep.as_str() } else { "/" };
        assert_eq!(response.header("location"), expected, "{length}");
    }
}

#[tokio::test]
async fn a_framed_page_without_session_links_to_the_login() {
    let (_upstream, gateway) = gateway().await;
    let mut browser = Browser::new(&gateway);
    let framed = [
        ("accept", "text/html"),
        ("sec-fetch-mode", "navigate"),
        ("sec-fetch-dest", "iframe"),
        ("sec-fetch-site", "same-origin"),
        ("referer", "https://app.test/dashboard?x=1"),
    ];
    let page = browser.send("GET", "/widget", &framed, "").await;
    assert_eq!(page.status, StatusCode::UNAUTHORIZED, "{}", page.text());
    assert_eq!(page.header("x-frame-options"), "SAMEORIGIN");
    let policy = page.header("content-security-policy");
    assert!(policy.contains("frame-ancestors 'self'"), "{policy}");
    let text = page.text();
    assert!(text.contains("target=\"_top\""), "{text}");
    let from = text.find("href=\"/.doorward/login?").expect("a link") + "href=\"".len();
    let login = text[from..].split('"').next().expect("closed").to_owned();
    let form = browser.navigate(&login).await;
    assert_eq!(form.header("x-frame-options"), "DENY", "the form itself is never framed");
    let (csrf, to) = (form.form_field("csrf"), form.form_field("to"));
    let fields = [("username", "alice"), ("password", PASSWORD), ("csrf", &*csrf), ("to", &*to)];
    let response = browser.post_form("/.doorward/login", &fields).await;
    assert_eq!(response.header("location"), "/dashboard?x=1", "the page around the frame");
}

#[tokio::test]
async fn a_link_cannot_choose_the_notice_of_the_login_page() {
    let (_upstream, gateway) = gateway().await;
    for link in ["?why=theft", "?reason=theft", "?to=theft", "?to=AAAA", "?why=idle&to=x"] {
        let page = Browser::new(&gateway).navigate(&format!("/.doorward/login{link}")).await;
        assert_eq!(page.status, StatusCode::OK);
        assert!(!page.text().contains("id=\"notice\""), "{link}");
    }
}

#[tokio::test]
async fn a_form_without_its_cookie_mentions_cookies() {
    let (_upstream, gateway) = gateway().await;
    let mut browser = Browser::new(&gateway);
    let csrf = browser.navigate("/.doorward/login").await.form_field("csrf");
    let fields = [("username", "alice"), ("password", PASSWORD), ("csrf", &*csrf)];
    browser.jar.clear();
    let blocked = browser.post_form("/.doorward/login", &fields).await;
    assert_eq!(blocked.status, StatusCode::BAD_REQUEST);
    assert!(blocked.text().contains("Allow cookies for this site"), "{}", blocked.text());
    let mut old = Browser::new(&gateway);
    let csrf = old.navigate("/.doorward/login").await.form_field("csrf");
    gateway.advance(Duration::from_secs(25 * 60 * 60));
    let fields = [("username", "alice"), ("password", PASSWORD), ("csrf", &*csrf)];
    let expired = old.post_form("/.doorward/login", &fields).await;
    assert!(expired.text().contains("This form has expired"), "{}", expired.text());
}

/// A styled page for browsers and JSON for programs, whatever is wrong.
#[tokio::test]
async fn every_error_is_a_page_for_browsers_and_json_for_programs() {
    let (_upstream, gateway) = gateway().await;
    let large = "x".repeat(40_000);
    let cases = [
        ("app.test", "/a/%2e%2e/b", 400, ""),
        ("unknown.example.test", "/", 404, ""),
        ("app.test", "/.doorward/nothing", 404, ""),
        ("app.test", "/wiki/", 431, &*large),
    ];
    for (host, path, status, theme) in cases {
        for h2 in [false, true] {
            let mut browser = Browser::new(&gateway);
            browser.h2 = h2;
            host.clone_into(&mut browser.host);
            let theme = ("x-theme", theme);
            let page = browser.send("GET", path, &[NAVIGATION[0], NAVIGATION[1], theme], "").await;
            assert_eq!(page.status.as_u16(), status, "{path}: {}", page.text());
            let text = page.text();
            assert!(text.contains("<style>") && text.contains("<h1>"), "{path}: {text}");
            assert!(page.header("content-security-policy").contains("style-src 'sha256-"));
            let program = browser.send("GET", path, &[theme], "").await;
            assert_eq!(program.status.as_u16(), status, "{path}: {}", program.text());
            assert_eq!(program.header("content-type"), "application/json", "{path}");
            assert_eq!(program.json()["request"], program.header("x-request-id"), "{path}");
        }
    }
}

fn two_apps(upstream: &Upstream) -> String {
    let at = |path: &str, access: &str| {
        session_route(upstream.address)
            .replace("path = \"/\"", &format!("path = \"{path}\""))
            .replace("\"session\"", access)
    };
    [
        at("/wiki", "\"session\""),
        at("/admin", "{ users = [\"bob\"] }"),
        at("/files", "{ groups = [\"staff\"] }"),
    ]
    .concat()
}

#[tokio::test]
async fn a_host_without_a_root_route_lists_the_apps_of_the_user() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(Setup { routes: two_apps(&upstream), ..Setup::default() });
    let mut browser = Browser::new(&gateway);
    let response = browser.try_log_in("alice", PASSWORD, "/").await;
    assert_eq!(response.header("location"), "/");
    let page = browser.navigate("/").await;
    assert_eq!(page.status, StatusCode::OK, "{}", page.text());
    let text = page.text();
    assert!(text.contains("href=\"/wiki\"") && text.contains("href=\"/files\""), "{text}");
    assert!(!text.contains("/admin"), "{text}");
    let post = browser.post_form("/", &[]).await;
    assert_eq!(post.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(browser.navigate("/other").await.status, StatusCode::NOT_FOUND);
    let script = Browser::new(&gateway).fetch("/").await;
    assert_eq!(script.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn the_start_page_can_lead_to_one_app() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(Setup {
        routes: two_apps(&upstream),
        extra: "[portal]\nstart = \"/wiki\"\n".to_owned(),
        ..Setup::default()
    });
    let mut browser = Browser::new(&gateway);
    browser.log_in("alice").await;
    assert_eq!(browser.navigate("/").await.header("location"), "/wiki");
}

#[tokio::test]
async fn own_pages_have_an_icon_and_send_no_request_to_the_app() {
    let (upstream, gateway) = gateway().await;
    let mut browser = Browser::new(&gateway);
    let page = browser.navigate("/.doorward/login").await.text();
    assert!(page.contains("<link rel=\"icon\" href=\"/.doorward/icon.svg\""), "{page}");
    let icon = browser.fetch("/.doorward/icon.svg").await;
    assert_eq!((icon.status, icon.header("content-type")), (StatusCode::OK, "image/svg+xml"));
    assert!(upstream.heads().is_empty());
}

#[tokio::test]
async fn help_is_shown_on_login_and_error_pages() {
    let link = "https://help.example.test/login";
    for (help, shown) in [
        (link, format!("<a href=\"{link}\">Get help</a>")),
        ("Call 1234 & ask <Eve>", "Call 1234 &#38; ask &#60;Eve&#62;".to_owned()),
    ] {
        let (_upstream, gateway) = gateway_with(&format!("[portal]\nhelp = \"{help}\"\n")).await;
        let mut browser = Browser::new(&gateway);
        let login = browser.navigate("/.doorward/login").await.text();
        let error = browser.navigate("/.doorward/nothing").await.text();
        assert!(login.contains(&shown) && error.contains(&shown), "{login}");
    }
}

const NEW: &str = "a much longer new password";

async fn change(browser: &mut Browser, current: &str, new: [&str; 2]) -> Response {
    let form = browser.navigate("/.doorward/password").await;
    assert_eq!(form.status, StatusCode::OK, "{}", form.text());
    let csrf = form.form_field("csrf");
    let [new, repeated] = new;
    let fields = [("csrf", &*csrf), ("current", current), ("new", new), ("repeated", repeated)];
    browser.post_form("/.doorward/password", &fields).await
}

#[tokio::test]
async fn a_user_changes_their_password_and_all_sessions_end() {
    let upstream = Upstream::start().await;
    let gateway =
        Gateway::start(Setup { routes: session_route(upstream.address), ..Setup::default() });
    let (mut alice, mut other_browser) = (Browser::new(&gateway), Browser::new(&gateway));
    alice.log_in("alice").await;
    other_browser.log_in("alice").await;
    let known = alice.navigate("/.well-known/change-password").await;
    assert_eq!(known.header("location"), "/.doorward/password");
    let changed = change(&mut alice, PASSWORD, [NEW, NEW]).await;
    assert_eq!(changed.status, StatusCode::SEE_OTHER, "{}", changed.text());
    let login = alice.navigate(changed.header("location")).await;
    assert!(login.text().contains("Your password was changed"), "{}", login.text());
    for browser in [&mut alice, &mut other_browser] {
        assert_eq!(browser.fetch("/").await.status, StatusCode::UNAUTHORIZED);
        let old = browser.try_log_in("alice", PASSWORD, "/").await;
        assert_eq!(old.status, StatusCode::UNAUTHORIZED, "the old password");
    }
    let new = alice.try_log_in("alice", NEW, "/").await;
    assert_eq!(new.status, StatusCode::SEE_OTHER, "{}", new.text());
    assert_eq!(alice.fetch("/").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_wrong_or_weak_password_changes_nothing() {
    let (_upstream, gateway) = gateway().await;
    let mut alice = Browser::new(&gateway);
    alice.log_in("alice").await;
    for (current, new, status, text) in [
        ("wrong", [NEW, NEW], 403, "The current password is wrong"),
        (PASSWORD, [NEW, "another one that is long"], 400, "differ"),
        (PASSWORD, ["short", "short"], 400, "15 characters"),
        (PASSWORD, ["password123", "password123"], 400, "most common"),
    ] {
        let response = change(&mut alice, current, new).await;
        assert_eq!(response.status.as_u16(), status, "{}", response.text());
        assert!(response.text().contains(text), "{}", response.text());
    }
    let csrf = [("csrf", "x"), ("current", PASSWORD), ("new", NEW), ("repeated", NEW)];
    let forged = alice.post_form("/.doorward/password", &csrf).await;
    assert_eq!(forged.status, StatusCode::FORBIDDEN);
    assert_eq!(alice.fetch("/").await.status, StatusCode::OK);
    Browser::new(&gateway).log_in("alice").await;
}

/// The form checks the password, so it must not be a way around the login limits.
#[tokio::test]
async fn guesses_on_the_password_form_are_limited() {
    let (_upstream, gateway) = gateway().await;
    let mut alice = Browser::new(&gateway);
    alice.log_in("alice").await;
    let mut statuses = Vec::new();
    for _ in 0..11 {
        statuses.push(change(&mut alice, "guess", [NEW, NEW]).await.status.as_u16());
    }
    assert_eq!((&statuses[..10], statuses[10]), (&[403; 10][..], 429));
}

#[tokio::test]
async fn logout_everywhere_is_confirmed_and_its_result_is_shown() {
    let (_upstream, gateway) = gateway().await;
    let (mut alice, mut other) = (Browser::new(&gateway), Browser::new(&gateway));
    alice.log_in("alice").await;
    other.log_in("alice").await;
    let csrf = alice.navigate("/.doorward/sessions").await.form_field("csrf");
    let confirmation = [("csrf", &*csrf), ("do", "confirm-all")];
    let question = alice.post_form("/.doorward/sessions", &confirmation).await;
    assert!(question.text().contains("Log out everywhere?"), "{}", question.text());
    assert_eq!(other.fetch("/").await.status, StatusCode::OK, "nothing ended yet");
    let others = [("csrf", &*csrf), ("do", "end-others")];
    let ended = alice.post_form("/.doorward/sessions", &others).await;
    let page = alice.navigate(ended.header("location")).await.text();
    assert!(page.contains("role=\"status\">All other sessions have ended."), "{page}");
    assert_eq!(other.fetch("/").await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn the_session_script_gets_what_it_needs_and_nothing_inline() {
    let (_upstream, gateway) = gateway().await;
    let mut alice = Browser::new(&gateway);
    let script = alice.fetch("/.doorward/session.js").await;
    assert_eq!(script.status, StatusCode::OK);
    assert_eq!(script.header("content-type"), "text/javascript; charset=utf-8");
    for forbidden in ["innerHTML", "eval(", "setAttribute(\"style\"", "localStorage"] {
        assert!(!script.text().contains(forbidden), "{forbidden}");
    }
    alice.log_in("alice").await;
    let page = alice.navigate("/.doorward/sessions").await;
    assert!(page.text().contains("<script src=\"/.doorward/session.js\" defer>"));
    let policy = page.header("content-security-policy");
    assert!(policy.contains("script-src 'self'; connect-src 'self'"), "{policy}");
    let left = alice.fetch("/.doorward/session").await.json();
    assert!(left["idle_seconds"].is_u64() && left["absolute_seconds"].is_u64(), "{left}");
    gateway.advance(Duration::from_secs(31 * 60));
    let refused = alice.fetch("/.doorward/session").await;
    let body = refused.json();
    assert_eq!((refused.status.as_u16(), body["reason"].as_str()), (401, Some("idle")));
    assert!(body["login"].as_str().is_some_and(|it| it.starts_with("/.doorward/login?")), "{body}");
}
