//! Which events become lines: what somebody can repeat with every request makes a few, and a number.
//!
//! It stands before the queue, so that a flood takes no place from a line that matters while the disk
//! is slow.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::session::SessionId;
use crate::telemetry::events::SessionEvent;
use crate::telemetry::window::Window;

/// Lines a second of one kind that strangers can provoke.
const STRANGERS: u32 = 10;
const SECOND: Duration = Duration::from_secs(1);

/// Lines a minute of one kind about one session, which whoever has its token can provoke.
const SESSION: u32 = 5;
const MINUTE: Duration = Duration::from_secs(60);

/// Sessions that are counted at a time. More need as many tokens: the store fell ill, and each is
/// worth a line.
const SESSIONS: usize = 4_096;

#[derive(Default)]
pub(super) struct Gate {
    strangers: BTreeMap<&'static str, Window>,
    sessions: BTreeMap<(&'static str, SessionId), Window>,
    suppressed: BTreeMap<&'static str, u64>,
}

impl Gate {
    /// Whether an event becomes a line; if not, it is counted.
    pub(super) fn admits(
        &mut self,
        event: SessionEvent,
        session: Option<SessionId>,
        now: Instant,
    ) -> bool {
        let admits = self.is_within_session(event, session, now) && self.is_within_all(event, now);
        if !admits {
            let suppressed = self.suppressed.entry(event.word()).or_default();
            *suppressed = suppressed.saturating_add(1);
        }
        admits
    }

    /// What was counted since the last time, by action.
    pub(super) fn take_suppressed(&mut self) -> BTreeMap<&'static str, u64> {
        std::mem::take(&mut self.suppressed)
    }

    fn is_within_session(
        &mut self,
        event: SessionEvent,
        session: Option<SessionId>,
        now: Instant,
    ) -> bool {
        let Some(session) = session.filter(|_| event.is_repeatable()) else { return true };
        let key = (event.word(), session);
        if self.sessions.len() >= SESSIONS && !self.sessions.contains_key(&key) {
            self.sessions.retain(|_, window| !window.is_over(MINUTE, now));
            if self.sessions.len() >= SESSIONS {
                return true;
            }
        }
        let window = self.sessions.entry(key).or_insert_with(|| Window::at(now));
        window.takes(SESSION, MINUTE, now)
    }

    fn is_within_all(&mut self, event: SessionEvent, now: Instant) -> bool {
        !event.is_by_strangers() || {
            let window = self.strangers.entry(event.word()).or_insert_with(|| Window::at(now));
            window.takes(STRANGERS, SECOND, now)
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

    fn admitted(gate: &mut Gate, event: SessionEvent, session: u32, at: Instant) -> usize {
        (0..100).filter(|_| gate.admits(event, id(session), at)).count()
    }

    #[test]
    fn one_token_makes_five_lines_a_minute_of_a_kind_and_the_rest_is_counted() {
        let (mut gate, start) = (Gate::default(), Instant::now());
        let events = [
            SessionEvent::Theft,
            SessionEvent::Moved,
            SessionEvent::Poisoned,
            SessionEvent::RolledBack,
            SessionEvent::StoreWentBack,
            SessionEvent::TouchedAhead,
            SessionEvent::Refused("reauthenticate"),
        ];
        for event in events {
            assert_eq!(admitted(&mut gate, event, 1, start), 5, "{event:?}");
        }
        assert_eq!(gate.take_suppressed().values().sum::<u64>(), 7 * 95);
        assert!(gate.take_suppressed().is_empty());
        assert_eq!(admitted(&mut gate, SessionEvent::Theft, 2, start), 5, "another session");
        assert_eq!(admitted(&mut gate, SessionEvent::Theft, 1, start + MINUTE), 5);
    }

    #[test]
    fn what_happens_to_a_session_once_is_not_counted() {
        let (mut gate, start) = (Gate::default(), Instant::now());
        for event in [SessionEvent::Login, SessionEvent::Ended(EndReason::Logout)] {
            assert_eq!(admitted(&mut gate, event, 1, start), 100, "{event:?}");
        }
        assert!(gate.sessions.is_empty());
    }

    #[test]
    fn strangers_make_ten_lines_a_second_of_a_kind() {
        let (mut gate, start) = (Gate::default(), Instant::now());
        let mut lines =
            |at| (0..100).filter(|_| gate.admits(SessionEvent::Forged, None, at)).count();
        assert_eq!(lines(start), 10);
        assert_eq!(lines(start + Duration::from_millis(999)), 0);
        assert_eq!(lines(start + SECOND), 10);
    }

    #[test]
    fn so_many_sessions_are_counted_and_the_next_makes_its_line() {
        let (mut gate, start) = (Gate::default(), Instant::now());
        for session in 0..5_000 {
            assert!(gate.admits(SessionEvent::RolledBack, id(session), start));
        }
        assert_eq!(gate.sessions.len(), SESSIONS);
        assert!(gate.admits(SessionEvent::RolledBack, id(9_999), start + MINUTE));
        assert_eq!(gate.sessions.len(), 1, "what is over was forgotten");
    }
}
