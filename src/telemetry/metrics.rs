//! Counters in the Prometheus text format. Labels come from our own code, never from a client.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::events::SessionEvent;

/// All counters of a gateway; cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    requests: Family<RequestLabels, Counter>,
    events: Family<EventLabels, Counter>,
    store_errors: Counter,
    /// Client connections that are open now.
    pub connections: Gauge,
    /// WebSocket tunnels that are open now.
    pub tunnels: Gauge,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    verdict: &'static str,
    status: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct EventLabels {
    event: &'static str,
}

impl Default for Metrics {
    fn default() -> Metrics {
        let mut registry = Registry::with_prefix("doorward");
        let requests = Family::default();
        let events = Family::default();
        let store_errors = Counter::default();
        let connections = Gauge::default();
        let tunnels = Gauge::default();
        registry.register("requests", "Requests by verdict and status", requests.clone());
        registry.register("session_events", "Session events", events.clone());
        registry.register("store_errors", "Store calls that failed", store_errors.clone());
        registry.register("connections", "Open client connections", connections.clone());
        registry.register("tunnels", "Open WebSocket tunnels", tunnels.clone());
        let registry = Arc::new(registry);
        Metrics { registry, requests, events, store_errors, connections, tunnels }
    }
}

impl Metrics {
    /// Counts one answered request.
    pub fn request(&self, verdict: &'static str, status: u16) {
        self.requests.get_or_create(&RequestLabels { verdict, status }).inc();
    }

    /// Counts one session event.
    pub fn event(&self, event: SessionEvent) {
        self.events.get_or_create(&EventLabels { event: event.word() }).inc();
    }

    /// Counts one failed call to the store.
    pub fn store_error(&self) {
        self.store_errors.inc();
    }

    /// The text that Prometheus reads.
    pub fn render(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        encode(&mut out, &self.registry).unwrap_or_default();
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_show_in_the_prometheus_text() {
        let metrics = Metrics::default();
        metrics.request("admit", 200);
        metrics.event(SessionEvent::Theft);
        metrics.store_error();
        let text = metrics.render();
        assert!(
            text.contains("doorward_requests_total{verdict=\"admit\",status=\"200\"} 1"),
            "{text}"
        );
        assert!(text.contains("doorward_session_events_total{event=\"session.theft\"} 1"));
        assert!(text.contains("doorward_store_errors_total 1"));
    }
}
