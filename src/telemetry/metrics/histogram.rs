//! A histogram of durations without locks.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{MetricEncoder, NoLabelSet};

/// Upper bounds of the buckets in microseconds. One more bucket has all longer durations.
const BOUNDS: [u64; 14] = [
    100,
    300,
    1_000,
    3_000,
    10_000,
    30_000,
    100_000,
    300_000,
    1_000_000,
    3_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    300_000_000,
];
const BUCKETS: usize = BOUNDS.len() + 1;
const MICROS_PER_SECOND: f64 = 1e6;

#[derive(Debug, Default)]
pub(super) struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    /// Sum of all durations in microseconds.
    sum: AtomicU64,
}

impl Histogram {
    pub(super) fn observe(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.iter().take_while(|bound| micros > **bound).count();
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.sum.fetch_add(micros, Ordering::Relaxed);
    }
}

/// The sum of several histograms.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HistogramSum {
    buckets: [u64; BUCKETS],
    sum: u64,
}

impl HistogramSum {
    pub(super) fn add(&mut self, histogram: &Histogram) {
        for (sum, bucket) in self.buckets.iter_mut().zip(&histogram.buckets) {
            *sum += bucket.load(Ordering::Relaxed);
        }
        self.sum += histogram.sum.load(Ordering::Relaxed);
    }

    /// Encodes the durations in seconds.
    pub(super) fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let bounds = BOUNDS.into_iter().map(seconds).chain([f64::INFINITY]);
        let buckets: Vec<_> = bounds.zip(self.buckets).collect();
        let count = self.buckets.iter().sum();
        encoder.encode_histogram::<NoLabelSet>(seconds(self.sum), count, &buckets, None)
    }
}

/// Exact below 2^53 microseconds, which is 285 years.
#[allow(clippy::cast_precision_loss, reason = "a sum of durations needs no more precision")]
fn seconds(micros: u64) -> f64 {
    micros as f64 / MICROS_PER_SECOND
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_counts_in_the_first_bucket_that_includes_it() {
        let histogram = Histogram::default();
        let filled = || {
            let buckets = histogram.buckets.iter().enumerate();
            let filled = buckets.filter(|(_, count)| count.load(Ordering::Relaxed) > 0);
            filled.map(|(at, _)| at).collect::<Vec<_>>()
        };
        for micros in [0, 100] {
            histogram.observe(Duration::from_micros(micros));
            assert_eq!(filled(), [0]);
        }
        histogram.observe(Duration::from_micros(101));
        assert_eq!(filled(), [0, 1]);
        for long in [Duration::from_secs(301), Duration::MAX] {
            histogram.observe(long);
            assert_eq!(filled(), [0, 1, BOUNDS.len()]);
        }
    }
}
