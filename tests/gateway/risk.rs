//! Risk signals of location changes: audit entries, and the actions of an enforcing route.
//!
//! A trusted proxy header sets the client address, in the documentation networks of `tests/data`.

use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use doorward::tls::provider;
use http::StatusCode;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;
use tempfile::TempDir;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::streaming::{StreamingUpstream, open_websocket};
use test_support::browser::{Browser, SESSION};
use test_support::gateway::{Gateway, Setup, manual_clock, prepare_directory, session_route};
use test_support::upstream::Upstream;

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data");
const PROXIED: &str = "trusted_proxies = [\"127.0.0.1\"]";

const FIREFOX: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0";

pub const HOME: ClientOrigin = ClientOrigin("192.0.2.7", FIREFOX);
const MOBILE: ClientOrigin = ClientOrigin("203.0.113.200", FIREFOX);
pub const VPN_ABROAD: ClientOrigin = ClientOrigin("198.51.100.9", FIREFOX);
pub const ATTACKER: ClientOrigin = ClientOrigin("203.0.113.9", "curl/8.5.0");

/// Client address and User-Agent.
#[derive(Clone, Copy)]
pub struct ClientOrigin(pub &'static str, pub &'static str);

pub struct RiskTest {
    upstream: Upstream,
    pub gateway: Gateway,
    pub alice: Browser,
}

impl RiskTest {
    /// Logs alice in at home, on a route with this `signals` mode.
    pub async fn with(signals: &str) -> RiskTest {
        RiskTest::with_server(PROXIED, signals).await
    }

    /// Logs alice in with these keys in `[server]`.
    async fn with_server(server: &str, signals: &str) -> RiskTest {
        RiskTest::with_settings(server, signals, "").await
    }

    /// Logs alice in with these keys in `[server]` and `[signals]`.
    async fn with_settings(server: &str, signals: &str, settings: &str) -> RiskTest {
        let databases =
            format!("country_db = \"{DATA}/city.mmdb\"\nasn_db = \"{DATA}/asn.mmdb\"\n");
        RiskTest::start(server, signals, &format!("{databases}{settings}"), prepare_directory())
            .await
    }

    async fn start(
        server: &str,
        signals: &str,
        settings: &str,
        directory: Arc<TempDir>,
    ) -> RiskTest {
        let upstream = Upstream::start().await;
        let routes = format!("{}signals = \"{signals}\"\n", session_route(upstream.address));
        let kept = routes.replace("path = \"/\"", "path = \"/kept\"\nrotation = false");
        let watching = session_route(upstream.address).replace("app.test", "other.test");
        let gateway = Gateway::start(Setup {
            routes: format!("{routes}{kept}{watching}"),
            server: server.to_owned(),
            extra: format!("[audit]\nfile = \"audit.jsonl\"\n[signals]\n{settings}"),
            clock: manual_clock(),
            shared_directory: Some(directory),
            ..Setup::default()
        });
        let mut alice = Browser::new(&gateway);
        if server.contains("proxy_protocol") {
            alice.proxy_header = b"PROXY".to_vec();
        }
        HOME.apply_to(&mut alice);
        alice.log_in("alice").await;
        gateway.advance(Duration::from_secs(120));
        RiskTest { upstream, gateway, alice }
    }

    pub fn attacker(&self, origin: ClientOrigin) -> Browser {
        let mut attacker = self.alice.clone();
        origin.apply_to(&mut attacker);
        attacker
    }

    /// Returns the location changes in the audit log.
    fn moves(self) -> Vec<Value> {
        self.audited("session.location-changed")
    }

    /// Logs alice in at another location with a new browser profile.
    pub async fn new_profile(&self, origin: ClientOrigin) -> Browser {
        let mut browser = Browser::new(&self.gateway);
        origin.apply_to(&mut browser);
        browser.log_in("alice").await;
        browser
    }

    pub fn audited(self, event: &str) -> Vec<Value> {
        let RiskTest { upstream: _upstream, gateway, .. } = self;
        let lines = audit_log(gateway).into_iter();
        lines.filter(|line| line["event.action"] == event).collect()
    }
}

fn audit_log(gateway: Gateway) -> Vec<Value> {
    let directory = Arc::clone(&gateway.directory);
    gateway.stop();
    let text = std::fs::read_to_string(directory.path().join("audit.jsonl")).expect("an audit log");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

impl ClientOrigin {
    pub fn apply_to(self, browser: &mut Browser) {
        browser.headers =
            vec![("x-forwarded-for", self.0.to_owned()), ("user-agent", self.1.to_owned())];
        if !browser.proxy_header.is_empty() {
            browser.proxy_header =
                format!("PROXY TCP4 {} 192.0.2.1 32768 443\r\n", self.0).into_bytes();
        }
    }
}

pub async fn verdict(browser: &mut Browser) -> String {
    let response = browser.fetch("/").await;
    if response.status == StatusCode::OK {
        return "admitted".to_owned();
    }
    format!(
        "{} {}",
        response.status.as_u16(),
        response.json()["reason"].as_str().unwrap_or_default()
    )
}

#[tokio::test]
async fn monitoring_route_admits_an_attacker_and_logs_once() {
    let scene = RiskTest::with("monitor").await;
    let mut attacker = scene.attacker(ATTACKER);
    for _ in 0..3 {
        assert_eq!(verdict(&mut attacker).await, "admitted");
    }
    let metrics = scene.gateway.metrics().await;
    let counted = "doorward_risk_assessments_total{action=\"login\",enforced=\"false\"} 1\n";
    assert!(metrics.contains(counted), "{metrics}");
    let moves = scene.moves();
    assert_eq!(moves.len(), 1, "{moves:#?}");
    let line = &moves[0];
    assert_eq!(line["doorward.action"], "login");
    assert_eq!(line["doorward.enforced"], false);
    assert_eq!(line["source.ip"], "203.0.113.9");
    assert_eq!(line["doorward.other.ip"], "192.0.2.7");
    let names = ["network", "country", "operator", "speed", "browser"];
    assert_eq!(line["doorward.signals"], serde_json::json!(names));
    assert_eq!(line["doorward.weights"], serde_json::json!([10, 25, 5, 5, 50]));
    assert_eq!(line["doorward.score"], 95);
    for (field, value) in [
        ("source.geo.country_iso_code", "AU"),
        ("user_agent.name", "curl"),
        ("doorward.other.country", "DE"),
        ("doorward.other.browser", "Firefox"),
        ("doorward.other.system", "Linux or Android"),
    ] {
        assert_eq!(line[field], value, "{field}");
    }
    assert_eq!(
        (&line["source.as.number"], &line["doorward.hosting"]),
        (&64498.into(), &false.into())
    );
    assert_eq!(line["doorward.other.operator"], 64496);
    assert!(line.get("user_agent.os.name").is_none(), "curl has no platform");
}

/// `language` is a signal: the audit entry shows both languages, without other client data.
#[tokio::test]
async fn location_change_logs_the_first_language_of_both() {
    let mut scene = RiskTest::with("monitor").await;
    let speaks = |browser: &mut Browser, origin: ClientOrigin, language: &str| {
        origin.apply_to(browser);
        browser.headers.push(("accept-language", language.to_owned()));
    };
    speaks(&mut scene.alice, HOME, "de-AT,de;q=0.9");
    scene.gateway.advance(Duration::from_secs(601));
    for _ in 0..2 {
        assert_eq!(verdict(&mut scene.alice).await, "admitted");
    }
    speaks(&mut scene.alice, ATTACKER, "fr\",\"doorward.score\":0");
    assert_eq!(verdict(&mut scene.alice).await, "admitted");
    let moves = scene.moves();
    assert_eq!(moves.len(), 1, "{moves:#?}");
    assert_eq!(moves[0]["doorward.language"], "fr");
    assert_eq!(moves[0]["doorward.other.language"], "de-at");
}

#[tokio::test]
async fn enforcing_route_stops_a_foreign_client_at_once() {
    let mut scene = RiskTest::with("enforce").await;
    let seen = scene.upstream.heads().len();
    let mut attacker = scene.attacker(ATTACKER);
    assert_eq!(verdict(&mut attacker).await, "401 reauthenticate");
    assert_eq!(verdict(&mut attacker).await, "401 reauthenticate");
    assert_eq!(scene.upstream.heads().len(), seen, "the app saw nothing of it");
    assert_eq!(
        verdict(&mut scene.alice).await,
        "401 reauthenticate",
        "no party is known to be the owner"
    );
    let metrics = scene.gateway.metrics().await;
    for line in [
        "doorward_risk_assessments_total{action=\"login\",enforced=\"true\"} 1\n",
        "doorward_risk_signals_total{signal=\"browser\"} 1\n",
        "doorward_risk_signals_total{signal=\"country\"} 1\n",
    ] {
        assert!(metrics.contains(line), "{line}{metrics}");
    }
    scene.alice.log_in("alice").await;
    assert_eq!(verdict(&mut scene.alice).await, "admitted");
    assert_eq!(verdict(&mut attacker).await, "401 replaced");
    let moves = scene.moves();
    assert_eq!(moves.len(), 1, "{moves:#?}");
    assert_eq!(moves[0]["doorward.enforced"], true);
}

#[tokio::test]
async fn enforcing_route_rotates_for_an_honest_traveller() {
    let mut scene = RiskTest::with("enforce").await;
    for origin in [MOBILE, VPN_ABROAD, HOME, MOBILE] {
        origin.apply_to(&mut scene.alice);
        let before = scene.alice.token();
        assert_eq!(verdict(&mut scene.alice).await, "admitted", "{}", origin.0);
        let rotated = scene.alice.token() != before;
        assert_eq!(rotated, origin.0 == VPN_ABROAD.0, "{}", origin.0);
        scene.gateway.advance(Duration::from_secs(300));
        assert_eq!(verdict(&mut scene.alice).await, "admitted", "{}", origin.0);
    }
    let responses: Vec<Value> =
        scene.moves().iter().map(|line| line["doorward.action"].clone()).collect();
    assert_eq!(responses, ["rotate", "log"]);
}

#[tokio::test]
async fn monitored_locations_stay_unknown_to_enforcing_routes() {
    let scene = RiskTest::with("enforce").await;
    let mut attacker = scene.attacker(ATTACKER);
    attacker.fetch("/.doorward/sessions").await;
    assert_eq!(verdict(&mut attacker).await, "401 reauthenticate");
    let scene = RiskTest::with("enforce").await;
    let mut attacker = scene.attacker(ATTACKER);
    attacker.host = "other.test".to_owned();
    assert_eq!(verdict(&mut attacker).await, "admitted", "that route only watches");
    attacker.host = "app.test".to_owned();
    assert_eq!(verdict(&mut attacker).await, "401 reauthenticate");
}

#[tokio::test]
async fn route_without_signals_checks_nothing() {
    let scene = RiskTest::with("off").await;
    let mut attacker = scene.attacker(ATTACKER);
    assert_eq!(verdict(&mut attacker).await, "admitted");
    assert!(scene.moves().is_empty());
}

/// The gateway's own pages show the user's locations and end other sessions.
#[tokio::test]
async fn own_pages_follow_the_strictest_route_of_their_host() {
    for path in ["/.doorward/session", "/.doorward/sessions"] {
        let scene = RiskTest::with("enforce").await;
        let response = scene.attacker(ATTACKER).fetch(path).await;
        assert_eq!(response.json()["reason"], "reauthenticate", "{path}");
        assert_eq!(verdict(&mut scene.alice.clone()).await, "401 reauthenticate");
        let moves = scene.moves();
        assert_eq!(moves.len(), 1, "{path}: {moves:#?}");
        assert_eq!(
            (&moves[0]["doorward.action"], &moves[0]["source.ip"]),
            (&"login".into(), &"203.0.113.9".into())
        );
    }
    let ending = [("do", "end-others"), ("csrf", "")];
    let scene = RiskTest::with("enforce").await;
    let other = scene.new_profile(HOME).await;
    let response = scene.attacker(ATTACKER).post_form("/.doorward/sessions", &ending).await;
    assert!(response.header("location").starts_with("/.doorward/login?to="), "{}", response.text());
    assert_eq!(verdict(&mut other.clone()).await, "admitted");
    for (signals, lines) in [("monitor", 1), ("off", 0)] {
        let scene = RiskTest::with(signals).await;
        let mut attacker = scene.attacker(ATTACKER);
        for _ in 0..2 {
            assert_eq!(attacker.fetch("/.doorward/sessions").await.status, StatusCode::OK);
        }
        assert_eq!(scene.moves().len(), lines, "{signals}");
    }
}

#[tokio::test]
async fn logout_is_always_allowed_and_rotates_nothing() {
    let scene = RiskTest::with("enforce").await;
    scene.gateway.advance(Duration::from_secs(601));
    let mut attacker = scene.attacker(ATTACKER);
    let before = attacker.token();
    let form = attacker.navigate("/.doorward/logout").await;
    assert_eq!(attacker.token(), before, "a new token, unseen");
    let csrf = form.form_field("csrf");
    attacker.post_form("/.doorward/logout", &[("csrf", &csrf)]).await;
    assert_eq!(verdict(&mut scene.alice.clone()).await, "401 logout");
}

#[tokio::test]
async fn pending_rotation_happens_on_the_next_rotating_route() {
    let scene = RiskTest::with("enforce").await;
    let mut attacker = scene.attacker(VPN_ABROAD);
    let before = attacker.token();
    assert_eq!(attacker.fetch("/kept").await.status, StatusCode::OK);
    assert_eq!(attacker.token(), before, "its clients keep one cookie");
    assert_eq!(verdict(&mut attacker).await, "admitted");
    assert_ne!(attacker.token(), before, "the location is known, so no rotation");
    let moves = scene.moves();
    assert_eq!(moves.len(), 1, "{moves:#?}");
    assert_eq!(
        (&moves[0]["doorward.action"], &moves[0]["doorward.enforced"]),
        (&"rotate".into(), &true.into())
    );
}

#[tokio::test]
async fn superseded_token_from_a_new_location_is_logged() {
    let mut scene = RiskTest::with("enforce").await;
    let mut attacker = scene.attacker(VPN_ABROAD);
    scene.gateway.advance(Duration::from_secs(601));
    for _ in 0..2 {
        assert_eq!(verdict(&mut scene.alice).await, "admitted");
    }
    let before = attacker.token();
    assert_ne!(scene.alice.token(), before, "superseded");
    assert_eq!(verdict(&mut attacker).await, "admitted", "within the grace");
    assert_eq!(attacker.token(), before);
    let moves = scene.moves();
    assert_eq!(moves.len(), 1, "{moves:#?}");
    assert_eq!(
        (&moves[0]["doorward.action"], &moves[0]["doorward.enforced"]),
        (&"rotate".into(), &false.into())
    );
    assert_eq!(moves[0]["source.ip"], "198.51.100.9");
}

#[tokio::test]
async fn replay_verdict_takes_precedence_over_risk() {
    for end_at in ["", "end_at = 80"] {
        let mut scene = RiskTest::with_settings(PROXIED, "enforce", end_at).await;
        let mut attacker = scene.attacker(ATTACKER);
        for pause in [601, 0, 120] {
            scene.gateway.advance(Duration::from_secs(pause));
            assert_eq!(verdict(&mut scene.alice).await, "admitted");
        }
        assert_eq!(verdict(&mut attacker).await, "401 theft");
        scene.alice.log_in("alice").await;
        let text = scene.alice.navigate("/.doorward/sessions").await.text();
        assert!(text.contains("An old copy of your session was used"), "{end_at}: {text}");
        assert!(!text.contains("Your session was used from somewhere else"), "{end_at}: {text}");
        assert!(scene.moves().is_empty(), "{end_at}");
    }
}

#[tokio::test]
async fn end_threshold_ends_the_session_as_stolen() {
    let streams = StreamingUpstream::start().await;
    let receiver =
        Upstream::with_response("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").await;
    let extra = format!(
        "[audit]\nfile = \"audit.jsonl\"\n[notify]\nwebhook = \"http://{}/\"\n[signals]\nlog_at = 10\nrenew_at = 10\nlogin_at = 10\nend_at = 10\n",
        receiver.address
    );
    let gateway = Gateway::start(Setup {
        routes: streams.routes("signals = \"enforce\""),
        server: PROXIED.to_owned(),
        extra,
        clock: manual_clock(),
        ..Setup::default()
    });
    let mut alice = Browser::new(&gateway);
    alice.log_in("alice").await;
    let mut phone = Browser::new(&gateway);
    phone.log_in("alice").await;
    let held = open_websocket(&alice, "/ws/held".to_owned()).await;
    let mut attacker = alice.clone();
    ATTACKER.apply_to(&mut attacker);
    assert_eq!(attacker.fetch("/small").await.json()["reason"], "theft");
    assert_eq!(held.wait_until_closed().await.1, "close 1008");
    assert_eq!(alice.fetch("/small").await.json()["reason"], "theft");
    assert_eq!(phone.fetch("/small").await.status, StatusCode::OK, "another session");
    receiver.wait_for_requests(1).await;
    alice.log_in("alice").await;
    let text = alice.navigate("/.doorward/sessions").await.text();
    assert!(text.contains("Your session was used from somewhere else"), "{text}");
    let lines = audit_log(gateway);
    let of = |event: &str| {
        let all: Vec<&Value> = lines.iter().filter(|line| line["event.action"] == event).collect();
        assert_eq!(all.len(), 1, "{event}: {lines:#?}");
        all[0].clone()
    };
    let moved = of("session.location-changed");
    assert_eq!(
        (&moved["doorward.action"], &moved["doorward.enforced"]),
        (&"end".into(), &true.into())
    );
    assert_eq!(of("session.theft")["source.ip"], "203.0.113.9");
    assert_eq!(of("session.ended")["event.reason"], "theft");
    let messages: Vec<String> = receiver.bodies();
    assert!(messages.iter().any(|body| body.contains("session.theft")), "{messages:?}");
}

#[tokio::test]
async fn allowed_network_is_never_new_but_its_software_is() {
    let mut scene =
        RiskTest::with_settings(PROXIED, "enforce", "allow = [\"198.51.100.0/24\"]").await;
    let before = scene.alice.token();
    VPN_ABROAD.apply_to(&mut scene.alice);
    assert_eq!(verdict(&mut scene.alice).await, "admitted");
    assert_eq!(scene.alice.token(), before, "nothing to answer");
    let mut other = scene.attacker(ClientOrigin(VPN_ABROAD.0, "curl/8.5.0"));
    assert_eq!(verdict(&mut other).await, "admitted");
    assert_ne!(other.token(), before, "renewed");
    let moves = scene.moves();
    assert_eq!(moves.len(), 1, "{moves:#?}");
    assert_eq!(moves[0]["doorward.signals"], serde_json::json!(["browser"]));
}

#[tokio::test]
async fn replaced_geoip_database_is_used_without_restart() {
    let directory = prepare_directory();
    let at = |name: &str| directory.path().join(name);
    std::fs::copy(format!("{DATA}/asn.mmdb"), at("places.mmdb")).expect("copied");
    let signals = "country_db = \"places.mmdb\"\n";
    let mut scene = RiskTest::start(PROXIED, "enforce", signals, Arc::clone(&directory)).await;
    let before = scene.alice.token();
    VPN_ABROAD.apply_to(&mut scene.alice);
    assert_eq!(verdict(&mut scene.alice).await, "admitted");
    assert_eq!(scene.alice.token(), before, "no country is known yet");
    std::fs::copy(format!("{DATA}/city.mmdb"), at("newer.mmdb")).expect("copied");
    std::fs::rename(at("newer.mmdb"), at("places.mmdb")).expect("renamed");
    let (sydney, deadline) = ([203, 0, 113, 9].into(), Instant::now() + Duration::from_secs(20));
    while scene.gateway.shared().geoip.load().lookup(sydney).country.is_none() {
        assert!(Instant::now() < deadline, "it is never read");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    ClientOrigin("203.0.113.9", FIREFOX).apply_to(&mut scene.alice);
    assert_eq!(verdict(&mut scene.alice).await, "admitted");
    assert_ne!(scene.alice.token(), before, "from another country: renewed");
}

// TLS fingerprints

const PASSED_ON: &str = "trusted_proxies = [\"127.0.0.1\"]\nproxy_protocol = true";

/// Returns the profile with a TLS library that offers one cipher suite only.
fn with_another_handshake(scene: &RiskTest, suite: usize) -> Browser {
    let mut provider = provider().as_ref().clone();
    provider.cipher_suites = vec![provider.cipher_suites[suite]];
    let mut roots = rustls::RootCertStore::empty();
    let ca = CertificateDer::from_pem_file(scene.gateway.path("ca.pem")).expect("the CA");
    roots.add(ca).expect("a root");
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("a version")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Browser { tls: Arc::new(config), ..scene.alice.clone() }
}

fn ja4(line: &Value, name: &str) -> String {
    let text = line[name].as_str().unwrap_or_else(|| panic!("{line:#}")).to_owned();
    assert!(text.starts_with("t13d") && text.len() == 36, "{text}");
    text
}

#[tokio::test]
async fn tls_fingerprint_reveals_a_copied_user_agent() {
    let scene = RiskTest::with_server(PASSED_ON, "enforce").await;
    let mut attacker = with_another_handshake(&scene, 0);
    assert_eq!(verdict(&mut attacker).await, "admitted", "alone it is written down");
    assert_eq!(verdict(&mut attacker).await, "admitted", "and once");
    let mut abroad = with_another_handshake(&scene, 1);
    VPN_ABROAD.apply_to(&mut abroad);
    assert_eq!(verdict(&mut abroad).await, "401 reauthenticate");
    let moves = scene.moves();
    assert_eq!(moves.len(), 2, "{moves:#?}");
    assert_eq!(moves[0]["doorward.signals"], serde_json::json!(["fingerprint"]));
    assert_eq!(moves[0]["doorward.weights"], serde_json::json!([25]));
    assert_eq!(moves[0]["doorward.action"], "log");
    let (here, there) =
        (ja4(&moves[0], "doorward.fingerprint"), ja4(&moves[0], "doorward.other.fingerprint"));
    assert_ne!(here, there);
    assert_eq!(moves[1]["doorward.action"], "login");
    assert_eq!(ja4(&moves[1], "doorward.other.fingerprint"), there, "the login's");
}

#[tokio::test]
async fn copied_user_agent_fails_from_another_network() {
    let scene = RiskTest::with_server(PASSED_ON, "enforce").await;
    let mut attacker = with_another_handshake(&scene, 0);
    MOBILE.apply_to(&mut attacker);
    assert_eq!(verdict(&mut attacker).await, "401 reauthenticate");
    let moves = scene.moves();
    assert_eq!(moves.len(), 1, "{moves:#?}");
    let signals = ["network", "operator", "fingerprint", "masquerade"];
    assert_eq!(moves[0]["doorward.signals"], serde_json::json!(signals));
    assert_eq!(moves[0]["doorward.score"], 65);
}

#[tokio::test]
async fn tls_inspection_does_not_cause_a_second_login() {
    let scene = RiskTest::with_server(PASSED_ON, "enforce").await;
    let mut office = with_another_handshake(&scene, 0);
    MOBILE.apply_to(&mut office);
    assert_eq!(verdict(&mut office).await, "401 reauthenticate");
    office.log_in("alice").await;
    assert_eq!(verdict(&mut office).await, "admitted");
    // The login came from the same browser, so both of its fingerprints are known.
    let mut travels = Browser { tls: Arc::clone(&scene.alice.tls), ..office };
    VPN_ABROAD.apply_to(&mut travels);
    assert_eq!(verdict(&mut travels).await, "admitted");
    let moves = scene.moves();
    assert_eq!(moves.len(), 2, "{moves:#?}");
    let expected = serde_json::json!(["network", "operator", "fingerprint", "masquerade"]);
    assert_eq!(moves[0]["doorward.signals"], expected);
    let abroad = serde_json::json!(["network", "country", "operator", "hosting", "speed"]);
    assert_eq!(moves[1]["doorward.signals"], abroad);
}

#[tokio::test]
async fn resumption_and_protocol_keep_the_fingerprint() {
    let mut scene = RiskTest::with_server(PASSED_ON, "enforce").await;
    let mut config = (*scene.alice.tls).clone();
    config.resumption = rustls::client::Resumption::disabled();
    let mut fresh = Browser { tls: Arc::new(config), ..scene.alice.clone() };
    for h2 in [true, false, true] {
        scene.alice.h2 = h2;
        fresh.h2 = h2;
        assert_eq!(verdict(&mut scene.alice).await, "admitted");
        assert_eq!(verdict(&mut fresh).await, "admitted");
    }
    assert!(scene.moves().is_empty());
}

#[tokio::test]
async fn fingerprint_of_a_tls_terminating_proxy_is_ignored() {
    let scene = RiskTest::with("enforce").await;
    let mut other = with_another_handshake(&scene, 0);
    assert_eq!(verdict(&mut other).await, "admitted");
    assert!(scene.moves().is_empty());
}

#[tokio::test]
async fn curl_and_openssl_have_distinct_fingerprints() {
    let scene = RiskTest::with_server("", "enforce").await;
    let (port, cookie) =
        (scene.gateway.address.port(), format!("{SESSION}={}", scene.alice.token()));
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--noproxy", "*", "-A", FIREFOX, "--resolve"]);
    curl.arg(format!("app.test:{port}:127.0.0.1"))
        .arg("--cacert")
        .arg(scene.gateway.path("ca.pem"));
    curl.args(["-H", &format!("Cookie: {cookie}"), "-o", "/dev/null", "-w", "%{http_code}"]);
    let curl = curl.arg(format!("https://app.test:{port}/")).output().await.expect("curl runs");
    assert_eq!(curl.stdout, b"200", "{}", String::from_utf8_lossy(&curl.stderr));
    let mut openssl = Command::new("openssl");
    openssl.args(["s_client", "-quiet", "-servername", "app.test", "-connect"]);
    openssl.arg(format!("127.0.0.1:{port}")).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut openssl = openssl.stderr(Stdio::null()).kill_on_drop(true).spawn().expect("it runs");
    let request = format!(
        "GET / HTTP/1.1\r\nHost: app.test\r\nUser-Agent: {FIREFOX}\r\nCookie: {cookie}\r\nConnection: close\r\n\r\n"
    );
    let stdin = openssl.stdin.as_mut().expect("a pipe");
    stdin.write_all(request.as_bytes()).await.expect("sent");
    let response = openssl.wait_with_output().await.expect("a response").stdout;
    assert!(response.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&response));
    let moves = scene.moves();
    assert_eq!(moves.len(), 2, "{moves:#?}");
    let mut seen: Vec<String> =
        moves.iter().map(|line| ja4(line, "doorward.fingerprint")).collect();
    seen.push(ja4(&moves[0], "doorward.other.fingerprint"));
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 3, "{seen:?}");
}
