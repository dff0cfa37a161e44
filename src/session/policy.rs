//! How long a session lives and how its token is renewed.

use std::time::Duration;

/// The session-wide policy: one for all routes. Only what can work together is built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionPolicy {
    idle: Duration,
    absolute: Duration,
    rotate_after: Duration,
    grace: Duration,
    on_reuse: OnReuse,
}

/// What a replayed old token does to the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OnReuse {
    /// Ends the session for both parties.
    #[default]
    Revoke,
    /// Ends all sessions of the user.
    RevokeAll,
    /// Keeps the session but asks for a fresh login.
    Reauthenticate,
    /// Refuses the replayed token and only writes it down.
    Log,
}

/// Durations that contradict each other. Names the two settings and what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    #[error("idle_timeout must be at least 1 s")]
    IdleTooShort,
    #[error("absolute_timeout is shorter than idle_timeout; make it at least as long")]
    AbsoluteBelowIdle,
    #[error("rotation_grace must be at least 1 s, or parallel requests would be taken for theft")]
    GraceTooShort,
    #[error(
        "rotate_after is shorter than twice rotation_grace; a token must outlive the grace of the one before it"
    )]
    RotateBelowGrace,
}

impl SessionPolicy {
    /// Checks the durations against each other.
    pub fn new(
        idle: Duration,
        absolute: Duration,
        rotate_after: Duration,
        grace: Duration,
        on_reuse: OnReuse,
    ) -> Result<SessionPolicy, PolicyError> {
        if idle < Duration::from_secs(1) {
            return Err(PolicyError::IdleTooShort);
        }
        if absolute < idle {
            return Err(PolicyError::AbsoluteBelowIdle);
        }
        if grace < Duration::from_secs(1) {
            return Err(PolicyError::GraceTooShort);
        }
        if rotate_after < grace.saturating_mul(2) {
            return Err(PolicyError::RotateBelowGrace);
        }
        Ok(SessionPolicy { idle, absolute, rotate_after, grace, on_reuse })
    }

    /// Longest time without activity.
    pub fn idle(&self) -> Duration {
        self.idle
    }

    /// Longest life of a session; nothing extends it.
    pub fn absolute(&self) -> Duration {
        self.absolute
    }

    /// Age at which a token is renewed.
    pub fn rotate_after(&self) -> Duration {
        self.rotate_after
    }

    /// How long a superseded token is still answered.
    pub fn grace(&self) -> Duration {
        self.grace
    }

    /// What a replayed old token does.
    pub fn on_reuse(&self) -> OnReuse {
        self.on_reuse
    }

    /// How exact the idle clock is: activity is written at most this often.
    pub fn touch_every(&self) -> Duration {
        self.idle / 60
    }
}

/// What one route asks beyond the session's own policy. It refuses on that route; it ends nothing.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct RoutePolicy {
    /// Longest time without activity, on this route.
    pub idle: Option<Duration>,
    /// Longest time since the session began, on this route.
    pub absolute: Option<Duration>,
    /// Longest time since the user last proved who he is, on this route.
    pub max_auth_age: Option<Duration>,
    /// What signals of a moved session do here.
    pub signals: Watch,
}

/// What a route does with signals that a session was moved to somebody else's machine. The strictest last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Watch {
    /// Does not look.
    Off,
    /// Looks, and says what it would have done.
    #[default]
    Monitor,
    /// Does it.
    Enforce,
}

impl Watch {
    /// All, with their words.
    pub const ALL: [(Watch, &'static str); 3] =
        [(Watch::Off, "off"), (Watch::Monitor, "monitor"), (Watch::Enforce, "enforce")];

    /// The word for configuration, logs and answers.
    pub fn word(self) -> &'static str {
        match self {
            Watch::Off => "off",
            Watch::Monitor => "monitor",
            Watch::Enforce => "enforce",
        }
    }
}
