//! Stale reads: in an outage, only on routes that allow them, only for reads, and for a limited time.

use super::{Checker, Findings, Invariant};
use crate::chaos::history::{
    FaultWindow, Millis, RecordedResponse, Request, RequestKind, RequestOutcome,
};

impl Checker<'_> {
    pub(super) fn check_stale_read(&self, findings: &mut Findings, request: &Request) {
        let Some(response) = request.response().filter(|_| request.passed()) else { return };
        if response.is_stale {
            self.check_effects(findings, request, response);
        }
        let affected = self.windows.iter().filter(|window| {
            window.affects(request.gateway)
                && window.unaware_until(request.sent).is_some_and(|until| request.done <= until)
        });
        for window in affected {
            self.check_duration(findings, request, response, window);
            self.check_failed_end(findings, request, window);
        }
    }

    /// Checks that a stale read happened in an outage and changed nothing.
    fn check_effects(
        &self,
        findings: &mut Findings,
        request: &Request,
        response: &RecordedResponse,
    ) {
        let away = self.permits(request, |allowed| allowed.unavailable || allowed.gateway_down);
        let reads = request.kind == RequestKind::StaleReadable && response.new_token.is_none();
        findings.check(Invariant::StaleRead, request.sent, away && reads, || {
            format!(
                "request {} for {:?} passed unasked at gateway {} with {:?}, {}",
                request.id,
                request.kind,
                request.gateway,
                response.new_token,
                self.last_fault(request.sent)
            )
        });
    }

    /// Checks the time limit of stale reads.
    fn check_duration(
        &self,
        findings: &mut Findings,
        request: &Request,
        response: &RecordedResponse,
        window: &FaultWindow,
    ) {
        let bound = self.bounds.revocation_bound_in_fault.max(self.stale_read_bound(request))
            + self.bounds.slack;
        let within = request.sent <= window.began + bound;
        if within && !response.is_stale {
            return;
        }
        findings.check(Invariant::StaleRead, request.sent, within, || {
            format!(
                "request {} for {:?} passed at gateway {} {} ms after {} began (allowed: {bound})",
                request.id,
                request.kind,
                request.gateway,
                request.sent - window.began,
                window.fault
            )
        });
    }

    /// Checks that a gateway gives no stale reads to a session that it failed to end.
    fn check_failed_end(&self, findings: &mut Findings, request: &Request, window: &FaultWindow) {
        let Some(token) = request.token else { return };
        let kept = self.sessions.failed_ends(token.session).iter().find(|kept| {
            kept.gateway == request.gateway && window.began <= kept.sent && kept.done < request.sent
        });
        let Some(kept) = kept else { return };
        findings.check(Invariant::StaleRead, request.sent, false, || {
            format!(
                "request {} of session {} passed at gateway {}, which received the request to end it {} ms before",
                request.id,
                token.session,
                request.gateway,
                request.sent - kept.sent
            )
        });
    }

    /// Returns how long a stale read may miss an end at another gateway; zero if the store was queried.
    pub(super) fn stale_read_bound(&self, request: &Request) -> u64 {
        let unasked = match &request.outcome {
            RequestOutcome::Response(response) => response.is_stale,
            RequestOutcome::Abandoned | RequestOutcome::NoResponse(_) => {
                request.kind == RequestKind::StaleReadable
                    && self.permits(request, |allowed| allowed.unavailable)
            }
        };
        if unasked {
            self.bounds.revocation_bound_in_fault + self.bounds.serve_stale_for
        } else {
            0
        }
    }
}

impl FaultWindow {
    /// Returns the end of the store's silence at this time, if it was silent.
    fn unaware_until(&self, at: Millis) -> Option<Millis> {
        self.store_silent_until.filter(|_| self.began <= at)
    }
}
