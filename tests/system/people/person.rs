//! A person: where they live and work, what they use, and what will happen to them.

use super::networks::{
    DSL, Egress, FILTER, FILTER_ABROAD, FIRM, FIRST_THIEF_NETWORK, KABEL, MOBIL_EINS,
    MOBIL_EINS_ELSEWHERE, MOBIL_ZWEI, Operator, VPN_FR, VPN_NL,
};
use super::rates;
use super::seeded_rng::SeededRng;
use super::software::{Kind, Software};

pub const DAY: u64 = 24 * 60 * 60 * 1000;

/// ActionKind a person holds in the hand. Each has a browser, a jar and a session of its own.
pub const LAPTOP: usize = 0;
pub const PHONE: usize = 1;

/// Fixed for 30 days.
pub struct Person {
    pub rng: SeededRng,
    pub office: bool,
    pub has_polling_tab: bool,
    pub vpn: bool,
    /// The day of a flight, and to where.
    pub trip: Option<(u64, Destination)>,
    pub travel_card: bool,
    /// The day on which the laptop says that it is a phone.
    pub emulation_day: Option<u64>,
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
pub enum Destination {
    France,
    America,
    Japan,
}

impl Person {
    pub fn new(seed: u64, number: u64) -> Person {
        let rng = SeededRng::new(seed).fork(number);
        let mut own = rng.fork(1);
        let once = |own: &mut SeededRng, rate: &rates::Rate| {
            own.happens(rate.value).then(|| own.between(1, 26))
        };
        let abroad =
            [Destination::France, Destination::France, Destination::America, Destination::Japan];
        Person {
            office: own.happens(rates::OFFICE.value),
            has_polling_tab: own.happens(rates::POLLS.value),
            vpn: own.happens(rates::VPN.value),
            trip: once(&mut own, &rates::FLIES).map(|day| (day, own.choose(&abroad))),
            travel_card: own.happens(rates::TRAVEL_CARD.value),
            emulation_day: once(&mut own, &rates::EMULATES),
            filtered: own.happens(rates::FILTERED.value),
            home: own.choose(&[KABEL, DSL]),
            dual_home: own.happens(rates::DUAL.value),
            renumbered: own.happens(rates::RENUMBERED.value),
            carrier: own.choose(&[MOBIL_EINS, MOBIL_ZWEI]),
            dual_carrier: own.happens(rates::DUAL.value),
            kinds: kinds(&mut own),
            updates: [0, 1].map(|_| own.between(0, rates::UPDATE_DAYS.value as u64 - 1)),
            english: once(&mut own, &rates::LANGUAGE),
            rng,
        }
    }

    /// ActionKind a device runs on a day.
    pub fn software(&self, device: usize, day: u64) -> Software {
        let mut software = Software::new(self.kinds[device]);
        let every = rates::UPDATE_DAYS.value as u64;
        let updates = (day + every - self.updates[device]) / every;
        for update in 0..updates {
            software.version += 1;
            let mut rng = self.rng.fork(9_000 + update * 2 + device as u64);
            software.handshake += u8::from(rng.happens(rates::UPDATE_HANDSHAKE.value));
        }
        if self.english.is_some_and(|from| day >= from) {
            software.language = "en-GB,en";
        }
        software
    }

    pub fn home(&self, day: u64) -> Egress {
        let mut rng = self.rng.fork(8_000 + if self.renumbered { day } else { 0 });
        let fixed = self.rng.fork(8_000).between(0, 20) as u8;
        let network = if rng.happens(0.5) { fixed } else { rng.between(0, 40) as u8 };
        let home = Egress::wired(self.home, network, rng.between(1, 250) as u8);
        Egress { dual_stack: self.dual_home, ..home }
    }

    /// The office has one address, and where a filter stands in front of it, one of a few elsewhere.
    pub fn at_work(&self, rng: &mut SeededRng) -> Egress {
        if !self.filtered {
            return Egress::wired(FIRM, 1, 7);
        }
        let operator = rng.choose(&[FILTER, FILTER, FILTER, FILTER_ABROAD]);
        let network = rng.between(0, 3) as u8;
        Egress { inspected: true, ..Egress::wired(operator, network, 9) }
    }

    /// The carrier's network of the moment; databases put some of it into another town.
    pub fn on_carrier(&self, rng: &mut SeededRng) -> Egress {
        let elsewhere = self.carrier == MOBIL_EINS && rng.happens(0.3);
        let operator = if elsewhere { MOBIL_EINS_ELSEWHERE } else { self.carrier };
        Egress { dual_stack: self.dual_carrier, ..carrier_egress(operator, rng) }
    }
}

/// Somewhere in a carrier's 24 networks.
pub fn carrier_egress(operator: Operator, rng: &mut SeededRng) -> Egress {
    let network = rng.between(0, 23) as u8;
    Egress { mobile: true, ..Egress::wired(operator, network, rng.between(1, 250) as u8) }
}

/// Half of the ways out of a VPN are abroad.
pub fn vpn_egress(rng: &mut SeededRng) -> Egress {
    let operator =
        rng.choose(&[super::networks::DATA_CENTRE, VPN_FR, VPN_NL, super::networks::DATA_CENTRE]);
    Egress::wired(
        operator,
        rng.between(0, 9) as u8,
        rng.between(1, u64::from(FIRST_THIEF_NETWORK)) as u8,
    )
}

/// As many of each as about are in use.
fn kinds(rng: &mut SeededRng) -> [Kind; 2] {
    let laptops = [
        Kind::ChromeWindows,
        Kind::ChromeWindows,
        Kind::ChromeWindows,
        Kind::EdgeWindows,
        Kind::SafariMac,
        Kind::FirefoxLinux,
    ];
    let phones = [Kind::ChromeAndroid, Kind::ChromeAndroid, Kind::SafariPhone];
    [rng.choose(&laptops), rng.choose(&phones)]
}
