//! The audit log: session events in a tamper-evident file.
//!
//! One JSON object per line, with the field names of the Elastic Common Schema. Each line ends in a MAC
//! over the line and the MAC of the line before (`chain`). The key is in the keys file and is never
//! rotated. A session is identified by its handle, not by its ID. Client data is always inside a JSON
//! string, so it cannot start a new line.
//!
//! An attacker who can write the file without the keys cannot change or remove a line unnoticed, except
//! at the end: they can truncate the file, or delete it while no gateway writes. With the keys they can
//! rewrite the chain. A *head* (number and MAC of a line) kept in another place reveals both. Heads are
//! logged at start, every hour and at stop, and `doorward audit head` prints the current one.
//!
//! Invariants:
//! - No request waits for the disk. Lines go through a bounded queue; a line reports how many did not fit.
//! - Events that a client can repeat at will are limited (`rate_limit`) before the queue; a line reports
//!   how many were suppressed.
//! - A line belongs to the chain only once it is in the file.

mod chain;
mod files;
mod rate_limit;
mod verifier;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::thread::JoinHandle;

use aws_lc_rs::hmac;
use parking_lot::Mutex;

pub use chain::Head;
pub use files::{AuditFileError, read_heads, read_last_head};
pub use verifier::{
    AuditFinding, FileReport, FileStart, Verifier, VerifyOptions, file_start, verify,
};

use crate::clock::{Clock, UnixMillis};
use crate::telemetry::AuditStats;
use crate::telemetry::events::{EcsEvent, EventContext, SessionEvent};
use rate_limit::AuditRateLimit;
use writer::{LostEvents, WriterCommand};

/// Maximum number of lines that wait for the disk.
const QUEUE: usize = 8_192;

/// Handle of an audit log. A clone writes to the same file.
#[derive(Clone)]
pub struct AuditLog {
    queue: SyncSender<WriterCommand>,
    lost: Arc<LostEvents>,
    rate_limit: Arc<Mutex<AuditRateLimit>>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl AuditLog {
    /// Opens or creates the file and continues its chain.
    ///
    /// # Errors
    /// When the file cannot be written, or its last line is not valid: a modified log is not continued.
    pub fn open(path: PathBuf, key: hmac::Key, clock: Clock) -> Result<AuditLog, AuditFileError> {
        let rate_limit = Arc::new(Mutex::new(AuditRateLimit::new(&clock)));
        let file = writer::AuditFile::open(path, key, clock)?;
        let lost = Arc::<LostEvents>::default();
        let (queue, waiting) = std::sync::mpsc::sync_channel(QUEUE);
        let writer = writer::AuditWriter::new(file, Arc::clone(&lost), Arc::clone(&rate_limit));
        let thread = std::thread::Builder::new().name("audit".to_owned());
        let thread = thread.spawn(move || writer.run(&waiting)).map_err(AuditFileError::Thread)?;
        Ok(AuditLog { queue, lost, rate_limit, thread: Arc::new(Mutex::new(Some(thread))) })
    }

    /// Queues an event. Never blocks.
    pub fn record(&self, event: SessionEvent, about: &EventContext<'_>, at: UnixMillis) {
        let mut rate_limit = self.rate_limit.lock();
        if !rate_limit.allows(event, about.session) {
            return;
        }
        drop(rate_limit);
        let entry = EcsEvent::new(event, about, at);
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.queue.try_send(WriterCommand::Entry(Box::new(entry)))
        {
            self.lost.count();
        }
    }

    /// Returns the state since the start of the process.
    pub fn stats(&self) -> AuditStats {
        self.lost.stats()
    }

    /// Writes the queued events and closes the file. Later events are lost.
    pub fn close(&self) {
        let thread = self.thread.lock().take();
        let Some(thread) = thread else { return };
        // It fails only if the thread has already ended.
        if self.queue.send(WriterCommand::Close).is_ok() && thread.join().is_err() {
            tracing::warn!(event = "audit.panicked", "the thread of the audit log panicked");
        }
    }
}

impl std::fmt::Debug for AuditLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuditLog").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::SessionId;

    #[test]
    fn unauthenticated_events_cannot_fill_the_queue() {
        let (queue, waiting) = std::sync::mpsc::sync_channel(QUEUE);
        let lost = Arc::default();
        let rate_limit = Arc::new(Mutex::new(AuditRateLimit::new(&Clock::System)));
        let audit = AuditLog { queue, lost, rate_limit, thread: Arc::default() };
        for _ in 0..2 * QUEUE {
            audit.record(SessionEvent::TokenInvalid, &EventContext::default(), UnixMillis(1));
        }
        let about = EventContext { session: Some(SessionId([1; 16])), ..EventContext::default() };
        audit.record(SessionEvent::Theft, &about, UnixMillis(2));
        let waits = |message| match message {
            WriterCommand::Entry(entry) => entry.action() == "session.theft",
            WriterCommand::Close => false,
        };
        assert!(waiting.try_iter().any(waits));
        assert_eq!(audit.stats().lost, 0);
    }
}
