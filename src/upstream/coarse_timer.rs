//! Timeouts of requests that wait for an upstream.
//!
//! Nearly every wait ends long before its timeout, so the cost of a timer is that of entering and removing it. Here a
//! wait leaves its waker in a list. While there is one, a task looks through the list ten times a second.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

/// Longest delay of a timeout.
pub const TICK: Duration = Duration::from_millis(100);

/// Shortest time that is not measured exactly.
const MIN_COARSE: Duration = Duration::from_secs(2);

/// The timeouts of one worker. Clones share the list.
#[derive(Clone, Default)]
pub struct CoarseTimer(Arc<Mutex<Waits>>);

#[derive(Default)]
struct Waits {
    slots: Vec<Option<Wait>>,
    free: Vec<usize>,
    /// `None` while there is no wait.
    ticker: Option<AbortHandle>,
}

struct Wait {
    due: Instant,
    /// `None` once it is due.
    waker: Option<Waker>,
}

impl CoarseTimer {
    /// Waits for `future`. Returns `None` if that takes longer than `limit`.
    pub(super) async fn timeout<F: Future>(
        &self,
        limit: Duration,
        future: Pin<&mut F>,
    ) -> Option<F::Output> {
        if limit < MIN_COARSE {
            return Box::pin(timeout(limit, future)).await.ok();
        }
        match Instant::now().checked_add(limit) {
            Some(due) => self.timeout_at(due, future).await,
            None => Some(future.await),
        }
    }

    /// Waits for `future`. Returns `None` at most [`TICK`] after `due`.
    pub async fn timeout_at<F: Future>(
        &self,
        due: Instant,
        mut future: Pin<&mut F>,
    ) -> Option<F::Output> {
        let mut entered = EnteredWait { timer: self, slot: None };
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if entered.is_due(due, cx.waker()) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        })
        .await
    }
}

/// Removes a wait from the list when it is dropped.
struct EnteredWait<'a> {
    timer: &'a CoarseTimer,
    slot: Option<usize>,
}

impl EnteredWait<'_> {
    /// Enters the wait with the first call.
    fn is_due(&mut self, due: Instant, waker: &Waker) -> bool {
        let mut waits = self.timer.0.lock();
        if let Some(slot) = self.slot {
            return waits.is_due(slot, waker);
        }
        self.slot = Some(waits.enter(Wait { due, waker: Some(waker.clone()) }));
        if waits.ticker.as_ref().is_none_or(AbortHandle::is_finished) {
            let ticker = tokio::spawn(tick(Arc::downgrade(&self.timer.0)));
            waits.ticker = Some(ticker.abort_handle());
        }
        false
    }
}

impl Drop for EnteredWait<'_> {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            self.timer.0.lock().remove(slot);
        }
    }
}

impl Waits {
    fn enter(&mut self, wait: Wait) -> usize {
        let slot = self.free.pop().unwrap_or(self.slots.len());
        match self.slots.get_mut(slot) {
            Some(free) => *free = Some(wait),
            None => self.slots.push(Some(wait)),
        }
        slot
    }

    fn remove(&mut self, slot: usize) {
        if let Some(entered) = self.slots.get_mut(slot) {
            *entered = None;
            self.free.push(slot);
        }
    }

    fn is_due(&mut self, slot: usize, waker: &Waker) -> bool {
        let Some(Some(wait)) = self.slots.get_mut(slot) else { return true };
        match &mut wait.waker {
            None => true,
            Some(known) => {
                known.clone_from(waker);
                false
            }
        }
    }

    /// Returns the wakers of all waits that have become due.
    fn take_due(&mut self, now: Instant) -> Vec<Waker> {
        let due = self.slots.iter_mut().flatten().filter(|wait| wait.due <= now);
        due.filter_map(|wait| wait.waker.take()).collect()
    }
}

/// Ends when no request waits.
async fn tick(waits: Weak<Mutex<Waits>>) {
    loop {
        sleep(TICK).await;
        let Some(waits) = waits.upgrade() else { return };
        let mut waits = waits.lock();
        if waits.free.len() == waits.slots.len() {
            *waits = Waits::default();
            return;
        }
        let due = waits.take_due(Instant::now());
        drop(waits);
        due.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};
    use std::pin::pin;

    #[tokio::test(start_paused = true)]
    async fn a_coarse_timeout_is_late_by_one_tick_at_most() {
        let timer = CoarseTimer::default();
        for millis in [2_000, 2_050, 2_099, 60_000] {
            let (start, limit) = (Instant::now(), Duration::from_millis(millis));
            assert_eq!(timer.timeout(limit, pin!(pending::<()>())).await, None);
            let passed = start.elapsed();
            assert!(limit <= passed && passed <= limit + TICK, "{passed:?} instead of {limit:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_timeout_is_exact() {
        let (start, limit) = (Instant::now(), Duration::from_millis(1_234));
        assert_eq!(CoarseTimer::default().timeout(limit, pin!(pending::<()>())).await, None);
        assert_eq!(start.elapsed(), limit);
    }

    #[tokio::test(start_paused = true)]
    async fn waits_end_in_any_order_and_leave_nothing() {
        let timer = CoarseTimer::default();
        let start = Instant::now();
        let wait = |done: u64, limit: u64| {
            let timer = timer.clone();
            tokio::spawn(async move {
                let work = pin!(sleep(Duration::from_secs(done)));
                let finished = timer.timeout(Duration::from_secs(limit), work).await;
                (finished.is_some(), start.elapsed().as_secs())
            })
        };
        let waits = [(9, 3), (1, 5), (9, 2), (4, 5), (3, 9)].map(|(done, limit)| wait(done, limit));
        let mut ended = Vec::new();
        for wait in waits {
            ended.push(wait.await.expect("no panic"));
        }
        assert_eq!(ended, [(false, 3), (true, 1), (false, 2), (true, 4), (true, 3)]);
        sleep(2 * TICK).await;
        let waits = timer.0.lock();
        assert!(waits.ticker.is_none() && waits.slots.is_empty(), "no task is left");
    }

    #[tokio::test]
    async fn a_result_that_is_ready_enters_no_wait() {
        let timer = CoarseTimer::default();
        assert_eq!(timer.timeout(MIN_COARSE, pin!(ready(7))).await, Some(7));
        assert!(timer.0.lock().slots.is_empty());
    }
}
