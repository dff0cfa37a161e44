//! Facts about each session, collected from a history.

use std::collections::HashMap;

use super::Bounds;
use crate::chaos::history::{
    Actor, EndTarget, Event, FaultWindow, Millis, RecordedResponse, Request, RequestOutcome,
    Session,
};

/// Deny reasons after which a session never becomes active again.
const FINAL_REASONS: [&str; 15] = [
    "logout",
    "revoked",
    "replaced",
    "idle",
    "absolute",
    "theft",
    "not-rotating",
    "account-gone",
    "credential-changed",
    "ended-by-operator",
    "ended-by-user",
    "logout-everywhere",
    "logout-by-app",
    "account-disabled",
    "session-limit",
];

impl Request {
    pub fn response(&self) -> Option<&RecordedResponse> {
        match &self.outcome {
            RequestOutcome::Response(response) => Some(response),
            RequestOutcome::Abandoned | RequestOutcome::NoResponse(_) => None,
        }
    }

    pub fn passed(&self) -> bool {
        self.response().is_some_and(|response| (200..300).contains(&response.status))
    }

    /// Returns the deny reason, if the session was rejected.
    pub(super) fn refused(&self) -> Option<&str> {
        self.response()
            .filter(|response| response.status == 401)
            .map(|response| response.reason.as_str())
    }

    pub(super) fn is_honest(&self) -> bool {
        match self.actor {
            Actor::Browser(_) => true,
            Actor::Attacker | Actor::Prober | Actor::FailedEndProber => false,
        }
    }
}

impl FaultWindow {
    pub(super) fn overlaps(&self, from: Millis, until: Millis) -> bool {
        self.began <= until && from <= self.ended
    }

    pub(super) fn affects(&self, gateway: usize) -> bool {
        self.gateway.is_none_or(|only| only == gateway)
    }
}

/// A period in which a session was used at a gateway.
struct Visit {
    session: Session,
    gateway: usize,
    from: Millis,
    until: Millis,
}

impl Visit {
    fn from_event(event: &Event) -> Option<Visit> {
        let visit = |session, gateway, from, until| Visit { session, gateway, from, until };
        Some(match event {
            Event::Requested(request) => {
                visit(request.token?.session, request.gateway, request.sent, request.done)
            }
            Event::LoggedIn { session, gateway, sent, done, .. }
            | Event::OwnPage { session, gateway, sent, done }
            | Event::Ended { what: EndTarget::Session(session), gateway, sent, done, .. } => {
                visit(*session, *gateway, *sent, *done)
            }
            Event::StreamLine { session, gateway, written_at: at, .. }
            | Event::StreamCut { session, gateway, at } => visit(*session, *gateway, *at, *at),
            Event::Ended { what: EndTarget::User(_) | EndTarget::All, .. }
            | Event::ReachedUpstream { .. }
            | Event::Stolen { .. }
            | Event::Listed { .. }
            | Event::Fault(_) => return None,
        })
    }
}

impl SessionFacts<'_> {
    fn logged_in_before(&self, at: Millis) -> bool {
        self.began.is_some_and(|began| began < at)
    }

    fn logged_in_after(&self, at: Millis) -> bool {
        self.login.is_some_and(|login| at < login)
    }
}

#[derive(Default)]
struct SessionFacts<'a> {
    user: Option<&'a str>,
    /// Time of the login request.
    login: Option<Millis>,
    began: Option<Millis>,
    absolute_end: Option<u64>,
    /// Time of the first acknowledgement of a revocation.
    revoked: Option<Millis>,
    end_requested: Option<Millis>,
    stolen: Option<Millis>,
    /// Attempts to end the session that failed.
    failed_ends: Vec<FailedEnd>,
    reported_ended: Option<(Millis, &'a str)>,
    /// Time of the first reported end by gateway.
    reported_ended_by: HashMap<usize, Millis>,
    /// First allowed use of each generation.
    first_use: HashMap<u32, Millis>,
    /// Time of the first possible effect of a wrong clock.
    wrong_clock_since: Option<Millis>,
    data_lost: bool,
}

/// An unacknowledged request to end a session.
#[derive(Clone, Copy)]
pub(super) struct FailedEnd {
    pub(super) gateway: usize,
    pub(super) sent: Millis,
    pub(super) done: Millis,
}

pub(super) struct Sessions<'a> {
    facts_by_session: HashMap<Session, SessionFacts<'a>>,
}

impl<'a> Sessions<'a> {
    pub(super) fn from_history(history: &'a [Event], bounds: &Bounds) -> Sessions<'a> {
        let mut sessions = Sessions { facts_by_session: HashMap::new() };
        // The sessions of a user must be known before user-wide revocations are evaluated.
        history.iter().for_each(|event| sessions.record_login(event));
        history.iter().for_each(|event| sessions.record(event, bounds));
        let windows = history.iter().filter_map(Event::window);
        let bending: Vec<_> = windows.filter(|window| window.allowed.wrong_clock).collect();
        history.iter().for_each(|event| sessions.record_wrong_clock(event, &bending, bounds));
        sessions
    }

    fn record_login(&mut self, event: &'a Event) {
        if let Event::LoggedIn { session, user, sent, done, .. } = event {
            let facts = self.facts_by_session.entry(*session).or_default();
            facts.user = Some(user.as_str());
            (facts.login, facts.began) = (Some(*sent), Some(*done));
        }
    }

    fn record(&mut self, event: &'a Event, bounds: &Bounds) {
        match event {
            Event::Requested(request) => self.record_request(request),
            Event::Ended { what, sent, acked: acked @ Some(_), .. } => {
                self.record_end(what, *sent, *acked);
            }
            Event::Ended { what, gateway, sent, acked: None, done } => {
                self.record_end(what, *sent, None);
                self.record_failed_end(
                    what,
                    FailedEnd { gateway: *gateway, sent: *sent, done: *done },
                );
            }
            Event::Stolen { session, at } => {
                earliest(&mut self.facts_mut(*session).stolen, Some(*at))
            }
            Event::Listed { session, absolute_end, .. } => {
                self.facts_mut(*session).absolute_end.get_or_insert(*absolute_end);
            }
            Event::Fault(window) => self.record_data_loss(window, bounds),
            Event::LoggedIn { .. }
            | Event::OwnPage { .. }
            | Event::ReachedUpstream { .. }
            | Event::StreamLine { .. }
            | Event::StreamCut { .. } => {}
        }
    }

    fn record_request(&mut self, request: &'a Request) {
        let Some(token) = request.token else { return };
        let facts = self.facts_mut(token.session);
        if request.passed() {
            let shown = facts.first_use.entry(token.generation).or_insert(request.done);
            *shown = request.done.min(*shown);
        }
        let Some(reason) = request.refused().filter(|reason| FINAL_REASONS.contains(reason)) else {
            return;
        };
        if facts.reported_ended.is_none_or(|(at, _)| request.done < at) {
            facts.reported_ended = Some((request.done, reason));
        }
        let there = facts.reported_ended_by.entry(request.gateway).or_insert(request.done);
        *there = request.done.min(*there);
    }

    fn record_end(&mut self, what: &EndTarget, sent: Millis, acked: Option<Millis>) {
        self.for_each_target(what, |facts| {
            // A session that started at the same time can be on either side of the cutoff, and an unacknowledged end can
            // take effect at any time.
            if acked.is_none_or(|acked| !facts.logged_in_after(acked)) {
                earliest(&mut facts.end_requested, Some(sent));
            }
            if facts.logged_in_before(sent) {
                earliest(&mut facts.revoked, acked);
            }
        });
    }

    fn record_failed_end(&mut self, what: &EndTarget, kept: FailedEnd) {
        self.for_each_target(what, |facts| {
            if facts.logged_in_before(kept.sent) {
                facts.failed_ends.push(kept);
            }
        });
    }

    fn for_each_target(&mut self, what: &EndTarget, update: impl Fn(&mut SessionFacts<'a>)) {
        for (session, facts) in &mut self.facts_by_session {
            let is_meant = match what {
                EndTarget::Session(one) => one == session,
                EndTarget::User(user) => facts.user == Some(user),
                EndTarget::All => true,
            };
            if is_meant {
                update(facts);
            }
        }
    }

    /// Marks all sessions that data loss can have affected: those that started before recovery.
    fn record_data_loss(&mut self, window: &FaultWindow, bounds: &Bounds) {
        let over = window.ended + bounds.recovery;
        for facts in self
            .facts_by_session
            .values_mut()
            .filter(|facts| facts.began.is_none_or(|at| at < over))
        {
            facts.data_lost |= window.allowed.data_loss;
        }
    }

    /// Marks sessions that a wrong clock can have affected: those used at its gateway, and those that started before
    /// a cutoff set by it.
    fn record_wrong_clock(&mut self, event: &'a Event, bending: &[&FaultWindow], bounds: &Bounds) {
        let by_wrong_clock = |gateway: usize, from: Millis, until: Millis| {
            let (from, until) = (from.saturating_sub(bounds.slack), until + bounds.slack);
            bending.iter().any(|window| window.affects(gateway) && window.overlaps(from, until))
        };
        if let Some(visit) = Visit::from_event(event)
            && by_wrong_clock(visit.gateway, visit.from, visit.until)
        {
            earliest(&mut self.facts_mut(visit.session).wrong_clock_since, Some(visit.from));
        }
        if let Event::Ended { what, gateway, sent, done, .. } = event
            && by_wrong_clock(*gateway, *sent, *done)
        {
            self.for_each_target(what, |facts| {
                if !facts.logged_in_before(*sent) {
                    earliest(&mut facts.wrong_clock_since, Some(*sent));
                }
            });
        }
    }

    fn facts_mut(&mut self, session: Session) -> &mut SessionFacts<'a> {
        self.facts_by_session.entry(session).or_default()
    }

    fn facts(&self, session: Session) -> Option<&SessionFacts<'a>> {
        self.facts_by_session.get(&session)
    }

    pub(super) fn user(&self, session: Session) -> Option<&'a str> {
        self.facts(session)?.user
    }

    /// Returns the absolute end as first listed, in session time.
    pub(super) fn absolute_end(&self, session: Session) -> Option<u64> {
        self.facts(session)?.absolute_end
    }

    /// Returns the time of the first acknowledged revocation.
    pub(super) fn revoked(&self, session: Session) -> Option<Millis> {
        self.facts(session)?.revoked
    }

    /// Returns the time of the first request to end the session.
    pub(super) fn end_requested(&self, session: Session) -> Option<Millis> {
        self.facts(session)?.end_requested
    }

    pub(super) fn stolen(&self, session: Session) -> Option<Millis> {
        self.facts(session)?.stolen
    }

    /// Returns time and reason of the first response that reported the end.
    pub(super) fn reported_ended(&self, session: Session) -> Option<(Millis, &'a str)> {
        self.facts(session)?.reported_ended
    }

    /// Returns the time of the first response of this gateway that reported the end.
    pub(super) fn reported_ended_by(&self, session: Session, gateway: usize) -> Option<Millis> {
        self.facts(session)?.reported_ended_by.get(&gateway).copied()
    }

    /// Returns the time of the first allowed request with this generation.
    pub(super) fn first_use(&self, session: Session, generation: u32) -> Option<Millis> {
        self.facts(session)?.first_use.get(&generation).copied()
    }

    /// Time of the first possible effect of a wrong clock.
    pub(super) fn wrong_clock_since(&self, session: Session) -> Option<Millis> {
        self.facts(session)?.wrong_clock_since
    }

    /// Attempts to end the session that failed.
    pub(super) fn failed_ends(&self, session: Session) -> &[FailedEnd] {
        self.facts(session).map_or(&[], |facts| &facts.failed_ends)
    }

    /// Returns true if the store can have lost writes of the session.
    pub(super) fn data_lost(&self, session: Session) -> bool {
        self.facts(session).is_some_and(|facts| facts.data_lost)
    }
}

fn earliest(known: &mut Option<Millis>, new: Option<Millis>) {
    *known = match (*known, new) {
        (Some(known), Some(new)) => Some(known.min(new)),
        (known, new) => known.or(new),
    };
}
