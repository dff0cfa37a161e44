//! Classification of the presented token: current, successor, superseded or replayed.
//!
//! Implements S3 and S8: a token one generation behind is accepted within the grace period only; a
//! token two generations behind is a replay.

use super::input::Evaluation;
use crate::secret::constant_time_eq;

/// The presented token in relation to the record.
pub(super) enum TokenStatus {
    Current,
    Successor,
    Superseded,
    /// Superseded after a sensitive action: the shortened grace period is over, but the token does not
    /// yet count as a replay.
    GraceExpired,
    RestoredAfterCrash,
    Replayed,
    UnknownGeneration,
    SecretMismatch,
}

impl Evaluation<'_> {
    pub(super) fn token_status(&self) -> TokenStatus {
        let record = self.input.record;
        let generation = self.input.token.generation;
        if generation == record.generation {
            return if self.matches_secret(&record.current_hash) {
                TokenStatus::Current
            } else {
                TokenStatus::SecretMismatch
            };
        }
        if generation > record.generation {
            return self.status_ahead(generation);
        }
        if record.generation - generation > 1 {
            return TokenStatus::Replayed;
        }
        self.status_one_behind()
    }

    fn status_ahead(&self, generation: u32) -> TokenStatus {
        let offered = self.input.record.offer.as_ref();
        let next = generation - self.input.record.generation == 1;
        match offered {
            Some(offer) if next && self.matches_secret(&offer.hash) => TokenStatus::Successor,
            Some(_) | None => TokenStatus::UnknownGeneration,
        }
    }

    fn status_one_behind(&self) -> TokenStatus {
        let record = self.input.record;
        let Some(previous) = record.previous.as_ref() else {
            return TokenStatus::Replayed;
        };
        if !self.matches_secret(&previous.hash) {
            return TokenStatus::SecretMismatch;
        }
        if self.now < previous.grace_until {
            return TokenStatus::Superseded;
        }
        if self.now < previous.theft_after {
            return TokenStatus::GraceExpired;
        }
        if !record.persisted_by_browser && record.rotated_from.is_same_location(self.input.client) {
            return TokenStatus::RestoredAfterCrash;
        }
        TokenStatus::Replayed
    }

    fn matches_secret(&self, hash: &[u8; 32]) -> bool {
        constant_time_eq(&self.hash, hash)
    }
}
