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
            Actor::Thief | Actor::Prober => false,
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

#[derive(Default)]
struct Life<'a> {
    user: Option<&'a str>,
    began: Option<At>,
    absolute_end: Option<u64>,
    /// When the first acknowledged revocation was acknowledged, and when the first was asked for.
    revoked: Option<At>,
    threatened: Option<At>,
    stolen: Option<At>,
    told_ended: Option<(At, &'a str)>,
    /// The same by each gateway.
    told_there: HashMap<usize, At>,
    /// When each generation was first let in.
    shown: HashMap<u32, At>,
    bent: bool,
    went_back: bool,
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
        sessions
    }

    fn begins(&mut self, event: &'a Event) {
        if let Event::Began { session, user, done, .. } = event {
            let life = self.lives.entry(*session).or_default();
            (life.user, life.began) = (Some(user.as_str()), Some(*done));
        }
    }

    fn goes_on(&mut self, event: &'a Event, terms: &Terms) {
        match event {
            Event::Asked(request) => self.was_asked(request),
            Event::Ended { what, sent, acked } => self.ends(what, *sent, *acked),
            Event::Stolen { session, at } => earliest(&mut self.life(*session).stolen, Some(*at)),
            Event::Seen { session, absolute_end, .. } => {
                self.life(*session).absolute_end.get_or_insert(*absolute_end);
            }
            Event::Fault(window) => self.suffer(window, terms),
            Event::Began { .. }
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
        for (session, life) in &mut self.lives {
            // One that began at the same time may lie on either side of the line.
            let meant = match what {
                Ends::One(one) => one == session,
                Ends::User(user) => life.user == Some(user),
                Ends::Everybody => true,
            };
            if !meant {
                continue;
            }
            earliest(&mut life.threatened, Some(sent));
            if life.began.is_some_and(|began| began < sent) {
                earliest(&mut life.revoked, acked);
            }
        }
    }

    /// A fault may reach into all sessions that began before it was over.
    fn suffer(&mut self, window: &Window, terms: &Terms) {
        let over = window.ended + terms.recovery;
        for life in self.lives.values_mut().filter(|life| life.began.is_none_or(|at| at < over)) {
            life.bent |= window.may.bend_time;
            life.went_back |= window.may.lose_writes;
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

    /// A wrong clock had its hands on it.
    pub(super) fn bent(&self, session: Session) -> bool {
        self.of_session(session).is_some_and(|life| life.bent)
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
