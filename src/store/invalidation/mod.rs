//! Invalidation: one connection to each primary on which Redis pushes every change of a record or
//! cutoff, made by any gateway.
//!
//! ```text
//! CLIENT TRACKING ON BCAST PREFIX …            from its reply on, all changes arrive
//! each second: SET heartbeat:N, DEL heartbeat:N-1
//! push: heartbeat:N changed                    all changes before the SET have arrived
//! DEL returned 0                               heartbeat:N-1 is missing: Redis rolled back
//! ```
//!
//! Redis also pushes a client's own writes on the same connection, in order. Within one turn of its
//! event loop it sorts pushes by prefix, and the heartbeat prefix sorts last. The push of a
//! heartbeat therefore confirms that all changes before its *sending* have arrived, however late
//! the push is. With a silent connection, a stopped Redis or a stopped gateway, the confirmation
//! ages. A replica rejects the heartbeat, and so does a primary with too few replicas if
//! `min-replicas-to-write` is set.

mod push;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::redis::{
    ErrorKind, FromRedisValue, InfoDict, Pipeline, RedisError, RedisResult, ServerErrorKind, Value,
    cmd, pipe,
};
use data_encoding::HEXLOWER;
use futures_util::future::join_all;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tracing::{info, warn};

use self::push::{LostOnDrop, PushHandler};
use super::cache::{CombinedFreshness, FlushCause, PrimaryFreshness};
use super::redis::keys::TRACKED_PREFIXES;
use super::redis::{RedisStore, SharedState};
use super::revocation_log::{RETENTION, Revocation};
use super::types::{StoreChange, Unavailable};
use crate::redis::{Primary, RedisConnection};
use crate::secret::random_bytes;

const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);
/// Deadline of a heartbeat; after it the connection is replaced. It is below
/// [`MAX_STALENESS`](super::cache), so a new connection can confirm freshness in time.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(2);
/// Delay between two attempts to connect.
const RECONNECT_DELAY: Duration = Duration::from_millis(200);
const MAX_RECONNECT_DELAY: Duration = Duration::from_secs(1);
/// Expiry of a heartbeat key. It exceeds the retention of the revocation log, so a missing key is
/// significant while there is something to restore.
const HEARTBEAT_RETENTION: Duration = RETENTION.saturating_add(Duration::from_mins(5));

/// Revocations restored concurrently. One at a time, thousands would take too long.
const RESTORE_BATCH: usize = 64;

/// Hash tags tried before a primary counts as one without slots. Among 100 primaries with equal
/// shares, one in a billion is misjudged.
const MAX_TAG_ATTEMPTS: u32 = 2_048;

/// Follows all primaries; never returns.
pub(super) async fn run(redis: RedisStore) {
    let shared = Arc::clone(redis.shared());
    let mut primaries = redis.primaries();
    let (refreshing, inspecting) = (redis.clone(), redis.clone());
    let mut tasks = JoinSet::new();
    tasks.spawn(run_restore(redis));
    tasks.spawn(async move { refreshing.run_topology_refresh().await });
    tasks.spawn(async move { inspecting.run_diagnostics().await });
    loop {
        let now = primaries.current();
        let combined =
            Arc::new(CombinedFreshness::new(now.len(), Arc::clone(&shared.cache.freshness)));
        let mut listeners = JoinSet::new();
        for (index, primary) in now.into_iter().enumerate() {
            let freshness = PrimaryFreshness { primaries: Arc::clone(&combined), index };
            listeners.spawn(follow_primary(primary, Arc::clone(&shared), freshness));
        }
        primaries.changed().await;
        // The freshness of the old primaries ends before the new ones can confirm any.
        listeners.shutdown().await;
    }
}

/// Follows one primary and reconnects after errors.
async fn follow_primary(primary: Primary, shared: Arc<SharedState>, freshness: PrimaryFreshness) {
    let mut listener = InvalidationListener {
        name: HEXLOWER.encode(&random_bytes::<8>()),
        primary,
        shared,
        freshness,
        epoch: 0,
        is_heartbeat_written: false,
        tag: 0,
        server_identity: None,
        last_error: None,
    };
    let mut pause = RECONNECT_DELAY;
    loop {
        let began = Instant::now();
        let Err(error) = listener.run_connection().await;
        listener.report_error(error);
        pause = if began.elapsed() > HEARTBEAT_INTERVAL {
            RECONNECT_DELAY
        } else {
            MAX_RECONNECT_DELAY.min(pause * 2)
        };
        // Jitter, so that gateways do not reconnect at the same moment.
        let [random] = random_bytes::<1>();
        sleep(pause.mul_f64(0.5 + f64::from(random) / 510.0)).await;
    }
}

/// State that survives a reconnection.
struct InvalidationListener {
    primary: Primary,
    shared: Arc<SharedState>,
    freshness: PrimaryFreshness,
    /// Random ID in this listener's heartbeat keys.
    name: String,
    /// Number of the last heartbeat.
    epoch: u64,
    /// Whether that heartbeat was certainly written.
    is_heartbeat_written: bool,
    /// Hash tag of the heartbeat keys.
    tag: u32,
    /// Run ID and replication ID of the server.
    server_identity: Option<String>,
    last_error: Option<String>,
}

/// The result of a loop that ends only with an error.
enum Never {}

impl InvalidationListener {
    /// Connects and sends heartbeats until an error occurs.
    async fn run_connection(&mut self) -> Result<Never, Unavailable> {
        let handler = Arc::new(PushHandler::new(
            Arc::clone(&self.shared),
            self.freshness.clone(),
            self.prefix(),
        ));
        let push_handler = Arc::clone(&handler);
        let connection = self.primary.open_push(move |push| push_handler.on_push(push)).await?;
        // Every end of this function, also an abort, invalidates what the connection confirmed.
        let _lost = LostOnDrop(Arc::clone(&handler));
        let mut connection = connection;
        let tracked = timeout(HEARTBEAT_TIMEOUT, self.enable_tracking(&mut connection)).await;
        tracked.map_err(|_| self.timeout_error())??;
        self.shared.cache.flush(FlushCause::Connected);
        self.shared.notify(StoreChange::Everything);
        self.check_server_identity(&mut connection).await;
        let mut tick = interval(HEARTBEAT_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = handler.broken() => return Err(self.broken_error()),
            }
            self.heartbeat(&mut connection, &handler).await?;
            self.shared.revocation_log.sweep(Instant::now());
        }
    }

    /// Enables tracking. From the reply on, all changes arrive.
    async fn enable_tracking(&self, connection: &mut RedisConnection) -> Result<(), Unavailable> {
        let mut command = cmd("CLIENT");
        command.arg("TRACKING").arg("ON").arg("BCAST");
        for prefix in TRACKED_PREFIXES {
            command.arg("PREFIX").arg(prefix);
        }
        command.arg("PREFIX").arg(self.prefix());
        self.or_unavailable(command.query_async::<()>(connection).await)
    }

    /// Suspects a rollback if the server or its replication history changed, or is unknown.
    async fn check_server_identity(&mut self, connection: &mut RedisConnection) {
        let server =
            timeout(HEARTBEAT_TIMEOUT, query_identity(connection)).await.unwrap_or_default();
        if server.is_none() || server != self.server_identity {
            self.shared.rollback_suspected.notify_one();
        }
        self.server_identity = server;
    }

    /// Sends a heartbeat and waits for its push.
    async fn heartbeat(
        &mut self,
        connection: &mut RedisConnection,
        handler: &PushHandler,
    ) -> Result<(), Unavailable> {
        let was_written = std::mem::replace(&mut self.is_heartbeat_written, false);
        let tag = self.tag;
        let sent = tokio::select! {
            sent = timeout(HEARTBEAT_TIMEOUT, self.send_heartbeat(connection, handler)) => sent,
            () = handler.broken() => return Err(self.broken_error()),
        };
        let was_lost = self.or_unavailable(sent.map_err(|_| self.timeout_error())?)?;
        self.is_heartbeat_written = true;
        if was_written && was_lost && tag == self.tag {
            self.shared.rollback_suspected.notify_one();
        }
        self.report_recovery();
        Ok(())
    }

    /// Returns whether Redis had lost the previous heartbeat. A cluster primary accepts keys of its
    /// own slots only, so several hash tags are tried.
    async fn send_heartbeat(
        &mut self,
        connection: &mut RedisConnection,
        handler: &PushHandler,
    ) -> RedisResult<bool> {
        for _ in 0..MAX_TAG_ATTEMPTS {
            let before = self.heartbeat_key();
            self.epoch += 1;
            handler.expect_heartbeat(self.heartbeat_key().into_bytes());
            let pipeline = heartbeat_pipeline(&self.heartbeat_key(), &before);
            let written: RedisResult<((), i64)> = pipeline.query_async(connection).await;
            match written {
                Ok(((), deleted)) => {
                    handler.heartbeat_received().await;
                    return Ok(deleted == 0);
                }
                Err(error) if is_wrong_slot(&error) => self.tag = self.tag.wrapping_add(1),
                Err(error) => return Err(error),
            }
        }
        Err((ErrorKind::Client, "it accepts no key at all; check that it has slots").into())
    }

    fn prefix(&self) -> String {
        // Sorts after all tracked prefixes.
        format!("dw:z:{}:", self.name)
    }

    fn heartbeat_key(&self) -> String {
        format!("{}{{{}}}:{}", self.prefix(), self.tag, self.epoch)
    }

    fn or_unavailable<T>(&self, result: RedisResult<T>) -> Result<T, Unavailable> {
        result.map_err(|error| self.primary.to_unavailable(&error).into())
    }

    fn timeout_error(&self) -> Unavailable {
        let address = self.primary.address();
        Unavailable(format!("Redis at {address} sends no more changes"))
    }

    fn broken_error(&self) -> Unavailable {
        let address = self.primary.address();
        Unavailable(format!("the connection to Redis at {address} for invalidation broke"))
    }

    /// Logs each distinct error once, not once per attempt.
    fn report_error(&mut self, Unavailable(error): Unavailable) {
        if self.last_error.as_ref() != Some(&error) {
            warn!(
                event = "store.invalidation-lost",
                %error,
                "until they arrive again, every request loads its session from Redis"
            );
        }
        self.last_error = Some(error);
    }

    fn report_recovery(&mut self) {
        if self.last_error.take().is_some() {
            info!(event = "store.invalidation-recovered", redis = self.primary.address());
        }
    }
}

fn is_wrong_slot(error: &RedisError) -> bool {
    let kinds = [ServerErrorKind::Moved, ServerErrorKind::Ask, ServerErrorKind::TryAgain];
    kinds.map(ErrorKind::Server).contains(&error.kind())
}

fn heartbeat_pipeline(name: &str, before: &str) -> Pipeline {
    let kept = u64::try_from(HEARTBEAT_RETENTION.as_millis()).unwrap_or(u64::MAX);
    let mut pipeline = pipe();
    pipeline.cmd("SET").arg(name).arg(1).arg("PX").arg(kept);
    pipeline.cmd("DEL").arg(before);
    pipeline
}

/// Identifies a server and its history. It differs after a restart, a promotion or a full
/// resynchronization.
async fn query_identity(connection: &mut RedisConnection) -> Option<String> {
    let mut command = cmd("INFO");
    let value: Value = command.arg("server").query_async(connection).await.ok()?;
    let server = InfoDict::from_redis_value(value).ok()?;
    let mut command = cmd("INFO");
    let value: Value = command.arg("replication").query_async(connection).await.ok()?;
    let replication = InfoDict::from_redis_value(value).ok()?;
    let run: String = server.get("run_id")?;
    let history: String = replication.get("master_replid")?;
    Some(run + &history)
}

/// Restores the revocation log after each suspected rollback. A failed write is retried while it is
/// recorded and does not delay the others. Otherwise a corrupted cutoff of one user could block
/// every restore.
async fn run_restore(redis: RedisStore) {
    let shared = redis.shared();
    let mut queue = VecDeque::new();
    loop {
        if queue.is_empty() {
            shared.rollback_suspected.notified().await;
            queue = shared.pending_restores();
        }
        let batch: Vec<Revocation> = queue.drain(..queue.len().min(RESTORE_BATCH)).collect();
        let writing = batch.into_iter().map(|revocation| restore(&redis, revocation));
        let failed: Vec<Revocation> =
            join_all(writing).await.into_iter().filter_map(Result::err).collect();
        if failed.is_empty() {
            continue;
        }
        queue.extend(failed);
        if timeout(RECONNECT_DELAY, shared.rollback_suspected.notified()).await.is_ok() {
            queue = shared.pending_restores();
        }
        queue.retain(|revocation| shared.revocation_log.contains(revocation));
    }
}

impl SharedState {
    /// Returns all revocations to restore.
    fn pending_restores(&self) -> VecDeque<Revocation> {
        let entries = self.revocation_log.entries();
        if !entries.is_empty() {
            warn!(
                event = "store.revocations-restored",
                count = entries.len(),
                "the store may have rolled back; restoring the revocations of the last 15 minutes"
            );
        }
        entries.into()
    }
}

/// # Errors
/// The revocation that was not written.
async fn restore(redis: &RedisStore, revocation: Revocation) -> Result<(), Revocation> {
    let written = match revocation {
        Revocation::Session { key, reason, at, retain_until } => {
            redis.restore_end(&key, reason, at, retain_until).await
        }
        Revocation::UserCutoff { tag, cutoff } => redis.restore_user_cutoff(&tag, cutoff).await,
        Revocation::GlobalCutoff { cutoff } => redis.restore_global_cutoff(cutoff).await,
    };
    written.map_err(|_| revocation)
}
