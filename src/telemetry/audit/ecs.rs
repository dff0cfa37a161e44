//! Where an event stands in the categories of the Elastic Common Schema (8.11).

use super::line::BEGUN;
use crate::telemetry::events::SessionEvent;

/// `event.category` and `event.type`: the rules of a SIEM look for logins and denials by these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) category: &'static [&'static str],
    pub(super) types: &'static [&'static str],
}

const LOGIN: Kind = kind(&["authentication", "session"], &["start"]);
/// A login that failed has begun too, and its outcome is a failure.
const FAILED_LOGIN: Kind = kind(&["authentication"], &["start"]);
const END: Kind = kind(&["session"], &["end"]);
const USE: Kind = kind(&["session"], &["info"]);
const ATTACK: Kind = kind(&["intrusion_detection", "session"], &["denied"]);
/// Of a record that somebody may have written.
const STORE: Kind = kind(&["database", "intrusion_detection"], &["info"]);
const USER: Kind = kind(&["iam"], &["user", "change"]);

const fn kind(category: &'static [&'static str], types: &'static [&'static str]) -> Kind {
    Kind { category, types }
}

impl Kind {
    pub(super) fn of(event: SessionEvent) -> Kind {
        match event {
            SessionEvent::Login | SessionEvent::LoginNewPlace => LOGIN,
            SessionEvent::LoginRefused | SessionEvent::LoginThrottled => FAILED_LOGIN,
            SessionEvent::Ended(_) => END,
            SessionEvent::Renewed | SessionEvent::Moved | SessionEvent::Refused(_) => USE,
            SessionEvent::Theft | SessionEvent::Forged => ATTACK,
            SessionEvent::Poisoned
            | SessionEvent::StoreWentBack
            | SessionEvent::RolledBack
            | SessionEvent::TouchedAhead => STORE,
            SessionEvent::Forgotten => USER,
        }
    }

    /// Of a line of the log about itself.
    pub(super) fn own(action: &str) -> Kind {
        let types: &[&str] = if action == BEGUN { &["start"] } else { &["info"] };
        kind(&["process"], types)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::EndReason;

    /// What the schema expects beside each category.
    const EXPECTED: [(&str, &[&str]); 6] = [
        ("authentication", &["start", "end", "info"]),
        ("session", &["start", "end", "info"]),
        ("intrusion_detection", &["allowed", "denied", "info"]),
        ("database", &["access", "change", "info", "error"]),
        ("iam", &["admin", "change", "creation", "deletion", "group", "info", "user"]),
        ("process", &["access", "change", "end", "info", "start"]),
    ];

    #[test]
    fn every_type_is_one_that_the_schema_expects_of_a_category_beside_it() {
        let events = [
            SessionEvent::Login,
            SessionEvent::LoginRefused,
            SessionEvent::Renewed,
            SessionEvent::Ended(EndReason::Logout),
            SessionEvent::Theft,
            SessionEvent::Poisoned,
            SessionEvent::Forgotten,
        ];
        let own = ["audit.begun", "audit.lost"].map(Kind::own);
        for Kind { category, types } in events.map(Kind::of).into_iter().chain(own) {
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
    fn logins_are_authentication_and_thefts_are_denied() {
        for event in [SessionEvent::Login, SessionEvent::LoginRefused, SessionEvent::LoginThrottled]
        {
            let Kind { category, types } = Kind::of(event);
            assert!(category.contains(&"authentication") && types == ["start"], "{event:?}");
        }
        assert_eq!(Kind::of(SessionEvent::Ended(EndReason::Idle)).types, ["end"]);
        assert_eq!(Kind::of(SessionEvent::Theft).types, ["denied"]);
    }
}
