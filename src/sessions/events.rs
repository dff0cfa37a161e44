//! Emission of session events.

use crate::audit::AuditLog;
use crate::clock::Clock;
use crate::notify::Notifier;
use crate::session::{ClientContext, SessionId};
use crate::telemetry::events::EventContext;
use crate::telemetry::{Metrics, SessionEvent};

/// Sinks of session events.
pub struct Events {
    pub audit: Option<AuditLog>,
    pub notifier: Option<Notifier>,
    pub(super) metrics: Metrics,
    pub(super) clock: Clock,
}

impl Events {
    /// Counts, audits, notifies and logs a session event.
    pub fn emit(&self, event: SessionEvent, context: EventContext<'_>) {
        self.metrics.event(event);
        if let Some(audit) = self.audit.as_ref().filter(|_| event.is_audited()) {
            audit.record(event, &context, self.clock.now());
        }
        if let Some(notifier) = &self.notifier {
            notifier.event(event, &context, self.clock.now());
        }
        event.log(context);
    }
}

/// Returns the context of an event of one session.
pub(crate) fn event_context<'a>(
    user: &'a str,
    session: SessionId,
    from: &'a ClientContext,
) -> EventContext<'a> {
    EventContext {
        user,
        session: Some(session),
        client: Some(from.address),
        agent: from.user_agent.as_str(),
        language: from.language.as_str(),
        fingerprint: from.fingerprint,
        ..EventContext::default()
    }
}
