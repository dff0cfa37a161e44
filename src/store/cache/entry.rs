//! The entries of the cache: what is known of one session or user, and the proof that it is
//! current.

use std::cmp::Ordering;
use std::sync::Arc;

use bytes::Bytes;
use quick_cache::Weighter;

use super::freshness::DualInstant;
use crate::clock::UnixMillis;
use crate::session::{EndReason, Record, RevocationCutoff, SessionKey};

/// Maximum age of a proof in milliseconds. It limits the effect of a missed invalidation.
const MAX_PROOF_AGE_MS: u64 = 60_000;

/// Approximate size of an entry in bytes, without its record.
pub(super) const ENTRY_BYTES: u64 = 256;

/// Proof that a value is the current one of the store.
///
/// A load marks its value as pending *before* it is sent, and its response is a proof only if that
/// mark remains. A change removes the mark, so a response from before the change proves nothing,
/// whichever of the two arrives first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Proof {
    /// The value is only the last one that this gateway has seen.
    #[default]
    Missing,
    Pending {
        load_id: u64,
        generation: u64,
    },
    Valid {
        generation: u64,
        since: u64,
    },
}

/// A load in progress, to be passed back with its response.
#[derive(Clone, Copy, Debug)]
pub struct PendingLoad {
    /// A time before the load was sent.
    pub(crate) at: DualInstant,
    /// The mark; `None` if the response can prove nothing.
    pub(super) id: Option<u64>,
}

impl Proof {
    pub(super) fn is_valid(self, current: u64, at: DualInstant) -> bool {
        match self {
            Proof::Valid { generation, since } => {
                generation == current && at.monotonic.saturating_sub(since) < MAX_PROOF_AGE_MS
            }
            Proof::Pending { .. } | Proof::Missing => false,
        }
    }

    /// Marks the value as pending, unless it is proven.
    pub(super) fn start(&mut self, load: &PendingLoad, generation: u64) {
        if let Some(load_id) = load.id
            && !self.is_valid(generation, load.at)
        {
            *self = Proof::Pending { load_id, generation };
        }
    }

    /// Applies a response, compared with the value before it: an older one is `Less`.
    pub(super) fn complete(&mut self, load: &PendingLoad, response: Ordering) {
        *self = match *self {
            // Another load decides.
            Proof::Pending { load_id, .. } if load.id != Some(load_id) => return,
            Proof::Pending { generation, .. } if response.is_ge() => {
                Proof::Valid { generation, since: load.at.monotonic }
            }
            Proof::Valid { .. } if response.is_eq() => return,
            // The value predates this response, or another load was faster.
            Proof::Pending { .. } | Proof::Valid { .. } | Proof::Missing => Proof::Missing,
        };
    }
}

/// A record as the store returned it, decrypted.
#[derive(Clone, Debug)]
pub struct CachedRecord {
    pub revision: u64,
    pub sealed: Bytes,
    pub record: Arc<Record>,
}

impl CachedRecord {
    /// Returns whether it is the same copy. An in-process store returns the same buffer, so its
    /// address is compared first.
    pub(crate) fn is_same(&self, revision: u64, sealed: &Bytes) -> bool {
        let same = self.sealed.as_ptr() == sealed.as_ptr() && self.sealed.len() == sealed.len();
        self.revision == revision && (same || self.sealed == *sealed)
    }
}

/// A session whose record was decrypted and compared with the newest one seen.
#[derive(Clone, Debug)]
pub struct VerifiedSession {
    /// Revision in the store, for the next compare-and-swap.
    pub revision: u64,
    pub record: Arc<Record>,
    pub touched: UnixMillis,
    pub user_cutoff: RevocationCutoff,
    /// The store has an older copy, so the record must be written.
    pub needs_restore: bool,
}

/// The newest state of a session that this gateway has seen.
#[derive(Clone, Debug, Default)]
pub(crate) enum SessionState {
    #[default]
    Unknown,
    Live(CachedRecord),
    /// Final until `until`, when the session would have expired.
    Ended {
        reason: EndReason,
        until: UnixMillis,
    },
}

/// What is known of one session.
#[derive(Debug, Default)]
pub(super) struct CachedSession {
    pub(super) state: SessionState,
    pub(super) proof: Proof,
    /// The last activity, not later than the clock of this gateway allows.
    pub(super) touched: UnixMillis,
    /// Time before the last load or write that confirmed the record.
    pub(super) confirmed: Option<DualInstant>,
    /// Time of the last request to end the session that may have failed. A confirmation counts only
    /// if it is later.
    pub(super) suspended: Option<DualInstant>,
    /// A fault of this copy was reported.
    pub(super) is_reported: bool,
}

impl CachedSession {
    /// Replaces the state, and so removes its proof. An end stays: it takes precedence over a record
    /// that was written before it.
    pub(super) fn replace(&mut self, state: SessionState) {
        if !matches!(self.state, SessionState::Ended { .. }) {
            (self.state, self.is_reported) = (state, false);
            if let Proof::Valid { .. } = self.proof {
                self.proof = Proof::Missing;
            }
        }
    }

    /// Applies a response whose record was compared with the cached one.
    pub(super) fn confirm(&mut self, load: &PendingLoad, response: Ordering, touched: UnixMillis) {
        self.proof.complete(load, response);
        self.confirmed = Some(load.at);
        self.touched = self.touched.max(touched);
    }

    pub(super) fn verified(&self, user_cutoff: RevocationCutoff) -> Option<VerifiedSession> {
        let CachedRecord { revision, record, .. } = self.record()?;
        let (revision, record) = (*revision, Arc::clone(record));
        let touched = self.touched;
        Some(VerifiedSession { revision, record, touched, user_cutoff, needs_restore: false })
    }

    pub(super) fn record(&self) -> Option<&CachedRecord> {
        match &self.state {
            SessionState::Live(cached) => Some(cached),
            SessionState::Unknown | SessionState::Ended { .. } => None,
        }
    }

    /// Returns the time of the last confirmation that no request to end the session followed.
    pub(super) fn confirmed(&self) -> Option<DualInstant> {
        let suspended = self.suspended.map_or(0, |suspended| suspended.monotonic);
        self.confirmed.filter(|confirmed| confirmed.monotonic > suspended)
    }
}

/// What is known of one user.
#[derive(Debug, Default)]
pub(super) struct CachedUser {
    pub(super) cutoff: RevocationCutoff,
    pub(super) proof: Proof,
    /// Latest revision of the user's history, and the time when the store deletes it.
    pub(super) history: (u64, UnixMillis),
}

impl CachedUser {
    /// Advances the cutoff. Returns how the other cutoff compares with the one before.
    pub(super) fn advance(&mut self, cutoff: RevocationCutoff) -> Ordering {
        let before = self.cutoff;
        self.cutoff = before.later(cutoff);
        match (cutoff == before, cutoff == self.cutoff) {
            (true, _) => Ordering::Equal,
            (false, true) => Ordering::Greater,
            (false, false) => Ordering::Less,
        }
    }
}

/// Weighs sessions by bytes, so that large records cannot exhaust memory.
#[derive(Clone, Debug)]
pub(super) struct ByteWeighter;

impl Weighter<SessionKey, CachedSession> for ByteWeighter {
    fn weight(&self, _: &SessionKey, entry: &CachedSession) -> u64 {
        // The decrypted record is about as large as the sealed one.
        let sealed = entry.record().map_or(0, |cached| cached.sealed.len());
        ENTRY_BYTES.saturating_add(u64::try_from(sealed).unwrap_or(u64::MAX).saturating_mul(2))
    }
}
