//! The notification thread: concurrent deliveries, and the log entries and metrics of their results.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::Receiver;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::{JoinError, JoinSet};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::channel::{Channel, DeliveryError, WebhookReceiver};
use super::delivery::{Delivery, Message, RetryPolicy};
use super::filter::{Decision, Filter};
use crate::clock::Clock;
use crate::config::{NotifyCommand, NotifyEvent};
use crate::secret::SigningSecret;
use crate::telemetry::LogThrottle;
use crate::telemetry::events::EcsEvent;
use crate::telemetry::metrics::{Metrics, NotificationOutcome};

const TICK: Duration = Duration::from_secs(1);

/// Maximum number of pending deliveries of a channel, including those that wait for a retry.
const MAX_PENDING: usize = 128;

/// Maximum number of concurrent attempts of a channel, to limit the load of programs.
const MAX_ATTEMPTS: usize = 4;

/// The notifications to send, and the channels.
pub struct Settings {
    pub events: BTreeSet<NotifyEvent>,
    pub command: Option<NotifyCommand>,
    pub webhook: Option<WebhookReceiver>,
    pub secret: Option<Arc<SigningSecret>>,
    /// For one attempt.
    pub timeout: Duration,
    pub retry: RetryPolicy,
}

impl Settings {
    pub(super) fn channels(&self) -> Vec<Channel> {
        let command = self.command.clone().map(Channel::Command);
        let webhook = self.webhook.as_ref();
        let webhook = webhook.map(|webhook| Channel::webhook(webhook, self.timeout));
        command.into_iter().chain(webhook).collect()
    }
}

pub(super) struct Dispatcher {
    settings: Settings,
    channels: Vec<ChannelState>,
    metrics: Metrics,
    filter: Filter,
    /// Events that found no room in the queue.
    lost: Arc<AtomicU64>,
    dropped: LogThrottle,
    pending: JoinSet<FinishedDelivery>,
}

struct FinishedDelivery {
    /// Index of the channel.
    channel: usize,
    result: Result<String, DeliveryError>,
}

impl Dispatcher {
    pub(super) fn new(settings: Settings, metrics: Metrics, lost: Arc<AtomicU64>) -> Dispatcher {
        Dispatcher {
            channels: settings.channels().into_iter().map(ChannelState::new).collect(),
            settings,
            metrics,
            filter: Filter::new(&Clock::System),
            lost,
            dropped: LogThrottle::default(),
            pending: JoinSet::new(),
        }
    }

    /// Runs until `closing` receives the token that cancels the drain.
    pub(super) async fn run(
        mut self,
        mut queue: Receiver<Box<EcsEvent>>,
        mut closing: oneshot::Receiver<CancellationToken>,
    ) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let force_shutdown = loop {
            tokio::select! {
                Some(event) = queue.recv() => self.dispatch(&event),
                Some(done) = self.pending.join_next() => self.finish(done),
                _ = tick.tick() => {
                    self.filter.remove_old(Instant::now());
                    self.log_counts();
                }
                token = &mut closing => break token.unwrap_or_default(),
            }
        };
        while let Ok(event) = queue.try_recv() {
            self.dispatch(&event);
        }
        self.drain(force_shutdown).await;
    }

    fn dispatch(&mut self, event: &EcsEvent) {
        match self.filter.check(event, Instant::now()) {
            Decision::Send => self.send(event),
            Decision::Duplicate => self.metrics.notification(NotificationOutcome::Duplicate, 1),
            Decision::RateLimited => self.drop_events(1),
        }
    }

    fn send(&mut self, event: &EcsEvent) {
        let message = Arc::new(Message::new(event, self.settings.secret.clone()));
        let mut dropped = 0;
        for (channel, state) in self.channels.iter().enumerate() {
            let Some((delivery, permit)) = state.begin(Arc::clone(&message), &self.settings) else {
                dropped += 1;
                continue;
            };
            self.pending.spawn(async move {
                let result = delivery.run().await;
                drop(permit);
                FinishedDelivery { channel, result }
            });
        }
        self.drop_events(dropped);
    }

    fn drop_events(&mut self, count: u64) {
        self.metrics.notification(NotificationOutcome::Dropped, count);
        self.dropped.record(count);
        log_dropped(self.dropped.due(Instant::now()));
    }

    /// Logs counts that are due; called every second.
    fn log_counts(&mut self) {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        self.drop_events(lost);
        self.channels.iter_mut().for_each(ChannelState::log_failures);
    }

    fn finish(&mut self, done: Result<FinishedDelivery, JoinError>) {
        // Deliveries are only cancelled after the drain, so an error here is a panic.
        let Ok(FinishedDelivery { channel, result }) = done else {
            return self.metrics.notification(NotificationOutcome::Failed, 1);
        };
        let is_delivered = result.is_ok();
        let outcome =
            if is_delivered { NotificationOutcome::Delivered } else { NotificationOutcome::Failed };
        self.metrics.notification(outcome, 1);
        if let Some(state) = self.channels.get_mut(channel) {
            state.record(result);
        }
    }

    /// Waits a short time for pending deliveries, then cancels them.
    async fn drain(mut self, force_shutdown: CancellationToken) {
        let timeout = self.settings.retry.drain_timeout;
        let drained = force_shutdown.run_until_cancelled(async {
            while let Some(done) = self.pending.join_next().await {
                self.finish(done);
            }
        });
        // Whether the drain is complete follows from the number of pending deliveries.
        tokio::time::timeout(timeout, drained).await.ok();
        let remaining = u64::try_from(self.pending.len()).unwrap_or(u64::MAX);
        if remaining > 0 {
            self.metrics.notification(NotificationOutcome::Failed, remaining);
            warn!(
                event = "notify.drain-timed-out",
                remaining, "pending notifications were cancelled at the stop"
            );
        }
        self.pending.shutdown().await;
        self.log_counts();
        log_dropped(self.dropped.take());
        self.channels.iter_mut().for_each(ChannelState::log_all_failures);
    }
}

fn log_dropped(count: Option<u64>) {
    if let Some(count) = count {
        warn!(
            event = "notify.dropped",
            count, "too many events for notifications; the log and the audit log have all of them"
        );
    }
}

/// A channel with its permits and its failures. The failures of a receiver that is down for a day make few
/// log entries, and its recovery makes one.
struct ChannelState {
    channel: Arc<Channel>,
    pending: Arc<Semaphore>,
    attempts: Arc<Semaphore>,
    failures: LogThrottle,
    /// The last failure; `None` after a successful delivery.
    error: Option<DeliveryError>,
}

impl ChannelState {
    fn new(channel: Channel) -> ChannelState {
        ChannelState {
            channel: Arc::new(channel),
            pending: Arc::new(Semaphore::new(MAX_PENDING)),
            attempts: Arc::new(Semaphore::new(MAX_ATTEMPTS)),
            failures: LogThrottle::default(),
            error: None,
        }
    }

    /// Returns a delivery and its permit; `None` if too many are pending.
    fn begin(
        &self,
        message: Arc<Message>,
        settings: &Settings,
    ) -> Option<(Delivery, OwnedSemaphorePermit)> {
        let permit = Arc::clone(&self.pending).try_acquire_owned().ok()?;
        let (channel, permits) = (Arc::clone(&self.channel), Arc::clone(&self.attempts));
        let (timeout, retry) = (settings.timeout, settings.retry);
        Some((Delivery { message, channel, permits, timeout, retry }, permit))
    }

    fn record(&mut self, result: Result<String, DeliveryError>) {
        match result {
            Ok(_) => {
                self.log_all_failures();
                if self.error.take().is_some() {
                    info!(event = "notify.recovered", channel = %self.channel, "notifications are delivered again");
                }
            }
            Err(error) => {
                self.failures.record(1);
                self.error = Some(error);
                self.log_failures();
            }
        }
    }

    fn log_failures(&mut self) {
        let count = self.failures.due(Instant::now());
        self.log(count);
    }

    fn log_all_failures(&mut self) {
        let count = self.failures.take();
        self.log(count);
    }

    fn log(&self, count: Option<u64>) {
        if let (Some(count), Some(error)) = (count, &self.error) {
            let channel = &self.channel;
            warn!(event = "notify.failed", %channel, count, %error, "notifications were not delivered; test with `doorward notify test`");
        }
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use std::io::{self, Write};
    use tokio::sync::mpsc;

    use super::*;
    use crate::clock::UnixMillis;
    use crate::session::SessionId;
    use crate::telemetry::SessionEvent;
    use crate::telemetry::events::EventContext;

    #[derive(Clone, Default)]
    struct CapturedLog(Arc<Mutex<Vec<u8>>>);

    impl Write for CapturedLog {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl CapturedLog {
        fn capture() -> (CapturedLog, tracing::subscriber::DefaultGuard) {
            let log = CapturedLog::default();
            let writer = log.clone();
            let subscriber = tracing_subscriber::fmt().json().with_writer(move || writer.clone());
            (log, tracing::subscriber::set_default(subscriber.finish()))
        }

        /// Returns the event and the count of each entry, in order.
        fn entries(&self) -> Vec<(String, u64)> {
            let text = self.0.lock().clone();
            let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            let entries = lines.map(|line| {
                let line: serde_json::Value = serde_json::from_slice(line).expect("JSON");
                let fields = &line["fields"];
                let event = fields["event"].as_str().expect("an event").to_owned();
                (event, fields["count"].as_u64().unwrap_or_default())
            });
            entries.collect()
        }
    }

    fn failing_program() -> Settings {
        let (program, arguments) = ("/bin/false".into(), Vec::new());
        Settings {
            events: BTreeSet::new(),
            command: Some(NotifyCommand { program, arguments }),
            webhook: None,
            secret: None,
            timeout: Duration::from_secs(30),
            retry: RetryPolicy { attempts: 1, ..RetryPolicy::default() },
        }
    }

    fn theft(session: u8) -> Box<EcsEvent> {
        let session = Some(SessionId([session; 16]));
        let context = EventContext { user: "alice", session, ..EventContext::default() };
        Box::new(EcsEvent::new(SessionEvent::Theft, &context, UnixMillis(0)))
    }

    #[tokio::test]
    async fn a_burst_makes_two_log_entries_of_each_kind_with_the_exact_count() {
        let (log, _guard) = CapturedLog::capture();
        let lost = Arc::new(AtomicU64::new(7));
        let dispatcher = Dispatcher::new(failing_program(), Metrics::default(), lost);
        let (queue, events) = mpsc::channel(100);
        for session in 0..100 {
            queue.try_send(theft(session)).expect("room");
        }
        let (closing, closed) = oneshot::channel();
        closing.send(CancellationToken::new()).expect("received");
        dispatcher.run(events, closed).await;
        let entries = log.entries();
        let counts = |event: &str| -> Vec<u64> {
            let of_event = entries.iter().filter(|(name, _)| name == event);
            of_event.map(|(_, count)| *count).collect()
        };
        let (dropped, failed) = (counts("notify.dropped"), counts("notify.failed"));
        assert_eq!((dropped.len(), dropped.iter().sum()), (2, 77), "{entries:?}");
        assert_eq!((failed.len(), failed.iter().sum()), (2, 30), "{entries:?}");
        assert_eq!(entries.len(), 4, "{entries:?}");
    }

    #[test]
    fn a_recovery_is_logged_once() {
        let (log, _guard) = CapturedLog::capture();
        let channel = failing_program().channels().pop().expect("one channel");
        let mut state = ChannelState::new(channel);
        let failed = || Err(DeliveryError::Timeout(Duration::from_secs(1)));
        let delivered = || Ok("204".to_owned());
        for result in [delivered(), failed(), failed(), failed(), delivered(), delivered()] {
            state.record(result);
        }
        let expected = [("notify.failed", 1), ("notify.failed", 2), ("notify.recovered", 0)];
        assert_eq!(log.entries(), expected.map(|(event, count)| (event.to_owned(), count)));
    }
}
