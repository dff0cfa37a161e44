//! Renewal in two phases: an offer that is made until it is shown, and the grace from there on.
//!
//! S2 stands here: the same successor for everybody who shows the current token.

use std::borrow::Cow;
use std::time::Duration;

use super::presented::Presented;
use super::{Case, Demand, Seen, Successor, Timing};
use crate::secret::{KeyId, sha256};
use crate::session::record::{Offer, Record, Superseded};

/// Offers that a client may ignore, each at least one grace after the one before.
const MAX_OFFERS: u8 = 3;

/// How old what a crashed browser comes back with may be, and a little: browsers write cookies to disk
/// every 30 seconds.
const UNWRITTEN: Duration = Duration::from_secs(35);

/// What a sensitive action does to the token.
#[derive(Debug, Default)]
pub struct Renewal {
    /// To send with the answer.
    pub next: Option<Successor>,
    /// What the store must hold before that.
    pub written: Option<Box<Record>>,
}

/// Renews after a sensitive action, by the token with which the action's request was admitted. That request
/// is not judged again: while it was under way, another tab may have renewed more than once, and who
/// waited for an app's answer would be taken for a thief. So nothing is refused or ended here, and where
/// the token is not the current one any more, the current one is due.
pub fn renew_after_action(case: &Case<'_>) -> Renewal {
    let seen = Seen::new(case);
    if case.record.frozen || seen.over().is_some() {
        return Renewal::default();
    }
    let mut record = Cow::Borrowed(case.record);
    let next = match seen.standing_of_token() {
        Presented::Current => seen.renew(&mut record),
        Presented::Successor
        | Presented::Superseded
        | Presented::Late
        | Presented::CrashedBack
        | Presented::Replayed
        | Presented::Future
        | Presented::Unproven => {
            make_due(&mut record);
            None
        }
    };
    let written = match record {
        Cow::Owned(record) => Some(Box::new(record)),
        Cow::Borrowed(_) => None,
    };
    Renewal { next, written }
}

fn make_due(record: &mut Cow<'_, Record>) {
    if !record.due {
        record.to_mut().due = true;
    }
}

impl Seen<'_> {
    /// Offers the successor when the token is due; the same one to everybody who asks.
    pub(super) fn renew(&self, record: &mut Cow<'_, Record>) -> Option<Successor> {
        // On a route that renews nothing it is due all the same, and renewed elsewhere.
        if self.case.timing == Timing::Now || self.case.demand == Some(Demand::Renew) {
            make_due(record);
        }
        let after = match self.timing() {
            Timing::Never => return None,
            Timing::Now => self.soonest(),
            Timing::Prompt if record.due => self.soonest(),
            Timing::Prompt => self.case.session.rotate_after(),
        };
        if self.now.since(record.current_since) < after {
            return None;
        }
        let generation = record.generation.checked_add(1)?;
        let (ratchet, salt) = match &record.offer {
            // One token can exist in two texts, minted before and after a key rotation: both ratchet
            // with the key of the first offer, or the second text's successor could never be confirmed.
            Some(offer) => (offer.ratchet, offer.salt),
            None => (self.case.presented.key_id, (self.case.salt)()),
        };
        let key = self.case.keys.key(ratchet)?.ratchet();
        let secret = self.case.presented.successor_secret(key, &salt);
        self.count_offer(record, ratchet, salt, &secret);
        Some(Successor { generation, secret })
    }

    fn timing(&self) -> Timing {
        match (self.case.timing, self.case.demand) {
            (Timing::Never, _) => Timing::Never,
            (_, Some(Demand::Renew)) => Timing::Now,
            (timing, _) => timing,
        }
    }

    /// The least age at which a token is renewed, whatever was done with it; the same that the policy
    /// demands of `rotate_after`. Sooner, a request under way could be two generations behind, which is
    /// a replay, and a late answer could put an older cookie over a newer one; and a browser that crashes
    /// could come back with the cookie of two generations before. What is due stays due.
    fn soonest(&self) -> Duration {
        let session = self.case.session;
        session.grace().saturating_mul(2).max(session.rotate_after().min(UNWRITTEN))
    }

    fn count_offer(
        &self,
        record: &mut Cow<'_, Record>,
        ratchet: KeyId,
        salt: [u8; 16],
        secret: &[u8; 32],
    ) {
        let (hash, counted) = match &record.offer {
            None => (sha256(secret), 1),
            Some(offer) if self.grace_passed(offer) => {
                (offer.hash, offer.counted.saturating_add(1))
            }
            Some(_) => return,
        };
        let last_counted = self.now;
        record.to_mut().offer = Some(Offer { ratchet, salt, hash, counted, last_counted });
    }

    pub(super) fn ignores_offers(&self, record: &Record) -> bool {
        let ignored = record
            .offer
            .as_ref()
            .is_some_and(|offer| offer.counted >= MAX_OFFERS && self.grace_passed(offer));
        ignored && self.case.timing != Timing::Never
    }

    fn grace_passed(&self, offer: &Offer) -> bool {
        self.now.since(offer.last_counted) >= self.case.session.grace()
    }

    /// The record once the client has shown the successor: from here the grace runs.
    pub(super) fn promoted(&self) -> Record {
        let mut record = self.case.record.clone();
        let grace = self.case.session.grace();
        let alarm = self.now.plus(grace);
        // The token with which a sensitive action was done is answered for half a grace, which a request
        // under way needs, and refused without an alarm for the other half.
        let until = if record.due { self.now.plus(grace / 2) } else { alarm };
        record.due = false;
        record.previous = Some(Superseded { hash: record.current, until, alarm });
        record.current = self.hash;
        record.generation = self.case.presented.generation;
        record.current_since = self.now;
        record.seasoned = false;
        record.offer = None;
        record.renewed_from = self.case.context.clone();
        record
    }
}
