//! Risk signals, with the databases in `tests/data`.

use super::*;
use crate::secret::{KeyRing, random_bytes};
use crate::session::{Identity, SessionId, SessionKey, TlsFingerprint, Token, UserTag};

const HOUR: Duration = Duration::from_secs(3600);
const FIREFOX: &str = "Mozilla/5.0 (Windows NT 10.0; rv:145.0) Gecko/20100101 Firefox/145.0";
const UPDATED: &str = "Mozilla/5.0 (Windows NT 10.0; rv:146.0) Gecko/20100101 Firefox/146.0";
const NEWEST: &str = "Mozilla/5.0 (Windows NT 10.0; rv:147.0) Gecko/20100101 Firefox/147.0";

const HOME: &str = "192.0.2.7";
const MOBILE: &str = "203.0.113.200";
const OTHER_MOBILE: &str = "100.64.9.1";
const VPN_ABROAD: &str = "198.51.100.9";
const FAR: &str = "203.0.113.9";

fn geoip(city: &str) -> GeoIp {
    let read = |name: &str| {
        let bytes = std::fs::read(format!("tests/data/{name}")).expect("a file");
        Some(Database::from_bytes(bytes).expect("a database"))
    };
    GeoIp::new(read(city), read("asn.mmdb"))
}

fn from(address: &str, user_agent: &str) -> ClientContext {
    ClientContext::new(address.parse().expect("an address"), user_agent.as_bytes())
        .with_language(b"de-DE,de")
}

fn record() -> Record {
    let keys = KeyRing::generate("now");
    let key = SessionKey { tag: UserTag([0; 8]), id: SessionId([0; 16]) };
    let token = Token::new(keys.signing_key().0, key, 0, random_bytes());
    let (began, end) = (UnixMillis(0), UnixMillis(u64::MAX));
    Record::new(Identity::default(), &token, began, end, from(HOME, FIREFOX))
}

const USED: UnixMillis = UnixMillis(1_000_000_000);

fn report(record: &Record, context: &ClientContext, later: Duration) -> Option<RiskReport> {
    let now = USED.plus(later);
    let observation =
        Observation { record, context, mode: SignalsMode::Enforce, last_active: USED, now };
    RiskSettings::default().assess(&geoip("city.mmdb"), &observation)
}

fn assessed(context: &ClientContext, later: Duration) -> (String, RiskAction) {
    let report = report(&record(), context, later).expect("a new location");
    (report.to_string(), report.action)
}

#[test]
fn both_database_layouts_give_the_same_result() {
    let (nested, flat) = (geoip("city.mmdb"), geoip("flat-city.mmdb"));
    for address in [HOME, MOBILE, VPN_ABROAD, FAR, "2001:db8:1::5", "::ffff:192.0.2.7", "8.8.8.8"] {
        let address = address.parse().expect("an address");
        assert_eq!(nested.lookup(address), flat.lookup(address), "{address}");
    }
    let home = nested.lookup(HOME.parse().expect("an address"));
    assert_eq!(home.country, Country::parse("DE"));
    assert_eq!((home.asn, home.hosting), (Some(64496), false));
    assert!(home.coordinates.is_some());
    let vpn = nested.lookup(VPN_ABROAD.parse().expect("an address"));
    assert_eq!((vpn.country, vpn.hosting), (Country::parse("FR"), true));
    assert_eq!(nested.lookup([8, 8, 8, 8].into()), GeoInfo::default());
}

#[test]
fn a_damaged_database_never_panics() {
    assert!(Database::from_bytes(b"no database".to_vec()).is_err());
    let whole = std::fs::read("tests/data/city.mmdb").expect("a database");
    for spoilt in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[spoilt] ^= 0xff;
        if let Ok(database) = Database::from_bytes(bytes) {
            let geoip = GeoIp::new(Some(database), None);
            // Any result is fine.
            let _ = geoip.lookup(HOME.parse().expect("an address"));
        }
    }
}

#[test]
fn an_unchanged_location_is_not_assessed() {
    let unchanged = from("192.0.2.250", FIREFOX);
    assert_eq!(report(&record(), &unchanged, HOUR), None);
    let observation = Observation {
        record: &record(),
        context: &from(FAR, "curl/8"),
        mode: SignalsMode::Off,
        last_active: USED,
        now: USED,
    };
    assert_eq!(RiskSettings::default().assess(&geoip("city.mmdb"), &observation), None);
}

#[test]
fn a_browser_update_and_a_mobile_network_require_no_action() {
    assert_eq!(assessed(&from(HOME, UPDATED), HOUR), (String::new(), RiskAction::None));
    let way = assessed(&from(MOBILE, FIREFOX), HOUR);
    assert_eq!(way, ("network 10, operator 5".to_owned(), RiskAction::None));
}

#[test]
fn a_traveller_and_a_vpn_only_rotate_the_token() {
    let (_, flown) = assessed(&from(FAR, FIREFOX), 20 * HOUR);
    assert_eq!(flown, RiskAction::Rotate);
    let vpn = assessed(&from(VPN_ABROAD, FIREFOX), Duration::from_secs(5));
    let all = "network 10, country 25, operator 5, hosting 10, speed 5";
    assert_eq!(vpn, (all.to_owned(), RiskAction::Rotate));
    let (updated, action) = assessed(&from(VPN_ABROAD, UPDATED), Duration::from_secs(5));
    assert_eq!((updated.as_str(), action), (all, RiskAction::Rotate));
}

#[test]
fn a_media_player_of_the_phone_is_not_a_new_browser() {
    let phone = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Mobile/15E148 Safari/604.1";
    let player = "AppleCoreMedia/1.0.0.22F76 (iPhone; U; CPU OS 18_5 like Mac OS X; de_de)";
    let mut record = record();
    record.created_from = from(HOME, phone);
    let signals =
        |user_agent| report(&record, &from(MOBILE, user_agent), HOUR).expect("new").to_string();
    assert_eq!(signals(player), "network 10, operator 5");
    assert_eq!(signals("curl/8.5.0"), "network 10, operator 5, browser 50");
    record.created_from = from(HOME, FIREFOX);
    let text = report(&record, &from(HOME, player), HOUR).expect("new").to_string();
    assert_eq!(text, "system 50", "the player of another system");
}

#[test]
fn a_new_client_requires_reauthentication_on_a_new_network_only() {
    assert_eq!(
        assessed(&from(HOME, "curl/8.5.0"), HOUR),
        ("browser 50".to_owned(), RiskAction::Rotate)
    );
    let (_, near) = assessed(&from("192.0.3.7", "curl/8.5.0"), HOUR);
    assert_eq!(near, RiskAction::Reauthenticate, "no GeoIP data, but a new network");
    let (_, far) = assessed(&from(FAR, "curl/8.5.0"), HOUR);
    assert_eq!(far, RiskAction::Reauthenticate, "never more by default");
}

#[test]
fn impossible_travel_depends_on_the_elapsed_time() {
    let is_signal = |later| assessed(&from(FAR, FIREFOX), later).0.contains("speed");
    assert!(is_signal(10 * HOUR) && !is_signal(17 * HOUR));
}

#[test]
fn a_new_language_is_a_weak_signal_and_a_missing_one_is_none() {
    let signals =
        |language: &[u8]| assessed(&from(MOBILE, FIREFOX).with_language(language), HOUR).0;
    assert_eq!(signals(b"ru-RU"), "network 10, operator 5, language 10");
    assert_eq!(signals(b""), "network 10, operator 5");
}

/// Returns a client whose TLS handshake lists that many cipher suites.
fn with_ciphers(address: &str, user_agent: &str, cipher_count: u8) -> ClientContext {
    let (cipher_hash, extension_hash) = ([1; 6], [2; 6]);
    let (version, has_sni, extension_count) = (13, true, 12);
    let hello = TlsFingerprint {
        version,
        has_sni,
        cipher_count,
        extension_count,
        cipher_hash,
        extension_hash,
    };
    from(address, user_agent).with_fingerprint(Some(hello))
}

#[test]
fn a_new_tls_fingerprint_is_a_signal_until_it_is_known() {
    let mut record = record();
    record.created_from = with_ciphers(HOME, FIREFOX, 15);
    assert_eq!(report(&record, &with_ciphers(HOME, FIREFOX, 15), HOUR), None);
    assert_eq!(report(&record, &from(HOME, FIREFOX), HOUR), None, "unknown fingerprint");
    let other = report(&record, &with_ciphers(HOME, FIREFOX, 16), HOUR).expect("a new fingerprint");
    assert_eq!((other.to_string().as_str(), other.action), ("fingerprint 25", RiskAction::Log));
    record.record_location(&with_ciphers(HOME, FIREFOX, 16), USED, true);
    let known = report(&record, &with_ciphers(MOBILE, FIREFOX, 16), HOUR).expect("a new network");
    assert_eq!(known.to_string(), "network 10, operator 5");
}

#[test]
fn a_spoofed_user_agent_on_a_new_network_requires_reauth() {
    let mut record = record();
    record.created_from = with_ciphers(HOME, UPDATED, 15);
    let assessed = |context: &ClientContext, later: Duration| {
        let report = report(&record, context, later).expect("a new location");
        (report.to_string(), report.action)
    };
    let spoofed = "network 10, operator 5, fingerprint 25, masquerade 25";
    let day = 24 * HOUR;
    for (user_agent, later) in [(UPDATED, day), (FIREFOX, day), (NEWEST, MIN_UPDATE_PAUSE / 2)] {
        let result = assessed(&with_ciphers(MOBILE, user_agent, 16), later);
        assert_eq!(
            result,
            (spoofed.to_owned(), RiskAction::Reauthenticate),
            "{user_agent} after {later:?}"
        );
    }
    let updated = assessed(&with_ciphers(MOBILE, NEWEST, 16), MIN_UPDATE_PAUSE);
    assert_eq!(updated, ("network 10, operator 5, fingerprint 25".to_owned(), RiskAction::Rotate));
    let inspected = assessed(&with_ciphers(HOME, UPDATED, 16), HOUR);
    assert_eq!(inspected, ("fingerprint 25".to_owned(), RiskAction::Log), "on a known network");
}

#[test]
fn media_players_and_other_browsers_are_not_spoofed() {
    let player = "AppleCoreMedia/1.0.0.22F76 (iPhone; U; CPU OS 18_5 like Mac OS X; de_de)";
    let phone = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Mobile/15E148 Safari/604.1";
    let mut record = record();
    record.created_from = with_ciphers(HOME, phone, 15);
    record.record_location(&with_ciphers(HOME, player, 14), USED, true);
    let signals = |user_agent| {
        report(&record, &with_ciphers(MOBILE, user_agent, 16), MIN_UPDATE_PAUSE / 2)
            .expect("new")
            .to_string()
    };
    assert_eq!(signals(player), "network 10, operator 5, fingerprint 25");
    let other = "network 10, operator 5, browser 50, system 50, fingerprint 25";
    assert_eq!(signals(FIREFOX), other);
}

#[test]
fn alternating_countries_are_a_signal_but_a_journey_home_is_not() {
    let mut record = record();
    let (home, abroad) = (from(HOME, FIREFOX), from(VPN_ABROAD, FIREFOX));
    record.record_location(&abroad, USED, true);
    assert_eq!(report(&record, &home, Duration::from_secs(30)), None, "again within a minute");
    let alternating = report(&record, &home, Duration::from_secs(90)).expect("back");
    assert_eq!(
        (alternating.to_string().as_str(), alternating.action),
        ("two-countries 25", RiskAction::Log)
    );
    let later = report(&record, &home, HOUR).expect("back");
    assert_eq!((later.score, later.action), (0, RiskAction::None));
    record.record_location(&from(MOBILE, FIREFOX), USED, true);
    let near = report(&record, &home, Duration::from_secs(90)).expect("back");
    assert_eq!(near.score, 0, "one country");
}

#[test]
fn an_allowed_network_is_known_but_the_client_is_compared() {
    let allow = vec!["198.51.100.0/24".parse().expect("a network")];
    let settings = RiskSettings { allow, ..RiskSettings::default() };
    let record = record();
    let score = |user_agent: &str| {
        let context = from(VPN_ABROAD, user_agent);
        let observation = Observation {
            record: &record,
            context: &context,
            mode: SignalsMode::Enforce,
            last_active: USED,
            now: USED,
        };
        settings.assess(&geoip("city.mmdb"), &observation).map(|report| report.score)
    };
    assert_eq!((score(FIREFOX), score("curl/8")), (Some(0), Some(50)));
}

#[test]
fn a_network_unused_for_longer_than_known_for_is_new() {
    let mut record = record();
    record.record_location(&from(MOBILE, FIREFOX), UnixMillis(0), true);
    record.record_location(&from(HOME, FIREFOX), UnixMillis(0), true);
    let context = from(OTHER_MOBILE, FIREFOX);
    let names = |later: Duration| {
        let now = UnixMillis(0).plus(later);
        let observation = Observation {
            record: &record,
            context: &context,
            mode: SignalsMode::Enforce,
            last_active: now,
            now,
        };
        let report = RiskSettings::default().assess(&geoip("city.mmdb"), &observation);
        report.map(|report| report.to_string())
    };
    assert_eq!(names(HOUR).as_deref(), Some("network 10"), "a known ASN");
    assert_eq!(names(31 * 24 * HOUR).as_deref(), Some("network 10, operator 5"));
}

#[test]
fn without_databases_only_network_and_client_are_signals() {
    let record = record();
    let score = |user_agent: &str| {
        let context = from(FAR, user_agent);
        let observation = Observation {
            record: &record,
            context: &context,
            mode: SignalsMode::Enforce,
            last_active: USED,
            now: USED,
        };
        let report = RiskSettings::default()
            .assess(&GeoIp::default(), &observation)
            .expect("a new location");
        (report.score, report.action)
    };
    assert_eq!(score(FIREFOX), (10, RiskAction::None));
    assert_eq!(score("curl/8"), (60, RiskAction::Reauthenticate));
}

#[test]
fn a_disabled_threshold_is_never_reached() {
    let never = Thresholds { log: None, rotate: None, reauthenticate: None, end: None };
    assert_eq!(never.action(u32::MAX), RiskAction::None);
    let ends = Thresholds { end: Some(100), ..Thresholds::default() };
    assert_eq!(
        [19, 20, 34, 35, 59, 60, 99, 100].map(|score| ends.action(score)),
        [
            RiskAction::None,
            RiskAction::Log,
            RiskAction::Log,
            RiskAction::Rotate,
            RiskAction::Rotate,
            RiskAction::Reauthenticate,
            RiskAction::Reauthenticate,
            RiskAction::End,
        ]
    );
}
