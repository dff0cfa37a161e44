//! Connections that outlive their request, by session: WebSocket tunnels, event streams, answers
//! that wait, large bodies in both directions.
//!
//! Invariants:
//! - Subscribe, then check. A request takes a [`Mark`] before the store is asked; what ended since is
//!   cut as it registers. An end is noted before the register is searched, and a registration stands
//!   before the notes are read, so one of the two always sees the other.
//! - A renewal cuts nothing: connections hang on the session, not on a token.
//! - As many as the limits allow, in all and of one session. Whoever hoards them hurts himself first.

mod ends;
mod entry;
mod pulse;
mod watched;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::clock::UnixMillis;
use crate::config;
use crate::session::{NotBefore, Record, RoutePolicy, SessionKey, SessionPolicy, UserTag};
use crate::telemetry::Metrics;

use ends::{End, Ends, Missed};
use entry::{Connection, Entry};
use pulse::Pulse;
use watched::Signal;
pub use watched::{Ending, Watched};

/// Parts of the register, so that a look at all of it never holds up every worker.
const SHARDS: usize = 16;

/// All live connections of a process.
#[derive(Clone)]
pub struct Live {
    inner: Arc<Inner>,
}

struct Inner {
    limits: LiveLimits,
    idle: Duration,
    metrics: Metrics,
    shards: [Mutex<HashMap<SessionKey, Entry>>; SHARDS],
    open: AtomicUsize,
    numbers: AtomicU64,
    ends: Ends,
    /// Sessions that were doubted and have not been asked about, each once.
    doubts: Mutex<VecDeque<SessionKey>>,
    doubt: Notify,
    pulse: Pulse,
}

/// How many connections may be live, and how long unlooked at.
#[derive(Clone, Copy, Debug)]
pub struct LiveLimits {
    pub total: usize,
    pub per_session: usize,
    /// How long one goes on while the store cannot be asked.
    pub unchecked_for: Duration,
}

impl From<config::Live> for LiveLimits {
    fn from(live: config::Live) -> LiveLimits {
        LiveLimits {
            total: live.max_connections,
            per_session: live.max_per_session,
            unchecked_for: live.unchecked_for,
        }
    }
}

/// Why a connection may not become a live one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    #[error("this gateway has as many live connections as live.max_connections allows")]
    Total,
    #[error("this session has as many live connections as live.max_per_session allows")]
    Session,
}

/// Why a live connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cut {
    /// Its session ended, or is over for its route.
    SessionEnded,
    /// It reached the route's `max_connection_age`.
    TooOld,
    /// The store did not answer for as long as `live.unchecked_for`.
    Unchecked,
}

/// A place in the order of ends, taken before a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark(u64);

/// What a check saw of a session.
#[derive(Clone)]
pub struct Sight {
    pub key: SessionKey,
    pub record: Arc<Record>,
    pub touched: UnixMillis,
    pub(super) mark: Mark,
    /// When the store vouched for it.
    pub(super) checked: Instant,
    /// It did not, and what was known let it pass.
    pub unasked: bool,
}

/// What a route asks of its live connections.
#[derive(Clone, Copy, Debug, Default)]
pub struct Terms<'a> {
    pub policy: Option<&'a RoutePolicy>,
    pub max_age: Option<Duration>,
}

impl Live {
    /// An empty register. `idle` is the sessions' own timeout.
    pub fn new(limits: LiveLimits, policy: &SessionPolicy, metrics: Metrics) -> Live {
        let inner = Inner {
            limits,
            idle: policy.idle(),
            metrics,
            shards: std::array::from_fn(|_| Mutex::default()),
            open: AtomicUsize::new(0),
            numbers: AtomicU64::new(0),
            ends: Ends::default(),
            doubts: Mutex::default(),
            doubt: Notify::new(),
            pulse: Pulse::new(Instant::now()),
        };
        Live { inner: Arc::new(inner) }
    }

    /// Where the order of ends stands. Taken before the store is asked.
    pub fn mark(&self) -> Mark {
        self.inner.ends.mark()
    }

    /// Registers a connection of a session that was checked after `sight.mark`.
    pub fn watch(&self, sight: &Sight, terms: Terms<'_>) -> Result<Watched, Full> {
        let place = Place::take(self)?;
        let number = self.inner.numbers.fetch_add(1, Ordering::Relaxed);
        let mut shard = self.shard(&sight.key);
        let pulse = &self.inner.pulse;
        let entry = shard.entry(sight.key).or_insert_with(|| Entry::of(sight, pulse));
        let signal = Arc::new(Signal::of(entry.looked.clone()));
        let connection = Connection {
            number,
            signal: Arc::clone(&signal),
            policy: terms.policy.cloned().unwrap_or_default(),
            too_old: terms.max_age.map(|age| Instant::now() + age),
        };
        if entry.connections.len() >= self.inner.limits.per_session {
            self.inner.metrics.live_refused("session");
            return Err(Full::Session);
        }
        entry.connections.push(connection);
        match self.inner.ends.missed(sight) {
            Missed::Nothing => {}
            Missed::ItsEnd => self.inner.tell(&signal, Cut::SessionEnded),
            Missed::TooMuchToTell => {
                entry.doubt();
                self.look_soon([sight.key]);
            }
        }
        drop(shard);
        place.keep();
        let end = Ending::of(self, signal);
        Ok(Watched { live: self.clone(), key: sight.key, number, end })
    }

    /// A session ended: cuts its connections on this gateway, and those that are about to register.
    pub fn ended(&self, key: &SessionKey) {
        self.inner.ends.note(End::Session(*key));
        self.cut(key, Cut::SessionEnded);
    }

    /// A line was drawn, of one user or of everybody: cuts the connections of sessions behind it.
    pub fn ended_by_line(&self, tag: Option<UserTag>, line: NotBefore) {
        let end = End::Line(tag, line);
        self.inner.ends.note(end);
        for shard in &self.inner.shards {
            for (key, entry) in shard.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                if end.is_of(key, entry.record.created) {
                    self.cut_all(entry, Cut::SessionEnded);
                }
            }
        }
    }

    /// Something of this session changed elsewhere: it is looked at soon.
    pub(super) fn doubt(&self, key: &SessionKey) {
        let is_new = self.shard(key).get_mut(key).is_some_and(Entry::doubt);
        self.look_soon(is_new.then_some(*key));
    }

    /// As [`Live::doubt`], for all that are meant.
    pub(super) fn doubt_those(&self, is_meant: impl Fn(&SessionKey) -> bool) {
        for shard in &self.inner.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let meant = shard.iter_mut().filter(|(key, _)| is_meant(key));
            let new = meant.filter_map(|(key, entry)| entry.doubt().then_some(*key));
            self.look_soon(new.collect::<Vec<_>>());
        }
    }

    /// One that is doubted again before it was vouched for is found by the next [`Live::wanting`].
    fn look_soon(&self, keys: impl IntoIterator<Item = SessionKey>) {
        let mut doubts = self.doubts();
        doubts.extend(keys);
        if !doubts.is_empty() {
            self.inner.doubt.notify_one();
        }
    }

    /// Waits for the next doubt.
    pub(super) async fn doubted(&self) {
        self.inner.doubt.notified().await;
    }

    /// A doubted session that was not asked about since, the longest doubted first.
    pub(super) fn next_doubted(&self) -> Option<SessionKey> {
        loop {
            let key = self.doubts().pop_front()?;
            if self.shard(&key).get(&key).is_some_and(|entry| entry.doubted.is_some()) {
                return Some(key);
            }
        }
    }

    /// Live connections that are open now.
    pub fn open(&self) -> usize {
        self.inner.open.load(Ordering::Relaxed)
    }

    /// Sessions to ask the store about: doubted ones first, then those whose time may be over and those that
    /// nobody asked about since `before`, the longest unasked first. Cuts what needs no asking.
    pub(super) fn wanting(&self, now: UnixMillis, before: Instant) -> Vec<SessionKey> {
        let (mut wanting, clock) = (Vec::new(), Instant::now());
        for shard in &self.inner.shards {
            for (key, entry) in shard.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                self.cut_by_itself(entry, now, clock);
                if entry.doubted.is_some()
                    || entry.checked < before
                    || entry.is_due(now, self.inner.idle)
                {
                    wanting.push((entry.doubted.is_none(), entry.checked, *key));
                }
            }
        }
        wanting.sort_unstable_by_key(|(is_certain, checked, _)| (*is_certain, *checked));
        wanting.into_iter().map(|(_, _, key)| key).collect()
    }

    /// Who looks after live connections is running.
    pub(super) fn beat(&self, now: Instant, shown: UnixMillis) {
        self.inner.pulse.beat(now, shown);
    }

    /// Since when what this process reads now may have lain unread, for it stood still.
    pub(super) fn unread_since(&self, now: Instant) -> Option<UnixMillis> {
        self.inner.pulse.unread_since(now)
    }

    /// The store vouched for a session, asked at `asked`: what is known of it is new, and only a route may
    /// be stricter.
    pub(super) fn vouched(
        &self,
        key: &SessionKey,
        record: &Arc<Record>,
        touched: UnixMillis,
        asked: Instant,
    ) {
        if let Some(entry) = self.shard(key).get_mut(key) {
            entry.vouched(record, touched, asked);
            self.inner.pulse.looked(&entry.looked, asked);
        }
    }

    /// Cuts connections whose route's own times are over, of a session that lives.
    pub(super) fn cut_by_route(&self, key: &SessionKey, now: UnixMillis) {
        if let Some(entry) = self.shard(key).get(key) {
            let active = entry.active();
            let over = |c: &&Connection| entry.route_end(c, active) <= now;
            entry
                .connections
                .iter()
                .filter(over)
                .for_each(|c| self.inner.tell(&c.signal, Cut::SessionEnded));
        }
    }

    /// Cuts all connections of a session that the store said has ended.
    pub(super) fn cut(&self, key: &SessionKey, why: Cut) {
        // The entry stays until its connections are gone.
        if let Some(entry) = self.shard(key).get(key) {
            self.cut_all(entry, why);
        }
    }

    fn cut_all(&self, entry: &Entry, why: Cut) {
        entry.connections.iter().for_each(|connection| self.inner.tell(&connection.signal, why));
    }

    /// What no store is needed for: the age of a connection, the absolute end, and a store that has
    /// been silent for too long.
    fn cut_by_itself(&self, entry: &Entry, now: UnixMillis, clock: Instant) {
        if entry.record.absolute_end <= now {
            return self.cut_all(entry, Cut::SessionEnded);
        }
        if clock.duration_since(entry.checked) >= self.inner.limits.unchecked_for {
            return self.cut_all(entry, Cut::Unchecked);
        }
        let old = |c: &&Connection| c.too_old.is_some_and(|end| end <= clock);
        entry.connections.iter().filter(old).for_each(|c| self.inner.tell(&c.signal, Cut::TooOld));
    }

    fn release(&self, key: &SessionKey, number: u64) {
        let mut shard = self.shard(key);
        if let Some(entry) = shard.get_mut(key) {
            entry.connections.retain(|connection| connection.number != number);
            if entry.connections.is_empty() {
                shard.remove(key);
            }
        }
        drop(shard);
        self.give_back();
    }

    fn give_back(&self) {
        self.inner.open.fetch_sub(1, Ordering::Relaxed);
        self.inner.metrics.live.dec();
    }

    fn doubts(&self) -> MutexGuard<'_, VecDeque<SessionKey>> {
        self.inner.doubts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shard(&self, key: &SessionKey) -> MutexGuard<'_, HashMap<SessionKey, Entry>> {
        // The id is random: its first byte spreads well.
        let at = usize::from(key.id.0[0]) % SHARDS;
        self.inner.shards[at].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place among all live connections, given back unless it is kept.
struct Place<'a> {
    live: Option<&'a Live>,
}

impl<'a> Place<'a> {
    fn take(live: &'a Live) -> Result<Place<'a>, Full> {
        let open = live.inner.open.fetch_add(1, Ordering::Relaxed);
        live.inner.metrics.live.inc();
        let place = Place { live: Some(live) };
        if open >= live.inner.limits.total {
            live.inner.metrics.live_refused("total");
            return Err(Full::Total);
        }
        Ok(place)
    }

    fn keep(mut self) {
        self.live = None;
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(live) = self.live {
            live.give_back();
        }
    }
}

impl Cut {
    /// The word in metrics and logs.
    pub fn word(self) -> &'static str {
        match self {
            Cut::SessionEnded => "session-ended",
            Cut::TooOld => "too-old",
            Cut::Unchecked => "unchecked",
        }
    }
}

impl fmt::Debug for Sight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sight({}, {:?})", self.key.id.handle(), self.mark)
    }
}

#[cfg(test)]
mod tests;
