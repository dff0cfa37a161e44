//! The rules of the signals, over the databases in `tests/data`.

use super::*;
use crate::secret::{KeyRing, random_bytes};
use crate::session::{Fingerprint, Identity, SessionId, SessionKey, Token, UserTag};

const HOUR: Duration = Duration::from_secs(3600);
const FIREFOX: &str = "Mozilla/5.0 (Windows NT 10.0; rv:145.0) Gecko/20100101 Firefox/145.0";
const UPDATED: &str = "Mozilla/5.0 (Windows NT 10.0; rv:146.0) Gecko/20100101 Firefox/146.0";
const NEWEST: &str = "Mozilla/5.0 (Windows NT 10.0; rv:147.0) Gecko/20100101 Firefox/147.0";

const HOME: &str = "192.0.2.7";
const MOBILE: &str = "203.0.113.200";
const OTHER_MOBILE: &str = "100.64.9.1";
const VPN_ABROAD: &str = "198.51.100.9";
const FAR: &str = "203.0.113.9";

fn atlas(countries: &str) -> Atlas {
    let read = |name: &str| {
        let bytes = std::fs::read(format!("tests/data/{name}")).expect("a file");
        Some(Database::read(bytes).expect("a database"))
    };
    Atlas::new(read(countries), read("asn.mmdb"))
}

fn from(address: &str, agent: &str) -> ClientContext {
    ClientContext::new(address.parse().expect("an address"), agent.as_bytes()).speaking(b"de-DE,de")
}

fn record() -> Record {
    let keys = KeyRing::generate("now");
    let key = SessionKey { tag: UserTag([0; 8]), id: SessionId([0; 16]) };
    let token = Token::new(keys.newest().0, key, 0, random_bytes());
    let (began, end) = (UnixMillis(0), UnixMillis(u64::MAX));
    Record::begin(Identity::default(), &token, began, end, from(HOME, FIREFOX))
}

const USED: UnixMillis = UnixMillis(1_000_000_000);

fn report(record: &Record, context: &ClientContext, later: Duration) -> Option<Report> {
    let now = USED.plus(later);
    let arrival = Arrival { record, context, watch: Watch::Enforce, active: USED, now };
    Settings::default().judge(&atlas("city.mmdb"), &arrival)
}

fn judged(context: &ClientContext, later: Duration) -> (String, Answer) {
    let report = report(&record(), context, later).expect("a new place");
    (report.to_string(), report.answer)
}

#[test]
fn both_layouts_of_databases_say_the_same() {
    let (nested, flat) = (atlas("city.mmdb"), atlas("flat-city.mmdb"));
    for address in [HOME, MOBILE, VPN_ABROAD, FAR, "2001:db8:1::5", "::ffff:192.0.2.7", "8.8.8.8"] {
        let address = address.parse().expect("an address");
        assert_eq!(nested.look(address), flat.look(address), "{address}");
    }
    let home = nested.look(HOME.parse().expect("an address"));
    assert_eq!(home.country, Country::read("DE"));
    assert_eq!((home.operator, home.hosting), (Some(64496), false));
    assert!(home.coordinates.is_some());
    let vpn = nested.look(VPN_ABROAD.parse().expect("an address"));
    assert_eq!((vpn.country, vpn.hosting), (Country::read("FR"), true));
    assert_eq!(nested.look([8, 8, 8, 8].into()), Locality::default());
}

#[test]
fn bytes_that_are_no_database_are_refused_and_a_broken_one_knows_nothing() {
    assert!(Database::read(b"no database".to_vec()).is_err());
    let whole = std::fs::read("tests/data/city.mmdb").expect("a database");
    for spoilt in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[spoilt] ^= 0xff;
        if let Ok(database) = Database::read(bytes) {
            let atlas = Atlas::new(Some(database), None);
            // It may say anything, and must say it without a panic.
            let _ = atlas.look(HOME.parse().expect("an address"));
        }
    }
}

#[test]
fn a_session_that_stays_is_not_looked_at() {
    let stays = from("192.0.2.250", FIREFOX);
    assert_eq!(report(&record(), &stays, HOUR), None);
    let arrival = Arrival {
        record: &record(),
        context: &from(FAR, "curl/8"),
        watch: Watch::Off,
        active: USED,
        now: USED,
    };
    assert_eq!(Settings::default().judge(&atlas("city.mmdb"), &arrival), None);
}

#[test]
fn an_update_of_the_browser_and_the_way_to_the_phones_network_are_nothing() {
    assert_eq!(judged(&from(HOME, UPDATED), HOUR), (String::new(), Answer::Nothing));
    let way = judged(&from(MOBILE, FIREFOX), HOUR);
    assert_eq!(way, ("network 10, operator 5".to_owned(), Answer::Nothing));
}

#[test]
fn a_traveller_and_a_vpn_only_renew_the_token() {
    let (_, flown) = judged(&from(FAR, FIREFOX), 20 * HOUR);
    assert_eq!(flown, Answer::Renew);
    let vpn = judged(&from(VPN_ABROAD, FIREFOX), Duration::from_secs(5));
    let all = "network 10, country 25, operator 5, hosting 10, speed 5";
    assert_eq!(vpn, (all.to_owned(), Answer::Renew));
    let (updated, answer) = judged(&from(VPN_ABROAD, UPDATED), Duration::from_secs(5));
    assert_eq!((updated.as_str(), answer), (all, Answer::Renew));
}

#[test]
fn a_video_that_the_phone_fetches_for_its_browser_is_no_other_browser() {
    let phone = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Mobile/15E148 Safari/604.1";
    let player = "AppleCoreMedia/1.0.0.22F76 (iPhone; U; CPU OS 18_5 like Mac OS X; de_de)";
    let mut record = record();
    record.begun_from = from(HOME, phone);
    let said = |agent| report(&record, &from(MOBILE, agent), HOUR).expect("new").to_string();
    assert_eq!(said(player), "network 10, operator 5");
    assert_eq!(said("curl/8.5.0"), "network 10, operator 5, browser 50");
    record.begun_from = from(HOME, FIREFOX);
    let said = report(&record, &from(HOME, player), HOUR).expect("new").to_string();
    assert_eq!(said, "system 50", "of a phone that is not theirs");
}

#[test]
fn other_software_asks_for_a_login_only_from_another_network() {
    assert_eq!(judged(&from(HOME, "curl/8.5.0"), HOUR), ("browser 50".to_owned(), Answer::Renew));
    let (_, near) = judged(&from("192.0.3.7", "curl/8.5.0"), HOUR);
    assert_eq!(near, Answer::Login, "nothing is known of this network but that it is another");
    let (_, far) = judged(&from(FAR, "curl/8.5.0"), HOUR);
    assert_eq!(far, Answer::Login, "and never more by default");
}

#[test]
fn a_flight_takes_its_time() {
    let speaks = |later| judged(&from(FAR, FIREFOX), later).0.contains("speed");
    assert!(speaks(10 * HOUR) && !speaks(17 * HOUR));
}

#[test]
fn another_language_is_a_weak_signal_and_a_missing_one_is_none() {
    let spoken = |language: &[u8]| judged(&from(MOBILE, FIREFOX).speaking(language), HOUR).0;
    assert_eq!(spoken(b"ru-RU"), "network 10, operator 5, language 10");
    assert_eq!(spoken(b""), "network 10, operator 5");
}

/// This browser at this place, with a handshake of so many cipher suites.
fn shaking(address: &str, agent: &str, ciphers: u8) -> ClientContext {
    let (cipher_list, extension_list) = ([1; 6], [2; 6]);
    let (version, named, extensions) = (13, true, 12);
    let hello = Fingerprint { version, named, ciphers, extensions, cipher_list, extension_list };
    from(address, agent).shaking_hands(Some(hello))
}

#[test]
fn another_handshake_is_a_signal_until_it_was_let_pass_and_a_missing_one_is_none() {
    let mut record = record();
    record.begun_from = shaking(HOME, FIREFOX, 15);
    assert_eq!(report(&record, &shaking(HOME, FIREFOX, 15), HOUR), None);
    assert_eq!(report(&record, &from(HOME, FIREFOX), HOUR), None, "nobody looked");
    let other = report(&record, &shaking(HOME, FIREFOX, 16), HOUR).expect("another handshake");
    assert_eq!((other.to_string().as_str(), other.answer), ("fingerprint 25", Answer::Log));
    record.note(&shaking(HOME, FIREFOX, 16), USED, true);
    let known = report(&record, &shaking(MOBILE, FIREFOX, 16), HOUR).expect("another network");
    assert_eq!(known.to_string(), "network 10, operator 5");
}

#[test]
fn a_program_that_says_it_is_the_sessions_browser_is_not_let_in_from_another_network() {
    let mut record = record();
    record.begun_from = shaking(HOME, UPDATED, 15);
    let judged = |context: &ClientContext, later: Duration| {
        let report = report(&record, context, later).expect("a new place");
        (report.to_string(), report.answer)
    };
    let masked = "network 10, operator 5, fingerprint 25, masquerade 25";
    let day = 24 * HOUR;
    for (agent, later) in [(UPDATED, day), (FIREFOX, day), (NEWEST, RESTED / 2)] {
        let said = judged(&shaking(MOBILE, agent, 16), later);
        assert_eq!(said, (masked.to_owned(), Answer::Login), "{agent} after {later:?}");
    }
    let updated = judged(&shaking(MOBILE, NEWEST, 16), RESTED);
    assert_eq!(updated, ("network 10, operator 5, fingerprint 25".to_owned(), Answer::Renew));
    let filter = judged(&shaking(HOME, UPDATED, 16), HOUR);
    assert_eq!(filter, ("fingerprint 25".to_owned(), Answer::Log), "in a network that is known");
}

#[test]
fn what_plays_videos_and_other_browsers_are_weighed_as_what_they_are() {
    let player = "AppleCoreMedia/1.0.0.22F76 (iPhone; U; CPU OS 18_5 like Mac OS X; de_de)";
    let phone = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Mobile/15E148 Safari/604.1";
    let mut record = record();
    record.begun_from = shaking(HOME, phone, 15);
    record.note(&shaking(HOME, player, 14), USED, true);
    let said =
        |agent| report(&record, &shaking(MOBILE, agent, 16), RESTED / 2).expect("new").to_string();
    assert_eq!(said(player), "network 10, operator 5, fingerprint 25");
    let other = "network 10, operator 5, browser 50, system 50, fingerprint 25";
    assert_eq!(said(FIREFOX), other);
}

#[test]
fn two_countries_by_turns_are_a_signal_and_a_journey_home_is_none() {
    let mut record = record();
    let (home, abroad) = (from(HOME, FIREFOX), from(VPN_ABROAD, FIREFOX));
    record.note(&abroad, USED, true);
    assert_eq!(report(&record, &home, Duration::from_secs(30)), None, "by turns within a minute");
    let by_turns = report(&record, &home, Duration::from_secs(90)).expect("back");
    assert_eq!((by_turns.to_string().as_str(), by_turns.answer), ("two-countries 25", Answer::Log));
    let later = report(&record, &home, HOUR).expect("back");
    assert_eq!((later.score, later.answer), (0, Answer::Nothing));
    record.note(&from(MOBILE, FIREFOX), USED, true);
    let near = report(&record, &home, Duration::from_secs(90)).expect("back");
    assert_eq!(near.score, 0, "one country");
}

#[test]
fn allowed_networks_are_known_to_everybody_and_their_software_is_still_compared() {
    let allow = vec!["198.51.100.0/24".parse().expect("a network")];
    let settings = Settings { allow, ..Settings::default() };
    let record = record();
    let score = |agent: &str| {
        let context = from(VPN_ABROAD, agent);
        let arrival = Arrival {
            record: &record,
            context: &context,
            watch: Watch::Enforce,
            active: USED,
            now: USED,
        };
        settings.judge(&atlas("city.mmdb"), &arrival).map(|report| report.score)
    };
    assert_eq!((score(FIREFOX), score("curl/8")), (Some(0), Some(50)));
}

#[test]
fn a_network_not_used_for_longer_than_known_for_is_a_new_one() {
    let mut record = record();
    record.note(&from(MOBILE, FIREFOX), UnixMillis(0), true);
    record.note(&from(HOME, FIREFOX), UnixMillis(0), true);
    let context = from(OTHER_MOBILE, FIREFOX);
    let names = |later: Duration| {
        let now = UnixMillis(0).plus(later);
        let arrival =
            Arrival { record: &record, context: &context, watch: Watch::Enforce, active: now, now };
        let report = Settings::default().judge(&atlas("city.mmdb"), &arrival);
        report.map(|report| report.to_string())
    };
    assert_eq!(names(HOUR).as_deref(), Some("network 10"), "one operator, many networks");
    assert_eq!(names(31 * 24 * HOUR).as_deref(), Some("network 10, operator 5"));
}

#[test]
fn without_databases_countries_are_no_signal_and_software_still_is() {
    let record = record();
    let score = |agent: &str| {
        let context = from(FAR, agent);
        let arrival = Arrival {
            record: &record,
            context: &context,
            watch: Watch::Enforce,
            active: USED,
            now: USED,
        };
        let report = Settings::default().judge(&Atlas::default(), &arrival).expect("a new place");
        (report.score, report.answer)
    };
    assert_eq!(score(FIREFOX), (10, Answer::Nothing));
    assert_eq!(score("curl/8"), (60, Answer::Login));
}

#[test]
fn thresholds_that_are_never_reached_do_nothing() {
    let never = Thresholds { log: None, renew: None, login: None, end: None };
    assert_eq!(never.answer(u32::MAX), Answer::Nothing);
    let ends = Thresholds { end: Some(100), ..Thresholds::default() };
    assert_eq!(
        [19, 20, 34, 35, 59, 60, 99, 100].map(|score| ends.answer(score)),
        [
            Answer::Nothing,
            Answer::Log,
            Answer::Log,
            Answer::Renew,
            Answer::Renew,
            Answer::Login,
            Answer::Login,
            Answer::End,
        ]
    );
}
