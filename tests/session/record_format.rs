//! Compatibility of the record formats. `tests/data/records-v4.toml` contains records of the last version
//! that knew only format 4, with the keys that sealed them.

use std::net::IpAddr;
use std::time::Duration;

use data_encoding::{BASE64, HEXLOWER};
use doorward::clock::UnixMillis;
use doorward::secret::{KeyRing, random_bytes, seal};
use doorward::session::{
    Change, ClientContext, DecisionInput, ExternalLogin, Identity, OnReuse, Outcome, Provider,
    Record, Refusal, RotationTiming, RoutePolicy, SessionFacts, SessionId, SessionKey,
    SessionPolicy, Token, UserTag, Verdict, decide,
};
use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
struct Fixtures {
    keys: String,
    record: Vec<Fixture>,
}

#[derive(Deserialize)]
struct Fixture {
    name: String,
    tag: String,
    id: String,
    now: u64,
    token: String,
    sealed: String,
}

fn fixtures() -> (KeyRing, Vec<Fixture>) {
    let text = std::fs::read_to_string("tests/data/records-v4.toml").expect("the fixtures");
    let fixtures: Fixtures = toml::from_str(&text).expect("TOML");
    assert_eq!(fixtures.record.len(), 3);
    (KeyRing::parse(&fixtures.keys).expect("keys"), fixtures.record)
}

impl Fixture {
    fn key(&self) -> SessionKey {
        SessionKey { tag: UserTag(bytes(&self.tag)), id: SessionId(bytes(&self.id)) }
    }

    fn sealed(&self) -> Vec<u8> {
        BASE64.decode(self.sealed.as_bytes()).expect("Base64")
    }
}

fn bytes<const N: usize>(hex: &str) -> [u8; N] {
    let bytes = HEXLOWER.decode(hex.as_bytes()).expect("hex");
    bytes.try_into().expect("the length")
}

/// The fields of format 4 in order, as the last version that knew only format 4 declared them.
#[derive(Debug, PartialEq, Deserialize, Serialize)]
struct RecordV4 {
    identity: (String, Option<String>, Option<String>, Vec<String>),
    times: [u64; 4],
    generation: u32,
    current: [u8; 32],
    current_since: u64,
    seasoned: bool,
    previous: Option<([u8; 32], u64, u64)>,
    offer: Option<OfferV4>,
    credential: [u8; 8],
    flags: (bool, bool),
    contexts: (ContextV4, ContextV4),
    seen: (Vec<NetworkV4>, Vec<ProgramV4>),
}

type OfferV4 = (u8, [u8; 16], [u8; 32], u8, u64);
type NetworkV4 = (IpAddr, u64, bool);
type ProgramV4 = (String, Option<FingerprintV4>, bool);
type ContextV4 = (IpAddr, String, String, Option<FingerprintV4>);
type FingerprintV4 = (u8, bool, u8, u8, [u8; 6], [u8; 6]);

/// Reads a record as a gateway that supports only format 4.
fn open_v4(keys: &KeyRing, key: &SessionKey, stored: &[u8]) -> Option<RecordV4> {
    let (head, sealed) = stored.split_first_chunk::<5>()?;
    let [4, generation @ ..] = head else { return None };
    let binding = [&key.tag.0[..], &key.id.0, generation].concat();
    let plain = seal::open(keys, &key.id.0, &binding, sealed).ok()?;
    let (record, rest) = postcard::take_from_bytes(&plain).ok()?;
    assert!(rest.is_empty());
    Some(record)
}

fn decide_now(keys: &KeyRing, record: &Record, token: &Token, now: UnixMillis) -> Verdict {
    let seconds = Duration::from_secs;
    let (idle, absolute) = (seconds(1_800), seconds(43_200));
    let policy = SessionPolicy::new(idle, absolute, seconds(600), seconds(30), OnReuse::Revoke);
    decide(&DecisionInput {
        record,
        facts: &SessionFacts::default(),
        token,
        keys,
        now,
        random_salt: &random_bytes,
        client: &ClientContext::new(IpAddr::from([192, 0, 2, 7]), b"Mozilla/5.0 Firefox/145.0"),
        policy: &policy.expect("a policy"),
        route: &RoutePolicy::default(),
        timing: RotationTiming::WhenDue,
        activity: true,
        risk: None,
    })
}

#[test]
fn sessions_of_format_4_authenticate_and_continue() {
    let (keys, fixtures) = fixtures();
    for fixture in fixtures {
        let (name, key) = (&fixture.name, fixture.key());
        let mut record = Record::open(&keys, &key, &fixture.sealed()).expect(name);
        assert_eq!((record.identity.user.as_str(), record.identity.groups.len()), ("alice", 2));
        assert_eq!(record.identity.provider, Provider::Password);
        let token = Token::parse(&keys, fixture.token.as_bytes()).expect(name);
        let now = UnixMillis(fixture.now).plus(Duration::from_secs(600));
        let verdict = decide_now(&keys, &record, &token, now);
        if name == "reauthenticate" {
            assert_eq!(verdict.outcome, Outcome::Refuse(Refusal::Reauthenticate));
            continue;
        }
        let Outcome::Admit(Some(next)) = verdict.outcome else { panic!("{name}: {verdict:?}") };
        if let Change::Write(next) = verdict.change {
            record = *next;
        }
        // The session rotates and is stored, for this and for older gateways.
        let successor = Token::new(keys.signing_key().0, key, next.generation, next.secret);
        let verdict = decide_now(&keys, &record, &successor, now);
        let Change::Write(confirmed) = verdict.change else { panic!("{name}: not confirmed") };
        let stored = confirmed.seal(&keys, &key);
        assert_eq!(Record::open(&keys, &key, &stored).as_ref(), Ok(&*confirmed));
        let old = open_v4(&keys, &key, &stored).expect("a record of format 4");
        assert_eq!((old.generation, old.current), (next.generation, successor.hash()));
    }
}

#[test]
fn a_password_session_is_written_in_format_4() {
    let (keys, fixtures) = fixtures();
    for fixture in fixtures {
        let (key, stored) = (fixture.key(), fixture.sealed());
        let record = Record::open(&keys, &key, &stored).expect("a record");
        let written = open_v4(&keys, &key, &record.seal(&keys, &key));
        assert!(written.is_some());
        assert_eq!(written, open_v4(&keys, &key, &stored), "{}", fixture.name);
    }
}

#[test]
fn an_older_gateway_cannot_open_format_5() {
    let (keys, fixtures) = fixtures();
    for fixture in fixtures {
        let key = fixture.key();
        let record = Record::open(&keys, &key, &fixture.sealed()).expect("a record");
        let provider = Provider::External(Box::new(ExternalLogin {
            provider: "example".to_owned(),
            ..ExternalLogin::default()
        }));
        let identity = Identity { provider, ..Identity::clone(&record.identity) };
        let mut stored = Record { identity: identity.into(), ..record }.seal(&keys, &key);
        assert_eq!(open_v4(&keys, &key, &stored), None);
        // Also not if an attacker changes the format in the store.
        stored[0] = 4;
        assert_eq!(open_v4(&keys, &key, &stored), None);
    }
}
