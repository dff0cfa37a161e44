//! Streams end with their session, and for no other reason.

use super::{Checker, Findings, Invariant};
use crate::chaos::history::{Millis, Session};

impl Checker<'_> {
    /// Checks a line of a stream that the upstream wrote at `written_at`.
    pub(super) fn check_stream_line(
        &self,
        findings: &mut Findings,
        session: Session,
        gateway: usize,
        user: &str,
        written_at: Millis,
    ) {
        let owner = self.sessions.user(session);
        findings.check(Invariant::Identity, written_at, owner == Some(user), || {
            format!("a stream of {owner:?} at gateway {gateway} carries lines for {user:?}")
        });
        let Some(acked) = self.sessions.revoked(session) else { return };
        let until = self.reachable_since(gateway, acked, written_at)
            + self.bounds.revocation_bound
            + self.bounds.slack;
        findings.check(Invariant::Revoked, written_at, written_at <= until, || {
            format!(
                "a stream of session {session} went on at gateway {gateway} {} ms after the revocation",
                written_at - acked
            )
        });
    }

    /// Returns the time from which the gateway could learn of the revocation. An outage delays it, because streams
    /// are not cut in an outage.
    fn reachable_since(&self, gateway: usize, acked: Millis, until: Millis) -> Millis {
        let from = acked.saturating_sub(self.bounds.recovery);
        let deaf = self.windows.iter().filter(|window| {
            window.affects(gateway) && window.overlaps(from, until) && window.allowed.unavailable
        });
        deaf.map(|window| window.ended + self.bounds.recovery).fold(acked, Millis::max)
    }

    /// Checks that a cut stream had a reason.
    pub(super) fn check_stream_cut(
        &self,
        findings: &mut Findings,
        session: Session,
        gateway: usize,
        at: Millis,
    ) {
        let (sessions, bounds) = (&self.sessions, self.bounds);
        let before = |when: Option<Millis>| when.is_some_and(|when| when <= at);
        let from = at.saturating_sub(bounds.recovery);
        let now = bounds.session_time(at + bounds.slack);
        let excused = before(sessions.end_requested(session))
            || before(sessions.stolen(session))
            || sessions.data_lost(session)
            || before(sessions.wrong_clock_since(session))
            || sessions.absolute_end(session).is_none_or(|end| now >= end)
            || self.has_fault(gateway, from, at, |allowed| allowed.gateway_down);
        findings.check(Invariant::Honest, at, excused, || {
            format!("a stream of session {session} at gateway {gateway} was cut")
        });
    }
}
