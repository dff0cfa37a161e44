//! The permit, and the token that goes with an answer.

use std::sync::Arc;

use zeroize::Zeroizing;

use crate::clock::UnixMillis;
use crate::route::{Access, Route};
use crate::session::{Identity, SessionKey};

use super::Sight;

/// Leave to forward one request. Cannot be made outside the guard.
#[derive(Clone, Debug)]
pub struct Permit {
    who: Who,
}

#[derive(Clone, Debug)]
enum Who {
    Anybody,
    User { identity: Arc<Identity>, sight: Sight },
}

impl Permit {
    /// For a route that everybody may use; `None` for any other.
    pub fn public(route: &Route) -> Option<Permit> {
        match route.access {
            Access::Public => Some(Permit { who: Who::Anybody }),
            Access::Session(_) => None,
        }
    }

    pub(super) fn user(identity: Arc<Identity>, sight: Sight) -> Permit {
        Permit { who: Who::User { identity, sight } }
    }

    /// Who the upstream shall be told it is; nobody on a public route.
    pub fn identity(&self) -> Option<&Identity> {
        match &self.who {
            Who::Anybody => None,
            Who::User { identity, .. } => Some(identity),
        }
    }

    /// The session that was admitted.
    pub fn session(&self) -> Option<SessionKey> {
        match &self.who {
            Who::Anybody => None,
            Who::User { sight, .. } => Some(sight.key),
        }
    }

    /// What was seen of it, for a connection that outlives its request.
    pub fn sight(&self) -> Option<&Sight> {
        match &self.who {
            Who::Anybody => None,
            Who::User { sight, .. } => Some(sight),
        }
    }
}

/// A successor to send with the answer.
pub struct NewToken {
    pub text: Zeroizing<String>,
    pub key: SessionKey,
    pub generation: u32,
    /// SHA-256 of its secret, to ask later whether the offer still stands.
    pub hash: [u8; 32],
    pub made: UnixMillis,
}

impl std::fmt::Debug for NewToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NewToken({}, generation {})", self.key.id.handle(), self.generation)
    }
}
