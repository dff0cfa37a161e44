//! Risk signals and assessments of location changes.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::register::register;
use crate::telemetry::events::RiskContext;

#[derive(Clone)]
pub(super) struct RiskMetrics {
    signals: Family<SignalLabels, Counter>,
    assessments: Family<AssessmentLabels, Counter>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct SignalLabels {
    signal: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct AssessmentLabels {
    action: &'static str,
    enforced: bool,
}

impl RiskMetrics {
    pub(super) fn register(registry: &mut Registry) -> RiskMetrics {
        let signals = "Risk signals of location changes";
        let assessments = "Location changes by the action of their score, and whether it was taken";
        RiskMetrics {
            signals: register(registry, "risk_signals", signals),
            assessments: register(registry, "risk_assessments", assessments),
        }
    }

    pub(super) fn count(&self, RiskContext { report, enforced, .. }: RiskContext<'_>) {
        for signal in &report.signals {
            self.signals.get_or_create(&SignalLabels { signal: signal.name() }).inc();
        }
        let action = report.action.as_str();
        self.assessments.get_or_create(&AssessmentLabels { action, enforced }).inc();
    }
}
