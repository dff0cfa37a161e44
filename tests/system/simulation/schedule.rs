//! The actions of a user, day by day. They do not depend on the gateway's responses, so every policy is tested
//! with the same days.

use super::networks::{
    CAFE, Egress, HOTEL_FR, HOTEL_JP, HOTEL_US, MOBILE_FR, MOBILE_JP, MOBILE_US,
};
use super::networks::{HOTEL, IN_FLIGHT, TRAVEL_SIM};
use super::person::{DAY, Destination, LAPTOP, PHONE, Person, carrier_egress, vpn_egress};
use super::rates;
use super::seeded_rng::SeededRng;
use super::software::{Kind, Software};

const MINUTE: u64 = 60 * 1000;
const HOUR: u64 = 60 * MINUTE;

/// Mean time between two page views, in milliseconds.
const MEAN_PAGE_INTERVAL: u64 = 150_000;

#[derive(Clone, Copy, Debug)]
pub struct Action {
    pub at: u64,
    pub device: usize,
    pub kind: ActionKind,
}

#[derive(Clone, Copy, Debug)]
pub enum ActionKind {
    /// The device changes to this network.
    ChangeNetwork(Egress),
    /// The browser restarts as this software.
    ChangeSoftware(Software),
    /// The browser loads this many pages at once.
    LoadPages(u8),
    /// A page polls in the background.
    Poll,
    /// Another program on the device fetches a video.
    PlayMedia,
    Crash,
    /// The lid closes while responses are pending.
    CloseLid,
}

/// A period of use of one device in one network.
#[derive(Clone, Copy)]
struct UsagePeriod {
    device: usize,
    from: u64,
    until: u64,
    at: Egress,
}

struct ScheduleBuilder<'a> {
    person: &'a Person,
    rng: SeededRng,
    actions: Vec<Action>,
}

/// Returns all actions of these days in order.
pub fn schedule(person: &Person, days: u64) -> Vec<Action> {
    let mut builder = ScheduleBuilder { person, rng: person.rng.fork(2), actions: Vec::new() };
    for day in 0..days {
        match person.trip {
            Some((flight, where_to)) if (flight..flight + 4).contains(&day) => {
                builder.abroad(day, day - flight, where_to);
            }
            Some(_) | None if day % 7 >= 5 => builder.weekend(day),
            Some(_) | None if person.office && day % 7 < 3 => builder.in_the_office(day),
            Some(_) | None => builder.at_home(day),
        }
    }
    builder.actions.sort_by_key(|action| action.at);
    builder.actions
}

impl ScheduleBuilder<'_> {
    fn in_the_office(&mut self, day: u64) {
        let start = day * DAY + 7 * HOUR + self.rng.between(0, HOUR);
        self.add_commute(day, start);
        let morning = self.person.at_work(&mut self.rng);
        self.add_period(LAPTOP, start + HOUR, 3 * HOUR, morning);
        let afternoon = self.person.at_work(&mut self.rng);
        self.add_period(LAPTOP, start + 5 * HOUR, 4 * HOUR, afternoon);
        self.add_commute(day, start + 9 * HOUR + 30 * MINUTE);
        let home = self.person.home(day);
        self.add_period(PHONE, start + 12 * HOUR, 20 * MINUTE, home);
    }

    /// Uses the phone at home and then on the train.
    fn add_commute(&mut self, day: u64, at: u64) {
        let home = self.person.home(day);
        self.add_period(PHONE, at, 5 * MINUTE, home);
        let air = self.person.on_carrier(&mut self.rng);
        self.add_period(PHONE, at + 6 * MINUTE, 25 * MINUTE, air);
    }

    fn at_home(&mut self, day: u64) {
        let start = day * DAY + 8 * HOUR + self.rng.between(0, HOUR);
        let home = self.person.home(day);
        self.add_period(LAPTOP, start, 4 * HOUR, home);
        let air = self.person.on_carrier(&mut self.rng);
        self.add_period(PHONE, start + 4 * HOUR, 20 * MINUTE, air);
        self.add_period(LAPTOP, start + 5 * HOUR, 4 * HOUR, home);
        self.add_period(PHONE, start + 11 * HOUR, 20 * MINUTE, home);
    }

    fn weekend(&mut self, day: u64) {
        let start = day * DAY + 9 * HOUR + self.rng.between(0, 2 * HOUR);
        let home = self.person.home(day);
        let air = self.person.on_carrier(&mut self.rng);
        self.add_period(PHONE, start, 10 * MINUTE, home);
        self.add_period(PHONE, start + 11 * MINUTE, 20 * MINUTE, air);
        if self.rng.happens(0.3) {
            let cafe = Egress::wired(CAFE, self.rng.between(0, 9) as u8, 20);
            self.add_period(LAPTOP, start + 3 * HOUR, HOUR, cafe);
        }
        self.add_period(LAPTOP, start + 9 * HOUR, HOUR, home);
    }

    /// Adds a day of a trip: a flight, two days there, and a flight back.
    fn abroad(&mut self, day: u64, trip: u64, where_to: Destination) {
        let start = day * DAY + 7 * HOUR;
        let (hours, hotel, there) = match where_to {
            Destination::France => (2, HOTEL_FR, MOBILE_FR),
            Destination::America => (9, HOTEL_US, MOBILE_US),
            Destination::Japan => (12, HOTEL_JP, MOBILE_JP),
        };
        let hotel = Egress::wired(hotel, self.rng.between(0, 5) as u8, 3);
        let carrier = if self.person.travel_card { TRAVEL_SIM } else { there };
        if trip == 0 || trip == 3 {
            return self.flight(
                start,
                hours,
                if trip == 0 { hotel } else { self.person.home(day) },
            );
        }
        self.add_period(LAPTOP, start + HOUR, 2 * HOUR, hotel);
        for hour in [4, 6, 9] {
            let air = carrier_egress(carrier, &mut self.rng);
            self.add_period(PHONE, start + hour * HOUR, 20 * MINUTE, air);
        }
        self.add_period(LAPTOP, start + 11 * HOUR, 2 * HOUR, hotel);
    }

    fn flight(&mut self, start: u64, hours: u64, after: Egress) {
        let lounge = Egress::wired(HOTEL, self.rng.between(20, 29) as u8, 4);
        self.add_period(LAPTOP, start, HOUR, lounge);
        if self.rng.happens(0.5) {
            let sky = Egress {
                mobile: true,
                ..Egress::wired(IN_FLIGHT, self.rng.between(0, 3) as u8, 5)
            };
            self.add_period(LAPTOP, start + 90 * MINUTE, HOUR, sky);
        }
        self.add_period(PHONE, start + (hours + 2) * HOUR, 20 * MINUTE, after);
        self.add_period(LAPTOP, start + (hours + 3) * HOUR, HOUR, after);
    }

    fn add_period(&mut self, device: usize, from: u64, long: u64, at: Egress) {
        let period = UsagePeriod { device, from, until: from + long, at };
        self.add_start(&period);
        self.add_page_views(&period);
        if device == LAPTOP && self.person.has_polling_tab {
            for at in (from..period.until).step_by(120_000) {
                self.push(at, device, ActionKind::Poll);
            }
        }
        self.add_roaming(&period);
        self.add_vpn(&period);
        if device == LAPTOP && self.rng.happens(rates::LID_CLOSED.value) {
            self.push(period.until + 1, device, ActionKind::CloseLid);
        }
        if self.rng.happens(rates::CRASH.value * long as f64 / HOUR as f64) {
            let at = self.within(&period);
            self.push(at, device, ActionKind::Crash);
        }
    }

    /// Adds the software and network of the day and restores tabs.
    fn add_start(&mut self, period: &UsagePeriod) {
        let UsagePeriod { device, from, at, .. } = *period;
        let day = from / DAY;
        let mut software = self.person.software(device, day);
        if device == PHONE && self.rng.happens(rates::DESKTOP_PAGE.value) {
            let later = from + 3 * MINUTE;
            self.push(
                later,
                device,
                ActionKind::ChangeSoftware(Software { desktop_page: true, ..software }),
            );
        }
        if device == LAPTOP && self.person.emulation_day == Some(day) {
            software.claims_to_be = Some(Kind::SafariPhone);
            let later = from + 10 * MINUTE;
            self.push(later, device, ActionKind::ChangeSoftware(software));
            software = self.person.software(device, day);
            self.push(later + 10 * MINUTE, device, ActionKind::ChangeSoftware(software));
        }
        self.push(from, device, ActionKind::ChangeNetwork(at));
        self.push(from, device, ActionKind::ChangeSoftware(software));
        let restored = self.rng.happens(rates::RESTORED.value);
        let tabs = if restored { self.rng.between(2, 6) } else { 1 };
        self.push(from + 1, device, ActionKind::LoadPages(tabs as u8));
        if software.kind == Kind::SafariPhone && self.rng.happens(rates::MEDIA.value) {
            let at = self.within(period);
            self.push(at, device, ActionKind::PlayMedia);
        }
    }

    fn add_page_views(&mut self, period: &UsagePeriod) {
        let mut at = period.from;
        loop {
            // A longer break, such as a call or a meeting.
            let away = self.rng.happens(0.04);
            at += 1_000 + self.rng.wait(if away { 20 * MINUTE } else { MEAN_PAGE_INTERVAL });
            if at >= period.until {
                return;
            }
            self.push(at, period.device, ActionKind::LoadPages(1));
        }
    }

    /// Adds address changes within the carrier's networks.
    fn add_roaming(&mut self, period: &UsagePeriod) {
        if !period.at.mobile {
            return;
        }
        let every = rates::CARRIER_MINUTES.value as u64 * MINUTE;
        let mut at = period.from + self.rng.wait(every);
        while at < period.until {
            let other = carrier_egress(period.at.operator, &mut self.rng);
            self.push(
                at,
                period.device,
                ActionKind::ChangeNetwork(Egress { dual_stack: period.at.dual_stack, ..other }),
            );
            at += self.rng.wait(every);
        }
    }

    fn add_vpn(&mut self, period: &UsagePeriod) {
        // A web filter blocks VPN connections.
        if !self.person.vpn || period.at.inspected || !self.rng.happens(rates::VPN_ON.value) {
            return;
        }
        let on = self.within(period);
        let out = vpn_egress(&mut self.rng);
        self.push(
            on,
            period.device,
            ActionKind::ChangeNetwork(Egress { mobile: period.at.mobile, ..out }),
        );
        if self.rng.happens(0.5) {
            let off = on + (period.until - on) / 2;
            self.push(off, period.device, ActionKind::ChangeNetwork(period.at));
        }
    }

    fn within(&mut self, period: &UsagePeriod) -> u64 {
        self.rng.between(period.from + 2, period.until)
    }

    fn push(&mut self, at: u64, device: usize, kind: ActionKind) {
        self.actions.push(Action { at, device, kind });
    }
}
