//! Why sessions end, and who ends them.

use std::sync::Arc;

use crate::clock::UnixMillis;
use crate::session::{ClientContext, EndReason, Record, SessionId, SessionKey};
use crate::telemetry::events::Actor;

/// A live session in a list.
#[derive(Clone, Debug)]
pub struct SessionInfo {
    pub key: SessionKey,
    pub record: Arc<Record>,
    pub last_active: UnixMillis,
}

/// Why sessions end, and who ends them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndCause {
    pub reason: EndReason,
    pub actor: Actor,
}

impl EndCause {
    /// Returns the cause of an end by a user, in a request of `session`.
    pub fn user(reason: EndReason, session: SessionId, client: ClientContext) -> EndCause {
        EndCause { reason, actor: Actor::User { session: Some(session), client } }
    }

    /// Returns the cause of an end by an operator.
    pub fn operator(uid: Option<u32>) -> EndCause {
        EndCause { reason: EndReason::EndedByOperator, actor: Actor::Operator { uid } }
    }

    /// Returns the cause of an end by a rule.
    pub fn gateway(reason: EndReason) -> EndCause {
        EndCause { reason, actor: Actor::Gateway }
    }

    /// Whether the end stands on its own. A login that fails must not end older sessions.
    pub(super) fn is_kept(&self) -> bool {
        !matches!(self.reason, EndReason::Replaced | EndReason::SessionLimit)
    }
}
