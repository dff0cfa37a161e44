//! The categories of events in the Elastic Common Schema (8.11).

use super::SessionEvent;

/// `event.category` and `event.type`, by which SIEM rules find logins and denials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EcsClass {
    pub(super) category: &'static [&'static str],
    pub(super) types: &'static [&'static str],
}

const LOGIN: EcsClass = kind(&["authentication", "session"], &["start"]);
/// ECS classifies a failed login as `start` with the outcome `failure`.
const FAILED_LOGIN: EcsClass = kind(&["authentication"], &["start"]);
const END: EcsClass = kind(&["session"], &["end"]);
const USE: EcsClass = kind(&["session"], &["info"]);
const ATTACK: EcsClass = kind(&["intrusion_detection", "session"], &["denied"]);
/// A record that an attacker may have written.
const STORE: EcsClass = kind(&["database", "intrusion_detection"], &["info"]);
const USER: EcsClass = kind(&["iam"], &["user", "change"]);
pub(super) const PROCESS_START: EcsClass = kind(&["process"], &["start"]);
pub(super) const PROCESS_INFO: EcsClass = kind(&["process"], &["info"]);

const fn kind(category: &'static [&'static str], types: &'static [&'static str]) -> EcsClass {
    EcsClass { category, types }
}

impl EcsClass {
    pub(super) fn from_event(event: SessionEvent) -> EcsClass {
        match event {
            SessionEvent::Login | SessionEvent::LoginNewLocation => LOGIN,
            SessionEvent::LoginFailed
            | SessionEvent::SecondFactorFailed
            | SessionEvent::LoginThrottled => FAILED_LOGIN,
            SessionEvent::Ended(_) => END,
            SessionEvent::TokenRotated
            | SessionEvent::LocationChanged
            | SessionEvent::AccessTokenRefused(_)
            | SessionEvent::Refused(_) => USE,
            SessionEvent::Theft | SessionEvent::TokenInvalid => ATTACK,
            SessionEvent::Undecryptable
            | SessionEvent::GenerationAhead
            | SessionEvent::RolledBack
            | SessionEvent::ActivityInFuture => STORE,
            SessionEvent::UserRevoked(_)
            | SessionEvent::AccountChanged(_)
            | SessionEvent::AccessTokenCreated
            | SessionEvent::AccessTokenDeleted
            | SessionEvent::SecondFactorChanged(_)
            | SessionEvent::HistoryDeleted => USER,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::EndReason;

    /// The types that the schema permits for each category.
    const EXPECTED: [(&str, &[&str]); 6] = [
        ("authentication", &["start", "end", "info"]),
        ("session", &["start", "end", "info"]),
        ("intrusion_detection", &["allowed", "denied", "info"]),
        ("database", &["access", "change", "info", "error"]),
        ("iam", &["admin", "change", "creation", "deletion", "group", "info", "user"]),
        ("process", &["access", "change", "end", "info", "start"]),
    ];

    #[test]
    fn every_type_is_permitted_for_its_category() {
        let events = [
            SessionEvent::Login,
            SessionEvent::LoginFailed,
            SessionEvent::TokenRotated,
            SessionEvent::Ended(EndReason::Logout),
            SessionEvent::Theft,
            SessionEvent::Undecryptable,
            SessionEvent::HistoryDeleted,
        ];
        let own = [PROCESS_START, PROCESS_INFO];
        for EcsClass { category, types } in events.map(EcsClass::from_event).into_iter().chain(own)
        {
            let expected = |name: &&str| EXPECTED.iter().find(|(known, _)| known == name);
            let expected: Vec<&str> = category
                .iter()
                .flat_map(|name| expected(name).expect("a category of the schema").1)
                .copied()
                .collect();
            assert!(types.iter().all(|kind| expected.contains(kind)), "{category:?} {types:?}");
        }
    }

    #[test]
    fn logins_are_authentication_and_thefts_are_denials() {
        for event in [SessionEvent::Login, SessionEvent::LoginFailed, SessionEvent::LoginThrottled]
        {
            let EcsClass { category, types } = EcsClass::from_event(event);
            assert!(category.contains(&"authentication") && types == ["start"], "{event:?}");
        }
        assert_eq!(EcsClass::from_event(SessionEvent::Ended(EndReason::Idle)).types, ["end"]);
        assert_eq!(EcsClass::from_event(SessionEvent::Theft).types, ["denied"]);
    }
}
