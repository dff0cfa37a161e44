//! The operator's revocation cutoff for all sessions.
//!
//! It has a key of its own in the store, so loading a session does not load it. Invariant: no
//! request is admitted with a cutoff that was never read, or was read longer ago than [`MAX_AGE`].
//! Otherwise a gateway after a start, a pause or a partial outage would readmit revoked sessions.
//! Without a fresh cutoff it responds with 503.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, Notify};

use super::Guard;
use crate::clock::UnixMillis;
use crate::session::RevocationCutoff;
use crate::store::Unavailable;
use crate::telemetry::SessionEvent;
use crate::telemetry::events::EventContext;

/// Maximum age of the cutoff, and so the maximum delay of a global revocation.
const MAX_AGE: Duration = Duration::from_secs(3);

/// The cutoff, and the time of its last read.
pub(super) struct GlobalCutoff {
    at: AtomicU64,
    /// Milliseconds since `start` plus one; zero if never read.
    read_elapsed: AtomicU64,
    /// Wall-clock time of the read: the monotonic clock stops while a machine sleeps.
    read_wall: AtomicU64,
    start: Instant,
    /// Serializes reads, so that concurrent requests share one.
    refreshing: Mutex<()>,
    /// Wakes the refresh loop when another gateway may have advanced the cutoff.
    invalidated: Notify,
}

impl GlobalCutoff {
    pub(super) fn new() -> GlobalCutoff {
        GlobalCutoff {
            at: AtomicU64::new(0),
            read_elapsed: AtomicU64::new(0),
            read_wall: AtomicU64::new(0),
            start: Instant::now(),
            refreshing: Mutex::new(()),
            invalidated: Notify::new(),
        }
    }

    /// Returns the cutoff as last read.
    pub(super) fn get(&self) -> RevocationCutoff {
        RevocationCutoff { at: UnixMillis(self.at.load(Ordering::Acquire)), except: None }
    }

    /// Advances the cutoff. Returns whether it changed.
    pub(super) fn advance(&self, at: UnixMillis) -> bool {
        self.at.fetch_max(at.0, Ordering::AcqRel) < at.0
    }

    /// Requests a read, because another gateway may have advanced the cutoff.
    pub(super) fn invalidate(&self) {
        self.invalidated.notify_one();
    }

    fn is_fresh(&self, at: Instant, now: UnixMillis) -> bool {
        let read = self.read_elapsed.load(Ordering::Acquire);
        let age = self.elapsed_millis(at).saturating_sub(read);
        let read_wall = UnixMillis(self.read_wall.load(Ordering::Acquire));
        read > 0 && Duration::from_millis(age) < MAX_AGE && now.since(read_wall) < MAX_AGE
    }

    fn mark_read(&self, elapsed_millis: u64, now: UnixMillis) {
        self.read_wall.store(now.0, Ordering::Release);
        self.read_elapsed.store(elapsed_millis, Ordering::Release);
    }

    fn elapsed_millis(&self, at: Instant) -> u64 {
        let elapsed_millis = at.saturating_duration_since(self.start).as_millis();
        u64::try_from(elapsed_millis).unwrap_or(u64::MAX).saturating_add(1)
    }
}

impl Guard {
    /// Returns the cutoff, after a read if it is not fresh.
    pub(super) async fn global_cutoff(&self) -> Result<RevocationCutoff, Unavailable> {
        if let Some(line) = self.global_cutoff_if_fresh(Instant::now(), self.now()) {
            return Ok(line);
        }
        let _refreshing = self.shared.global_cutoff.refreshing.lock().await;
        if self.global_cutoff_if_fresh(Instant::now(), self.now()).is_none() {
            self.refresh_global_cutoff().await?;
        }
        Ok(self.shared.global_cutoff.get())
    }

    /// Returns the cutoff if it is fresh by the monotonic clock at `at` and by the wall clock.
    pub(super) fn global_cutoff_if_fresh(
        &self,
        at: Instant,
        now: UnixMillis,
    ) -> Option<RevocationCutoff> {
        let cutoff = &self.shared.global_cutoff;
        cutoff.is_fresh(at, now).then(|| cutoff.get())
    }

    /// Reads the cutoff whenever it was invalidated. Never returns.
    pub(super) async fn refresh_global_cutoff_on_change(&self) {
        loop {
            self.shared.global_cutoff.invalidated.notified().await;
            // Maintenance retries within a second and reports the failure.
            if self.refresh_global_cutoff().await.is_err() {
                self.shared.metrics.store_error();
            }
        }
    }

    /// Reads the cutoff. Runs every second and on each change notification.
    pub async fn refresh_global_cutoff(&self) -> Result<(), Unavailable> {
        let cutoff = &self.shared.global_cutoff;
        // Taken before the command, so that the response time counts as age.
        let (elapsed_millis, now) = (cutoff.elapsed_millis(Instant::now()), self.now());
        let at = self.store.global_cutoff().await?;
        self.shared.advance_global_cutoff(at);
        cutoff.mark_read(elapsed_millis, now);
        let known = cutoff.get().at;
        if at < known {
            let context = EventContext { user: "*", ..EventContext::default() };
            self.shared.emit(SessionEvent::RolledBack, context);
            self.store.restore_global_cutoff(known).await?;
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
    use crate::guard::{AuthRequest, DenyReason, NewToken, Shared, SharedParts};
    use crate::identity::{Account, Cost, Credential};
    use crate::message::{CookieLookup, CookieNames};
    use crate::route::AccessRule;
    use crate::secret::KeyRing;
    use crate::session::{
        ClientContext, EndReason, Identity, OnReuse, Refusal, RotationTiming, RoutePolicy,
        SessionPolicy,
    };
    use crate::store::{RedisSettings, Store};
    use crate::telemetry::Metrics;

    pub(in crate::guard) fn guard(store: &Store, clock: &Clock) -> Guard {
        let [day, minute] = [Duration::from_hours(24), Duration::from_mins(1)];
        let policy = SessionPolicy::new(day, day, minute * 10, minute, OnReuse::Revoke);
        let live = config::LongLived {
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
            connection_limits: live.into(),
            audit: None,
            notifier: None,
            risk: crate::risk::RiskSettings::default(),
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

    pub(in crate::guard) async fn log_in(guard: &Guard) -> CookieLookup {
        let identity = Identity { user: "alice".to_owned(), ..Identity::default() };
        let cost = Cost::Argon2id { m: 256, t: 1, p: 1 };
        let password = Credential::hash("correct horse battery staple", cost).expect("a hash");
        let account = Account::new(identity, password, false);
        let created =
            guard.create_session(&account, &CookieLookup::Missing, here()).await.expect("created");
        CookieLookup::One(created.token.as_bytes().to_vec())
    }

    async fn verdict(guard: &Guard, presented: &CookieLookup) -> Result<(), DenyReason> {
        enter(guard, presented).await.map(|_| ())
    }

    /// Returns the rotated token.
    pub(in crate::guard) async fn enter(
        guard: &Guard,
        presented: &CookieLookup,
    ) -> Result<Option<NewToken>, DenyReason> {
        let visit = AuthRequest {
            cookie: presented,
            context: &here(),
            policy: &RoutePolicy::default(),
            requirement: &AccessRule::default(),
            timing: RotationTiming::WhenDue,
            is_activity: true,
            serve_stale_for: None,
        };
        guard.authenticate(&visit).await.map(|admitted| admitted.token)
    }

    #[tokio::test]
    async fn a_started_gateway_reads_the_global_cutoff_before_it_admits() {
        let clock = Clock::manual(UnixMillis(1_000_000));
        let store = Store::memory(clock.clone());
        let before = guard(&store, &clock);
        let token = log_in(&before).await;
        clock.advance(Duration::from_secs(1));
        before.revoke_all_sessions().await.expect("ended");
        let started = with_keys_of(&before, guard(&store, &clock));
        assert_eq!(verdict(&started, &token).await, Err(DenyReason::Refused(Refusal::Revoked)));
    }

    #[tokio::test]
    async fn a_global_cutoff_older_than_three_seconds_is_read_again() {
        let clock = Clock::manual(UnixMillis(1_000_000));
        let store = Store::memory(clock.clone());
        let guard = guard(&store, &clock);
        let token = log_in(&guard).await;
        assert_eq!(verdict(&guard, &token).await, Ok(()));
        store.revoke_all_users(clock.now()).await.expect("drawn");
        assert_eq!(verdict(&guard, &token).await, Ok(()), "heard of within the bound");
        clock.advance(MAX_AGE);
        let denied = verdict(&guard, &token).await;
        assert!(
            denied == Err(DenyReason::Refused(Refusal::Revoked))
                || denied == Err(DenyReason::Ended(EndReason::Revoked)),
            "{denied:?}"
        );
    }

    #[tokio::test]
    async fn a_login_starts_after_a_cutoff_unknown_to_this_gateway() {
        let clock = Clock::manual(UnixMillis(1_000_000));
        let store = Store::memory(clock.clone());
        let guard = guard(&store, &clock);
        log_in(&guard).await;
        // Set by a gateway whose clock is ahead.
        store.revoke_all_users(UnixMillis(1_060_000)).await.expect("drawn");
        let token = log_in(&guard).await;
        assert_eq!(verdict(&guard, &token).await, Ok(()), "a login that ends at once");
    }

    #[tokio::test]
    async fn an_unreadable_global_cutoff_neither_admits_nor_logs_out() {
        let clock = Clock::manual(UnixMillis(1_000_000));
        let before = guard(&Store::memory(clock.clone()), &clock);
        let token = log_in(&before).await;
        // Nothing listens on port 1.
        let url = "redis://127.0.0.1:1".to_owned();
        let away = Store::redis(&RedisSettings { url, ..RedisSettings::default() });
        let started = with_keys_of(&before, guard(&away.expect("settings"), &clock));
        let denied = verdict(&started, &token).await;
        assert!(matches!(denied, Err(DenyReason::Unavailable(_))), "{denied:?}");
    }

    /// Each request waits for the one before it, which waits for the store.
    #[tokio::test]
    async fn concurrent_requests_each_have_one_deadline() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("redis://{}", silent.local_addr().expect("an address"));
        let response_timeout = Duration::from_millis(100);
        let settings = RedisSettings { url, response_timeout, ..RedisSettings::default() };
        let clock = Clock::manual(UnixMillis(1_000_000));
        let before = guard(&Store::memory(clock.clone()), &clock);
        let token = log_in(&before).await;
        let store = Store::redis(&settings).expect("settings");
        let patience = store.request_deadline().expect("a network lies between");
        let guard = with_keys_of(&before, guard(&store, &clock));
        let created = Instant::now();
        let all = (0..4).map(|_| verdict(&guard, &token));
        for denied in futures_util::future::join_all(all).await {
            assert!(matches!(denied, Err(DenyReason::Unavailable(_))), "{denied:?}");
        }
        let took = created.elapsed();
        assert!(took < patience + Duration::from_secs(1), "{took:?} of {patience:?}");
    }
}
