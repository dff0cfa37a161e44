//! A device: where it is, what it runs, and the one jar of its browser.

use doorward::session::ClientContext;

use super::dice::Dice;
use super::door::Cookie;
use super::earth::Egress;
use super::rates;
use super::software::{Kind, Software};

/// Browsers write cookies to disk every 30 s.
const WRITTEN: u64 = 30_000;

pub struct Device {
    pub jar: Option<Cookie>,
    /// What was in the jar before, and when it was replaced.
    before: Option<Cookie>,
    changed: u64,
    /// Answers to a process that is gone reach nobody.
    pub life: u32,
    pub logging_in: bool,
    pub at: Egress,
    pub software: Software,
}

impl Device {
    pub fn at(at: Egress) -> Device {
        Device {
            jar: None,
            before: None,
            changed: 0,
            life: 0,
            logging_in: false,
            at,
            software: Software::new(Kind::ChromeWindows),
        }
    }

    pub fn keep(&mut self, cookie: Cookie, now: u64) {
        if self.jar.as_ref() != Some(&cookie) {
            self.before = self.jar.replace(cookie);
            self.changed = now;
        }
    }

    /// The process dies. What came in since the last writing is lost.
    pub fn crash(&mut self, now: u64, dice: &mut Dice) {
        self.dies();
        if now - self.changed < dice.between(0, WRITTEN) {
            self.jar = self.before.take();
        }
    }

    /// Whatever is under way is for nobody.
    pub fn dies(&mut self) {
        self.life += 1;
        self.logging_in = false;
    }

    pub fn context(&self, software: &Software, dice: &mut Dice) -> ClientContext {
        let old = !self.at.dual || dice.happens(rates::FALLS_BACK.value);
        let address = if old { self.at.v4() } else { self.at.v6() };
        software.context(address, self.at.inspected)
    }

    /// The time that a message takes one way.
    pub fn way(&self, dice: &mut Dice) -> u64 {
        if self.at.air { dice.between(30, 600) } else { dice.between(5, 60) }
    }

    pub fn loses(&self, dice: &mut Dice) -> bool {
        let rate = if self.at.air { &rates::LOST_AIR } else { &rates::LOST_WIRE };
        dice.happens(rate.value)
    }
}
