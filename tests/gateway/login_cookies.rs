//! Session cookies of several configurations, gateways and sites in one browser.

use std::time::Duration;

use http::StatusCode;

use crate::streaming::{StreamingUpstream, open_response, open_websocket};
use test_support::browser::{Browser, Response, SESSION};
use test_support::gateway::{Gateway, PASSWORD, Setup, manual_clock, session_route};
use test_support::upstream::Upstream;

async fn gateway(session: &str) -> (Upstream, Gateway) {
    let upstream = Upstream::start().await;
    let setup = Setup {
        routes: session_route(upstream.address),
        session: session.to_owned(),
        clock: manual_clock(),
        ..Setup::default()
    };
    let gateway = Gateway::start(setup);
    (upstream, gateway)
}

fn at(gateway: &Gateway, host: &str) -> Browser {
    let mut browser = Browser::new(gateway);
    host.clone_into(&mut browser.host);
    browser
}

/// Value of the cookie `name` that a response sets.
fn set_value(response: &Response, name: &str) -> String {
    let lines = response.set_cookies();
    let values = lines.iter().filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    let mut values = values.map(|rest| rest.split(';').next().unwrap_or_default());
    values.rfind(|value| !value.is_empty()).unwrap_or_default().to_owned()
}

/// Logs in with these cookies.
async fn log_in_with(browser: &mut Browser, cookies: &str) -> Response {
    let form = browser.send("GET", "/.doorward/login", &[("cookie", cookies)], "").await;
    // The jar has it from now on, also if an earlier response set it.
    let login = browser.jar.get("__Host-doorward-login").expect("a login cookie").clone();
    let body = format!(
        "username=alice&password={}&csrf={}&to={}",
        PASSWORD.replace(' ', "+"),
        form.form_field("csrf"),
        form.form_field("to")
    );
    let cookies = format!("{cookies}; __Host-doorward-login={login}");
    browser.jar.clear();
    let headers = [
        ("content-type", "application/x-www-form-urlencoded"),
        ("sec-fetch-site", "same-origin"),
        ("sec-fetch-mode", "navigate"),
        ("cookie", cookies.as_str()),
    ];
    browser.send("POST", "/.doorward/login", &headers, &body).await
}

const SHARED: &str = "__Secure-doorward";

/// A narrowed `domain` leaves the cookie of the wider one, which nothing but a deletion for that domain
/// replaces.
#[tokio::test]
async fn a_login_replaces_the_cookies_of_every_domain_above() {
    let upstream = Upstream::start().await;
    let routes = session_route(upstream.address).replace("app.test", "a.example.test");
    let session = "domain = \"a.example.test\"".to_owned();
    let gateway = Gateway::start(Setup { routes, session, ..Setup::default() });
    let mut sessions = Vec::new();
    for _ in 0..2 {
        let mut browser = at(&gateway, "a.example.test");
        let response = log_in_with(&mut browser, "x=1").await;
        sessions.push(set_value(&response, SHARED));
    }
    let both = format!("{SHARED}={}; {SHARED}={}", sessions[0], sessions[1]);
    let mut browser = at(&gateway, "a.example.test");
    let page = [("cookie", both.as_str()), ("accept", "text/html")];
    let to_login = browser.send("GET", "/", &page, "").await;
    assert_eq!(to_login.status, StatusCode::SEE_OTHER);
    let login = browser.send("GET", to_login.header("location"), &page, "").await;
    assert!(login.text().contains("several session cookies"), "{}", login.text());
    let response = log_in_with(&mut browser, &both).await;
    assert_eq!(response.status, StatusCode::SEE_OTHER, "{}", response.text());
    let lines = response.set_cookies();
    for domain in ["; Domain=example.test; Max-Age=0", "; Path=/; Max-Age=0"] {
        assert!(lines.iter().any(|line| line.ends_with(domain)), "{domain}: {lines:?}");
    }
    assert!(lines.last().expect("a cookie").contains("=dw1_"), "the new one is last: {lines:?}");
    for old in sessions {
        let cookie = format!("{SHARED}={old}");
        let dead =
            at(&gateway, "a.example.test").send("GET", "/", &[("cookie", &cookie)], "").await;
        assert_eq!(dead.json()["reason"], "replaced", "each of them ended");
    }
}

#[tokio::test]
async fn a_logout_ends_and_deletes_all_of_several_cookies() {
    let (_upstream, gateway) = gateway("").await;
    let mut browsers = [at(&gateway, "app.test"), at(&gateway, "app.test")];
    for browser in &mut browsers {
        browser.log_in("alice").await;
    }
    let both = format!("{SESSION}={}; {SESSION}={}", browsers[0].token(), browsers[1].token());
    let mut browser = at(&gateway, "app.test");
    let page = browser.send("GET", "/.doorward/logout", &[("cookie", &both)], "").await;
    let body = format!("csrf={}", page.form_field("csrf"));
    let headers = [
        ("content-type", "application/x-www-form-urlencoded"),
        ("sec-fetch-site", "same-origin"),
        ("cookie", both.as_str()),
    ];
    let logout = browser.send("POST", "/.doorward/logout", &headers, &body).await;
    assert_eq!(logout.status, StatusCode::OK, "{}", logout.text());
    assert!(logout.set_cookies()[0].ends_with("Max-Age=0"));
    for browser in &mut browsers {
        assert_eq!(browser.fetch("/").await.json()["reason"], "logout");
    }
}

/// Cookies ignore ports, so two gateways on one host overwrite each other's cookie of the same name.
#[tokio::test]
async fn two_gateways_on_one_host_need_two_cookie_names() {
    let (_first_app, production) = gateway("").await;
    let (app, staging) = gateway("cookie_name = \"staging\"").await;
    let mut alice = Browser::new(&production);
    alice.log_in("alice").await;
    alice.address = staging.address;
    alice.tls = Browser::new(&staging).tls;
    let to_login = alice.navigate("/").await;
    let page = alice.navigate(to_login.header("location")).await;
    assert!(!page.text().contains("id=\"notice\""), "{}", page.text());
    alice.try_log_in("alice", PASSWORD, "/").await;
    assert_eq!(alice.fetch("/").await.status, StatusCode::OK);
    assert!(!app.last_head().contains("dw1_"), "{}", app.last_head());
    assert!(alice.jar.contains_key(SESSION) && alice.jar.contains_key("__Host-staging"));
}

#[tokio::test]
async fn a_foreign_cookie_is_explained_on_the_login_page() {
    let (_first_app, production) = gateway("").await;
    let (_app, staging) = gateway("").await;
    let mut alice = Browser::new(&production);
    alice.log_in("alice").await;
    alice.address = staging.address;
    alice.tls = Browser::new(&staging).tls;
    let to_login = alice.navigate("/").await;
    let page = alice.navigate(to_login.header("location")).await.text();
    assert!(page.contains("session cookie that this site did not issue"), "{page}");
}

#[tokio::test]
async fn a_persistent_cookie_lasts_to_the_absolute_end() {
    let (_upstream, gateway) =
        gateway("persistent = true\nabsolute_timeout = \"30d\"\nidle_timeout = \"30d\"").await;
    let mut alice = Browser::new(&gateway);
    let login = alice.log_in("alice").await;
    let month = 30 * 24 * 60 * 60;
    assert!(login.set_cookies()[0].ends_with(&format!("; Max-Age={month}")), "{:?}", login.headers);
    gateway.advance(Duration::from_secs(601));
    let rotation = alice.fetch("/").await;
    let left = month - 601;
    assert!(rotation.set_cookies()[0].ends_with(&format!("; Max-Age={left}")));
}

#[tokio::test]
async fn same_site_is_settable() {
    for (setting, attribute) in [("none", "None"), ("strict", "Strict"), ("lax", "Lax")] {
        let (_upstream, gateway) = gateway(&format!("same_site = \"{setting}\"")).await;
        let login = Browser::new(&gateway).log_in("alice").await;
        let line = &login.set_cookies()[0];
        assert!(line.contains(&format!("; SameSite={attribute};")), "{line}");
    }
}

async fn log_in_at(page: &str, browser: &mut Browser) {
    let response = browser.try_log_in("alice", PASSWORD, page).await;
    assert_eq!(response.status, StatusCode::SEE_OTHER, "{}", response.text());
}

/// Several tabs: the form of one was open while the user logged in with the other.
#[tokio::test]
async fn a_second_login_of_the_same_user_cuts_no_download() {
    let streams = StreamingUpstream::start().await;
    let aging = format!(
        "[[route]]\nhost = \"app.test\"\npath = \"/aging\"\nupstream = \"http://{}\"\naccess = \"session\"\nmax_connection_age = \"1s\"\n",
        streams.websocket
    );
    let gateway = Gateway::start(Setup { routes: streams.routes("") + &aging, ..Setup::default() });
    let mut alice = Browser::new(&gateway);
    log_in_at("/small", &mut alice).await;
    let mut old = alice.clone();
    let download = open_response(&alice, "download", "/tab/download".to_owned()).await;
    let socket = open_websocket(&alice, "/ws/tab".to_owned()).await;
    streams.wait_until_seen("/tab/download").await;
    log_in_at("/small", &mut alice).await;
    assert_ne!(alice.token(), old.token());
    // Closed by the revalidation of tracked connections, which has then seen the others too.
    open_websocket(&alice, "/aging/tab".to_owned()).await.wait_until_closed().await;
    assert!(download.is_open() && socket.is_open(), "another login cut them");
    let page = alice.navigate("/.doorward/logout").await;
    let logout = alice.post_form("/.doorward/logout", &[("csrf", &page.form_field("csrf"))]).await;
    assert_eq!(logout.status, StatusCode::OK);
    assert_eq!(socket.wait_until_closed().await.1, "close 1008", "the logout ends them");
    assert_eq!(download.wait_until_closed().await.1, "broken");
    assert_eq!(old.fetch("/small").await.json()["reason"], "replaced");
}

#[tokio::test]
async fn another_user_at_the_browser_cuts_the_first_ones_connections() {
    let streams = StreamingUpstream::start().await;
    let gateway = Gateway::start(Setup { routes: streams.routes(""), ..Setup::default() });
    let mut browser = Browser::new(&gateway);
    log_in_at("/small", &mut browser).await;
    let socket = open_websocket(&browser, "/ws/tab".to_owned()).await;
    let form = browser.navigate("/.doorward/login").await;
    let csrf = form.form_field("csrf");
    let fields = [("username", "bob"), ("password", PASSWORD), ("csrf", &*csrf)];
    let response = browser.post_form("/.doorward/login", &fields).await;
    assert_eq!(response.status, StatusCode::SEE_OTHER, "{}", response.text());
    assert_eq!(socket.wait_until_closed().await.1, "close 1008");
}
