//! A session that is used from a new place: what speaks against it, and what follows.

use crate::clock::UnixMillis;
use crate::session::{Change, Demand, Outcome, Record, Standing, Verdict, Watch};
use crate::signals::{Answer, Arrival, Report};
use crate::telemetry::SessionEvent;
use crate::telemetry::events::Moved;

use super::attempt::Attempt;
use crate::guard::about;

impl Attempt<'_> {
    /// `None` while the session stays where it is, which costs three comparisons. A session that waits for
    /// a fresh login has nothing left to lose.
    pub(super) fn moved(
        &self,
        record: &Record,
        standing: &Standing,
        now: UnixMillis,
    ) -> Option<Report> {
        if record.frozen {
            return None;
        }
        let shared = &self.guard.shared;
        let arrival = Arrival {
            record,
            context: self.visit.context,
            watch: self.visit.policy.signals,
            active: record.active.max(standing.touched),
            now,
        };
        shared.signals.judge(&shared.atlas.load(), &arrival)
    }

    pub(super) fn demand(&self, report: &Report) -> Demand {
        match (self.visit.policy.signals, report.answer) {
            (Watch::Off | Watch::Monitor, answer) => {
                Demand::Note { passed: answer < Answer::Renew }
            }
            (Watch::Enforce, Answer::Nothing | Answer::Log) => Demand::Note { passed: true },
            (Watch::Enforce, Answer::Renew) => Demand::Renew,
            (Watch::Enforce, Answer::Login) => Demand::Login,
            (Watch::Enforce, Answer::End) => Demand::End,
        }
    }

    /// Once for each place: what was stored is not judged again.
    pub(super) fn tell_of_move(&self, report: &Report, record: &Record, verdict: &Verdict) {
        if report.answer == Answer::Nothing || !is_done(self.demand(report), verdict) {
            return;
        }
        let enforced = self.visit.policy.signals == Watch::Enforce;
        let atlas = self.guard.shared.atlas.load();
        let moved = Moved {
            report,
            enforced,
            here: atlas.look(self.visit.context.address),
            other: atlas.look(record.renewed_from.address),
        };
        self.guard.shared.metrics.moved(moved);
        let mut about = about(&record.identity.user, self.token.key.id, self.visit.context);
        about.other = Some(&record.renewed_from);
        about.moved = Some(moved);
        self.guard.shared.event(SessionEvent::Moved, about);
    }
}

fn is_done(demand: Demand, verdict: &Verdict) -> bool {
    let (admitted, written) = match (&verdict.outcome, &verdict.change) {
        (Outcome::Admit(_), Change::Write(record)) => (true, Some(record)),
        (Outcome::Refuse(_), Change::Write(record)) => (false, Some(record)),
        (Outcome::Admit(_) | Outcome::Refuse(_), Change::End(_)) => return demand == Demand::End,
        (Outcome::Admit(_) | Outcome::Refuse(_), Change::Keep | Change::EndAllOfUser(_)) => {
            return false;
        }
    };
    match demand {
        Demand::Note { .. } | Demand::Renew => admitted,
        Demand::Login => written.is_some_and(|record| record.frozen),
        Demand::End => false,
    }
}
