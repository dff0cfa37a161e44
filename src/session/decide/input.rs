//! The inputs of a decision.

use crate::clock::UnixMillis;
use crate::secret::KeyRing;
use crate::session::context::ClientContext;
use crate::session::expiry::{SessionDeadlines, SessionFacts};
use crate::session::policy::{RoutePolicy, SessionPolicy};
use crate::session::record::Record;
use crate::session::token::Token;

/// All inputs of a decision.
pub struct DecisionInput<'a> {
    pub record: &'a Record,
    pub facts: &'a SessionFacts,
    pub token: &'a Token,
    pub keys: &'a KeyRing,
    pub now: UnixMillis,
    /// Source of random bytes. Called only for a new successor, because it costs a system call.
    pub random_salt: &'a dyn Fn() -> [u8; 16],
    pub client: &'a ClientContext,
    pub policy: &'a SessionPolicy,
    pub route: &'a RoutePolicy,
    pub timing: RotationTiming,
    /// Whether the request counts as activity for the idle timeout.
    pub activity: bool,
    /// Result of the risk assessment; `None` if the location did not change.
    pub risk: Option<RiskRequirement>,
}

/// Consequence of a location change, as decided by the risk assessment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RiskRequirement {
    /// Adds the location to the record. `trusted`: a route in enforce mode accepts it.
    RecordLocation { trusted: bool },
    /// Adds the location and rotates the token now.
    Rotate,
    /// Refuses every token of the session until the user logs in again.
    Reauthenticate,
    /// Ends the session with a theft verdict.
    EndSession,
}

/// Whether the response to this request may carry a successor token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RotationTiming {
    /// Immediately: the request performed a sensitive action.
    Now,
    /// As soon as the token is due, for every kind of request. If one kind were exempt, an attacker could
    /// use that kind only and never rotate.
    WhenDue,
    /// Never: rotation is off on this route, for scripts that keep one cookie.
    Never,
}

/// The inputs with derived values.
pub(super) struct Evaluation<'a> {
    pub(super) input: &'a DecisionInput<'a>,
    pub(super) hash: [u8; 32],
    pub(super) deadlines: SessionDeadlines,
    /// The latest time recorded for this session, or the input's time if that is later. Without this,
    /// a clock that steps back would make a superseded token valid again.
    pub(super) now: UnixMillis,
}

impl<'a> Evaluation<'a> {
    pub(super) fn new(input: &'a DecisionInput<'a>) -> Evaluation<'a> {
        let id = input.token.key.id;
        let deadlines = SessionDeadlines::new(id, input.record, input.facts, input.policy);
        let now = deadlines.session_time(input.now);
        Evaluation { input, hash: input.token.hash(), deadlines, now }
    }
}
