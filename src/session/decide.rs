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

use std::borrow::Cow;
use std::time::Duration;

use super::NotBefore;
use super::context::ClientContext;
use super::policy::{OnReuse, RoutePolicy, SessionPolicy};
use super::record::{EndReason, Offer, Record, Superseded};
use super::token::Token;
use crate::clock::UnixMillis;
use crate::secret::{KeyId, KeyRing, equal_in_constant_time, sha256};

/// Offers that a client may ignore, each at least one grace after the one before.
pub const MAX_OFFERS: u8 = 3;

/// Browsers write cookies to disk every 30 s; within twice that a crash can bring an old one back.
pub const SEASON: Duration = Duration::from_secs(60);

/// How old what a crashed browser comes back with may be, and a little: browsers write cookies to disk
/// every 30 seconds.
const UNWRITTEN: Duration = Duration::from_secs(35);

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

/// What follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub outcome: Outcome,
    pub change: Change,
    /// The store should note activity at the decision's `now`.
    pub touch: bool,
}

/// The answer to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Let it pass, with a successor to offer or without.
    Admit(Option<Successor>),
    /// Don't.
    Refuse(Refusal),
}

/// What the store must hold before the answer goes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Keep,
    Write(Box<Record>),
    End(EndReason),
    EndAllOfUser(EndReason),
}

/// The next token: mint it and send it.
#[derive(Clone, PartialEq, Eq)]
pub struct Successor {
    pub generation: u32,
    pub secret: [u8; 32],
}

impl std::fmt::Debug for Successor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Successor(generation {})", self.generation)
    }
}

/// Why a token does not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The user or the operator ended sessions of that age.
    Revoked,
    Idle,
    Absolute,
    /// A replayed old token.
    Theft,
    /// The token before a brief current one, from the same place: a crashed browser. No alarm.
    AfterCrash,
    /// The token with which a sensitive action was done, seconds after its successor was shown.
    Superseded,
    /// The client ignored every offer of a new token.
    NotRenewing,
    /// A generation that the store does not know: it lost writes. The cookie stays.
    Future,
    /// An authentic MAC without the secret: somebody has our keys.
    Mismatch,
    /// The session lives, this route wants a fresh login.
    Reauthenticate,
}

impl Refusal {
    /// The word for logs and answers.
    pub fn word(self) -> &'static str {
        match self {
            Refusal::Revoked => "revoked",
            Refusal::Idle => "idle",
            Refusal::Absolute => "absolute",
            Refusal::Theft => "theft",
            Refusal::AfterCrash => "after-crash",
            Refusal::Superseded => "superseded",
            Refusal::NotRenewing => "not-renewing",
            Refusal::Future => "future-generation",
            Refusal::Mismatch => "mismatch",
            Refusal::Reauthenticate => "reauthenticate",
        }
    }
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

impl Verdict {
    fn refuse(reason: Refusal) -> Verdict {
        Verdict { outcome: Outcome::Refuse(reason), change: Change::Keep, touch: false }
    }

    fn end(reason: Refusal, end: EndReason) -> Verdict {
        Verdict { change: Change::End(end), ..Verdict::refuse(reason) }
    }
}

/// What the presented token is to the record.
enum Presented {
    Current,
    Successor,
    Superseded,
    /// Superseded by a sensitive action, too long ago to be answered and not long enough for an alarm.
    Late,
    CrashedBack,
    Replayed,
    Future,
    Unproven,
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

    fn standing_of_token(&self) -> Presented {
        let record = self.case.record;
        let generation = self.case.presented.generation;
        if generation == record.generation {
            return if self.proves(&record.current) {
                Presented::Current
            } else {
                Presented::Unproven
            };
        }
        if generation > record.generation {
            return self.ahead(generation);
        }
        if record.generation - generation > 1 {
            return Presented::Replayed;
        }
        self.one_behind()
    }

    fn ahead(&self, generation: u32) -> Presented {
        let offered = self.case.record.offer.as_ref();
        let next = generation - self.case.record.generation == 1;
        match offered {
            Some(offer) if next && self.proves(&offer.hash) => Presented::Successor,
            Some(_) | None => Presented::Future,
        }
    }

    fn one_behind(&self) -> Presented {
        let record = self.case.record;
        let Some(previous) = record.previous.as_ref() else {
            return Presented::Replayed;
        };
        if !self.proves(&previous.hash) {
            return Presented::Unproven;
        }
        if self.now < previous.until {
            return Presented::Superseded;
        }
        if self.now < previous.alarm {
            return Presented::Late;
        }
        if !record.seasoned && record.renewed_from.same_place(self.case.context) {
            return Presented::CrashedBack;
        }
        Presented::Replayed
    }

    fn proves(&self, hash: &[u8; 32]) -> bool {
        equal_in_constant_time(&self.hash, hash)
    }

    /// The record once the client has shown the successor: from here the grace runs.
    fn promoted(&self) -> Record {
        let mut record = self.case.record.clone();
        let grace = self.case.session.grace();
        let alarm = self.now.plus(grace);
        // The token with which a sensitive action was done is answered for half a grace, which a request
        // under way needs, and refused without an alarm for the other half.
        let until = if record.due { self.now.plus(grace / 2) } else { alarm };
        record.due = false;
        record.previous = Some(Superseded { hash: record.current, until, alarm });
        record.current = self.hash;
        record.generation = self.case.presented.generation;
        record.current_since = self.now;
        record.seasoned = false;
        record.offer = None;
        record.renewed_from = self.case.context.clone();
        record
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
            return wrote(Outcome::Refuse(Refusal::Reauthenticate), record);
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
        Verdict { touch, ..wrote(Outcome::Admit(offered), record) }
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
                ..Verdict::refuse(Refusal::Reauthenticate)
            }),
            Demand::End => Some(Verdict::end(Refusal::Theft, EndReason::Theft)),
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

    fn timing(&self) -> Timing {
        match (self.case.timing, self.case.demand) {
            (Timing::Never, _) => Timing::Never,
            (_, Some(Demand::Renew)) => Timing::Now,
            (timing, _) => timing,
        }
    }

    fn ignores_offers(&self, record: &Record) -> bool {
        let ignored = record
            .offer
            .as_ref()
            .is_some_and(|offer| offer.counted >= MAX_OFFERS && self.grace_passed(offer));
        ignored && self.case.timing != Timing::Never
    }

    fn grace_passed(&self, offer: &Offer) -> bool {
        self.now.since(offer.last_counted) >= self.case.session.grace()
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

    /// Offers the successor when the token is due; the same one to everybody who asks.
    fn renew(&self, record: &mut Cow<'_, Record>) -> Option<Successor> {
        if self.timing() == Timing::Now && !record.due {
            record.to_mut().due = true;
        }
        let after = match self.timing() {
            Timing::Never => return None,
            Timing::Now => self.soonest(),
            Timing::Prompt if record.due => self.soonest(),
            Timing::Prompt => self.case.session.rotate_after(),
        };
        if self.now.since(record.current_since) < after {
            return None;
        }
        let generation = record.generation.checked_add(1)?;
        let (ratchet, salt) = match &record.offer {
            // One token can exist in two texts, minted before and after a key rotation: both ratchet
            // with the key of the first offer, or the second text's successor could never be confirmed.
            Some(offer) => (offer.ratchet, offer.salt),
            None => (self.case.presented.key_id, (self.case.salt)()),
        };
        let key = self.case.keys.key(ratchet)?.ratchet();
        let secret = self.case.presented.successor_secret(key, &salt);
        self.count_offer(record, ratchet, salt, &secret);
        Some(Successor { generation, secret })
    }

    /// The least age at which a token is renewed, whatever was done with it; the same that the policy
    /// demands of `rotate_after`. Sooner, a request under way could be two generations behind, which is
    /// a replay, and a late answer could put an older cookie over a newer one; and a browser that crashes
    /// could come back with the cookie of two generations before. What is due stays due.
    fn soonest(&self) -> Duration {
        let session = self.case.session;
        session.grace().saturating_mul(2).max(session.rotate_after().min(UNWRITTEN))
    }

    fn count_offer(
        &self,
        record: &mut Cow<'_, Record>,
        ratchet: KeyId,
        salt: [u8; 16],
        secret: &[u8; 32],
    ) {
        let (hash, counted) = match &record.offer {
            None => (sha256(secret), 1),
            Some(offer) if self.grace_passed(offer) => {
                (offer.hash, offer.counted.saturating_add(1))
            }
            Some(_) => return,
        };
        let last_counted = self.now;
        record.to_mut().offer = Some(Offer { ratchet, salt, hash, counted, last_counted });
    }

    /// Answered, and nothing more: no cookie, no activity, no write.
    fn superseded(&self) -> Verdict {
        if let Some(demanded) = self.demanded() {
            return demanded;
        }
        if self.case.record.frozen || self.route_wants_login(self.case.record) {
            return Verdict::refuse(Refusal::Reauthenticate);
        }
        Verdict { outcome: Outcome::Admit(None), change: Change::Keep, touch: false }
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

/// An owned record is a changed one.
fn wrote(outcome: Outcome, record: Cow<'_, Record>) -> Verdict {
    let change = match record {
        Cow::Owned(record) => Change::Write(Box::new(record)),
        Cow::Borrowed(_) => Change::Keep,
    };
    Verdict { outcome, change, touch: false }
}
