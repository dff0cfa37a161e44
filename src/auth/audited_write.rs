//! Writes a record together with its audit entries, user history and notices.
//!
//! It runs in a task of its own. Otherwise an attacker could disconnect and suppress the report of
//! a theft.

use std::sync::Arc;

use crate::secret::KeyRing;
use crate::session::notice::{NoticeKind, SecurityNotice};
use crate::session::{
    Change, ClientContext, EndReason, LocationStatus, Outcome, Record, Refusal, RiskRequirement,
    SessionFacts, SessionKey, Verdict,
};
use crate::sessions::events::event_context;
use crate::sessions::verified_store::VerifiedStore;
use crate::sessions::{UserHistories, UserRef};
use crate::store::Unavailable;
use crate::telemetry::SessionEvent;

use super::risk_assessment::RiskAssessment;

/// A write that must be reported.
pub(super) struct AuditedWrite {
    pub(super) store: VerifiedStore,
    pub(super) histories: UserHistories,
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
        let swap = self.store.write_record(&self.keys, &self.key, self.revision, &self.after);
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
            self.store.shared.emit(SessionEvent::Theft, context);
        }
        if let Some(risk) = &self.risk {
            risk.emit(&self.store.shared, &self.key, &self.client, &self.before, &self.verdict);
        }
    }

    async fn update_history(&self) {
        let restricted = self.after.reauth_required && !self.before.reauth_required;
        match &self.verdict.outcome {
            Outcome::Admit(_) => self.record_location().await,
            Outcome::Refuse(Refusal::Theft) if restricted => {
                self.notify(NoticeKind::TheftReauth).await
            }
            Outcome::Refuse(_) if restricted => self.notify(NoticeKind::LocationChangeReauth).await,
            Outcome::Refuse(_) => {}
        }
    }

    async fn record_location(&self) {
        let Some(risk) = &self.risk else { return };
        let trusted = match risk.action() {
            RiskRequirement::Reauthenticate | RiskRequirement::EndSession => return,
            RiskRequirement::RecordLocation { trusted } => trusted,
            RiskRequirement::Rotate => true,
        };
        let (now, session) = (self.store.now(), self.key.id);
        let oldest = now.minus(self.store.settings.risk.known_for);
        if self.before.location_status(&self.client, risk.mode, oldest, now) != LocationStatus::New
        {
            return;
        }
        self.histories
            .update_best_effort(self.user_ref(), |history| {
                history.record_location(session, &self.client, trusted, now)
            })
            .await;
    }

    async fn notify(&self, kind: NoticeKind) {
        let (session, now) = (self.key.id, self.store.now());
        let owner = Some(&self.before.rotated_from);
        let notice = SecurityNotice::new(kind, session, &self.client, owner, now);
        let update = self.histories.update_best_effort(self.user_ref(), |history| {
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

/// Returns the reason for the end if the user's cutoff was set after the theft of another session.
/// The login page shows it to the user.
pub(super) async fn cutoff_reason(
    histories: &UserHistories,
    key: &SessionKey,
    record: &Record,
    facts: &SessionFacts,
    verdict: &Verdict,
) -> Option<EndReason> {
    let cutoff = facts.user_cutoff;
    let by_cutoff =
        verdict.change == Change::End(EndReason::Revoked) && cutoff.revokes(key.id, record.created);
    if !by_cutoff {
        return None;
    }
    let user = UserRef { tag: key.tag, user: &record.identity.user };
    let history = histories.load(user).await?;
    history.is_theft_cutoff(cutoff.at).then_some(EndReason::TheftElsewhere)
}
