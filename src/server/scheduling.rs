//! Fairness between the connections of a worker: large work is split, and ready tasks run in between.
//!
//! - A handshake costs more than a request, and thousands may arrive at once. A worker advances one, then
//!   runs all ready tasks, then the next ([`run_exclusive`]).
//! - A busy connection yields after each [`IoBudget`].

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::sync::Semaphore;
use tokio_util::sync::PollSemaphore;

/// Admits one handshake of a worker at a time.
pub(super) type HandshakeGate = Arc<Semaphore>;

/// A gate with a single permit.
pub(super) fn handshake_gate() -> HandshakeGate {
    Arc::new(Semaphore::new(1))
}

/// Polls `task` only while it holds the gate. After each poll, all ready tasks run before the next holder.
pub(super) async fn run_exclusive<T>(gate: &HandshakeGate, task: impl Future<Output = T>) -> T {
    let mut task = pin!(task);
    let mut gate = PollSemaphore::new(Arc::clone(gate));
    std::future::poll_fn(move |cx| {
        let permit = ready!(gate.poll_acquire(cx));
        let done = task.as_mut().poll(cx);
        // A spawned task runs after all ready ones, which delays the release until then.
        tokio::spawn(async move { drop(permit) });
        done
    })
    .await
}

/// Bytes that a connection may transfer before it yields.
#[derive(Debug)]
pub(super) struct IoBudget {
    size: usize,
    remaining: usize,
}

impl IoBudget {
    pub(super) fn new(size: usize) -> IoBudget {
        IoBudget { size, remaining: size }
    }

    /// Ready while the budget lasts. Otherwise refills it and yields once.
    pub(super) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.remaining > 0 {
            return Poll::Ready(());
        }
        self.refill();
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    pub(super) fn consume(&mut self, bytes: usize) {
        self.remaining = self.remaining.saturating_sub(bytes);
    }

    /// Refills the budget. Called when the connection waits for its client and yields anyway.
    pub(super) fn refill(&mut self) {
        self.remaining = self.size;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::rc::Rc;
    use tokio::task::{LocalSet, yield_now};

    /// Order of events when so many two-step handshakes and then a request become ready at once.
    async fn order(handshakes: usize) -> Vec<&'static str> {
        let (gate, log) = (handshake_gate(), Rc::new(RefCell::new(Vec::new())));
        let local = LocalSet::new();
        for _ in 0..handshakes {
            let (gate, log) = (Arc::clone(&gate), Rc::clone(&log));
            local.spawn_local(async move {
                run_exclusive(&gate, async {
                    log.borrow_mut().push("handshake");
                    yield_now().await;
                    log.borrow_mut().push("handshake end");
                })
                .await;
            });
        }
        let events = Rc::clone(&log);
        local.spawn_local(async move { events.borrow_mut().push("request") });
        local.await;
        Rc::unwrap_or_clone(log).into_inner()
    }

    #[tokio::test]
    async fn a_request_waits_for_at_most_one_handshake() {
        let order = order(50).await;
        let before = order.iter().position(|what| *what == "request").expect("a request");
        assert!(before <= 2, "{order:?}");
        assert_eq!(order.iter().filter(|what| **what == "handshake end").count(), 50);
    }

    #[tokio::test]
    async fn an_aborted_handshake_releases_the_gate() {
        let gate = handshake_gate();
        let never = run_exclusive(&gate, std::future::pending::<()>());
        tokio::time::timeout(std::time::Duration::from_millis(1), never).await.expect_err("never");
        assert_eq!(run_exclusive(&gate, async { 7 }).await, 7);
    }

    #[test]
    fn an_exhausted_budget_yields_once_and_is_refilled() {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut budget = IoBudget::new(10);
        budget.consume(9);
        assert!(budget.poll_ready(&mut cx).is_ready());
        budget.consume(5);
        assert!(budget.poll_ready(&mut cx).is_pending());
        assert!(budget.poll_ready(&mut cx).is_ready());
    }
}
