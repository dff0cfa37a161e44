//! How long one side may keep the other waiting.
//!
//! Two bounds in one: a single silence is at most `idle` long, and all silences together are at most
//! `idle` and what the bytes moved so far are worth at `rate`. Somebody who sends one byte before each
//! timeout is so found out, and a link that is slow but moves is not. Only waiting counts: while the
//! other side is the slow one, no time passes here.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// When one exchange has to be over, however well it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Deadline {
    pub(super) at: Instant,
    pub(super) why: Late,
}

/// Whose limit it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Late {
    /// `request_timeout`.
    Request,
    /// `max_connection_age`.
    Age,
}

impl Deadline {
    /// A limit of zero is none.
    pub(super) fn after(limit: Duration, why: Late) -> Option<Deadline> {
        (!limit.is_zero()).then(|| Deadline { at: Instant::now() + limit, why })
    }

    /// The earlier one.
    pub(super) fn first(one: Option<Deadline>, other: Option<Deadline>) -> Option<Deadline> {
        one.into_iter().chain(other).min_by_key(|deadline| deadline.at)
    }
}

/// One direction of one exchange. A timer exists only while it is waited.
#[derive(Debug)]
pub struct Pace {
    idle: Duration,
    rate: u64,
    moved: u64,
    waited: Duration,
    stall: Option<Stall>,
}

#[derive(Debug)]
struct Stall {
    since: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Pace {
    /// An `idle` of zero never ends a wait; a `rate` (bytes in a second) of zero asks for none.
    pub fn new(idle: Duration, rate: u64) -> Pace {
        Pace { idle, rate, moved: 0, waited: Duration::ZERO, stall: None }
    }

    /// Something came or went.
    pub fn moved(&mut self, bytes: usize) {
        self.moved = self.moved.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        if let Some(stall) = self.stall.take() {
            self.waited += stall.since.elapsed();
        }
    }

    /// To be called while it is waited; ready when that has lasted too long.
    pub fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.idle.is_zero() {
            return Poll::Pending;
        }
        let patience = self.patience();
        let stall = self.stall.get_or_insert_with(|| {
            let since = Instant::now();
            Stall { since, timer: Box::pin(sleep_until(since + patience)) }
        });
        stall.timer.as_mut().poll(cx)
    }

    /// How long the next silence may last.
    fn patience(&self) -> Duration {
        let Some(worth) = self.moved.checked_div(self.rate) else { return self.idle };
        let earned = self.idle.saturating_add(Duration::from_secs(worth));
        earned.saturating_sub(self.waited).min(self.idle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::time::{sleep, timeout};

    const IDLE: Duration = Duration::from_secs(30);

    /// Waits for `silence` as a reader would; whether it was too long.
    async fn waits(pace: &mut Pace, silence: Duration) -> bool {
        timeout(silence, poll_fn(|cx| pace.poll_late(cx))).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn one_silence_may_be_as_long_as_the_timeout_and_no_longer() {
        let mut pace = Pace::new(IDLE, 0);
        for _ in 0..10 {
            assert!(!waits(&mut pace, IDLE - Duration::from_millis(10)).await);
            pace.moved(1);
        }
        let start = Instant::now();
        assert!(waits(&mut pace, 2 * IDLE).await);
        assert!(start.elapsed() <= IDLE + Duration::from_millis(10));
    }

    #[tokio::test(start_paused = true)]
    async fn slowloris_a_byte_before_each_timeout_does_not_go_on_for_ever() {
        let mut pace = Pace::new(IDLE, 500);
        let start = Instant::now();
        while !waits(&mut pace, Duration::from_secs(20)).await {
            pace.moved(1);
            assert!(start.elapsed() < 2 * IDLE, "still served");
        }
        assert!(start.elapsed() >= IDLE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_that_is_slow_but_moves_is_served() {
        let mut pace = Pace::new(IDLE, 500);
        for _ in 0..1_000 {
            assert!(!waits(&mut pace, Duration::from_secs(2)).await);
            pace.moved(1_200);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_the_other_side_is_slow_does_not_count() {
        let mut pace = Pace::new(IDLE, 500);
        for _ in 0..100 {
            assert!(!waits(&mut pace, Duration::from_millis(100)).await);
            pace.moved(100);
            sleep(IDLE).await;
        }
    }
}
