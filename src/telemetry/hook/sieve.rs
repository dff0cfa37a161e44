//! Which events are told: what matters, not twice, and not more than somebody can read.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::config::NotifyEvent;
use crate::risk::Answer;
use crate::session::EndReason;
use crate::telemetry::audit::line::Entry;
use crate::telemetry::events::{About, SessionEvent};
use crate::telemetry::window::Window;

/// The same event of one session is told once in this time.
const REPEATS: Duration = Duration::from_secs(5 * 60);

/// Of one kind within a minute. Whoever has a session can cause some of them; others come by the
/// thousand when a store goes backwards.
const MOST: u32 = 30;
const MINUTE: Duration = Duration::from_secs(60);

/// What kind of event this is to whoever is told; none where it is not worth it.
pub(super) fn kind(event: SessionEvent, about: &About<'_>) -> Option<NotifyEvent> {
    match event {
        SessionEvent::Theft => Some(NotifyEvent::Theft),
        SessionEvent::Moved => is_stopped(about).then_some(NotifyEvent::Moved),
        SessionEvent::Poisoned => Some(NotifyEvent::Poisoned),
        SessionEvent::RolledBack => Some(NotifyEvent::RolledBack),
        SessionEvent::StoreWentBack => Some(NotifyEvent::StoreWentBack),
        SessionEvent::TouchedAhead => Some(NotifyEvent::TouchedAhead),
        SessionEvent::Ended(reason) => (!is_ordinary(reason)).then_some(NotifyEvent::Ended),
        SessionEvent::LoginNewPlace => Some(NotifyEvent::LoginNewPlace),
        SessionEvent::Login => Some(NotifyEvent::Login),
        SessionEvent::LoginRefused
        | SessionEvent::LoginThrottled
        | SessionEvent::Renewed
        | SessionEvent::Forged
        | SessionEvent::Forgotten
        | SessionEvent::Refused(_) => None,
    }
}

/// Whether its signals cost the session something.
fn is_stopped(about: &About<'_>) -> bool {
    about.moved.is_some_and(|moved| {
        moved.enforced
            && match moved.report.answer {
                Answer::Nothing | Answer::Log | Answer::Renew => false,
                Answer::Login | Answer::End => true,
            }
    })
}

/// Whether sessions end so every day.
fn is_ordinary(reason: EndReason) -> bool {
    match reason {
        EndReason::Logout | EndReason::Replaced | EndReason::Idle | EndReason::Absolute => true,
        EndReason::Revoked
        | EndReason::Theft
        | EndReason::NotRenewing
        | EndReason::AccountGone
        | EndReason::CredentialChanged
        | EndReason::TheftElsewhere => false,
    }
}

/// What becomes of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Told,
    /// It was told a short while ago.
    Repeated,
    TooMany,
}

/// What was told lately.
#[derive(Default)]
pub(super) struct Sieve {
    /// Bounded by the rate, and emptied of what is old each second.
    told: BTreeMap<(&'static str, String), Instant>,
    /// Of this minute, by action.
    minute: BTreeMap<&'static str, Window>,
}

impl Sieve {
    pub(super) fn fate(&mut self, entry: &Entry, now: Instant) -> Fate {
        let key = (entry.action, entry.whose());
        if self.told.get(&key).is_some_and(|told| is_recent(*told, now)) {
            return Fate::Repeated;
        }
        let minute = self.minute.entry(entry.action).or_insert_with(|| Window::at(now));
        if !minute.takes(MOST, MINUTE, now) {
            return Fate::TooMany;
        }
        self.told.insert(key, now);
        Fate::Told
    }

    pub(super) fn forget(&mut self, now: Instant) {
        self.told.retain(|_, told| is_recent(*told, now));
    }
}

fn is_recent(told: Instant, now: Instant) -> bool {
    now.duration_since(told) < REPEATS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UnixMillis;
    use crate::risk::{Locality, Report};
    use crate::session::SessionId;
    use crate::telemetry::events::Moved;

    fn of(event: SessionEvent, session: u8) -> Entry {
        let session = Some(SessionId([session; 16]));
        Entry::new(event, &About { user: "alice", session, ..About::default() }, UnixMillis(0))
    }

    #[test]
    fn the_same_event_of_one_session_is_told_once_in_five_minutes() {
        let (mut sieve, start) = (Sieve::default(), Instant::now());
        let mut fate = |event, session, seconds| {
            sieve.fate(&of(event, session), start + Duration::from_secs(seconds))
        };
        assert_eq!(fate(SessionEvent::Theft, 1, 0), Fate::Told);
        assert_eq!(fate(SessionEvent::Theft, 1, 299), Fate::Repeated);
        assert_eq!(fate(SessionEvent::Theft, 2, 299), Fate::Told, "another session");
        assert_eq!(fate(SessionEvent::Poisoned, 1, 299), Fate::Told, "another event");
        assert_eq!(fate(SessionEvent::Theft, 1, 300), Fate::Told);
        sieve.forget(start + Duration::from_secs(599));
        assert_eq!(sieve.told.len(), 1, "the last of the first session");
        sieve.forget(start + Duration::from_secs(600));
        assert!(sieve.told.is_empty());
    }

    #[test]
    fn thirty_of_a_kind_a_minute_and_no_kind_silences_another() {
        let (mut sieve, start) = (Sieve::default(), Instant::now());
        let told = |sieve: &mut Sieve, from: u8, at| {
            (from..from + 100)
                .filter(|session| sieve.fate(&of(SessionEvent::Moved, *session), at) == Fate::Told)
                .count()
        };
        assert_eq!(told(&mut sieve, 0, start), 30);
        assert_eq!(sieve.fate(&of(SessionEvent::Theft, 1), start), Fate::Told);
        assert_eq!(told(&mut sieve, 100, start + Duration::from_secs(59)), 0);
        assert_eq!(told(&mut sieve, 100, start + Duration::from_secs(60)), 30);
    }

    #[test]
    fn a_move_is_told_only_where_it_cost_the_session_something() {
        let told = |answer, enforced| {
            let report = Report { signals: Vec::new(), score: 0, answer };
            let moved = Some(Moved {
                report: &report,
                enforced,
                here: Locality::default(),
                other: Locality::default(),
            });
            kind(SessionEvent::Moved, &About { moved, ..About::default() }).is_some()
        };
        let all = [Answer::Nothing, Answer::Log, Answer::Renew, Answer::Login, Answer::End];
        assert_eq!(all.map(|answer| told(answer, true)), [false, false, false, true, true]);
        assert_eq!(all.map(|answer| told(answer, false)), [false; 5]);
    }

    #[test]
    fn nothing_that_a_stranger_can_cause_is_told_whatever_is_configured() {
        let strangers = [
            SessionEvent::LoginRefused,
            SessionEvent::LoginThrottled,
            SessionEvent::Forged,
            SessionEvent::Refused("x"),
        ];
        for event in strangers {
            assert!(event.is_by_strangers());
            assert_eq!(kind(event, &About::default()), None);
        }
    }

    #[test]
    fn the_words_of_the_configuration_are_those_of_the_log() {
        let events = [
            SessionEvent::Theft,
            SessionEvent::Poisoned,
            SessionEvent::RolledBack,
            SessionEvent::StoreWentBack,
            SessionEvent::TouchedAhead,
            SessionEvent::Ended(EndReason::Revoked),
            SessionEvent::LoginNewPlace,
            SessionEvent::Login,
        ];
        let mut known = NotifyEvent::ALL.to_vec();
        known.retain(|(event, _)| *event != NotifyEvent::Moved);
        assert_eq!(known.len(), events.len());
        for event in events {
            let kind = kind(event, &About::default()).expect("told");
            assert!(known.contains(&(kind, event.word())), "{event:?}");
        }
        assert!(NotifyEvent::ALL.contains(&(NotifyEvent::Moved, SessionEvent::Moved.word())));
    }
}
