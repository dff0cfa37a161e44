//! The session: what the cookie carries, what the store keeps, and the one rule between them.
//!
//! Pure: no clock, no socket, no store. [`decide`](decide::decide) takes the record, what the client
//! presented and the time, and says what follows; it exists once for every store and every gateway.
//!
//! | word | meaning |
//! | --- | --- |
//! | token | what the cookie carries; never stored, never logged |
//! | record | what the store keeps for one session |
//! | generation | how many times the token was renewed; the first is 0 |
//! | successor | the next token, offered but not yet seen from the client |
//! | superseded | a token whose successor the client has shown |
//! | grace | how long a superseded token is still answered |
//! | theft | an authentic token of an old generation presented after grace |

pub mod context;
pub mod decide;
pub mod fingerprint;
pub mod memo;
pub mod notice;
pub mod policy;
pub mod record;
pub mod seen;
pub mod token;

pub use context::ClientContext;
pub use decide::{
    Case, Change, Demand, Outcome, Refusal, Renewal, Standing, Successor, Timing, Verdict, decide,
    renew_after_action,
};
pub use fingerprint::Fingerprint;
pub use memo::Memo;
pub use notice::Notice;
pub use policy::{OnReuse, PolicyError, RoutePolicy, SessionPolicy, Watch};
pub use record::{EndReason, Identity, Record, Superseded};
pub use seen::Novelty;
pub use token::{Token, TokenError};

use std::fmt;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use crate::clock::UnixMillis;
use crate::secret::sha256;

/// 128 random bits that name a session. Not a secret by itself: a live token also needs 256 more.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SessionId(pub [u8; 16]);

impl SessionId {
    /// What people and logs see in place of the id: 16 hex digits of its hash.
    pub fn handle(&self) -> String {
        HEXLOWER.encode(&sha256(&self.0)[..8])
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({})", self.handle())
    }
}

/// Keyed hash of the user's name; all of one user's keys lie under it, in one Redis Cluster slot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct UserTag(pub [u8; 8]);

impl fmt::Debug for UserTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserTag({})", HEXLOWER.encode(&self.0))
    }
}

/// Where a session lies in a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SessionKey {
    pub tag: UserTag,
    pub id: SessionId,
}

/// A user's sessions begun at or before `at` are dead, but for `except`. Only ever moves forward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotBefore {
    pub at: UnixMillis,
    pub except: Option<SessionId>,
}

impl NotBefore {
    /// Whether a session begun at `created` is dead by this line.
    pub fn ends(&self, id: SessionId, created: UnixMillis) -> bool {
        self.at.0 > 0 && created <= self.at && self.except != Some(id)
    }

    /// The later of two lines; where they are equal, nobody is excepted that not both except.
    pub fn later(self, other: NotBefore) -> NotBefore {
        match self.at.cmp(&other.at) {
            std::cmp::Ordering::Less => other,
            std::cmp::Ordering::Greater => self,
            std::cmp::Ordering::Equal if self.except == other.except => self,
            std::cmp::Ordering::Equal => NotBefore { at: self.at, except: None },
        }
    }
}
