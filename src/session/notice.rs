//! What a user has to be told at the next occasion: what happened to a session of his, and where.

use serde::{Deserialize, Serialize};

use std::net::IpAddr;

use super::SessionId;
use super::context::{ClientContext, network_of};
use super::memo::hash;
use crate::clock::UnixMillis;
use crate::secret::random_bytes;

/// Names a notice. No secret: dismissing one needs the user's session and its form.
pub type Id = [u8; 8];

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    pub id: Id,
    pub kind: Kind,
    pub at: UnixMillis,
    /// Of the session that it is about.
    session: [u8; 8],
    /// Where the token, or the password, was shown.
    pub shown: Spot,
    /// Where the session is used otherwise.
    pub owner: Option<Spot>,
}

/// What happened. A store keeps them by their order: new ones stand last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// An old token was shown: the session ended.
    Theft,
    /// An old token was shown: all sessions of the user ended.
    TheftOfAll,
    /// An old token was shown: the session waits for a fresh login.
    TheftHeld,
    /// Signals spoke against a place: the session ended.
    MovedEnded,
    /// Signals spoke against a place: the session waits for a fresh login.
    MovedHeld,
    /// A login from where the user was not seen before.
    NewPlace,
}

/// A network and a program, as far as a person cares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spot {
    /// The network's first address.
    pub network: IpAddr,
    /// The User-Agent as a session keeps it: short and printable.
    pub agent: String,
}

impl Notice {
    pub fn new(
        kind: Kind,
        session: SessionId,
        shown: &ClientContext,
        owner: Option<&ClientContext>,
        at: UnixMillis,
    ) -> Notice {
        let (shown, owner) = (Spot::of(shown), owner.map(Spot::of));
        Notice { id: random_bytes(), kind, at, session: hash(session), shown, owner }
    }

    /// Whether it is about this session.
    pub fn is_about(&self, session: SessionId) -> bool {
        self.session == hash(session)
    }

    /// Whether the other one tells nothing new.
    pub fn says_the_same(&self, other: &Notice) -> bool {
        self.session == other.session && self.kind == other.kind
    }
}

impl Spot {
    fn of(context: &ClientContext) -> Spot {
        Spot { network: network_of(context.address), agent: context.agent.clone() }
    }
}
