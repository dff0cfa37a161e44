//! Rate limits of the audit log, for events that a client can cause with every request.
//!
//! They apply before the queue. Otherwise a flood could fill it while the disk is slow, and other events
//! would be lost.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::session::SessionId;
use crate::telemetry::events::SessionEvent;
use crate::telemetry::window::FixedWindow;

/// Lines per second of each event that a client without a session can cause.
const UNAUTHENTICATED_PER_SECOND: u32 = 10;
const SECOND: Duration = Duration::from_secs(1);

/// Lines per minute of each event about one session.
const SESSION_PER_MINUTE: u32 = 5;
const MINUTE: Duration = Duration::from_secs(60);

/// Maximum number of tracked pairs of event and session. Further ones are not limited: to cause them
/// takes as many tokens, or a damaged store, and each is worth a line.
const MAX_SESSIONS: usize = 4_096;

#[derive(Default)]
pub(super) struct AuditRateLimit {
    by_event: BTreeMap<&'static str, FixedWindow>,
    by_session: BTreeMap<(&'static str, SessionId), FixedWindow>,
    suppressed: BTreeMap<&'static str, u64>,
}

impl AuditRateLimit {
    /// Reports whether an event may be written. Counts it as suppressed if not.
    pub(super) fn allows(
        &mut self,
        event: SessionEvent,
        session: Option<SessionId>,
        now: Instant,
    ) -> bool {
        let allowed =
            self.within_session_limit(event, session, now) && self.within_event_limit(event, now);
        if !allowed {
            let suppressed = self.suppressed.entry(event.as_str()).or_default();
            *suppressed = suppressed.saturating_add(1);
        }
        allowed
    }

    /// Returns and resets the suppressed events, by action.
    pub(super) fn take_suppressed(&mut self) -> BTreeMap<&'static str, u64> {
        std::mem::take(&mut self.suppressed)
    }

    fn within_session_limit(
        &mut self,
        event: SessionEvent,
        session: Option<SessionId>,
        now: Instant,
    ) -> bool {
        let Some(session) = session.filter(|_| event.is_repeatable()) else { return true };
        let key = (event.as_str(), session);
        if self.by_session.len() >= MAX_SESSIONS && !self.by_session.contains_key(&key) {
            self.by_session.retain(|_, window| !window.has_ended(MINUTE, now));
            if self.by_session.len() >= MAX_SESSIONS {
                return true;
            }
        }
        let window = self.by_session.entry(key).or_insert_with(|| FixedWindow::new(now));
        window.allows(SESSION_PER_MINUTE, MINUTE, now)
    }

    fn within_event_limit(&mut self, event: SessionEvent, now: Instant) -> bool {
        !event.is_unauthenticated() || {
            let window =
                self.by_event.entry(event.as_str()).or_insert_with(|| FixedWindow::new(now));
            window.allows(UNAUTHENTICATED_PER_SECOND, SECOND, now)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::EndReason;

    fn id(number: u32) -> Option<SessionId> {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&number.to_be_bytes());
        Some(SessionId(id))
    }

    fn admitted(
        limit: &mut AuditRateLimit,
        event: SessionEvent,
        session: u32,
        at: Instant,
    ) -> usize {
        (0..100).filter(|_| limit.allows(event, id(session), at)).count()
    }

    #[test]
    fn a_session_has_five_lines_a_minute_for_each_event() {
        let (mut limit, start) = (AuditRateLimit::default(), Instant::now());
        let events = [
            SessionEvent::Theft,
            SessionEvent::LocationChanged,
            SessionEvent::Undecryptable,
            SessionEvent::RolledBack,
            SessionEvent::GenerationAhead,
            SessionEvent::ActivityInFuture,
            SessionEvent::Refused("reauthenticate"),
        ];
        for event in events {
            assert_eq!(admitted(&mut limit, event, 1, start), 5, "{event:?}");
        }
        assert_eq!(limit.take_suppressed().values().sum::<u64>(), 7 * 95);
        assert!(limit.take_suppressed().is_empty());
        assert_eq!(admitted(&mut limit, SessionEvent::Theft, 2, start), 5, "another session");
        assert_eq!(admitted(&mut limit, SessionEvent::Theft, 1, start + MINUTE), 5);
    }

    #[test]
    fn events_that_occur_once_per_session_are_not_limited() {
        let (mut limit, start) = (AuditRateLimit::default(), Instant::now());
        for event in [SessionEvent::Login, SessionEvent::Ended(EndReason::Logout)] {
            assert_eq!(admitted(&mut limit, event, 1, start), 100, "{event:?}");
        }
        assert!(limit.by_session.is_empty());
    }

    #[test]
    fn unauthenticated_events_have_ten_lines_a_second() {
        let (mut limit, start) = (AuditRateLimit::default(), Instant::now());
        let mut lines =
            |at| (0..100).filter(|_| limit.allows(SessionEvent::TokenInvalid, None, at)).count();
        assert_eq!(lines(start), 10);
        assert_eq!(lines(start + Duration::from_millis(999)), 0);
        assert_eq!(lines(start + SECOND), 10);
    }

    #[test]
    fn the_number_of_tracked_sessions_is_bounded() {
        let (mut limit, start) = (AuditRateLimit::default(), Instant::now());
        for session in 0..5_000 {
            assert!(limit.allows(SessionEvent::RolledBack, id(session), start));
        }
        assert_eq!(limit.by_session.len(), MAX_SESSIONS);
        assert!(limit.allows(SessionEvent::RolledBack, id(9_999), start + MINUTE));
        assert_eq!(limit.by_session.len(), 1, "expired windows are removed");
    }
}
