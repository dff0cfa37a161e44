//! The thread's work: letters go out side by side, and what became of them is counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::Receiver;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::{JoinError, JoinSet};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Settings;
use super::burst::Burst;
use super::delivery::Delivery;
use super::letter::Letter;
use super::sieve::{Fate, Sieve};
use super::way::{Failure, Way};
use crate::telemetry::audit::line::Entry;
use crate::telemetry::metrics::{Metrics, Notified};

/// Letters that are under way in one way, those that wait for another attempt among them.
const UNDER_WAY: usize = 128;

/// Attempts at the same time in one way: a hundred programs at once would be a load of their own.
const AT_ONCE: usize = 4;

const TICK: Duration = Duration::from_secs(1);

pub(super) struct Office {
    settings: Settings,
    counters: Vec<Counter>,
    metrics: Metrics,
    sieve: Sieve,
    /// Events that the queue did not take.
    lost: Arc<AtomicU64>,
    dropped: Burst,
    under_way: JoinSet<Outcome>,
}

/// One way, and who waits at it.
struct Counter {
    way: Arc<Way>,
    places: Arc<Semaphore>,
    turns: Arc<Semaphore>,
    failed: Burst,
    failing: bool,
}

struct Outcome {
    /// The number of its counter.
    counter: usize,
    result: Result<String, Failure>,
}

impl Office {
    pub(super) fn new(settings: Settings, metrics: Metrics, lost: Arc<AtomicU64>) -> Office {
        let counters = Way::all(&settings).into_iter().map(Counter::new).collect();
        Office {
            settings,
            counters,
            metrics,
            sieve: Sieve::default(),
            lost,
            dropped: Burst::default(),
            under_way: JoinSet::new(),
        }
    }

    /// Until `closing` says that the gateway stops, and whereby it is in a hurry.
    pub(super) async fn run(
        mut self,
        mut queue: Receiver<Box<Entry>>,
        mut closing: oneshot::Receiver<CancellationToken>,
    ) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let hurry = loop {
            tokio::select! {
                Some(entry) = queue.recv() => self.take(&entry),
                Some(done) = self.under_way.join_next() => self.done(done),
                _ = tick.tick() => {
                    self.sieve.forget(Instant::now());
                    self.tell_dropped();
                }
                hurry = &mut closing => break hurry.unwrap_or_default(),
            }
        };
        while let Ok(entry) = queue.try_recv() {
            self.take(&entry);
        }
        self.drain(hurry).await;
    }

    fn take(&mut self, entry: &Entry) {
        match self.sieve.fate(entry, Instant::now()) {
            Fate::Told => self.send(entry),
            Fate::Repeated => self.metrics.notified(Notified::Repeated, 1),
            Fate::TooMany => self.dropped(1),
        }
    }

    fn send(&mut self, entry: &Entry) {
        let letter = Arc::new(Letter::new(entry, self.settings.secret.clone()));
        let mut dropped = 0;
        for (counter, at) in self.counters.iter().enumerate() {
            let Ok(place) = Arc::clone(&at.places).try_acquire_owned() else {
                dropped += 1;
                continue;
            };
            let delivery = at.delivery(Arc::clone(&letter), &self.settings);
            self.under_way.spawn(async move {
                let result = delivery.run().await;
                drop(place);
                Outcome { counter, result }
            });
        }
        self.dropped(dropped);
    }

    fn dropped(&mut self, count: u64) {
        self.metrics.notified(Notified::Dropped, count);
        self.dropped.note(count);
        self.tell_dropped();
    }

    fn tell_dropped(&mut self) {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        self.metrics.notified(Notified::Dropped, lost);
        self.dropped.note(lost);
        if let Some(count) = self.dropped.due(Instant::now()) {
            warn!(
                event = "notify-dropped",
                count, "more happened than is told; the log and the audit log have all of it"
            );
        }
    }

    fn done(&mut self, done: Result<Outcome, JoinError>) {
        // Nobody cancels them before the drain is over: it panicked, which stands in the log.
        let Ok(Outcome { counter, result }) = done else {
            return self.metrics.notified(Notified::Failed, 1);
        };
        let outcome = if result.is_ok() { Notified::Delivered } else { Notified::Failed };
        self.metrics.notified(outcome, 1);
        if let Some(counter) = self.counters.get_mut(counter) {
            counter.tell(result);
        }
    }

    /// What is under way may arrive, but a stop does not wait long for it.
    async fn drain(mut self, hurry: CancellationToken) {
        let longest = self.settings.pace.drain;
        let drained = hurry.run_until_cancelled(async {
            while let Some(done) = self.under_way.join_next().await {
                self.done(done);
            }
        });
        // What is left says whether it was over in time.
        tokio::time::timeout(longest, drained).await.ok();
        let left = u64::try_from(self.under_way.len()).unwrap_or(u64::MAX);
        if left > 0 {
            self.metrics.notified(Notified::Failed, left);
            warn!(
                event = "notify-cut",
                left, "somebody was still being told when the gateway stopped"
            );
        }
        self.under_way.shutdown().await;
        self.tell_dropped();
    }
}

impl Counter {
    fn new(way: Way) -> Counter {
        Counter {
            way: Arc::new(way),
            places: Arc::new(Semaphore::new(UNDER_WAY)),
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            failed: Burst::default(),
            failing: false,
        }
    }

    fn delivery(&self, letter: Arc<Letter>, settings: &Settings) -> Delivery {
        let (way, turns) = (Arc::clone(&self.way), Arc::clone(&self.turns));
        Delivery { letter, way, turns, timeout: settings.timeout, pace: settings.pace }
    }

    /// A receiver that is away for a day makes few lines, and one when it is back.
    fn tell(&mut self, result: Result<String, Failure>) {
        let way = &self.way;
        let Err(error) = result else {
            if std::mem::take(&mut self.failing) {
                info!(event = "notify-again", %way, "is told again");
            }
            return;
        };
        self.failing = true;
        self.failed.note(1);
        if let Some(count) = self.failed.due(Instant::now()) {
            warn!(event = "notify-failed", %way, count, %error, "was not told; try `doorward notify test`");
        }
    }
}
