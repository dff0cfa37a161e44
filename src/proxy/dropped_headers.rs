//! Log entries about removed client headers, so that an operator learns why an app misses one.

use std::collections::HashSet;

use http::HeaderName;
use parking_lot::Mutex;
use tracing::info;

use crate::route::Route;

/// Maximum number of log entries. A client chooses the names.
const MAX: usize = 100;

/// The headers that were logged since the start. Shared by all workers.
#[derive(Debug, Default)]
pub struct DroppedHeaders(Mutex<HashSet<(String, HeaderName)>>);

impl DroppedHeaders {
    /// Logs each header once per route.
    pub(super) fn report(&self, route: &Route, names: &[HeaderName]) {
        for name in names {
            if self.is_new(route, name) {
                info!(
                    event = "request.header-removed",
                    route = route.label(),
                    header = name.as_str(),
                    "a client header was removed; `pass_headers` of the route passes it"
                );
            }
        }
    }

    fn is_new(&self, route: &Route, name: &HeaderName) -> bool {
        let mut seen = self.0.lock();
        seen.len() < MAX && seen.insert((route.label(), name.clone()))
    }
}
