//! Risk assessment of a request from a new location.

use crate::clock::UnixMillis;
use crate::risk::{Observation, RiskAction, RiskReport};
use crate::session::{
    Change, ClientContext, Outcome, Record, RiskRequirement, SessionFacts, SessionKey, SignalsMode,
    Verdict,
};
use crate::sessions::Shared;
use crate::sessions::events::event_context;
use crate::sessions::verified_store::VerifiedStore;
use crate::telemetry::SessionEvent;
use crate::telemetry::events::RiskContext;

use super::request::AuthRequest;

/// The risk report, and the mode of the route.
#[derive(Clone)]
pub(super) struct RiskAssessment {
    pub(super) report: RiskReport,
    pub(super) mode: SignalsMode,
}

impl RiskAssessment {
    /// Assesses a request; `None` if the client is unchanged, which takes three comparisons. A
    /// session that requires reauthentication is not assessed.
    pub(super) fn new(
        store: &VerifiedStore,
        request: &AuthRequest<'_>,
        record: &Record,
        facts: &SessionFacts,
        now: UnixMillis,
    ) -> Option<RiskAssessment> {
        if record.reauth_required {
            return None;
        }
        let last_active = record.last_active.max(facts.touched);
        let (context, mode) = (request.context, request.policy.signals);
        let observation = Observation { record, context, mode, last_active, now };
        let report = store.settings.risk.assess(&store.shared.geoip.load(), &observation)?;
        Some(RiskAssessment { report, mode })
    }

    pub(super) fn action(&self) -> RiskRequirement {
        match (self.mode, self.report.action) {
            (SignalsMode::Off | SignalsMode::Monitor, action) => {
                RiskRequirement::RecordLocation { trusted: action < RiskAction::Rotate }
            }
            (SignalsMode::Enforce, RiskAction::None | RiskAction::Log) => {
                RiskRequirement::RecordLocation { trusted: true }
            }
            (SignalsMode::Enforce, RiskAction::Rotate) => RiskRequirement::Rotate,
            (SignalsMode::Enforce, RiskAction::Reauthenticate) => RiskRequirement::Reauthenticate,
            (SignalsMode::Enforce, RiskAction::End) => RiskRequirement::EndSession,
        }
    }

    /// Emits the event once for each location, because a stored location is not assessed again. A
    /// superseded token stores nothing, so its requests repeat the event.
    pub(super) fn emit(
        &self,
        shared: &Shared,
        key: &SessionKey,
        from: &ClientContext,
        record: &Record,
        verdict: &Verdict,
    ) {
        if self.report.action == RiskAction::None || !self.is_decisive(verdict) {
            return;
        }
        let geoip = shared.geoip.load();
        let risk = RiskContext {
            report: &self.report,
            enforced: self.mode == SignalsMode::Enforce && self.is_applied(verdict),
            location: geoip.lookup(from.address),
            other_location: geoip.lookup(record.rotated_from.address),
        };
        shared.metrics.risk_assessment(risk);
        let mut context = event_context(&record.identity.user, key.id, from);
        context.other_client = Some(&record.rotated_from);
        context.risk = Some(risk);
        shared.emit(SessionEvent::LocationChanged, context);
    }

    /// Returns whether the outcome follows from the risk action, not from a timeout or a superseded
    /// token.
    fn is_decisive(&self, verdict: &Verdict) -> bool {
        match self.action() {
            RiskRequirement::RecordLocation { .. } | RiskRequirement::Rotate => {
                matches!(verdict.outcome, Outcome::Admit(_))
            }
            RiskRequirement::Reauthenticate | RiskRequirement::EndSession => {
                verdict.refused_by_risk
            }
        }
    }

    /// Returns whether the action took effect. A superseded token is not rotated.
    fn is_applied(&self, verdict: &Verdict) -> bool {
        self.action() != RiskRequirement::Rotate || verdict.change != Change::Keep
    }
}
