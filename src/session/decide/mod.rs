//! The decision: may this token pass, and what changes.
//!
//! Invariants (each has a property test in `tests/session_properties.rs`):
//! - S1 nothing extends the absolute timeout
//! - S2 one successor per token
//! - S3 a superseded token never renews, and dies after grace
//! - S4 a touch never undoes a revocation and never moves time back
//! - S5 `decide` is total
//! - S7 an honest schedule never ends in theft
//! - S8 a thief's token used after a confirmed renewal always ends the session
//! - S9 idle: refused never later than the timeout after the last activity, at most 1/60 of it earlier
//!
//! The caller stores [`Verdict::change`] by compare-and-swap; when the swap is lost it loads again
//! and decides again.

mod presented;
mod renewal;
mod verdict;

pub use renewal::{Renewal, renew_after_action};
pub use verdict::{Change, Outcome, Refusal, Successor, Verdict};

use std::borrow::Cow;
use std::time::Duration;

use super::NotBefore;
use super::context::ClientContext;
use super::policy::{OnReuse, RoutePolicy, SessionPolicy};
use super::record::{EndReason, Record};
use super::token::Token;
use crate::clock::UnixMillis;
use crate::secret::KeyRing;

use presented::Presented;

/// Browsers write cookies to disk every 30 s; within twice that a crash can bring an old one back.
const SEASON: Duration = Duration::from_secs(60);

/// Everything a decision depends on.
pub struct Case<'a> {
    pub record: &'a Record,
    pub standing: &'a Standing,
    pub presented: &'a Token,
    pub keys: &'a KeyRing,
    pub now: UnixMillis,
    /// Random bytes; asked for only when a successor is proposed, for they cost a system call.
    pub salt: &'a dyn Fn() -> [u8; 16],
    pub context: &'a ClientContext,
    pub session: &'a SessionPolicy,
    pub route: &'a RoutePolicy,
    pub timing: Timing,
    /// Whether this request keeps the session from idling out.
    pub activity: bool,
    /// What the signals ask for; nothing where the session is used from where it was.
    pub demand: Option<Demand>,
}

/// What follows from a request's place being new to its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// Write the place down. `passed`: an enforcing route would let it pass.
    Note { passed: bool },
    /// Write it down, and renew the token now.
    Renew,
    /// Nothing more for anybody before a fresh login.
    Login,
    /// End the session, as a theft.
    End,
}

/// What the store knows beside the record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The last activity written, when later than the record's own.
    pub touched: UnixMillis,
    /// The user's "log out everywhere" line.
    pub not_before: NotBefore,
    /// The operator's "log everybody out" line.
    pub everyone: NotBefore,
}

/// When the answer to this request may carry a new token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timing {
    /// Whatever the token's age: a sensitive action was done with it.
    Now,
    /// As soon as the token is due, whatever the request is for: a thief who could choose a kind that
    /// waits would live for as long as that waits.
    Prompt,
    /// The route renews nothing (scripts that keep one cookie).
    Never,
}

/// Decides one request. Total: every input has an answer.
pub fn decide(case: &Case<'_>) -> Verdict {
    let seen = Seen::new(case);
    if let Some(over) = seen.over() {
        return over;
    }
    match seen.standing_of_token() {
        Presented::Current => seen.current(Cow::Borrowed(case.record)),
        Presented::Successor => seen.current(Cow::Owned(seen.promoted())),
        Presented::Superseded => seen.superseded(),
        Presented::Late => Verdict::refuse(Refusal::Superseded),
        Presented::CrashedBack => Verdict::refuse(Refusal::AfterCrash),
        Presented::Replayed => seen.theft(),
        Presented::Future => Verdict::refuse(Refusal::Future),
        Presented::Unproven => Verdict::refuse(Refusal::Mismatch),
    }
}

/// A case with its derived values.
struct Seen<'a> {
    case: &'a Case<'a>,
    hash: [u8; 32],
    active: UnixMillis,
    /// Time as far as this session has seen it: a clock that steps back does not take it along, or a
    /// superseded token would come back to life.
    now: UnixMillis,
}

impl<'a> Seen<'a> {
    fn new(case: &'a Case<'a>) -> Seen<'a> {
        let active = case.record.active.max(case.standing.touched);
        let now = case.now.max(active).max(case.record.current_since);
        Seen { case, hash: case.presented.hash(), active, now }
    }

    /// The session-wide ends, whatever token is shown.
    fn over(&self) -> Option<Verdict> {
        let (record, policy) = (self.case.record, self.case.session);
        let id = self.case.presented.key.id;
        let standing = self.case.standing;
        if standing.not_before.ends(id, record.created)
            || standing.everyone.ends(id, record.created)
        {
            return Some(Verdict::end(Refusal::Revoked, EndReason::Revoked));
        }
        let end = record.absolute_end.min(record.created.plus(policy.absolute()));
        if self.now >= end {
            return Some(Verdict::end(Refusal::Absolute, EndReason::Absolute));
        }
        if self.now.since(self.active) >= policy.idle() {
            return Some(Verdict::end(Refusal::Idle, EndReason::Idle));
        }
        None
    }

    /// The holder of the current token: routes, renewal, activity. An owned record is one that changed;
    /// most requests change nothing, and copy nothing.
    fn current(&self, mut record: Cow<'_, Record>) -> Verdict {
        if self.ignores_offers(&record) {
            return Verdict::end(Refusal::NotRenewing, EndReason::NotRenewing);
        }
        if !record.seasoned && self.now.since(record.current_since) >= SEASON {
            record.to_mut().seasoned = true;
        }
        if let Some(demanded) = self.demanded() {
            return demanded;
        }
        if record.frozen || self.route_wants_login(&record) {
            return Verdict::wrote(Outcome::Refuse(Refusal::Reauthenticate), record);
        }
        self.note_place(&mut record);
        let offered = self.renew(&mut record);
        // By this gateway's own clock, which is what a touch writes: where it is behind, the session's
        // time would call every request stale and each would cost a write.
        let stale = self.case.now.since(self.active) >= self.case.session.touch_every();
        let mut touch = self.case.activity && stale;
        if let Cow::Owned(changed) = &mut record {
            // What is written anyway carries the activity too.
            touch = false;
            if self.case.activity {
                changed.active = self.now;
            }
        }
        Verdict { touch, ..Verdict::wrote(Outcome::Admit(offered), record) }
    }

    /// What the signals refuse. Decided on the record as stored: what the holder of a suspicious token
    /// shows does not become the session's state.
    fn demanded(&self) -> Option<Verdict> {
        match self.case.demand? {
            Demand::Note { .. } | Demand::Renew => None,
            // Frozen already: nothing is left to write.
            Demand::Login if self.case.record.frozen => None,
            Demand::Login => Some(Verdict {
                change: Change::Write(Box::new(self.frozen())),
                demanded: true,
                ..Verdict::refuse(Refusal::Reauthenticate)
            }),
            Demand::End => {
                Some(Verdict { demanded: true, ..Verdict::end(Refusal::Theft, EndReason::Theft) })
            }
        }
    }

    fn frozen(&self) -> Record {
        Record { frozen: true, ..self.case.record.clone() }
    }

    fn note_place(&self, record: &mut Cow<'_, Record>) {
        let passed = match self.case.demand {
            None | Some(Demand::Login | Demand::End) => return,
            Some(Demand::Note { passed }) => passed,
            Some(Demand::Renew) => true,
        };
        record.to_mut().note(self.case.context, self.now, passed);
    }

    fn route_wants_login(&self, record: &Record) -> bool {
        let route = self.case.route;
        let reached = |limit: Option<Duration>, since: UnixMillis| {
            limit.is_some_and(|limit| self.now.since(since) >= limit)
        };
        reached(route.idle, self.active)
            || reached(route.absolute, record.created)
            || reached(route.max_auth_age, record.authenticated)
    }

    /// Answered, and nothing more: no cookie, no activity, no write.
    fn superseded(&self) -> Verdict {
        if let Some(demanded) = self.demanded() {
            return demanded;
        }
        if self.case.record.frozen || self.route_wants_login(self.case.record) {
            return Verdict::refuse(Refusal::Reauthenticate);
        }
        Verdict::wrote(Outcome::Admit(None), Cow::Borrowed(self.case.record))
    }

    fn theft(&self) -> Verdict {
        let change = match self.case.session.on_reuse() {
            OnReuse::Revoke => Change::End(EndReason::Theft),
            OnReuse::RevokeAll => Change::EndAllOfUser(EndReason::Theft),
            OnReuse::Reauthenticate => Change::Write(Box::new(self.frozen())),
            OnReuse::Log => Change::Keep,
        };
        Verdict { change, ..Verdict::refuse(Refusal::Theft) }
    }
}
