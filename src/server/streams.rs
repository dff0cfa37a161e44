//! The streams of HTTP/2 connections, each a task.
//!
//! A client can stop one stream and keep its connection lively: it opens no window for it. Each such
//! stream holds an answer and an upstream's connection. So each is watched while it waits for the
//! client, and reset when that lasts longer than `write_timeout`; the others go on.

use std::cell::Cell;
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper::rt::Executor;

use crate::proxy::Pace;
use crate::telemetry::{Limit, Metrics};

use super::turn::{WAITS, Waits};

/// Starts the streams of one connection.
#[derive(Clone)]
pub(super) struct Streams(pub(super) Arc<StreamLimits>);

/// What they have in common.
pub(super) struct StreamLimits {
    pub(super) metrics: Metrics,
    pub(super) peer: IpAddr,
    pub(super) write_timeout: Duration,
    pub(super) min_rate: u64,
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let limits = Arc::clone(&self.0);
        tokio::spawn(async move {
            let pace = Pace::new(limits.write_timeout, limits.min_rate);
            // Whatever it holds, the stream itself included, goes with it: the client sees a reset.
            if run(stream, pace).await == Ended::TooSlow {
                limits.metrics.limit(Limit::Write, Some(limits.peer));
            }
        });
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Whole,
    TooSlow,
}

/// Runs a stream until it ends or its client takes nothing for too long.
async fn run(stream: impl Future<Output = ()>, mut pace: Pace) -> Ended {
    let mut stream = pin!(stream);
    let mut waits = Waits::ForUs;
    poll_fn(|cx| {
        let (polled, told) = WAITS.sync_scope(Cell::new(Waits::NotAsked), || {
            let polled = stream.as_mut().poll(cx);
            (polled, WAITS.with(Cell::get))
        });
        if polled.is_ready() {
            return Poll::Ready(Ended::Whole);
        }
        match told {
            Waits::NotAsked => {}
            Waits::ForUs => pace.moved(0),
            Waits::ForClient(bytes) => pace.moved(bytes),
        }
        if told != Waits::NotAsked {
            waits = told;
        }
        match waits {
            Waits::NotAsked | Waits::ForUs => Poll::Pending,
            Waits::ForClient(_) => pace.poll_late(cx).map(|()| Ended::TooSlow),
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::{Instant, sleep};

    fn pace() -> Pace {
        Pace::new(Duration::from_secs(60), 500)
    }

    fn tell(waits: Waits) {
        WAITS.with(|cell| cell.set(waits));
    }

    #[tokio::test(start_paused = true)]
    async fn slow_read_a_stream_whose_client_opens_no_window_is_given_up() {
        let start = Instant::now();
        let stalled = async {
            tell(Waits::ForClient(16_384));
            std::future::pending().await
        };
        assert_eq!(run(stalled, pace()).await, Ended::TooSlow);
        assert_eq!(start.elapsed().as_secs(), 60);
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_stream_may_be_silent_for_hours() {
        let events = async {
            for _ in 0..5 {
                tell(Waits::ForUs);
                sleep(Duration::from_secs(3_600)).await;
                tell(Waits::ForClient(50));
                tokio::task::yield_now().await;
            }
        };
        assert_eq!(run(events, pace()).await, Ended::Whole);
    }
}
