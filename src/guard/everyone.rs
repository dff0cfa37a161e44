//! The operator's line for everybody, read before it is relied on.
//!
//! It stands on a key of its own, which no load of a session brings along. Invariant: nobody is admitted
//! by a line that was not read, or was read longer ago than [`FRESH`]. A gateway that has just started,
//! that was stopped for a while, or that reaches the records and not the line, reads it first or answers
//! 503: everybody who was put out would be in again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, Notify};

use super::Guard;
use crate::clock::UnixMillis;
use crate::session::NotBefore;
use crate::store::Unavailable;
use crate::telemetry::SessionEvent;
use crate::telemetry::events::About;

/// The bound for a revocation in any case.
const FRESH: Duration = Duration::from_secs(3);

/// The line, and when it was read.
pub(super) struct Everyone {
    at: AtomicU64,
    /// Milliseconds since `start`, and one; zero for never.
    read: AtomicU64,
    /// By the wall clock: the other one stands still while a machine sleeps.
    read_at: AtomicU64,
    start: Instant,
    /// One reads, the others wait for it.
    reading: Mutex<()>,
    /// It moved, as somebody told.
    moved: Notify,
}

impl Everyone {
    pub(super) fn new() -> Everyone {
        Everyone {
            at: AtomicU64::new(0),
            read: AtomicU64::new(0),
            read_at: AtomicU64::new(0),
            start: Instant::now(),
            reading: Mutex::new(()),
            moved: Notify::new(),
        }
    }

    /// The line as last read.
    pub(super) fn line(&self) -> NotBefore {
        NotBefore { at: UnixMillis(self.at.load(Ordering::Acquire)), except: None }
    }

    /// Moves it forward; whether it moved.
    pub(super) fn raise(&self, at: UnixMillis) -> bool {
        self.at.fetch_max(at.0, Ordering::AcqRel) < at.0
    }

    /// It has moved elsewhere, or may have.
    pub(super) fn heard(&self) {
        self.moved.notify_one();
    }

    fn is_fresh(&self, at: Instant, now: UnixMillis) -> bool {
        let read = self.read.load(Ordering::Acquire);
        let age = self.running(at).saturating_sub(read);
        let read_at = UnixMillis(self.read_at.load(Ordering::Acquire));
        read > 0 && Duration::from_millis(age) < FRESH && now.since(read_at) < FRESH
    }

    fn was_read(&self, running: u64, now: UnixMillis) {
        self.read_at.store(now.0, Ordering::Release);
        self.read.store(running, Ordering::Release);
    }

    fn running(&self, at: Instant) -> u64 {
        let running = at.saturating_duration_since(self.start).as_millis();
        u64::try_from(running).unwrap_or(u64::MAX).saturating_add(1)
    }
}

impl Guard {
    /// The line, fresh.
    pub(super) async fn everyone(&self) -> Result<NotBefore, Unavailable> {
        if let Some(line) = self.everyone_if_fresh(Instant::now(), self.now()) {
            return Ok(line);
        }
        let _reading = self.shared.everyone.reading.lock().await;
        if self.everyone_if_fresh(Instant::now(), self.now()).is_none() {
            self.refresh_everyone().await?;
        }
        Ok(self.shared.everyone.line())
    }

    /// The line, if it is fresh at this time, by the clock that never steps and by the wall's.
    pub(super) fn everyone_if_fresh(&self, at: Instant, now: UnixMillis) -> Option<NotBefore> {
        let everyone = &self.shared.everyone;
        everyone.is_fresh(at, now).then(|| everyone.line())
    }

    /// Reads the line again whenever it may have moved, for ever.
    pub(super) async fn reread_everyone(&self) {
        loop {
            self.shared.everyone.moved.notified().await;
            // Where it cannot be read now, the next second's chores read it, and tell of the trouble.
            if self.refresh_everyone().await.is_err() {
                self.shared.metrics.store_error();
            }
        }
    }

    /// Reads the line again; housekeeping does so each second, and when it is told of a change.
    pub async fn refresh_everyone(&self) -> Result<(), Unavailable> {
        let everyone = &self.shared.everyone;
        // As of before the question: how long the answer took counts.
        let (running, now) = (everyone.running(Instant::now()), self.now());
        let at = self.store.everyone_line().await?;
        self.shared.raise_everyone(at);
        everyone.was_read(running, now);
        let known = everyone.line().at;
        if at < known {
            let everybody = About { user: "*", ..About::default() };
            self.shared.event(SessionEvent::RolledBack, everybody);
            self.store.restore_everyone(known).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::IpAddr;
    use std::sync::Arc;

    use super::*;
    use crate::clock::Clock;
    use crate::config;
    use crate::guard::{Denial, NewToken, Shared, SharedParts, Visit};
    use crate::identity::{Account, Cost, Credential};
    use crate::message::{CookieNames, Presented};
    use crate::route::Requirement;
    use crate::secret::KeyRing;
    use crate::session::{
        ClientContext, EndReason, Identity, OnReuse, Refusal, RoutePolicy, SessionPolicy, Timing,
    };
    use crate::store::{RedisSettings, Store};
    use crate::telemetry::Metrics;

    pub(in crate::guard) fn guard(store: &Store, clock: &Clock) -> Guard {
        let [day, minute] = [Duration::from_hours(24), Duration::from_mins(1)];
        let policy = SessionPolicy::new(day, day, minute * 10, minute, OnReuse::Revoke);
        let live = config::Live {
            max_connections: 1,
            max_per_session: 1,
            unchecked_for: Duration::from_secs(60),
        };
        let shared = Shared::new(SharedParts {
            keys: KeyRing::generate("now"),
            clock: clock.clone(),
            policy: policy.expect("a policy"),
            max_per_user: 0,
            cookies: CookieNames::new(None),
            directory: None,
            metrics: Metrics::default(),
            live: live.into(),
            audit: None,
            hook: None,
            signals: crate::risk::Settings::default(),
        });
        Guard::new(store.clone(), Arc::new(shared))
    }

    fn with_keys_of(other: &Guard, guard: Guard) -> Guard {
        guard.shared.keys.store(other.shared.keys.load_full());
        guard
    }

    fn here() -> ClientContext {
        ClientContext::new(IpAddr::from([127, 0, 0, 1]), b"test")
    }

    pub(in crate::guard) async fn log_in(guard: &Guard) -> Presented {
        let identity = Identity { user: "alice".to_owned(), ..Identity::default() };
        let cost = Cost::Argon2id { m: 256, t: 1, p: 1 };
        let password = Credential::hash("correct horse battery staple", cost).expect("a hash");
        let account = Account::new(identity, password, false);
        let begun = guard.begin(&account, &Presented::Nothing, here()).await.expect("begun");
        Presented::One(begun.token.as_bytes().to_vec())
    }

    async fn verdict(guard: &Guard, presented: &Presented) -> Result<(), Denial> {
        enter(guard, presented).await.map(|_| ())
    }

    /// The token that goes with the answer.
    pub(in crate::guard) async fn enter(
        guard: &Guard,
        presented: &Presented,
    ) -> Result<Option<NewToken>, Denial> {
        let visit = Visit {
            presented,
            context: &here(),
            policy: &RoutePolicy::default(),
            requirement: &Requirement::default(),
            timing: Timing::Prompt,
            activity: true,
            serve_known_for: None,
        };
        guard.admit(&visit).await.map(|admitted| admitted.token)
    }

    #[tokio::test]
    async fn a_gateway_that_has_just_started_reads_the_line_before_it_admits_anybody() {
        let clock = Clock::manual(UnixMillis(1_000_000));
        let store = Store::memory(clock.clone());
        let before = guard(&store, &clock);
        let token = log_in(&before).await;
        clock.advance(Duration::from_secs(1));
        before.end_everybody().await.expect("ended");
        let started = with_keys_of(&before, guard(&store, &clock));
        assert_eq!(verdict(&started, &token).await, Err(Denial::Refused(Refusal::Revoked)));
    }

    #[tokio::test]
    async fn a_line_read_three_seconds_ago_is_read_again_before_anybody_is_admitted() {
        let clock = Clock::manual(UnixMillis(1_000_000));
        let store = Store::memory(clock.clone());
        let guard = guard(&store, &clock);
        let token = log_in(&guard).await;
        assert_eq!(verdict(&guard, &token).await, Ok(()));
        store.revoke_everyone(clock.now()).await.expect("drawn");
        assert_eq!(verdict(&guard, &token).await, Ok(()), "heard of within the bound");
        clock.advance(FRESH);
        let denied = verdict(&guard, &token).await;
        assert!(
            denied == Err(Denial::Refused(Refusal::Revoked))
                || denied == Err(Denial::Ended(EndReason::Revoked)),
            "{denied:?}"
        );
    }

    #[tokio::test]
    async fn a_login_begins_behind_a_line_that_this_gateway_has_not_heard_of() {
        let clock = Clock::manual(UnixMillis(1_000_000));
        let store = Store::memory(clock.clone());
        let guard = guard(&store, &clock);
        log_in(&guard).await;
        // Drawn by a gateway whose clock is ahead.
        store.revoke_everyone(UnixMillis(1_060_000)).await.expect("drawn");
        let token = log_in(&guard).await;
        assert_eq!(verdict(&guard, &token).await, Ok(()), "a login that ends at once");
    }

    #[tokio::test]
    async fn where_the_line_cannot_be_read_nobody_is_admitted_and_nobody_logged_out() {
        let clock = Clock::manual(UnixMillis(1_000_000));
        let before = guard(&Store::memory(clock.clone()), &clock);
        let token = log_in(&before).await;
        // Port 1 of this machine: nobody is there.
        let url = "redis://127.0.0.1:1".to_owned();
        let away = Store::redis(&RedisSettings { url, ..RedisSettings::default() });
        let started = with_keys_of(&before, guard(&away.expect("settings"), &clock));
        let denied = verdict(&started, &token).await;
        assert!(matches!(denied, Err(Denial::Unavailable(_))), "{denied:?}");
    }

    /// Each of them waits for the one before, which waits for the store.
    #[tokio::test]
    async fn requests_that_wait_for_one_another_have_one_deadline_each_not_one_after_the_other() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("redis://{}", silent.local_addr().expect("an address"));
        let response_timeout = Duration::from_millis(100);
        let settings = RedisSettings { url, response_timeout, ..RedisSettings::default() };
        let clock = Clock::manual(UnixMillis(1_000_000));
        let before = guard(&Store::memory(clock.clone()), &clock);
        let token = log_in(&before).await;
        let store = Store::redis(&settings).expect("settings");
        let patience = store.patience().expect("a network lies between");
        let guard = with_keys_of(&before, guard(&store, &clock));
        let begun = Instant::now();
        let all = (0..4).map(|_| verdict(&guard, &token));
        for denied in futures_util::future::join_all(all).await {
            assert!(matches!(denied, Err(Denial::Unavailable(_))), "{denied:?}");
        }
        let took = begun.elapsed();
        assert!(took < patience + Duration::from_secs(1), "{took:?} of {patience:?}");
    }
}
