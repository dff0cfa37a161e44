//! Signals of a moved session, through the gateway: what is written down, and what an enforcing route does.
//!
//! A trusted proxy says where clients are, in the documentation networks of `tests/data`.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use serde_json::Value;

use crate::browser::Browser;
use crate::gateway::{Gateway, Setup, manual_clock, route};
use crate::upstream::Upstream;

const FIREFOX: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0";

const HOME: Place = Place("192.0.2.7", FIREFOX);
const MOBILE: Place = Place("203.0.113.200", FIREFOX);
const VPN_ABROAD: Place = Place("198.51.100.9", FIREFOX);
const THIEF: Place = Place("203.0.113.9", "curl/8.5.0");

/// An address and a User-Agent.
#[derive(Clone, Copy)]
struct Place(&'static str, &'static str);

struct Scene {
    upstream: Upstream,
    gateway: Gateway,
    alice: Browser,
}

impl Scene {
    /// alice logged in at home, on a route with these signals.
    async fn with(signals: &str) -> Scene {
        let upstream = Upstream::start().await;
        let data = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data");
        let routes = format!("{}signals = \"{signals}\"\n", route(upstream.address));
        let watching = route(upstream.address).replace("app.test", "other.test");
        let gateway = Gateway::start(Setup {
            routes: format!("{routes}{watching}"),
            server: "trusted_proxies = [\"127.0.0.1\"]".to_owned(),
            more: format!(
                "[audit]\nfile = \"audit.jsonl\"\n[signals]\ncountry_db = \"{data}/city.mmdb\"\nasn_db = \"{data}/asn.mmdb\"\n"
            ),
            clock: manual_clock(),
            ..Setup::default()
        });
        let mut alice = Browser::new(&gateway);
        HOME.at(&mut alice);
        alice.log_in("alice").await;
        gateway.advance(Duration::from_secs(120));
        Scene { upstream, gateway, alice }
    }

    fn theirs(&self, place: Place) -> Browser {
        let mut thief = self.alice.clone();
        place.at(&mut thief);
        thief
    }

    /// The moves that stand in the audit log.
    fn moves(self) -> Vec<Value> {
        let Scene { upstream: _upstream, gateway, .. } = self;
        let directory = Arc::clone(&gateway.directory);
        gateway.stop();
        let text =
            std::fs::read_to_string(directory.path().join("audit.jsonl")).expect("an audit log");
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        lines.filter(|line| line["event.action"] == "session.moved").collect()
    }
}

impl Place {
    fn at(self, browser: &mut Browser) {
        browser.fields =
            vec![("x-forwarded-for", self.0.to_owned()), ("user-agent", self.1.to_owned())];
    }
}

async fn verdict(browser: &mut Browser) -> String {
    let answer = browser.fetch("/").await;
    if answer.status == StatusCode::OK {
        return "admitted".to_owned();
    }
    format!("{} {}", answer.status.as_u16(), answer.json()["reason"].as_str().unwrap_or_default())
}

#[tokio::test]
async fn a_route_that_monitors_lets_a_thief_in_and_says_once_what_it_would_have_done() {
    let scene = Scene::with("monitor").await;
    let mut thief = scene.theirs(THIEF);
    for _ in 0..3 {
        assert_eq!(verdict(&mut thief).await, "admitted");
    }
    let moves = scene.moves();
    assert_eq!(moves.len(), 1, "{moves:#?}");
    let line = &moves[0];
    assert_eq!(line["doorward.answer"], "login");
    assert_eq!(line["doorward.enforced"], false);
    assert_eq!(line["source.ip"], "203.0.113.9");
    assert_eq!(line["doorward.other.ip"], "192.0.2.7");
    let names = ["network", "country", "operator", "speed", "browser"];
    assert_eq!(line["doorward.signals"], serde_json::json!(names));
    assert_eq!(line["doorward.weights"], serde_json::json!([10, 25, 5, 5, 50]));
    assert_eq!(line["doorward.score"], 95);
}

#[tokio::test]
async fn a_route_that_enforces_stops_other_software_elsewhere_at_its_first_request() {
    let mut scene = Scene::with("enforce").await;
    let seen = scene.upstream.heads().len();
    let mut thief = scene.theirs(THIEF);
    assert_eq!(verdict(&mut thief).await, "401 reauthenticate");
    assert_eq!(verdict(&mut thief).await, "401 reauthenticate");
    assert_eq!(scene.upstream.heads().len(), seen, "the app saw nothing of it");
    assert_eq!(verdict(&mut scene.alice).await, "401 reauthenticate", "nobody knows who is who");
    scene.alice.log_in("alice").await;
    assert_eq!(verdict(&mut scene.alice).await, "admitted");
    assert_eq!(verdict(&mut thief).await, "401 replaced");
    let moves = scene.moves();
    assert_eq!(moves.len(), 1, "{moves:#?}");
    assert_eq!(moves[0]["doorward.enforced"], true);
}

#[tokio::test]
async fn an_honest_traveller_is_renewed_and_not_logged_out_by_a_route_that_enforces() {
    let mut scene = Scene::with("enforce").await;
    for place in [MOBILE, VPN_ABROAD, HOME, MOBILE] {
        place.at(&mut scene.alice);
        let before = scene.alice.token();
        assert_eq!(verdict(&mut scene.alice).await, "admitted", "{}", place.0);
        let renewed = scene.alice.token() != before;
        assert_eq!(renewed, place.0 == VPN_ABROAD.0, "{}", place.0);
        scene.gateway.advance(Duration::from_secs(300));
        assert_eq!(verdict(&mut scene.alice).await, "admitted", "{}", place.0);
    }
    let answers: Vec<Value> =
        scene.moves().iter().map(|line| line["doorward.answer"].clone()).collect();
    assert_eq!(answers, ["renew", "log"]);
}

#[tokio::test]
async fn who_was_seen_where_nobody_enforces_is_still_a_stranger_where_somebody_does() {
    let scene = Scene::with("enforce").await;
    let mut thief = scene.theirs(THIEF);
    thief.fetch("/.doorward/sessions").await;
    assert_eq!(verdict(&mut thief).await, "401 reauthenticate");
    let scene = Scene::with("enforce").await;
    let mut thief = scene.theirs(THIEF);
    thief.host = "other.test".to_owned();
    assert_eq!(verdict(&mut thief).await, "admitted", "that route only watches");
    thief.host = "app.test".to_owned();
    assert_eq!(verdict(&mut thief).await, "401 reauthenticate");
}

#[tokio::test]
async fn a_route_without_signals_looks_at_nothing() {
    let scene = Scene::with("off").await;
    let mut thief = scene.theirs(THIEF);
    assert_eq!(verdict(&mut thief).await, "admitted");
    assert!(scene.moves().is_empty());
}
