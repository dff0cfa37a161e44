//! The rule of time: when a session expires, and when a route requires reauthentication.
//!
//! Decisions, session listings and tracked connections all use [`SessionDeadlines`], so they cannot disagree.
//! Invariant: time never moves back for a session. A clock that is behind the latest time in the record
//! counts as that time.

use std::time::Duration;

use super::policy::{RoutePolicy, SessionPolicy};
use super::record::Record;
use super::{RevocationCutoff, SessionId};
use crate::clock::UnixMillis;

/// State of a session that a store keeps outside the record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionFacts {
    /// Last stored activity; zero if there is none.
    pub touched: UnixMillis,
    /// Revocation cutoff of the user ("log out everywhere").
    pub user_cutoff: RevocationCutoff,
    /// Revocation cutoff of all users.
    pub global_cutoff: RevocationCutoff,
}

/// The deadlines of one session. From a deadline on, the session is expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionDeadlines {
    /// Last activity, from the record or from a touch.
    pub last_active: UnixMillis,
    /// End by the idle timeout.
    pub idle: UnixMillis,
    /// End by the absolute timeout.
    pub absolute: UnixMillis,
    created: UnixMillis,
    latest: UnixMillis,
    revoked: bool,
}

/// The reason for which a session is expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// The session was created before a revocation cutoff.
    Revoked,
    Absolute,
    Idle,
}

/// Time until a session expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remaining {
    /// Until the earlier of both timeouts.
    pub idle: Duration,
    pub absolute: Duration,
}

impl SessionDeadlines {
    pub fn new(
        id: SessionId,
        record: &Record,
        facts: &SessionFacts,
        policy: &SessionPolicy,
    ) -> SessionDeadlines {
        let created = record.created;
        let last_active = record.last_active.max(facts.touched);
        SessionDeadlines {
            last_active,
            idle: last_active.plus(policy.idle()),
            // The policy may have become stricter since the login.
            absolute: record.absolute_end.min(created.plus(policy.absolute())),
            created,
            latest: last_active.max(record.current_since),
            revoked: facts.user_cutoff.revokes(id, created)
                || facts.global_cutoff.revokes(id, created),
        }
    }

    /// Returns `now`, or the latest time in the record if that is later.
    pub fn session_time(&self, now: UnixMillis) -> UnixMillis {
        now.max(self.latest)
    }

    /// Returns why the session is expired, if it is.
    pub fn expiry(&self, now: UnixMillis) -> Option<Expiry> {
        let now = self.session_time(now);
        if self.revoked {
            return Some(Expiry::Revoked);
        }
        if now >= self.absolute {
            return Some(Expiry::Absolute);
        }
        (now >= self.idle).then_some(Expiry::Idle)
    }

    /// Returns the time until the session expires without further activity.
    pub fn remaining(&self, now: UnixMillis) -> Remaining {
        let now = self.session_time(now);
        let absolute = self.absolute.since(now);
        Remaining { idle: self.idle.since(now).min(absolute), absolute }
    }

    /// Returns the time from which a route refuses the session, by the route's own idle and absolute
    /// limits. The session is not ended.
    pub fn on_route(&self, route: &RoutePolicy) -> UnixMillis {
        let idle = deadline(route.idle, self.last_active);
        idle.min(deadline(route.absolute, self.created))
    }
}

/// Adds a limit to a time; without a limit the deadline is never reached.
pub(super) fn deadline(limit: Option<Duration>, since: UnixMillis) -> UnixMillis {
    limit.map_or(UnixMillis(u64::MAX), |limit| since.plus(limit))
}
