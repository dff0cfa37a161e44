//! Tells an operator at once of what should not wait for somebody to read the log: a theft, a session
//! stopped by its signals, a store that somebody wrote to.
//!
//! Each event becomes one *message*: JSON with the names of the audit log, signed. It goes to a program,
//! to a webhook, or to both, each of which answers for itself.
//!
//! Invariants:
//! - no request waits for a receiver: events go through a bounded queue to a thread of their own; what
//!   does not fit is counted and said once per log_throttle
//! - what is told is bounded: the same event of one session once in five minutes, thirty of a kind a
//!   minute, and nothing that a stranger without a session can cause
//! - an attempt ends at its deadline, a program with all that it started; a message is tried a few times
//!   within minutes and then given up, which the log says
//! - no token and no session id is in a message; what a client sent stands only inside JSON strings

mod channel;
mod channel_state;
mod command;
mod delivery;
mod dispatcher;
mod filter;
mod log_throttle;
mod message;
mod webhook;

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::sync::mpsc::{self, Sender};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::audit::entry::AuditEntry;
use super::events::{EventContext, SessionEvent};
use super::metrics::Metrics;
use crate::clock::{Clock, UnixMillis};
use crate::config::{self, NotifyCommand, NotifyEvent};
use crate::secret::SigningSecret;

use channel::Channel;
use dispatcher::Dispatcher;
use message::Message;

pub use channel::DeliveryError;

/// Events that may wait for the thread.
const QUEUE: usize = 1_024;

/// What is told, to whom and how often.
pub struct Settings {
    pub events: BTreeSet<NotifyEvent>,
    pub command: Option<NotifyCommand>,
    pub webhook: Option<Webhook>,
    pub secret: Option<Arc<SigningSecret>>,
    /// For one attempt.
    pub timeout: Duration,
    pub retry: RetryPolicy,
}

/// A webhook, and whose certificates it may show.
pub struct Webhook {
    pub target: config::Webhook,
    pub tls: Arc<rustls::ClientConfig>,
}

/// How often a message is tried.
#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    pub attempts: u32,
    /// Before the second attempt; three times as long before each further one, and a random part of it.
    pub initial_delay: Duration,
    /// The longest of the waits that a receiver can ask for, on top of the pause.
    pub max_retry_after: Duration,
    /// From the event until it is given up, its waits for a turn among it.
    pub total_timeout: Duration,
    /// For what is under channel when the gateway stops.
    pub drain_timeout: Duration,
}

impl Default for RetryPolicy {
    /// Six attempts, the last about two minutes after the first, seven where each was put off.
    fn default() -> RetryPolicy {
        let (initial_delay, drain_timeout) = (Duration::from_secs(1), Duration::from_secs(5));
        let (max_retry_after, total_timeout) =
            (Duration::from_secs(60), Duration::from_secs(10 * 60));
        RetryPolicy { attempts: 6, initial_delay, max_retry_after, total_timeout, drain_timeout }
    }
}

/// Takes events for the thread that tells them.
pub struct Notifier {
    events: BTreeSet<NotifyEvent>,
    queue: Sender<Box<AuditEntry>>,
    lost: Arc<AtomicU64>,
    thread: Mutex<Option<Thread>>,
}

struct Thread {
    handle: JoinHandle<()>,
    /// Ends it: soon, and at once when the token is cancelled.
    closing: oneshot::Sender<CancellationToken>,
}

impl Notifier {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system gives no thread or runtime.
    pub fn start(settings: Settings, metrics: Metrics) -> io::Result<Notifier> {
        let events = settings.events.clone();
        let lost = Arc::new(AtomicU64::new(0));
        let (queue, waiting) = mpsc::channel(QUEUE);
        let dispatcher = Dispatcher::new(settings, metrics, Arc::clone(&lost));
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (closing, closed) = oneshot::channel();
        let handle = thread::Builder::new().name("notify".to_owned()).spawn(move || {
            runtime.block_on(dispatcher.run(waiting, closed));
            // A name that is still looked up must not hold up the stop.
            runtime.shutdown_background();
        })?;
        Ok(Notifier { events, queue, lost, thread: Mutex::new(Some(Thread { handle, closing })) })
    }

    /// Tells of an event, soon, if it is one to be told. Never waits.
    pub fn event(&self, event: SessionEvent, about: &EventContext<'_>, at: UnixMillis) {
        if !filter::kind(event, about).is_some_and(|kind| self.events.contains(&kind)) {
            return;
        }
        let entry = Box::new(AuditEntry::new(event, about, at));
        if self.queue.try_send(entry).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lets what is under channel arrive, for a few seconds or until `hurry`. What comes later is lost.
    pub fn close(&self, hurry: &CancellationToken) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Thread { handle, closing }) = thread else { return };
        // It is not heard only where the thread is gone, which its end says.
        closing.send(hurry.clone()).unwrap_or_default();
        if handle.join().is_err() {
            tracing::warn!(
                event = "notify.panicked",
                "the thread that tells of events ended by a panic"
            );
        }
    }
}

impl std::fmt::Debug for Notifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Notifier").field("events", &self.events).finish_non_exhaustive()
    }
}

/// Tells of a made-up event once, in every channel; each with what came back. What a program writes to
/// standard error is shown.
pub async fn send_test(settings: Settings) -> Vec<(String, Result<String, DeliveryError>)> {
    let reason = Some("doorward notify test");
    let entry = AuditEntry::internal("notify.test", reason, None, Clock::System.now());
    let message = Message::new(&entry, settings.secret.clone());
    let mut told = Vec::new();
    for channel in Channel::all(&settings) {
        let answer =
            channel.tell(&message.signed(), settings.timeout, channel::Stderr::Inherit).await;
        told.push((channel.to_string(), answer));
    }
    told
}
