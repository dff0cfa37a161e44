//! Security notices: events of a user's sessions, displayed at the next opportunity.

use serde::{Deserialize, Serialize};

use std::net::IpAddr;

use super::SessionId;
use super::context::{ClientContext, network_of};
use crate::clock::UnixMillis;
use crate::secret::{random_bytes, sha256};

/// Identifies a notice. Not a secret: dismissing one takes a session of the user and its CSRF token.
pub type NoticeId = [u8; 8];

/// One security event, to be displayed to the user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecurityNotice {
    pub id: NoticeId,
    pub kind: NoticeKind,
    pub at: UnixMillis,
    /// Hash of the ID of the affected session.
    session: [u8; 8],
    /// Client that presented the token or the password.
    pub suspect: ClientSummary,
    /// Client that used the session otherwise.
    pub owner: Option<ClientSummary>,
}

/// The kind of event. Stored by position: append new variants at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NoticeKind {
    /// A superseded token was replayed, and the session ended.
    Theft,
    /// A superseded token was replayed, and all sessions of the user ended.
    TheftAllSessions,
    /// A superseded token was replayed, and the session requires reauthentication.
    TheftReauth,
    /// The risk score of a location change ended the session.
    LocationChangeEnded,
    /// The risk score of a location change requires reauthentication.
    LocationChangeReauth,
    /// A login from a new location.
    NewLocation,
    /// The second factors of the account changed.
    SecondFactorChanged,
}

/// Network and user agent of a client, for display.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientSummary {
    /// First address of the network.
    pub network: IpAddr,
    /// User agent as in [`ClientContext`]: short and printable.
    pub user_agent: String,
}

impl SecurityNotice {
    pub fn new(
        kind: NoticeKind,
        session: SessionId,
        suspect: &ClientContext,
        owner: Option<&ClientContext>,
        at: UnixMillis,
    ) -> SecurityNotice {
        let (suspect, owner) = (ClientSummary::new(suspect), owner.map(ClientSummary::new));
        SecurityNotice {
            id: random_bytes(),
            kind,
            at,
            session: session_hash(session),
            suspect,
            owner,
        }
    }

    /// Returns whether the notice is about this session.
    pub fn is_about(&self, session: SessionId) -> bool {
        self.session == session_hash(session)
    }

    /// Returns whether both notices are about the same kind of event of the same session.
    pub fn is_same_event(&self, other: &SecurityNotice) -> bool {
        self.session == other.session && self.kind == other.kind
    }
}

impl ClientSummary {
    fn new(context: &ClientContext) -> ClientSummary {
        ClientSummary {
            network: network_of(context.address),
            user_agent: context.user_agent.clone(),
        }
    }
}

pub(super) fn session_hash(session: SessionId) -> [u8; 8] {
    let mut out = [0; 8];
    out.copy_from_slice(&sha256(&session.0)[..8]);
    out
}
