//! Outages: 503 within the deadline, fast recovery, and no change of cookies.

use super::{Checker, Findings, Invariant};
use crate::chaos::history::{
    AllowedEffects, FaultWindow, Millis, RecordedResponse, Request, RequestOutcome,
};

impl Checker<'_> {
    /// Checks that the response belongs to this request and user.
    pub(super) fn check_response(&self, findings: &mut Findings, request: &Request) {
        let Some((id, user)) = request.response().and_then(|response| response.echo.as_ref())
        else {
            return;
        };
        let owner = request.token.and_then(|token| self.sessions.user(token.session));
        let right = *id == request.id && owner == Some(user.as_str());
        findings.check(Invariant::Identity, request.done, right, || {
            format!("request {} of {owner:?} received the response to {id} of {user:?}", request.id)
        });
    }

    pub(super) fn check_deadline(&self, findings: &mut Findings, request: &Request) {
        if self.permits(request, |allowed| allowed.gateway_down) {
            return;
        }
        let took = request.done - request.sent;
        match &request.outcome {
            RequestOutcome::Response(response) => {
                findings.check(
                    Invariant::Deadline,
                    request.sent,
                    took <= self.bounds.deadline,
                    || {
                        format!(
                            "request {} at gateway {} took {took} ms",
                            request.id, request.gateway
                        )
                    },
                );
                self.check_refusal_reason(findings, request, response);
            }
            RequestOutcome::NoResponse(error) => {
                findings.check(Invariant::Deadline, request.sent, false, || {
                    format!(
                        "request {} at gateway {} had no response: {error}",
                        request.id, request.gateway
                    )
                });
            }
            RequestOutcome::Abandoned => {}
        }
    }

    fn check_refusal_reason(
        &self,
        findings: &mut Findings,
        request: &Request,
        response: &RecordedResponse,
    ) {
        match response.status {
            503 => {
                findings.check(Invariant::Deadline, request.sent, response.retry_after, || {
                    format!("request {} received 503 without Retry-After", request.id)
                });
                let cause = self.permits(request, |allowed| allowed.unavailable);
                findings.check(Invariant::Recovery, request.sent, cause, || {
                    format!(
                        "request {} at gateway {} received 503, {}",
                        request.id,
                        request.gateway,
                        self.last_fault(request.sent)
                    )
                });
            }
            200..300 | 401 => findings.check(Invariant::Recovery, request.sent, true, String::new),
            status => findings.check(Invariant::Deadline, request.sent, false, || {
                format!("request {} received {status} {}", request.id, response.reason)
            }),
        }
    }

    /// Returns true if a fault with this effect was present, or ended recently, at the request's gateway.
    pub(super) fn permits(
        &self,
        request: &Request,
        what: impl Fn(&AllowedEffects) -> bool,
    ) -> bool {
        let from = request.sent.saturating_sub(self.bounds.recovery);
        self.has_fault(request.gateway, from, request.done, what)
    }

    pub(super) fn has_fault(
        &self,
        gateway: usize,
        from: Millis,
        until: Millis,
        what: impl Fn(&AllowedEffects) -> bool,
    ) -> bool {
        let affects = |window: &&FaultWindow| {
            what(&window.allowed) && window.affects(gateway) && window.overlaps(from, until)
        };
        self.windows.iter().copied().any(|window| affects(&window))
    }

    pub(super) fn last_fault(&self, at: Millis) -> String {
        let last = self.windows.iter().filter(|window| window.ended <= at).max_by_key(|w| w.ended);
        last.map_or("without any fault".to_owned(), |window| {
            format!("{} ms after the end of {}", at - window.ended, window.fault)
        })
    }

    pub(super) fn check_cookie(&self, findings: &mut Findings, request: &Request) {
        if let Some(response) = request.response() {
            findings.check(Invariant::Cookie, request.done, !response.deletes_cookie, || {
                format!(
                    "the response {} to request {} deletes the cookie",
                    response.status, request.id
                )
            });
        }
    }
}
