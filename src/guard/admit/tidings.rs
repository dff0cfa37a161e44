//! What a decision leaves in the memory of its user: a place that was let pass, a notice of a theft.

use crate::guard::recall::Whose;
use crate::session::notice::{Kind, Notice};
use crate::session::{
    Change, Demand, EndReason, Novelty, Outcome, Record, Refusal, Standing, Verdict,
};
use crate::signals::Report;

use super::attempt::Attempt;

impl Attempt<'_> {
    fn whose<'a>(&self, record: &'a Record) -> Whose<'a> {
        Whose { tag: self.token.key.tag, user: &record.identity.user }
    }

    /// After what was decided is stored. An end leaves its own notice.
    pub(super) async fn remember(
        &self,
        report: Option<&Report>,
        record: &Record,
        verdict: &Verdict,
    ) {
        let Change::Write(written) = &verdict.change else { return };
        let froze = written.frozen && !record.frozen;
        match &verdict.outcome {
            Outcome::Admit(_) => self.remember_place(report, record).await,
            Outcome::Refuse(Refusal::Theft) if froze => self.tell(Kind::TheftHeld, record).await,
            Outcome::Refuse(_) if froze => self.tell(Kind::MovedHeld, record).await,
            Outcome::Refuse(_) => {}
        }
    }

    async fn remember_place(&self, report: Option<&Report>, record: &Record) {
        let passed = match report.map(|report| self.demand(report)) {
            None | Some(Demand::Login | Demand::End) => return,
            Some(Demand::Note { passed }) => passed,
            Some(Demand::Renew) => true,
        };
        let (now, from) = (self.guard.now(), self.visit.context);
        if record.novelty(from, self.visit.policy.signals, now) != Novelty::New {
            return;
        }
        let session = self.token.key.id;
        self.guard
            .remember(self.whose(record), |memo| memo.moved(session, from, passed, now))
            .await;
    }

    async fn tell(&self, kind: Kind, record: &Record) {
        let (session, now) = (self.token.key.id, self.guard.now());
        let owner = Some(&record.renewed_from);
        let notice = Notice::new(kind, session, self.visit.context, owner, now);
        let told = self.guard.remember(self.whose(record), |memo| {
            if kind == Kind::TheftHeld {
                memo.stolen(session);
            }
            memo.tell(notice.clone());
        });
        told.await;
    }

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
        let memo = self.guard.recall(self.whose(record)).await?;
        memo.is_for_theft(line.at).then_some(EndReason::TheftElsewhere)
    }
}
