//! Logging in and out, and the answers to those who have not.

use http::StatusCode;

use crate::browser::Browser;
use crate::gateway::{Gateway, PASSWORD, Setup, route};
use crate::upstream::Upstream;

async fn one_app() -> (Upstream, Gateway) {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(Setup { routes: route(upstream.address), ..Setup::default() });
    (upstream, gateway)
}

#[tokio::test]
async fn a_navigation_without_a_session_goes_to_login_and_comes_back_to_where_it_was() {
    let (upstream, gateway) = one_app().await;
    let mut browser = Browser::new(&gateway);
    let answer = browser.visit("/wiki/page?x=1").await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER);
    assert!(answer.header("location").starts_with("/.doorward/login?"));
    let answer = browser.try_log_in("alice", PASSWORD, "/wiki/page?x=1").await;
    assert_eq!(
        (answer.status, answer.header("location")),
        (StatusCode::SEE_OTHER, "/wiki/page?x=1")
    );
    assert_eq!(browser.visit("/wiki/page?x=1").await.text(), "hello");
    assert_eq!(upstream.heads().len(), 1);
}

#[tokio::test]
async fn a_fetch_without_a_session_gets_401_json_and_no_redirect() {
    let (upstream, gateway) = one_app().await;
    let answer = Browser::new(&gateway).fetch("/api").await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    assert_eq!(answer.json()["reason"], "no-session");
    assert_eq!(answer.json()["login"], "/.doorward/login");
    assert!(answer.headers.contains_key("www-authenticate"));
    assert!(upstream.heads().is_empty());
}

#[tokio::test]
async fn asvs_7_2_4_each_login_makes_a_new_token_and_ends_the_old_session() {
    let (_upstream, gateway) = one_app().await;
    let mut browser = Browser::new(&gateway);
    browser.log_in("alice").await;
    let old = browser.token();
    browser.log_in("alice").await;
    assert_ne!(browser.token(), old);
    assert_eq!(browser.fetch("/").await.status, StatusCode::OK);
    let answer = Browser::new(&gateway).with_token(&old).fetch("/").await;
    assert_eq!(
        (answer.status, answer.json()["reason"].as_str()),
        (StatusCode::UNAUTHORIZED, Some("replaced"))
    );
}
