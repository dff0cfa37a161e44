//! One way, who waits at it, and what the log says of it: a receiver that is away for a day makes few
//! lines, and one when it is back.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{info, warn};

use super::Settings;
use super::burst::Burst;
use super::delivery::Delivery;
use super::letter::Letter;
use super::way::{Failure, Way};

/// Letters that are under way, those that wait for another attempt among them.
const UNDER_WAY: usize = 128;

/// Attempts at the same time: a hundred programs at once would be a load of their own.
const AT_ONCE: usize = 4;

pub(super) struct Counter {
    way: Arc<Way>,
    places: Arc<Semaphore>,
    turns: Arc<Semaphore>,
    failed: Burst,
    /// Why the last letter was given up; none once another arrived.
    error: Option<Failure>,
}

impl Counter {
    pub(super) fn new(way: Way) -> Counter {
        Counter {
            way: Arc::new(way),
            places: Arc::new(Semaphore::new(UNDER_WAY)),
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            failed: Burst::default(),
            error: None,
        }
    }

    /// A letter to deliver, and the place that it takes meanwhile; none where all are taken.
    pub(super) fn take(
        &self,
        letter: Arc<Letter>,
        settings: &Settings,
    ) -> Option<(Delivery, OwnedSemaphorePermit)> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        let (way, turns) = (Arc::clone(&self.way), Arc::clone(&self.turns));
        let (timeout, pace) = (settings.timeout, settings.pace);
        Some((Delivery { letter, way, turns, timeout, pace }, place))
    }

    pub(super) fn note(&mut self, result: Result<String, Failure>) {
        match result {
            Ok(_) => self.is_back(),
            Err(error) => {
                self.failed.note(1);
                self.error = Some(error);
                self.tell();
            }
        }
    }

    fn is_back(&mut self) {
        self.tell_rest();
        if self.error.take().is_some() {
            info!(event = "notify-again", way = %self.way, "is told again");
        }
    }

    /// Where a line is due.
    pub(super) fn tell(&mut self) {
        let due = self.failed.due(Instant::now());
        self.line(due);
    }

    /// What no line spoke of yet.
    pub(super) fn tell_rest(&mut self) {
        let rest = self.failed.rest();
        self.line(rest);
    }

    fn line(&self, count: Option<u64>) {
        if let (Some(count), Some(error)) = (count, &self.error) {
            let way = &self.way;
            warn!(event = "notify-failed", %way, count, %error, "was not told; try `doorward notify test`");
        }
    }
}
