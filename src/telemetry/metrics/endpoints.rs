//! State of the endpoints of routes. Their names come from the configuration.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::register::register;

#[derive(Clone)]
pub(super) struct EndpointMetrics {
    up: Family<EndpointLabels, Gauge>,
    requests: Family<EndpointLabels, Gauge>,
}

/// An endpoint of a route.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct EndpointLabels {
    pub route: String,
    pub endpoint: String,
}

impl EndpointMetrics {
    pub(super) fn register(r: &mut Registry) -> EndpointMetrics {
        EndpointMetrics {
            up: register(r, "upstream_endpoint_up", "1 while the endpoint gets requests"),
            requests: register(
                r,
                "upstream_endpoint_requests",
                "Requests in progress at an endpoint of a route with several",
            ),
        }
    }

    /// Replaces all values.
    pub(super) fn update(&self, all: impl Iterator<Item = (EndpointLabels, bool, usize)>) {
        self.up.clear();
        self.requests.clear();
        for (endpoint, is_up, requests) in all {
            self.up.get_or_create(&endpoint).set(i64::from(is_up));
            let requests = i64::try_from(requests).unwrap_or(i64::MAX);
            self.requests.get_or_create(&endpoint).set(requests);
        }
    }
}
