//! A thief with a copy of somebody's cookie.

use std::time::Duration;

use doorward::session::{ClientContext, RotationTiming};

use super::device::Device;
use super::guard_under_test::{Cookie, GRACE, GuardUnderTest};
use super::networks::{CABLE_AU, CAFE, CLOUD_US, Egress, FIRST_THIEF_NETWORK};
use super::seeded_rng::SeededRng;
use super::software::{Kind, Software};

/// Where he is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThiefLocation {
    Abroad,
    CloudAbroad,
    /// In the country, at another operator.
    Country,
    /// In the victim's /24.
    Neighbour,
    /// Behind the victim's own address.
    Inside,
}

/// ActionKind he uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThiefSoftware {
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

/// ActionKind he does with new tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenUse {
    FollowsRotation,
    KeepsToken,
    /// Takes one and keeps quiet until its owner must have it too.
    InStepWithOwner,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    pub location: ThiefLocation,
    pub software: ThiefSoftware,
    pub token_use: TokenUse,
    pub copies_at: u64,
    pub waits: u64,
}

pub struct Thief {
    pub plan: Plan,
    cookie: Option<Cookie>,
    from: Option<ClientContext>,
    rng: SeededRng,
    first: Option<u64>,
    last: u64,
    pub admitted: u32,
    /// Why his last request was refused.
    pub denied: Option<&'static str>,
    /// The token before the one that he shows, if he followed a renewal.
    previous: Option<Cookie>,
    /// Since he shows a token that the owner was not offered: when, and what the owner has.
    fork: Option<(u64, Cookie)>,
    /// Requests of the owner that showed the token of before after the grace, and were answered.
    pub undetected_forks: u32,
    /// Requests of the owner that did so and ended it.
    pub detected_forks: u32,
}

/// How it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TheftOutcome {
    /// There was nothing to copy.
    NoCookie,
    /// His first request was refused, and somebody was told.
    AtFirstRequest,
    /// Found out later.
    Detected,
    /// The session had ended by itself, or ended with him in it.
    SessionEnded,
    /// Still in when the simulation ended.
    NeverStopped,
}

/// Refusals that follow from a theft.
const THEFT_REASONS: [&str; 4] = ["theft", "reauthenticate", "not-rotating", "superseded"];

/// Between two of his requests, in the first hour and later.
const FREQUENT_INTERVAL: u64 = 20_000;
pub const REQUEST_INTERVAL: Duration = Duration::from_millis(FREQUENT_INTERVAL);
const RARE_INTERVAL: u64 = 5 * 60_000;
const HOUR: u64 = 60 * 60_000;

/// A quiet that outlasts the owner's pauses, and not the token.
const QUIET: u64 = 4 * 60_000;

/// He gives up after a day and a half.
const GIVE_UP_AFTER: u64 = 36 * HOUR;

impl Thief {
    pub fn new(plan: Plan, rng: SeededRng) -> Thief {
        Thief {
            plan,
            cookie: None,
            from: None,
            rng,
            first: None,
            last: 0,
            admitted: 0,
            denied: None,
            previous: None,
            fork: None,
            undetected_forks: 0,
            detected_forks: 0,
        }
    }

    /// Returns when he uses it.
    pub fn copy_cookie(&mut self, victim: &Device, now: u64) -> Option<u64> {
        self.cookie = Some(victim.jar.clone()?);
        let software = thief_software(self.plan.software, &victim.software);
        let at = thief_egress(self.plan.location, &victim.at);
        self.from = Some(Device::at(at).context(&software, &mut self.rng));
        Some(now + self.plan.waits)
    }

    /// Returns when he asks again.
    pub async fn request(
        &mut self,
        guard: &GuardUnderTest,
        owners: Option<&Cookie>,
        now: u64,
    ) -> Option<u64> {
        let response =
            guard.request(self.cookie.as_ref(), self.from.as_ref()?, RotationTiming::WhenDue).await;
        self.denied = response.denied;
        if response.denied.is_some() {
            return None;
        }
        self.admitted += 1;
        self.last = now;
        let first = *self.first.get_or_insert(now);
        self.track_fork(owners, now);
        let gap = if now - first < HOUR { FREQUENT_INTERVAL } else { RARE_INTERVAL };
        let gap = self.use_new_token(response.token).unwrap_or(gap);
        (now - first < GIVE_UP_AFTER).then_some(now + gap)
    }

    /// How long he keeps quiet, if he does.
    fn use_new_token(&mut self, token: Option<Cookie>) -> Option<u64> {
        let token = token?;
        let quiet = match self.plan.token_use {
            TokenUse::KeepsToken => return None,
            TokenUse::FollowsRotation => None,
            TokenUse::InStepWithOwner => Some(QUIET),
        };
        self.previous = self.cookie.replace(token);
        quiet
    }

    /// He has shown a token while the owner's jar has the one before it.
    fn track_fork(&mut self, owners: Option<&Cookie>, now: u64) {
        let owners = owners.filter(|owners| {
            let is_old = self.fork.as_ref().is_some_and(|(_, old)| old == *owners);
            is_old || self.previous.as_ref() == Some(*owners)
        });
        match owners {
            Some(owners) => drop(self.fork.get_or_insert_with(|| (now, owners.clone()))),
            None => self.fork = None,
        }
    }

    /// The owner's next request after the grace has to end it, if it shows the token of before.
    pub fn owner_requested(
        &mut self,
        shown: Option<&Cookie>,
        denied: Option<&'static str>,
        now: u64,
    ) {
        let Some((since, owners)) = &self.fork else { return };
        let is_late = now >= since + GRACE.as_millis() as u64;
        if shown == Some(owners) && is_late {
            self.undetected_forks += u32::from(denied.is_none());
            self.detected_forks += u32::from(denied == Some("theft"));
        }
    }

    pub fn outcome(&self) -> TheftOutcome {
        match self.denied {
            None if self.first.is_none() => TheftOutcome::NoCookie,
            None => TheftOutcome::NeverStopped,
            Some(why) if !THEFT_REASONS.contains(&why) => TheftOutcome::SessionEnded,
            Some(_) if self.admitted == 0 => TheftOutcome::AtFirstRequest,
            Some(_) => TheftOutcome::Detected,
        }
    }

    /// From his first request to his last that was answered.
    pub fn used_for(&self) -> u64 {
        self.first.map_or(0, |first| self.last - first)
    }
}

fn thief_egress(location: ThiefLocation, victims: &Egress) -> Egress {
    match location {
        ThiefLocation::Abroad => Egress::wired(CABLE_AU, FIRST_THIEF_NETWORK, 66),
        ThiefLocation::CloudAbroad => Egress::wired(CLOUD_US, FIRST_THIEF_NETWORK, 66),
        ThiefLocation::Country => Egress::wired(CAFE, FIRST_THIEF_NETWORK, 66),
        ThiefLocation::Neighbour => Egress { host: 254, dual_stack: false, ..*victims },
        ThiefLocation::Inside => Egress { dual_stack: false, ..*victims },
    }
}

fn thief_software(software: ThiefSoftware, victims: &Software) -> Software {
    match software {
        ThiefSoftware::Program => Software::new(Kind::Curl),
        ThiefSoftware::OtherBrowser if victims.kind == Kind::FirefoxLinux => {
            Software::new(Kind::EdgeWindows)
        }
        ThiefSoftware::OtherBrowser => Software::new(Kind::FirefoxLinux),
        ThiefSoftware::Disguised => Software { handshake: 77, ..*victims },
        ThiefSoftware::OtherVersion => {
            Software { version: victims.version - 3, handshake: 50, ..*victims }
        }
        ThiefSoftware::Newer => {
            Software { version: victims.version + 1, handshake: 77, ..*victims }
        }
        ThiefSoftware::Same => *victims,
    }
}

impl TheftOutcome {
    pub fn as_str(self) -> &'static str {
        match self {
            TheftOutcome::NoCookie => "no cookie",
            TheftOutcome::AtFirstRequest => "at the door",
            TheftOutcome::Detected => "found",
            TheftOutcome::SessionEnded => "over",
            TheftOutcome::NeverStopped => "never",
        }
    }
}
