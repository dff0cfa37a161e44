//! The selection of events for notification, without duplicates and with a rate limit.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::config::NotifyEvent;
use crate::rate_limit::{Rate, RateLimit};
use crate::risk::RiskAction;
use crate::session::EndReason;
use crate::telemetry::events::{EcsEvent, EventContext, SessionEvent};

/// An event of one session is sent once in this time.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(5 * 60);

/// The rate limit of each event: a store that lost writes causes thousands of them. Thirty at once, then
/// thirty a minute.
const BURST: u32 = 30;
const INTERVAL: Duration = Duration::from_secs(2);

/// Returns the selectable kind of an event. `None` if it is routine, or if a client without a session can
/// cause it.
pub(super) fn kind(event: SessionEvent, context: &EventContext<'_>) -> Option<NotifyEvent> {
    match event {
        SessionEvent::Theft => Some(NotifyEvent::Theft),
        SessionEvent::LocationChanged => {
            is_risk_enforced(context).then_some(NotifyEvent::LocationChanged)
        }
        SessionEvent::Undecryptable => Some(NotifyEvent::Undecryptable),
        SessionEvent::RolledBack => Some(NotifyEvent::RolledBack),
        SessionEvent::GenerationAhead => Some(NotifyEvent::GenerationAhead),
        SessionEvent::ActivityInFuture => Some(NotifyEvent::ActivityInFuture),
        SessionEvent::Ended(reason) => (!is_routine(reason)).then_some(NotifyEvent::Ended),
        SessionEvent::LoginNewLocation => Some(NotifyEvent::LoginNewLocation),
        SessionEvent::Login => Some(NotifyEvent::Login),
        SessionEvent::SecondFactorChanged(_) => Some(NotifyEvent::SecondFactorChanged),
        SessionEvent::SecondFactorFailed => Some(NotifyEvent::SecondFactorFailed),
        SessionEvent::LoginFailed
        | SessionEvent::LoginThrottled
        | SessionEvent::TokenRotated
        | SessionEvent::TokenInvalid
        | SessionEvent::HistoryDeleted
        | SessionEvent::UserRevoked(_)
        | SessionEvent::AccountChanged(_)
        | SessionEvent::AccessTokenCreated
        | SessionEvent::AccessTokenDeleted
        | SessionEvent::AccessTokenRefused(_)
        | SessionEvent::Refused(_) => None,
    }
}

/// Reports whether the risk assessment interrupted the session.
fn is_risk_enforced(context: &EventContext<'_>) -> bool {
    context.risk.is_some_and(|risk| {
        risk.enforced
            && match risk.report.action {
                RiskAction::None | RiskAction::Log | RiskAction::Rotate => false,
                RiskAction::Reauthenticate | RiskAction::End => true,
            }
    })
}

/// Reports whether the reason is part of normal operation.
fn is_routine(reason: EndReason) -> bool {
    match reason {
        EndReason::Logout
        | EndReason::Replaced
        | EndReason::Idle
        | EndReason::Absolute
        | EndReason::EndedByUser
        | EndReason::LogoutEverywhere
        | EndReason::LogoutByApp
        | EndReason::LogoutByProvider
        | EndReason::ProviderEnded
        | EndReason::SessionLimit => true,
        EndReason::Revoked
        | EndReason::EndedByOperator
        | EndReason::AccountDisabled
        | EndReason::Theft
        | EndReason::RotationIgnored
        | EndReason::AccountGone
        | EndReason::CredentialChanged
        | EndReason::TheftElsewhere => false,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Send,
    /// The same event was sent a short time ago.
    Duplicate,
    RateLimited,
}

/// Suppresses duplicates and limits the rate.
pub(super) struct Filter {
    /// The last notification of each event and session. The rate limit bounds it, and old entries are
    /// removed every second. A rate limit per session would not do: it would also count events that the
    /// limit on all sessions rejects.
    sent: BTreeMap<(&'static str, String), Instant>,
    rate: RateLimit<&'static str>,
}

impl Filter {
    pub(super) fn new(clock: &Clock) -> Filter {
        let rate = RateLimit::new(Rate::new(BURST, INTERVAL), clock);
        Filter { sent: BTreeMap::new(), rate }
    }

    pub(super) fn check(&mut self, event: &EcsEvent, now: Instant) -> Decision {
        let key = (event.action(), event.subject());
        if self.sent.get(&key).is_some_and(|sent| is_recent(*sent, now)) {
            return Decision::Duplicate;
        }
        if self.rate.check(&event.action()).is_err() {
            return Decision::RateLimited;
        }
        self.sent.insert(key, now);
        Decision::Send
    }

    pub(super) fn remove_old(&mut self, now: Instant) {
        self.sent.retain(|_, sent| is_recent(*sent, now));
    }
}

fn is_recent(sent: Instant, now: Instant) -> bool {
    now.duration_since(sent) < DUPLICATE_WINDOW
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UnixMillis;
    use crate::risk::{GeoInfo, RiskReport};
    use crate::session::SessionId;
    use crate::telemetry::events::RiskContext;

    fn ecs_event(event: SessionEvent, session: u8) -> EcsEvent {
        let session = Some(SessionId([session; 16]));
        let context = EventContext { user: "alice", session, ..EventContext::default() };
        EcsEvent::new(event, &context, UnixMillis(0))
    }

    #[test]
    fn an_event_of_a_session_is_sent_once_in_five_minutes() {
        let (mut filter, start) = (Filter::new(&Clock::System), Instant::now());
        let mut check = |event, session, seconds| {
            filter.check(&ecs_event(event, session), start + Duration::from_secs(seconds))
        };
        assert_eq!(check(SessionEvent::Theft, 1, 0), Decision::Send);
        assert_eq!(check(SessionEvent::Theft, 1, 299), Decision::Duplicate);
        assert_eq!(check(SessionEvent::Theft, 2, 299), Decision::Send, "another session");
        assert_eq!(check(SessionEvent::Undecryptable, 1, 299), Decision::Send, "another event");
        assert_eq!(check(SessionEvent::Theft, 1, 300), Decision::Send);
        filter.remove_old(start + Duration::from_secs(599));
        assert_eq!(filter.sent.len(), 1, "the last one of the first session");
        filter.remove_old(start + Duration::from_secs(600));
        assert!(filter.sent.is_empty());
    }

    #[test]
    fn each_event_has_thirty_notifications_and_then_one_in_two_seconds() {
        let clock = Clock::manual(UnixMillis(0));
        let (mut filter, start) = (Filter::new(&clock), Instant::now());
        let mut sent = |sessions: std::ops::Range<u8>| {
            let event = |session| ecs_event(SessionEvent::LocationChanged, session);
            sessions
                .filter(|session| filter.check(&event(*session), start) == Decision::Send)
                .count()
        };
        assert_eq!(sent(0..100), 30);
        clock.advance(Duration::from_secs(2));
        assert_eq!(sent(100..200), 1);
        clock.advance(Duration::from_secs(60));
        assert_eq!(sent(100..200), 30);
        let other = filter.check(&ecs_event(SessionEvent::Theft, 1), start);
        assert_eq!(other, Decision::Send, "another event has its own limit");
    }

    #[test]
    fn a_location_change_is_notified_only_if_it_interrupts_the_session() {
        let is_notified = |action, enforced| {
            let report = RiskReport { signals: Vec::new(), score: 0, action };
            let (location, other_location) = (GeoInfo::default(), GeoInfo::default());
            let risk = Some(RiskContext { report: &report, enforced, location, other_location });
            let context = EventContext { risk, ..EventContext::default() };
            kind(SessionEvent::LocationChanged, &context).is_some()
        };
        let all = RiskAction::ALL;
        assert_eq!(all.map(|action| is_notified(action, true)), [false, false, false, true, true]);
        assert_eq!(all.map(|action| is_notified(action, false)), [false; 5]);
    }

    #[test]
    fn unauthenticated_events_are_never_notified() {
        let unauthenticated = [
            SessionEvent::LoginFailed,
            SessionEvent::LoginThrottled,
            SessionEvent::TokenInvalid,
            SessionEvent::Refused("x"),
        ];
        for event in unauthenticated {
            assert!(event.is_unauthenticated());
            assert_eq!(kind(event, &EventContext::default()), None);
        }
    }

    #[test]
    fn the_configuration_has_the_event_names_of_the_log() {
        let events = [
            SessionEvent::Theft,
            SessionEvent::Undecryptable,
            SessionEvent::RolledBack,
            SessionEvent::GenerationAhead,
            SessionEvent::ActivityInFuture,
            SessionEvent::Ended(EndReason::Revoked),
            SessionEvent::LoginNewLocation,
            SessionEvent::Login,
            SessionEvent::SecondFactorChanged("reset"),
            SessionEvent::SecondFactorFailed,
        ];
        let mut known = NotifyEvent::ALL.to_vec();
        known.retain(|(event, _)| *event != NotifyEvent::LocationChanged);
        assert_eq!(known.len(), events.len());
        for event in events {
            let kind = kind(event, &EventContext::default()).expect("selectable");
            assert!(known.contains(&(kind, event.as_str())), "{event:?}");
        }
        assert!(
            NotifyEvent::ALL
                .contains(&(NotifyEvent::LocationChanged, SessionEvent::LocationChanged.as_str()))
        );
    }
}
