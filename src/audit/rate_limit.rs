//! Rate limits of the audit log, for events that a client can cause with every request.
//!
//! They apply before the queue. Otherwise a flood could fill it while the disk is slow, and other events
//! would be lost.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use crate::clock::Clock;
use crate::rate_limit::{Rate, RateLimit};
use crate::session::SessionId;
use crate::telemetry::events::SessionEvent;

/// Lines of each event that a client without a session can cause: ten at once, then ten per second.
const EVENT_BURST: u32 = 10;
const EVENT_INTERVAL: Duration = Duration::from_millis(100);

/// Lines of each event about one session: five at once, then five per minute.
const SESSION_BURST: u32 = 5;
const SESSION_INTERVAL: Duration = Duration::from_secs(12);

/// Pairs of event and session are hashed into this many buckets with a secret of the process, so that the
/// table is bounded.
const BUCKETS: u64 = 1 << 16;

pub(super) struct AuditRateLimit {
    by_event: RateLimit<&'static str>,
    by_session: RateLimit<u64>,
    hasher: RandomState,
    suppressed: BTreeMap<&'static str, u64>,
}

impl AuditRateLimit {
    pub(super) fn new(clock: &Clock) -> AuditRateLimit {
        AuditRateLimit {
            by_event: RateLimit::new(Rate::new(EVENT_BURST, EVENT_INTERVAL), clock),
            by_session: RateLimit::new(Rate::new(SESSION_BURST, SESSION_INTERVAL), clock),
            hasher: RandomState::new(),
            suppressed: BTreeMap::new(),
        }
    }

    /// Reports whether an event may be written. Counts it as suppressed if not.
    pub(super) fn allows(&mut self, event: SessionEvent, session: Option<SessionId>) -> bool {
        let allowed = self.within_session_limit(event, session) && self.within_event_limit(event);
        if !allowed {
            let suppressed = self.suppressed.entry(event.as_str()).or_default();
            *suppressed = suppressed.saturating_add(1);
        }
        allowed
    }

    /// Returns and resets the suppressed events, by action.
    pub(super) fn take_suppressed(&mut self) -> BTreeMap<&'static str, u64> {
        self.by_session.remove_idle();
        std::mem::take(&mut self.suppressed)
    }

    fn within_session_limit(&self, event: SessionEvent, session: Option<SessionId>) -> bool {
        let Some(session) = session.filter(|_| event.is_repeatable()) else { return true };
        let bucket = self.hasher.hash_one((event.as_str(), session)) % BUCKETS;
        self.by_session.check(&bucket).is_ok()
    }

    fn within_event_limit(&self, event: SessionEvent) -> bool {
        !event.is_unauthenticated() || self.by_event.check(&event.as_str()).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UnixMillis;
    use crate::session::EndReason;

    fn limit() -> (AuditRateLimit, Clock) {
        let clock = Clock::manual(UnixMillis(0));
        (AuditRateLimit::new(&clock), clock)
    }

    fn id(number: u32) -> Option<SessionId> {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&number.to_be_bytes());
        Some(SessionId(id))
    }

    fn allowed(limit: &mut AuditRateLimit, event: SessionEvent, session: u32) -> usize {
        (0..100).filter(|_| limit.allows(event, id(session))).count()
    }

    #[test]
    fn a_session_has_five_lines_a_minute_for_each_event() {
        let (mut limit, clock) = limit();
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
            assert_eq!(allowed(&mut limit, event, 1), 5, "{event:?}");
        }
        assert_eq!(limit.take_suppressed().values().sum::<u64>(), 7 * 95);
        assert!(limit.take_suppressed().is_empty());
        assert_eq!(allowed(&mut limit, SessionEvent::Theft, 2), 5, "another session");
        clock.advance(Duration::from_secs(12));
        assert_eq!(allowed(&mut limit, SessionEvent::Theft, 1), 1);
        clock.advance(Duration::from_secs(60));
        assert_eq!(allowed(&mut limit, SessionEvent::Theft, 1), 5);
    }

    #[test]
    fn events_that_occur_once_per_session_are_not_limited() {
        let (mut limit, _) = limit();
        for event in [SessionEvent::Login, SessionEvent::Ended(EndReason::Logout)] {
            assert_eq!(allowed(&mut limit, event, 1), 100, "{event:?}");
        }
        assert!(limit.by_session.is_empty());
    }

    #[test]
    fn unauthenticated_events_have_ten_lines_a_second() {
        let (mut limit, clock) = limit();
        let mut lines =
            || (0..100).filter(|_| limit.allows(SessionEvent::TokenInvalid, None)).count();
        assert_eq!(lines(), 10);
        clock.advance(Duration::from_millis(200));
        assert_eq!(lines(), 2);
        clock.advance(Duration::from_secs(5));
        assert_eq!(lines(), 10);
    }

    #[test]
    fn many_sessions_have_a_line_each_and_a_bounded_table() {
        let (mut limit, clock) = limit();
        for session in 0..5_000 {
            assert!(limit.allows(SessionEvent::RolledBack, id(session)), "{session}");
        }
        for session in 5_000..200_000 {
            limit.allows(SessionEvent::RolledBack, id(session));
        }
        assert!(limit.by_session.len() as u64 <= BUCKETS);
        clock.advance(Duration::from_secs(73));
        limit.take_suppressed();
        assert!(limit.by_session.is_empty());
    }
}
