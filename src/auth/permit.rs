//! The permit to forward a request.

use std::sync::Arc;

use http::header::{AUTHORIZATION, HeaderMap};

use crate::connections::SessionSnapshot;
use crate::route::{Access, Route};
use crate::session::{Identity, SessionKey, TokenId};

/// Permission to forward one request on one route. Only this module can create one.
#[derive(Clone, Debug)]
pub struct Permit {
    route: Arc<Route>,
    principal: Principal,
}

#[derive(Clone, Debug)]
enum Principal {
    Anonymous,
    User {
        identity: Arc<Identity>,
        snapshot: SessionSnapshot,
    },
    /// A program with a personal access token.
    Program {
        identity: Arc<Identity>,
        token: TokenId,
    },
}

impl Permit {
    /// Creates a permit for a public route; `None` for any other route.
    pub fn public(route: &Arc<Route>) -> Option<Permit> {
        match route.access {
            Access::Public => Some(Permit::anonymous(route)),
            Access::Session(_) => None,
        }
    }

    /// Creates a permit for a request that the upstream authenticates itself: it has an `Authorization`
    /// header and no session cookie. `None` if the route does not accept such requests.
    pub fn for_app_credentials(route: &Arc<Route>, headers: &HeaderMap) -> Option<Permit> {
        let has_credentials = headers.contains_key(AUTHORIZATION);
        (route.accepts_app_credentials && has_credentials).then(|| Permit::anonymous(route))
    }

    fn anonymous(route: &Arc<Route>) -> Permit {
        Permit { route: Arc::clone(route), principal: Principal::Anonymous }
    }

    pub(super) fn for_user(
        route: Arc<Route>,
        identity: Arc<Identity>,
        snapshot: SessionSnapshot,
    ) -> Permit {
        Permit { route, principal: Principal::User { identity, snapshot } }
    }

    pub(super) fn for_token(route: &Arc<Route>, identity: Arc<Identity>, token: TokenId) -> Permit {
        Permit { route: Arc::clone(route), principal: Principal::Program { identity, token } }
    }

    /// Returns the route that the request was authorized for.
    pub fn route(&self) -> &Arc<Route> {
        &self.route
    }

    /// Returns the identity for the upstream; `None` on public routes.
    pub fn identity(&self) -> Option<&Arc<Identity>> {
        match &self.principal {
            Principal::Anonymous => None,
            Principal::User { identity, .. } | Principal::Program { identity, .. } => {
                Some(identity)
            }
        }
    }

    /// Returns the personal access token that the request was admitted with.
    pub fn token(&self) -> Option<TokenId> {
        match &self.principal {
            Principal::Anonymous | Principal::User { .. } => None,
            Principal::Program { token, .. } => Some(*token),
        }
    }

    /// Returns the key of the admitted session.
    pub fn session(&self) -> Option<SessionKey> {
        match &self.principal {
            Principal::Anonymous | Principal::Program { .. } => None,
            Principal::User { snapshot, .. } => Some(snapshot.key),
        }
    }

    /// Returns the verified session, for connections that outlive their request.
    pub fn snapshot(&self) -> Option<&SessionSnapshot> {
        match &self.principal {
            Principal::Anonymous | Principal::Program { .. } => None,
            Principal::User { snapshot, .. } => Some(snapshot),
        }
    }
}
