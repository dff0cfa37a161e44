//! What follows from a decision: the answer, and what the store must hold before it goes out.

use std::borrow::Cow;

use crate::session::record::{EndReason, Record};

/// What follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub outcome: Outcome,
    pub change: Change,
    /// The store should note activity at the decision's `now`.
    pub touch: bool,
    /// Signals asked for the refusal. An old token is refused for what it is, wherever it comes from.
    pub demanded: bool,
}

impl Verdict {
    pub(super) fn refuse(reason: Refusal) -> Verdict {
        Verdict {
            outcome: Outcome::Refuse(reason),
            change: Change::Keep,
            touch: false,
            demanded: false,
        }
    }

    pub(super) fn end(reason: Refusal, end: EndReason) -> Verdict {
        Verdict { change: Change::End(end), ..Verdict::refuse(reason) }
    }

    /// An owned record is a changed one.
    pub(super) fn wrote(outcome: Outcome, record: Cow<'_, Record>) -> Verdict {
        let change = match record {
            Cow::Owned(record) => Change::Write(Box::new(record)),
            Cow::Borrowed(_) => Change::Keep,
        };
        Verdict { outcome, change, touch: false, demanded: false }
    }
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
