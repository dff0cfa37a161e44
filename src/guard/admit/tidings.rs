//! What a decision leaves behind beside the record: a line in the log, a place that was let pass in the
//! memory of its user, a notice of a theft.
//!
//! In a task of its own, together with the write that it is about: a client that hangs up takes its
//! request along, and a thief who does so at once would be stopped and nobody would hear of it.

use std::sync::Arc;

use crate::guard::recall::Whose;
use crate::guard::{Guard, about};
use crate::secret::KeyRing;
use crate::session::notice::{Kind, Notice};
use crate::session::{
    Change, ClientContext, Demand, EndReason, Novelty, Outcome, Record, Refusal, SessionKey,
    Standing, Verdict,
};
use crate::store::Unavailable;
use crate::telemetry::SessionEvent;

use super::attempt::Attempt;
use super::moved::Suspicion;

/// A write that somebody has to hear of.
pub(super) struct Tidings {
    pub(super) guard: Guard,
    pub(super) keys: Arc<KeyRing>,
    pub(super) key: SessionKey,
    pub(super) revision: u64,
    pub(super) before: Arc<Record>,
    pub(super) written: Box<Record>,
    pub(super) verdict: Verdict,
    pub(super) suspicion: Option<Suspicion>,
    /// Who showed the token.
    pub(super) from: ClientContext,
}

impl Tidings {
    /// Whether a write has any.
    pub(super) fn has_any(verdict: &Verdict, suspicion: Option<&Suspicion>) -> bool {
        suspicion.is_some() || verdict.outcome == Outcome::Refuse(Refusal::Theft)
    }

    /// False when the swap was lost, and nothing is to be told.
    pub(super) async fn run(self) -> Result<bool, Unavailable> {
        let swap = self.guard.write_record(&self.keys, &self.key, self.revision, &self.written);
        if !swap.await? {
            return Ok(false);
        }
        self.tell();
        self.remember().await;
        Ok(true)
    }

    fn tell(&self) {
        if self.verdict.outcome == Outcome::Refuse(Refusal::Theft) {
            let mut about = about(&self.before.identity.user, self.key.id, &self.from);
            about.other = Some(&self.before.renewed_from);
            self.guard.shared.event(SessionEvent::Theft, about);
        }
        if let Some(suspicion) = &self.suspicion {
            suspicion.tell(&self.guard, &self.key, &self.from, &self.before, &self.verdict);
        }
    }

    async fn remember(&self) {
        let froze = self.written.frozen && !self.before.frozen;
        match &self.verdict.outcome {
            Outcome::Admit(_) => self.remember_place().await,
            Outcome::Refuse(Refusal::Theft) if froze => self.notify(Kind::TheftHeld).await,
            Outcome::Refuse(_) if froze => self.notify(Kind::MovedHeld).await,
            Outcome::Refuse(_) => {}
        }
    }

    async fn remember_place(&self) {
        let Some(suspicion) = &self.suspicion else { return };
        let passed = match suspicion.demand() {
            Demand::Login | Demand::End => return,
            Demand::Note { passed } => passed,
            Demand::Renew => true,
        };
        let (now, session) = (self.guard.now(), self.key.id);
        let oldest = now.minus(self.guard.shared.signals.known_for);
        if self.before.novelty(&self.from, suspicion.watch, oldest, now) != Novelty::New {
            return;
        }
        self.guard
            .remember(self.whose(), |memo| memo.moved(session, &self.from, passed, now))
            .await;
    }

    async fn notify(&self, kind: Kind) {
        let (session, now) = (self.key.id, self.guard.now());
        let owner = Some(&self.before.renewed_from);
        let notice = Notice::new(kind, session, &self.from, owner, now);
        let told = self.guard.remember(self.whose(), |memo| {
            if kind == Kind::TheftHeld {
                memo.stolen(session);
            }
            memo.tell(notice.clone());
        });
        told.await;
    }

    fn whose(&self) -> Whose<'_> {
        Whose { tag: self.key.tag, user: &self.before.identity.user }
    }
}

impl Attempt<'_> {
    /// Why a line of the user's ends this session, where that was a theft of another one: who is logged
    /// out for it should hear it.
    pub(super) async fn reason_of_line(
        &self,
        record: &Record,
        standing: &Standing,
        verdict: &Verdict,
    ) -> Option<EndReason> {
        let line = standing.not_before;
        let by_line = verdict.change == Change::End(EndReason::Revoked)
            && line.ends(self.token.key.id, record.created);
        if !by_line {
            return None;
        }
        let whose = Whose { tag: self.token.key.tag, user: &record.identity.user };
        let memo = self.guard.recall(whose).await?;
        memo.is_for_theft(line.at).then_some(EndReason::TheftElsewhere)
    }
}
