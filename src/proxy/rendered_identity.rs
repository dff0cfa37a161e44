//! Identity headers of a permit, rendered.
//!
//! They depend only on the identity and the route, which are the same objects for all requests of a user on a route
//! until one of them changes. A connection keeps the headers of its last permit.

use std::sync::Arc;

use http::header::{HeaderName, HeaderValue};
use parking_lot::Mutex;

use crate::auth::Permit;
use crate::route::Route;
use crate::session::Identity;

/// The identity headers of one identity on one route.
#[derive(Debug)]
pub(super) struct RenderedIdentity {
    identity: Arc<Identity>,
    route: Arc<Route>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// Keeps the identity headers of the last permit.
#[derive(Debug, Default)]
pub(super) struct IdentityCache(Mutex<Option<Arc<RenderedIdentity>>>);

impl IdentityCache {
    /// Returns the identity headers of a permit; `None` if it names no user.
    pub(super) fn headers_of(&self, permit: &Permit) -> Option<Arc<RenderedIdentity>> {
        let identity = permit.identity()?;
        let mut last = self.0.lock();
        if let Some(same) = last.as_ref().filter(|last| last.is_of(identity, permit.route())) {
            return Some(Arc::clone(same));
        }
        let rendered = RenderedIdentity::new(identity, permit.route());
        Some(Arc::clone(last.insert(Arc::new(rendered))))
    }
}

impl RenderedIdentity {
    fn new(identity: &Arc<Identity>, route: &Arc<Route>) -> RenderedIdentity {
        let headers = route.identity.values(identity).map(|(name, value)| (name.clone(), value));
        let headers = headers.collect();
        RenderedIdentity { identity: Arc::clone(identity), route: Arc::clone(route), headers }
    }

    /// The same objects, not equal ones: both are held here, so no other can have their address.
    fn is_of(&self, identity: &Arc<Identity>, route: &Arc<Route>) -> bool {
        Arc::ptr_eq(&self.identity, identity) && Arc::ptr_eq(&self.route, route)
    }

    pub(super) fn headers(&self) -> &[(HeaderName, HeaderValue)] {
        &self.headers
    }
}
