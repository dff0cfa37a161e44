//! The life signs of one connection: what is under way, since when it rests, and why it has to end.
//!
//! They are noted as cheaply as possible, at every request; only a watcher that sleeps as long as
//! nothing can be due looks at them.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::sleep;

use super::bucket::{Bucket, Rate};

/// Requests that a client may take back: 200 at once, then 10 in a second. A page full of pictures
/// that somebody leaves is a burst; a flood goes on (CVE-2023-44487).
const RESETS: Rate = Rate { every: Duration::from_millis(100), burst: Duration::from_secs(20) };

/// One connection's life signs.
#[derive(Debug)]
pub(super) struct Pulse {
    began: Instant,
    under_way: AtomicU32,
    /// Requests that ever began.
    requests: AtomicU64,
    /// Milliseconds after `began` at which the last request ended; zero before the first.
    rests_since: AtomicU64,
    /// Milliseconds after `began` at which a head's first bytes came, plus one; zero when none did.
    head_since: AtomicU64,
    resets: Mutex<Bucket>,
    displaced: AtomicBool,
    restless: AtomicBool,
    wake: Notify,
}

/// Why a connection has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Nothing was asked for a while: it may say goodbye.
    Idle,
    /// A head began and did not end.
    HeaderLate,
    Displaced,
    Resets,
}

/// What may last how long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    pub(super) header: Duration,
    pub(super) idle: Duration,
}

impl Pulse {
    pub(super) fn new() -> Pulse {
        let now = Instant::now();
        Pulse {
            began: now,
            under_way: AtomicU32::new(0),
            requests: AtomicU64::new(0),
            rests_since: AtomicU64::new(0),
            head_since: AtomicU64::new(0),
            resets: Mutex::new(Bucket::new(now)),
            displaced: AtomicBool::new(false),
            restless: AtomicBool::new(false),
            wake: Notify::new(),
        }
    }

    /// Bytes came while nothing was under way: a head begins.
    pub(super) fn head_begins(&self) {
        if self.is_resting() && self.head_since.load(Ordering::Relaxed) == 0 {
            self.head_since.store(self.millis() + 1, Ordering::Relaxed);
        }
    }

    /// A head is whole.
    pub(super) fn begin(&self) {
        self.head_since.store(0, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.under_way.fetch_add(1, Ordering::Relaxed);
    }

    /// What was answered waits to be taken, or a tunnel goes on.
    pub(super) fn begin_writing(&self) {
        self.under_way.fetch_add(1, Ordering::Relaxed);
    }

    /// Its answer is sent or given up, or what waited is taken.
    pub(super) fn end(&self) {
        self.rests_since.store(self.millis(), Ordering::Relaxed);
        self.under_way.fetch_sub(1, Ordering::Relaxed);
    }

    /// The client took a request back before it was answered.
    pub(super) fn taken_back(&self) {
        let mut resets = self.resets.lock().unwrap_or_else(PoisonError::into_inner);
        if !resets.take(RESETS, Instant::now()) {
            self.restless.store(true, Ordering::Relaxed);
            self.wake.notify_one();
        }
    }

    /// Another connection needs the place.
    pub(super) fn displace(&self) {
        self.displaced.store(true, Ordering::Relaxed);
        self.wake.notify_one();
    }

    pub(super) fn is_displaced(&self) -> bool {
        self.displaced.load(Ordering::Relaxed)
    }

    pub(super) fn is_resting(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) == 0
    }

    /// Requests that ever began here.
    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    pub(super) fn age(&self) -> Duration {
        self.began.elapsed()
    }

    /// Waits until the connection has to end.
    pub(super) async fn watch(&self, patience: Patience) -> End {
        loop {
            match self.look(patience, self.age()) {
                Ok(wait) => tokio::select! {
                    () = sleep(wait) => {}
                    () = self.wake.notified() => {}
                },
                Err(end) => return end,
            }
        }
    }

    /// Waits until the place is wanted for another connection.
    pub(super) async fn displaced(&self) {
        while !self.is_displaced() {
            self.wake.notified().await;
        }
    }

    /// How long nothing can be due, or what is.
    fn look(&self, patience: Patience, now: Duration) -> Result<Duration, End> {
        if self.is_displaced() {
            return Err(End::Displaced);
        }
        if self.restless.load(Ordering::Relaxed) {
            return Err(End::Resets);
        }
        if !self.is_resting() {
            return Ok(patience.header.min(patience.idle));
        }
        let (due, end) = self.due(patience);
        // The signs are in whole milliseconds.
        due.checked_sub(now).filter(|left| *left > Duration::from_millis(1)).ok_or(end)
    }

    fn due(&self, patience: Patience) -> (Duration, End) {
        if let Some(since) = self.head_since.load(Ordering::Relaxed).checked_sub(1) {
            return (Duration::from_millis(since) + patience.header, End::HeaderLate);
        }
        // Browsers open some connections ahead of need: that is no flood, but it may not last.
        if self.requests() == 0 {
            return (patience.header, End::Idle);
        }
        let since = Duration::from_millis(self.rests_since.load(Ordering::Relaxed));
        (since + patience.idle, End::Idle)
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.age().as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience =
        Patience { header: Duration::from_secs(10), idle: Duration::from_secs(60) };

    fn at(pulse: &Pulse, seconds: u64) -> Result<Duration, End> {
        pulse.look(PATIENCE, Duration::from_secs(seconds))
    }

    #[test]
    fn a_first_head_has_ten_seconds_and_later_ones_have_ten_from_their_first_byte() {
        let pulse = Pulse::new();
        assert!(at(&pulse, 9).is_ok());
        assert_eq!(at(&pulse, 11), Err(End::Idle));
        pulse.head_begins();
        assert_eq!(at(&pulse, 11), Err(End::HeaderLate));
        pulse.begin();
        pulse.end();
        assert!(at(&pulse, 11).is_ok());
        pulse.head_begins();
        assert_eq!(at(&pulse, 11), Err(End::HeaderLate));
        pulse.begin();
        assert!(at(&pulse, 1_000).is_ok(), "a request may take its time");
    }

    #[test]
    fn between_two_requests_there_are_sixty_seconds() {
        let pulse = Pulse::new();
        pulse.begin();
        pulse.begin();
        pulse.end();
        assert!(at(&pulse, 3_600).is_ok(), "one is still under way");
        pulse.end();
        assert!(at(&pulse, 59).is_ok());
        assert_eq!(at(&pulse, 61), Err(End::Idle));
    }

    #[test]
    fn an_answer_whose_end_waits_to_be_taken_is_no_rest() {
        let pulse = Pulse::new();
        pulse.begin();
        pulse.begin_writing();
        pulse.end();
        assert!(at(&pulse, 3_600).is_ok());
        pulse.end();
        assert_eq!(at(&pulse, 61), Err(End::Idle));
        assert_eq!(pulse.requests(), 1);
    }

    #[test]
    fn cve_2023_44487_a_page_that_is_left_is_no_flood_and_a_flood_is() {
        let pulse = Pulse::new();
        pulse.begin();
        (0..200).for_each(|_| pulse.taken_back());
        assert!(at(&pulse, 1).is_ok());
        (0..50).for_each(|_| pulse.taken_back());
        assert_eq!(at(&pulse, 1), Err(End::Resets));
    }

    #[tokio::test]
    async fn a_displaced_connection_hears_of_it_at_once() {
        let pulse = Pulse::new();
        pulse.displace();
        assert_eq!(pulse.watch(PATIENCE).await, End::Displaced);
    }
}
