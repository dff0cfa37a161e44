//! Durations and upstream errors by route.
//!
//! Each worker has its own counts, so that workers do not contend for them. A snapshot holds the counts of its
//! routes: those of a removed route end with the last request to it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::histogram::{Histogram, HistogramSum};
use crate::route::{Route, RouteTable};

/// A part of the time that a request takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// From the request head until the request is forwarded, or to the end of a local response.
    Gateway,
    /// From there to the response head of the upstream, or to its failure.
    Upstream,
    /// From there to the end of the response.
    Response,
}

impl Phase {
    const ALL: [Phase; 3] = [Phase::Gateway, Phase::Upstream, Phase::Response];

    fn as_str(self) -> &'static str {
        match self {
            Phase::Gateway => "gateway",
            Phase::Upstream => "upstream",
            Phase::Response => "response",
        }
    }
}

/// The counts of one route in one worker.
#[derive(Debug, Default)]
pub struct RouteMetrics {
    label: String,
    durations: [Histogram; Phase::ALL.len()],
    errors: Mutex<BTreeMap<&'static str, u64>>,
}

impl RouteMetrics {
    /// Records how long a phase of a request took.
    pub fn observe(&self, phase: Phase, duration: Duration) {
        if let Some(histogram) = self.durations.get(phase as usize) {
            histogram.observe(duration);
        }
    }

    /// Counts a failure of the upstream. `cause` is an error type of RFC 9209.
    pub fn upstream_error(&self, cause: &'static str) {
        *self.errors.lock().entry(cause).or_default() += 1;
    }
}

/// The counts of all routes of one table in one worker, in the order of the table.
#[derive(Clone, Debug, Default)]
pub struct RouteMetricsTable(Vec<Arc<RouteMetrics>>);

impl RouteMetricsTable {
    /// Returns the counts of a route of the table.
    pub fn get(&self, route: &Route) -> Option<&RouteMetrics> {
        self.0.get(route.index).map(Arc::as_ref)
    }
}

/// The counts of all workers, as long as a snapshot or a request holds them.
#[derive(Clone, Debug, Default)]
pub(super) struct RouteRegistry(Arc<Mutex<Vec<Weak<RouteMetrics>>>>);

impl RouteRegistry {
    /// Returns the counts of each route. A route of `previous` with the same host and path keeps its counts.
    pub(super) fn table(
        &self,
        routes: &RouteTable,
        previous: &RouteMetricsTable,
    ) -> RouteMetricsTable {
        let mut all = self.0.lock();
        all.retain(|counts| counts.strong_count() > 0);
        let counts = routes.iter().map(|route| {
            let label = route.label();
            let kept = previous.0.iter().find(|counts| counts.label == label);
            kept.cloned().unwrap_or_else(|| {
                let new = Arc::new(RouteMetrics { label, ..RouteMetrics::default() });
                all.push(Arc::downgrade(&new));
                new
            })
        });
        RouteMetricsTable(counts.collect())
    }

    fn totals(&self) -> BTreeMap<String, RouteTotals> {
        let mut totals: BTreeMap<String, RouteTotals> = BTreeMap::new();
        for counts in self.0.lock().iter().filter_map(Weak::upgrade) {
            match totals.get_mut(&counts.label) {
                Some(total) => total.add(&counts),
                None => totals.entry(counts.label.clone()).or_default().add(&counts),
            }
        }
        totals
    }
}

/// The counts of one route in all workers.
#[derive(Default)]
struct RouteTotals {
    durations: [HistogramSum; Phase::ALL.len()],
    errors: BTreeMap<&'static str, u64>,
}

impl RouteTotals {
    fn add(&mut self, counts: &RouteMetrics) {
        for (sum, histogram) in self.durations.iter_mut().zip(&counts.durations) {
            sum.add(histogram);
        }
        for (cause, count) in counts.errors.lock().iter() {
            *self.errors.entry(cause).or_default() += count;
        }
    }
}

impl Collector for RouteRegistry {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let totals = self.totals();
        let help = "Duration of requests by route and phase.";
        let name = "request_duration_seconds";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (route, total) in &totals {
            for (phase, sum) in Phase::ALL.into_iter().zip(&total.durations) {
                let labels = [("route", route.as_str()), ("phase", phase.as_str())];
                sum.encode(family.encode_family(&labels)?)?;
            }
        }
        let help = "Requests without a complete response of the upstream, by route and cause.";
        let mut family =
            encoder.encode_descriptor("upstream_errors", help, None, MetricType::Counter)?;
        for (route, total) in &totals {
            for (cause, count) in &total.errors {
                let labels = [("route", route.as_str()), ("cause", cause)];
                let mut sample = family.encode_family(&labels)?;
                sample.encode_counter::<NoLabelSet, u64, f64>(count, None)?;
            }
        }
        Ok(())
    }
}
