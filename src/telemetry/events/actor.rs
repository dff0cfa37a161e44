//! Who ended a session, and how long it lived.

use std::time::Duration;

use serde::Serialize;

use crate::clock::UnixMillis;
use crate::session::{ClientContext, SessionId};

/// Who caused the end of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    /// The user, from this client. `session` is the session of the request, which may be another one
    /// than the ended session.
    User { session: Option<SessionId>, client: ClientContext },
    /// An app, in its response to a request of this session.
    App { session: SessionId, client: ClientContext },
    /// An operator, through the admin socket. `uid` is the user ID of their process.
    Operator { uid: Option<u32> },
    /// An identity provider.
    Provider,
    /// A rule of the gateway: a timeout, a limit, or a changed account.
    Gateway,
}

impl Actor {
    /// Returns the name for logs.
    pub fn as_str(&self) -> &'static str {
        match self {
            Actor::User { .. } => "user",
            Actor::App { .. } => "app",
            Actor::Operator { .. } => "operator",
            Actor::Provider => "provider",
            Actor::Gateway => "gateway",
        }
    }

    /// Returns the client from which the actor ended the session.
    pub fn client(&self) -> Option<&ClientContext> {
        match self {
            Actor::User { client, .. } | Actor::App { client, .. } => Some(client),
            Actor::Operator { .. } | Actor::Provider | Actor::Gateway => None,
        }
    }

    fn session(&self) -> Option<SessionId> {
        match self {
            Actor::User { session, .. } => *session,
            Actor::App { session, .. } => Some(*session),
            Actor::Operator { .. } | Actor::Provider | Actor::Gateway => None,
        }
    }

    fn uid(&self) -> Option<u32> {
        match self {
            Actor::Operator { uid } => *uid,
            Actor::User { .. } | Actor::App { .. } | Actor::Provider | Actor::Gateway => None,
        }
    }
}

/// The times of an ended session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLifetime {
    pub created: UnixMillis,
    pub last_active: UnixMillis,
    /// Time of the end. An end without a request is reported later.
    pub ended: UnixMillis,
    /// The configuration key and the value of the timeout that ended the session.
    pub limit: Option<(&'static str, Duration)>,
}

/// The actor in JSON.
#[derive(Clone, Debug, Serialize)]
pub(super) struct ActorFields {
    #[serde(rename = "doorward.actor")]
    actor: &'static str,
    #[serde(rename = "doorward.actor_session", skip_serializing_if = "Option::is_none")]
    session: Option<String>,
    #[serde(rename = "doorward.actor_uid", skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
}

/// The lifetime in JSON.
#[derive(Clone, Debug, Serialize)]
pub(super) struct LifetimeFields {
    #[serde(rename = "doorward.created")]
    created: String,
    #[serde(rename = "doorward.last_active")]
    last_active: String,
    #[serde(rename = "doorward.ended")]
    ended: String,
    #[serde(rename = "doorward.limit", skip_serializing_if = "Option::is_none")]
    limit: Option<&'static str>,
    #[serde(rename = "doorward.limit_seconds", skip_serializing_if = "Option::is_none")]
    limit_seconds: Option<u64>,
}

impl From<&Actor> for ActorFields {
    fn from(actor: &Actor) -> ActorFields {
        let session = actor.session().map(|id| id.handle());
        ActorFields { actor: actor.as_str(), session, uid: actor.uid() }
    }
}

impl LifetimeFields {
    pub(super) fn new(
        lifetime: &SessionLifetime,
        format: impl Fn(UnixMillis) -> String,
    ) -> LifetimeFields {
        LifetimeFields {
            created: format(lifetime.created),
            last_active: format(lifetime.last_active),
            ended: format(lifetime.ended),
            limit: lifetime.limit.map(|(key, _)| key),
            limit_seconds: lifetime.limit.map(|(_, value)| value.as_secs()),
        }
    }
}
