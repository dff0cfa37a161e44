//! Writes a record together with its audit entries, user history and notices.
//!
//! It runs in a task of its own. Otherwise an attacker could disconnect and suppress the report of
//! a theft.

use std::sync::Arc;

use crate::guard::user_history::UserRef;
use crate::guard::{Guard, event_context};
use crate::secret::KeyRing;
use crate::session::notice::{NoticeKind, SecurityNotice};
use crate::session::{
    Change, ClientContext, EndReason, LocationStatus, Outcome, Record, Refusal, RiskRequirement,
    SessionFacts, SessionKey, Verdict,
};
use crate::store::Unavailable;
use crate::telemetry::SessionEvent;

use super::attempt::AuthAttempt;
use super::risk_assessment::RiskAssessment;

/// A write that must be reported.
pub(super) struct AuditedWrite {
    pub(super) guard: Guard,
    pub(super) keys: Arc<KeyRing>,
    pub(super) key: SessionKey,
    pub(super) revision: u64,
    pub(super) before: Arc<Record>,
    pub(super) after: Box<Record>,
    pub(super) verdict: Verdict,
    pub(super) risk: Option<RiskAssessment>,
    /// Client that sent the token.
    pub(super) client: ClientContext,
}

impl AuditedWrite {
    /// Returns whether a write must be reported.
    pub(super) fn needs_audit(verdict: &Verdict, risk: Option<&RiskAssessment>) -> bool {
        risk.is_some() || verdict.outcome == Outcome::Refuse(Refusal::Theft)
    }

    /// Returns false if the swap was lost; then nothing is reported.
    pub(super) async fn run(self) -> Result<bool, Unavailable> {
        let swap = self.guard.write_record(&self.keys, &self.key, self.revision, &self.after);
        if !swap.await? {
            return Ok(false);
        }
        self.emit_events();
        self.update_history().await;
        Ok(true)
    }

    fn emit_events(&self) {
        if self.verdict.outcome == Outcome::Refuse(Refusal::Theft) {
            let mut context = event_context(&self.before.identity.user, self.key.id, &self.client);
            context.other_client = Some(&self.before.rotated_from);
            self.guard.shared.emit(SessionEvent::Theft, context);
        }
        if let Some(risk) = &self.risk {
            risk.emit(&self.guard, &self.key, &self.client, &self.before, &self.verdict);
        }
    }

    async fn update_history(&self) {
        let froze = self.after.reauth_required && !self.before.reauth_required;
        match &self.verdict.outcome {
            Outcome::Admit(_) => self.record_location().await,
            Outcome::Refuse(Refusal::Theft) if froze => self.notify(NoticeKind::TheftReauth).await,
            Outcome::Refuse(_) if froze => self.notify(NoticeKind::LocationChangeReauth).await,
            Outcome::Refuse(_) => {}
        }
    }

    async fn record_location(&self) {
        let Some(risk) = &self.risk else { return };
        let passed = match risk.action() {
            RiskRequirement::Reauthenticate | RiskRequirement::EndSession => return,
            RiskRequirement::RecordLocation { trusted: passed } => passed,
            RiskRequirement::Rotate => true,
        };
        let (now, session) = (self.guard.now(), self.key.id);
        let oldest = now.minus(self.guard.shared.risk.known_for);
        if self.before.location_status(&self.client, risk.watch, oldest, now) != LocationStatus::New
        {
            return;
        }
        self.guard
            .update_history_best_effort(self.user_ref(), |history| {
                history.record_location(session, &self.client, passed, now)
            })
            .await;
    }

    async fn notify(&self, kind: NoticeKind) {
        let (session, now) = (self.key.id, self.guard.now());
        let owner = Some(&self.before.rotated_from);
        let notice = SecurityNotice::new(kind, session, &self.client, owner, now);
        let update = self.guard.update_history_best_effort(self.user_ref(), |history| {
            if kind == NoticeKind::TheftReauth {
                history.remove_stolen_session(session);
            }
            history.add_notice(notice.clone());
        });
        update.await;
    }

    fn user_ref(&self) -> UserRef<'_> {
        UserRef { tag: self.key.tag, user: &self.before.identity.user }
    }
}

impl AuthAttempt<'_> {
    /// Returns the reason for the end if the user's cutoff was set after the theft of another
    /// session. The login page shows it to the user.
    pub(super) async fn cutoff_reason(
        &self,
        record: &Record,
        facts: &SessionFacts,
        verdict: &Verdict,
    ) -> Option<EndReason> {
        let cutoff = facts.user_cutoff;
        let by_cutoff = verdict.change == Change::End(EndReason::Revoked)
            && cutoff.revokes(self.token.key.id, record.created);
        if !by_cutoff {
            return None;
        }
        let user = UserRef { tag: self.token.key.tag, user: &record.identity.user };
        let history = self.guard.load_history(user).await?;
        history.is_theft_cutoff(cutoff.at).then_some(EndReason::TheftElsewhere)
    }
}
