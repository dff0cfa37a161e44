//! An attacker with a copy of a session cookie.

use std::time::Duration;

use doorward::session::{ClientContext, RotationTiming};

use super::auth_under_test::{AuthUnderTest, Cookie, GRACE};
use super::device::Device;
use super::networks::{CABLE_AU, CAFE, CLOUD_US, Egress, FIRST_ATTACKER_NETWORK};
use super::seeded_rng::SeededRng;
use super::software::{Kind, Software};

/// Network location of the attacker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttackerLocation {
    Abroad,
    CloudAbroad,
    /// In the victim's country, at another operator.
    Country,
    /// In the victim's /24 network.
    Neighbour,
    /// At the victim's own address.
    Inside,
}

/// Software of the attacker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttackerSoftware {
    Program,
    OtherBrowser,
    /// A program with the User-Agent of the victim's browser.
    Disguised,
    /// An older version of the victim's browser on the same system.
    OtherVersion,
    /// A program that claims to be a newer version of the victim's browser.
    Newer,
    Same,
}

/// How the attacker handles successor tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenUse {
    FollowsRotation,
    KeepsToken,
    /// Accepts a successor and pauses until the owner has it too.
    InStepWithOwner,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    pub location: AttackerLocation,
    pub software: AttackerSoftware,
    pub token_use: TokenUse,
    pub copies_at: u64,
    pub waits: u64,
}

pub struct Attacker {
    pub plan: Plan,
    cookie: Option<Cookie>,
    from: Option<ClientContext>,
    rng: SeededRng,
    first: Option<u64>,
    last: u64,
    pub admitted: u32,
    /// Deny reason of the last request; `None` if it was allowed.
    pub denied: Option<&'static str>,
    /// The token before the current one, if the attacker accepted a successor.
    previous: Option<Cookie>,
    /// Since when the attacker's token is newer than the owner's, and the owner's token.
    fork: Option<(u64, Cookie)>,
    /// Owner requests with the superseded token after the grace period that were allowed.
    pub undetected_forks: u32,
    /// Owner requests of this kind that ended the session.
    pub detected_forks: u32,
}

/// Outcome of a theft.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TheftOutcome {
    /// The victim had no cookie to copy.
    NoCookie,
    /// The first request was denied.
    AtFirstRequest,
    /// Detected after at least one allowed request.
    Detected,
    /// The session ended by logout or timeout.
    SessionEnded,
    /// Still allowed when the simulation ended.
    NeverStopped,
}

/// Deny reasons that follow from a detected theft.
const THEFT_REASONS: [&str; 4] = ["theft", "reauthenticate", "not-rotating", "superseded"];

/// Milliseconds between two requests in the first hour, and later.
const FREQUENT_INTERVAL: u64 = 20_000;
pub const REQUEST_INTERVAL: Duration = Duration::from_millis(FREQUENT_INTERVAL);
const RARE_INTERVAL: u64 = 5 * 60_000;
const HOUR: u64 = 60 * 60_000;

/// A pause longer than the owner's pauses and shorter than the token lifetime.
const WAIT_AFTER_OWNER: u64 = 4 * 60_000;

/// The attacker stops after this many milliseconds.
const GIVE_UP_AFTER: u64 = 36 * HOUR;

impl Attacker {
    pub fn new(plan: Plan, rng: SeededRng) -> Attacker {
        Attacker {
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

    /// Copies the victim's cookie and returns the time of the first use.
    pub fn copy_cookie(&mut self, victim: &Device, now: u64) -> Option<u64> {
        self.cookie = Some(victim.jar.clone()?);
        let software = attacker_software(self.plan.software, &victim.software);
        let at = attacker_egress(self.plan.location, &victim.at);
        self.from = Some(Device::at(at).context(&software, &mut self.rng));
        Some(now + self.plan.waits)
    }

    /// Sends a request and returns the time of the next one.
    pub async fn request(
        &mut self,
        auth: &AuthUnderTest,
        owners: Option<&Cookie>,
        now: u64,
    ) -> Option<u64> {
        let response =
            auth.request(self.cookie.as_ref(), self.from.as_ref()?, RotationTiming::WhenDue).await;
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

    /// Handles a successor token and returns the pause before the next request, if any.
    fn use_new_token(&mut self, token: Option<Cookie>) -> Option<u64> {
        let token = token?;
        let wait_after_owner = match self.plan.token_use {
            TokenUse::KeepsToken => return None,
            TokenUse::FollowsRotation => None,
            TokenUse::InStepWithOwner => Some(WAIT_AFTER_OWNER),
        };
        self.previous = self.cookie.replace(token);
        wait_after_owner
    }

    /// Records whether the attacker's token is newer than the owner's.
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

    /// Counts owner requests that reveal the theft: those with the superseded token after the grace period.
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

    /// Returns the time from the first to the last allowed request, in milliseconds.
    pub fn used_for(&self) -> u64 {
        self.first.map_or(0, |first| self.last - first)
    }
}

fn attacker_egress(location: AttackerLocation, victims: &Egress) -> Egress {
    match location {
        AttackerLocation::Abroad => Egress::wired(CABLE_AU, FIRST_ATTACKER_NETWORK, 66),
        AttackerLocation::CloudAbroad => Egress::wired(CLOUD_US, FIRST_ATTACKER_NETWORK, 66),
        AttackerLocation::Country => Egress::wired(CAFE, FIRST_ATTACKER_NETWORK, 66),
        AttackerLocation::Neighbour => Egress { host: 254, dual_stack: false, ..*victims },
        AttackerLocation::Inside => Egress { dual_stack: false, ..*victims },
    }
}

fn attacker_software(software: AttackerSoftware, victims: &Software) -> Software {
    match software {
        AttackerSoftware::Program => Software::new(Kind::Curl),
        AttackerSoftware::OtherBrowser if victims.kind == Kind::FirefoxLinux => {
            Software::new(Kind::EdgeWindows)
        }
        AttackerSoftware::OtherBrowser => Software::new(Kind::FirefoxLinux),
        AttackerSoftware::Disguised => Software { handshake: 77, ..*victims },
        AttackerSoftware::OtherVersion => {
            Software { version: victims.version - 3, handshake: 50, ..*victims }
        }
        AttackerSoftware::Newer => {
            Software { version: victims.version + 1, handshake: 77, ..*victims }
        }
        AttackerSoftware::Same => *victims,
    }
}

impl TheftOutcome {
    pub fn as_str(self) -> &'static str {
        match self {
            TheftOutcome::NoCookie => "no cookie",
            TheftOutcome::AtFirstRequest => "refused",
            TheftOutcome::Detected => "detected",
            TheftOutcome::SessionEnded => "ended",
            TheftOutcome::NeverStopped => "never stopped",
        }
    }
}
