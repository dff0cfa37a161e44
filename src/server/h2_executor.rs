//! Runs each HTTP/2 stream as a task with a write timeout.
//!
//! A client can stall one stream by keeping its window closed while the connection stays active. Each stalled
//! stream holds a response and an upstream connection. A stream that waits for the client longer than
//! `write_timeout` is therefore reset; the others continue.

use std::cell::Cell;
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper::rt::Executor;

use crate::proxy::ProgressTimeout;
use crate::telemetry::{Limit, Metrics};

use super::in_flight::{WAIT_STATE, WaitState};

/// Spawns the streams of one connection.
#[derive(Clone)]
pub(super) struct H2Executor(pub(super) Arc<StreamLimits>);

/// Limits shared by the streams of one connection.
pub(super) struct StreamLimits {
    pub(super) metrics: Metrics,
    pub(super) peer: IpAddr,
    pub(super) write_timeout: Duration,
    pub(super) min_rate: u64,
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for H2Executor {
    fn execute(&self, stream: F) {
        let limits = Arc::clone(&self.0);
        // tokio moves what it spawns several times. Allocated first, so that the stream is built in place.
        let slot = Box::new_uninit();
        let stream = Box::write(slot, async move {
            let timeout = ProgressTimeout::new(limits.write_timeout, limits.min_rate);
            // Dropping the stream resets it and releases all it holds.
            if run_stream(stream, timeout).await == StreamEnd::TimedOut {
                limits.metrics.limit(Limit::WriteTimeout, Some(limits.peer));
            }
        });
        tokio::spawn(Box::into_pin(stream));
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StreamEnd {
    Completed,
    TimedOut,
}

/// Runs a stream until it ends or its write timeout expires.
async fn run_stream(stream: impl Future<Output = ()>, mut timeout: ProgressTimeout) -> StreamEnd {
    let mut stream = pin!(stream);
    let mut state = WaitState::ForProxy;
    poll_fn(|cx| {
        let (polled, reported) = WAIT_STATE.sync_scope(Cell::new(WaitState::NotPolled), || {
            let polled = stream.as_mut().poll(cx);
            (polled, WAIT_STATE.with(Cell::get))
        });
        if polled.is_ready() {
            return Poll::Ready(StreamEnd::Completed);
        }
        match reported {
            WaitState::NotPolled => {}
            WaitState::ForProxy => timeout.record_progress(0),
            WaitState::ForClient(bytes) => timeout.record_progress(bytes),
        }
        if reported != WaitState::NotPolled {
            state = reported;
        }
        match state {
            WaitState::NotPolled | WaitState::ForProxy => Poll::Pending,
            WaitState::ForClient(_) => timeout.poll_expired(cx).map(|()| StreamEnd::TimedOut),
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::{Instant, sleep};

    fn timeout() -> ProgressTimeout {
        ProgressTimeout::new(Duration::from_secs(60), 500)
    }

    fn report(state: WaitState) {
        WAIT_STATE.with(|cell| cell.set(state));
    }

    #[tokio::test(start_paused = true)]
    async fn slow_read_a_stream_with_a_closed_window_times_out() {
        let start = Instant::now();
        let stalled = async {
            report(WaitState::ForClient(16_384));
            std::future::pending().await
        };
        assert_eq!(run_stream(stalled, timeout()).await, StreamEnd::TimedOut);
        assert_eq!(start.elapsed().as_secs(), 60);
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_stream_may_be_idle_for_hours() {
        let events = async {
            for _ in 0..5 {
                report(WaitState::ForProxy);
                sleep(Duration::from_secs(3_600)).await;
                report(WaitState::ForClient(50));
                tokio::task::yield_now().await;
            }
        };
        assert_eq!(run_stream(events, timeout()).await, StreamEnd::Completed);
    }
}
