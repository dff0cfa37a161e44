//! The permit, and the token that a response carries.

use std::sync::Arc;

use zeroize::Zeroizing;

use crate::clock::UnixMillis;
use crate::route::{Access, Route};
use crate::session::{Identity, SessionKey};

use super::SessionSnapshot;

/// Permission to forward one request. Only this module can create one.
#[derive(Clone, Debug)]
pub struct Permit {
    principal: Principal,
}

#[derive(Clone, Debug)]
enum Principal {
    Anonymous,
    User { identity: Arc<Identity>, snapshot: SessionSnapshot },
}

impl Permit {
    /// Creates a permit for a public route; `None` for any other route.
    pub fn public(route: &Route) -> Option<Permit> {
        match route.access {
            Access::Public => Some(Permit { principal: Principal::Anonymous }),
            Access::Session(_) => None,
        }
    }

    pub(super) fn for_user(identity: Arc<Identity>, snapshot: SessionSnapshot) -> Permit {
        Permit { principal: Principal::User { identity, snapshot } }
    }

    /// Returns the identity for the upstream; `None` on public routes.
    pub fn identity(&self) -> Option<&Identity> {
        match &self.principal {
            Principal::Anonymous => None,
            Principal::User { identity, .. } => Some(identity),
        }
    }

    /// Returns the key of the admitted session.
    pub fn session(&self) -> Option<SessionKey> {
        match &self.principal {
            Principal::Anonymous => None,
            Principal::User { snapshot, .. } => Some(snapshot.key),
        }
    }

    /// Returns the verified session, for connections that outlive their request.
    pub fn snapshot(&self) -> Option<&SessionSnapshot> {
        match &self.principal {
            Principal::Anonymous => None,
            Principal::User { snapshot, .. } => Some(snapshot),
        }
    }
}

/// A successor token to set with the response.
pub struct NewToken {
    pub text: Zeroizing<String>,
    pub key: SessionKey,
    pub generation: u32,
    /// SHA-256 of the secret, to check later whether this is still the successor.
    pub hash: [u8; 32],
    pub issued_at: UnixMillis,
}

impl std::fmt::Debug for NewToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NewToken({}, generation {})", self.key.id.handle(), self.generation)
    }
}
