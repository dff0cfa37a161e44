//! Checks a history: a pure function over the recorded events, without clock or socket.
//!
//! | invariant | rule |
//! | --- | --- |
//! | identity | No request or response carries another user's name. |
//! | live | No request is allowed without a session, or after a response reported its end. |
//! | revoked | No request sent more than 1 s (3 s around a fault) after an acknowledged revocation is allowed, and no stream continues. |
//! | absolute | The absolute timeout never moves, and no request is allowed after it. |
//! | successor | A token has at most one successor. |
//! | grace | No token is allowed after the grace period that starts with the use of its successor. |
//! | honest | Outages, restarts, lost `Set-Cookie` headers and parallel tabs neither log out an honest browser nor cut a stream. |
//! | deadline | Every response arrives within the deadline; failures are 503 with `Retry-After`. |
//! | recovery | No request gets a 503 more than 2 s after an outage. |
//! | known | Beyond 3 s into an outage, stale reads happen only on `serve-known` routes, for `serve_known_for` more, and never for a session that this gateway failed to end. |
//! | cookie | Only a logout deletes the session cookie. |
//!
//! The checker detects broken gateways. With one bug planted in the source, the short histories with network
//! faults (seed 1) had these violations:
//!
//! | planted bug | violations |
//! | --- | --- |
//! | every 50th request has the identity of the previous user | identity 54 |
//! | a theft verdict does not end the session | live 138 |
//! | a revocation's tombstone is not written | revoked 219, live 137 |
//! | a revocation is acknowledged 2 s before it is written | revoked 85, live 6 |
//! | tracked connections are not closed | revoked 39 |
//! | a write of the record moves its absolute end | absolute 264 |
//! | a successor is not stored | successor 46, honest 5 |
//! | a successor has a new salt each time | successor 39, honest 3 |
//! | a superseded token is always accepted | grace 4 |
//! | there is no grace period | honest 1 |
//! | an outage is reported as an unknown session | honest 32 |
//! | an outage closes tracked connections | honest 21 |
//! | an outage is a 500 | deadline 782 |
//! | the Redis timeout is twenty times longer and requests have no deadline | deadline 57 |
//! | a circuit breaker stays open for 8 s | recovery 549 |
//! | a 503 deletes the cookie | cookie 405 |
//!
//! The counts are from the time of planting; the simulated traffic has changed since.
//!
//! In the real-time histories (seed 1):
//!
//! | planted bug | violations |
//! | --- | --- |
//! | invalidations do not evict cache entries | revoked 14, live 14 |
//! | `serve-known` serves sessions that this gateway failed to end | known 2 |
//! | `serve-known` has no time limit | known, live and revoked, 14 together (with network faults: known 6) |
//! | a failed revocation does not suspend the cached session | known 1 (with network faults: 8) |
//!
//! The short form does not detect an unchecked token MAC (`session::token` does) or revocations lost in a
//! failover (`cache_journal` does).
//!
//! A fault excuses exactly its [`AllowedEffects`](crate::chaos::history::AllowedEffects).

mod honest;
mod outage;
mod sessions;
mod stale_reads;
mod streams;

use std::collections::HashMap;
use std::fmt;

use crate::chaos::history::{Event, FaultWindow, Millis, Request, Session, Token};
use sessions::Sessions;

/// The checked invariants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Invariant {
    Identity,
    Live,
    Revoked,
    Absolute,
    Successor,
    Grace,
    Honest,
    Deadline,
    Recovery,
    StaleRead,
    Cookie,
}

impl Invariant {
    pub const ALL: [Invariant; 11] = [
        Invariant::Identity,
        Invariant::Live,
        Invariant::Revoked,
        Invariant::Absolute,
        Invariant::Successor,
        Invariant::Grace,
        Invariant::Honest,
        Invariant::Deadline,
        Invariant::Recovery,
        Invariant::StaleRead,
        Invariant::Cookie,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Invariant::Identity => "identity",
            Invariant::Live => "live",
            Invariant::Revoked => "revoked",
            Invariant::Absolute => "absolute",
            Invariant::Successor => "successor",
            Invariant::Grace => "grace",
            Invariant::Honest => "honest",
            Invariant::Deadline => "deadline",
            Invariant::Recovery => "recovery",
            Invariant::StaleRead => "known",
            Invariant::Cookie => "cookie",
        }
    }
}

/// Time bounds in milliseconds, and the speed of session time.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Session time at the start of the history.
    pub epoch: u64,
    /// Milliseconds of session time per millisecond of history.
    pub scale: u64,
    pub grace: u64,
    /// How long sessions are served from the cache in an outage.
    pub serve_stale_for: u64,
    /// Longest delay of a revocation without faults.
    pub revocation_bound: u64,
    /// Longest delay of a revocation in any case.
    pub revocation_bound_in_fault: u64,
    /// Longest response time.
    pub deadline: u64,
    /// Time to recover after a fault.
    pub recovery: u64,
    /// Tolerance for scheduling delays between processes.
    pub slack: u64,
}

impl Bounds {
    fn session_time(&self, at: Millis) -> u64 {
        self.epoch.saturating_add(at.saturating_mul(self.scale))
    }
}

/// A violation of an invariant.
#[derive(Clone, Debug)]
pub struct Violation {
    pub invariant: Invariant,
    pub at: Millis,
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {} ms: {}: {}", self.at, self.invariant.as_str(), self.what)
    }
}

/// The checks that were made, and the violations.
#[derive(Debug, Default)]
pub struct Findings {
    /// The time of each check.
    pub judged: Vec<(Invariant, Millis)>,
    pub violations: Vec<Violation>,
}

impl Findings {
    /// Records one check and its violation, if any.
    fn check(
        &mut self,
        invariant: Invariant,
        at: Millis,
        holds: bool,
        what: impl FnOnce() -> String,
    ) {
        self.judged.push((invariant, at));
        if !holds {
            self.violations.push(Violation { invariant, at, what: what() });
        }
    }
}

/// A history with indices for frequent lookups.
struct Checker<'a> {
    bounds: &'a Bounds,
    requests: HashMap<u64, &'a Request>,
    sessions: Sessions<'a>,
    windows: Vec<&'a FaultWindow>,
}

/// Checks a complete history.
pub fn check(history: &[Event], bounds: &Bounds) -> Findings {
    let checker = Checker::new(history, bounds);
    let mut findings = Findings::default();
    for event in history {
        match event {
            Event::ReachedUpstream { request, user, at } => {
                checker.check_reached_upstream(&mut findings, *request, user, *at)
            }
            Event::Requested(request) => checker.check_request(&mut findings, request),
            Event::Listed { session, user, absolute_end, at } => {
                checker.check_listed(&mut findings, *session, user, *absolute_end, *at);
            }
            Event::StreamLine { session, gateway, user, written_at } => {
                checker.check_stream_line(&mut findings, *session, *gateway, user, *written_at);
            }
            Event::StreamCut { session, gateway, at } => {
                checker.check_stream_cut(&mut findings, *session, *gateway, *at)
            }
            Event::LoggedIn { .. }
            | Event::OwnPage { .. }
            | Event::Ended { .. }
            | Event::Stolen { .. }
            | Event::Fault(_) => {}
        }
    }
    checker.check_successors(&mut findings);
    checker.check_logouts(&mut findings);
    findings.violations.sort_by_key(|violation| violation.at);
    findings
}

impl<'a> Checker<'a> {
    fn new(history: &'a [Event], bounds: &'a Bounds) -> Checker<'a> {
        let requests = history.iter().filter_map(Event::request);
        let windows = history.iter().filter_map(Event::window);
        Checker {
            bounds,
            requests: requests.map(|request| (request.id, request)).collect(),
            sessions: Sessions::from_history(history, bounds),
            windows: windows.collect(),
        }
    }

    fn check_request(&self, findings: &mut Findings, request: &Request) {
        self.check_response(findings, request);
        self.check_deadline(findings, request);
        self.check_stale_read(findings, request);
        self.check_cookie(findings, request);
    }

    /// Checks a request that reached the upstream.
    fn check_reached_upstream(&self, findings: &mut Findings, id: u64, user: &str, at: Millis) {
        // The history can end before the client has recorded its request.
        let Some(request) = self.requests.get(&id) else { return };
        let Some(token) = &request.token else {
            return findings.check(Invariant::Live, at, false, || {
                format!("request {id} reached the upstream without a cookie, as {user:?}")
            });
        };
        let owner = self.sessions.user(token.session);
        findings.check(Invariant::Identity, at, owner == Some(user), || {
            format!("request {id} of {owner:?} reached the upstream as {user:?}")
        });
        self.check_live(findings, request, token);
        self.check_own_end(findings, request, token);
        self.check_revoked(findings, request, token);
        self.check_absolute(findings, request, token);
        self.check_grace(findings, request, token);
    }

    fn check_live(&self, findings: &mut Findings, request: &Request, token: &Token) {
        let reported = self.sessions.reported_ended(token.session);
        let bound = self.bounds.revocation_bound_in_fault.max(self.stale_read_bound(request));
        let late = |(at, _): (Millis, &str)| {
            request.sent > (at + bound).max(self.data_loss_until(at, request.sent))
        };
        findings.check(Invariant::Live, request.sent, !reported.is_some_and(late), || {
            format!(
                "request {} of session {} passed at gateway {} though {reported:?} reported its end",
                request.id, token.session, request.gateway
            )
        });
    }

    /// A gateway remembers the ends that it reported, even after data loss, unless its process was killed.
    fn check_own_end(&self, findings: &mut Findings, request: &Request, token: &Token) {
        let Some(reported) = self.sessions.reported_ended_by(token.session, request.gateway) else {
            return;
        };
        if self.has_fault(request.gateway, reported, request.done, |allowed| allowed.gateway_down) {
            return;
        }
        findings.check(Invariant::Live, request.sent, request.sent <= reported, || {
            format!(
                "request {} of session {} passed at gateway {}, which had reported its end {} ms before",
                request.id, token.session, request.gateway, request.sent - reported
            )
        });
    }

    fn check_revoked(&self, findings: &mut Findings, request: &Request, token: &Token) {
        let Some(acked) = self.sessions.revoked(token.session) else { return };
        let from = acked.saturating_sub(self.bounds.recovery);
        let calm = self.has_no_fault(request.gateway, from, request.sent);
        let bound =
            if calm { self.bounds.revocation_bound } else { self.bounds.revocation_bound_in_fault };
        let bound = bound.max(self.stale_read_bound(request));
        let until = (acked + bound).max(self.data_loss_until(acked, request.sent));
        findings.check(Invariant::Revoked, request.sent, request.sent <= until, || {
            format!(
                "request {} of session {} passed at gateway {}, sent {} ms after the revocation was acknowledged at {acked} ms (allowed: {bound})",
                request.id, token.session, request.gateway, request.sent - acked
            )
        });
    }

    /// Returns the time until which data loss may revive an ended session; gateways restore ends within a second.
    fn data_loss_until(&self, ended: Millis, until: Millis) -> Millis {
        let may_roll_back =
            |window: &&&FaultWindow| window.allowed.data_loss && window.overlaps(ended, until);
        let windows = self.windows.iter().filter(may_roll_back);
        windows.map(|window| window.ended + self.bounds.revocation_bound).max().unwrap_or(0)
    }

    /// Returns true if no fault affected the gateway.
    fn has_no_fault(&self, gateway: usize, from: Millis, until: Millis) -> bool {
        !self.has_fault(gateway, from, until, |_| true)
    }

    fn check_absolute(&self, findings: &mut Findings, request: &Request, token: &Token) {
        let Some(end) = self.sessions.absolute_end(token.session) else { return };
        let from = request.sent.saturating_sub(self.bounds.slack);
        if self.has_fault(request.gateway, from, request.done, |allowed| allowed.wrong_clock) {
            return;
        }
        let end = end + self.bounds.slack * self.bounds.scale;
        let sent = self.bounds.session_time(request.sent);
        findings.check(Invariant::Absolute, request.sent, sent < end, || {
            format!("request {} passed {} ms after the absolute end", request.id, sent - end)
        });
    }

    fn check_grace(&self, findings: &mut Findings, request: &Request, token: &Token) {
        if self.sessions.wrong_clock_since(token.session).is_some()
            || self.sessions.data_lost(token.session)
        {
            return;
        }
        let Some(shown) = self.sessions.first_use(token.session, token.generation + 1) else {
            return;
        };
        // A gateway that missed an invalidation may accept the old token for a while.
        let stale = match self.has_no_fault(request.gateway, shown, request.sent) {
            true => 0,
            false => self.bounds.revocation_bound_in_fault.max(self.stale_read_bound(request)),
        };
        let until = shown + self.bounds.grace + self.bounds.slack + stale;
        findings.check(Invariant::Grace, request.sent, request.sent <= until, || {
            format!(
                "request {} passed with generation {} of session {}, whose successor was shown {} ms before",
                request.id, token.generation, token.session, request.sent - shown
            )
        });
    }

    /// Checks that user and absolute end in session lists never change.
    fn check_listed(
        &self,
        findings: &mut Findings,
        session: Session,
        user: &str,
        end: u64,
        at: Millis,
    ) {
        let first = self.sessions.absolute_end(session);
        findings.check(Invariant::Absolute, at, first == Some(end), || {
            format!("session {session} ends at {end}, first reported as {first:?}")
        });
        let owner = self.sessions.user(session).unwrap_or(user);
        findings.check(Invariant::Identity, at, owner == user, || {
            format!("session {session} of {owner} is listed as {user}'s")
        });
    }

    /// Checks that each token has one successor.
    fn check_successors(&self, findings: &mut Findings) {
        let mut known: HashMap<Token, Token> = HashMap::new();
        let mut all: Vec<_> = self.requests.values().collect();
        all.sort_by_key(|request| request.done);
        for request in all {
            let (Some(token), Some(response)) = (request.token, request.response()) else {
                continue;
            };
            let Some(offered) = response.new_token else { continue };
            if self.sessions.data_lost(token.session) {
                continue;
            }
            let first = *known.entry(token).or_insert(offered);
            let next =
                offered.session == token.session && offered.generation == token.generation + 1;
            findings.check(Invariant::Successor, request.done, first == offered && next, || {
                format!("{token:?} was offered {offered:?}, before that {first:?}")
            });
        }
    }
}
