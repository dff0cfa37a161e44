//! Metrics in the Prometheus text format. Label values come from this crate, never from a client.
//!
//! `docs/metrics-and-events.md` is the reference; a test keeps it complete.

mod endpoints;
mod histogram;
mod notifications;
mod operation;
mod providers;
mod register;
mod risk;
mod routes;

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use jiff::Timestamp;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::events::{RiskContext, SessionEvent};
use super::limits::{Limit, LimitLog};
use super::process::ProcessStats;
use crate::route::RouteTable;
use endpoints::EndpointMetrics;
use notifications::NotificationMetrics;
use operation::OperationMetrics;
use register::register;
use risk::RiskMetrics;
use routes::RouteRegistry;

pub use endpoints::EndpointLabels;
pub use notifications::NotificationOutcome;
pub use operation::AuditStats;
pub use providers::ProviderMetrics;
pub use routes::{Phase, RouteMetrics, RouteMetricsTable};

/// All metrics of a gateway; cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    requests: Family<RequestLabels, Counter>,
    /// Counters of [`ADMIT`] by status. Most requests use them, without a lock or a hash.
    admitted: Arc<[OnceLock<Counter>; MAX_STATUS]>,
    routes: RouteRegistry,
    endpoints: EndpointMetrics,
    exchanges_cut: Family<CauseLabels, Counter>,
    events: Family<EventLabels, Counter>,
    risk: RiskMetrics,
    notifications: NotificationMetrics,
    operation: OperationMetrics,
    /// Logins at external providers.
    pub providers: ProviderMetrics,
    store_errors: Counter,
    redis: RedisMetrics,
    /// Requests served by a stale read during a store outage.
    pub stale_sessions_served: Counter,
    /// 1 during a store outage.
    pub store_unavailable: Gauge,
    tracked_closed: Family<ReasonLabels, Counter>,
    tracked_rejected: Family<LimitLabels, Counter>,
    /// Open connections that outlive their request and must end with their session.
    pub tracked_connections: Gauge,
    limit_hits: Family<LimitLabels, Counter>,
    limit_log: Arc<LimitLog>,
    /// Open client connections.
    pub client_connections: Gauge,
    /// Open WebSocket tunnels.
    pub websocket_tunnels: Gauge,
    config_reloads: Family<ResultLabels, Counter>,
    config_reload_failed: Gauge,
}

/// The verdict of most requests.
pub const ADMIT: &str = "admit";
/// One more than the highest HTTP status.
const MAX_STATUS: usize = 600;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    verdict: &'static str,
    status: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct EventLabels {
    event: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CauseLabels {
    cause: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct LimitLabels {
    limit: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CheckLabels {
    check: &'static str,
}

/// Counts of a Redis store since the start of the process.
#[derive(Clone, Debug, Default)]
pub struct StoreStats {
    pub round_trips: u64,
    /// Commands rejected because too many were waiting.
    pub rejected: u64,
    /// Servers whose circuit breaker is open.
    pub open_circuits: usize,
    /// Each configuration check of Redis, and whether it fails.
    pub config_warnings: Vec<(&'static str, bool)>,
    pub hits: u64,
    pub misses: u64,
    pub entries: usize,
    pub bytes: u64,
    /// Flushes of the whole cache, by cause.
    pub flushes: Vec<(&'static str, u64)>,
    /// Time since all invalidations were last known to have arrived; `None` without a subscription.
    pub invalidation_age: Option<Duration>,
}

/// Metrics that are copied from [`StoreStats`] at each scrape.
#[derive(Clone)]
struct RedisMetrics {
    round_trips: Counter,
    rejected: Counter,
    open_circuits: Gauge,
    config_warnings: Family<CheckLabels, Gauge>,
    lookups: Family<ResultLabels, Counter>,
    flushes: Family<CauseLabels, Counter>,
    entries: Gauge,
    bytes: Gauge,
    invalidation_age: Gauge<f64, AtomicU64>,
}

impl RedisMetrics {
    fn register(registry: &mut Registry) -> RedisMetrics {
        let r = registry;
        RedisMetrics {
            round_trips: register(r, "store_round_trips", "Round trips to Redis"),
            rejected: register(
                r,
                "store_requests_rejected",
                "Redis commands rejected because too many were waiting",
            ),
            open_circuits: register(
                r,
                "store_circuits_open",
                "Redis servers whose circuit breaker is open",
            ),
            config_warnings: register(
                r,
                "store_config_warning",
                "1 while a check of the Redis configuration fails; the log has the remedy",
            ),
            lookups: register(r, "session_cache_lookups", "Lookups in the session cache"),
            flushes: register(r, "session_cache_flushes", "Flushes of the whole session cache"),
            entries: register(r, "session_cache_entries", "Sessions in the session cache"),
            bytes: register(r, "session_cache_bytes", "Estimated size of the session cache"),
            invalidation_age: register(
                r,
                "store_invalidation_age_seconds",
                "Time since all invalidations were known to have arrived; -1 without a subscription",
            ),
        }
    }

    fn update(&self, stats: &StoreStats) {
        set(&self.round_trips, stats.round_trips);
        set(&self.rejected, stats.rejected);
        set_gauge(&self.open_circuits, stats.open_circuits);
        for (check, fails) in &stats.config_warnings {
            let gauge = self.config_warnings.get_or_create(&CheckLabels { check });
            gauge.set(i64::from(*fails));
        }
        for (result, count) in [("hit", stats.hits), ("miss", stats.misses)] {
            set(&self.lookups.get_or_create(&ResultLabels { result }), count);
        }
        for (cause, count) in &stats.flushes {
            set(&self.flushes.get_or_create(&CauseLabels { cause }), *count);
        }
        set_gauge(&self.entries, stats.entries);
        set_gauge(&self.bytes, stats.bytes);
        self.invalidation_age.set(stats.invalidation_age.map_or(-1.0, |age| age.as_secs_f64()));
    }
}

impl Default for Metrics {
    fn default() -> Metrics {
        let mut registry = Registry::with_prefix("doorward");
        let r = &mut registry;
        let routes = RouteRegistry::default();
        r.register_collector(Box::new(routes.clone()));
        Metrics {
            routes,
            requests: register(r, "requests", "Requests by verdict and status"),
            admitted: Arc::new([const { OnceLock::new() }; MAX_STATUS]),
            exchanges_cut: register(
                r,
                "exchanges_cut",
                "Exchanges that ended before the end of the response, by cause",
            ),
            events: register(r, "session_events", "Session events"),
            risk: RiskMetrics::register(r),
            notifications: NotificationMetrics::register(r),
            operation: OperationMetrics::register(r),
            endpoints: EndpointMetrics::register(r),
            providers: ProviderMetrics::register(r),
            store_errors: register(r, "store_errors", "Failed calls to the store"),
            redis: RedisMetrics::register(r),
            stale_sessions_served: register(
                r,
                "stale_sessions_served",
                "Requests served by a stale read during a store outage",
            ),
            store_unavailable: register(r, "store_unavailable", "1 during a store outage"),
            tracked_connections: register(
                r,
                "tracked_connections",
                "Open connections that must end with their session",
            ),
            tracked_closed: register(
                r,
                "tracked_connections_closed",
                "Tracked connections that were closed, by reason",
            ),
            tracked_rejected: register(
                r,
                "tracked_connections_rejected",
                "Tracked connections rejected by a limit",
            ),
            limit_hits: register(r, "limit_hits", "Requests and connections rejected by a limit"),
            limit_log: Arc::default(),
            client_connections: register(r, "client_connections", "Open client connections"),
            websocket_tunnels: register(r, "websocket_tunnels", "Open WebSocket tunnels"),
            config_reloads: register(r, "config_reloads", "Reloads of the configuration"),
            config_reload_failed: register(
                r,
                "config_reload_failed",
                "1 after a failed reload, until one succeeds",
            ),
            registry: Arc::new(registry),
        }
    }
}

impl Metrics {
    /// Counts a response.
    pub fn request(&self, verdict: &'static str, status: u16) {
        let counter = || self.requests.get_or_create(&RequestLabels { verdict, status }).clone();
        match self.admitted.get(usize::from(status)) {
            Some(cached) if verdict == ADMIT => cached.get_or_init(counter).inc(),
            Some(_) | None => counter().inc(),
        };
    }

    /// Returns the counts of the routes for one worker. Routes of `previous`, the table of the same worker
    /// before, keep theirs.
    pub fn routes(&self, routes: &RouteTable, previous: &RouteMetricsTable) -> RouteMetricsTable {
        self.routes.table(routes, previous)
    }

    /// Replaces the state of all endpoints: whether they are up, and their requests in progress.
    pub fn update_endpoints(&self, all: impl Iterator<Item = (EndpointLabels, bool, usize)>) {
        self.endpoints.update(all);
    }

    /// Counts an exchange that ended before the end of its response.
    pub fn exchange_cut(&self, cause: &'static str) {
        self.exchanges_cut.get_or_create(&CauseLabels { cause }).inc();
    }

    /// Counts a session event.
    pub fn event(&self, event: SessionEvent) {
        self.events.get_or_create(&EventLabels { event: event.as_str() }).inc();
    }

    /// Counts the signals of a location change, and its assessment.
    pub fn risk_assessment(&self, risk: RiskContext<'_>) {
        self.risk.count(risk);
    }

    /// Counts notifications by their outcome.
    pub fn notification(&self, outcome: NotificationOutcome, count: u64) {
        self.notifications.count(outcome, count);
    }

    /// Copies the figures of the process.
    pub fn update_process(&self, stats: ProcessStats) {
        self.operation.update_process(stats);
    }

    /// Copies the state of the audit log.
    pub fn update_audit(&self, stats: AuditStats) {
        self.operation.update_audit(stats);
    }

    /// Sets when a certificate expires.
    pub fn certificate_expiry(&self, file: String, expires: Timestamp) {
        self.operation.certificate_expiry(file, expires);
    }

    /// Records whether all changed files can be loaded.
    pub fn reload(&self, is_failing: bool) {
        self.operation.reload(is_failing);
    }

    /// Counts a reload of the configuration.
    pub fn config_reload(&self, is_ok: bool) {
        let result = if is_ok { "success" } else { "failure" };
        self.config_reloads.get_or_create(&ResultLabels { result }).inc();
        self.config_reload_failed.set(i64::from(!is_ok));
    }

    /// Counts a failed call to the store.
    pub fn store_error(&self) {
        self.store_errors.inc();
    }

    /// Copies the counts of a Redis store.
    pub fn update_store(&self, stats: &StoreStats) {
        self.redis.update(stats);
    }

    /// Counts a tracked connection that was closed.
    pub fn tracked_connection_closed(&self, reason: &'static str) {
        self.tracked_closed.get_or_create(&ReasonLabels { reason }).inc();
    }

    /// Counts a tracked connection that a limit rejected.
    pub fn tracked_connection_rejected(&self, limit: &'static str) {
        self.tracked_rejected.get_or_create(&LimitLabels { limit }).inc();
    }

    /// Counts a rejection by a limit and logs it, at most once in ten seconds for each limit.
    pub fn limit(&self, limit: Limit, client: Option<IpAddr>) {
        self.limit_hits.get_or_create(&LimitLabels { limit: limit.as_str() }).inc();
        self.limit_log.record(limit, client);
    }

    /// Logs the rejections since the last log entry; called every second.
    pub fn flush_limit_log(&self) {
        self.limit_log.flush();
    }

    /// Returns all metrics in the OpenMetrics text format.
    pub fn render(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        encode(&mut out, &self.registry).unwrap_or_default();
        out
    }
}

/// Sets a counter whose events are counted elsewhere.
fn set(counter: &Counter, value: u64) {
    counter.inner().store(value, Ordering::Relaxed);
}

fn set_gauge(gauge: &Gauge, value: impl TryInto<i64>) {
    gauge.set(value.try_into().unwrap_or(i64::MAX));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_rendered_as_prometheus_text() {
        let metrics = Metrics::default();
        metrics.request("admit", 200);
        metrics.request("forbidden", 200);
        metrics.request("admit", 200);
        metrics.event(SessionEvent::Theft);
        metrics.store_error();
        let flushes = vec![("subscription-lost", 2)];
        metrics.update_store(&StoreStats { hits: 7, flushes, ..Default::default() });
        let text = metrics.render();
        for sample in [
            "doorward_requests_total{verdict=\"admit\",status=\"200\"} 2",
            "doorward_session_events_total{event=\"session.theft\"} 1",
            "doorward_store_errors_total 1",
            "doorward_session_cache_lookups_total{result=\"hit\"} 7",
            "doorward_session_cache_flushes_total{cause=\"subscription-lost\"} 2",
            "doorward_store_invalidation_age_seconds -1.0",
        ] {
            assert!(text.contains(sample), "{sample} in\n{text}");
        }
    }
}
