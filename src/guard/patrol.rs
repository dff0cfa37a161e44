//! Cuts live connections whose session is over: by time, by an end at another gateway, by a change
//! of its account.
//!
//! While the store is away nothing is cut for that reason until `live.unchecked_for` is over: an
//! outage logs nobody out, and lets nobody go on for ever either.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use tokio::time::timeout;

use crate::clock::UnixMillis;
use crate::session::{NotBefore, Record, SessionKey, Standing};
use crate::store::{Change, Loaded};

use super::held::Held;
use super::{Cut, Guard};

/// Looks at a time. Redis answers them in one go; more would only make its queue longer.
const AT_ONCE: usize = 64;

/// Longest round. Who was not looked at is first in the next one.
const ROUND: Duration = Duration::from_millis(900);

/// What a look found.
enum Found {
    Over,
    Lives(Arc<Record>, UnixMillis),
    /// The record is sealed with a key that this gateway has not read yet.
    Unreadable,
}

impl Guard {
    /// One round. Asks the store about live sessions that were doubted, whose time may be over, or
    /// that nobody asked about for `every`.
    pub async fn patrol(&self, every: Duration) {
        let now = Instant::now();
        let before = now.checked_sub(every).unwrap_or(now);
        let keys = self.shared.live.wanting(self.now(), before);
        let looks = stream::iter(keys).for_each_concurrent(AT_ONCE, |key| self.look(key));
        // Not an error: a slow store must not make the next round late too.
        let _ = timeout(ROUND, looks).await;
        self.shared.live.looked(now);
    }

    /// Something changed elsewhere: sessions with live connections that it may be about are looked at.
    pub async fn heard(&self, change: Change) {
        let live = &self.shared.live;
        match change {
            Change::Session(key) => live.doubt(&key),
            Change::User(tag) => live.doubt_those(|key| key.tag == tag),
            Change::Everyone | Change::All => {
                // Where it cannot be read now, the next second's chores read it, and tell of the trouble.
                if self.refresh_everyone().await.is_err() {
                    self.shared.metrics.store_error();
                }
                live.doubt_those(|_| true);
            }
        }
    }

    async fn look(&self, key: SessionKey) {
        let asked = Instant::now();
        let Ok(loaded) = self.load(&key).await else { return };
        let live = &self.shared.live;
        match self.found(&key, loaded) {
            Found::Over => live.cut(&key, Cut::SessionEnded),
            Found::Lives(record, touched) => {
                live.vouched(&key, &record, touched, asked);
                live.cut_by_route(&key, self.now());
            }
            Found::Unreadable => {}
        }
    }

    fn found(&self, key: &SessionKey, loaded: Loaded) -> Found {
        let keys = self.shared.keys.load_full();
        let Held { record, touched, not_before, .. } = match self.hold(&keys, key, loaded) {
            Ok(held) => held,
            Err(denial) if denial.is_passing() => return Found::Unreadable,
            Err(_) => return Found::Over,
        };
        // The line of everybody cuts when it is read.
        let standing = Standing { touched, not_before, everyone: NotBefore::default() };
        match self.record_is_over(key, &record, &standing) {
            true => Found::Over,
            false => Found::Lives(record, touched),
        }
    }
}
