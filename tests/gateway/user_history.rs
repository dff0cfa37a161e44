//! User history: known locations and notices that outlive sessions.

use std::time::Duration;

use crate::risk::{ATTACKER, ClientOrigin, HOME, RiskTest, VPN_ABROAD, verdict};
use test_support::browser::Browser;

const CHROME: &str = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36";
const MONTH: Duration = Duration::from_secs(30 * 24 * 3_600);

async fn notices(browser: &mut Browser) -> String {
    browser.navigate("/.doorward/sessions").await.text()
}

#[tokio::test]
async fn known_locations_apply_to_new_sessions() {
    let mut scene = RiskTest::with("enforce").await;
    VPN_ABROAD.apply_to(&mut scene.alice);
    let before = scene.alice.token();
    assert_eq!(verdict(&mut scene.alice).await, "admitted");
    assert_ne!(scene.alice.token(), before, "new to the first session: renewed");
    let mut second = scene.new_profile(HOME).await;
    scene.gateway.advance(Duration::from_secs(120));
    VPN_ABROAD.apply_to(&mut second);
    let before = second.token();
    assert_eq!(verdict(&mut second).await, "admitted");
    assert_eq!(second.token(), before, "and not to the second");
    let curl = ClientOrigin(VPN_ABROAD.0, "curl/8.5.0");
    curl.apply_to(&mut second);
    assert_eq!(verdict(&mut second).await, "admitted");
    scene.gateway.advance(Duration::from_secs(120));
    assert_eq!(verdict(&mut second).await, "admitted");
    assert_ne!(second.token(), before, "other software still is: renewed");
}

/// Runs `doorward sessions forget` on the gateway's socket.
fn forget(scene: &RiskTest, user: &str) -> String {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_doorward"));
    command.args(["sessions", "--socket"]).arg(scene.gateway.socket()).args(["forget", user]);
    let out = command.output().expect("the program runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("text")
}

#[tokio::test]
async fn forgetting_a_user_clears_the_history_and_is_logged() {
    let mut scene = RiskTest::with("enforce").await;
    VPN_ABROAD.apply_to(&mut scene.alice);
    assert_eq!(verdict(&mut scene.alice).await, "admitted");
    let mut third = scene.new_profile(ClientOrigin("203.0.113.9", CHROME)).await;
    assert!(notices(&mut third).await.contains("A login from a new place"));
    let output = forget(&scene, "Alice");
    assert_eq!(
        output,
        "deleted the history of alice; current sessions keep their part until they end\n"
    );
    assert!(!notices(&mut third).await.contains("A login from a new place"));
    let mut other_profile = scene.new_profile(ClientOrigin("100.64.0.9", "curl/8.5.0")).await;
    assert!(
        !notices(&mut other_profile).await.contains("new place"),
        "the first login causes no notice"
    );
    let mut later = scene.new_profile(HOME).await;
    scene.gateway.advance(Duration::from_secs(120));
    VPN_ABROAD.apply_to(&mut later);
    let before = later.token();
    assert_eq!(verdict(&mut later).await, "admitted");
    assert_ne!(later.token(), before, "new to a session that begins after it: renewed");
    forget(&scene, "gone");
    let lines = scene.audited("user.history-deleted");
    let users: Vec<_> = lines.iter().map(|line| line["user.name"].clone()).collect();
    assert_eq!(users, ["alice", "gone"], "also of who has no account any more");
}

#[tokio::test]
async fn location_unused_for_a_month_expires() {
    let mut scene = RiskTest::with("enforce").await;
    VPN_ABROAD.apply_to(&mut scene.alice);
    assert_eq!(verdict(&mut scene.alice).await, "admitted");
    scene.gateway.advance(MONTH + Duration::from_secs(24 * 3_600));
    let mut later = scene.new_profile(HOME).await;
    scene.gateway.advance(Duration::from_secs(120));
    VPN_ABROAD.apply_to(&mut later);
    let before = later.token();
    assert_eq!(verdict(&mut later).await, "admitted");
    assert_ne!(later.token(), before, "renewed");
}

#[tokio::test]
async fn monitoring_route_does_not_make_a_location_known() {
    let scene = RiskTest::with("enforce").await;
    let mut attacker = scene.attacker(VPN_ABROAD);
    attacker.host = "other.test".to_owned();
    assert_eq!(verdict(&mut attacker).await, "admitted", "that route only watches");
    let mut second = scene.new_profile(HOME).await;
    scene.gateway.advance(Duration::from_secs(120));
    VPN_ABROAD.apply_to(&mut second);
    let before = second.token();
    assert_eq!(verdict(&mut second).await, "admitted");
    assert_ne!(second.token(), before, "new there");
}

#[tokio::test]
async fn location_of_an_attacker_is_removed_after_theft() {
    let mut scene = RiskTest::with("enforce").await;
    // The attacker accepts successors; then the owner uses the superseded token.
    let mut attacker = scene.attacker(VPN_ABROAD);
    for _ in 0..3 {
        assert_eq!(verdict(&mut attacker).await, "admitted");
    }
    scene.gateway.advance(Duration::from_secs(120));
    assert_eq!(verdict(&mut attacker).await, "admitted");
    assert_eq!(verdict(&mut scene.alice).await, "401 theft");
    scene.alice.log_in("alice").await;
    scene.gateway.advance(Duration::from_secs(120));
    let mut again = scene.attacker(VPN_ABROAD);
    let before = again.token();
    assert_eq!(verdict(&mut again).await, "admitted");
    assert_ne!(again.token(), before, "as new as the first time");
}

#[tokio::test]
async fn login_from_a_new_country_is_audited_and_shown() {
    let mut scene = RiskTest::with("off").await;
    assert!(
        !notices(&mut scene.alice).await.contains("new place"),
        "the first login causes no notice"
    );
    let mut newcomer = Browser::new(&scene.gateway);
    VPN_ABROAD.apply_to(&mut newcomer);
    let login = newcomer.log_in("alice").await;
    assert_eq!(login.header("location"), "/", "the owner receives it");
    let text = notices(&mut scene.alice).await;
    assert!(text.contains("A login from a new place"), "{text}");
    assert!(text.contains("Firefox on Linux, network 198.51.100.0/24"), "{text}");
    let page = newcomer.navigate("/.doorward/sessions").await;
    assert!(page.text().contains("A login from a new place"));
    assert!(!page.text().contains("value=\"dismiss\""));
    let owners = scene.alice.navigate("/.doorward/sessions").await;
    let (id, csrf) = (owners.form_field("notice"), page.form_field("csrf"));
    let fields = [("csrf", csrf.as_str()), ("do", "dismiss"), ("notice", &id)];
    newcomer.post_form("/.doorward/sessions", &fields).await;
    assert!(notices(&mut scene.alice).await.contains("A login from a new place"));
    let csrf = owners.form_field("csrf");
    let fields = [("csrf", csrf.as_str()), ("do", "dismiss"), ("notice", &id)];
    scene.alice.post_form("/.doorward/sessions", &fields).await;
    assert!(!notices(&mut scene.alice).await.contains("A login from a new place"));
    let again = scene.new_profile(VPN_ABROAD).await;
    drop(again);
    let lines = scene.audited("session.login-new-location");
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert_eq!(lines[0]["source.ip"], "198.51.100.9");
    assert_eq!(lines[0]["user.name"], "alice");
    assert_eq!(lines[0]["event.outcome"], "success");
    let signals = lines[0]["doorward.signals"].as_array().expect("a list").clone();
    assert!(signals.contains(&"country".into()), "{signals:?}");
}

#[tokio::test]
async fn new_user_agent_in_a_new_network_is_a_new_location() {
    let mut scene = RiskTest::with("off").await;
    scene.new_profile(ClientOrigin(HOME.0, CHROME)).await;
    assert!(!notices(&mut scene.alice).await.contains("new place"));
    scene.new_profile(ClientOrigin("203.0.113.9", "curl/8.5.0")).await;
    assert!(notices(&mut scene.alice).await.contains("A login from a new place"));
}

#[tokio::test]
async fn risk_rejection_is_explained_after_login() {
    let mut scene = RiskTest::with("enforce").await;
    let mut attacker = scene.attacker(ATTACKER);
    assert_eq!(verdict(&mut attacker).await, "401 reauthenticate");
    let login = scene.alice.log_in("alice").await;
    assert!(login.header("location").starts_with("/.doorward/sessions"));
    let text = notices(&mut scene.alice).await;
    assert!(text.contains("Your session was used from somewhere else"), "{text}");
    assert!(text.contains("curl, network 203.0.113.0/24"), "{text}");
    assert!(text.contains("Firefox on Linux, network 192.0.2.0/24"), "{text}");
}
