//! Wall time as a value, so that rules take `now` as an argument and tests own it.
//!
//! Sessions are shared by several gateways, so their times are wall-clock times; a step of the
//! clock can end a session early but never lengthens its absolute life (see [`crate::session`]).

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
    /// The time from `earlier` to `self`; zero when `earlier` lies in the future.
    pub fn since(self, earlier: UnixMillis) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// `self` moved forward, stopping at the end of time instead of wrapping.
    pub fn plus(self, by: Duration) -> UnixMillis {
        UnixMillis(self.0.saturating_add(millis(by)))
    }

    /// `self` moved back, stopping at 1970.
    pub fn minus(self, by: Duration) -> UnixMillis {
        UnixMillis(self.0.saturating_sub(millis(by)))
    }

    /// Whole seconds since 1970.
    pub fn seconds(self) -> u64 {
        self.0 / 1000
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Where `now` comes from: the system, or a test.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The machine's wall clock.
    #[default]
    System,
    /// A clock that stands still until somebody moves it.
    Manual(Arc<AtomicU64>),
}

impl Clock {
    /// A clock that shows `at` until [`Clock::advance`] moves it.
    pub fn manual(at: UnixMillis) -> Clock {
        Clock::Manual(Arc::new(AtomicU64::new(at.0)))
    }

    /// The time now.
    pub fn now(&self) -> UnixMillis {
        match self {
            Clock::System => {
                UnixMillis(millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()))
            }
            Clock::Manual(at) => UnixMillis(at.load(Ordering::SeqCst)),
        }
    }

    /// Moves a manual clock forward; the system clock does not obey.
    pub fn advance(&self, by: Duration) {
        match self {
            Clock::System => {}
            Clock::Manual(at) => {
                at.fetch_add(millis(by), Ordering::SeqCst);
            }
        }
    }
}
