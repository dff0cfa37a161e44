//! Honest users are not logged out: each rejection needs a reason in the history.

use std::collections::HashSet;

use super::{Checker, Findings, Invariant};
use crate::chaos::history::{Request, Session, Token};

impl Checker<'_> {
    /// Checks the first rejection of each session; later ones follow from it.
    pub(super) fn check_logouts(&self, findings: &mut Findings) {
        let mut honest: Vec<_> =
            self.requests.values().filter(|request| request.is_honest()).collect();
        honest.sort_by_key(|request| request.done);
        let mut over: HashSet<Session> = HashSet::new();
        for request in honest {
            let Some(token) = &request.token else { continue };
            let Some(reason) = request.refused() else {
                if request.passed() {
                    findings.check(Invariant::Honest, request.done, true, String::new);
                }
                continue;
            };
            if over.insert(token.session) {
                findings.check(
                    Invariant::Honest,
                    request.done,
                    self.excused(request, token, reason),
                    || {
                        format!(
                            "request {} with generation {} of session {} was refused at gateway {}: {reason}",
                            request.id, token.generation, token.session, request.gateway
                        )
                    },
                );
            }
        }
    }

    fn excused(&self, request: &Request, token: &Token, reason: &str) -> bool {
        let (sessions, session) = (&self.sessions, token.session);
        let before = |at: Option<u64>| at.is_some_and(|at| at <= request.done);
        before(sessions.end_requested(session))
            || before(sessions.stolen(session))
            || sessions.data_lost(session)
            || before(sessions.wrong_clock_since(session))
            || (reason == "absolute" && self.is_near_absolute_end(request, session))
    }

    /// Returns true if the listed absolute end has passed, with slack for clock differences.
    fn is_near_absolute_end(&self, request: &Request, session: Session) -> bool {
        let now = self.bounds.session_time(request.done + self.bounds.slack);
        self.sessions.absolute_end(session).is_none_or(|end| now >= end)
    }
}
