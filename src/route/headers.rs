//! Header rules of one route.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use super::Route;
use crate::message::{HeaderRules, ReservedHeaders};

/// Headers that a route removes, passes and sets.
#[derive(Clone, Debug, Default)]
pub struct RouteHeaders {
    /// Client headers that are removed in addition to the reserved ones.
    pub strip: Vec<HeaderName>,
    /// Client headers that pass although they belong to a reserved family.
    pub pass: Vec<HeaderName>,
    /// Headers of every request to the upstream, with the same value for all users.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// As `set`, with a file that contains the value. Read when the gateway starts.
    pub set_files: Vec<(HeaderName, PathBuf)>,
    reserved: Arc<ReservedHeaders>,
}

impl RouteHeaders {
    /// The reserved headers follow when all routes are known.
    pub fn new(
        strip: Vec<HeaderName>,
        pass: Vec<HeaderName>,
        set: Vec<(HeaderName, HeaderValue)>,
        set_files: Vec<(HeaderName, PathBuf)>,
    ) -> RouteHeaders {
        RouteHeaders { strip, pass, set, set_files, reserved: Arc::default() }
    }

    /// Returns the client headers that do not reach the upstream.
    pub fn reserved(&self) -> &ReservedHeaders {
        &self.reserved
    }

    /// Moves the contents of `set_files` to `set`.
    pub(super) fn read_files<E>(
        &mut self,
        read: &impl Fn(&Path) -> Result<HeaderValue, E>,
    ) -> Result<(), E> {
        for (name, file) in std::mem::take(&mut self.set_files) {
            self.set.push((name, read(&file)?));
        }
        Ok(())
    }

    fn names_set(&self) -> impl Iterator<Item = &HeaderName> {
        let (fixed, files) = (self.set.iter(), self.set_files.iter());
        fixed.map(|(name, _)| name).chain(files.map(|(name, _)| name))
    }
}

/// Derives the reserved headers of each route. A header that one route sets is reserved on all routes to
/// the same upstream, which would trust it from there too.
pub(super) fn reserve(routes: &mut [Route]) {
    let reserved: Vec<_> = routes.iter().map(|route| reserved_for(route, routes)).collect();
    for (route, reserved) in routes.iter_mut().zip(reserved) {
        route.headers.reserved = Arc::new(reserved);
    }
}

fn reserved_for(route: &Route, routes: &[Route]) -> ReservedHeaders {
    let neighbours = || routes.iter().filter(|other| shares_upstream(route, other));
    let identity = neighbours().flat_map(|route| &route.identity.headers);
    let set = neighbours().flat_map(|route| route.headers.names_set());
    ReservedHeaders::new(&HeaderRules {
        identity: identity.map(|header| header.name.clone()).collect(),
        removed: set.chain(&route.headers.strip).cloned().collect(),
        passed: route.headers.pass.clone(),
    })
}

/// Whether both routes lead to one endpoint, by any protocol. A route always does to itself.
fn shares_upstream(route: &Route, other: &Route) -> bool {
    let is_shared = |endpoint: &crate::message::Endpoint| {
        let mut others = other.upstreams.iter();
        others.any(|other| (other.host(), other.port()) == (endpoint.host(), endpoint.port()))
    };
    std::ptr::eq(route, other) || route.upstreams.iter().any(is_shared)
}
