//! States of endpoints, which all workers and the health checks share.

use parking_lot::Mutex;

use crate::route::{Route, RouteTable, UpstreamTls};
use crate::upstream::{EndpointReport, EndpointStates};

use super::endpoint_check::Check;

/// Settings on which the health of an endpoint depends.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct EndpointKey {
    tls: UpstreamTls,
    check: Option<Check>,
}

impl EndpointKey {
    pub(super) fn of(route: &Route) -> EndpointKey {
        EndpointKey { tls: route.upstream_options.tls.clone(), check: Check::of(route) }
    }
}

/// States of all endpoints. All workers share them, and they outlive every configuration.
#[derive(Default)]
pub struct SharedEndpoints(Mutex<Vec<(EndpointKey, EndpointStates)>>);

impl SharedEndpoints {
    pub(super) fn states(&self, route: &Route) -> EndpointStates {
        let (mut all, key) = (self.0.lock(), EndpointKey::of(route));
        if let Some((_, states)) = all.iter().find(|(other, _)| *other == key) {
            return states.clone();
        }
        let states = EndpointStates::default();
        all.push((key, states.clone()));
        states
    }

    /// Returns the state of each endpoint of each route.
    pub fn reports(&self, routes: &RouteTable) -> Vec<EndpointReport> {
        let mut reports = Vec::new();
        for route in routes.iter() {
            let (states, is_only) = (self.states(route), route.upstreams.len() == 1);
            let report = |it| states.get(it).report(route.label(), is_only);
            reports.extend(route.upstreams.iter().map(report));
        }
        reports
    }

    /// Removes the states of endpoints that no route names.
    pub fn retain(&self, routes: &RouteTable) {
        self.0.lock().retain(|(key, states)| {
            let mut users = routes.iter().filter(|route| EndpointKey::of(route) == *key);
            states.retain(|endpoint| users.clone().any(|it| it.upstreams.contains(endpoint)));
            users.next().is_some()
        });
    }
}
