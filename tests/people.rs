//! People for thirty days, and thieves among them, at the real guard over a store in memory.
//!
//! The short form, in every run of the tests, holds its promises for a few people; `tests/people/run`
//! plays many. All of it is seeded: the same figures each time.

#![recursion_limit = "256"]

#[path = "people/crowd.rs"]
mod crowd;
#[path = "people/days.rs"]
mod days;
#[path = "people/device.rs"]
mod device;
#[path = "people/dice.rs"]
mod dice;
#[path = "people/door.rs"]
mod door;
#[path = "people/earth.rs"]
mod earth;
#[path = "people/figures.rs"]
mod figures;
#[path = "people/life.rs"]
mod life;
#[path = "people/moves.rs"]
mod moves;
#[path = "people/person.rs"]
mod person;
#[path = "people/rates.rs"]
mod rates;
#[path = "people/robbery.rs"]
mod robbery;
#[path = "people/software.rs"]
mod software;
#[path = "people/table.rs"]
mod table;
#[path = "people/tally.rs"]
mod tally;
#[path = "people/thief.rs"]
mod thief;

use doorward::risk::Thresholds;
use doorward::session::Watch;

use door::{GRACE, Lasting, ROTATE_AFTER, Rules};
use robbery::{Moment, Outcome, Scheme};
use tally::Tally;
use thief::{Fate, Manner, Place, Tool};

/// What a gateway does that enforces, with the default thresholds.
const ENFORCED: Rules = rules(Watch::Enforce, Lasting::AWorkday);

/// Renewal alone.
const OFF: Rules = rules(Watch::Off, Lasting::AWorkday);

const fn rules(watch: Watch, lasting: Lasting) -> Rules {
    let thresholds = Thresholds { log: Some(20), renew: Some(35), login: Some(60), end: None };
    Rules { watch, thresholds, lasting }
}

#[test]
fn the_default_thresholds_are_those_that_are_played() {
    assert_eq!(ENFORCED.thresholds, Thresholds::default());
}

#[test]
fn honest_people_meet_less_than_one_false_login_in_a_thousand_days() {
    holds_for_honest_people(&crowd::live(&ENFORCED, 0..34));
}

#[test]
fn a_thief_outside_the_network_and_the_software_is_stopped_at_his_first_request() {
    for (place, tool) in OUTSIDE {
        let scheme = Scheme { place, tool, manner: Manner::Follows, moment: Moment::AtOnce };
        stopped_at_the_door(&robbery::play(&ENFORCED, 0..12, scheme), &scheme);
    }
}

#[test]
fn a_thief_who_follows_renewals_is_found_at_the_owners_next_request() {
    let long = rules(Watch::Off, Lasting::AMonth);
    let played = [(OFF, Moment::AtOnce), (ENFORCED, Moment::AtOnce), (long, Moment::Asleep)];
    for (rules, moment) in played {
        let (place, tool) = (Place::Inside, Tool::Same);
        let scheme = Scheme { place, tool, manner: Manner::Follows, moment };
        found_at_the_next_request(&robbery::play(&rules, 0..12, scheme), &scheme);
    }
}

#[test]
fn a_thief_who_ignores_renewals_is_refused_within_rotate_after_and_three_graces() {
    for moment in [Moment::AtOnce, Moment::Asleep] {
        let (place, tool) = (Place::Inside, Tool::Same);
        let scheme = Scheme { place, tool, manner: Manner::Ignores, moment };
        let outcome = robbery::play(&OFF, 0..12, scheme);
        assert!(outcome.share(Fate::Found) > 0.5, "{scheme:?}: {outcome:?}");
        starves(&outcome, &scheme);
    }
}

#[test]
fn the_table_says_where_a_thief_is_stopped_and_how_long_those_lasted_who_were_found() {
    let outcome = |rules, place, tool| {
        let scheme = Scheme { place, tool, manner: Manner::Follows, moment: Moment::AtOnce };
        robbery::play(&rules, 0..12, scheme)
    };
    let abroad = outcome(ENFORCED, Place::Abroad, Tool::OtherBrowser);
    assert_eq!(table::cell(&abroad), "at the door");
    let inside = outcome(OFF, Place::Inside, Tool::Same);
    let found = inside.fates[Fate::Found.word()];
    assert_eq!(inside.found_after.len(), found, "those who were found, and no other");
    let cell = table::cell(&inside);
    let rest = cell.strip_prefix(&format!("found {found} (")).expect("found first");
    let (times, rest) = rest.split_once(')').expect("closed");
    assert_eq!(times.split(", ").count(), 2, "{cell}");
    assert_eq!(rest, format!(", over {}", inside.fates[Fate::Over.word()]));
    let mut table = table::Table::of(&["off", "enforce"]);
    table.row(Place::Inside, Tool::Same, vec![cell.clone(), "at the door".to_owned()]);
    let row = format!("| victim's address | the same | {cell} | at the door |");
    assert_eq!(table.to_string().lines().nth(2), Some(row.as_str()));
}

/// Thieves who are in no network of the victim's, with software that is not theirs.
const OUTSIDE: [(Place, Tool); 7] = [
    (Place::Abroad, Tool::Program),
    (Place::CloudAbroad, Tool::OtherBrowser),
    (Place::CloudAbroad, Tool::Disguised),
    (Place::Country, Tool::Program),
    (Place::Country, Tool::OtherBrowser),
    (Place::Country, Tool::Disguised),
    (Place::Country, Tool::Newer),
];

fn holds_for_honest_people(tally: &Tally) {
    assert!(tally.requests > 100 * tally.days, "people do little: {tally:#?}");
    assert!(tally.crashes > 0 && tally.moves.contains_key("renew"), "{tally:#?}");
    assert!(tally.per_thousand(tally.all_false()) < 1.0, "{tally:#?}");
}

fn stopped_at_the_door(outcome: &Outcome, scheme: &Scheme) {
    assert!(outcome.tried > 5, "{scheme:?}: {outcome:?}");
    assert_eq!(outcome.worst_requests(), 0, "{scheme:?}: {outcome:?}");
}

/// And nobody is in for good: he is found, or the session is over.
fn found_at_the_next_request(outcome: &Outcome, scheme: &Scheme) {
    assert!(outcome.share(Fate::Found) > 0.5, "{scheme:?}: {outcome:?}");
    assert_eq!(outcome.missed, 0, "{scheme:?}: {outcome:?}");
    assert!(outcome.caught > 0, "{scheme:?}: {outcome:?}");
    assert_eq!(outcome.share(Fate::Never), 0.0, "{scheme:?}: {outcome:?}");
}

/// Each grace ends with his first request after it.
fn starves(outcome: &Outcome, scheme: &Scheme) {
    let bound = ROTATE_AFTER + 3 * (GRACE + thief::PAUSE);
    assert!(u128::from(outcome.worst_use()) <= bound.as_millis(), "{scheme:?}: {outcome:?}");
}

/// The same promises and more, with as many people as `PEOPLE` says.
#[test]
#[ignore = "minutes; tests/people/run plays it"]
fn many_people() {
    figures::Figures::open().all(figures::number("PEOPLE", 680));
}

/// One table of it.
#[test]
#[ignore = "minutes; tests/people/run --thieves plays it"]
fn thieves_by_place() {
    figures::Figures::open().thieves_by_place(figures::number("PEOPLE", 680));
}
