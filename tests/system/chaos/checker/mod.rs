//! Judges a history: a pure function over what was recorded, without clock or socket.
//!
//! | invariant | nothing may ever |
//! | --- | --- |
//! | identity | reach an upstream, or come back, in another user's name |
//! | live | pass without a session, or after an answer said that it had ended |
//! | revoked | pass that was sent more than 1 s (3 s around a fault) after an acknowledged revocation; nor may a stream go on |
//! | absolute | move the absolute end, or pass after it |
//! | successor | be offered as a second successor of one token |
//! | grace | pass with a token whose successor was shown more than a grace before |
//! | honest | log an honest browser out: by an outage, a restart, a lost `Set-Cookie`, parallel tabs; nor cut a stream |
//! | deadline | take longer than the deadline, or fail in another way than by 503 with `Retry-After` |
//! | recovery | be refused for an outage 2 s after its end |
//! | known | pass unasked more than 3 s into an outage but on a route of `serve-known`: to read, for `serve_known_for` more, never a session that somebody there failed to end |
//! | cookie | delete the session's cookie, but the logout that the user asked for |
//!
//! Broken gateways are caught. With one fault planted in the source of each gateway, the short form's
//! histories with a failing network (seed 1) broke:
//!
//! | planted | violations of |
//! | --- | --- |
//! | every 50th request passes as the user before | identity 54 |
//! | a theft is refused and its end not written | live 138 |
//! | a revocation's tombstone is not written | revoked 219, live 137 |
//! | a revocation is acknowledged 2 s before it is written | revoked 85, live 6 |
//! | live connections are not cut | revoked 39 |
//! | a write of the record moves its absolute end | absolute 264 |
//! | an offer is not stored | successor 46, honest 5 |
//! | an offer has a new salt each time | successor 39, honest 3 |
//! | a superseded token passes for ever | grace 4 |
//! | there is no grace | honest 1 |
//! | an outage is told as an unknown session | honest 32 |
//! | an outage cuts live connections | honest 21 |
//! | an outage is a 500 | deadline 782 |
//! | Redis has twenty times as long to answer, and a request no deadline | deadline 57 |
//! | a circuit breaker stays open for 8 s | recovery 549 |
//! | a 503 deletes the cookie | cookie 405 |
//!
//! These counts are of the day on which each fault was planted: what people do has changed since, and with
//! it how often they meet one.
//!
//! In the histories in real time (seed 1):
//!
//! | planted | violations of |
//! | --- | --- |
//! | a cache that is told of changes forgets nothing for it | revoked 14, live 14 |
//! | `serve-known` serves whom somebody there failed to end | known 2 |
//! | `serve-known` serves for as long as it lasts | known, live and revoked, 14 together (with a failing network: known 6) |
//! | an end that cannot be looked up withholds nothing | known 1 (with a failing network: 8) |
//!
//! Not caught by the short form, but by other suites: a token whose MAC is not checked (`session::token`;
//! nobody here can make one whose secret fits), ends that are not remembered over a failover (`cache_journal`).
//!
//! A fault excuses what its [`AllowedEffects`](crate::chaos::history::AllowedEffects) says and nothing else.

mod honest;
mod outage;
mod sessions;
mod stale_reads;
mod streams;

use std::collections::HashMap;
use std::fmt;

use crate::chaos::history::{Event, FaultWindow, Millis, Request, Session, Token};
use sessions::Sessions;

/// What must hold.
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

/// The bounds, in milliseconds, and how session time runs.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Session time at the beginning of the history.
    pub epoch: u64,
    /// Milliseconds of session time in one of the history.
    pub scale: u64,
    pub grace: u64,
    /// For how long a session is served that the store cannot vouch for.
    pub serve_stale_for: u64,
    /// A revocation acts within this while all is well.
    pub revocation_bound: u64,
    /// And within this in any case.
    pub revocation_bound_in_fault: u64,
    /// The longest that any answer may take.
    pub deadline: u64,
    /// Everything works again this long after a fault.
    pub recovery: u64,
    /// What a busy machine may add to what one process measures of another.
    pub slack: u64,
}

impl Bounds {
    fn session_time(&self, at: Millis) -> u64 {
        self.epoch.saturating_add(at.saturating_mul(self.scale))
    }
}

/// Something that must not have happened.
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

/// What was looked at, and what was wrong.
#[derive(Debug, Default)]
pub struct Findings {
    /// When each invariant had something to judge.
    pub judged: Vec<(Invariant, Millis)>,
    pub violations: Vec<Violation>,
}

impl Findings {
    /// Judges one fact.
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

/// A history with what is looked up often.
struct Checker<'a> {
    bounds: &'a Bounds,
    requests: HashMap<u64, &'a Request>,
    sessions: Sessions<'a>,
    windows: Vec<&'a FaultWindow>,
}

/// Judges all of it.
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

    /// What the upstream saw: somebody must have been let in, and rightly.
    fn check_reached_upstream(&self, findings: &mut Findings, id: u64, user: &str, at: Millis) {
        // A history may be cut off before a client told of its request.
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
                "request {} of session {} passed at gateway {} though {reported:?} said that it had ended",
                request.id, token.session, request.gateway
            )
        });
    }

    /// A gateway knows what it has said, whatever its store forgets; a process that was killed does not.
    fn check_own_end(&self, findings: &mut Findings, request: &Request, token: &Token) {
        let Some(reported) = self.sessions.reported_ended_by(token.session, request.gateway) else {
            return;
        };
        if self.disturbed(request.gateway, reported, request.done, |allowed| allowed.gateway_down) {
            return;
        }
        findings.check(Invariant::Live, request.sent, request.sent <= reported, || {
            format!(
                "request {} of session {} passed at gateway {}, which had said {} ms before that it had ended",
                request.id, token.session, request.gateway, request.sent - reported
            )
        });
    }

    fn check_revoked(&self, findings: &mut Findings, request: &Request, token: &Token) {
        let Some(acked) = self.sessions.revoked(token.session) else { return };
        let from = acked.saturating_sub(self.bounds.recovery);
        let calm = self.is_undisturbed(request.gateway, from, request.sent);
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

    /// Until when a store that forgot an end may revive it: who ended it writes it again within a second.
    fn data_loss_until(&self, ended: Millis, until: Millis) -> Millis {
        let forgets =
            |window: &&&FaultWindow| window.allowed.data_loss && window.overlaps(ended, until);
        let windows = self.windows.iter().filter(forgets);
        windows.map(|window| window.ended + self.bounds.revocation_bound).max().unwrap_or(0)
    }

    /// Whether nothing kept a gateway from hearing.
    fn is_undisturbed(&self, gateway: usize, from: Millis, until: Millis) -> bool {
        !self.disturbed(gateway, from, until, |_| true)
    }

    fn check_absolute(&self, findings: &mut Findings, request: &Request, token: &Token) {
        let Some(end) = self.sessions.absolute_end(token.session) else { return };
        let from = request.sent.saturating_sub(self.bounds.slack);
        if self.disturbed(request.gateway, from, request.done, |allowed| allowed.wrong_clock) {
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
        // A gateway that a fault kept from hearing may take the old token for the current one a while.
        let stale = match self.is_undisturbed(request.gateway, shown, request.sent) {
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

    /// What a gateway tells the operator never changes.
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
            format!("session {session} ends at {end}, first told {first:?}")
        });
        let owner = self.sessions.user(session).unwrap_or(user);
        findings.check(Invariant::Identity, at, owner == user, || {
            format!("session {session} of {owner} is listed as {user}'s")
        });
    }

    /// All who show one token are offered one successor.
    fn check_successors(&self, findings: &mut Findings) {
        let mut known: HashMap<Token, Token> = HashMap::new();
        let mut all: Vec<_> = self.requests.values().collect();
        all.sort_by_key(|request| request.done);
        for request in all {
            let (Some(token), Some(answer)) = (request.token, request.answer()) else { continue };
            let Some(offered) = answer.new_token else { continue };
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
