//! What the log says of sessions that were used from a new place: `session.moved`.

use std::cell::RefCell;
use std::fmt::Debug;
use std::rc::Rc;

use tracing::field::{Field, Visit};
use tracing::subscriber::DefaultGuard;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

/// One line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Move {
    pub signals: String,
    pub score: u64,
    /// What was done, or would have been.
    pub answer: String,
}

thread_local! {
    static LAST: RefCell<Option<Move>> = const { RefCell::new(None) };
}

/// Listens on this thread, for as long as it lives.
#[derive(Clone)]
pub struct Moves {
    _listens: Rc<DefaultGuard>,
}

impl Moves {
    pub fn listen() -> Moves {
        let subscriber = tracing_subscriber::registry().with(Ear);
        Moves { _listens: Rc::new(tracing::subscriber::set_default(subscriber)) }
    }

    /// The line that was written since this was asked last.
    pub fn take(&self) -> Option<Move> {
        LAST.take()
    }
}

struct Ear;

impl<S: Subscriber> Layer<S> for Ear {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        metadata.target() == "session" && *metadata.level() <= Level::INFO
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line::default();
        event.record(&mut line);
        if line.event == "session.moved" {
            LAST.set(Some(line.said));
        }
    }
}

#[derive(Default)]
struct Line {
    event: String,
    said: Move,
}

impl Visit for Line {
    fn record_debug(&mut self, _: &Field, _: &dyn Debug) {}

    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "score" {
            self.said.score = value;
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "event" => value.clone_into(&mut self.event),
            "signals" => value.clone_into(&mut self.said.signals),
            "answer" => value.clone_into(&mut self.said.answer),
            _ => {}
        }
    }
}
