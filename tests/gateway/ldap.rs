//! Logins at an LDAP directory, through the whole gateway.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use http::StatusCode;

use test_support::browser::{Browser, Response};
use test_support::gateway::{Gateway, PASSWORD, Setup, manual_clock, session_route};
use test_support::ldap_server::{LdapAnswer, LdapEntry, LdapServer};
use test_support::upstream::Upstream;

const MINUTE: Duration = Duration::from_secs(60);
const TARGET: &str = "/wiki";

struct LdapTest {
    server: LdapServer,
    upstream: Upstream,
    gateway: Gateway,
}

/// Anna of the group `staff`. The users file has alice, bob and zoë.
fn anna() -> LdapEntry {
    LdapEntry::user("anna", &["staff"])
}

impl LdapTest {
    async fn new() -> LdapTest {
        LdapTest::with("", vec![anna()]).await
    }

    async fn with(keys: &str, entries: Vec<LdapEntry>) -> LdapTest {
        let (server, upstream) = (LdapServer::start(entries).await, Upstream::start().await);
        let routes = session_route(upstream.address)
            + &format!(
                "[[route]]\nhost = \"app.test\"\npath = \"/only\"\nupstream = \"http://{}\"\naccess = {{ logins = [\"staff\"] }}\n",
                upstream.address
            );
        let extra = server.configuration(keys);
        let gateway =
            Gateway::start(Setup { routes, extra, clock: manual_clock(), ..Setup::default() });
        LdapTest { server, upstream, gateway }
    }

    fn browser(&self) -> Browser {
        Browser::new(&self.gateway)
    }

    /// Logs anna in with her password.
    async fn anna(&self) -> Browser {
        let mut browser = self.browser();
        let done = browser.try_log_in("anna", "anna's password", TARGET).await;
        assert_eq!(done.status, StatusCode::SEE_OTHER, "{}", done.text());
        browser
    }

    async fn attempt(&self, name: &str, password: &str) -> Response {
        self.browser().try_log_in(name, password, TARGET).await
    }
}

#[tokio::test]
async fn login_at_a_directory_leads_to_the_page() {
    let test = LdapTest::new().await;
    for h2 in [false, true] {
        let mut browser = Browser { h2, ..test.browser() };
        let done = browser.try_log_in(" Anna ", "anna's password", TARGET).await;
        assert_eq!((done.status, done.header("location")), (StatusCode::SEE_OTHER, TARGET));
        assert_eq!(browser.fetch("/only").await.status, StatusCode::OK);
        let head = test.upstream.last_head().to_ascii_lowercase();
        for line in [
            "x-forwarded-user: anna",
            "x-forwarded-email: anna@ldap.test",
            "x-forwarded-groups: staff",
        ] {
            assert!(head.contains(line), "{line} in {head}");
        }
    }
    let metrics = test.gateway.metrics().await;
    let line = "doorward_ldap_logins_total{provider=\"staff\",result=\"success\"} 2";
    assert!(metrics.contains(line), "{metrics}");
}

#[tokio::test]
async fn name_of_the_users_file_never_reaches_a_directory() {
    let test = LdapTest::with("", vec![LdapEntry::user("alice", &["admins"])]).await;
    let refused = test.attempt("ALICE", "alice's password").await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    let admitted = test.attempt("alice", PASSWORD).await;
    assert_eq!(admitted.status, StatusCode::SEE_OTHER);
    assert!(test.server.take_requests().is_empty());
}

#[tokio::test]
async fn directory_cannot_yield_a_user_of_the_users_file() {
    let keys = "user_filter = \"(|(uid={user})(mail={user}))\"";
    let test = LdapTest::with(keys, vec![LdapEntry::user("alice", &["admins"]), anna()]).await;
    let refused = test.attempt("alice@ldap.test", "alice's password").await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN, "{}", refused.text());
    let admitted = test.attempt("anna@ldap.test", "anna's password").await;
    assert_eq!(admitted.status, StatusCode::SEE_OTHER, "{}", admitted.text());
}

#[tokio::test]
async fn refusals_do_not_show_which_names_exist() {
    let test = LdapTest::new().await;
    let began = Instant::now();
    let attempts = [("anna", "wrong"), ("unknown", "wrong"), ("alice", "wrong"), ("anna", "")];
    let test = &test;
    let refusals = join_all(attempts.map(|(name, password)| async move {
        (test.attempt(name, password).await, began.elapsed())
    }));
    for (refused, time) in refusals.await {
        assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
        assert!(refused.text().contains("The user name or password is wrong."));
        assert!(time >= Duration::from_secs(1), "{time:?}");
    }
}

#[tokio::test]
async fn directory_that_is_down_affects_new_logins_only() {
    let test = LdapTest::with("recheck = \"5m\"", vec![anna()]).await;
    let mut browser = test.anna().await;
    test.server.set_down(true);
    let refused = test.attempt("anna", "anna's password").await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE, "{}", refused.text());
    assert_eq!(refused.header("retry-after"), "30");
    assert!(refused.text().contains("the user directory does not respond"));
    assert_eq!(test.attempt("alice", PASSWORD).await.status, StatusCode::SEE_OTHER);
    test.gateway.advance(11 * MINUTE);
    assert_eq!(browser.fetch("/").await.status, StatusCode::OK, "the recheck has no answer");
    test.server.set_down(false);
    test.anna().await;
}

#[tokio::test]
async fn start_and_reload_need_no_directory() {
    let upstream = Upstream::start().await;
    let server = LdapServer::start(vec![]).await;
    let extra = server.configuration("");
    server.set_down(true);
    let routes = session_route(upstream.address);
    let gateway = Gateway::start(Setup { routes, extra, ..Setup::default() });
    let report = gateway.reload(doorward::admin::ReloadMode::Apply);
    assert!(report.is_ok(), "{report:?}");
    assert_eq!(Browser::new(&gateway).log_in("alice").await.status, StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn recheck_of_a_directory_updates_the_groups() {
    let test = LdapTest::with("recheck = \"5m\"", vec![anna()]).await;
    let mut browser = test.anna().await;
    test.server.set_entries(vec![LdapEntry::user("anna", &["guests"])]);
    browser.fetch("/").await;
    assert!(test.upstream.last_head().to_ascii_lowercase().contains("x-forwarded-groups: staff"));
    // After twice the interval the request waits.
    test.gateway.advance(11 * MINUTE);
    browser.fetch("/").await;
    let head = test.upstream.last_head().to_ascii_lowercase();
    assert!(head.contains("x-forwarded-groups: guests"), "{head}");
}

#[tokio::test]
async fn account_that_the_directory_refuses_loses_its_session() {
    let other_entry = |entry: LdapEntry| {
        let mut entry = entry;
        entry.attributes.retain(|(name, _)| *name != "entryUUID");
        entry.with("entryUUID", "another")
    };
    for (entries, reason) in [
        (vec![], "provider-ended"),
        (vec![anna().with("userAccountControl", "514")], "provider-ended"),
        (vec![anna().with("pwdAccountLockedTime", "000001010000Z")], "provider-ended"),
        (vec![LdapEntry::user("anna", &[])], "provider-ended"),
        (vec![other_entry(anna())], "provider-ended"),
        (vec![anna().with("pwdChangedTime", "20261201000000Z")], "credential-changed"),
    ] {
        let test =
            LdapTest::with("allow_groups = [\"staff\"]\nrecheck = \"5m\"", vec![anna()]).await;
        let mut browser = test.anna().await;
        test.server.set_entries(entries.clone());
        test.gateway.advance(11 * MINUTE);
        let ended = browser.fetch("/").await;
        assert_eq!(ended.json()["reason"], reason, "{entries:?}");
    }
}

#[tokio::test]
async fn lock_after_wrong_passwords_ends_no_session() {
    let test = LdapTest::with("recheck = \"5m\"", vec![anna()]).await;
    let mut browser = test.anna().await;
    test.server.set_entries(vec![anna().with("pwdAccountLockedTime", "20261201000000Z")]);
    test.gateway.advance(11 * MINUTE);
    assert_eq!(browser.fetch("/").await.status, StatusCode::OK);
}

#[tokio::test]
async fn failures_at_a_directory_are_limited_before_the_bind() {
    let test = LdapTest::new().await;
    let attempts = join_all((0..10).map(|_| test.attempt("anna", "wrong"))).await;
    assert!(attempts.iter().all(|refused| refused.status == StatusCode::UNAUTHORIZED));
    test.server.take_requests();
    let limited = test.attempt("anna", "anna's password").await;
    assert_eq!(limited.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(test.server.take_requests().is_empty());
}

#[tokio::test]
async fn first_directory_with_the_name_decides() {
    let second = LdapServer::start(vec![anna(), LdapEntry::user("ben", &[])]).await;
    let more = second.configuration("").replace("ldap.staff", "ldap.more");
    let keys = format!("trust_user_names = true\n{more}");
    let first = LdapEntry { password: "of the first".to_owned(), ..anna() };
    let test = LdapTest::with(&keys, vec![first]).await;
    assert_eq!(test.attempt("anna", "anna's password").await.status, StatusCode::UNAUTHORIZED);
    assert!(second.take_requests().is_empty());
    assert_eq!(test.attempt("anna", "of the first").await.status, StatusCode::SEE_OTHER);
    assert_eq!(test.attempt("ben", "ben's password").await.status, StatusCode::SEE_OTHER);
    // Ben could be a user of the first directory.
    test.server.script(|_| LdapAnswer::Close);
    let unknown = test.attempt("ben", "ben's password").await;
    assert_eq!(unknown.status, StatusCode::SERVICE_UNAVAILABLE);
}
