//! The LDAP client against a directory in the test process that follows the rules, and one that lies.

#![allow(clippy::wildcard_enum_match_arm, reason = "not our enums, and they grow")]

use std::time::Duration;

use doorward::clock::{Clock, UnixMillis};
use doorward::config::Config;
use doorward::ldap::{LdapDirectory, LdapFailure, LdapRefusal, ServiceAccount};
use ldap3_proto::proto::{LdapBindCred, LdapOp, LdapResultCode as Code, LdapSearchResultReference};
use test_support::ldap_server::{
    LdapAnswer, LdapEntry, LdapRequest, LdapServer, SERVICE, bind_answer, extended_answer, result,
    search_entry,
};

const PASSWORD: &str = "alice's password";

fn alice() -> LdapEntry {
    LdapEntry::user("alice", &["staff"])
}

/// A client of servers at these addresses, with further keys.
fn client(configuration: &str) -> LdapDirectory {
    let rest = "[[tls.certificate]]\ncert = \"c\"\nkey = \"k\"\n[[route]]\nhost = \"a.test\"\nupstream = \"http://127.0.0.1:1\"\naccess = \"session\"\n";
    let text = format!("{configuration}\n{rest}");
    let config = Config::parse(&text, "test.toml", std::path::Path::new(""));
    let section = config.expect("a valid configuration").0.login.ldap.remove(0);
    let password = SERVICE.1.to_owned().into();
    let service = ServiceAccount { dn: SERVICE.0.to_owned(), password };
    let tls = doorward::tls::client_config(None).expect("the system's trust store");
    let clock = Clock::manual(UnixMillis(1_800_000_000_000));
    LdapDirectory::new(section, Some(service), tls, clock)
}

/// A directory with alice, and a client.
async fn alone(more: &str) -> (LdapServer, LdapDirectory) {
    let server = LdapServer::start(vec![alice()]).await;
    let client = client(&server.configuration(more));
    (server, client)
}

fn is_unavailable<T: std::fmt::Debug>(result: &Result<T, LdapFailure>) -> bool {
    matches!(result, Err(LdapFailure::Unavailable(_)))
}

fn refusal<T: std::fmt::Debug>(result: Result<T, LdapFailure>) -> LdapRefusal {
    match result {
        Err(LdapFailure::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

/// Returns name and password of a bind.
fn bind(request: &LdapRequest) -> Option<(&str, &str)> {
    match &request.op {
        LdapOp::BindRequest(bind) => match &bind.cred {
            LdapBindCred::Simple(password) => Some((&bind.dn, password)),
            _ => None,
        },
        _ => None,
    }
}

fn is_user_bind(request: &LdapRequest) -> bool {
    bind(request).is_some_and(|(dn, _)| dn != SERVICE.0)
}

fn is_search(request: &LdapRequest) -> bool {
    matches!(request.op, LdapOp::SearchRequest(_))
}

#[tokio::test]
async fn account_has_the_attributes_of_its_entry() {
    let (server, client) = alone("").await;
    let account = client.log_in("alice", PASSWORD).await.expect("a login");
    assert_eq!((account.id.as_str(), account.user.as_str()), ("uuid-of-alice", "alice"));
    assert_eq!(account.name.as_deref(), Some("alice of the directory"));
    assert_eq!(account.email.as_deref(), Some("alice@ldap.test"));
    assert_eq!(account.groups, ["staff"]);
    let binds: Vec<_> = server.take_requests();
    let [service, search, user] = binds.as_slice() else { panic!("{binds:?}") };
    assert_eq!(bind(service), Some(SERVICE));
    assert_eq!(service.connection, search.connection);
    assert_eq!(bind(user), Some(("uid=alice,ou=people,dc=test", PASSWORD)));
    assert_ne!(service.connection, user.connection, "a connection of its own");
}

#[tokio::test]
async fn password_that_may_be_anonymous_is_never_sent() {
    let (server, client) = alone("").await;
    for password in ["", "\u{ad}", "\0", "\u{200b}\u{2060}", "\0\u{ad}"] {
        let refused = refusal(client.log_in("alice", password).await);
        assert!(matches!(refused, LdapRefusal::Password(_)), "{password:?}: {refused:?}");
    }
    assert!(server.take_requests().is_empty());
}

#[tokio::test]
async fn special_characters_of_a_name_select_no_other_entry() {
    let (server, client) = alone("").await;
    for name in ["*", "a*", "alice)(uid=*", "*)(|(uid=*", "alice\\", "\\61lice", ""] {
        let refused = refusal(client.log_in(name, PASSWORD).await);
        assert_eq!(refused, LdapRefusal::Unknown, "{name:?}");
    }
    assert!(!server.take_requests().iter().any(is_user_bind));
    for name in ["a\0lice", "alice\n", &"x".repeat(257)] {
        assert_eq!(refusal(client.log_in(name, PASSWORD).await), LdapRefusal::Unknown);
    }
    assert!(server.take_requests().is_empty(), "no entry has such a name");
}

#[tokio::test]
async fn only_one_entry_is_an_account() {
    let (server, client) = alone("").await;
    let other = LdapEntry { dn: "uid=alice,ou=more,ou=people,dc=test".to_owned(), ..alice() };
    server.set_entries(vec![alice(), other.clone()]);
    assert_eq!(refusal(client.log_in("alice", PASSWORD).await), LdapRefusal::Several);
    // One entry, and the word of the server that there are more.
    server.script(move |request| match is_search(request) {
        true => LdapAnswer::Ops(vec![
            search_entry(&other),
            LdapOp::SearchResultDone(result(Code::SizeLimitExceeded)),
        ]),
        false => LdapAnswer::Normal,
    });
    assert_eq!(refusal(client.log_in("alice", PASSWORD).await), LdapRefusal::Several);
    server.script(|_| LdapAnswer::Normal);
    server.set_entries(vec![LdapEntry { dn: String::new(), ..alice() }]);
    server.script(|request| match is_search(request) {
        true => LdapAnswer::Ops(vec![
            search_entry(&LdapEntry { dn: " ".to_owned(), ..alice() }),
            LdapOp::SearchResultDone(result(Code::Success)),
        ]),
        false => LdapAnswer::Normal,
    });
    let refused = refusal(client.log_in("alice", PASSWORD).await);
    assert!(matches!(refused, LdapRefusal::Entry(_)), "{refused:?}");
    assert!(!server.take_requests().iter().any(is_user_bind));
}

#[tokio::test]
async fn references_are_ignored_and_referrals_not_followed() {
    let (server, client) = alone("").await;
    let other = LdapServer::start(vec![alice()]).await;
    let reference = LdapSearchResultReference { uris: vec![format!("ldap://{}/", other.address)] };
    let reference = LdapOp::SearchResultReference(reference);
    let (first, done) = (reference.clone(), LdapOp::SearchResultDone(result(Code::Success)));
    server.script(move |request| match is_search(request) {
        true => LdapAnswer::Ops(vec![first.clone(), search_entry(&alice()), done.clone()]),
        false => LdapAnswer::Normal,
    });
    client.log_in("alice", PASSWORD).await.expect("beside a reference");
    for code in [Code::Referral, Code::Busy, Code::OperationsError, Code::TimeLimitExceeded] {
        server.script(move |request| match is_search(request) {
            true => LdapAnswer::Ops(vec![LdapOp::SearchResultDone(result(code.clone()))]),
            false => LdapAnswer::Normal,
        });
        assert!(is_unavailable(&client.log_in("alice", PASSWORD).await));
    }
    server.script(move |request| match is_search(request) {
        true => LdapAnswer::Ops(vec![reference.clone(); 65]),
        false => LdapAnswer::Normal,
    });
    assert!(is_unavailable(&client.log_in("alice", PASSWORD).await));
    assert!(other.take_requests().is_empty());
}

#[tokio::test]
async fn bind_results_are_separated_into_refusals_and_failures() {
    let (server, client) = alone("").await;
    for (code, is_refused) in [
        (Code::InvalidCredentials, true),
        (Code::ConstraintViolation, true),
        (Code::UnwillingToPerform, true),
        (Code::InappropriateAuthentication, true),
        (Code::Busy, false),
        (Code::Unavailable, false),
        (Code::Other, false),
        (Code::SaslBindInProgress, false),
        (Code::Referral, false),
        (Code::ConfidentialityRequired, false),
    ] {
        let scripted = code.clone();
        server.script(move |request| match is_user_bind(request) {
            true => LdapAnswer::Ops(vec![bind_answer(scripted.clone())]),
            false => LdapAnswer::Normal,
        });
        let login = client.log_in("alice", PASSWORD).await;
        assert_eq!(!is_unavailable(&login), is_refused, "{code:?}: {login:?}");
        assert!(login.is_err());
    }
    // A wrong password of the service account is a failure, not an unknown user.
    server.script(|request| match is_user_bind(request) {
        true => LdapAnswer::Normal,
        false => LdapAnswer::Ops(vec![bind_answer(Code::InvalidCredentials)]),
    });
    assert!(is_unavailable(&client.log_in("alice", PASSWORD).await));
}

/// Each answer comes instead of every answer, then only instead of the answer to the user's bind.
#[tokio::test]
async fn malformed_and_foreign_answers_admit_no_user() {
    let (server, client) = alone("timeout = \"300ms\"").await;
    let deep = [0x30_u8, 0x80].repeat(2_000);
    let nested: Vec<u8> = (0..120_u8).rev().flat_map(|depth| [0x30, depth]).collect();
    let success = bind_answer(Code::Success);
    let answers = [
        LdapAnswer::WithId(0, success.clone()),
        LdapAnswer::WithId(77, success),
        LdapAnswer::Ops(vec![extended_answer(Code::Success)]),
        LdapAnswer::Ops(vec![LdapOp::SearchResultDone(result(Code::Busy))]),
        LdapAnswer::Bytes(b"HTTP/1.1 200 OK\r\n\r\n".to_vec()),
        LdapAnswer::Bytes(vec![0xff; 64]),
        LdapAnswer::Bytes(deep),
        LdapAnswer::Bytes(nested),
        LdapAnswer::Bytes(vec![0x30, 0x00]),
        LdapAnswer::Bytes(vec![0x30, 0x05, 0x02, 0x01, 0x01, 0x61, 0x00]),
        // A message of 2 GiB, of which the beginning is sent.
        LdapAnswer::Bytes([vec![0x30, 0x84, 0x7f, 0xff, 0xff, 0xff], vec![0; 1 << 20]].concat()),
        LdapAnswer::Silence,
        LdapAnswer::Close,
    ];
    for answer in answers {
        for only_user in [false, true] {
            let scripted = answer.clone();
            server.script(move |request| match only_user && !is_user_bind(request) {
                true => LdapAnswer::Normal,
                false => scripted.clone(),
            });
            let login = client.log_in("alice", PASSWORD).await;
            assert!(is_unavailable(&login), "{only_user} {login:?}");
        }
    }
}

#[tokio::test]
async fn without_starttls_no_password_is_sent() {
    let server = LdapServer::start(vec![alice()]).await;
    let keys = server.configuration("timeout = \"500ms\"").replace("starttls = false\n", "");
    let client = client(&keys);
    let success = extended_answer(Code::Success);
    for answer in [
        LdapAnswer::Normal,
        LdapAnswer::Ops(vec![extended_answer(Code::ProtocolError)]),
        LdapAnswer::WithId(9, success.clone()),
        LdapAnswer::Ops(vec![bind_answer(Code::Success)]),
        // Answers in plain text after the one to StartTLS: they must not count.
        LdapAnswer::Ops(vec![success.clone(), bind_answer(Code::Success)]),
        LdapAnswer::Ops(vec![success]),
    ] {
        server.script(move |_| answer.clone());
        assert!(is_unavailable(&client.log_in("alice", PASSWORD).await));
    }
    assert!(server.take_requests().iter().all(|request| bind(request).is_none()));
}

#[tokio::test]
async fn groups_of_a_search_replace_those_of_the_entry() {
    let (server, client) = alone(
        "group_filter = \"(&(objectClass=group)(member={dn}))\"\nallow_groups = [\"nested\"]",
    )
    .await;
    let group = |name: &str, member: &str| LdapEntry {
        dn: format!("cn={name},ou=groups,dc=test"),
        password: "unused".to_owned(),
        attributes: vec![
            ("objectClass", b"group".to_vec()),
            ("cn", name.as_bytes().to_vec()),
            ("member", member.as_bytes().to_vec()),
        ],
    };
    let dn = &alice().dn;
    server.set_entries(vec![alice(), group("nested", dn), group("other", "uid=bob,dc=test")]);
    let account = client.log_in("alice", PASSWORD).await.expect("a login");
    assert_eq!(account.groups, ["nested"]);
    server.set_entries(vec![alice(), group("other", dn)]);
    assert_eq!(refusal(client.log_in("alice", PASSWORD).await), LdapRefusal::NotAllowed);
    let wrong = client.log_in("alice", "wrong").await;
    assert!(matches!(refusal(wrong), LdapRefusal::Password(_)), "the password counts first");
}

#[tokio::test]
async fn accounts_that_the_entry_disables_are_refused_after_the_password() {
    let (server, client) = alone("").await;
    for (name, value) in [("userAccountControl", "514"), ("nsAccountLock", "TRUE")] {
        server.set_entries(vec![alice().with(name, value)]);
        let disabled = refusal(client.log_in("alice", PASSWORD).await);
        assert!(matches!(disabled, LdapRefusal::Disabled(_)), "{disabled:?}");
        let wrong = refusal(client.log_in("alice", "wrong").await);
        assert!(matches!(wrong, LdapRefusal::Password(_)), "{wrong:?}");
        let confirmed = refusal(client.confirm("alice").await);
        assert!(matches!(confirmed, LdapRefusal::Disabled(_)), "{confirmed:?}");
    }
}

#[tokio::test]
async fn next_server_answers_if_one_is_down() {
    let (first, second) =
        (LdapServer::start(vec![alice()]).await, LdapServer::start(vec![alice()]).await);
    let keys = first.configuration("");
    let one = format!("\"ldap://{}\"", first.address);
    let client = client(&keys.replace(&one, &format!("{one}, \"ldap://{}\"", second.address)));
    first.set_down(true);
    client.log_in("alice", PASSWORD).await.expect("at the second server");
    first.set_down(false);
    client.log_in("alice", PASSWORD).await.expect("at the server that answered last");
    assert!(first.take_requests().is_empty());
    second.set_down(true);
    client.log_in("alice", PASSWORD).await.expect("at the first server");
    first.set_down(true);
    assert!(is_unavailable(&client.log_in("alice", PASSWORD).await));
}

#[tokio::test]
async fn silent_server_costs_one_timeout() {
    let (server, client) = alone("timeout = \"200ms\"").await;
    server.script(|_| LdapAnswer::Silence);
    let login = tokio::time::timeout(Duration::from_secs(2), client.log_in("alice", PASSWORD));
    assert!(is_unavailable(&login.await.expect("within the timeout")));
}
