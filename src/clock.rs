//! Wall-clock time as a value: rules take `now` as an argument, and tests control it.
//!
//! Several gateways share a session, so its times are wall-clock times. A step of the clock can end a
//! session early, but never extends it beyond the absolute timeout (see [`crate::session`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct UnixMillis(pub u64);

impl UnixMillis {
    /// Returns the time since `earlier`; zero if `earlier` is later than `self`.
    pub fn since(self, earlier: UnixMillis) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// Adds a duration. Saturates instead of wrapping.
    pub fn plus(self, by: Duration) -> UnixMillis {
        UnixMillis(self.0.saturating_add(millis(by)))
    }

    /// Subtracts a duration. Saturates at 1970.
    pub fn minus(self, by: Duration) -> UnixMillis {
        UnixMillis(self.0.saturating_sub(millis(by)))
    }

    /// Returns the whole seconds since 1970.
    pub fn seconds(self) -> u64 {
        self.0 / 1000
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The source of the current time: the system, or a test.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The system's wall clock.
    #[default]
    System,
    /// A clock that changes only through [`Clock::advance`].
    Manual(Arc<AtomicU64>),
}

impl Clock {
    /// Creates a manual clock that starts at `at`.
    pub fn manual(at: UnixMillis) -> Clock {
        Clock::Manual(Arc::new(AtomicU64::new(at.0)))
    }

    /// Returns the current time.
    pub fn now(&self) -> UnixMillis {
        match self {
            Clock::System => {
                UnixMillis(millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()))
            }
            Clock::Manual(at) => UnixMillis(at.load(Ordering::SeqCst)),
        }
    }

    /// Moves a manual clock forward. Has no effect on the system clock.
    pub fn advance(&self, by: Duration) {
        match self {
            Clock::System => {}
            Clock::Manual(at) => {
                at.fetch_add(millis(by), Ordering::SeqCst);
            }
        }
    }
}
