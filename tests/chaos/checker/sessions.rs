//! What a history knows of each session.

use std::collections::HashMap;

use super::Terms;
use crate::history::{Actor, Answer, At, Ends, Event, Fate, Request, Session, Window};

/// Words of a refusal after which a session never lives again.
const FINAL: [&str; 9] = [
    "logout",
    "revoked",
    "replaced",
    "idle",
    "absolute",
    "theft",
    "not-renewing",
    "account-gone",
    "credential-changed",
];

impl Request {
    pub fn answer(&self) -> Option<&Answer> {
        match &self.fate {
            Fate::Answered(answer) => Some(answer),
            Fate::Abandoned | Fate::NoAnswer(_) => None,
        }
    }

    pub fn passed(&self) -> bool {
        self.answer().is_some_and(|answer| (200..300).contains(&answer.status))
    }

    /// The gateway's word, when it refused the session.
    pub(super) fn refused(&self) -> Option<&str> {
        self.answer().filter(|answer| answer.status == 401).map(|answer| answer.reason.as_str())
    }

    pub(super) fn is_honest(&self) -> bool {
        match self.by {
            Actor::Browser(_) => true,
            Actor::Thief | Actor::Prober | Actor::Sceptic => false,
        }
    }
}

impl Window {
    pub(super) fn overlaps(&self, from: At, until: At) -> bool {
        self.began <= until && from <= self.ended
    }

    pub(super) fn strikes(&self, gateway: usize) -> bool {
        self.gateway.is_none_or(|only| only == gateway)
    }
}

/// A session at a gateway.
struct Visit {
    session: Session,
    gateway: usize,
    from: At,
    until: At,
}

impl Visit {
    fn of(event: &Event) -> Option<Visit> {
        let visit = |session, gateway, from, until| Visit { session, gateway, from, until };
        Some(match event {
            Event::Asked(request) => {
                visit(request.token?.session, request.gateway, request.sent, request.done)
            }
            Event::Began { session, gateway, sent, done, .. }
            | Event::Came { session, gateway, sent, done }
            | Event::Ended { what: Ends::One(session), gateway, sent, done, .. } => {
                visit(*session, *gateway, *sent, *done)
            }
            Event::Heard { session, gateway, told: at, .. }
            | Event::Cut { session, gateway, at } => visit(*session, *gateway, *at, *at),
            Event::Ended { what: Ends::User(_) | Ends::Everybody, .. }
            | Event::Reached { .. }
            | Event::Stolen { .. }
            | Event::Seen { .. }
            | Event::Fault(_) => return None,
        })
    }
}

impl Life<'_> {
    fn began_before(&self, at: At) -> bool {
        self.began.is_some_and(|began| began < at)
    }

    fn began_after(&self, at: At) -> bool {
        self.login.is_some_and(|login| at < login)
    }
}

#[derive(Default)]
struct Life<'a> {
    user: Option<&'a str>,
    /// When its login was asked for, and answered.
    login: Option<At>,
    began: Option<At>,
    absolute_end: Option<u64>,
    /// When the first acknowledged revocation was acknowledged, and when the first was asked for.
    revoked: Option<At>,
    threatened: Option<At>,
    stolen: Option<At>,
    /// The ends of it that failed.
    kept: Vec<Kept>,
    told_ended: Option<(At, &'a str)>,
    /// The same by each gateway.
    told_there: HashMap<usize, At>,
    /// When each generation was first let in.
    shown: HashMap<u32, At>,
    /// Since when a wrong clock may have had its hands on it.
    bent: Option<At>,
    went_back: bool,
}

/// Somebody asked a gateway to end a session, and was not told that it did.
#[derive(Clone, Copy)]
pub(super) struct Kept {
    pub(super) gateway: usize,
    pub(super) sent: At,
    pub(super) done: At,
}

pub(super) struct Sessions<'a> {
    lives: HashMap<Session, Life<'a>>,
}

impl<'a> Sessions<'a> {
    pub(super) fn of(history: &'a [Event], terms: &Terms) -> Sessions<'a> {
        let mut sessions = Sessions { lives: HashMap::new() };
        // Who is whose must be known before "all of this user" means something.
        history.iter().for_each(|event| sessions.begins(event));
        history.iter().for_each(|event| sessions.goes_on(event, terms));
        let windows = history.iter().filter_map(Event::window);
        let bending: Vec<_> = windows.filter(|window| window.may.bend_time).collect();
        history.iter().for_each(|event| sessions.bends(event, &bending, terms));
        sessions
    }

    fn begins(&mut self, event: &'a Event) {
        if let Event::Began { session, user, sent, done, .. } = event {
            let life = self.lives.entry(*session).or_default();
            life.user = Some(user.as_str());
            (life.login, life.began) = (Some(*sent), Some(*done));
        }
    }

    fn goes_on(&mut self, event: &'a Event, terms: &Terms) {
        match event {
            Event::Asked(request) => self.was_asked(request),
            Event::Ended { what, sent, acked: acked @ Some(_), .. } => {
                self.ends(what, *sent, *acked);
            }
            Event::Ended { what, gateway, sent, acked: None, done } => {
                self.ends(what, *sent, None);
                self.goes_unended(what, Kept { gateway: *gateway, sent: *sent, done: *done });
            }
            Event::Stolen { session, at } => earliest(&mut self.life(*session).stolen, Some(*at)),
            Event::Seen { session, absolute_end, .. } => {
                self.life(*session).absolute_end.get_or_insert(*absolute_end);
            }
            Event::Fault(window) => self.suffer(window, terms),
            Event::Began { .. }
            | Event::Came { .. }
            | Event::Reached { .. }
            | Event::Heard { .. }
            | Event::Cut { .. } => {}
        }
    }

    fn was_asked(&mut self, request: &'a Request) {
        let Some(token) = request.token else { return };
        let life = self.life(token.session);
        if request.passed() {
            let shown = life.shown.entry(token.generation).or_insert(request.done);
            *shown = request.done.min(*shown);
        }
        let Some(reason) = request.refused().filter(|reason| FINAL.contains(reason)) else {
            return;
        };
        if life.told_ended.is_none_or(|(at, _)| request.done < at) {
            life.told_ended = Some((request.done, reason));
        }
        let there = life.told_there.entry(request.gateway).or_insert(request.done);
        *there = request.done.min(*there);
    }

    fn ends(&mut self, what: &Ends, sent: At, acked: Option<At>) {
        self.meant(what, |life| {
            // One that began at the same time may lie on either side of the line; and what nobody
            // acknowledged may happen at any time.
            if acked.is_none_or(|acked| !life.began_after(acked)) {
                earliest(&mut life.threatened, Some(sent));
            }
            if life.began_before(sent) {
                earliest(&mut life.revoked, acked);
            }
        });
    }

    fn goes_unended(&mut self, what: &Ends, kept: Kept) {
        self.meant(what, |life| {
            if life.began_before(kept.sent) {
                life.kept.push(kept);
            }
        });
    }

    fn meant(&mut self, what: &Ends, tell: impl Fn(&mut Life<'a>)) {
        for (session, life) in &mut self.lives {
            let is_meant = match what {
                Ends::One(one) => one == session,
                Ends::User(user) => life.user == Some(user),
                Ends::Everybody => true,
            };
            if is_meant {
                tell(life);
            }
        }
    }

    /// A store that forgets may reach into all sessions that began before it was well again.
    fn suffer(&mut self, window: &Window, terms: &Terms) {
        let over = window.ended + terms.recovery;
        for life in self.lives.values_mut().filter(|life| life.began.is_none_or(|at| at < over)) {
            life.went_back |= window.may.lose_writes;
        }
    }

    /// A wrong clock reaches into the sessions that come to its gateway, and into those that begin behind
    /// a line that was drawn by it.
    fn bends(&mut self, event: &'a Event, bending: &[&Window], terms: &Terms) {
        let by_wrong_clock = |gateway: usize, from: At, until: At| {
            let (from, until) = (from.saturating_sub(terms.slack), until + terms.slack);
            bending.iter().any(|window| window.strikes(gateway) && window.overlaps(from, until))
        };
        if let Some(visit) = Visit::of(event)
            && by_wrong_clock(visit.gateway, visit.from, visit.until)
        {
            earliest(&mut self.life(visit.session).bent, Some(visit.from));
        }
        if let Event::Ended { what, gateway, sent, done, .. } = event
            && by_wrong_clock(*gateway, *sent, *done)
        {
            self.meant(what, |life| {
                if !life.began_before(*sent) {
                    earliest(&mut life.bent, Some(*sent));
                }
            });
        }
    }

    fn life(&mut self, session: Session) -> &mut Life<'a> {
        self.lives.entry(session).or_default()
    }

    fn of_session(&self, session: Session) -> Option<&Life<'a>> {
        self.lives.get(&session)
    }

    pub(super) fn user(&self, session: Session) -> Option<&'a str> {
        self.of_session(session)?.user
    }

    /// As first told, in session time.
    pub(super) fn absolute_end(&self, session: Session) -> Option<u64> {
        self.of_session(session)?.absolute_end
    }

    /// When the first revocation was acknowledged.
    pub(super) fn revoked(&self, session: Session) -> Option<At> {
        self.of_session(session)?.revoked
    }

    /// When somebody first asked to end it.
    pub(super) fn threatened(&self, session: Session) -> Option<At> {
        self.of_session(session)?.threatened
    }

    pub(super) fn stolen(&self, session: Session) -> Option<At> {
        self.of_session(session)?.stolen
    }

    /// The first answer that said that it is over for good.
    pub(super) fn told_ended(&self, session: Session) -> Option<(At, &'a str)> {
        self.of_session(session)?.told_ended
    }

    /// The first answer of one gateway that said so.
    pub(super) fn told_ended_at(&self, session: Session, gateway: usize) -> Option<At> {
        self.of_session(session)?.told_there.get(&gateway).copied()
    }

    /// When a token of this generation was first let in.
    pub(super) fn first_shown(&self, session: Session, generation: u32) -> Option<At> {
        self.of_session(session)?.shown.get(&generation).copied()
    }

    /// Since when a wrong clock may have had its hands on it.
    pub(super) fn bent(&self, session: Session) -> Option<At> {
        self.of_session(session)?.bent
    }

    /// The ends of it that failed.
    pub(super) fn kept(&self, session: Session) -> &[Kept] {
        self.of_session(session).map_or(&[], |life| &life.kept)
    }

    /// The store may have lost what was written of it.
    pub(super) fn went_back(&self, session: Session) -> bool {
        self.of_session(session).is_some_and(|life| life.went_back)
    }
}

fn earliest(known: &mut Option<At>, new: Option<At>) {
    *known = match (*known, new) {
        (Some(known), Some(new)) => Some(known.min(new)),
        (known, new) => known.or(new),
    };
}
