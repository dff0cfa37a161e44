//! Why there is no permit.

use crate::session::{EndReason, Refusal};
use crate::store::Unavailable;

/// The answer follows from the reason; the cookie is left alone in every case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denial {
    /// No cookie of ours.
    NoSession,
    /// Two cookies of our name: somebody tossed one in.
    SeveralCookies,
    /// Not a token of ours. Never looked up.
    Forged,
    /// The store knows no such session.
    Unknown,
    /// It ended, and the store remembers why.
    Ended(EndReason),
    /// The decision refused.
    Refused(Refusal),
    /// The record does not open.
    Poisoned,
    /// A live session of a user who may not use this route.
    Forbidden { user: String },
    /// The store gave no answer: 503, and nobody is logged out.
    Unavailable(Unavailable),
}

impl From<Unavailable> for Denial {
    fn from(error: Unavailable) -> Denial {
        Denial::Unavailable(error)
    }
}

impl Denial {
    /// The word in logs and in the `reason` of an answer.
    pub fn word(&self) -> &'static str {
        match self {
            Denial::NoSession => "no-session",
            Denial::SeveralCookies => "several-cookies",
            Denial::Forged => "forged",
            Denial::Unknown => "unknown",
            Denial::Ended(reason) => reason.word(),
            Denial::Refused(refusal) => refusal.word(),
            Denial::Poisoned => "poisoned",
            Denial::Forbidden { .. } => "forbidden",
            Denial::Unavailable(_) => "store-unavailable",
        }
    }

    /// Whether another try with the same cookie could pass: the request lost a race, or the store was
    /// away.
    pub fn is_passing(&self) -> bool {
        matches!(self, Denial::Unavailable(_))
    }
}
