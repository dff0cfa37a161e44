//! What became of events that somebody should be told of.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// What became of one, in one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notified {
    Delivered,
    /// Tried, and given up.
    Failed,
    /// Told a short while ago.
    Repeated,
    /// More than is told.
    Dropped,
}

#[derive(Clone, Default)]
pub(super) struct Notices(Family<OutcomeLabels, Counter>);

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

impl Notices {
    pub(super) fn register(registry: &mut Registry) -> Notices {
        let notices = Notices::default();
        let help = "Events that somebody should be told of, by what became of them";
        registry.register("notify", help, notices.0.clone());
        notices
    }

    pub(super) fn count(&self, outcome: Notified, count: u64) {
        if count > 0 {
            let outcome = outcome.word();
            self.0.get_or_create(&OutcomeLabels { outcome }).inc_by(count);
        }
    }
}

impl Notified {
    fn word(self) -> &'static str {
        match self {
            Notified::Delivered => "delivered",
            Notified::Failed => "failed",
            Notified::Repeated => "repeated",
            Notified::Dropped => "dropped",
        }
    }
}
