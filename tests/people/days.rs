//! What a person does, day by day: a list that does not depend on what any gateway answers, so that all
//! policies meet the same days.

use super::dice::Dice;
use super::earth::{CAFE, Egress, HOTEL_FR, HOTEL_JP, HOTEL_US, MOBILE_FR, MOBILE_JP, MOBILE_US};
use super::earth::{HOTEL, SKY, TRAVEL_SIM};
use super::person::{Abroad, DAY, LAPTOP, PHONE, Person, on_air, way_out};
use super::rates;
use super::software::{Kind, Software};

const MINUTE: u64 = 60 * 1000;
const HOUR: u64 = 60 * MINUTE;

/// Between two looks at a page, on average.
const LOOK: u64 = 150_000;

#[derive(Clone, Copy, Debug)]
pub struct Deed {
    pub at: u64,
    pub device: usize,
    pub what: What,
}

#[derive(Clone, Copy, Debug)]
pub enum What {
    /// The machine is in another network.
    Moves(Egress),
    /// The browser was restarted as this.
    Runs(Software),
    /// Pages are asked for, all at once.
    Looks(u8),
    /// A page asks by itself.
    Polls,
    /// A video is fetched, by another program.
    Plays,
    Crashes,
    /// The lid closes on answers that are under way.
    Closes,
}

/// A stay at one device.
#[derive(Clone, Copy)]
struct Sitting {
    device: usize,
    from: u64,
    until: u64,
    at: Egress,
}

struct Diary<'a> {
    person: &'a Person,
    dice: Dice,
    deeds: Vec<Deed>,
}

/// All that happens in these days, in order.
pub fn diary(person: &Person, days: u64) -> Vec<Deed> {
    let mut diary = Diary { person, dice: person.dice.aside(2), deeds: Vec::new() };
    for day in 0..days {
        match person.flies {
            Some((flight, where_to)) if (flight..flight + 4).contains(&day) => {
                diary.abroad(day, day - flight, where_to);
            }
            Some(_) | None if day % 7 >= 5 => diary.weekend(day),
            Some(_) | None if person.office && day % 7 < 3 => diary.in_the_office(day),
            Some(_) | None => diary.at_home(day),
        }
    }
    diary.deeds.sort_by_key(|deed| deed.at);
    diary.deeds
}

impl Diary<'_> {
    fn in_the_office(&mut self, day: u64) {
        let start = day * DAY + 7 * HOUR + self.dice.between(0, HOUR);
        self.on_the_way(day, start);
        let morning = self.person.at_work(&mut self.dice);
        self.sits(LAPTOP, start + HOUR, 3 * HOUR, morning);
        let afternoon = self.person.at_work(&mut self.dice);
        self.sits(LAPTOP, start + 5 * HOUR, 4 * HOUR, afternoon);
        self.on_the_way(day, start + 9 * HOUR + 30 * MINUTE);
        let home = self.person.home(day);
        self.sits(PHONE, start + 12 * HOUR, 20 * MINUTE, home);
    }

    /// From the house into the train.
    fn on_the_way(&mut self, day: u64, at: u64) {
        let home = self.person.home(day);
        self.sits(PHONE, at, 5 * MINUTE, home);
        let air = self.person.on_air(&mut self.dice);
        self.sits(PHONE, at + 6 * MINUTE, 25 * MINUTE, air);
    }

    fn at_home(&mut self, day: u64) {
        let start = day * DAY + 8 * HOUR + self.dice.between(0, HOUR);
        let home = self.person.home(day);
        self.sits(LAPTOP, start, 4 * HOUR, home);
        let air = self.person.on_air(&mut self.dice);
        self.sits(PHONE, start + 4 * HOUR, 20 * MINUTE, air);
        self.sits(LAPTOP, start + 5 * HOUR, 4 * HOUR, home);
        self.sits(PHONE, start + 11 * HOUR, 20 * MINUTE, home);
    }

    fn weekend(&mut self, day: u64) {
        let start = day * DAY + 9 * HOUR + self.dice.between(0, 2 * HOUR);
        let home = self.person.home(day);
        let air = self.person.on_air(&mut self.dice);
        self.sits(PHONE, start, 10 * MINUTE, home);
        self.sits(PHONE, start + 11 * MINUTE, 20 * MINUTE, air);
        if self.dice.happens(0.3) {
            let cafe = Egress::wired(CAFE, self.dice.between(0, 9) as u8, 20);
            self.sits(LAPTOP, start + 3 * HOUR, HOUR, cafe);
        }
        self.sits(LAPTOP, start + 9 * HOUR, HOUR, home);
    }

    /// A day of flight, two days there, and a day of flight back.
    fn abroad(&mut self, day: u64, trip: u64, where_to: Abroad) {
        let start = day * DAY + 7 * HOUR;
        let (hours, hotel, there) = match where_to {
            Abroad::France => (2, HOTEL_FR, MOBILE_FR),
            Abroad::America => (9, HOTEL_US, MOBILE_US),
            Abroad::Japan => (12, HOTEL_JP, MOBILE_JP),
        };
        let hotel = Egress::wired(hotel, self.dice.between(0, 5) as u8, 3);
        let carrier = if self.person.travel_card { TRAVEL_SIM } else { there };
        if trip == 0 || trip == 3 {
            return self.flight(
                start,
                hours,
                if trip == 0 { hotel } else { self.person.home(day) },
            );
        }
        self.sits(LAPTOP, start + HOUR, 2 * HOUR, hotel);
        for hour in [4, 6, 9] {
            let air = on_air(carrier, &mut self.dice);
            self.sits(PHONE, start + hour * HOUR, 20 * MINUTE, air);
        }
        self.sits(LAPTOP, start + 11 * HOUR, 2 * HOUR, hotel);
    }

    fn flight(&mut self, start: u64, hours: u64, after: Egress) {
        let lounge = Egress::wired(HOTEL, self.dice.between(20, 29) as u8, 4);
        self.sits(LAPTOP, start, HOUR, lounge);
        if self.dice.happens(0.5) {
            let sky = Egress { air: true, ..Egress::wired(SKY, self.dice.between(0, 3) as u8, 5) };
            self.sits(LAPTOP, start + 90 * MINUTE, HOUR, sky);
        }
        self.sits(PHONE, start + (hours + 2) * HOUR, 20 * MINUTE, after);
        self.sits(LAPTOP, start + (hours + 3) * HOUR, HOUR, after);
    }

    fn sits(&mut self, device: usize, from: u64, long: u64, at: Egress) {
        let sitting = Sitting { device, from, until: from + long, at };
        self.starts(&sitting);
        self.looks(&sitting);
        if device == LAPTOP && self.person.polls {
            for at in (from..sitting.until).step_by(120_000) {
                self.note(at, device, What::Polls);
            }
        }
        self.roams(&sitting);
        self.tunnels(&sitting);
        if device == LAPTOP && self.dice.happens(rates::LID.value) {
            self.note(sitting.until + 1, device, What::Closes);
        }
        if self.dice.happens(rates::CRASH.value * long as f64 / HOUR as f64) {
            let at = self.within(&sitting);
            self.note(at, device, What::Crashes);
        }
    }

    /// The browser as it is today, the network, and the tabs of yesterday.
    fn starts(&mut self, sitting: &Sitting) {
        let Sitting { device, from, at, .. } = *sitting;
        let day = from / DAY;
        let mut software = self.person.software(device, day);
        if device == PHONE && self.dice.happens(rates::DESKTOP_PAGE.value) {
            let later = from + 3 * MINUTE;
            self.note(later, device, What::Runs(Software { desktop_page: true, ..software }));
        }
        if device == LAPTOP && self.person.emulates == Some(day) {
            software.poses = Some(Kind::SafariPhone);
            let later = from + 10 * MINUTE;
            self.note(later, device, What::Runs(software));
            software = self.person.software(device, day);
            self.note(later + 10 * MINUTE, device, What::Runs(software));
        }
        self.note(from, device, What::Moves(at));
        self.note(from, device, What::Runs(software));
        let restored = self.dice.happens(rates::RESTORED.value);
        let tabs = if restored { self.dice.between(2, 6) } else { 1 };
        self.note(from + 1, device, What::Looks(tabs as u8));
        if software.kind == Kind::SafariPhone && self.dice.happens(rates::MEDIA.value) {
            let at = self.within(sitting);
            self.note(at, device, What::Plays);
        }
    }

    fn looks(&mut self, sitting: &Sitting) {
        let mut at = sitting.from;
        loop {
            // Somebody rings, or the meeting begins.
            let away = self.dice.happens(0.04);
            at += 1_000 + self.dice.wait(if away { 20 * MINUTE } else { LOOK });
            if at >= sitting.until {
                return;
            }
            self.note(at, sitting.device, What::Looks(1));
        }
    }

    /// Carriers give other addresses.
    fn roams(&mut self, sitting: &Sitting) {
        if !sitting.at.air {
            return;
        }
        let every = rates::CARRIER_MINUTES.value as u64 * MINUTE;
        let mut at = sitting.from + self.dice.wait(every);
        while at < sitting.until {
            let other = on_air(sitting.at.operator, &mut self.dice);
            self.note(at, sitting.device, What::Moves(Egress { dual: sitting.at.dual, ..other }));
            at += self.dice.wait(every);
        }
    }

    fn tunnels(&mut self, sitting: &Sitting) {
        // A company's filter lets no tunnel through.
        if !self.person.vpn || sitting.at.inspected || !self.dice.happens(rates::VPN_ON.value) {
            return;
        }
        let on = self.within(sitting);
        let out = way_out(&mut self.dice);
        self.note(on, sitting.device, What::Moves(Egress { air: sitting.at.air, ..out }));
        if self.dice.happens(0.5) {
            let off = on + (sitting.until - on) / 2;
            self.note(off, sitting.device, What::Moves(sitting.at));
        }
    }

    fn within(&mut self, sitting: &Sitting) -> u64 {
        self.dice.between(sitting.from + 2, sitting.until)
    }

    fn note(&mut self, at: u64, device: usize, what: What) {
        self.deeds.push(Deed { at, device, what });
    }
}
