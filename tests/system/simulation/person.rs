//! A user: home, workplace, devices and the events of the month.

use super::networks::{
    DSL, Egress, FILTER, FILTER_ABROAD, FIRM, FIRST_ATTACKER_NETWORK, KABEL, MOBIL_EINS,
    MOBIL_EINS_OTHER_CITY, MOBIL_ZWEI, Operator, VPN_FR, VPN_NL,
};
use super::rates;
use super::seeded_rng::SeededRng;
use super::software::{Kind, Software};

pub const DAY: u64 = 24 * 60 * 60 * 1000;

/// Indices of the devices. Each has a separate browser, jar and session.
pub const LAPTOP: usize = 0;
pub const PHONE: usize = 1;

/// The properties of a user, fixed for 30 days.
pub struct Person {
    pub rng: SeededRng,
    pub office: bool,
    pub has_polling_tab: bool,
    pub vpn: bool,
    /// Day and destination of a trip, if any.
    pub trip: Option<(u64, Destination)>,
    pub travel_card: bool,
    /// Day on which developer tools make the laptop claim to be a phone, if any.
    pub emulation_day: Option<u64>,
    filtered: bool,
    home: Operator,
    dual_home: bool,
    renumbered: bool,
    carrier: Operator,
    dual_carrier: bool,
    kinds: [Kind; 2],
    /// Day of the first update of each device's browser.
    updates: [u64; 2],
    /// First day on which both browsers prefer English, if any.
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
            emulation_day: once(&mut own, &rates::DEVICE_EMULATION),
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

    /// Returns the software of a device on a day.
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

    /// Returns the office's address, or an address of its web filter.
    pub fn at_work(&self, rng: &mut SeededRng) -> Egress {
        if !self.filtered {
            return Egress::wired(FIRM, 1, 7);
        }
        let operator = rng.choose(&[FILTER, FILTER, FILTER, FILTER_ABROAD]);
        let network = rng.between(0, 3) as u8;
        Egress { inspected: true, ..Egress::wired(operator, network, 9) }
    }

    /// Returns a network of the user's carrier; the databases place some of them in another city.
    pub fn on_carrier(&self, rng: &mut SeededRng) -> Egress {
        let in_other_city = self.carrier == MOBIL_EINS && rng.happens(0.3);
        let operator = if in_other_city { MOBIL_EINS_OTHER_CITY } else { self.carrier };
        Egress { dual_stack: self.dual_carrier, ..carrier_egress(operator, rng) }
    }
}

/// Returns an address in one of a carrier's 24 networks.
pub fn carrier_egress(operator: Operator, rng: &mut SeededRng) -> Egress {
    let network = rng.between(0, 23) as u8;
    Egress { mobile: true, ..Egress::wired(operator, network, rng.between(1, 250) as u8) }
}

/// Returns a VPN egress; half of them are abroad.
pub fn vpn_egress(rng: &mut SeededRng) -> Egress {
    let operator =
        rng.choose(&[super::networks::DATA_CENTRE, VPN_FR, VPN_NL, super::networks::DATA_CENTRE]);
    Egress::wired(
        operator,
        rng.between(0, 9) as u8,
        rng.between(1, u64::from(FIRST_ATTACKER_NETWORK)) as u8,
    )
}

/// Returns the browsers of both devices, weighted by market share.
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
