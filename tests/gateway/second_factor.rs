//! One-time codes and recovery codes: what they admit, and every way around them.

use std::sync::Arc;
use std::time::Duration;

use data_encoding::BASE32_NOPAD;
use http::StatusCode;
use tokio::task::JoinSet;

use doorward::admin::ReloadMode;
use doorward::clock::Clock;
use doorward::identity::users_file_editor::UsersFileEditor;
use doorward::identity::{Cost, Credential};
use doorward::session::TotpSecret;
use test_support::browser::{Browser, Response};
use test_support::gateway::{Gateway, PASSWORD, Setup, manual_clock};
use test_support::redis_server::{RedisOptions, RedisServer};
use test_support::upstream::Upstream;

const PAGE: &str = "/.doorward/second-factors";
const STEP: Duration = Duration::from_secs(30);
const MINUTE: Duration = Duration::from_secs(60);

/// A gateway with this policy. `/` needs a session, `/vault` two factors, and `/api` accepts tokens.
struct FactorTest {
    _upstream: Upstream,
    gateway: Gateway,
}

fn routes(upstream: &Upstream) -> String {
    let route = |path: &str, keys: &str| {
        format!(
            "[[route]]\nhost = \"app.test\"\npath = \"{path}\"\nupstream = \"http://{}\"\n{keys}\n",
            upstream.address
        )
    };
    route("/", "access = \"session\"\ntokens = true")
        + &route("/vault", "access = { factors = 2 }\ntokens = true")
}

async fn with_policy(policy: &str) -> FactorTest {
    let upstream = Upstream::start().await;
    let extra = format!("[login]\n{policy}");
    let clock = manual_clock();
    let setup = Setup { routes: routes(&upstream), clock, extra, ..Setup::default() };
    FactorTest { gateway: Gateway::start(setup), _upstream: upstream }
}

async fn optional() -> FactorTest {
    with_policy("second_factor = \"optional\"").await
}

/// The authenticator app of a test, and its recovery codes.
#[derive(Clone)]
struct App {
    secret: TotpSecret,
    recovery: Vec<String>,
}

impl App {
    /// The code at the time of a gateway.
    fn code(&self, clock: &Clock) -> String {
        self.secret.code(clock.now().seconds() / 30)
    }
}

/// Returns the texts of all `<code>` elements of a page.
fn codes(page: &str) -> Vec<String> {
    let parts = page.split("<code>").skip(1);
    parts.map(|part| part.split("</code>").next().unwrap_or_default().to_owned()).collect()
}

fn secret_of(page: &Response) -> TotpSecret {
    let text = page.text();
    let secret = codes(&text).pop().expect("a secret").replace('-', "");
    let bytes = BASE32_NOPAD.decode(secret.as_bytes()).expect("Base32");
    postcard::from_bytes(&bytes).expect("20 bytes")
}

/// Submits the form for a new app, with the code of the secret unless another is given.
async fn add_app(
    browser: &mut Browser,
    gateway: &Gateway,
    page: &Response,
    code: &str,
) -> Response {
    let (csrf, setup, to) =
        (page.form_field("csrf"), page.form_field("setup"), page.form_field("to"));
    let right = secret_of(page).code(gateway.clock.now().seconds() / 30);
    let code = if code.is_empty() { right.as_str() } else { code };
    let fields = [
        ("csrf", csrf.as_str()),
        ("to", &to),
        ("setup", &setup),
        ("name", "phone"),
        ("code", code),
        ("do", "add"),
    ];
    browser.post_form(PAGE, &fields).await
}

/// Sets up an app in a browser that is logged in. Its first code is used, so the clock moves on.
async fn set_up(browser: &mut Browser, gateway: &Gateway) -> App {
    let page = browser.navigate(PAGE).await;
    assert_eq!(page.status, StatusCode::OK, "{}", page.text());
    let secret = secret_of(&page);
    let added = add_app(browser, gateway, &page, "").await;
    assert_eq!(added.status, StatusCode::OK, "{}", added.text());
    let recovery = codes(&added.text());
    assert_eq!(recovery.len(), 10, "{}", added.text());
    gateway.advance(STEP);
    App { secret, recovery }
}

/// Logs alice in and sets up her app.
async fn alice_with_app(test: &FactorTest) -> (Browser, App) {
    let mut alice = Browser::new(&test.gateway);
    alice.log_in("alice").await;
    let app = set_up(&mut alice, &test.gateway).await;
    (alice, app)
}

/// Sends the password and returns the page that asks for the code.
async fn first_step(browser: &mut Browser, target: &str) -> Response {
    let page = browser.try_log_in("alice", PASSWORD, target).await;
    assert_eq!(page.status, StatusCode::OK, "{}", page.text());
    assert!(page.text().contains("Second step") && browser.token().is_empty());
    page
}

async fn send_code(browser: &mut Browser, page: &Response, name: &str, code: &str) -> Response {
    let (login, to) = (page.form_field("csrf"), page.form_field("to"));
    browser.post_form("/.doorward/login/code", &[("csrf", &login), ("to", &to), (name, code)]).await
}

#[tokio::test]
async fn a_login_needs_the_password_and_a_code() {
    let test = optional().await;
    let (_, app) = alice_with_app(&test).await;
    for h2 in [false, true] {
        let mut browser = Browser::new(&test.gateway);
        browser.h2 = h2;
        let page = first_step(&mut browser, "/wiki?a=1").await;
        assert_eq!(browser.fetch("/").await.status, StatusCode::UNAUTHORIZED, "no session yet");
        let answer = send_code(&mut browser, &page, "code", &app.code(&test.gateway.clock)).await;
        assert_eq!(answer.status, StatusCode::SEE_OTHER, "{}", answer.text());
        let sessions = browser.navigate(answer.header("location")).await.text();
        assert!(sessions.contains("Your second factor was changed"), "{sessions}");
        assert!(sessions.contains("href=\"/wiki?a=1\""), "{sessions}");
        assert_eq!(browser.fetch("/vault").await.status, StatusCode::OK, "two factors");
        test.gateway.advance(STEP);
    }
    let mut bob = Browser::new(&test.gateway);
    bob.log_in("bob").await;
    assert_eq!(bob.fetch("/").await.status, StatusCode::OK, "without a second factor");
}

#[tokio::test]
async fn a_wrong_password_never_leads_to_the_second_step() {
    let test = optional().await;
    alice_with_app(&test).await;
    for user in ["alice", "bob", "nobody"] {
        let mut browser = Browser::new(&test.gateway);
        let answer = browser.try_log_in(user, "wrong", "/").await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
        assert!(!answer.text().contains("Second step"), "{user}");
    }
    let mut script = Browser::new(&test.gateway);
    let form = script.navigate("/.doorward/login").await;
    let body = form_urlencoded::Serializer::new(String::new())
        .extend_pairs([
            ("username", "alice"),
            ("password", PASSWORD),
            ("csrf", &form.form_field("csrf")),
        ])
        .finish();
    let answer =
        script.send("POST", "/.doorward/login", &[("accept", "application/json")], &body).await;
    assert_eq!(
        (answer.status.as_u16(), answer.json()["reason"].as_str()),
        (401, Some("second-factor"))
    );
    assert!(script.token().is_empty());
}

#[tokio::test]
async fn five_wrong_codes_delay_every_further_one() {
    let test = optional().await;
    let (_, app) = alice_with_app(&test).await;
    let mut browser = Browser::new(&test.gateway);
    let page = first_step(&mut browser, "/").await;
    for number in 0..5 {
        let answer = send_code(&mut browser, &page, "code", "000000").await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{number}");
        assert!(browser.token().is_empty() && answer.text().contains("role=\"alert\""));
    }
    let mut other = Browser::new(&test.gateway);
    let second = first_step(&mut other, "/").await;
    for (name, code) in
        [("code", app.code(&test.gateway.clock)), ("recovery", app.recovery[0].clone())]
    {
        let answer = send_code(&mut other, &second, name, &code).await;
        assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS, "a right {name} too");
        assert_eq!(answer.header("retry-after"), "180");
    }
    test.gateway.advance(3 * MINUTE);
    let answer = send_code(&mut other, &second, "code", &app.code(&test.gateway.clock)).await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER, "three minutes later");
    let log = test.gateway.metrics().await;
    assert!(log.contains("second-factor.failed"), "{log}");
}

#[tokio::test]
async fn of_parallel_wrong_codes_five_are_checked() {
    let test = optional().await;
    alice_with_app(&test).await;
    let mut browser = Browser::new(&test.gateway);
    let page = Arc::new(first_step(&mut browser, "/").await);
    let mut all = JoinSet::new();
    for number in 0..20 {
        let (mut tab, page) = (browser.clone(), Arc::clone(&page));
        all.spawn(async move { send_code(&mut tab, &page, "code", &format!("{number:06}")).await });
    }
    let statuses: Vec<_> = all.join_all().await.iter().map(|answer| answer.status).collect();
    let checked = statuses.iter().filter(|status| **status == StatusCode::UNAUTHORIZED).count();
    assert_eq!(checked, 5, "{statuses:?}");
}

/// Sends the same code in parallel to all gateways and returns the number of sessions.
async fn sessions_of(
    gateways: &[&Gateway],
    (name, code): (&'static str, &str),
    count: usize,
) -> usize {
    let mut all = JoinSet::new();
    for number in 0..count {
        let mut browser = Browser::new(gateways[number % gateways.len()]);
        let page = first_step(&mut browser, "/").await;
        let code = code.to_owned();
        all.spawn(async move {
            send_code(&mut browser, &page, name, &code).await;
            browser.token()
        });
    }
    all.join_all().await.iter().filter(|token| !token.is_empty()).count()
}

#[tokio::test]
async fn a_code_admits_one_session_at_all_gateways() {
    let (upstream, redis) = (Upstream::start().await, RedisServer::start(RedisOptions::default()));
    let setup = |clock, shared_directory| Setup {
        routes: routes(&upstream),
        store: redis.settings().url,
        extra: "[login]\nsecond_factor = \"optional\"".to_owned(),
        clock,
        shared_directory,
        ..Setup::default()
    };
    let first = Gateway::start(setup(manual_clock(), None));
    let directory = Some(Arc::clone(&first.directory));
    let second = Gateway::start(setup(first.clock.clone(), directory));
    let mut alice = Browser::new(&first);
    alice.log_in("alice").await;
    let app = set_up(&mut alice, &first).await;
    let both = [&first, &second];
    let code = app.code(&first.clock);
    assert_eq!(sessions_of(&both, ("code", &code), 4).await, 1);
    assert_eq!(sessions_of(&both, ("recovery", &app.recovery[3]), 2).await, 1);
    assert_eq!(sessions_of(&both, ("code", &code), 1).await, 0, "replayed within its time");
    assert_eq!(sessions_of(&both, ("recovery", &app.recovery[3]), 1).await, 0);
}

#[tokio::test]
async fn the_first_step_is_bound_to_its_browser_and_time() {
    let test = optional().await;
    let (_, app) = alice_with_app(&test).await;
    let mut victim = Browser::new(&test.gateway);
    let page = first_step(&mut victim, "/").await;
    let mut attacker = Browser::new(&test.gateway);
    attacker.navigate("/.doorward/login").await;
    let leads_to_login = |answer: &Response| {
        answer.status == StatusCode::SEE_OTHER
            && answer.header("location").starts_with("/.doorward/login?")
    };
    let answer = send_code(&mut attacker, &page, "code", &app.code(&test.gateway.clock)).await;
    assert!(leads_to_login(&answer) && attacker.token().is_empty());
    let forged = [("csrf", "AAAA"), ("code", "000000")];
    assert!(leads_to_login(&victim.post_form("/.doorward/login/code", &forged).await));
    test.gateway.advance(10 * MINUTE);
    let answer = send_code(&mut victim, &page, "code", &app.code(&test.gateway.clock)).await;
    assert!(leads_to_login(&answer) && victim.token().is_empty(), "after ten minutes");
}

#[tokio::test]
async fn a_changed_account_ends_the_first_step() {
    let test = optional().await;
    let (_, app) = alice_with_app(&test).await;
    let mut browser = Browser::new(&test.gateway);
    let page = first_step(&mut browser, "/").await;
    let directory = test.gateway.shared().login_methods.password().expect("configured").directory();
    let before = directory.find("alice").expect("an account").credential_digest;
    let mut users = UsersFileEditor::open(&test.gateway.path("users.toml")).expect("a users file");
    let new = Credential::hash("another long password", Cost::Argon2id { m: 256, t: 1, p: 1 });
    users.set_password("alice", &new.expect("a hash")).expect("alice");
    users.save().expect("saved");
    let changed = directory.wait_until(|users| {
        users.find("alice").is_some_and(|account| account.credential_digest != before)
    });
    tokio::time::timeout(Duration::from_secs(10), changed).await.expect("reloaded");
    let answer = send_code(&mut browser, &page, "code", &app.code(&test.gateway.clock)).await;
    assert!(
        answer.header("location").starts_with("/.doorward/login") && browser.token().is_empty()
    );
}

#[tokio::test]
async fn a_form_of_another_site_changes_nothing() {
    let test = optional().await;
    let mut alice = Browser::new(&test.gateway);
    alice.log_in("alice").await;
    let page = alice.navigate(PAGE).await;
    let fields =
        [("setup", page.form_field("setup")), ("csrf", "x".to_owned()), ("do", "add".to_owned())];
    let fields = fields.each_ref().map(|(name, value)| (*name, value.as_str()));
    assert_eq!(alice.post_form(PAGE, &fields).await.status, StatusCode::FORBIDDEN);
    let wrong = add_app(&mut alice, &test.gateway, &page, "000000").await;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST);
    assert_eq!(secret_of(&wrong).text(), secret_of(&page).text(), "the same secret again");
    assert!(alice.navigate(PAGE).await.text().contains("You have no second factor"));
}

#[tokio::test]
async fn an_old_login_sets_up_no_app() {
    let test = optional().await;
    let mut alice = Browser::new(&test.gateway);
    alice.log_in("alice").await;
    let page = alice.navigate(PAGE).await;
    test.gateway.advance(15 * MINUTE);
    let answer = add_app(&mut alice, &test.gateway, &page, "").await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER);
    assert!(answer.header("location").starts_with("/.doorward/login"));
    let mut other = Browser::new(&test.gateway);
    other.log_in("alice").await;
    let answer = add_app(&mut other, &test.gateway, &page, "").await;
    assert_ne!(answer.status, StatusCode::OK, "a secret belongs to its session");
    assert!(other.navigate(PAGE).await.text().contains("You have no second factor"));
}

#[tokio::test]
async fn a_session_of_the_password_alone_changes_no_factor() {
    let test = optional().await;
    let mut attacker = Browser::new(&test.gateway);
    attacker.log_in("alice").await;
    let before = attacker.navigate(PAGE).await;
    let (_, app) = alice_with_app(&test).await;
    let answer = add_app(&mut attacker, &test.gateway, &before, "").await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER, "{}", answer.text());
    let csrf = before.form_field("csrf");
    for action in ["codes", "remove", "start"] {
        let answer = attacker.post_form(PAGE, &[("csrf", &csrf), ("do", action)]).await;
        assert!(answer.header("location").starts_with("/.doorward/login"), "{action}");
    }
    let mut alice = Browser::new(&test.gateway);
    let page = first_step(&mut alice, "/").await;
    let answer = send_code(&mut alice, &page, "code", &app.code(&test.gateway.clock)).await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn an_app_is_removed_and_recovery_codes_are_replaced() {
    let test = optional().await;
    let (mut alice, app) = alice_with_app(&test).await;
    let page = alice.navigate(PAGE).await;
    let (csrf, handle) = (page.form_field("csrf"), page.form_field("factor"));
    let replaced = alice.post_form(PAGE, &[("csrf", &csrf), ("do", "codes")]).await;
    assert_eq!(codes(&replaced.text()).len(), 10);
    let mut browser = Browser::new(&test.gateway);
    let step = first_step(&mut browser, "/").await;
    let answer = send_code(&mut browser, &step, "recovery", &app.recovery[0]).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "an old code");
    let removed =
        alice.post_form(PAGE, &[("csrf", &csrf), ("factor", &handle), ("do", "remove")]).await;
    assert!(removed.text().contains("You have no second factor"), "{}", removed.text());
    Browser::new(&test.gateway).log_in("alice").await;
}

#[tokio::test]
async fn a_required_factor_is_set_up_before_the_first_page() {
    let test = with_policy("second_factor = \"required\"").await;
    let mut alice = Browser::new(&test.gateway);
    alice.log_in_at("alice", "/wiki").await;
    let script = alice.fetch("/api").await;
    assert_eq!(
        (script.status.as_u16(), script.json()["error"].as_str()),
        (401, Some("second-factor"))
    );
    let answer = alice.navigate("/wiki").await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER);
    let location = answer.header("location").to_owned();
    assert!(location.starts_with(&format!("{PAGE}?to=")), "{location}");
    let page = alice.navigate(&location).await;
    let before = alice.token();
    let added = add_app(&mut alice, &test.gateway, &page, "").await;
    assert!(added.text().contains("href=\"/wiki\">Continue"), "{}", added.text());
    assert_eq!(alice.navigate("/wiki").await.status, StatusCode::OK);
    test.gateway.advance(2 * MINUTE);
    assert_eq!(alice.navigate("/wiki").await.status, StatusCode::OK);
    assert_ne!(alice.token(), before, "the token is rotated before its time");
    assert_eq!(alice.navigate(&location).await.header("location"), "/wiki", "nothing left to do");
    let page = alice.navigate(PAGE).await;
    let fields = [("csrf", page.form_field("csrf")), ("factor", page.form_field("factor"))];
    let fields = fields.each_ref().map(|(name, value)| (*name, value.as_str()));
    let refused = alice.post_form(PAGE, &[fields[0], fields[1], ("do", "remove")]).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST, "the last one");
}

#[tokio::test]
async fn a_required_factor_can_be_limited_to_groups() {
    let test =
        with_policy("second_factor = \"required\"\nsecond_factor_groups = [\"staff\"]").await;
    let [mut alice, mut bob] = [Browser::new(&test.gateway), Browser::new(&test.gateway)];
    alice.log_in("alice").await;
    bob.log_in("bob").await;
    assert_eq!(alice.fetch("/").await.status, StatusCode::UNAUTHORIZED, "staff");
    assert_eq!(bob.fetch("/").await.status, StatusCode::OK, "a guest");
    let (bob_app, page) = (set_up(&mut bob, &test.gateway).await, bob.navigate(PAGE).await);
    assert_eq!(bob_app.recovery.len(), 10);
    let (csrf, handle) = (page.form_field("csrf"), page.form_field("factor"));
    let removed =
        bob.post_form(PAGE, &[("csrf", &csrf), ("factor", &handle), ("do", "remove")]).await;
    assert_eq!(removed.status, StatusCode::OK, "a guest may do without");
}

#[tokio::test]
async fn a_route_with_two_factors_admits_no_session_with_one() {
    let test = optional().await;
    let mut alice = Browser::new(&test.gateway);
    alice.log_in("alice").await;
    assert_eq!(alice.fetch("/").await.status, StatusCode::OK);
    assert_eq!(alice.fetch("/vault").await.status, StatusCode::UNAUTHORIZED);
    let answer = alice.navigate("/vault/x").await;
    assert!(answer.header("location").starts_with(PAGE));
    let websocket = [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    assert_eq!(alice.send("GET", "/vault", &websocket, "").await.status, StatusCode::UNAUTHORIZED);
    set_up(&mut alice, &test.gateway).await;
    assert_eq!(alice.fetch("/vault").await.status, StatusCode::OK);
}

/// A session from before the second factor was set up elsewhere logs in again, and comes back.
#[tokio::test]
async fn step_up_leads_through_the_login_to_the_page() {
    let test = optional().await;
    let mut old = Browser::new(&test.gateway);
    old.log_in("alice").await;
    let (_, app) = alice_with_app(&test).await;
    let factors = old.navigate("/vault/x").await.header("location").to_owned();
    let login = old.navigate(&factors).await.header("location").to_owned();
    assert!(login.starts_with("/.doorward/login?to="), "{login}");
    let form = old.navigate(&login).await;
    let (csrf, to) = (form.form_field("csrf"), form.form_field("to"));
    let fields = [("username", "alice"), ("password", PASSWORD), ("csrf", &csrf), ("to", &to)];
    let step = old.post_form("/.doorward/login", &fields).await;
    let answer = send_code(&mut old, &step, "code", &app.code(&test.gateway.clock)).await;
    let sessions = old.navigate(answer.header("location")).await.text();
    let at = sessions.find(&format!("href=\"{PAGE}?to=")).expect("a link back");
    let link = sessions[at + 6..].split('"').next().expect("closed").to_owned();
    let back = old.navigate(&link).await;
    assert_eq!(back.header("location"), "/vault/x", "{}", answer.header("location"));
    assert_eq!(old.navigate("/vault/x").await.status, StatusCode::OK);
}

#[tokio::test]
async fn an_access_token_replaces_no_second_factor() {
    let test = with_policy("second_factor = \"required\"").await;
    let mut alice = Browser::new(&test.gateway);
    alice.log_in("alice").await;
    let answer = alice.navigate("/.doorward/tokens").await;
    assert!(answer.header("location").starts_with(PAGE), "{}", answer.text());
    let created = test.gateway.admin_post("/tokens?user=alice&name=git&days=30").await;
    let token = created.split('"').nth(3).expect("a token").to_owned();
    let bearer = format!("Bearer {token}");
    let send = async |path: &str| {
        let headers = [("authorization", bearer.as_str())];
        Browser::new(&test.gateway).send("GET", path, &headers, "").await
    };
    assert_eq!(send("/").await.status, StatusCode::OK, "{created}");
    let refused = send("/vault").await;
    assert_eq!(
        (refused.status.as_u16(), refused.json()["reason"].as_str()),
        (403, Some("token-needs-session"))
    );
}

#[tokio::test]
async fn an_operator_resets_the_factors_of_a_user() {
    let test = optional().await;
    let (mut alice, _) = alice_with_app(&test).await;
    let answer = test.gateway.admin_post("/reset-factors?user=ALICE").await;
    assert!(answer.contains("\"reset\":\"alice\""), "{answer}");
    Browser::new(&test.gateway).log_in("alice").await;
    assert!(alice.navigate(PAGE).await.text().contains("You have no second factor"));
    let metrics = test.gateway.metrics().await;
    assert!(metrics.contains("second-factor.changed"), "{metrics}");
}

#[tokio::test]
async fn a_policy_that_becomes_stricter_applies_to_live_sessions() {
    let test = optional().await;
    let mut alice = Browser::new(&test.gateway);
    alice.log_in("alice").await;
    assert_eq!(alice.fetch("/").await.status, StatusCode::OK);
    let text = test.gateway.config_text().replace("\"optional\"", "\"required\"");
    test.gateway.set_config_text(&text);
    let report = test.gateway.reload(ReloadMode::Apply);
    assert!(report.is_ok(), "{report:?}");
    assert_eq!(alice.fetch("/").await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(alice.navigate("/.doorward/sessions").await.status, StatusCode::OK);
}
