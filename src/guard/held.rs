//! A session as the store has it, held against what this gateway has seen of it.
//!
//! Whoever can write to the store can put old copies back: of a record, of a line, of nothing where a
//! tombstone stood. A failover that loses writes does the same without meaning harm. Both are answered
//! alike, and nobody is logged out for it: the newest copy that was seen is in force and is written
//! again, an end stays an end, a line stays where it was. Each is reported.
//!
//! This gateway sees what its own requests touch, in bounded memory, since its start. Elsewhere an old
//! copy is found out by the owner's next request, whose token is newer than it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock::UnixMillis;
use crate::secret::KeyRing;
use crate::secret::seal::OpenError;
use crate::session::record::RecordError;
use crate::session::{EndReason, NotBefore, Record, SessionKey};
use crate::store::{Loaded, Slot, Unavailable};
use crate::telemetry::SessionEvent;
use crate::telemetry::events::About;

use super::known::{Sealed, Seen};
use super::{Denial, Guard};

/// How far ahead a touch may lie. Clocks of gateways differ, by less than this.
const CLOCKS: Duration = Duration::from_mins(2);

/// What holds of a session.
pub(super) struct Held {
    /// The store's, for the next compare-and-swap.
    pub(super) revision: u64,
    pub(super) record: Arc<Record>,
    pub(super) touched: UnixMillis,
    pub(super) not_before: NotBefore,
    /// The store has an older copy: what is decided has to be written.
    pub(super) restore: bool,
}

impl Guard {
    /// Loads; once more where the answer may be older than a write of another worker.
    pub(super) async fn load(&self, key: &SessionKey) -> Result<Loaded, Unavailable> {
        let loaded = self.store.load(key).await?;
        self.newest(key, loaded).await
    }

    /// A load, or another one where it may be older than a write of another worker.
    pub(super) async fn newest(
        &self,
        key: &SessionKey,
        loaded: Loaded,
    ) -> Result<Loaded, Unavailable> {
        if self.shared.known.is_ahead_of(key, &loaded, self.now()) {
            return self.store.load(key).await;
        }
        Ok(loaded)
    }

    /// What holds, after a load. `asked`: before it, for who wanted an end meanwhile.
    pub(super) fn hold(
        &self,
        keys: &KeyRing,
        key: &SessionKey,
        loaded: Loaded,
        asked: Instant,
    ) -> Result<Held, Denial> {
        let Loaded { slot, touched, not_before } = loaded;
        let not_before = self.held_line(key, not_before);
        let (revision, bytes) = match slot {
            Slot::Absent => return Err(self.absent(key)),
            Slot::Ended { reason, .. } => {
                self.remember_end(key, reason);
                return Err(Denial::Ended(reason));
            }
            Slot::Live { revision, sealed } => (revision, sealed),
        };
        let (seen, restore) = match self.shared.known.get(key) {
            Some(Seen::Ended { reason, until }) => return Err(self.came_back(key, reason, until)),
            Some(Seen::Live(seen)) if seen.is(revision, &bytes) => (seen, false),
            Some(Seen::Live(seen)) => {
                let record = self.opened(keys, key, &bytes)?;
                if revision < seen.revision || record.is_before(&seen.record) {
                    self.tell(SessionEvent::RolledBack, key, &seen);
                    (seen, true)
                } else {
                    (self.shared.known.keep(key, revision, bytes, record), false)
                }
            }
            None => {
                let record = self.opened(keys, key, &bytes)?;
                (self.shared.known.keep(key, revision, bytes, record), false)
            }
        };
        let touched = self.believable(key, &seen, touched);
        self.shared.known.vouch(&seen, asked, self.now(), touched);
        Ok(Held { revision, record: Arc::clone(&seen.record), touched, not_before, restore })
    }

    /// As [`Guard::hold`], where all is as it was last seen, as for most requests; whatever is not is
    /// for the long way. `asked`: when the store was.
    pub(super) fn hold_unchanged(
        &self,
        key: &SessionKey,
        loaded: &Loaded,
        asked: Instant,
        now: UnixMillis,
    ) -> Option<Held> {
        let Loaded { slot: Slot::Live { revision, sealed }, touched, not_before } = loaded else {
            return None;
        };
        let (revision, touched, not_before) = (*revision, *touched, *not_before);
        let known = &self.shared.known;
        let seen = known.same(key, revision, sealed)?;
        if known.line(&key.tag) != not_before || touched > now.plus(CLOCKS) {
            return None;
        }
        known.vouch(&seen, asked, now, touched);
        let record = Arc::clone(&seen.record);
        Some(Held { revision, record, touched, not_before, restore: false })
    }

    fn opened(
        &self,
        keys: &KeyRing,
        key: &SessionKey,
        bytes: &[u8],
    ) -> Result<Arc<Record>, Denial> {
        let record = Record::open(keys, key, bytes);
        record.map(Arc::new).map_err(|error| self.unopened(key, error))
    }

    /// A key that this gateway has not read yet is its own trouble: nobody is logged out for it.
    fn unopened(&self, key: &SessionKey, error: RecordError) -> Denial {
        match error {
            RecordError::Open(OpenError::UnknownKey) => {
                // What was known of it is older than this record.
                self.shared.known.forget(key);
                let text = "a record is sealed with a key that this gateway's keys file lacks; copy the newest keys file here";
                self.unavailable(Unavailable(text.to_owned()))
            }
            RecordError::Open(OpenError::Shape | OpenError::Forged)
            | RecordError::Format
            | RecordError::User => {
                let nobody = About { session: Some(key.id), ..About::default() };
                self.shared.event(SessionEvent::Poisoned, nobody);
                Denial::Poisoned
            }
        }
    }

    /// Nothing there. Where something was and had time left, the store lost it or somebody took it away.
    fn absent(&self, key: &SessionKey) -> Denial {
        let seen = self.shared.known.get(key);
        match seen {
            None => Denial::Unknown,
            Some(Seen::Ended { reason, until }) if self.now() < until => {
                self.came_back(key, reason, until)
            }
            Some(Seen::Ended { reason, .. }) => Denial::Ended(reason),
            Some(Seen::Live(seen)) => {
                if self.now() < seen.record.absolute_end {
                    self.tell(SessionEvent::RolledBack, key, &seen);
                }
                Denial::Unknown
            }
        }
    }

    /// An ended session without its tombstone: it gets it again.
    fn came_back(&self, key: &SessionKey, reason: EndReason, until: UnixMillis) -> Denial {
        let about = About { session: Some(key.id), ..About::default() };
        self.shared.event(SessionEvent::RolledBack, about);
        let (guard, key) = (self.clone(), *key);
        tokio::spawn(async move {
            // Should it fail, the next request comes here again.
            let ended = guard.store.end(&key, reason, guard.now(), until).await;
            if ended.is_err() {
                guard.shared.metrics.store_error();
            }
        });
        Denial::Ended(reason)
    }

    /// Keeps an end in mind for as long as the session could have lived.
    pub(super) fn remember_end(&self, key: &SessionKey, reason: EndReason) {
        let until = match self.shared.known.get(key) {
            Some(Seen::Live(seen)) => seen.record.absolute_end,
            Some(Seen::Ended { .. }) => return,
            None => self.now().plus(self.shared.policy.absolute()),
        };
        self.shared.known.ended(key, reason, until);
    }

    /// The later of the store's line and the one that was seen. Told each time: it is a request of that
    /// user's that may be refused for it.
    fn held_line(&self, key: &SessionKey, line: NotBefore) -> NotBefore {
        let seen = self.shared.known.line(&key.tag);
        if seen.at > line.at {
            let about = About { session: Some(key.id), ..About::default() };
            self.shared.event(SessionEvent::RolledBack, about);
            return seen.later(line);
        }
        if line.at.0 > 0 {
            self.shared.known.saw_line(&key.tag, line);
        }
        line
    }

    /// A touch far ahead would keep a session from idling out, or age it at once; it counts as now.
    fn believable(&self, key: &SessionKey, seen: &Sealed, touched: UnixMillis) -> UnixMillis {
        let now = self.now();
        if touched <= now.plus(CLOCKS) {
            return touched;
        }
        self.tell(SessionEvent::TouchedAhead, key, seen);
        now
    }

    /// Once for each copy of a record.
    fn tell(&self, event: SessionEvent, key: &SessionKey, seen: &Sealed) {
        if seen.tell() {
            let user = &seen.record.identity.user;
            self.shared.event(event, About { user, session: Some(key.id), ..About::default() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::everyone::tests::{guard, log_in};
    use super::*;
    use crate::clock::Clock;
    use crate::guard::LivesOn;
    use crate::store::Store;

    /// An answer may wait for its turn here for as long as this process is busy.
    #[tokio::test]
    async fn what_was_asked_before_somebody_wanted_an_end_is_not_served_unasked() {
        let clock = Clock::manual(UnixMillis(1_000_000));
        let guard = guard(&Store::memory(clock.clone()), &clock);
        let shown = log_in(&guard).await;
        let lives = LivesOn::session(guard.lives_on(&shown).await.expect("available"));
        let key = lives.expect("it lives").key;
        let (asked, loaded) = (Instant::now(), guard.load(&key).await.expect("available"));
        let known = &guard.shared.known;
        known.withhold_one(&key);
        // Times are compared in milliseconds.
        std::thread::sleep(Duration::from_millis(5));
        let keys = guard.shared.keys.load_full();
        guard.hold(&keys, &key, loaded, asked).expect("it lives");
        let Some(Seen::Live(seen)) = known.get(&key) else { panic!("it lives") };
        assert_eq!(known.vouched_within(&seen, CLOCKS, clock.now()), None);
    }
}
