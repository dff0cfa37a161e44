//! Session events and the context that they are logged with.

mod actor;
mod ecs_class;
mod ecs_event;
mod risk_fields;

use std::net::IpAddr;

use tracing::{error, info, warn};

use crate::risk::{GeoInfo, RiskReport};
use crate::session::{ClientContext, EndReason, SessionId, TlsFingerprint};

pub use actor::{Actor, SessionLifetime};
pub use ecs_event::EcsEvent;

/// A session event. Each is one log entry with the target `session`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionEvent {
    Login,
    /// A login from a location that is new for the user.
    LoginNewLocation,
    LoginFailed,
    LoginThrottled,
    TokenRotated,
    /// A request from a new location with a risk score that is worth an entry.
    LocationChanged,
    Ended(EndReason),
    Theft,
    /// A session cookie whose MAC is wrong: forged or damaged.
    TokenInvalid,
    Refused(&'static str),
    /// A session record that cannot be decrypted.
    Undecryptable,
    /// A token with a newer generation than its session record: the store lost writes.
    GenerationAhead,
    /// The store returned an older record than this gateway has read before.
    RolledBack,
    /// The last activity of a session is in the future.
    ActivityInFuture,
    /// An operator deleted the history of a user.
    HistoryDeleted,
    /// All sessions of a user were revoked, or of all users (`*`). Each session has its own end.
    UserRevoked(EndReason),
    /// An account changed in the users file, in this way.
    AccountChanged(&'static str),
    /// A personal access token was created. The field of the session has the handle of the token.
    AccessTokenCreated,
    AccessTokenDeleted,
    /// A request presented a personal access token that is not valid for it.
    AccessTokenRefused(&'static str),
    /// A login had the right password and a wrong code.
    SecondFactorFailed,
    /// The second factors of an account changed in this way, or a recovery code was used.
    SecondFactorChanged(&'static str),
}

/// The user, session and client of an event. Empty if unknown.
#[derive(Clone, Copy, Debug, Default)]
pub struct EventContext<'a> {
    pub user: &'a str,
    pub session: Option<SessionId>,
    pub client: Option<IpAddr>,
    /// The User-Agent as in a session record: truncated and printable.
    pub agent: &'a str,
    /// The first language in Accept-Language.
    pub language: &'a str,
    pub fingerprint: Option<TlsFingerprint>,
    /// The client that the event compares with. In a theft, the client that used the current token.
    pub other_client: Option<&'a ClientContext>,
    /// The risk assessment of a new location.
    pub risk: Option<RiskContext<'a>>,
    /// Who ended a session.
    pub actor: Option<&'a Actor>,
    /// The times of an ended session.
    pub lifetime: Option<SessionLifetime>,
    /// Number of sessions that the event concerns.
    pub count: Option<u64>,
}

/// A risk assessment, and whether its action was taken.
#[derive(Clone, Copy, Debug)]
pub struct RiskContext<'a> {
    pub report: &'a RiskReport,
    pub enforced: bool,
    pub location: GeoInfo,
    /// The location of [`EventContext::other_client`].
    pub other_location: GeoInfo,
}

impl SessionEvent {
    /// Returns the value of the `event` field.
    pub fn as_str(self) -> &'static str {
        match self {
            SessionEvent::Login => "session.login",
            SessionEvent::LoginNewLocation => "session.login-new-location",
            SessionEvent::LoginFailed => "session.login-failed",
            SessionEvent::LoginThrottled => "session.login-throttled",
            SessionEvent::TokenRotated => "session.token-rotated",
            SessionEvent::LocationChanged => "session.location-changed",
            SessionEvent::Ended(_) => "session.ended",
            SessionEvent::Theft => "session.theft",
            SessionEvent::TokenInvalid => "session.token-invalid",
            SessionEvent::Refused(_) => "session.refused",
            SessionEvent::Undecryptable => "session.undecryptable",
            SessionEvent::GenerationAhead => "session.generation-ahead",
            SessionEvent::RolledBack => "session.rolled-back",
            SessionEvent::ActivityInFuture => "session.activity-in-future",
            SessionEvent::HistoryDeleted => "user.history-deleted",
            SessionEvent::UserRevoked(_) => "user.sessions-revoked",
            SessionEvent::AccountChanged(_) => "account.changed",
            SessionEvent::AccessTokenCreated => "access-token.created",
            SessionEvent::AccessTokenDeleted => "access-token.deleted",
            SessionEvent::AccessTokenRefused(_) => "access-token.refused",
            SessionEvent::SecondFactorFailed => "second-factor.failed",
            SessionEvent::SecondFactorChanged(_) => "second-factor.changed",
        }
    }

    /// Reports whether the audit log contains the event. Rotations are routine and would fill it.
    pub fn is_audited(self) -> bool {
        self != SessionEvent::TokenRotated
    }

    /// Reports whether a client without a session can cause the event at any rate.
    pub fn is_unauthenticated(self) -> bool {
        match self {
            SessionEvent::LoginFailed
            | SessionEvent::LoginThrottled
            | SessionEvent::TokenInvalid
            | SessionEvent::AccessTokenRefused(_)
            | SessionEvent::Refused(_) => true,
            SessionEvent::Login
            | SessionEvent::LoginNewLocation
            | SessionEvent::AccessTokenCreated
            | SessionEvent::AccessTokenDeleted
            | SessionEvent::TokenRotated
            | SessionEvent::LocationChanged
            | SessionEvent::Ended(_)
            | SessionEvent::Theft
            | SessionEvent::Undecryptable
            | SessionEvent::GenerationAhead
            | SessionEvent::RolledBack
            | SessionEvent::ActivityInFuture
            | SessionEvent::HistoryDeleted
            | SessionEvent::UserRevoked(_)
            | SessionEvent::SecondFactorFailed
            | SessionEvent::SecondFactorChanged(_)
            | SessionEvent::AccountChanged(_) => false,
        }
    }

    /// Reports whether one token can cause the event with every request.
    pub fn is_repeatable(self) -> bool {
        match self {
            SessionEvent::LocationChanged
            | SessionEvent::Theft
            | SessionEvent::Undecryptable
            | SessionEvent::GenerationAhead
            | SessionEvent::RolledBack
            | SessionEvent::ActivityInFuture
            | SessionEvent::TokenInvalid
            | SessionEvent::AccessTokenRefused(_)
            | SessionEvent::Refused(_) => true,
            SessionEvent::Login
            | SessionEvent::AccessTokenCreated
            | SessionEvent::AccessTokenDeleted
            | SessionEvent::LoginNewLocation
            | SessionEvent::LoginFailed
            | SessionEvent::LoginThrottled
            | SessionEvent::TokenRotated
            | SessionEvent::Ended(_)
            | SessionEvent::HistoryDeleted
            | SessionEvent::UserRevoked(_)
            | SessionEvent::SecondFactorFailed
            | SessionEvent::SecondFactorChanged(_)
            | SessionEvent::AccountChanged(_) => false,
        }
    }

    /// Returns the `event.outcome` of the audit log: true is `success`.
    fn is_success(self) -> bool {
        match self {
            SessionEvent::Login
            | SessionEvent::AccessTokenCreated
            | SessionEvent::AccessTokenDeleted
            | SessionEvent::LoginNewLocation
            | SessionEvent::TokenRotated
            | SessionEvent::LocationChanged
            | SessionEvent::HistoryDeleted
            | SessionEvent::UserRevoked(_)
            | SessionEvent::AccountChanged(_)
            | SessionEvent::SecondFactorChanged(_)
            | SessionEvent::Ended(_) => true,
            SessionEvent::LoginFailed
            | SessionEvent::SecondFactorFailed
            | SessionEvent::LoginThrottled
            | SessionEvent::TokenInvalid
            | SessionEvent::AccessTokenRefused(_)
            | SessionEvent::Refused(_)
            | SessionEvent::Theft
            | SessionEvent::Undecryptable
            | SessionEvent::GenerationAhead
            | SessionEvent::RolledBack
            | SessionEvent::ActivityInFuture => false,
        }
    }

    fn reason(self) -> Option<&'static str> {
        match self {
            SessionEvent::Ended(reason) | SessionEvent::UserRevoked(reason) => {
                Some(reason.as_str())
            }
            SessionEvent::Refused(reason)
            | SessionEvent::AccessTokenRefused(reason)
            | SessionEvent::SecondFactorChanged(reason)
            | SessionEvent::AccountChanged(reason) => Some(reason),
            SessionEvent::Login
            | SessionEvent::AccessTokenCreated
            | SessionEvent::AccessTokenDeleted
            | SessionEvent::LoginNewLocation
            | SessionEvent::LoginFailed
            | SessionEvent::SecondFactorFailed
            | SessionEvent::LoginThrottled
            | SessionEvent::TokenRotated
            | SessionEvent::LocationChanged
            | SessionEvent::Theft
            | SessionEvent::TokenInvalid
            | SessionEvent::Undecryptable
            | SessionEvent::GenerationAhead
            | SessionEvent::RolledBack
            | SessionEvent::ActivityInFuture
            | SessionEvent::HistoryDeleted => None,
        }
    }

    /// Logs the event.
    pub fn log(self, context: EventContext<'_>) {
        let session = context.session.map(|id| id.handle());
        let client = context.client.map(|address| address.to_string());
        let (event, reason) = (self.as_str(), self.reason());
        let user = (!context.user.is_empty()).then_some(context.user);
        match self {
            SessionEvent::Theft => {
                warn!(target: "session", event, user, session, client, "a superseded token was replayed: two clients had this session. Inform the user, and search the logs for this address");
            }
            SessionEvent::Undecryptable => {
                error!(target: "session", event, user, session, client, "a session record cannot be decrypted: the store was modified, or the keys file belongs to another installation");
            }
            SessionEvent::GenerationAhead => {
                error!(target: "session", event, user, session, client, "a token is newer than its session record: the store lost writes (failover, restored backup). The user must log in again");
            }
            SessionEvent::RolledBack => {
                error!(target: "session", event, user, session, client, "the store returned an older record than before: it lost writes, or the record was overwritten. The newer record is used");
            }
            SessionEvent::ActivityInFuture => {
                warn!(target: "session", event, user, session, client, "the last activity of a session is in the future and is treated as now: the clock of a gateway is ahead, or the store was modified");
            }
            SessionEvent::Ended(_) | SessionEvent::UserRevoked(_) => {
                let (actor, count) = (context.actor.map(Actor::as_str), context.count);
                info!(target: "session", event, reason, user, session, client, actor, count);
            }
            SessionEvent::LocationChanged | SessionEvent::LoginNewLocation => {
                let risk = context.risk;
                let signals = risk.map(|risk| risk.report.to_string());
                let score = risk.map(|risk| risk.report.score);
                let action = risk.map(|risk| risk.report.action.as_str());
                let enforced = risk.map(|risk| risk.enforced);
                let fingerprint = context.fingerprint.map(|fingerprint| fingerprint.to_string());
                info!(target: "session", event, user, session, client, fingerprint, score, signals, action, enforced);
            }
            SessionEvent::Login
            | SessionEvent::LoginFailed
            | SessionEvent::SecondFactorFailed
            | SessionEvent::SecondFactorChanged(_)
            | SessionEvent::LoginThrottled
            | SessionEvent::TokenRotated
            | SessionEvent::TokenInvalid
            | SessionEvent::HistoryDeleted
            | SessionEvent::AccountChanged(_)
            | SessionEvent::AccessTokenCreated
            | SessionEvent::AccessTokenDeleted
            | SessionEvent::AccessTokenRefused(_)
            | SessionEvent::Refused(_) => {
                info!(target: "session", event, reason, user, session, client);
            }
        }
    }
}
