//! A person's days at the door, request by request, with a thief among them or without.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use doorward::session::{ClientContext, Timing};

use super::days::{Deed, What};
use super::device::Device;
use super::dice::Dice;
use super::door::{Cookie, Door};
use super::earth::{Egress, KABEL};
use super::person::DAY;
use super::rates;
use super::software::{Kind, Software};
use super::tally::Tally;
use super::thief::Thief;

/// How long it takes to type a password.
const LOGIN: u64 = 20_000;

pub struct Life<'a> {
    door: &'a Door,
    dice: Dice,
    devices: [Device; 2],
    queue: BinaryHeap<Reverse<Due>>,
    queued: u64,
    now: u64,
    /// What the last new place of each device was told with.
    told: [Option<String>; 2],
    pub tally: Tally,
    pub thief: Option<Thief>,
}

/// Something that happens at a time; what was queued first happens first.
struct Due {
    at: u64,
    number: u64,
    event: Event,
}

enum Event {
    Deed(Deed),
    /// A page fetches its parts.
    Parts {
        device: usize,
        life: u32,
    },
    Arrives(Request),
    Lands {
        device: usize,
        life: u32,
        cookie: Cookie,
    },
    LogsIn {
        device: usize,
        life: u32,
    },
    ThiefCopies,
    ThiefAsks,
}

struct Request {
    device: usize,
    life: u32,
    cookie: Option<Cookie>,
    from: ClientContext,
    /// A page, whose refusal somebody sees.
    page: bool,
}

impl<'a> Life<'a> {
    pub fn new(door: &'a Door, dice: Dice, deeds: Vec<Deed>) -> Life<'a> {
        let days = deeds.last().map_or(0, |deed| deed.at / DAY + 1);
        let mut life = Life {
            door,
            dice,
            // Where they are stands in the first deed of each.
            devices: [(); 2].map(|()| Device::at(Egress::wired(KABEL, 0, 1))),
            queue: BinaryHeap::new(),
            queued: 0,
            now: 0,
            told: [None, None],
            tally: Tally { days, ..Tally::default() },
            thief: None,
        };
        for deed in deeds {
            life.queue(deed.at, Event::Deed(deed));
        }
        life
    }

    pub fn with_thief(mut self, thief: Thief) -> Life<'a> {
        self.queue(thief.plan.copies_at, Event::ThiefCopies);
        self.thief = Some(thief);
        self
    }

    /// Until nothing is left to happen.
    pub async fn run(&mut self) {
        while let Some(Reverse(due)) = self.queue.pop() {
            self.now = due.at;
            self.door.at(due.at);
            match due.event {
                Event::Deed(deed) => self.does(&deed),
                Event::Parts { device, life } => self.parts(device, life),
                Event::Arrives(request) => self.arrives(request).await,
                Event::Lands { device, life, cookie } => self.lands(device, life, cookie),
                Event::LogsIn { device, life } => self.logs_in(device, life).await,
                Event::ThiefCopies => self.thief_copies(),
                Event::ThiefAsks => self.thief_asks().await,
            }
        }
    }

    fn does(&mut self, deed: &Deed) {
        let device = deed.device;
        match deed.what {
            What::Moves(at) => self.devices[device].at = at,
            What::Runs(software) => self.devices[device].software = software,
            What::Looks(tabs) => self.looks(device, tabs),
            What::Polls => self.sends(device, false),
            What::Plays => {
                let media = Software { kind: Kind::PhoneMedia, ..self.devices[device].software };
                self.sends_as(device, false, &media);
            }
            What::Crashes => {
                let now = self.now;
                self.devices[device].crash(now, &mut self.dice);
                self.tally.crashes += 1;
                let back = Deed { at: now + 15_000, device, what: What::Looks(3) };
                self.queue(back.at, Event::Deed(back));
            }
            What::Closes => {
                self.looks(device, 1);
                self.devices[device].dies();
            }
        }
    }

    /// Tabs ask at once, and a moment later each page for two of its parts.
    fn looks(&mut self, device: usize, tabs: u8) {
        let life = self.devices[device].life;
        for _ in 0..tabs {
            self.sends(device, true);
            let later = self.now + self.dice.between(200, 1_500);
            self.queue(later, Event::Parts { device, life });
        }
    }

    fn parts(&mut self, device: usize, life: u32) {
        if self.devices[device].life == life {
            self.sends(device, false);
            self.sends(device, false);
        }
    }

    fn sends(&mut self, device: usize, page: bool) {
        let software = self.devices[device].software;
        self.sends_as(device, page, &software);
    }

    fn sends_as(&mut self, device: usize, page: bool, software: &Software) {
        let it = &self.devices[device];
        if it.logging_in {
            return;
        }
        let (cookie, life) = (it.jar.clone(), it.life);
        let from = it.context(software, &mut self.dice);
        let mut at = self.now + it.way(&mut self.dice);
        if it.at.air && self.dice.happens(rates::STUCK.value) {
            at += self.dice.between(5_000, 60_000);
        }
        self.queue(at, Event::Arrives(Request { device, life, cookie, from, page }));
    }

    async fn arrives(&mut self, request: Request) {
        let Request { device, life, cookie, from, page } = request;
        let answer = self.door.ask(cookie.as_ref(), &from, Timing::Prompt).await;
        self.tally.requests += 1;
        if let Some(moved) = answer.moved {
            self.tally.moved(&moved.answer);
            self.told[device] = Some(moved.signals);
        }
        if let Some(thief) = &mut self.thief {
            thief.owner_asked(cookie.as_ref(), answer.refused, self.now);
        }
        if let Some(cookie) = answer.token
            && !self.devices[device].loses(&mut self.dice)
        {
            let at = self.now + self.devices[device].way(&mut self.dice);
            self.queue(at, Event::Lands { device, life, cookie });
        }
        if let Some(refused) = answer.refused
            && page
            && self.devices[device].life == life
        {
            self.refused(device, cookie.as_ref(), refused);
        }
    }

    /// The login page, unless another tab has it already or the jar holds something newer.
    fn refused(&mut self, device: usize, shown: Option<&Cookie>, refused: &'static str) {
        let it = &mut self.devices[device];
        if it.logging_in {
            return;
        }
        if it.jar.as_ref() != shown {
            return self.sends(device, true);
        }
        it.logging_in = true;
        let life = it.life;
        self.tally.login(refused, self.told[device].as_deref());
        self.queue(self.now + LOGIN, Event::LogsIn { device, life });
    }

    fn lands(&mut self, device: usize, life: u32, cookie: Cookie) {
        let it = &mut self.devices[device];
        if it.life == life && !it.logging_in {
            it.keep(cookie, self.now);
        }
    }

    async fn logs_in(&mut self, device: usize, life: u32) {
        let it = &mut self.devices[device];
        if it.life != life {
            return;
        }
        let software = it.software;
        let from = it.context(&software, &mut self.dice);
        let cookie = self.door.log_in(it.jar.as_ref(), from).await;
        it.keep(cookie, self.now);
        it.logging_in = false;
        self.told[device] = None;
        self.looks(device, 1);
    }

    fn thief_copies(&mut self) {
        let Some(thief) = &mut self.thief else { return };
        if let Some(at) = thief.copies(&self.devices[super::person::LAPTOP], self.now) {
            self.queue(at, Event::ThiefAsks);
        }
    }

    async fn thief_asks(&mut self) {
        let Some(thief) = &mut self.thief else { return };
        let owners = self.devices[super::person::LAPTOP].jar.clone();
        if let Some(at) = thief.asks(self.door, owners.as_ref(), self.now).await {
            self.queue(at, Event::ThiefAsks);
        }
    }

    fn queue(&mut self, at: u64, event: Event) {
        self.queued += 1;
        self.queue.push(Reverse(Due { at, number: self.queued, event }));
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Due) -> bool {
        self.number == other.number
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Due) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Due) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}
