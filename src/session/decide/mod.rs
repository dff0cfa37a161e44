//! The decision for one request: admit or refuse, and the change to the session.
//!
//! Invariants (each has a property test in `tests/session/properties.rs`):
//! - S1 nothing extends the absolute timeout
//! - S2 one successor per token
//! - S3 a superseded token never rotates, and is refused after the grace period
//! - S4 a touch never undoes a revocation and never moves time back
//! - S5 `decide` is total
//! - S6 no token reaches the store or a log
//! - S7 an honest schedule never ends in a theft verdict
//! - S8 a stolen token used after a confirmed rotation always ends the session
//! - S9 an idle session is refused at the idle timeout, or at most 1/60 of it earlier
//!
//! The caller stores [`Verdict::change`] by compare-and-swap. If the swap fails, the caller loads the
//! record and decides again.

mod input;
mod rotation;
mod token_status;
mod verdict;

pub use input::{DecisionInput, RiskRequirement, RotationTiming};
pub use rotation::{Rotation, rotate_after_action};
pub use verdict::{Change, Outcome, Refusal, Successor, Verdict};

use std::borrow::Cow;
use std::time::Duration;

use super::end_reason::EndReason;
use super::expiry::{Expiry, deadline};
use super::policy::OnReuse;
use super::record::Record;

use input::Evaluation;
use token_status::TokenStatus;

/// Age at which every browser has written a cookie to disk. Browsers write every 30 s; until twice
/// that, a crash can restore the previous cookie.
const COOKIE_PERSISTED_AFTER: Duration = Duration::from_secs(60);

/// Decides one request. Total: every input has a verdict.
pub fn decide(input: &DecisionInput<'_>) -> Verdict {
    let evaluation = Evaluation::new(input);
    if let Some(expired) = evaluation.expired() {
        return expired;
    }
    match evaluation.token_status() {
        TokenStatus::Current => evaluation.decide_current(Cow::Borrowed(input.record)),
        TokenStatus::Successor => {
            evaluation.decide_current(Cow::Owned(evaluation.confirm_successor()))
        }
        TokenStatus::Superseded => evaluation.decide_superseded(),
        TokenStatus::GraceExpired => Verdict::refuse(Refusal::Superseded),
        TokenStatus::RestoredAfterCrash => Verdict::refuse(Refusal::RestoredAfterCrash),
        TokenStatus::Replayed => evaluation.decide_replay(),
        TokenStatus::UnknownGeneration => Verdict::refuse(Refusal::UnknownGeneration),
        TokenStatus::SecretMismatch => Verdict::refuse(Refusal::SecretMismatch),
    }
}

impl Evaluation<'_> {
    /// Returns the verdict if the session is revoked or timed out, independent of the token.
    fn expired(&self) -> Option<Verdict> {
        Some(match self.deadlines.expiry(self.now)? {
            Expiry::Revoked => Verdict::end(Refusal::Revoked, EndReason::Revoked),
            Expiry::Absolute => Verdict::end(Refusal::Absolute, EndReason::Absolute),
            Expiry::Idle => Verdict::end(Refusal::Idle, EndReason::Idle),
        })
    }

    /// Decides a request with the current token. An owned record is a changed one; most requests change
    /// nothing, so the record is not copied.
    fn decide_current(&self, mut record: Cow<'_, Record>) -> Verdict {
        if self.ignores_offers(&record) {
            return Verdict::end(Refusal::RotationIgnored, EndReason::RotationIgnored);
        }
        if !record.persisted_by_browser
            && self.now.since(record.current_since) >= COOKIE_PERSISTED_AFTER
        {
            record.to_mut().persisted_by_browser = true;
        }
        if let Some(refusal) = self.risk_refusal() {
            return refusal;
        }
        if record.reauth_required || self.route_requires_reauth() {
            return Verdict::with_record(Outcome::Refuse(Refusal::Reauthenticate), record);
        }
        self.record_location(&mut record);
        let offered = self.offer_successor(&mut record);
        // Uses this gateway's clock, because a touch writes it. With the session's time, every request
        // to a gateway whose clock is behind would cost a write.
        let stale =
            self.input.now.since(self.deadlines.last_active) >= self.input.policy.touch_interval();
        let mut touch = self.input.activity && stale;
        if let Cow::Owned(changed) = &mut record {
            // The write includes the activity, so a touch is not needed.
            touch = false;
            if self.input.activity {
                changed.last_active = self.now;
            }
        }
        Verdict { touch, ..Verdict::with_record(Outcome::Admit(offered), record) }
    }

    /// Returns the refusal that the risk assessment requires. It changes the stored record only, so a
    /// suspicious client cannot confirm a successor.
    fn risk_refusal(&self) -> Option<Verdict> {
        match self.input.risk? {
            RiskRequirement::RecordLocation { .. } | RiskRequirement::Rotate => None,
            // Already required: nothing to write.
            RiskRequirement::Reauthenticate if self.input.record.reauth_required => None,
            RiskRequirement::Reauthenticate => Some(Verdict {
                change: Change::Write(Box::new(self.require_reauth())),
                refused_by_risk: true,
                ..Verdict::refuse(Refusal::Reauthenticate)
            }),
            RiskRequirement::EndSession => Some(Verdict {
                refused_by_risk: true,
                ..Verdict::end(Refusal::Theft, EndReason::Theft)
            }),
        }
    }

    fn require_reauth(&self) -> Record {
        Record { reauth_required: true, ..self.input.record.clone() }
    }

    fn record_location(&self, record: &mut Cow<'_, Record>) {
        let trusted = match self.input.risk {
            None | Some(RiskRequirement::Reauthenticate | RiskRequirement::EndSession) => return,
            Some(RiskRequirement::RecordLocation { trusted }) => trusted,
            Some(RiskRequirement::Rotate) => true,
        };
        record.to_mut().record_location(self.input.client, self.now, trusted);
    }

    fn route_requires_reauth(&self) -> bool {
        let route = self.input.route;
        let login = deadline(route.max_auth_age, self.input.record.authenticated);
        self.now >= self.deadlines.on_route(route).min(login)
    }

    /// Admits a superseded token without a cookie, activity or write.
    fn decide_superseded(&self) -> Verdict {
        if let Some(refusal) = self.risk_refusal() {
            return refusal;
        }
        if self.input.record.reauth_required || self.route_requires_reauth() {
            return Verdict::refuse(Refusal::Reauthenticate);
        }
        Verdict::with_record(Outcome::Admit(None), Cow::Borrowed(self.input.record))
    }

    fn decide_replay(&self) -> Verdict {
        let change = match self.input.policy.on_reuse() {
            OnReuse::Revoke => Change::End(EndReason::Theft),
            OnReuse::RevokeAll => Change::EndAllOfUser(EndReason::Theft),
            OnReuse::Reauthenticate => Change::Write(Box::new(self.require_reauth())),
            OnReuse::Log => Change::Keep,
        };
        Verdict { change, ..Verdict::refuse(Refusal::Theft) }
    }
}
