//! The store is away: nobody passes unasked but where a route says so; there to read, and for a while.

use super::{Findings, Invariant, Seen};
use crate::history::{Answer, Asks, At, Fate, Request, Window};

impl Seen<'_> {
    pub(super) fn known_rightly(&self, findings: &mut Findings, request: &Request) {
        let Some(answer) = request.answer().filter(|_| request.passed()) else { return };
        if answer.unasked {
            self.only_reads(findings, request, answer);
        }
        let blind = self.windows.iter().filter(|window| {
            window.strikes(request.gateway)
                && window.blind_from(request.sent).is_some_and(|until| request.done <= until)
        });
        for window in blind {
            self.not_for_long(findings, request, answer, window);
            self.nobody_wanted_it_gone(findings, request, window);
        }
    }

    /// It says that the store was away: so it was, and nothing was changed for this request.
    fn only_reads(&self, findings: &mut Findings, request: &Request, answer: &Answer) {
        let away = self.permits(request, |may| may.refuse || may.silence);
        let reads = request.asks == Asks::Known && answer.offered.is_none();
        findings.holds(Invariant::Known, request.sent, away && reads, || {
            format!(
                "request {} for {:?} passed unasked at gateway {} with {:?}, {}",
                request.id,
                request.asks,
                request.gateway,
                answer.offered,
                self.last_fault(request.sent)
            )
        });
    }

    /// What was heard before the store went away is believed so long; where a route says so, longer.
    fn not_for_long(
        &self,
        findings: &mut Findings,
        request: &Request,
        answer: &Answer,
        window: &Window,
    ) {
        let believed = self.terms.at_worst.max(self.unasked_for(request)) + self.terms.slack;
        let within = request.sent <= window.began + believed;
        if within && !answer.unasked {
            return;
        }
        findings.holds(Invariant::Known, request.sent, within, || {
            format!(
                "request {} for {:?} passed at gateway {} {} ms after {} began (allowed: {believed})",
                request.id,
                request.asks,
                request.gateway,
                request.sent - window.began,
                window.fault
            )
        });
    }

    /// A gateway that could not end a session at least serves it to nobody until it can ask again.
    fn nobody_wanted_it_gone(&self, findings: &mut Findings, request: &Request, window: &Window) {
        let Some(token) = request.token else { return };
        let kept = self.sessions.kept(token.session).iter().find(|kept| {
            kept.gateway == request.gateway && window.began <= kept.sent && kept.done < request.sent
        });
        let Some(kept) = kept else { return };
        findings.holds(Invariant::Known, request.sent, false, || {
            format!(
                "request {} of session {} passed at gateway {}, which was asked to end it {} ms before",
                request.id,
                token.session,
                request.gateway,
                request.sent - kept.sent
            )
        });
    }

    /// For how long after it happened elsewhere an end may be unknown where this request passed, because
    /// nobody was asked; zero where somebody was.
    pub(super) fn unasked_for(&self, request: &Request) -> u64 {
        let unasked = match &request.fate {
            Fate::Answered(answer) => answer.unasked,
            Fate::Abandoned | Fate::NoAnswer(_) => {
                request.asks == Asks::Known && self.permits(request, |may| may.refuse)
            }
        };
        if unasked { self.terms.at_worst + self.terms.known_for } else { 0 }
    }
}

impl Window {
    /// If its gateways heard nothing from the store at this time: until when.
    fn blind_from(&self, at: At) -> Option<At> {
        self.blind_until.filter(|_| self.began <= at)
    }
}
