//! Counters in the Prometheus text format. Labels come from our own code, never from a client.

mod moves;
mod notified;

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::events::{Moved, SessionEvent};
use super::limits::{Bursts, Limit};
use moves::Moves;
use notified::Notices;

pub use notified::Notified;

/// All counters of a gateway; cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    requests: Family<RequestLabels, Counter>,
    /// Those that most requests move, by status: without a lock and a hash.
    admitted: Arc<[OnceLock<Counter>; STATUSES]>,
    events: Family<EventLabels, Counter>,
    moves: Moves,
    notices: Notices,
    store_errors: Counter,
    round_trips: Counter,
    servers: StoreServers,
    cache: Family<CacheLabels, Counter>,
    cleared: Family<ClearedLabels, Counter>,
    cached: Gauge,
    cached_bytes: Gauge,
    changes_age: Gauge<f64, AtomicU64>,
    /// Requests served by what was known while the store was away.
    pub served_known: Counter,
    /// 1 while the store is away.
    pub store_away: Gauge,
    live_cuts: Family<CauseLabels, Counter>,
    live_refused: Family<LimitLabels, Counter>,
    /// Connections that outlive their request and are watched for the end of their session.
    pub live: Gauge,
    limits: Family<LimitLabels, Counter>,
    bursts: Arc<Bursts>,
    /// Client connections that are open now.
    pub connections: Gauge,
    /// WebSocket tunnels that are open now.
    pub tunnels: Gauge,
}

/// The verdict of most requests, whose counter is found without a lock.
pub const ADMIT: &str = "admit";
/// Statuses are below this.
const STATUSES: usize = 600;

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
struct CacheLabels {
    found: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ClearedLabels {
    cause: &'static str,
}

/// What a shared store did since the start, as it is counted there.
#[derive(Clone, Debug, Default)]
pub struct StoreFigures {
    pub round_trips: u64,
    /// Questions refused because too many waited.
    pub shed: u64,
    /// Servers that are left alone because they do not answer.
    pub left_alone: usize,
    /// What an operator should change.
    pub advice: Vec<(&'static str, bool)>,
    pub hits: u64,
    pub misses: u64,
    pub entries: usize,
    pub bytes: u64,
    /// How often everything known was forgotten, by cause.
    pub cleared: Vec<(&'static str, u64)>,
    /// How long ago all changes were known to have arrived.
    pub changes_age: Option<Duration>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CauseLabels {
    cause: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct LimitLabels {
    limit: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct AdviceLabels {
    what: &'static str,
}

/// How the servers of a shared store are.
#[derive(Clone, Default)]
struct StoreServers {
    shed: Counter,
    left_alone: Gauge,
    advice: Family<AdviceLabels, Gauge>,
}

impl StoreServers {
    fn register(registry: &mut Registry) -> StoreServers {
        let servers = StoreServers::default();
        let help = "Questions to Redis refused because too many waited";
        registry.register("store_shed", help, servers.shed.clone());
        let help = "Servers of Redis left alone because they do not answer";
        registry.register("store_left_alone", help, servers.left_alone.clone());
        let help = "1 where something at Redis should be changed; the log says how";
        registry.register("store_advice", help, servers.advice.clone());
        servers
    }

    fn take_over(&self, figures: &StoreFigures) {
        set(&self.shed, figures.shed);
        self.left_alone.set(i64::try_from(figures.left_alone).unwrap_or(i64::MAX));
        for (what, is_so) in &figures.advice {
            self.advice.get_or_create(&AdviceLabels { what }).set(i64::from(*is_so));
        }
    }
}

impl Default for Metrics {
    fn default() -> Metrics {
        let mut registry = Registry::with_prefix("doorward");
        let requests = Family::default();
        let events = Family::default();
        let store_errors = Counter::default();
        let (served_known, store_away) = (Counter::default(), Gauge::default());
        let (live_cuts, live_refused) = (Family::default(), Family::default());
        let live = Gauge::default();
        let limits = Family::default();
        let connections = Gauge::default();
        let tunnels = Gauge::default();
        registry.register("requests", "Requests by verdict and status", requests.clone());
        registry.register("session_events", "Session events", events.clone());
        let moves = Moves::register(&mut registry);
        let notices = Notices::register(&mut registry);
        registry.register("store_errors", "Store calls that failed", store_errors.clone());
        let round_trips = Counter::default();
        registry.register("store_round_trips", "Questions to Redis", round_trips.clone());
        let servers = StoreServers::register(&mut registry);
        let cache = Family::default();
        registry.register("session_cache", "Sessions known without asking", cache.clone());
        let cleared = Family::default();
        registry.register("session_cache_cleared", "All that was known forgotten", cleared.clone());
        let cached = Gauge::default();
        registry.register("session_cache_entries", "Sessions in the cache", cached.clone());
        let cached_bytes = Gauge::default();
        registry.register("session_cache_bytes", "What they take, about", cached_bytes.clone());
        let changes_age = Gauge::default();
        let help = "Since all changes were known to have arrived; -1 when they are not followed";
        registry.register("store_changes_age_seconds", help, changes_age.clone());
        registry.register("limits", "Limits that turned a client away", limits.clone());
        registry.register("connections", "Open client connections", connections.clone());
        let help = "Requests served by what was known while the store was away";
        registry.register("served_known", help, served_known.clone());
        registry.register("store_away", "1 while the store is away", store_away.clone());
        registry.register("live", "Watched connections that outlive their request", live.clone());
        registry.register("live_cuts", "Live connections cut, by cause", live_cuts.clone());
        registry.register(
            "live_refused",
            "Connections that would have been live, refused by a limit",
            live_refused.clone(),
        );
        registry.register("tunnels", "Open WebSocket tunnels", tunnels.clone());
        let (registry, bursts) = (Arc::new(registry), Arc::default());
        Metrics {
            registry,
            requests,
            admitted: Arc::new([const { OnceLock::new() }; STATUSES]),
            events,
            moves,
            notices,
            store_errors,
            round_trips,
            servers,
            cache,
            cleared,
            cached,
            cached_bytes,
            changes_age,
            served_known,
            store_away,
            live_cuts,
            live_refused,
            live,
            limits,
            bursts,
            connections,
            tunnels,
        }
    }
}

impl Metrics {
    /// Counts one answered request.
    pub fn request(&self, verdict: &'static str, status: u16) {
        let counter = || self.requests.get_or_create(&RequestLabels { verdict, status }).clone();
        match self.admitted.get(usize::from(status)) {
            Some(known) if verdict == ADMIT => known.get_or_init(counter).inc(),
            Some(_) | None => counter().inc(),
        };
    }

    /// Counts one session event.
    pub fn event(&self, event: SessionEvent) {
        self.events.get_or_create(&EventLabels { event: event.word() }).inc();
    }

    /// Counts a session that moved: each signal, and what they were answered with.
    pub fn moved(&self, moved: Moved<'_>) {
        self.moves.count(moved);
    }

    /// Counts what became of events that somebody should be told of.
    pub fn notified(&self, outcome: Notified, count: u64) {
        self.notices.count(outcome, count);
    }

    /// Counts one failed call to the store.
    pub fn store_error(&self) {
        self.store_errors.inc();
    }

    /// Takes over what a shared store counted.
    pub fn store(&self, figures: &StoreFigures) {
        set(&self.round_trips, figures.round_trips);
        self.servers.take_over(figures);
        for (found, count) in [("known", figures.hits), ("asked", figures.misses)] {
            set(&self.cache.get_or_create(&CacheLabels { found }), count);
        }
        for (cause, count) in &figures.cleared {
            set(&self.cleared.get_or_create(&ClearedLabels { cause }), *count);
        }
        self.cached.set(i64::try_from(figures.entries).unwrap_or(i64::MAX));
        self.cached_bytes.set(i64::try_from(figures.bytes).unwrap_or(i64::MAX));
        self.changes_age.set(figures.changes_age.map_or(-1.0, |age| age.as_secs_f64()));
    }

    /// Counts one live connection that was cut.
    pub fn live_cut(&self, cause: &'static str) {
        self.live_cuts.get_or_create(&CauseLabels { cause }).inc();
    }

    /// Counts one that was refused for a limit.
    pub fn live_refused(&self, limit: &'static str) {
        self.live_refused.get_or_create(&LimitLabels { limit }).inc();
    }

    /// Counts one client that a limit turned away; one line per burst says so.
    pub fn limit(&self, limit: Limit, client: Option<IpAddr>) {
        self.limits.get_or_create(&LimitLabels { limit: limit.word() }).inc();
        self.bursts.note(limit, client);
    }

    /// Writes down what limits did since their last line; called each second.
    pub fn tell_limits(&self) {
        self.bursts.tell();
    }

    /// The text that Prometheus reads.
    pub fn render(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        encode(&mut out, &self.registry).unwrap_or_default();
        out
    }
}

/// For a counter that counts elsewhere.
fn set(counter: &Counter, value: u64) {
    counter.inner().store(value, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_show_in_the_prometheus_text() {
        let metrics = Metrics::default();
        metrics.request("admit", 200);
        metrics.request("forbidden", 200);
        metrics.request("admit", 200);
        metrics.event(SessionEvent::Theft);
        metrics.store_error();
        metrics.store(&StoreFigures { hits: 7, cleared: vec![("lost", 2)], ..Default::default() });
        let text = metrics.render();
        assert!(
            text.contains("doorward_requests_total{verdict=\"admit\",status=\"200\"} 2"),
            "{text}"
        );
        assert!(text.contains("doorward_session_events_total{event=\"session.theft\"} 1"));
        assert!(text.contains("doorward_store_errors_total 1"));
        assert!(text.contains("doorward_session_cache_total{found=\"known\"} 7"), "{text}");
        assert!(text.contains("doorward_session_cache_cleared_total{cause=\"lost\"} 2"));
        assert!(text.contains("doorward_store_changes_age_seconds -1.0"));
    }
}
