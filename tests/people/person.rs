//! A person: where they live and work, what they use, and what will happen to them.

use super::dice::Dice;
use super::earth::{
    DSL, Egress, FILTER, FILTER_ABROAD, FIRM, KABEL, MOBIL_EINS, MOBIL_EINS_ELSEWHERE, MOBIL_ZWEI,
    Operator, THIEVES, VPN_FR, VPN_NL,
};
use super::rates;
use super::software::{Kind, Software};

pub const DAY: u64 = 24 * 60 * 60 * 1000;

/// What a person holds in the hand. Each has a browser, a jar and a session of its own.
pub const LAPTOP: usize = 0;
pub const PHONE: usize = 1;

/// Fixed for 30 days.
pub struct Person {
    pub dice: Dice,
    pub office: bool,
    pub polls: bool,
    pub vpn: bool,
    /// The day of a flight, and to where.
    pub flies: Option<(u64, Abroad)>,
    pub travel_card: bool,
    /// The day on which the laptop says that it is a phone.
    pub emulates: Option<u64>,
    filtered: bool,
    home: Operator,
    dual_home: bool,
    renumbered: bool,
    carrier: Operator,
    dual_carrier: bool,
    kinds: [Kind; 2],
    /// Day of the first update of each browser.
    updates: [u64; 2],
    /// The day from which on both browsers ask for English.
    english: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abroad {
    France,
    America,
    Japan,
}

impl Person {
    pub fn new(seed: u64, number: u64) -> Person {
        let dice = Dice::new(seed).aside(number);
        let mut own = dice.aside(1);
        let once = |own: &mut Dice, rate: &rates::Rate| {
            own.happens(rate.value).then(|| own.between(1, 26))
        };
        let abroad = [Abroad::France, Abroad::France, Abroad::America, Abroad::Japan];
        Person {
            office: own.happens(rates::OFFICE.value),
            polls: own.happens(rates::POLLS.value),
            vpn: own.happens(rates::VPN.value),
            flies: once(&mut own, &rates::FLIES).map(|day| (day, own.one_of(&abroad))),
            travel_card: own.happens(rates::TRAVEL_CARD.value),
            emulates: once(&mut own, &rates::EMULATES),
            filtered: own.happens(rates::FILTERED.value),
            home: own.one_of(&[KABEL, DSL]),
            dual_home: own.happens(rates::DUAL.value),
            renumbered: own.happens(rates::RENUMBERED.value),
            carrier: own.one_of(&[MOBIL_EINS, MOBIL_ZWEI]),
            dual_carrier: own.happens(rates::DUAL.value),
            kinds: kinds(&mut own),
            updates: [0, 1].map(|_| own.between(0, rates::UPDATE_DAYS.value as u64 - 1)),
            english: once(&mut own, &rates::LANGUAGE),
            dice,
        }
    }

    /// What a device runs on a day.
    pub fn software(&self, device: usize, day: u64) -> Software {
        let mut software = Software::new(self.kinds[device]);
        let every = rates::UPDATE_DAYS.value as u64;
        let updates = (day + every - self.updates[device]) / every;
        for update in 0..updates {
            software.version += 1;
            let mut dice = self.dice.aside(9_000 + update * 2 + device as u64);
            software.handshake += u8::from(dice.happens(rates::UPDATE_HANDSHAKE.value));
        }
        if self.english.is_some_and(|from| day >= from) {
            software.language = "en-GB,en";
        }
        software
    }

    pub fn home(&self, day: u64) -> Egress {
        let mut dice = self.dice.aside(8_000 + if self.renumbered { day } else { 0 });
        let fixed = self.dice.aside(8_000).between(0, 20) as u8;
        let network = if dice.happens(0.5) { fixed } else { dice.between(0, 40) as u8 };
        let home = Egress::wired(self.home, network, dice.between(1, 250) as u8);
        Egress { dual: self.dual_home, ..home }
    }

    /// The office has one address, and where a filter stands in front of it, one of a few elsewhere.
    pub fn at_work(&self, dice: &mut Dice) -> Egress {
        if !self.filtered {
            return Egress::wired(FIRM, 1, 7);
        }
        let operator = dice.one_of(&[FILTER, FILTER, FILTER, FILTER_ABROAD]);
        let network = dice.between(0, 3) as u8;
        Egress { inspected: true, ..Egress::wired(operator, network, 9) }
    }

    /// The carrier's network of the moment; databases put some of it into another town.
    pub fn on_air(&self, dice: &mut Dice) -> Egress {
        let elsewhere = self.carrier == MOBIL_EINS && dice.happens(0.3);
        let operator = if elsewhere { MOBIL_EINS_ELSEWHERE } else { self.carrier };
        Egress { dual: self.dual_carrier, ..on_air(operator, dice) }
    }
}

/// Somewhere in a carrier's 24 networks.
pub fn on_air(operator: Operator, dice: &mut Dice) -> Egress {
    let network = dice.between(0, 23) as u8;
    Egress { air: true, ..Egress::wired(operator, network, dice.between(1, 250) as u8) }
}

/// Half of the ways out of a VPN are abroad.
pub fn way_out(dice: &mut Dice) -> Egress {
    let operator =
        dice.one_of(&[super::earth::DATA_CENTRE, VPN_FR, VPN_NL, super::earth::DATA_CENTRE]);
    Egress::wired(operator, dice.between(0, 9) as u8, dice.between(1, u64::from(THIEVES)) as u8)
}

/// As many of each as about are in use.
fn kinds(dice: &mut Dice) -> [Kind; 2] {
    let laptops = [
        Kind::ChromeWindows,
        Kind::ChromeWindows,
        Kind::ChromeWindows,
        Kind::EdgeWindows,
        Kind::SafariMac,
        Kind::FirefoxLinux,
    ];
    let phones = [Kind::ChromeAndroid, Kind::ChromeAndroid, Kind::SafariPhone];
    [dice.one_of(&laptops), dice.one_of(&phones)]
}
