//! A device: its network, its software and the cookie jar of its browser.

use doorward::session::ClientContext;

use super::auth_under_test::Cookie;
use super::networks::Egress;
use super::rates;
use super::seeded_rng::SeededRng;
use super::software::{Kind, Software};

/// Interval in which browsers write cookies to disk, in milliseconds.
const COOKIE_FLUSH_INTERVAL: u64 = 30_000;

pub struct Device {
    pub jar: Option<Cookie>,
    /// The previous cookie of the jar.
    previous: Option<Cookie>,
    changed: u64,
    /// Number of the browser process; responses to an earlier process are lost.
    pub process: u32,
    pub logging_in: bool,
    pub at: Egress,
    pub software: Software,
}

impl Device {
    pub fn at(at: Egress) -> Device {
        Device {
            jar: None,
            previous: None,
            changed: 0,
            process: 0,
            logging_in: false,
            at,
            software: Software::new(Kind::ChromeWindows),
        }
    }

    pub fn store_cookie(&mut self, cookie: Cookie, now: u64) {
        if self.jar.as_ref() != Some(&cookie) {
            self.previous = self.jar.replace(cookie);
            self.changed = now;
        }
    }

    /// Ends the process. A cookie newer than the last write to disk is lost.
    pub fn crash(&mut self, now: u64, rng: &mut SeededRng) {
        self.kill_process();
        if now - self.changed < rng.between(0, COOKIE_FLUSH_INTERVAL) {
            self.jar = self.previous.take();
        }
    }

    /// Ends the process and with it all pending requests.
    pub fn kill_process(&mut self) {
        self.process += 1;
        self.logging_in = false;
    }

    pub fn context(&self, software: &Software, rng: &mut SeededRng) -> ClientContext {
        let old = !self.at.dual_stack || rng.happens(rates::VPN_FALLBACK.value);
        let address = if old { self.at.v4() } else { self.at.v6() };
        software.context(address, self.at.inspected)
    }

    /// Returns the one-way latency in milliseconds.
    pub fn latency(&self, rng: &mut SeededRng) -> u64 {
        if self.at.mobile { rng.between(30, 600) } else { rng.between(5, 60) }
    }

    pub fn loses_response(&self, rng: &mut SeededRng) -> bool {
        let rate = if self.at.mobile { &rates::LOST_AIR } else { &rates::LOST_WIRE };
        rng.happens(rate.value)
    }
}
