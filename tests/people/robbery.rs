//! A cookie is stolen: who, when, and what came of it, over many victims.

use std::collections::BTreeMap;
use std::ops::Range;

use super::crowd::{self, SEED};
use super::days::{self, Deed, What};
use super::dice::Dice;
use super::door::Rules;
use super::life::Life;
use super::person::{DAY, LAPTOP, Person};
use super::thief::{Fate, Manner, Place, Plan, Thief, Tool};

/// When he uses what he copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    AtOnce,
    HoursLater,
    DaysLater,
    /// Copied as the victim leaves for the day, and used while they sleep.
    Asleep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scheme {
    pub place: Place,
    pub tool: Tool,
    pub manner: Manner,
    pub moment: Moment,
}

/// What came of one scheme with many victims.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// With something to copy.
    pub tried: usize,
    pub fates: BTreeMap<&'static str, usize>,
    /// Why his last request was refused.
    pub refused: BTreeMap<&'static str, usize>,
    /// Answered requests of each thief, the fewest first; and for how long, in ms.
    pub requests: Vec<u32>,
    pub used: Vec<u64>,
    /// For how long those who were found later had used it, in ms, the shortest first.
    pub found_after: Vec<u64>,
    /// Requests of owners that should have ended it and did not.
    pub missed: u32,
    /// Requests of owners that ended it.
    pub caught: u32,
}

struct Robbery {
    fate: Fate,
    refused: Option<&'static str>,
    requests: u32,
    used: u64,
    missed: u32,
    caught: u32,
}

/// Plays one scheme with each of these people.
pub fn play(rules: &Rules, victims: Range<u64>, scheme: Scheme) -> Outcome {
    let robberies = crowd::each(rules, victims, |runtime, door, number| {
        let person = Person::new(SEED, number);
        let mut dice = person.dice.aside(4);
        let deeds = some_days(&person, 7 + number % 20);
        let copies_at = moment(&deeds, scheme.moment, &mut dice);
        let Scheme { place, tool, manner, .. } = scheme;
        let waits = waits(scheme.moment, &mut dice);
        let plan = Plan { place, tool, manner, copies_at, waits };
        door.for_person(number, 30);
        let thief = Thief::new(plan, dice.aside(5));
        let mut life = Life::new(door, dice.aside(6), deeds).with_thief(thief);
        runtime.block_on(life.run());
        let thief = life.thief.expect("the thief that was given");
        Robbery {
            fate: thief.fate(),
            refused: thief.refused,
            requests: thief.admitted,
            used: thief.used_for(),
            missed: thief.missed,
            caught: thief.caught,
        }
    });
    Outcome::new(&robberies)
}

/// The day of the theft and three more.
fn some_days(person: &Person, day: u64) -> Vec<Deed> {
    let mut deeds = days::diary(person, day + 4);
    deeds.retain(|deed| deed.at >= day * DAY);
    deeds
}

fn moment(deeds: &[Deed], moment: Moment, dice: &mut Dice) -> u64 {
    let first = deeds.first().map_or(0, |deed| deed.at / DAY);
    let looks: Vec<u64> = deeds
        .iter()
        .filter(|deed| deed.device == LAPTOP && deed.at / DAY == first)
        .filter(|deed| matches!(deed.what, What::Looks(_)))
        .map(|deed| deed.at)
        .collect();
    let last = looks.len().saturating_sub(1);
    let chosen = match moment {
        Moment::AtOnce | Moment::HoursLater | Moment::DaysLater => {
            dice.between(0, (last as u64) * 2 / 3) as usize
        }
        Moment::Asleep => last,
    };
    looks.get(chosen).map_or(0, |at| at + 25_000)
}

fn waits(moment: Moment, dice: &mut Dice) -> u64 {
    const HOUR: u64 = 60 * 60_000;
    match moment {
        Moment::AtOnce => 2_000,
        Moment::HoursLater => dice.between(HOUR, 6 * HOUR),
        Moment::DaysLater => dice.between(DAY, 3 * DAY),
        Moment::Asleep => 10 * 60_000,
    }
}

impl Outcome {
    fn new(robberies: &[Robbery]) -> Outcome {
        let mut outcome = Outcome::default();
        for robbery in robberies.iter().filter(|robbery| robbery.fate != Fate::NoCookie) {
            outcome.tried += 1;
            *outcome.fates.entry(robbery.fate.word()).or_default() += 1;
            let refused = robbery.refused.unwrap_or("not refused");
            *outcome.refused.entry(refused).or_default() += 1;
            outcome.requests.push(robbery.requests);
            outcome.used.push(robbery.used);
            outcome.found_after.extend((robbery.fate == Fate::Found).then_some(robbery.used));
            outcome.missed += robbery.missed;
            outcome.caught += robbery.caught;
        }
        outcome.requests.sort_unstable();
        outcome.used.sort_unstable();
        outcome.found_after.sort_unstable();
        outcome
    }

    pub fn share(&self, fate: Fate) -> f64 {
        let count = self.fates.get(fate.word()).copied().unwrap_or_default();
        count as f64 / self.tried.max(1) as f64
    }

    pub fn worst_requests(&self) -> u32 {
        self.requests.last().copied().unwrap_or_default()
    }

    pub fn worst_use(&self) -> u64 {
        self.used.last().copied().unwrap_or_default()
    }
}
