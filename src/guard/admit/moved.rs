//! A session that is used from a new place: what speaks against it, and what follows.

use crate::clock::UnixMillis;
use crate::guard::{Guard, about};
use crate::risk::{Answer, Arrival, Report};
use crate::session::{
    Change, ClientContext, Demand, Outcome, Record, SessionKey, Standing, Verdict, Watch,
};
use crate::telemetry::SessionEvent;
use crate::telemetry::events::Moved;

use super::attempt::Attempt;

/// What speaks against a request's place, and what its route does about that.
#[derive(Clone)]
pub(super) struct Suspicion {
    pub(super) report: Report,
    pub(super) watch: Watch,
}

impl Attempt<'_> {
    /// `None` while the session stays where it is, which costs three comparisons. A session that waits for
    /// a fresh login has nothing left to lose.
    pub(super) fn moved(
        &self,
        record: &Record,
        standing: &Standing,
        now: UnixMillis,
    ) -> Option<Suspicion> {
        if record.frozen {
            return None;
        }
        let shared = &self.guard.shared;
        let watch = self.visit.policy.signals;
        let arrival = Arrival {
            record,
            context: self.visit.context,
            watch,
            active: record.active.max(standing.touched),
            now,
        };
        let report = shared.signals.judge(&shared.atlas.load(), &arrival)?;
        Some(Suspicion { report, watch })
    }
}

impl Suspicion {
    pub(super) fn demand(&self) -> Demand {
        match (self.watch, self.report.answer) {
            (Watch::Off | Watch::Monitor, answer) => {
                Demand::Note { passed: answer < Answer::Renew }
            }
            (Watch::Enforce, Answer::Nothing | Answer::Log) => Demand::Note { passed: true },
            (Watch::Enforce, Answer::Renew) => Demand::Renew,
            (Watch::Enforce, Answer::Login) => Demand::Login,
            (Watch::Enforce, Answer::End) => Demand::End,
        }
    }

    /// Once for each place: what was stored is not judged again. A superseded token stores nothing, and
    /// tells at each request for as long as it is answered.
    pub(super) fn tell(
        &self,
        guard: &Guard,
        key: &SessionKey,
        from: &ClientContext,
        record: &Record,
        verdict: &Verdict,
    ) {
        if self.report.answer == Answer::Nothing || !self.is_answered(verdict) {
            return;
        }
        let atlas = guard.shared.atlas.load();
        let moved = Moved {
            report: &self.report,
            enforced: self.watch == Watch::Enforce && self.is_done(verdict),
            here: atlas.look(from.address),
            other: atlas.look(record.renewed_from.address),
        };
        guard.shared.metrics.moved(moved);
        let mut about = about(&record.identity.user, key.id, from);
        about.other = Some(&record.renewed_from);
        about.moved = Some(moved);
        guard.shared.event(SessionEvent::Moved, about);
    }

    /// Whether the request's fate is this one's doing, and not a timeout's or an old token's.
    fn is_answered(&self, verdict: &Verdict) -> bool {
        match self.demand() {
            Demand::Note { .. } | Demand::Renew => matches!(verdict.outcome, Outcome::Admit(_)),
            Demand::Login | Demand::End => verdict.demanded,
        }
    }

    /// A superseded token is not renewed whatever its place deserves.
    fn is_done(&self, verdict: &Verdict) -> bool {
        self.demand() != Demand::Renew || verdict.change != Change::Keep
    }
}
