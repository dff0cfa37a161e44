//! `session.on_reuse`: what else ends when a token is used after its grace, and how it is said.

use std::time::Duration;

use http::StatusCode;

use crate::browser::Browser;
use crate::gateway::{Gateway, Setup, manual_clock, route};
use crate::upstream::Upstream;

/// alice with a session that was renewed once, her phone, bob, and who found her old token.
struct Scene {
    _upstream: Upstream,
    gateway: Gateway,
    desk: Browser,
    phone: Browser,
    bob: Browser,
    thief: Browser,
}

impl Scene {
    /// Up to the moment at which the old token is shown again.
    async fn with(on_reuse: &str) -> Scene {
        let upstream = Upstream::start().await;
        let gateway = Gateway::start(Setup {
            routes: route(upstream.address),
            session: format!("on_reuse = \"{on_reuse}\""),
            clock: manual_clock(),
            ..Setup::default()
        });
        let [mut desk, mut phone, mut bob] = [(); 3].map(|()| Browser::new(&gateway));
        desk.log_in("alice").await;
        let thief = desk.clone();
        gateway.advance(Duration::from_secs(601));
        desk.fetch("/").await;
        assert_ne!(desk.token(), thief.token(), "renewed");
        assert_eq!(verdict(&mut desk).await, "admitted");
        phone.log_in("alice").await;
        bob.log_in("bob").await;
        gateway.advance(Duration::from_secs(120));
        assert_eq!(verdict(&mut desk).await, "admitted");
        Scene { _upstream: upstream, gateway, desk, phone, bob, thief }
    }

    /// The old token is never let in, whatever is configured, and no cookie is taken away.
    async fn steal(&mut self) {
        let token = self.thief.token();
        assert_eq!(verdict(&mut self.thief).await, "401 theft");
        assert_eq!(self.thief.token(), token);
    }

    fn thefts(&self) -> u64 {
        let text = self.gateway.shared().metrics.render();
        let start = "doorward_session_events_total{event=\"session.theft\"} ";
        let count = text.lines().find_map(|line| line.strip_prefix(start));
        count.map_or(0, |count| count.parse().expect("a number"))
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
async fn on_reuse_revoke_ends_the_session_for_both_and_no_other() {
    let mut scene = Scene::with("revoke").await;
    scene.steal().await;
    assert_eq!(verdict(&mut scene.desk).await, "401 theft");
    assert_eq!(verdict(&mut scene.phone).await, "admitted");
    assert_eq!(verdict(&mut scene.bob).await, "admitted");
    assert_eq!(scene.thefts(), 1);
}

#[tokio::test]
async fn on_reuse_revoke_all_ends_every_session_of_the_user_and_of_nobody_else() {
    let mut scene = Scene::with("revoke-all").await;
    scene.steal().await;
    assert_eq!(verdict(&mut scene.desk).await, "401 theft");
    assert_eq!(verdict(&mut scene.phone).await, "401 revoked");
    assert_eq!(verdict(&mut scene.bob).await, "admitted");
    assert_eq!(scene.thefts(), 1);
    scene.desk.log_in("alice").await;
    assert_eq!(verdict(&mut scene.desk).await, "admitted");
}

#[tokio::test]
async fn on_reuse_reauthenticate_lets_nobody_on_before_a_login() {
    let mut scene = Scene::with("reauthenticate").await;
    scene.steal().await;
    let answer = scene.desk.clone().fetch("/").await;
    assert_eq!(
        (answer.status, &answer.json()["error"]),
        (StatusCode::UNAUTHORIZED, &"reauthenticate".into())
    );
    let page = scene.desk.clone().visit("/wiki").await;
    assert!(page.header("location").ends_with("why=reauthenticate"), "{}", page.header("location"));
    assert_eq!(verdict(&mut scene.phone).await, "admitted");
    assert_eq!(verdict(&mut scene.bob).await, "admitted");
    let stolen = scene.desk.token();
    scene.desk.log_in("alice").await;
    assert_eq!(verdict(&mut scene.desk).await, "admitted");
    let mut copy = Browser::new(&scene.gateway).with_token(&stolen);
    assert_eq!(verdict(&mut copy).await, "401 replaced");
}

#[tokio::test]
async fn on_reuse_log_refuses_the_old_token_and_counts_it_and_ends_nothing() {
    let mut scene = Scene::with("log").await;
    for seen in 1..=2 {
        scene.steal().await;
        assert_eq!(scene.thefts(), seen);
        for browser in [&mut scene.desk, &mut scene.phone, &mut scene.bob] {
            assert_eq!(verdict(browser).await, "admitted");
        }
    }
}
