//! Ends that the store has not confirmed.

use std::collections::VecDeque;

use parking_lot::{Mutex, MutexGuard};
use tracing::{info, warn};

use crate::clock::UnixMillis;
use crate::session::{SessionId, SessionKey, UserTag};

use super::end_cause::{EndCause, SessionInfo};

/// Maximum number of unconfirmed ends. Further ones are not kept; their callers receive an error anyway.
const MAX_PENDING: usize = 10_000;

/// An end that was requested at `at`.
#[derive(Clone, Debug)]
pub(super) enum PendingEnd {
    Session { session: SessionInfo, cause: EndCause },
    User { tag: UserTag, user: String, except: Option<SessionId>, cause: EndCause, at: UnixMillis },
    Everyone { cause: EndCause, at: UnixMillis },
}

impl PendingEnd {
    fn user(&self) -> &str {
        match self {
            PendingEnd::Session { session, .. } => &session.record.identity.user,
            PendingEnd::User { user, .. } => user,
            PendingEnd::Everyone { .. } => "*",
        }
    }

    fn concerns(&self, key: &SessionKey) -> bool {
        match self {
            PendingEnd::Session { session, .. } => session.key == *key,
            PendingEnd::User { tag, .. } => *tag == key.tag,
            PendingEnd::Everyone { .. } => false,
        }
    }
}

/// The unconfirmed ends of a process, oldest first. They are lost with the process.
#[derive(Debug, Default)]
pub(crate) struct PendingEnds(Mutex<VecDeque<PendingEnd>>);

impl PendingEnds {
    pub(super) fn add(&self, end: PendingEnd) {
        let user = end.user();
        warn!(
            event = "store.revocation-pending",
            user,
            "the store did not confirm a revocation. This gateway enforces it and tries again every second; other gateways do not know it yet"
        );
        let mut ends = self.lock();
        if ends.len() < MAX_PENDING {
            ends.push_back(end);
        }
    }

    pub(super) fn first(&self) -> Option<PendingEnd> {
        self.lock().front().cloned()
    }

    /// Removes the first end if the store confirmed it, else moves it to the back: an end that always
    /// fails must not delay the others.
    pub(super) fn finish_first(&self, is_confirmed: bool) {
        let mut ends = self.lock();
        let Some(end) = ends.pop_front() else { return };
        if is_confirmed {
            info!(event = "store.revocation-written", user = end.user());
        } else {
            ends.push_back(end);
        }
    }

    /// Whether the end of this session, or of all sessions of its user, is not confirmed. The store is
    /// then not outdated; it never received the end.
    pub(crate) fn concerns(&self, key: &SessionKey) -> bool {
        self.lock().iter().any(|end| end.concerns(key))
    }

    /// Whether the end of all sessions is not confirmed.
    pub(crate) fn concerns_everyone(&self) -> bool {
        self.lock().iter().any(|end| matches!(end, PendingEnd::Everyone { .. }))
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<PendingEnd>> {
        self.0.lock()
    }
}
