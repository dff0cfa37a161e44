//! The result of a decision: the outcome, and the change to store before the response is sent.

use std::borrow::Cow;

use crate::session::end_reason::EndReason;
use crate::session::record::Record;

/// The result of a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub outcome: Outcome,
    pub change: Change,
    /// Whether the caller must store activity at the decision's `now`.
    pub touch: bool,
    /// Whether the risk assessment caused the refusal.
    pub refused_by_risk: bool,
}

impl Verdict {
    pub(super) fn refuse(reason: Refusal) -> Verdict {
        Verdict {
            outcome: Outcome::Refuse(reason),
            change: Change::Keep,
            touch: false,
            refused_by_risk: false,
        }
    }

    pub(super) fn end(reason: Refusal, end: EndReason) -> Verdict {
        Verdict { change: Change::End(end), ..Verdict::refuse(reason) }
    }

    /// An owned record is a changed one and is written.
    pub(super) fn with_record(outcome: Outcome, record: Cow<'_, Record>) -> Verdict {
        let change = match record {
            Cow::Owned(record) => Change::Write(Box::new(record)),
            Cow::Borrowed(_) => Change::Keep,
        };
        Verdict { outcome, change, touch: false, refused_by_risk: false }
    }
}

/// Whether the request is admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Admits the request, with a successor token to offer or without.
    Admit(Option<Successor>),
    /// Refuses the request.
    Refuse(Refusal),
}

/// The change to store before the response is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Keep,
    Write(Box<Record>),
    End(EndReason),
    EndAllOfUser(EndReason),
}

/// The successor token to sign and send.
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

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The session was created before a revocation cutoff.
    Revoked,
    Idle,
    Absolute,
    /// Replay of a superseded token.
    Theft,
    /// A superseded token from the same location, whose successor was in use only briefly. A crashed
    /// browser restored it, so this is not a theft.
    RestoredAfterCrash,
    /// A token superseded after a sensitive action, between the shortened and the full grace period.
    Superseded,
    /// The client ignored every offered successor.
    RotationIgnored,
    /// A generation newer than the record: the store lost writes. The cookie is not cleared.
    UnknownGeneration,
    /// A valid MAC with a wrong secret: the signing keys have leaked.
    SecretMismatch,
    /// The session is live, but a new login is required.
    Reauthenticate,
}

impl Refusal {
    /// Returns the name for logs and responses.
    pub fn as_str(self) -> &'static str {
        match self {
            Refusal::Revoked => "revoked",
            Refusal::Idle => "idle",
            Refusal::Absolute => "absolute",
            Refusal::Theft => "theft",
            Refusal::RestoredAfterCrash => "after-crash",
            Refusal::Superseded => "superseded",
            Refusal::RotationIgnored => "not-rotating",
            Refusal::UnknownGeneration => "generation-ahead",
            Refusal::SecretMismatch => "mismatch",
            Refusal::Reauthenticate => "reauthenticate",
        }
    }
}
