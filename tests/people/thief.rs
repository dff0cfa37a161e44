//! A thief with a copy of somebody's cookie.

use std::time::Duration;

use doorward::session::{ClientContext, Timing};

use super::device::Device;
use super::dice::Dice;
use super::door::{Cookie, Door, GRACE};
use super::earth::{CABLE_AU, CAFE, CLOUD_US, Egress, THIEVES};
use super::software::{Kind, Software};

/// Where he is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Abroad,
    CloudAbroad,
    /// In the country, at another operator.
    Country,
    /// In the victim's /24.
    Neighbour,
    /// Behind the victim's own address.
    Inside,
}

/// What he uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    Program,
    OtherBrowser,
    /// A program that says that it is the victim's browser.
    Disguised,
    /// The same browser on the same system, of an older version.
    OtherVersion,
    /// A program that says that it is a newer version of the victim's browser.
    Newer,
    Same,
}

/// What he does with new tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    Follows,
    Ignores,
    /// Takes one and keeps quiet until its owner must have it too.
    InStep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    pub place: Place,
    pub tool: Tool,
    pub manner: Manner,
    pub copies_at: u64,
    pub waits: u64,
}

pub struct Thief {
    pub plan: Plan,
    cookie: Option<Cookie>,
    from: Option<ClientContext>,
    dice: Dice,
    first: Option<u64>,
    last: u64,
    pub admitted: u32,
    /// Why his last request was refused.
    pub refused: Option<&'static str>,
    /// The token before the one that he shows, if he followed a renewal.
    before: Option<Cookie>,
    /// Since he shows a token that the owner was not offered: when, and what the owner has.
    split: Option<(u64, Cookie)>,
    /// Requests of the owner that showed the token of before after the grace, and were answered.
    pub missed: u32,
    /// Requests of the owner that did so and ended it.
    pub caught: u32,
}

/// How it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// There was nothing to copy.
    NoCookie,
    /// His first request was refused, and somebody was told.
    AtTheDoor,
    /// Found out later.
    Found,
    /// The session had ended by itself, or ended with him in it.
    Over,
    /// Still in when the simulation ended.
    Never,
}

/// Refusals that follow from a theft.
const FOUND: [&str; 4] = ["theft", "reauthenticate", "not-renewing", "superseded"];

/// Between two of his requests, in the first hour and later.
const OFTEN: u64 = 20_000;
pub const PAUSE: Duration = Duration::from_millis(OFTEN);
const SELDOM: u64 = 5 * 60_000;
const HOUR: u64 = 60 * 60_000;

/// A quiet that outlasts the owner's pauses, and not the token.
const QUIET: u64 = 4 * 60_000;

/// He gives up after a day and a half.
const ENOUGH: u64 = 36 * HOUR;

impl Thief {
    pub fn new(plan: Plan, dice: Dice) -> Thief {
        Thief {
            plan,
            cookie: None,
            from: None,
            dice,
            first: None,
            last: 0,
            admitted: 0,
            refused: None,
            before: None,
            split: None,
            missed: 0,
            caught: 0,
        }
    }

    /// Returns when he uses it.
    pub fn copies(&mut self, victim: &Device, now: u64) -> Option<u64> {
        self.cookie = Some(victim.jar.clone()?);
        let software = disguise(self.plan.tool, &victim.software);
        let at = hideout(self.plan.place, &victim.at);
        self.from = Some(Device::at(at).context(&software, &mut self.dice));
        Some(now + self.plan.waits)
    }

    /// Returns when he asks again.
    pub async fn asks(&mut self, door: &Door, owners: Option<&Cookie>, now: u64) -> Option<u64> {
        let answer = door.ask(self.cookie.as_ref(), self.from.as_ref()?, Timing::Prompt).await;
        self.refused = answer.refused;
        if answer.refused.is_some() {
            return None;
        }
        self.admitted += 1;
        self.last = now;
        let first = *self.first.get_or_insert(now);
        self.looks_for_a_split(owners, now);
        let gap = if now - first < HOUR { OFTEN } else { SELDOM };
        let gap = self.takes(answer.token).unwrap_or(gap);
        (now - first < ENOUGH).then_some(now + gap)
    }

    /// How long he keeps quiet, if he does.
    fn takes(&mut self, token: Option<Cookie>) -> Option<u64> {
        let token = token?;
        let quiet = match self.plan.manner {
            Manner::Ignores => return None,
            Manner::Follows => None,
            Manner::InStep => Some(QUIET),
        };
        self.before = self.cookie.replace(token);
        quiet
    }

    /// He has shown a token while the owner's jar has the one before it.
    fn looks_for_a_split(&mut self, owners: Option<&Cookie>, now: u64) {
        let owners = owners.filter(|owners| {
            let is_old = self.split.as_ref().is_some_and(|(_, old)| old == *owners);
            is_old || self.before.as_ref() == Some(*owners)
        });
        match owners {
            Some(owners) => drop(self.split.get_or_insert_with(|| (now, owners.clone()))),
            None => self.split = None,
        }
    }

    /// The owner's next request after the grace has to end it, if it shows the token of before.
    pub fn owner_asked(&mut self, shown: Option<&Cookie>, refused: Option<&'static str>, now: u64) {
        let Some((since, owners)) = &self.split else { return };
        let is_late = now >= since + GRACE.as_millis() as u64;
        if shown == Some(owners) && is_late {
            self.missed += u32::from(refused.is_none());
            self.caught += u32::from(refused == Some("theft"));
        }
    }

    pub fn fate(&self) -> Fate {
        match self.refused {
            None if self.first.is_none() => Fate::NoCookie,
            None => Fate::Never,
            Some(why) if !FOUND.contains(&why) => Fate::Over,
            Some(_) if self.admitted == 0 => Fate::AtTheDoor,
            Some(_) => Fate::Found,
        }
    }

    /// From his first request to his last that was answered.
    pub fn used_for(&self) -> u64 {
        self.first.map_or(0, |first| self.last - first)
    }
}

fn hideout(place: Place, victims: &Egress) -> Egress {
    match place {
        Place::Abroad => Egress::wired(CABLE_AU, THIEVES, 66),
        Place::CloudAbroad => Egress::wired(CLOUD_US, THIEVES, 66),
        Place::Country => Egress::wired(CAFE, THIEVES, 66),
        Place::Neighbour => Egress { host: 254, dual: false, ..*victims },
        Place::Inside => Egress { dual: false, ..*victims },
    }
}

fn disguise(tool: Tool, victims: &Software) -> Software {
    match tool {
        Tool::Program => Software::new(Kind::Curl),
        Tool::OtherBrowser if victims.kind == Kind::FirefoxLinux => {
            Software::new(Kind::EdgeWindows)
        }
        Tool::OtherBrowser => Software::new(Kind::FirefoxLinux),
        Tool::Disguised => Software { handshake: 77, ..*victims },
        Tool::OtherVersion => Software { version: victims.version - 3, handshake: 50, ..*victims },
        Tool::Newer => Software { version: victims.version + 1, handshake: 77, ..*victims },
        Tool::Same => *victims,
    }
}

impl Fate {
    pub fn word(self) -> &'static str {
        match self {
            Fate::NoCookie => "no cookie",
            Fate::AtTheDoor => "at the door",
            Fate::Found => "found",
            Fate::Over => "over",
            Fate::Never => "never",
        }
    }
}
