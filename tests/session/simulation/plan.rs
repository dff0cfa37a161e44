//! The plan of one seed, and the bounds of an honest schedule.
//!
//! An honest client is never refused while
//! - a request is decided within half a grace period after it was sent, and the gateways' clocks differ
//!   by less than the other half
//! - a response arrives within two grace periods, and before the next rotation is due
//! - clocks step forward together, and only while nothing is in flight; they may step back at any time
//! - tokens are used for at least a minute, so a crash, which undoes at most 30 s, spans one rotation

use std::time::Duration;

use doorward::session::{OnReuse, SessionPolicy};

/// A small seeded generator (splitmix64).
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0xd1b5_4a32_d192_ed03)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let a = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let b = (a ^ (a >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        b ^ (b >> 31)
    }

    /// Returns a number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high.saturating_sub(low) + 1)
    }

    pub fn percent(&mut self, chance: u64) -> bool {
        self.next() % 100 < chance
    }

    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.next() as u8)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attacker {
    /// Keeps presenting the copied token.
    Ignores,
    /// Follows every rotation.
    Follows,
    /// Waits until the copied token is superseded.
    Old,
}

/// All times in milliseconds.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub policy: SessionPolicy,
    pub grace: u64,
    pub rotate: u64,
    pub horizon: u64,
    pub browsers: usize,
    /// Longest time from sending a request to its decision.
    pub uplink: u64,
    /// Longest time from a decision to the arrival of the response.
    pub downlink: u64,
    /// Whether a response and the next request together take less than a grace period. Then three ignored
    /// offers are three lost ones.
    pub short: bool,
    /// Maximum deviation of a gateway's clock from the common one.
    pub skew: u64,
    pub lost_percent: u64,
    pub crashes: bool,
    pub roams: bool,
    pub steps_back: bool,
    pub steps_forward: bool,
    pub wild_clocks: bool,
    pub logs_out: bool,
    pub rotates_keys: bool,
    pub polls: bool,
    pub attacker: Option<Attacker>,
}

impl Plan {
    pub fn honest(seed: u64) -> Plan {
        let rng = &mut Rng::new(seed);
        let crashes = rng.percent(40);
        let grace = 1_000 * [10, 20, 30][rng.between(0, 2) as usize];
        let rotate = (2 * grace).max(60_000) + 1_000 * rng.between(0, 1) * rng.between(0, 240);
        let idle = 60_000 * rng.between(5, 30);
        let absolute = idle + 60_000 * rng.between(5, 60);
        let short = rng.percent(60);
        let slow = (2 * grace).min(rotate - grace) - 1_000;
        let ms = Duration::from_millis;
        Plan {
            seed,
            policy: SessionPolicy::new(
                ms(idle),
                ms(absolute),
                ms(rotate),
                ms(grace),
                OnReuse::Revoke,
            )
            .expect("in order"),
            grace,
            rotate,
            horizon: 60_000 * rng.between(30, 90),
            browsers: rng.between(1, 3) as usize,
            uplink: (grace / 2 - 1_500).min(12_000),
            downlink: if short { grace / 4 } else { slow },
            short,
            skew: if rng.percent(50) { grace / 16 } else { 0 },
            lost_percent: [0, 2, 10, 60][rng.between(0, 3) as usize],
            crashes,
            roams: !crashes && rng.percent(50),
            steps_back: rng.percent(30),
            steps_forward: !crashes && rng.percent(30),
            wild_clocks: false,
            logs_out: rng.percent(30),
            rotates_keys: rng.percent(50),
            polls: rng.percent(40),
            attacker: None,
        }
    }

    pub fn with_attacker(seed: u64, attacker: Attacker) -> Plan {
        let steps_forward = false;
        let roams = false;
        Plan { attacker: Some(attacker), browsers: 1, steps_forward, roams, ..Plan::honest(seed) }
    }

    /// Each clock steps by up to five minutes, independently and at any time.
    pub fn wild_clocks(seed: u64) -> Plan {
        Plan { wild_clocks: true, skew: 300_000, steps_back: false, ..Plan::honest(seed) }
    }

    /// No losses, crashes, steps or logouts.
    pub fn calm(seed: u64) -> Plan {
        let off = false;
        Plan {
            lost_percent: 0,
            crashes: off,
            roams: off,
            steps_back: off,
            steps_forward: off,
            logs_out: off,
            ..Plan::honest(seed)
        }
    }
}
