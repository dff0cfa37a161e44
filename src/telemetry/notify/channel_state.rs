//! One channel, who waits at it, and what the log says of it: a receiver that is away for a day makes few
//! lines, and one when it is back.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{info, warn};

use super::Settings;
use super::channel::{Channel, DeliveryError};
use super::delivery::Delivery;
use super::log_throttle::LogThrottle;
use super::message::Message;

/// Letters that are under channel, those that wait for another attempt among them.
const MAX_IN_FLIGHT: usize = 128;

/// Attempts at the same time: a hundred programs at once would be a load of their own.
const MAX_CONCURRENT: usize = 4;

pub(super) struct ChannelState {
    channel: Arc<Channel>,
    places: Arc<Semaphore>,
    turns: Arc<Semaphore>,
    failed: LogThrottle,
    /// Why the last message was given up; none once another arrived.
    error: Option<DeliveryError>,
}

impl ChannelState {
    pub(super) fn new(channel: Channel) -> ChannelState {
        ChannelState {
            channel: Arc::new(channel),
            places: Arc::new(Semaphore::new(MAX_IN_FLIGHT)),
            turns: Arc::new(Semaphore::new(MAX_CONCURRENT)),
            failed: LogThrottle::default(),
            error: None,
        }
    }

    /// A message to deliver, and the place that it takes meanwhile; none where all are taken.
    pub(super) fn take(
        &self,
        message: Arc<Message>,
        settings: &Settings,
    ) -> Option<(Delivery, OwnedSemaphorePermit)> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        let (channel, turns) = (Arc::clone(&self.channel), Arc::clone(&self.turns));
        let (timeout, retry) = (settings.timeout, settings.retry);
        Some((Delivery { message, channel, turns, timeout, retry }, place))
    }

    pub(super) fn note(&mut self, result: Result<String, DeliveryError>) {
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
            info!(event = "notify.recovered", channel = %self.channel, "is told again");
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
            let channel = &self.channel;
            warn!(event = "notify.failed", %channel, count, %error, "was not told; try `doorward notify test`");
        }
    }
}
