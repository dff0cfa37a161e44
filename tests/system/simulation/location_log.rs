//! Captures the log entries `session.location-changed`.

use std::cell::RefCell;
use std::fmt::Debug;
use std::rc::Rc;

use tracing::field::{Field, Visit};
use tracing::subscriber::DefaultGuard;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

/// One log entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocationChangeEntry {
    pub signals: String,
    pub score: u64,
    /// The risk action that was taken, or would have been in monitor mode.
    pub action: String,
}

thread_local! {
    static LAST: RefCell<Option<LocationChangeEntry>> = const { RefCell::new(None) };
}

/// Captures log entries of the current thread until dropped.
#[derive(Clone)]
pub struct LocationChangeLog {
    _subscriber: Rc<DefaultGuard>,
}

impl LocationChangeLog {
    pub fn capture() -> LocationChangeLog {
        let subscriber = tracing_subscriber::registry().with(CaptureLayer);
        LocationChangeLog { _subscriber: Rc::new(tracing::subscriber::set_default(subscriber)) }
    }

    /// Returns the entry logged since the last call, if any.
    pub fn take(&self) -> Option<LocationChangeEntry> {
        LAST.take()
    }
}

struct CaptureLayer;

impl<S: Subscriber> Layer<S> for CaptureLayer {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        metadata.target() == "session" && *metadata.level() <= Level::INFO
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = EventFields::default();
        event.record(&mut fields);
        if fields.event == "session.location-changed" {
            LAST.set(Some(fields.entry));
        }
    }
}

#[derive(Default)]
struct EventFields {
    event: String,
    entry: LocationChangeEntry,
}

impl Visit for EventFields {
    fn record_debug(&mut self, _: &Field, _: &dyn Debug) {}

    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "score" {
            self.entry.score = value;
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "event" => value.clone_into(&mut self.event),
            "signals" => value.clone_into(&mut self.entry.signals),
            "action" => value.clone_into(&mut self.entry.action),
            _ => {}
        }
    }
}
