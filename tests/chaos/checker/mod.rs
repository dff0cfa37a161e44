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
//! A fault excuses what its [`May`](crate::history::May) says and nothing else.

mod honest;
mod known;
mod outage;
mod sessions;
mod streams;

use std::collections::HashMap;
use std::fmt;

use crate::history::{At, Event, Request, Session, Token, Window};
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
    Known,
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
        Invariant::Known,
        Invariant::Cookie,
    ];

    pub fn word(self) -> &'static str {
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
            Invariant::Known => "known",
            Invariant::Cookie => "cookie",
        }
    }
}

/// The bounds, in milliseconds, and how session time runs.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Session time at the beginning of the history.
    pub epoch: u64,
    /// Milliseconds of session time in one of the history.
    pub scale: u64,
    pub grace: u64,
    /// For how long a session is served that the store cannot vouch for.
    pub known_for: u64,
    /// A revocation acts within this while all is well.
    pub prompt: u64,
    /// And within this in any case.
    pub at_worst: u64,
    /// The longest that any answer may take.
    pub deadline: u64,
    /// Everything works again this long after a fault.
    pub recovery: u64,
    /// What a busy machine may add to what one process measures of another.
    pub slack: u64,
}

impl Terms {
    fn session_time(&self, at: At) -> u64 {
        self.epoch.saturating_add(at.saturating_mul(self.scale))
    }
}

/// Something that must not have happened.
#[derive(Clone, Debug)]
pub struct Violation {
    pub invariant: Invariant,
    pub at: At,
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {} ms: {}: {}", self.at, self.invariant.word(), self.what)
    }
}

/// What was looked at, and what was wrong.
#[derive(Debug, Default)]
pub struct Findings {
    /// When each invariant had something to judge.
    pub judged: Vec<(Invariant, At)>,
    pub violations: Vec<Violation>,
}

impl Findings {
    /// Judges one fact.
    fn holds(&mut self, invariant: Invariant, at: At, holds: bool, what: impl FnOnce() -> String) {
        self.judged.push((invariant, at));
        if !holds {
            self.violations.push(Violation { invariant, at, what: what() });
        }
    }
}

/// A history with what is looked up often.
struct Seen<'a> {
    terms: &'a Terms,
    requests: HashMap<u64, &'a Request>,
    sessions: Sessions<'a>,
    windows: Vec<&'a Window>,
}

/// Judges all of it.
pub fn check(history: &[Event], terms: &Terms) -> Findings {
    let seen = Seen::new(history, terms);
    let mut findings = Findings::default();
    for event in history {
        match event {
            Event::Reached { request, user, at } => {
                seen.reached(&mut findings, *request, user, *at)
            }
            Event::Asked(request) => seen.asked(&mut findings, request),
            Event::Seen { session, user, absolute_end, at } => {
                seen.told(&mut findings, *session, user, *absolute_end, *at);
            }
            Event::Heard { session, gateway, user, told } => {
                seen.heard(&mut findings, *session, *gateway, user, *told);
            }
            Event::Cut { session, gateway, at } => seen.cut(&mut findings, *session, *gateway, *at),
            Event::Began { .. }
            | Event::Came { .. }
            | Event::Ended { .. }
            | Event::Stolen { .. }
            | Event::Fault(_) => {}
        }
    }
    seen.one_successor(&mut findings);
    seen.nobody_is_logged_out(&mut findings);
    findings.violations.sort_by_key(|violation| violation.at);
    findings
}

impl<'a> Seen<'a> {
    fn new(history: &'a [Event], terms: &'a Terms) -> Seen<'a> {
        let requests = history.iter().filter_map(Event::request);
        let windows = history.iter().filter_map(Event::window);
        Seen {
            terms,
            requests: requests.map(|request| (request.id, request)).collect(),
            sessions: Sessions::of(history, terms),
            windows: windows.collect(),
        }
    }

    fn asked(&self, findings: &mut Findings, request: &Request) {
        self.answered_rightly(findings, request);
        self.in_time(findings, request);
        self.known_rightly(findings, request);
        self.cookie_stays(findings, request);
    }

    /// What the upstream saw: somebody must have been let in, and rightly.
    fn reached(&self, findings: &mut Findings, id: u64, user: &str, at: At) {
        // A history may be cut off before a client told of its request.
        let Some(request) = self.requests.get(&id) else { return };
        let Some(token) = &request.token else {
            return findings.holds(Invariant::Live, at, false, || {
                format!("request {id} reached the upstream without a cookie, as {user:?}")
            });
        };
        let owner = self.sessions.user(token.session);
        findings.holds(Invariant::Identity, at, owner == Some(user), || {
            format!("request {id} of {owner:?} reached the upstream as {user:?}")
        });
        self.was_live(findings, request, token);
        self.was_remembered(findings, request, token);
        self.was_not_revoked(findings, request, token);
        self.before_the_end(findings, request, token);
        self.within_grace(findings, request, token);
    }

    fn was_live(&self, findings: &mut Findings, request: &Request, token: &Token) {
        let told = self.sessions.told_ended(token.session);
        let bound = self.terms.at_worst.max(self.unasked_for(request));
        let late =
            |(at, _): (At, &str)| request.sent > (at + bound).max(self.lost(at, request.sent));
        findings.holds(Invariant::Live, request.sent, !told.is_some_and(late), || {
            format!(
                "request {} of session {} passed at gateway {} though {told:?} said that it had ended",
                request.id, token.session, request.gateway
            )
        });
    }

    /// A gateway knows what it has said, whatever its store forgets; a process that was killed does not.
    fn was_remembered(&self, findings: &mut Findings, request: &Request, token: &Token) {
        let Some(told) = self.sessions.told_ended_at(token.session, request.gateway) else {
            return;
        };
        if self.disturbed(request.gateway, told, request.done, |may| may.silence) {
            return;
        }
        findings.holds(Invariant::Live, request.sent, request.sent <= told, || {
            format!(
                "request {} of session {} passed at gateway {}, which had said {} ms before that it had ended",
                request.id, token.session, request.gateway, request.sent - told
            )
        });
    }

    fn was_not_revoked(&self, findings: &mut Findings, request: &Request, token: &Token) {
        let Some(acked) = self.sessions.revoked(token.session) else { return };
        let from = acked.saturating_sub(self.terms.recovery);
        let calm = self.calm(request.gateway, from, request.sent);
        let bound = if calm { self.terms.prompt } else { self.terms.at_worst };
        let bound = bound.max(self.unasked_for(request));
        let until = (acked + bound).max(self.lost(acked, request.sent));
        findings.holds(Invariant::Revoked, request.sent, request.sent <= until, || {
            format!(
                "request {} of session {} passed at gateway {}, sent {} ms after the revocation was acknowledged at {acked} ms (allowed: {bound})",
                request.id, token.session, request.gateway, request.sent - acked
            )
        });
    }

    /// Until when a store that forgot an end may revive it: who ended it writes it again within a second.
    fn lost(&self, ended: At, until: At) -> At {
        let forgets = |window: &&&Window| window.may.lose_writes && window.overlaps(ended, until);
        let windows = self.windows.iter().filter(forgets);
        windows.map(|window| window.ended + self.terms.prompt).max().unwrap_or(0)
    }

    /// Whether nothing kept a gateway from hearing.
    fn calm(&self, gateway: usize, from: At, until: At) -> bool {
        !self.disturbed(gateway, from, until, |_| true)
    }

    fn before_the_end(&self, findings: &mut Findings, request: &Request, token: &Token) {
        let Some(end) = self.sessions.absolute_end(token.session) else { return };
        let from = request.sent.saturating_sub(self.terms.slack);
        if self.disturbed(request.gateway, from, request.done, |may| may.bend_time) {
            return;
        }
        let end = end + self.terms.slack * self.terms.scale;
        let sent = self.terms.session_time(request.sent);
        findings.holds(Invariant::Absolute, request.sent, sent < end, || {
            format!("request {} passed {} ms after the absolute end", request.id, sent - end)
        });
    }

    fn within_grace(&self, findings: &mut Findings, request: &Request, token: &Token) {
        if self.sessions.bent(token.session).is_some() || self.sessions.went_back(token.session) {
            return;
        }
        let Some(shown) = self.sessions.first_shown(token.session, token.generation + 1) else {
            return;
        };
        // A gateway that a fault kept from hearing may take the old token for the current one a while.
        let stale = match self.calm(request.gateway, shown, request.sent) {
            true => 0,
            false => self.terms.at_worst.max(self.unasked_for(request)),
        };
        let until = shown + self.terms.grace + self.terms.slack + stale;
        findings.holds(Invariant::Grace, request.sent, request.sent <= until, || {
            format!(
                "request {} passed with generation {} of session {}, whose successor was shown {} ms before",
                request.id, token.generation, token.session, request.sent - shown
            )
        });
    }

    /// What a gateway tells the operator never changes.
    fn told(&self, findings: &mut Findings, session: Session, user: &str, end: u64, at: At) {
        let first = self.sessions.absolute_end(session);
        findings.holds(Invariant::Absolute, at, first == Some(end), || {
            format!("session {session} ends at {end}, first told {first:?}")
        });
        let owner = self.sessions.user(session).unwrap_or(user);
        findings.holds(Invariant::Identity, at, owner == user, || {
            format!("session {session} of {owner} is listed as {user}'s")
        });
    }

    /// All who show one token are offered one successor.
    fn one_successor(&self, findings: &mut Findings) {
        let mut known: HashMap<Token, Token> = HashMap::new();
        let mut all: Vec<_> = self.requests.values().collect();
        all.sort_by_key(|request| request.done);
        for request in all {
            let (Some(token), Some(answer)) = (request.token, request.answer()) else { continue };
            let Some(offered) = answer.offered else { continue };
            if self.sessions.went_back(token.session) {
                continue;
            }
            let first = *known.entry(token).or_insert(offered);
            let next =
                offered.session == token.session && offered.generation == token.generation + 1;
            findings.holds(Invariant::Successor, request.done, first == offered && next, || {
                format!("{token:?} was offered {offered:?}, before that {first:?}")
            });
        }
    }
}
