//! Log of recent session ends, for connections between their check and their registration.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::clock::UnixMillis;
use crate::session::{RevocationCutoff, SessionKey, UserTag};

use super::snapshot::{EndSeq, SessionSnapshot};

/// Number of retained ends. A connection that missed more is checked again.
pub(super) const CAPACITY: usize = 1024;

/// Recent ends, and the number of all ends so far.
#[derive(Default)]
pub(super) struct EndLog {
    last: Mutex<VecDeque<EndEvent>>,
    total: AtomicU64,
}

/// One end.
#[derive(Clone, Copy)]
pub(super) enum EndEvent {
    Session(SessionKey),
    /// A cutoff of one user, or of all if there is no tag.
    Cutoff(Option<UserTag>, RevocationCutoff),
}

/// Ends since the check of a connection.
pub(super) enum Missed {
    None,
    Ended,
    Unknown,
}

impl EndLog {
    /// Returns the current position.
    pub(super) fn end_seq(&self) -> EndSeq {
        EndSeq(self.total.load(Ordering::Acquire))
    }

    pub(super) fn record(&self, end: EndEvent) {
        let mut last = self.last.lock();
        if last.len() == CAPACITY {
            last.pop_front();
        }
        last.push_back(end);
        self.total.fetch_add(1, Ordering::AcqRel);
    }

    /// Returns whether the session ended since its check.
    pub(super) fn missed(&self, snapshot: &SessionSnapshot) -> Missed {
        if self.end_seq() == snapshot.end_seq {
            return Missed::None;
        }
        let last = self.last.lock();
        let new = self.end_seq().0.saturating_sub(snapshot.end_seq.0);
        let new = usize::try_from(new).unwrap_or(usize::MAX);
        let created = snapshot.record.created;
        if last.iter().rev().take(new).any(|end| end.affects(&snapshot.key, created)) {
            return Missed::Ended;
        }
        if new > last.len() { Missed::Unknown } else { Missed::None }
    }
}

impl EndEvent {
    pub(super) fn affects(&self, key: &SessionKey, created: UnixMillis) -> bool {
        match self {
            EndEvent::Session(ended) => ended == key,
            EndEvent::Cutoff(None, line) => line.revokes(key.id, created),
            EndEvent::Cutoff(Some(tag), line) => *tag == key.tag && line.revokes(key.id, created),
        }
    }
}
