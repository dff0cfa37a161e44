//! Event streams end with their session, and with nothing else.

use super::{Findings, Invariant, Seen};
use crate::history::{At, Session};

impl Seen<'_> {
    /// A line that an upstream wrote at `told` came through.
    pub(super) fn heard(
        &self,
        findings: &mut Findings,
        session: Session,
        gateway: usize,
        user: &str,
        told: At,
    ) {
        let owner = self.sessions.user(session);
        findings.holds(Invariant::Identity, told, owner == Some(user), || {
            format!("a stream of {owner:?} at gateway {gateway} carries lines for {user:?}")
        });
        let Some(acked) = self.sessions.revoked(session) else { return };
        let until = self.could_hear(gateway, acked, told) + self.terms.prompt + self.terms.slack;
        findings.holds(Invariant::Revoked, told, told <= until, || {
            format!(
                "a stream of session {session} went on at gateway {gateway} {} ms after the revocation",
                told - acked
            )
        });
    }

    /// While Redis is away no gateway hears of an end, and a stream of somebody honest is not cut for
    /// that: it counts from when all is well again.
    fn could_hear(&self, gateway: usize, acked: At, until: At) -> At {
        let from = acked.saturating_sub(self.terms.recovery);
        let deaf = self.windows.iter().filter(|window| {
            window.strikes(gateway) && window.overlaps(from, until) && window.may.refuse
        });
        deaf.map(|window| window.ended + self.terms.recovery).fold(acked, At::max)
    }

    /// A stream ended: for a reason, or somebody honest lost his work.
    pub(super) fn cut(&self, findings: &mut Findings, session: Session, gateway: usize, at: At) {
        let (sessions, terms) = (&self.sessions, self.terms);
        let before = |when: Option<At>| when.is_some_and(|when| when <= at);
        let from = at.saturating_sub(terms.recovery);
        let now = terms.session_time(at + terms.slack);
        let excused = before(sessions.threatened(session))
            || before(sessions.stolen(session))
            || sessions.went_back(session)
            || before(sessions.bent(session))
            || sessions.absolute_end(session).is_none_or(|end| now >= end)
            || self.disturbed(gateway, from, at, |may| may.silence);
        findings.holds(Invariant::Honest, at, excused, || {
            format!("a stream of session {session} at gateway {gateway} was cut")
        });
    }
}
