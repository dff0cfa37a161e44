//! Which events are told: what matters, not twice, and not more than somebody can read.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::config::NotifyEvent;
use crate::risk::RiskAction;
use crate::session::EndReason;
use crate::telemetry::audit::entry::AuditEntry;
use crate::telemetry::events::{EventContext, SessionEvent};
use crate::telemetry::window::FixedWindow;

/// The same event of one session is told once in this time.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(5 * 60);

/// Of one kind within a minute. Whoever has a session can cause some of them; others come by the
/// thousand when a store goes backwards.
const MAX_PER_MINUTE: u32 = 30;
const MINUTE: Duration = Duration::from_secs(60);

/// What kind of event this is to whoever is told; none where it is not worth it.
pub(super) fn kind(event: SessionEvent, about: &EventContext<'_>) -> Option<NotifyEvent> {
    match event {
        SessionEvent::Theft => Some(NotifyEvent::Theft),
        SessionEvent::LocationChanged => {
            is_risk_enforced(about).then_some(NotifyEvent::LocationChanged)
        }
        SessionEvent::Undecryptable => Some(NotifyEvent::Undecryptable),
        SessionEvent::RolledBack => Some(NotifyEvent::RolledBack),
        SessionEvent::GenerationAhead => Some(NotifyEvent::GenerationAhead),
        SessionEvent::ActivityInFuture => Some(NotifyEvent::ActivityInFuture),
        SessionEvent::Ended(reason) => (!is_routine(reason)).then_some(NotifyEvent::Ended),
        SessionEvent::LoginNewLocation => Some(NotifyEvent::LoginNewLocation),
        SessionEvent::Login => Some(NotifyEvent::Login),
        SessionEvent::LoginFailed
        | SessionEvent::LoginThrottled
        | SessionEvent::TokenRotated
        | SessionEvent::TokenInvalid
        | SessionEvent::HistoryDeleted
        | SessionEvent::Refused(_) => None,
    }
}

/// Whether its signals cost the session something.
fn is_risk_enforced(about: &EventContext<'_>) -> bool {
    about.risk.is_some_and(|moved| {
        moved.enforced
            && match moved.report.action {
                RiskAction::None | RiskAction::Log | RiskAction::Rotate => false,
                RiskAction::Reauthenticate | RiskAction::End => true,
            }
    })
}

/// Whether sessions end so every day.
fn is_routine(reason: EndReason) -> bool {
    match reason {
        EndReason::Logout | EndReason::Replaced | EndReason::Idle | EndReason::Absolute => true,
        EndReason::Revoked
        | EndReason::Theft
        | EndReason::RotationIgnored
        | EndReason::AccountGone
        | EndReason::CredentialChanged
        | EndReason::TheftElsewhere => false,
    }
}

/// What becomes of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Send,
    /// It was told a short while ago.
    Duplicate,
    RateLimited,
}

/// What was told lately.
#[derive(Default)]
pub(super) struct Filter {
    /// Bounded by the rate, and emptied of what is old each second.
    told: BTreeMap<(&'static str, String), Instant>,
    /// Of this minute, by action.
    minute: BTreeMap<&'static str, FixedWindow>,
}

impl Filter {
    pub(super) fn check(&mut self, entry: &AuditEntry, now: Instant) -> Decision {
        let key = (entry.action, entry.subject());
        if self.told.get(&key).is_some_and(|told| is_recent(*told, now)) {
            return Decision::Duplicate;
        }
        let minute = self.minute.entry(entry.action).or_insert_with(|| FixedWindow::new(now));
        if !minute.allows(MAX_PER_MINUTE, MINUTE, now) {
            return Decision::RateLimited;
        }
        self.told.insert(key, now);
        Decision::Send
    }

    pub(super) fn forget(&mut self, now: Instant) {
        self.told.retain(|_, told| is_recent(*told, now));
    }
}

fn is_recent(told: Instant, now: Instant) -> bool {
    now.duration_since(told) < DUPLICATE_WINDOW
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UnixMillis;
    use crate::risk::{GeoInfo, RiskReport};
    use crate::session::SessionId;
    use crate::telemetry::events::RiskContext;

    fn of(event: SessionEvent, session: u8) -> AuditEntry {
        let session = Some(SessionId([session; 16]));
        AuditEntry::new(
            event,
            &EventContext { user: "alice", session, ..EventContext::default() },
            UnixMillis(0),
        )
    }

    #[test]
    fn the_same_event_of_one_session_is_told_once_in_five_minutes() {
        let (mut filter, start) = (Filter::default(), Instant::now());
        let mut fate = |event, session, seconds| {
            filter.check(&of(event, session), start + Duration::from_secs(seconds))
        };
        assert_eq!(fate(SessionEvent::Theft, 1, 0), Decision::Send);
        assert_eq!(fate(SessionEvent::Theft, 1, 299), Decision::Duplicate);
        assert_eq!(fate(SessionEvent::Theft, 2, 299), Decision::Send, "another session");
        assert_eq!(fate(SessionEvent::Undecryptable, 1, 299), Decision::Send, "another event");
        assert_eq!(fate(SessionEvent::Theft, 1, 300), Decision::Send);
        filter.forget(start + Duration::from_secs(599));
        assert_eq!(filter.told.len(), 1, "the last of the first session");
        filter.forget(start + Duration::from_secs(600));
        assert!(filter.told.is_empty());
    }

    #[test]
    fn thirty_of_a_kind_a_minute_and_no_kind_silences_another() {
        let (mut filter, start) = (Filter::default(), Instant::now());
        let told = |filter: &mut Filter, from: u8, at| {
            (from..from + 100)
                .filter(|session| {
                    filter.check(&of(SessionEvent::LocationChanged, *session), at) == Decision::Send
                })
                .count()
        };
        assert_eq!(told(&mut filter, 0, start), 30);
        assert_eq!(filter.check(&of(SessionEvent::Theft, 1), start), Decision::Send);
        assert_eq!(told(&mut filter, 100, start + Duration::from_secs(59)), 0);
        assert_eq!(told(&mut filter, 100, start + Duration::from_secs(60)), 30);
    }

    #[test]
    fn a_move_is_told_only_where_it_cost_the_session_something() {
        let told = |answer, enforced| {
            let report = RiskReport { signals: Vec::new(), score: 0, action: answer };
            let moved = Some(RiskContext {
                report: &report,
                enforced,
                location: GeoInfo::default(),
                other_location: GeoInfo::default(),
            });
            kind(
                SessionEvent::LocationChanged,
                &EventContext { risk: moved, ..EventContext::default() },
            )
            .is_some()
        };
        let all = [
            RiskAction::None,
            RiskAction::Log,
            RiskAction::Rotate,
            RiskAction::Reauthenticate,
            RiskAction::End,
        ];
        assert_eq!(all.map(|answer| told(answer, true)), [false, false, false, true, true]);
        assert_eq!(all.map(|answer| told(answer, false)), [false; 5]);
    }

    #[test]
    fn nothing_that_a_stranger_can_cause_is_told_whatever_is_configured() {
        let strangers = [
            SessionEvent::LoginFailed,
            SessionEvent::LoginThrottled,
            SessionEvent::TokenInvalid,
            SessionEvent::Refused("x"),
        ];
        for event in strangers {
            assert!(event.is_unauthenticated());
            assert_eq!(kind(event, &EventContext::default()), None);
        }
    }

    #[test]
    fn the_words_of_the_configuration_are_those_of_the_log() {
        let events = [
            SessionEvent::Theft,
            SessionEvent::Undecryptable,
            SessionEvent::RolledBack,
            SessionEvent::GenerationAhead,
            SessionEvent::ActivityInFuture,
            SessionEvent::Ended(EndReason::Revoked),
            SessionEvent::LoginNewLocation,
            SessionEvent::Login,
        ];
        let mut known = NotifyEvent::ALL.to_vec();
        known.retain(|(event, _)| *event != NotifyEvent::LocationChanged);
        assert_eq!(known.len(), events.len());
        for event in events {
            let kind = kind(event, &EventContext::default()).expect("told");
            assert!(known.contains(&(kind, event.as_str())), "{event:?}");
        }
        assert!(
            NotifyEvent::ALL
                .contains(&(NotifyEvent::LocationChanged, SessionEvent::LocationChanged.as_str()))
        );
    }
}
