//! The long form: many people and thieves under several policies, as JSON lines in the file that
//! `FIGURES` names.

use std::fs::File;
use std::io::Write;
use std::ops::Range;

use doorward::risk::Thresholds;
use doorward::session::Watch;
use serde_json::{Value, json};

use super::door::{Lasting, Rules};
use super::rates;
use super::robbery::{self, Moment, Outcome, Scheme};
use super::table::{self, Table};
use super::tally::Tally;
use super::thief::{Fate, Manner, Place, Tool};
use super::{ENFORCED, OFF, OUTSIDE, crowd, rules};

const LASTINGS: [Lasting; 2] = [Lasting::AWorkday, Lasting::AMonth];
const PLACES: [Place; 5] =
    [Place::Abroad, Place::CloudAbroad, Place::Country, Place::Neighbour, Place::Inside];
const TOOLS: [Tool; 6] = [
    Tool::Program,
    Tool::OtherBrowser,
    Tool::Disguised,
    Tool::OtherVersion,
    Tool::Newer,
    Tool::Same,
];
const MANNERS: [Manner; 3] = [Manner::Follows, Manner::Ignores, Manner::InStep];
const MOMENTS: [Moment; 4] =
    [Moment::AtOnce, Moment::HoursLater, Moment::DaysLater, Moment::Asleep];

/// The policies of the table of thieves by place.
const BY_PLACE: [&str; 3] = ["off", "enforce", "login_at = 40"];

/// Every score that some set of signals adds up to where it matters.
const LOGIN_AT: [u32; 14] = [10, 15, 20, 25, 35, 40, 45, 50, 55, 60, 65, 75, 85, 100];

/// What the curve shows of thieves.
const CURVE: [(Place, Tool); 6] = [
    (Place::Abroad, Tool::OtherBrowser),
    (Place::Abroad, Tool::Disguised),
    (Place::Abroad, Tool::Same),
    (Place::Country, Tool::Disguised),
    (Place::Country, Tool::Same),
    (Place::Inside, Tool::OtherBrowser),
];

/// People of whom the promise for honest ones can be asked.
const ENOUGH: u64 = 600;

pub fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// Where the lines go; the goals are held on the way.
pub struct Figures(File, usize);

impl Figures {
    pub fn open() -> Figures {
        let path = std::env::var("FIGURES").unwrap_or_else(|_| "target/people.jsonl".to_owned());
        Figures(File::create(path).expect("a file for the figures"), 0)
    }

    pub fn all(&mut self, people: u64) {
        for rate in rates::ALL {
            let (value, what, why) = (rate.value, rate.what, rate.why);
            self.line(&json!({"figure": "rate", "value": value, "what": what, "why": why}));
        }
        let victims = victims(people);
        self.where_and_with_what(&victims);
        self.how_and_when(&victims);
        self.outside(&victims);
        self.honest(people);
        self.curve(people);
    }

    /// The table of thieves by place alone.
    pub fn thieves_by_place(&mut self, people: u64) {
        self.where_and_with_what(&victims(people));
    }

    fn honest(&mut self, people: u64) {
        for lasting in LASTINGS {
            for (name, rules) in policies(lasting) {
                let tally = crowd::live(&rules, 0..people);
                self.line(&honest(name, lasting, &tally));
                // Among fewer, two or three unlucky ones are more than the promise.
                if name == "enforce" && people >= ENOUGH {
                    super::holds_for_honest_people(&tally);
                }
            }
        }
    }

    fn where_and_with_what(&mut self, victims: &Range<u64>) {
        let (manner, moment) = (Manner::Follows, Moment::AtOnce);
        let mut table = Table::of(&BY_PLACE);
        for (place, tool) in PLACES.into_iter().flat_map(|place| TOOLS.map(|tool| (place, tool))) {
            let scheme = Scheme { place, tool, manner, moment };
            let mut cells = Vec::new();
            for (name, rules) in policies(Lasting::AWorkday) {
                if BY_PLACE.contains(&name) {
                    let outcome = robbery::play(&rules, victims.clone(), scheme);
                    self.line(&thief("place", name, rules.lasting, scheme, &outcome));
                    cells.push(table::cell(&outcome));
                }
            }
            table.row(place, tool, cells);
        }
        println!("\n{} tries a cell\n\n{table}", victims.end);
    }

    fn how_and_when(&mut self, victims: &Range<u64>) {
        let (place, tool) = (Place::Inside, Tool::Same);
        for lasting in LASTINGS {
            for (manner, moment) in pairs() {
                let scheme = Scheme { place, tool, manner, moment };
                let outcome = robbery::play(&rules(Watch::Off, lasting), victims.clone(), scheme);
                match (manner, moment) {
                    (Manner::Follows, Moment::AtOnce) => {
                        super::found_at_the_next_request(&outcome, &scheme);
                    }
                    (Manner::Ignores, _) => super::starves(&outcome, &scheme),
                    (Manner::Follows | Manner::InStep, _) => {
                        assert_eq!(outcome.missed, 0, "{scheme:?}: {outcome:?}");
                    }
                }
                self.line(&thief("manner", "off", lasting, scheme, &outcome));
            }
        }
    }

    fn outside(&mut self, victims: &Range<u64>) {
        let some = 0..(victims.end / 3).max(12);
        for (place, tool) in OUTSIDE {
            for (manner, moment) in pairs() {
                let scheme = Scheme { place, tool, manner, moment };
                let outcome = robbery::play(&ENFORCED, some.clone(), scheme);
                super::stopped_at_the_door(&outcome, &scheme);
                self.line(&thief("outside", "enforce", Lasting::AWorkday, scheme, &outcome));
            }
        }
    }

    /// What the operator chooses between.
    fn curve(&mut self, people: u64) {
        for login_at in LOGIN_AT {
            let rules = with_login_at(ENFORCED, login_at);
            let tally = crowd::live(&rules, 0..people);
            let said = honest("curve", Lasting::AWorkday, &tally);
            self.line(&json!({"figure": "threshold", "login_at": login_at, "honest": said}));
            for (place, tool) in CURVE {
                let (manner, moment) = (Manner::Follows, Moment::AtOnce);
                let scheme = Scheme { place, tool, manner, moment };
                let outcome = robbery::play(&rules, 0..40, scheme);
                let stopped = outcome.share(Fate::AtTheDoor);
                let (place, tool) = (format!("{place:?}"), format!("{tool:?}"));
                self.line(&json!({"figure": "stopped", "login_at": login_at, "place": place,
                    "tool": tool, "share": stopped}));
            }
        }
    }

    fn line(&mut self, value: &Value) {
        writeln!(self.0, "{value}").expect("the file of the figures");
        self.1 += 1;
        eprint!("\r{} figures", self.1);
        if std::env::var("LOUD").is_ok() {
            println!("{value}");
        }
    }
}

fn victims(people: u64) -> Range<u64> {
    0..(people / 4).max(12)
}

fn pairs() -> impl Iterator<Item = (Manner, Moment)> {
    MANNERS.into_iter().flat_map(|manner| MOMENTS.map(|moment| (manner, moment)))
}

fn policies(lasting: Lasting) -> [(&'static str, Rules); 7] {
    let enforced = Rules { lasting, ..ENFORCED };
    let end = Thresholds { end: Some(100), ..ENFORCED.thresholds };
    [
        ("off", Rules { lasting, ..OFF }),
        ("monitor", Rules { watch: Watch::Monitor, ..enforced }),
        ("enforce", enforced),
        ("end_at = 100", Rules { thresholds: end, ..enforced }),
        ("login_at = 50", with_login_at(enforced, 50)),
        ("login_at = 40", with_login_at(enforced, 40)),
        ("login_at = 10", with_login_at(enforced, 10)),
    ]
}

/// The milder answers are never dearer than it.
fn with_login_at(rules: Rules, login_at: u32) -> Rules {
    let at_most = |score: Option<u32>| score.map(|score| score.min(login_at));
    let Thresholds { log, renew, end, .. } = rules.thresholds;
    let thresholds =
        Thresholds { log: at_most(log), renew: at_most(renew), login: Some(login_at), end };
    Rules { thresholds, ..rules }
}

fn honest(policy: &str, lasting: Lasting, tally: &Tally) -> Value {
    json!({
        "figure": "honest",
        "policy": policy,
        "lasting": format!("{lasting:?}"),
        "days": tally.days,
        "requests": tally.requests,
        "logins": tally.logins,
        "crashes": tally.crashes,
        "false": tally.false_logins,
        "false_each_thousand": tally.per_thousand(tally.all_false()),
        "ends_each_thousand": tally.per_thousand(tally.false_ends()),
        "moves": tally.moves,
    })
}

fn thief(table: &str, policy: &str, lasting: Lasting, scheme: Scheme, outcome: &Outcome) -> Value {
    let middle = outcome.tried / 2;
    json!({
        "figure": "thief",
        "table": table,
        "policy": policy,
        "lasting": format!("{lasting:?}"),
        "place": format!("{:?}", scheme.place),
        "tool": format!("{:?}", scheme.tool),
        "manner": format!("{:?}", scheme.manner),
        "moment": format!("{:?}", scheme.moment),
        "tried": outcome.tried,
        "fates": outcome.fates,
        "refused": outcome.refused,
        "requests": [outcome.requests.get(middle), outcome.requests.last()],
        "seconds": [outcome.used.get(middle).map(|ms| ms / 1000), outcome.used.last().map(|ms| ms / 1000)],
        "found_after_seconds": [outcome.found_after.get(outcome.found_after.len() / 2).map(|ms| ms / 1000), outcome.found_after.last().map(|ms| ms / 1000)],
        "missed": outcome.missed,
        "caught": outcome.caught,
    })
}
