//! Nobody's work holds up everybody's: a worker does one thing at a time, and a thing that is large is
//! done in parts, between which all others that are ready have their go.
//!
//! - A handshake costs more than a request, and thousands of them may come at once: a worker does one,
//!   then whatever else is ready, then the next ([`one_by_one`]).
//! - A connection that has much to say or to take does so by the [`Share`].

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::sync::Semaphore;
use tokio_util::sync::PollSemaphore;

/// Whose turn it is among the handshakes of a worker.
pub(super) type Turns = Arc<Semaphore>;

/// One turn; there is never another.
pub(super) fn turns() -> Turns {
    Arc::new(Semaphore::new(1))
}

/// Does work whenever it is ready to go on and has the turn. The turn is over when all that was ready by
/// then has had its go.
pub(super) async fn one_by_one<T>(turns: &Turns, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    let mut turns = PollSemaphore::new(Arc::clone(turns));
    std::future::poll_fn(move |cx| {
        let turn = ready!(turns.poll_acquire(cx));
        let done = work.as_mut().poll(cx);
        // A new task is put behind all others.
        tokio::spawn(async move { drop(turn) });
        done
    })
    .await
}

/// Bytes that a connection may still move before it waits for all others.
#[derive(Debug)]
pub(super) struct Share {
    whole: usize,
    left: usize,
}

impl Share {
    pub(super) fn of(whole: usize) -> Share {
        Share { whole, left: whole }
    }

    /// Pending, and a new share, when this one is used up.
    pub(super) fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.left > 0 {
            return Poll::Ready(());
        }
        self.renew();
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    pub(super) fn moved(&mut self, bytes: usize) {
        self.left = self.left.saturating_sub(bytes);
    }

    /// The connection waits for its client: others have their go in any case.
    pub(super) fn renew(&mut self) {
        self.left = self.whole;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::rc::Rc;
    use tokio::task::{LocalSet, yield_now};

    /// What happened on a worker on which this many handshakes become ready at once, each of two steps,
    /// and then a request.
    async fn order(handshakes: usize) -> Vec<&'static str> {
        let (turns, seen) = (turns(), Rc::new(RefCell::new(Vec::new())));
        let local = LocalSet::new();
        for _ in 0..handshakes {
            let (turns, seen) = (Arc::clone(&turns), Rc::clone(&seen));
            local.spawn_local(async move {
                one_by_one(&turns, async {
                    seen.borrow_mut().push("handshake");
                    yield_now().await;
                    seen.borrow_mut().push("its end");
                })
                .await;
            });
        }
        let told = Rc::clone(&seen);
        local.spawn_local(async move { told.borrow_mut().push("request") });
        local.await;
        Rc::unwrap_or_clone(seen).into_inner()
    }

    #[tokio::test]
    async fn a_request_waits_for_one_handshake_however_many_came_before_it() {
        let order = order(50).await;
        let before = order.iter().position(|what| *what == "request").expect("answered");
        assert!(before <= 2, "{order:?}");
        assert_eq!(order.iter().filter(|what| **what == "its end").count(), 50);
    }

    #[tokio::test]
    async fn a_handshake_that_is_given_up_gives_its_turn_back() {
        let turns = turns();
        let never = one_by_one(&turns, std::future::pending::<()>());
        tokio::time::timeout(std::time::Duration::from_millis(1), never).await.expect_err("never");
        assert_eq!(one_by_one(&turns, async { 7 }).await, 7);
    }

    #[test]
    fn a_share_that_is_used_up_lets_others_go_first_and_is_whole_again() {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut share = Share::of(10);
        share.moved(9);
        assert!(share.poll_left(&mut cx).is_ready());
        share.moved(5);
        assert!(share.poll_left(&mut cx).is_pending());
        assert!(share.poll_left(&mut cx).is_ready());
    }
}
