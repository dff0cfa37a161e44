//! The order of ends: what a connection missed between its check and its registration.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::clock::UnixMillis;
use crate::session::{NotBefore, SessionKey, UserTag};

use super::{Mark, Sight};

/// Ends that are remembered for requests which were checked and have not registered yet. One that
/// missed more than these is looked at once more instead.
pub(super) const KEPT: usize = 1024;

/// The last ends, and how many there ever were.
#[derive(Default)]
pub(super) struct Ends {
    last: Mutex<VecDeque<End>>,
    noted: AtomicU64,
}

/// One end.
#[derive(Clone, Copy)]
pub(super) enum End {
    Session(SessionKey),
    /// Of one user, or of everybody.
    Line(Option<UserTag>, NotBefore),
}

/// What an unregistered connection missed.
pub(super) enum Missed {
    Nothing,
    ItsEnd,
    TooMuchToTell,
}

impl Ends {
    /// Where the order stands.
    pub(super) fn mark(&self) -> Mark {
        Mark(self.noted.load(Ordering::Acquire))
    }

    pub(super) fn note(&self, end: End) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.len() == KEPT {
            last.pop_front();
        }
        last.push_back(end);
        self.noted.fetch_add(1, Ordering::AcqRel);
    }

    /// What ended since the check.
    pub(super) fn missed(&self, sight: &Sight) -> Missed {
        if self.mark() == sight.mark {
            return Missed::Nothing;
        }
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let new = self.mark().0.saturating_sub(sight.mark.0);
        let new = usize::try_from(new).unwrap_or(usize::MAX);
        let created = sight.record.created;
        if last.iter().rev().take(new).any(|end| end.is_of(&sight.key, created)) {
            return Missed::ItsEnd;
        }
        if new > last.len() { Missed::TooMuchToTell } else { Missed::Nothing }
    }
}

impl End {
    pub(super) fn is_of(&self, key: &SessionKey, created: UnixMillis) -> bool {
        match self {
            End::Session(ended) => ended == key,
            End::Line(None, line) => line.ends(key.id, created),
            End::Line(Some(tag), line) => *tag == key.tag && line.ends(key.id, created),
        }
    }
}
