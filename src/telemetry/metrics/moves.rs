//! Sessions that moved: how often each signal spoke, and what was answered.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::telemetry::events::Moved;

#[derive(Clone, Default)]
pub(super) struct Moves {
    signals: Family<SignalLabels, Counter>,
    answers: Family<AnswerLabels, Counter>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct SignalLabels {
    signal: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct AnswerLabels {
    answer: &'static str,
    enforced: bool,
}

impl Moves {
    pub(super) fn register(registry: &mut Registry) -> Moves {
        let moves = Moves::default();
        let help = "What spoke against sessions that moved";
        registry.register("signals", help, moves.signals.clone());
        let help = "Sessions that moved, by what their signals deserve and whether it was done";
        registry.register("moved", help, moves.answers.clone());
        moves
    }

    pub(super) fn count(&self, Moved { report, enforced, .. }: Moved<'_>) {
        for signal in &report.signals {
            self.signals.get_or_create(&SignalLabels { signal: signal.name() }).inc();
        }
        let answer = report.answer.word();
        self.answers.get_or_create(&AnswerLabels { answer, enforced }).inc();
    }
}
