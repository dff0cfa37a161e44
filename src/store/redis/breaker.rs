//! A circuit breaker: a server that does not answer is left alone for a moment.
//!
//! ```text
//! closed   everybody asks                 → open after FAILURES failures in a row
//! open     nobody asks, errors come at once → probing when the pause is over
//! probing  one of all asks                → closed if it was answered, else open for twice as long
//! ```
//!
//! One for each server and process, shared by all workers. Without it each request would wait for its
//! deadline while Redis hangs, and all of them would fall on it in the moment it is back.
//!
//! Only silence counts: a server that answers, whatever it answers, is there.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::secret::random_bytes;

/// In a row, until the server is left alone.
const FAILURES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(250);
/// From a server's return to the first answer it is less than 2 s, also when the last probe began just
/// before it, ran into the void, and took all of the time that a connection may take.
const LONGEST_PAUSE: Duration = Duration::from_millis(600);

#[derive(Debug, Default)]
pub(super) struct Breaker {
    /// What is asked at every command, without a lock.
    is_open: AtomicBool,
    failures: AtomicU32,
    /// How often it opened: connections from before are not trusted.
    era: AtomicU64,
    pause: Mutex<Pause>,
}

#[derive(Debug, Default)]
struct Pause {
    length: Duration,
    until: Option<Instant>,
    is_probed: bool,
    cause: String,
}

/// The right to ask. Whoever has it says how it went; dropping it says nothing, and another may probe.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    breaker: &'a Breaker,
    is_probe: bool,
    is_told: bool,
}

/// The server is left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Open {
    /// What was wrong when it opened.
    pub(super) cause: String,
}

impl Breaker {
    pub(super) fn enter(&self, now: Instant) -> Result<Entry<'_>, Open> {
        if !self.is_open.load(Ordering::Acquire) {
            return Ok(Entry { breaker: self, is_probe: false, is_told: false });
        }
        let mut pause = self.pause();
        let is_over = pause.until.is_none_or(|until| until <= now);
        if !is_over || pause.is_probed {
            return Err(Open { cause: pause.cause.clone() });
        }
        pause.is_probed = true;
        Ok(Entry { breaker: self, is_probe: true, is_told: false })
    }

    pub(super) fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Acquire)
    }

    pub(super) fn era(&self) -> u64 {
        self.era.load(Ordering::Acquire)
    }

    /// So many asked, and the server could not be reached; said by who dialled for them.
    pub(super) fn unreached(&self, askers: u32, cause: impl FnOnce() -> String, now: Instant) {
        let before = self.failures.fetch_add(askers, Ordering::AcqRel);
        if before.saturating_add(askers) >= FAILURES && !self.is_open() {
            self.open(cause(), now);
        }
    }

    fn open(&self, cause: String, now: Instant) {
        let mut pause = self.pause();
        // Others fail with the one that opened it.
        if pause.until.is_some_and(|until| until > now) && !pause.is_probed {
            return;
        }
        pause.length = if pause.is_probed { LONGEST_PAUSE.min(pause.length * 2) } else { PAUSE };
        pause.until = Some(now + jittered(pause.length));
        pause.is_probed = false;
        pause.cause = cause;
        self.era.fetch_add(1, Ordering::AcqRel);
        self.is_open.store(true, Ordering::Release);
    }

    fn close(&self) {
        let mut pause = self.pause();
        *pause = Pause::default();
        self.failures.store(0, Ordering::Release);
        self.is_open.store(false, Ordering::Release);
    }

    fn pause(&self) -> MutexGuard<'_, Pause> {
        self.pause.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry<'_> {
    /// The server answered.
    pub(super) fn answered(mut self) {
        self.is_told = true;
        if self.is_probe {
            self.breaker.close();
        } else if self.breaker.failures.load(Ordering::Relaxed) > 0 {
            self.breaker.failures.store(0, Ordering::Release);
        }
    }

    /// The server could not be reached, which who dialled has counted; a probe's end is for us to say.
    pub(super) fn unreached(mut self, cause: impl FnOnce() -> String, now: Instant) {
        self.is_told = true;
        if self.is_probe {
            self.breaker.open(cause(), now);
        }
    }

    /// The server did not answer.
    pub(super) fn silent(mut self, cause: impl FnOnce() -> String, now: Instant) {
        self.is_told = true;
        let failures = self.breaker.failures.fetch_add(1, Ordering::AcqRel).saturating_add(1);
        if self.is_probe || (failures >= FAILURES && !self.breaker.is_open()) {
            self.breaker.open(cause(), now);
        }
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        if self.is_probe && !self.is_told {
            // Its request went away: the next one probes.
            self.breaker.pause().is_probed = false;
        }
    }
}

/// Between three and five quarters: gateways that saw the same end do not all come back at once.
fn jittered(length: Duration) -> Duration {
    let [random] = random_bytes::<1>();
    length.mul_f64(0.75 + f64::from(random) / 510.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::redis::dial::CONNECT_TIMEOUT;

    fn fail(breaker: &Breaker, now: Instant) {
        breaker.enter(now).expect("may ask").silent(|| "silent".to_owned(), now);
    }

    fn opened(now: Instant) -> Breaker {
        let breaker = Breaker::default();
        (0..FAILURES).for_each(|_| fail(&breaker, now));
        breaker
    }

    #[test]
    fn it_opens_after_failures_in_a_row_and_not_before() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        for _ in 0..3 {
            (1..FAILURES).for_each(|_| fail(&breaker, now));
            breaker.enter(now).expect("closed").answered();
        }
        let breaker = opened(now);
        assert_eq!(breaker.enter(now).expect_err("open").cause, "silent");
        assert!(breaker.is_open());
    }

    #[test]
    fn when_the_pause_is_over_one_asks_for_all() {
        let now = Instant::now();
        let breaker = opened(now);
        let later = now + LONGEST_PAUSE * 2;
        let probe = breaker.enter(later).expect("the probe");
        for _ in 0..100 {
            assert!(breaker.enter(later).is_err(), "a second probe");
        }
        probe.answered();
        breaker.enter(later).expect("closed").answered();
        assert!(!breaker.is_open());
    }

    #[test]
    fn a_probe_that_went_away_leaves_its_place_to_the_next() {
        let now = Instant::now();
        let breaker = opened(now);
        let later = now + LONGEST_PAUSE * 2;
        drop(breaker.enter(later).expect("the probe"));
        breaker.enter(later).expect("the next probe").answered();
    }

    #[test]
    fn the_pause_grows_but_never_beyond_the_bound() {
        let mut now = Instant::now();
        let breaker = opened(now);
        assert!(breaker.enter(now + PAUSE.mul_f64(0.74)).is_err());
        for _ in 0..10 {
            now += LONGEST_PAUSE.mul_f64(1.26);
            fail(&breaker, now);
            assert!(breaker.enter(now + PAUSE.mul_f64(0.74)).is_err());
        }
        assert!(breaker.enter(now + LONGEST_PAUSE.mul_f64(0.74)).is_err());
    }

    #[test]
    fn a_server_that_is_back_is_asked_within_two_seconds_whatever_the_last_probe_ran_into() {
        let longest = (0..1_000).map(|_| jittered(LONGEST_PAUSE)).max().unwrap_or_default();
        let worst = CONNECT_TIMEOUT + longest;
        assert!(worst < Duration::from_millis(1_800), "{worst:?} and an answer's way");
    }

    #[test]
    fn a_late_failure_of_an_older_ask_does_not_prolong_the_pause() {
        let now = Instant::now();
        let breaker = Breaker::default();
        let slow = breaker.enter(now).expect("closed");
        (0..FAILURES).for_each(|_| fail(&breaker, now));
        let era = breaker.era();
        slow.silent(|| "late".to_owned(), now + PAUSE * 100);
        assert_eq!(breaker.era(), era);
    }
}
