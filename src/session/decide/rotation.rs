//! Token rotation in two phases: the successor is offered until the client presents it; then the
//! grace period of the old token begins.
//!
//! Implements S2: every request with the current token is offered the same successor.

use std::borrow::Cow;
use std::time::Duration;

use super::input::{DecisionInput, Evaluation, RiskRequirement, RotationTiming};
use super::token_status::TokenStatus;
use super::verdict::Successor;
use crate::secret::{KeyId, sha256};
use crate::session::record::{Offer, Record, Superseded};

/// Number of offers that a client may ignore. Offers within one grace period count once.
const MAX_OFFERS: u8 = 3;

/// Maximum age of the cookies that a crashed browser restores. Browsers write cookies every 30 s; the
/// rest is a margin.
const COOKIE_FLUSH_INTERVAL: Duration = Duration::from_secs(35);

/// Effect of a sensitive action on the token.
#[derive(Debug, Default)]
pub struct Rotation {
    /// Token to send with the response.
    pub successor: Option<Successor>,
    /// Record to store before the response is sent.
    pub write: Option<Box<Record>>,
}

/// Rotates the token after a sensitive action, given the token of the admitted request.
///
/// The token is not judged again. While the upstream worked on the request, another tab may have
/// rotated more than once, and a new decision would be a false theft verdict. So nothing is refused or
/// ended here. If the token is no longer the current one, the current one becomes due.
pub fn rotate_after_action(input: &DecisionInput<'_>) -> Rotation {
    let evaluation = Evaluation::new(input);
    if input.record.reauth_required || evaluation.expired().is_some() {
        return Rotation::default();
    }
    let mut record = Cow::Borrowed(input.record);
    let successor = match evaluation.token_status() {
        TokenStatus::Current => evaluation.offer_successor(&mut record),
        TokenStatus::Successor
        | TokenStatus::Superseded
        | TokenStatus::GraceExpired
        | TokenStatus::RestoredAfterCrash
        | TokenStatus::Replayed
        | TokenStatus::UnknownGeneration
        | TokenStatus::SecretMismatch => {
            mark_rotation_due(&mut record);
            None
        }
    };
    let write = match record {
        Cow::Owned(record) => Some(Box::new(record)),
        Cow::Borrowed(_) => None,
    };
    Rotation { successor, write }
}

fn mark_rotation_due(record: &mut Cow<'_, Record>) {
    if !record.rotation_due {
        record.to_mut().rotation_due = true;
    }
}

impl Evaluation<'_> {
    /// Returns the successor if the token is due. Every call for one token returns the same successor.
    pub(super) fn offer_successor(&self, record: &mut Cow<'_, Record>) -> Option<Successor> {
        // The token also becomes due on a route without rotation; another route rotates it.
        if self.input.timing == RotationTiming::Now
            || self.input.risk == Some(RiskRequirement::Rotate)
        {
            mark_rotation_due(record);
        }
        let after = match self.timing() {
            RotationTiming::Never => return None,
            RotationTiming::Now => self.min_token_age(),
            RotationTiming::WhenDue if record.rotation_due => self.min_token_age(),
            RotationTiming::WhenDue => self.input.policy.rotate_after(),
        };
        if self.now.since(record.current_since) < after {
            return None;
        }
        let generation = record.generation.checked_add(1)?;
        let (ratchet_key, salt) = match &record.offer {
            // After a key rotation one token can exist in two encodings. Both derive the successor with
            // the key of the first offer, or the successor of the second could never be confirmed.
            Some(offer) => (offer.ratchet_key, offer.salt),
            None => (self.input.token.key_id, (self.input.random_salt)()),
        };
        let key = self.input.keys.key(ratchet_key)?.ratchet();
        let secret = self.input.token.successor_secret(key, &salt);
        self.count_offer(record, ratchet_key, salt, &secret);
        Some(Successor { generation, secret })
    }

    fn timing(&self) -> RotationTiming {
        match (self.input.timing, self.input.risk) {
            (RotationTiming::Never, _) => RotationTiming::Never,
            (_, Some(RiskRequirement::Rotate)) => RotationTiming::Now,
            (timing, _) => timing,
        }
    }

    /// Returns the minimum age for a rotation, even after a sensitive action. A token that is due but
    /// too young stays due. Earlier rotations would cause false theft verdicts:
    /// - a request in flight could be two generations behind, which is a replay
    /// - a late response could replace a newer cookie with an older one
    /// - a crashed browser could restore the cookie of two generations before
    fn min_token_age(&self) -> Duration {
        let session = self.input.policy;
        session.grace().saturating_mul(2).max(session.rotate_after().min(COOKIE_FLUSH_INTERVAL))
    }

    fn count_offer(
        &self,
        record: &mut Cow<'_, Record>,
        ratchet_key: KeyId,
        salt: [u8; 16],
        secret: &[u8; 32],
    ) {
        let (hash, count) = match &record.offer {
            None => (sha256(secret), 1),
            Some(offer) if self.grace_elapsed(offer) => (offer.hash, offer.count.saturating_add(1)),
            Some(_) => return,
        };
        let last_counted = self.now;
        record.to_mut().offer = Some(Offer { ratchet_key, salt, hash, count, last_counted });
    }

    pub(super) fn ignores_offers(&self, record: &Record) -> bool {
        let ignored = record
            .offer
            .as_ref()
            .is_some_and(|offer| offer.count >= MAX_OFFERS && self.grace_elapsed(offer));
        ignored && self.input.timing != RotationTiming::Never
    }

    fn grace_elapsed(&self, offer: &Offer) -> bool {
        self.now.since(offer.last_counted) >= self.input.policy.grace()
    }

    /// Returns the record after the client has presented the successor. The grace period begins now.
    pub(super) fn confirm_successor(&self) -> Record {
        let mut record = self.input.record.clone();
        let grace = self.input.policy.grace();
        let theft_after = self.now.plus(grace);
        // After a sensitive action the old token is accepted for half a grace period, for requests in
        // flight. In the other half it is refused without a theft verdict.
        let grace_until = if record.rotation_due { self.now.plus(grace / 2) } else { theft_after };
        record.rotation_due = false;
        record.previous = Some(Superseded { hash: record.current_hash, grace_until, theft_after });
        record.current_hash = self.hash;
        record.generation = self.input.token.generation;
        record.current_since = self.now;
        record.persisted_by_browser = false;
        record.offer = None;
        record.rotated_from = self.input.client.clone();
        record
    }
}
