//! The thread's work: messages go out side by side, and what became of them is counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::Receiver;
use tokio::sync::oneshot;
use tokio::task::{JoinError, JoinSet};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::Settings;
use super::channel::{Channel, DeliveryError};
use super::channel_state::ChannelState;
use super::filter::{Decision, Filter};
use super::log_throttle::LogThrottle;
use super::message::Message;
use crate::telemetry::audit::entry::AuditEntry;
use crate::telemetry::metrics::{Metrics, NotificationOutcome};

const TICK: Duration = Duration::from_secs(1);

pub(super) struct Dispatcher {
    settings: Settings,
    channels: Vec<ChannelState>,
    metrics: Metrics,
    filter: Filter,
    /// Events that the queue did not take.
    lost: Arc<AtomicU64>,
    dropped: LogThrottle,
    in_flight: JoinSet<Outcome>,
}

struct Outcome {
    /// The number of its channel.
    channel: usize,
    result: Result<String, DeliveryError>,
}

impl Dispatcher {
    pub(super) fn new(settings: Settings, metrics: Metrics, lost: Arc<AtomicU64>) -> Dispatcher {
        let channels = Channel::all(&settings).into_iter().map(ChannelState::new).collect();
        Dispatcher {
            settings,
            channels,
            metrics,
            filter: Filter::default(),
            lost,
            dropped: LogThrottle::default(),
            in_flight: JoinSet::new(),
        }
    }

    /// Until `closing` says that the gateway stops, and whereby it is in a hurry.
    pub(super) async fn run(
        mut self,
        mut queue: Receiver<Box<AuditEntry>>,
        mut closing: oneshot::Receiver<CancellationToken>,
    ) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let hurry = loop {
            tokio::select! {
                Some(entry) = queue.recv() => self.take(&entry),
                Some(done) = self.in_flight.join_next() => self.done(done),
                _ = tick.tick() => {
                    self.filter.forget(Instant::now());
                    self.tell();
                }
                hurry = &mut closing => break hurry.unwrap_or_default(),
            }
        };
        while let Ok(entry) = queue.try_recv() {
            self.take(&entry);
        }
        self.drain(hurry).await;
    }

    fn take(&mut self, entry: &AuditEntry) {
        match self.filter.check(entry, Instant::now()) {
            Decision::Send => self.send(entry),
            Decision::Duplicate => self.metrics.notification(NotificationOutcome::Duplicate, 1),
            Decision::RateLimited => self.dropped(1),
        }
    }

    fn send(&mut self, entry: &AuditEntry) {
        let message = Arc::new(Message::new(entry, self.settings.secret.clone()));
        let mut dropped = 0;
        for (channel, at) in self.channels.iter().enumerate() {
            let Some((delivery, place)) = at.take(Arc::clone(&message), &self.settings) else {
                dropped += 1;
                continue;
            };
            self.in_flight.spawn(async move {
                let result = delivery.run().await;
                drop(place);
                Outcome { channel, result }
            });
        }
        self.dropped(dropped);
    }

    fn dropped(&mut self, count: u64) {
        self.metrics.notification(NotificationOutcome::Dropped, count);
        self.dropped.note(count);
        tell_dropped(self.dropped.due(Instant::now()));
    }

    /// Each second: what no line spoke of, where one is due.
    fn tell(&mut self) {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        self.dropped(lost);
        self.channels.iter_mut().for_each(ChannelState::tell);
    }

    fn done(&mut self, done: Result<Outcome, JoinError>) {
        // Nobody cancels them before the drain is over: it panicked, which stands in the log.
        let Ok(Outcome { channel, result }) = done else {
            return self.metrics.notification(NotificationOutcome::Failed, 1);
        };
        let outcome = if result.is_ok() {
            NotificationOutcome::Delivered
        } else {
            NotificationOutcome::Failed
        };
        self.metrics.notification(outcome, 1);
        if let Some(channel) = self.channels.get_mut(channel) {
            channel.note(result);
        }
    }

    /// What is under channel may arrive, but a stop does not wait long for it.
    async fn drain(mut self, hurry: CancellationToken) {
        let longest = self.settings.retry.drain_timeout;
        let drained = hurry.run_until_cancelled(async {
            while let Some(done) = self.in_flight.join_next().await {
                self.done(done);
            }
        });
        // What is left says whether it was over in time.
        tokio::time::timeout(longest, drained).await.ok();
        let left = u64::try_from(self.in_flight.len()).unwrap_or(u64::MAX);
        if left > 0 {
            self.metrics.notification(NotificationOutcome::Failed, left);
            warn!(
                event = "notify.drain-timed-out",
                remaining = left,
                "notifications in delivery were cancelled at the stop"
            );
        }
        self.in_flight.shutdown().await;
        self.tell();
        tell_dropped(self.dropped.rest());
        self.channels.iter_mut().for_each(ChannelState::tell_rest);
    }
}

fn tell_dropped(count: Option<u64>) {
    if let Some(count) = count {
        warn!(
            event = "notify.dropped",
            count, "more happened than is told; the log and the audit log have all of it"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::io::{self, Write};
    use std::sync::Mutex;

    use tokio::sync::mpsc;

    use super::super::RetryPolicy;
    use super::*;
    use crate::clock::UnixMillis;
    use crate::config::NotifyCommand;
    use crate::session::SessionId;
    use crate::telemetry::SessionEvent;
    use crate::telemetry::events::EventContext;

    /// What is logged.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("nobody panicked").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Lines {
        /// The event and the count of each line, in order.
        fn told(&self) -> Vec<(String, u64)> {
            let text = self.0.lock().expect("nobody panicked").clone();
            let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            let told = lines.map(|line| {
                let line: serde_json::Value = serde_json::from_slice(line).expect("JSON");
                let fields = &line["fields"];
                let event = fields["event"].as_str().expect("an event").to_owned();
                (event, fields["count"].as_u64().unwrap_or_default())
            });
            told.collect()
        }
    }

    fn told_by(program: &str) -> Settings {
        let (program, arguments) = (program.into(), Vec::new());
        let retry = RetryPolicy { attempts: 1, ..RetryPolicy::default() };
        Settings {
            events: BTreeSet::new(),
            command: Some(NotifyCommand { program, arguments }),
            webhook: None,
            secret: None,
            timeout: Duration::from_secs(30),
            retry,
        }
    }

    fn theft(session: u8) -> Box<AuditEntry> {
        let session = Some(SessionId([session; 16]));
        let about = EventContext { user: "alice", session, ..EventContext::default() };
        Box::new(AuditEntry::new(SessionEvent::Theft, &about, UnixMillis(0)))
    }

    #[tokio::test]
    async fn a_burst_of_what_is_not_told_makes_two_lines_and_loses_no_number() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt().json().with_writer(move || writer.clone());
        let _listens = tracing::subscriber::set_default(subscriber.finish());
        let lost = Arc::new(AtomicU64::new(7));
        let dispatcher = Dispatcher::new(told_by("/bin/false"), Metrics::default(), lost);
        let (queue, waiting) = mpsc::channel(100);
        for session in 0..100 {
            queue.try_send(theft(session)).expect("room");
        }
        let (closing, closed) = oneshot::channel();
        closing.send(CancellationToken::new()).expect("heard");
        dispatcher.run(waiting, closed).await;
        let told = lines.told();
        let of = |event: &str| -> Vec<u64> {
            told.iter().filter(|(word, _)| word == event).map(|(_, count)| *count).collect()
        };
        let (dropped, failed) = (of("notify.dropped"), of("notify.failed"));
        assert_eq!((dropped.len(), dropped.iter().sum()), (2, 77), "{told:?}");
        assert_eq!((failed.len(), failed.iter().sum()), (2, 30), "{told:?}");
        assert_eq!(told.len(), 4, "{told:?}");
    }

    #[test]
    fn a_receiver_that_is_back_is_said_once() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt().json().with_writer(move || writer.clone());
        let _listens = tracing::subscriber::set_default(subscriber.finish());
        let mut channels: Vec<ChannelState> =
            Channel::all(&told_by("/bin/false")).into_iter().map(ChannelState::new).collect();
        let channel = channels.first_mut().expect("one channel");
        let failed = || Err(DeliveryError::Timeout(Duration::from_secs(1)));
        let good = || Ok("204".to_owned());
        for result in [good(), failed(), failed(), failed(), good(), good()] {
            channel.note(result);
        }
        let wanted = [("notify.failed", 1), ("notify.failed", 2), ("notify.recovered", 0)];
        assert_eq!(lines.told(), wanted.map(|(event, count)| (event.to_owned(), count)));
    }
}
