//! Cuts live connections whose session is over: by time, by an end at another gateway, by a change
//! of its account.
//!
//! While the store is away nothing is cut for that reason until `live.unchecked_for` is over: an
//! outage logs nobody out, and lets nobody go on for ever either.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::time::{MissedTickBehavior, interval};

use crate::clock::UnixMillis;
use crate::session::{NotBefore, Record, SessionKey, Standing};
use crate::store::{Change, Loaded};

use super::held::Held;
use super::{Cut, Guard, Live};

/// How exact the ends by time are.
const TICK: Duration = Duration::from_millis(200);

/// How long an end at another gateway stays unseen here, where nothing is heard of it.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Looks at a time. Redis answers them in one go; more would only make its queue longer.
const AT_ONCE: usize = 64;

/// What a look found.
enum Found {
    Over,
    Lives(Arc<Record>, UnixMillis),
    /// The record is sealed with a key that this gateway has not read yet.
    Unreadable,
}

impl Guard {
    /// Looks after live connections, for ever: asks the store about sessions that were doubted, at once,
    /// about those whose time may be over, and about all of them often.
    pub async fn patrol(&self) {
        let look = |key| async move {
            self.look(&key).await;
            key
        };
        walk(&self.shared.live, || self.now(), look).await;
    }

    /// Hears what changes elsewhere, for ever. What is heard is a promptness and never a proof: a store
    /// that falls silent is still asked. Not beside a look: it would wait, and what is heard too late is
    /// heard of everybody.
    pub async fn hear(&self) {
        if let Some(changes) = self.store.changes() {
            self.hear_all(changes).await;
        }
    }

    async fn hear_all(&self, mut changes: broadcast::Receiver<Change>) {
        let hearing = async {
            loop {
                self.heard(next(&mut changes).await);
            }
        };
        tokio::select! {
            () = hearing => {}
            () = self.reread_everyone() => {}
        }
    }

    /// Something changed elsewhere: sessions with live connections that it may be about are looked at.
    fn heard(&self, change: Change) {
        let live = &self.shared.live;
        match change {
            Change::Session(key) => live.doubt(&key),
            Change::User(tag) => live.doubt_those(|key| key.tag == tag),
            Change::Everyone | Change::All => {
                self.shared.everyone.heard();
                live.doubt_those(|_| true);
            }
        }
    }

    async fn look(&self, key: &SessionKey) {
        // An answer tells of when it was asked for: judged by a later clock, who was active at another
        // gateway meanwhile would be held for idle.
        let (asked, now) = (Instant::now(), self.now());
        let Ok(loaded) = self.load(key).await else { return };
        let live = &self.shared.live;
        match self.found(key, loaded, asked, now) {
            Found::Over => live.cut(key, Cut::SessionEnded),
            Found::Lives(record, touched) => {
                live.vouched(key, &record, touched, asked);
                live.cut_by_route(key, now);
            }
            Found::Unreadable => {}
        }
    }

    fn found(&self, key: &SessionKey, loaded: Loaded, asked: Instant, now: UnixMillis) -> Found {
        let keys = self.shared.keys.load_full();
        let Held { record, touched, not_before, .. } = match self.hold(&keys, key, loaded, asked) {
            Ok(held) => held,
            Err(denial) if denial.is_passing() => return Found::Unreadable,
            Err(_) => return Found::Over,
        };
        // The line of everybody cuts when it is read.
        let standing = Standing { touched, not_before, everyone: NotBefore::default() };
        // Frozen is over for what is open: a fresh login is another session.
        match record.frozen || self.record_is_over(key, &record, &standing, now) {
            true => Found::Over,
            false => Found::Lives(record, touched),
        }
    }
}

/// Looks at who wants it, [`AT_ONCE`] of them at a time: whoever was doubted goes before all others,
/// also those that a round has yet to come to. A look that hangs goes on until the store's own deadline,
/// which has to count it, and nobody is asked about twice meanwhile.
async fn walk<Look: Future<Output = SessionKey>>(
    live: &Live,
    now: impl Fn() -> UnixMillis,
    look: impl Fn(SessionKey) -> Look,
) {
    let mut walk = Walk::default();
    let mut looks = FuturesUnordered::new();
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {
                let clock = Instant::now();
                let before = clock.checked_sub(LOOK_EVERY).unwrap_or(clock);
                walk.round = live.wanting(now(), before).into();
            }
            Some(key) = looks.next() => { walk.asked.remove(&key); }
            () = live.doubted() => {}
        }
        // Before anything is asked: what is asked from here on is asked after a stop.
        live.beat(Instant::now(), now());
        while looks.len() < AT_ONCE
            && let Some(key) = walk.next(live)
        {
            walk.asked.insert(key);
            looks.push(look(key));
        }
    }
}

#[derive(Default)]
struct Walk {
    /// Who has yet to be asked about, as of the last tick.
    round: VecDeque<SessionKey>,
    /// Who is being asked about.
    asked: HashSet<SessionKey>,
}

impl Walk {
    fn next(&mut self, live: &Live) -> Option<SessionKey> {
        // Also while one is asked about: the answer may be from before the doubt.
        live.next_doubted().or_else(|| {
            std::iter::from_fn(|| self.round.pop_front()).find(|key| !self.asked.contains(key))
        })
    }
}

async fn next(changes: &mut broadcast::Receiver<Change>) -> Change {
    match changes.recv().await {
        Ok(change) => change,
        Err(RecvError::Lagged(_)) => Change::All,
        Err(RecvError::Closed) => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
