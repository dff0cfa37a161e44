//! Immediate notifications about session events, for example a theft.
//!
//! A notification is signed JSON with the field names of the audit log. It goes to a program, a webhook, or
//! both. Each channel succeeds or fails on its own.
//!
//! Invariants:
//! - No request waits for a receiver. Events go through a bounded queue to a separate thread. Dropped events
//!   are counted and logged.
//! - The number of notifications is bounded: one per event and session in five minutes, a rate limit per
//!   event, and none that a client without a session can cause.
//! - An attempt ends at its deadline, and a program ends with all processes that it started. After a few
//!   attempts the delivery is abandoned and logged.
//! - A notification contains no token and no session ID. Client data is always inside a JSON string.

mod channel;
mod delivery;
mod dispatcher;
mod filter;

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use parking_lot::Mutex;
use tokio::runtime::Builder;
use tokio::sync::mpsc::{self, Sender};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, UnixMillis};
use crate::config::NotifyEvent;
use crate::telemetry::events::{EcsEvent, EventContext, SessionEvent};
use crate::telemetry::metrics::Metrics;

use channel::Stderr;
use delivery::Message;
use dispatcher::Dispatcher;

pub use channel::{DeliveryError, WebhookReceiver};
pub use delivery::RetryPolicy;
pub use dispatcher::Settings;

/// Maximum number of events that wait for the thread.
const QUEUE: usize = 1_024;

/// Handle of the notification thread.
pub struct Notifier {
    events: BTreeSet<NotifyEvent>,
    queue: Sender<Box<EcsEvent>>,
    lost: Arc<AtomicU64>,
    thread: Mutex<Option<Thread>>,
}

struct Thread {
    handle: JoinHandle<()>,
    /// Starts the drain, which the token cancels.
    closing: oneshot::Sender<CancellationToken>,
}

impl Notifier {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system cannot create a thread or a runtime.
    pub fn start(settings: Settings, metrics: Metrics) -> io::Result<Notifier> {
        let events = settings.events.clone();
        let lost = Arc::new(AtomicU64::new(0));
        let (queue, receiver) = mpsc::channel(QUEUE);
        let dispatcher = Dispatcher::new(settings, metrics, Arc::clone(&lost));
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (closing, closed) = oneshot::channel();
        let handle = thread::Builder::new().name("notify".to_owned()).spawn(move || {
            runtime.block_on(dispatcher.run(receiver, closed));
            // A pending name lookup must not delay the stop.
            runtime.shutdown_background();
        })?;
        let thread = Mutex::new(Some(Thread { handle, closing }));
        Ok(Notifier { events, queue, lost, thread })
    }

    /// Queues an event if it is selected. Never blocks.
    pub fn event(&self, event: SessionEvent, context: &EventContext<'_>, at: UnixMillis) {
        if !filter::kind(event, context).is_some_and(|kind| self.events.contains(&kind)) {
            return;
        }
        let event = Box::new(EcsEvent::new(event, context, at));
        if self.queue.try_send(event).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits a few seconds for pending deliveries, or until `force_shutdown`. Later events are lost.
    pub fn close(&self, force_shutdown: &CancellationToken) {
        let thread = self.thread.lock().take();
        let Some(Thread { handle, closing }) = thread else { return };
        // It fails only if the thread has already ended.
        closing.send(force_shutdown.clone()).unwrap_or_default();
        if handle.join().is_err() {
            tracing::warn!(event = "notify.panicked", "the notification thread panicked");
        }
    }
}

impl std::fmt::Debug for Notifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Notifier").field("events", &self.events).finish_non_exhaustive()
    }
}

/// Sends a test notification once to every channel, and returns each result. Shows the standard error of a
/// program.
pub async fn send_test(settings: Settings) -> Vec<(String, Result<String, DeliveryError>)> {
    let reason = "doorward notify test";
    let event = EcsEvent::process_info("notify.test", reason, None, Clock::System.now());
    let message = Message::new(&event, settings.secret.clone());
    let mut results = Vec::new();
    for channel in settings.channels() {
        let result = channel.send(&message.sign(), settings.timeout, Stderr::Inherit).await;
        results.push((channel.to_string(), result));
    }
    results
}
