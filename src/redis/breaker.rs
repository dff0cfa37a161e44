//! A circuit breaker per node. It rejects commands at once while the node does not respond.
//!
//! ```text
//! closed   all commands pass                → open after FAILURE_THRESHOLD failures in a row
//! open     all commands fail at once        → probing after the open period
//! probing  one command passes               → closed after a reply, else open for twice as long
//! ```
//!
//! All workers of the process share it. Without it every request would wait for its deadline while
//! Redis hangs, and all requests would hit Redis at the moment of its recovery.
//!
//! Only timeouts and failed connections count as failures. An error reply is a response.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::secret::random_bytes;

/// Failures in a row that open the breaker.
const FAILURE_THRESHOLD: u32 = 5;
const MIN_OPEN_TIME: Duration = Duration::from_millis(250);
/// Maximum open period. With it, the first reply comes within 2 s of a recovery, even if the last
/// probe started just before it and used its whole connect timeout.
const MAX_OPEN_TIME: Duration = Duration::from_millis(600);

#[derive(Debug, Default)]
pub(super) struct CircuitBreaker {
    /// Checked at every command, without a lock.
    is_open: AtomicBool,
    failures: AtomicU32,
    /// Number of openings. Connections from before the last one are not reused.
    open_count: AtomicU64,
    period: Mutex<OpenPeriod>,
}

#[derive(Debug, Default)]
struct OpenPeriod {
    length: Duration,
    until: Option<Instant>,
    is_probing: bool,
    cause: String,
}

/// Permission to send a command. The holder reports the result. Dropping it reports nothing and
/// allows another probe.
#[derive(Debug)]
pub(super) struct BreakerPermit<'a> {
    breaker: &'a CircuitBreaker,
    is_probe: bool,
    is_reported: bool,
}

/// Error: the breaker is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CircuitOpen {
    /// The error that opened it.
    pub(super) cause: String,
}

impl CircuitBreaker {
    pub(super) fn admit(&self, now: Instant) -> Result<BreakerPermit<'_>, CircuitOpen> {
        if !self.is_open.load(Ordering::Acquire) {
            return Ok(BreakerPermit { breaker: self, is_probe: false, is_reported: false });
        }
        let mut period = self.period.lock();
        let is_over = period.until.is_none_or(|until| until <= now);
        if !is_over || period.is_probing {
            return Err(CircuitOpen { cause: period.cause.clone() });
        }
        period.is_probing = true;
        Ok(BreakerPermit { breaker: self, is_probe: true, is_reported: false })
    }

    pub(super) fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Acquire)
    }

    pub(super) fn open_count(&self) -> u64 {
        self.open_count.load(Ordering::Acquire)
    }

    /// Records that a connection attempt failed for `waiters` commands.
    pub(super) fn record_connect_failures(
        &self,
        waiters: u32,
        cause: impl FnOnce() -> String,
        now: Instant,
    ) {
        let before = self.failures.fetch_add(waiters, Ordering::AcqRel);
        if before.saturating_add(waiters) >= FAILURE_THRESHOLD && !self.is_open() {
            self.open(cause(), now);
        }
    }

    fn open(&self, cause: String, now: Instant) {
        let mut period = self.period.lock();
        // Late failures of the same outage do not extend it.
        if period.until.is_some_and(|until| until > now) && !period.is_probing {
            return;
        }
        period.length =
            if period.is_probing { MAX_OPEN_TIME.min(period.length * 2) } else { MIN_OPEN_TIME };
        period.until = Some(now + jittered(period.length));
        period.is_probing = false;
        period.cause = cause;
        self.open_count.fetch_add(1, Ordering::AcqRel);
        self.is_open.store(true, Ordering::Release);
    }

    fn close(&self) {
        let mut period = self.period.lock();
        *period = OpenPeriod::default();
        self.failures.store(0, Ordering::Release);
        self.is_open.store(false, Ordering::Release);
    }
}

impl BreakerPermit<'_> {
    /// Reports a reply.
    pub(super) fn succeeded(mut self) {
        self.is_reported = true;
        if self.is_probe {
            self.breaker.close();
        } else if self.breaker.failures.load(Ordering::Relaxed) > 0 {
            self.breaker.failures.store(0, Ordering::Release);
        }
    }

    /// Reports a failed connection attempt. The attempt itself was counted by
    /// [`CircuitBreaker::record_connect_failures`], so this only ends a probe.
    pub(super) fn connect_failed(mut self, cause: impl FnOnce() -> String, now: Instant) {
        self.is_reported = true;
        if self.is_probe {
            self.breaker.open(cause(), now);
        }
    }

    /// Reports a timeout.
    pub(super) fn timed_out(mut self, cause: impl FnOnce() -> String, now: Instant) {
        self.is_reported = true;
        let failures = self.breaker.failures.fetch_add(1, Ordering::AcqRel).saturating_add(1);
        if self.is_probe || (failures >= FAILURE_THRESHOLD && !self.breaker.is_open()) {
            self.breaker.open(cause(), now);
        }
    }
}

impl Drop for BreakerPermit<'_> {
    fn drop(&mut self) {
        if self.is_probe && !self.is_reported {
            // The request was cancelled, so the next one probes.
            self.breaker.period.lock().is_probing = false;
        }
    }
}

/// Returns 75 % to 125 % of `length`, so that gateways do not return at the same moment.
fn jittered(length: Duration) -> Duration {
    let [random] = random_bytes::<1>();
    length.mul_f64(0.75 + f64::from(random) / 510.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::connector::CONNECT_TIMEOUT;

    fn fail(breaker: &CircuitBreaker, now: Instant) {
        breaker.admit(now).expect("closed or probing").timed_out(|| "silent".to_owned(), now);
    }

    fn opened(now: Instant) -> CircuitBreaker {
        let breaker = CircuitBreaker::default();
        (0..FAILURE_THRESHOLD).for_each(|_| fail(&breaker, now));
        breaker
    }

    #[test]
    fn the_breaker_opens_after_five_failures_in_a_row() {
        let (breaker, now) = (CircuitBreaker::default(), Instant::now());
        for _ in 0..3 {
            (1..FAILURE_THRESHOLD).for_each(|_| fail(&breaker, now));
            breaker.admit(now).expect("closed").succeeded();
        }
        let breaker = opened(now);
        assert_eq!(breaker.admit(now).expect_err("open").cause, "silent");
        assert!(breaker.is_open());
    }

    #[test]
    fn after_the_open_period_one_command_probes() {
        let now = Instant::now();
        let breaker = opened(now);
        let later = now + MAX_OPEN_TIME * 2;
        let probe = breaker.admit(later).expect("the probe");
        for _ in 0..100 {
            assert!(breaker.admit(later).is_err(), "a second probe");
        }
        probe.succeeded();
        breaker.admit(later).expect("closed").succeeded();
        assert!(!breaker.is_open());
    }

    #[test]
    fn a_cancelled_probe_allows_the_next_one() {
        let now = Instant::now();
        let breaker = opened(now);
        let later = now + MAX_OPEN_TIME * 2;
        drop(breaker.admit(later).expect("the probe"));
        breaker.admit(later).expect("the next probe").succeeded();
    }

    #[test]
    fn the_open_period_grows_up_to_its_limit() {
        let mut now = Instant::now();
        let breaker = opened(now);
        assert!(breaker.admit(now + MIN_OPEN_TIME.mul_f64(0.74)).is_err());
        for _ in 0..10 {
            now += MAX_OPEN_TIME.mul_f64(1.26);
            fail(&breaker, now);
            assert!(breaker.admit(now + MIN_OPEN_TIME.mul_f64(0.74)).is_err());
        }
        assert!(breaker.admit(now + MAX_OPEN_TIME.mul_f64(0.74)).is_err());
    }

    #[test]
    fn a_recovered_server_is_probed_within_two_seconds() {
        let longest = (0..1_000).map(|_| jittered(MAX_OPEN_TIME)).max().unwrap_or_default();
        let worst = CONNECT_TIMEOUT + longest;
        assert!(worst < Duration::from_millis(1_800), "{worst:?} plus a round trip");
    }

    #[test]
    fn a_late_failure_does_not_extend_the_open_period() {
        let now = Instant::now();
        let breaker = CircuitBreaker::default();
        let slow = breaker.admit(now).expect("closed");
        (0..FAILURE_THRESHOLD).for_each(|_| fail(&breaker, now));
        let open_count = breaker.open_count();
        slow.timed_out(|| "late".to_owned(), now + MIN_OPEN_TIME * 100);
        assert_eq!(breaker.open_count(), open_count);
    }
}
