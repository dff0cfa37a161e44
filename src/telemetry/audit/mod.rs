//! The audit log: who was where, and what became of whose session, in a file in which an edited, a
//! removed and a cut-off line are found.
//!
//! One JSON object to a line, with the names of the Elastic Common Schema where it has one. Each line
//! ends in a MAC over itself and the MAC of the line before (`chain`), under a key of the keys file
//! that no rotation changes. Sessions are named by their handle, never by their id; what a client
//! sent stands only inside JSON strings, so that it cannot make a line of its own.
//!
//! What this does and does not prove: who can write the file but has not the keys cannot change it
//! unseen, nor take lines from its beginning or its middle. He can cut off its end, or delete it as a
//! whole while nobody writes; and who has the keys too can write the chain anew. Those are found with a
//! *head* (number and MAC of a line) that was kept elsewhere. Heads go to the ordinary log at the start,
//! each hour and at the end, and `doorward audit head` prints one.
//!
//! Invariants:
//! - no request waits for the disk: lines go through a bounded queue; what does not fit is counted,
//!   and the count becomes a line
//! - what a stranger, or one token, can provoke again and again makes a few lines (`gate`); the rest
//!   is counted before the queue, and the count becomes a line
//! - a line is in the chain only when it is in the file

mod chain;
mod ecs;
mod gate;
pub(super) mod line;
mod reading;
mod told;
mod writer;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use aws_lc_rs::hmac;

pub use chain::{Finding, Head, Known, Report, Start, Verifier, start_of, verify};
pub use reading::{AuditFileError, head_of, read_heads};

use super::events::{About, SessionEvent};
use crate::clock::{Clock, UnixMillis};
use gate::Gate;
use line::Entry;
use writer::Message;

/// Lines that may wait for the disk.
const QUEUE: usize = 8_192;

/// Takes lines. A clone writes to the same file.
#[derive(Clone)]
pub struct Audit {
    queue: SyncSender<Message>,
    lost: Arc<AtomicU64>,
    gate: Arc<Mutex<Gate>>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl Audit {
    /// Opens or makes the file and continues its chain.
    ///
    /// # Errors
    /// When the file cannot be written, or its end is not of this chain: a log that somebody changed is
    /// not continued as if nothing were.
    pub fn open(path: PathBuf, key: hmac::Key, clock: Clock) -> Result<Audit, AuditFileError> {
        let file = writer::File::open(path, key, clock)?;
        let (lost, gate) = (Arc::new(AtomicU64::new(0)), Arc::<Mutex<Gate>>::default());
        let (queue, waiting) = std::sync::mpsc::sync_channel(QUEUE);
        let writer = writer::Writer::new(file, Arc::clone(&lost), Arc::clone(&gate));
        let thread = std::thread::Builder::new().name("audit".to_owned());
        let thread = thread.spawn(move || writer.run(&waiting)).map_err(AuditFileError::Thread)?;
        Ok(Audit { queue, lost, gate, thread: Arc::new(Mutex::new(Some(thread))) })
    }

    /// Writes an event down, soon.
    pub fn event(&self, event: SessionEvent, about: &About<'_>, at: UnixMillis) {
        let mut gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        if !gate.admits(event, about.session, Instant::now()) {
            return;
        }
        drop(gate);
        let entry = Entry::new(event, about, at);
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.queue.try_send(Message::Entry(Box::new(entry)))
        {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Writes what waits and closes the file. What comes later is lost.
    pub fn close(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else { return };
        // It fails only when the thread is gone already.
        if self.queue.send(Message::Close).is_ok() && thread.join().is_err() {
            tracing::warn!("the audit log's thread ended by a panic");
        }
    }
}

impl std::fmt::Debug for Audit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Audit").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::SessionId;

    #[test]
    fn a_flood_of_strangers_takes_no_place_in_the_queue_from_a_theft_while_the_disk_is_slow() {
        let (queue, waiting) = std::sync::mpsc::sync_channel(QUEUE);
        let (lost, gate) = (Arc::default(), Arc::default());
        let audit = Audit { queue, lost, gate, thread: Arc::default() };
        for _ in 0..2 * QUEUE {
            audit.event(SessionEvent::Forged, &About::default(), UnixMillis(1));
        }
        let about = About { session: Some(SessionId([1; 16])), ..About::default() };
        audit.event(SessionEvent::Theft, &about, UnixMillis(2));
        let waits = |message| match message {
            Message::Entry(entry) => entry.action == "session.theft",
            Message::Close => false,
        };
        assert!(waiting.try_iter().any(waits));
        assert_eq!(audit.lost.load(Ordering::Relaxed), 0);
    }
}
