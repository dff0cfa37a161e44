//! Notifications by their outcome.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::register::register;

/// The outcome of a notification on one channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotificationOutcome {
    Delivered,
    /// Not delivered after all attempts.
    Failed,
    /// Suppressed, because the same notification was sent a few minutes before.
    Duplicate,
    /// Suppressed by the rate limit, or no room in a queue.
    Dropped,
}

#[derive(Clone)]
pub(super) struct NotificationMetrics(Family<OutcomeLabels, Counter>);

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

impl NotificationMetrics {
    pub(super) fn register(registry: &mut Registry) -> NotificationMetrics {
        NotificationMetrics(register(registry, "notifications", "Notifications by outcome"))
    }

    pub(super) fn count(&self, outcome: NotificationOutcome, count: u64) {
        if count > 0 {
            let outcome = outcome.as_str();
            self.0.get_or_create(&OutcomeLabels { outcome }).inc_by(count);
        }
    }
}

impl NotificationOutcome {
    fn as_str(self) -> &'static str {
        match self {
            NotificationOutcome::Delivered => "delivered",
            NotificationOutcome::Failed => "failed",
            NotificationOutcome::Duplicate => "duplicate",
            NotificationOutcome::Dropped => "dropped",
        }
    }
}
