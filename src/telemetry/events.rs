//! Session events: what happened, to whom, from where, and what to do.

use std::net::IpAddr;

use tracing::{error, info, warn};

use crate::risk::{Locality, Report};
use crate::session::{ClientContext, EndReason, Fingerprint, SessionId};

/// Something that happened to a session. Each makes one line with the target `session`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionEvent {
    Login,
    /// A login from where its user was not seen before.
    LoginNewPlace,
    LoginRefused,
    LoginThrottled,
    Renewed,
    /// Used from a new place that speaks against it.
    Moved,
    Ended(EndReason),
    Theft,
    /// A cookie that we did not make, or that was damaged.
    Forged,
    Refused(&'static str),
    /// A record that does not open: somebody wrote to the store.
    Poisoned,
    /// The store knows less than a client: it lost writes.
    StoreWentBack,
    /// The store has an older copy of something than this gateway has seen.
    RolledBack,
    /// Activity that lies in the future.
    TouchedAhead,
    /// An operator had forgotten what was remembered of a user.
    Forgotten,
}

/// Who an event is about. Empty where unknown.
#[derive(Clone, Copy, Debug, Default)]
pub struct About<'a> {
    pub user: &'a str,
    pub session: Option<SessionId>,
    pub client: Option<IpAddr>,
    /// The User-Agent as a session keeps it: short and printable.
    pub agent: &'a str,
    /// The language that the client asks for first.
    pub language: &'a str,
    /// Of the client's TLS handshake.
    pub fingerprint: Option<Fingerprint>,
    /// The other party, where there are two: in a theft, who showed the token that was current.
    pub other: Option<&'a ClientContext>,
    /// What speaks against the new place of a session.
    pub moved: Option<Moved<'a>>,
}

/// Signals, and whether their answer was given or would have been.
#[derive(Clone, Copy, Debug)]
pub struct Moved<'a> {
    pub report: &'a Report,
    pub enforced: bool,
    /// What is known of the client's address, and of the other party's.
    pub here: Locality,
    pub other: Locality,
}

impl SessionEvent {
    /// The word in the `event` field.
    pub fn word(self) -> &'static str {
        match self {
            SessionEvent::Login => "session.login",
            SessionEvent::LoginNewPlace => "session.login-new-place",
            SessionEvent::LoginRefused => "session.login-refused",
            SessionEvent::LoginThrottled => "session.login-throttled",
            SessionEvent::Renewed => "session.renewed",
            SessionEvent::Moved => "session.moved",
            SessionEvent::Ended(_) => "session.ended",
            SessionEvent::Theft => "session.theft",
            SessionEvent::Forged => "session.forged",
            SessionEvent::Refused(_) => "session.refused",
            SessionEvent::Poisoned => "session.poisoned",
            SessionEvent::StoreWentBack => "session.store-went-back",
            SessionEvent::RolledBack => "session.rolled-back",
            SessionEvent::TouchedAhead => "session.touched-ahead",
            SessionEvent::Forgotten => "user.forgotten",
        }
    }

    /// Whether it stands in the audit log too: renewals are the ordinary course and would fill it.
    pub fn is_audited(self) -> bool {
        self != SessionEvent::Renewed
    }

    /// Whether somebody without a session can make it happen as often as he likes.
    pub(super) fn is_by_strangers(self) -> bool {
        match self {
            SessionEvent::LoginRefused
            | SessionEvent::LoginThrottled
            | SessionEvent::Forged
            | SessionEvent::Refused(_) => true,
            SessionEvent::Login
            | SessionEvent::LoginNewPlace
            | SessionEvent::Renewed
            | SessionEvent::Moved
            | SessionEvent::Ended(_)
            | SessionEvent::Theft
            | SessionEvent::Poisoned
            | SessionEvent::StoreWentBack
            | SessionEvent::RolledBack
            | SessionEvent::TouchedAhead
            | SessionEvent::Forgotten => false,
        }
    }

    /// Whether who holds one token can make it happen with every request.
    pub(super) fn is_repeatable(self) -> bool {
        match self {
            SessionEvent::Moved
            | SessionEvent::Theft
            | SessionEvent::Poisoned
            | SessionEvent::StoreWentBack
            | SessionEvent::RolledBack
            | SessionEvent::TouchedAhead
            | SessionEvent::Forged
            | SessionEvent::Refused(_) => true,
            SessionEvent::Login
            | SessionEvent::LoginNewPlace
            | SessionEvent::LoginRefused
            | SessionEvent::LoginThrottled
            | SessionEvent::Renewed
            | SessionEvent::Ended(_)
            | SessionEvent::Forgotten => false,
        }
    }

    /// Whether what somebody wanted happened.
    pub(super) fn is_success(self) -> bool {
        match self {
            SessionEvent::Login
            | SessionEvent::LoginNewPlace
            | SessionEvent::Renewed
            | SessionEvent::Moved
            | SessionEvent::Forgotten
            | SessionEvent::Ended(_) => true,
            SessionEvent::LoginRefused
            | SessionEvent::LoginThrottled
            | SessionEvent::Forged
            | SessionEvent::Refused(_)
            | SessionEvent::Theft
            | SessionEvent::Poisoned
            | SessionEvent::StoreWentBack
            | SessionEvent::RolledBack
            | SessionEvent::TouchedAhead => false,
        }
    }

    pub(super) fn reason(self) -> Option<&'static str> {
        match self {
            SessionEvent::Ended(reason) => Some(reason.word()),
            SessionEvent::Refused(reason) => Some(reason),
            SessionEvent::Login
            | SessionEvent::LoginNewPlace
            | SessionEvent::LoginRefused
            | SessionEvent::LoginThrottled
            | SessionEvent::Renewed
            | SessionEvent::Moved
            | SessionEvent::Theft
            | SessionEvent::Forged
            | SessionEvent::Poisoned
            | SessionEvent::StoreWentBack
            | SessionEvent::RolledBack
            | SessionEvent::TouchedAhead
            | SessionEvent::Forgotten => None,
        }
    }

    /// Writes the line.
    pub fn log(self, about: About<'_>) {
        let session = about.session.map(|id| id.handle());
        let client = about.client.map(|address| address.to_string());
        let (event, reason) = (self.word(), self.reason());
        let user = (!about.user.is_empty()).then_some(about.user);
        match self {
            SessionEvent::Theft => {
                warn!(target: "session", event, user, session, client, "an old token was replayed: two parties held this session; tell the user, and look where this address has been");
            }
            SessionEvent::Poisoned => {
                error!(target: "session", event, user, session, client, "a session record does not open: somebody wrote to the store, or the keys file is another installation's");
            }
            SessionEvent::StoreWentBack => {
                error!(target: "session", event, user, session, client, "a token is newer than its record: the store lost writes (failover, restored backup); its owner has to log in again");
            }
            SessionEvent::RolledBack => {
                error!(target: "session", event, user, session, client, "the store has an older copy than was seen here: it lost writes, or somebody put an old one back; the newer one stays in force");
            }
            SessionEvent::TouchedAhead => {
                warn!(target: "session", event, user, session, client, "the last activity lies in the future and counts as now: a gateway's clock is ahead, or somebody wrote to the store");
            }
            SessionEvent::Moved | SessionEvent::LoginNewPlace => {
                let moved = about.moved;
                let signals = moved.map(|moved| moved.report.to_string());
                let score = moved.map(|moved| moved.report.score);
                let answer = moved.map(|moved| moved.report.answer.word());
                let enforced = moved.map(|moved| moved.enforced);
                let fingerprint = about.fingerprint.map(|fingerprint| fingerprint.to_string());
                info!(target: "session", event, user, session, client, fingerprint, score, signals, answer, enforced);
            }
            SessionEvent::Login
            | SessionEvent::LoginRefused
            | SessionEvent::LoginThrottled
            | SessionEvent::Renewed
            | SessionEvent::Ended(_)
            | SessionEvent::Forged
            | SessionEvent::Forgotten
            | SessionEvent::Refused(_) => {
                info!(target: "session", event, reason, user, session, client);
            }
        }
    }
}
