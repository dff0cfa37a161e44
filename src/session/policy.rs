//! Timeouts, token rotation, the reaction to a replay, and second factors.

use std::time::Duration;

use super::identity::Identity;
use super::record::Record;

/// The session policy of the installation, the same for all routes. The durations are consistent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionPolicy {
    idle: Duration,
    absolute: Duration,
    rotate_after: Duration,
    grace: Duration,
    on_reuse: OnReuse,
}

/// The reaction to the replay of a superseded token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OnReuse {
    /// Ends the session for both parties.
    #[default]
    Revoke,
    /// Ends all sessions of the user.
    RevokeAll,
    /// Keeps the session but requires reauthentication.
    Reauthenticate,
    /// Refuses the replayed token and logs the replay.
    Log,
}

/// Two durations contradict each other. The text names both settings and the remedy.
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
    /// Builds a policy from durations that do not contradict each other.
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

    /// Idle timeout: the longest time without activity.
    pub fn idle(&self) -> Duration {
        self.idle
    }

    /// Absolute timeout: the longest lifetime of a session. Nothing extends it.
    pub fn absolute(&self) -> Duration {
        self.absolute
    }

    /// Age at which a token is rotated.
    pub fn rotate_after(&self) -> Duration {
        self.rotate_after
    }

    /// Grace period: how long a superseded token is still accepted.
    pub fn grace(&self) -> Duration {
        self.grace
    }

    /// Reaction to a replay.
    pub fn on_reuse(&self) -> OnReuse {
        self.on_reuse
    }

    /// Shortest interval between two writes of activity; the precision of the idle timeout.
    pub fn touch_interval(&self) -> Duration {
        self.idle / 60
    }
}

/// Stricter limits of one route. A session beyond them is refused on that route and not ended.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct RoutePolicy {
    /// Idle timeout on this route.
    pub idle: Option<Duration>,
    /// Longest time since the session was created, on this route.
    pub absolute: Option<Duration>,
    /// Longest time since the last login, on this route.
    pub max_auth_age: Option<Duration>,
    /// Handling of risk signals on this route.
    pub signals: SignalsMode,
}

/// Handling of risk signals on a route, from the mildest to the strictest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum SignalsMode {
    /// Computes no signals.
    Off,
    /// Logs the action that `Enforce` would have taken.
    #[default]
    Monitor,
    /// Takes the action.
    Enforce,
}

impl SignalsMode {
    /// All modes with their configuration values.
    pub const ALL: [(SignalsMode, &'static str); 3] = [
        (SignalsMode::Off, "off"),
        (SignalsMode::Monitor, "monitor"),
        (SignalsMode::Enforce, "enforce"),
    ];

    /// Returns the configuration value, also used in logs and pages.
    pub fn as_str(self) -> &'static str {
        match self {
            SignalsMode::Off => "off",
            SignalsMode::Monitor => "monitor",
            SignalsMode::Enforce => "enforce",
        }
    }
}

/// Which users have a second factor.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct SecondFactorPolicy {
    pub mode: SecondFactorMode,
    /// Groups that must have one in [`SecondFactorMode::Required`]; empty for all users.
    pub groups: Vec<String>,
    /// Login methods to which the policy does not apply: their providers verify second factors.
    pub exempt: Vec<String>,
}

/// Whether users have a second factor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum SecondFactorMode {
    /// No login asks for one.
    #[default]
    Off,
    /// Users can set one up. From then on, their logins ask for it.
    Optional,
    /// As `Optional`. Until a user has one, no app is open to them.
    Required,
}

impl SecondFactorMode {
    /// All modes with their configuration values.
    pub const ALL: [(SecondFactorMode, &'static str); 3] = [
        (SecondFactorMode::Off, "off"),
        (SecondFactorMode::Optional, "optional"),
        (SecondFactorMode::Required, "required"),
    ];
}

impl SecondFactorPolicy {
    /// Whether the user can have a second factor at this gateway.
    pub fn is_offered(&self, identity: &Identity) -> bool {
        let method = identity.provider.method();
        self.mode != SecondFactorMode::Off && !self.exempt.iter().any(|exempt| exempt == method)
    }

    /// Whether the user must have a second factor.
    pub fn requires(&self, identity: &Identity) -> bool {
        let is_member = || identity.groups.iter().any(|group| self.groups.contains(group));
        self.mode == SecondFactorMode::Required
            && (self.groups.is_empty() || is_member())
            && self.is_offered(identity)
    }

    /// Whether the session lacks a second factor that its user or the route requires.
    pub fn is_missing(&self, record: &Record, identity: &Identity, route_requires: bool) -> bool {
        record.second_factor.is_none() && (route_requires || self.requires(identity))
    }
}
