//! The checks of external accounts that this process has begun.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::UnixMillis;
use crate::session::SessionKey;

/// Time until the next attempt for a session, in this process.
const RETRY: Duration = Duration::from_secs(30);

/// Number of remembered attempts above which old ones are removed.
const SWEEP_ABOVE: usize = 10_000;

/// Attempts of this process: when each session may be checked again.
#[derive(Debug, Default)]
pub(super) struct RecheckAttempts(Mutex<HashMap<SessionKey, UnixMillis>>);

impl RecheckAttempts {
    /// Returns whether an attempt may begin, and prevents another one for a while.
    pub(super) fn begin(&self, key: &SessionKey, now: UnixMillis) -> bool {
        let mut attempts = self.0.lock();
        if attempts.len() > SWEEP_ABOVE {
            attempts.retain(|_, until| now < *until);
        }
        let is_free = attempts.get(key).is_none_or(|until| *until <= now);
        if is_free {
            attempts.insert(*key, now.plus(RETRY));
        }
        is_free
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{SessionId, UserTag};

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

    #[test]
    fn a_session_is_checked_once_at_a_time() {
        let rechecks = RecheckAttempts::default();
        let key = |id| SessionKey { tag: UserTag([1; 8]), id: SessionId([id; 16]) };
        assert!(rechecks.begin(&key(1), NOW) && rechecks.begin(&key(2), NOW));
        assert!(!rechecks.begin(&key(1), NOW.plus(RETRY - Duration::from_millis(1))));
        assert!(rechecks.begin(&key(1), NOW.plus(RETRY)));
    }
}
