//! Following what changes in Redis: a connection of its own to each primary, which is told of every
//! change of a record or line by whichever gateway, as it happens.
//!
//! ```text
//! CLIENT TRACKING ON BCAST PREFIX …     from here on all changes arrive
//! each second: SET beat:N, DEL beat:N-1
//! push: beat:N changed                  all that changed before SET has arrived: a proof
//! DEL answered 0                        the store forgot beat:N-1: it went backwards
//! ```
//!
//! Redis tells a client of its own writes too, on the same connection and in order, those of one turn of
//! its loop sorted by prefix. The beat's prefix sorts last. So once the word of a beat is here, so is the
//! word of all that changed before that beat was *sent*: that time is what is proven, however late the
//! word comes. A silent connection, a stopped Redis and a stopped gateway all let the proof grow old. A
//! replica refuses the beat, and so does a primary with too few replicas if `min-replicas-to-write` is
//! set.

mod heard;

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

use self::heard::{Link, Lost};
use super::cache::{Cleared, Part, Proofs};
use super::distributed::Beside;
use super::journal::{Ended, REMEMBERED_FOR};
use super::redis::Redis;
use super::redis::connection::Connection;
use super::redis::names::FOLLOWED;
use super::redis::nodes::Primary;
use super::{Change, Unavailable};
use crate::secret::random_bytes;

const BEAT: Duration = Duration::from_secs(1);
/// A beat whose word has not come by then: the connection is given up. Below the time that a proof is
/// trusted, so that another connection can be tried before.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// A beat outlives the journal, so that its absence says something as long as there is something to do.
const BEAT_KEPT: Duration = REMEMBERED_FOR.saturating_add(Duration::from_mins(5));

/// Ends written again at a time: thousands one after another would take longer than the bound.
const AT_ONCE: usize = 64;

/// Tags tried before a primary is taken for one without slots: of a hundred primaries that share the
/// slots, one in a billion is.
const MOST_TAGS: u32 = 2_048;

/// Follows all primaries, for ever.
pub(super) async fn follow(redis: Redis, beside: Arc<Beside>) {
    let mut primaries = redis.primaries();
    let (tending, inspecting) = (redis.clone(), redis.clone());
    let mut tasks = JoinSet::new();
    tasks.spawn(restore(redis, Arc::clone(&beside)));
    tasks.spawn(async move { tending.tend().await });
    tasks.spawn(async move { inspecting.inspect_often().await });
    loop {
        let now = primaries.now();
        let proofs = Arc::new(Proofs::of(now.len(), Arc::clone(&beside.proof)));
        let mut following = JoinSet::new();
        for (number, primary) in now.into_iter().enumerate() {
            let part = Part { proofs: Arc::clone(&proofs), number };
            following.spawn(follow_one(primary, Arc::clone(&beside), part));
        }
        primaries.changed().await;
        // What was known by the old ones is forgotten before the new ones prove anything.
        following.shutdown().await;
    }
}

/// Follows one primary, through all its connections.
async fn follow_one(primary: Primary, beside: Arc<Beside>, part: Part) {
    let mut follower = Follower {
        name: HEXLOWER.encode(&random_bytes::<8>()),
        primary,
        beside,
        part,
        epoch: 0,
        kept: false,
        tag: 0,
        server: None,
        trouble: None,
    };
    let mut pause = PAUSE;
    loop {
        let began = Instant::now();
        let Err(error) = follower.connection().await;
        follower.tell(error);
        pause = if began.elapsed() > BEAT { PAUSE } else { LONGEST_PAUSE.min(pause * 2) };
        // Not all gateways in the same moment.
        let [random] = random_bytes::<1>();
        sleep(pause.mul_f64(0.5 + f64::from(random) / 510.0)).await;
    }
}

/// What stays from one connection to the next.
struct Follower {
    primary: Primary,
    beside: Arc<Beside>,
    part: Part,
    /// Ours in the names of beats.
    name: String,
    /// The last beat sent.
    epoch: u64,
    /// Whether that beat is known to have been written.
    kept: bool,
    /// The hash tag in the names of beats.
    tag: u32,
    /// Which server it was, and with which history.
    server: Option<String>,
    trouble: Option<String>,
}

/// There is no way out but trouble.
enum Never {}

impl Follower {
    /// One connection's life.
    async fn connection(&mut self) -> Result<Never, Unavailable> {
        let link = Arc::new(Link::new(Arc::clone(&self.beside), self.part.clone(), self.prefix()));
        let to_push = Arc::clone(&link);
        let connection = self.primary.open_push(move |push| to_push.on_push(push)).await?;
        // Whatever ends this connection, an abort too, ends what was known by it.
        let _lost = Lost(Arc::clone(&link));
        let mut connection = connection;
        let tracked = timeout(PATIENCE, self.track(&mut connection)).await;
        tracked.map_err(|_| self.silent())??;
        if let Some(cache) = &self.beside.cache {
            cache.clear(Cleared::Connected);
        }
        self.beside.tell(Change::All);
        self.recognise(&mut connection).await;
        let mut tick = interval(BEAT);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = link.broken() => return Err(self.broken()),
            }
            self.beat(&mut connection, &link).await?;
            self.beside.journal.sweep(Instant::now());
        }
    }

    /// From the answer on, all changes arrive.
    async fn track(&self, connection: &mut Connection) -> Result<(), Unavailable> {
        let mut command = cmd("CLIENT");
        command.arg("TRACKING").arg("ON").arg("BCAST");
        for prefix in FOLLOWED {
            command.arg("PREFIX").arg(prefix);
        }
        command.arg("PREFIX").arg(self.prefix());
        self.said(command.query_async::<()>(connection).await)
    }

    /// Another server, or the same with another history, may know less. So may one that does not say.
    async fn recognise(&mut self, connection: &mut Connection) {
        let server = timeout(PATIENCE, history(connection)).await.unwrap_or_default();
        if server.is_none() || server != self.server {
            self.beside.behind.notify_one();
        }
        self.server = server;
    }

    /// Writes an epoch and waits for the word of it.
    async fn beat(&mut self, connection: &mut Connection, link: &Link) -> Result<(), Unavailable> {
        let was_kept = std::mem::replace(&mut self.kept, false);
        let tag = self.tag;
        let told = tokio::select! {
            told = timeout(PATIENCE, self.told(connection, link)) => told,
            () = link.broken() => return Err(self.broken()),
        };
        let gone = self.said(told.map_err(|_| self.silent())?)?;
        self.kept = true;
        if was_kept && gone && tag == self.tag {
            self.beside.behind.notify_one();
        }
        self.healed();
        Ok(())
    }

    /// Whether the store forgot the beat before this one, once the word of this one is here. A primary of
    /// a cluster takes names of its own slots only: tags are tried until it takes one.
    async fn told(&mut self, connection: &mut Connection, link: &Link) -> RedisResult<bool> {
        for _ in 0..MOST_TAGS {
            let before = self.beat_name();
            self.epoch += 1;
            link.expect(self.beat_name().into_bytes());
            let pipeline = beat(&self.beat_name(), &before);
            let written: RedisResult<((), i64)> = pipeline.query_async(connection).await;
            match written {
                Ok(((), forgotten)) => {
                    link.proven().await;
                    return Ok(forgotten == 0);
                }
                Err(error) if is_of_another_slot(&error) => self.tag = self.tag.wrapping_add(1),
                Err(error) => return Err(error),
            }
        }
        Err((ErrorKind::Client, "it takes no name at all; has it slots?").into())
    }

    fn prefix(&self) -> String {
        // Sorts after all that is followed.
        format!("dw:z:{}:", self.name)
    }

    fn beat_name(&self) -> String {
        format!("{}{{{}}}:{}", self.prefix(), self.tag, self.epoch)
    }

    fn said<T>(&self, result: RedisResult<T>) -> Result<T, Unavailable> {
        result.map_err(|error| self.primary.unavailable(&error))
    }

    fn silent(&self) -> Unavailable {
        let address = self.primary.address();
        Unavailable(format!("Redis at {address} tells of no changes any more"))
    }

    fn broken(&self) -> Unavailable {
        let address = self.primary.address();
        Unavailable(format!("the connection to Redis at {address} for its changes broke"))
    }

    /// One line for each trouble, not one for each attempt.
    fn tell(&mut self, Unavailable(error): Unavailable) {
        if self.trouble.as_ref() != Some(&error) {
            warn!(
                event = "changes-lost",
                %error,
                "until they are followed again, Redis is asked at every request"
            );
        }
        self.trouble = Some(error);
    }

    fn healed(&mut self) {
        if self.trouble.take().is_some() {
            info!(event = "changes-followed", redis = self.primary.address());
        }
    }
}

fn is_of_another_slot(error: &RedisError) -> bool {
    let kinds = [ServerErrorKind::Moved, ServerErrorKind::Ask, ServerErrorKind::TryAgain];
    kinds.map(ErrorKind::Server).contains(&error.kind())
}

fn beat(name: &str, before: &str) -> Pipeline {
    let kept = u64::try_from(BEAT_KEPT.as_millis()).unwrap_or(u64::MAX);
    let mut pipeline = pipe();
    pipeline.cmd("SET").arg(name).arg(1).arg("PX").arg(kept);
    pipeline.cmd("DEL").arg(before);
    pipeline
}

/// Names a server and its history: another one after a restart, a promotion or a full copy.
async fn history(connection: &mut Connection) -> Option<String> {
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

/// Writes the journal into the store again whenever that seems to know less than before. What cannot be
/// written is tried again for as long as it is remembered, and holds up nothing else: whoever can write to
/// the store could keep every end out of it by spoiling one user's line.
async fn restore(redis: Redis, beside: Arc<Beside>) {
    let mut left = VecDeque::new();
    loop {
        if left.is_empty() {
            beside.behind.notified().await;
            left = beside.fallen_behind();
        }
        let some: Vec<Ended> = left.drain(..left.len().min(AT_ONCE)).collect();
        let writing = some.into_iter().map(|ended| write_again(&redis, ended));
        let failed: Vec<Ended> =
            join_all(writing).await.into_iter().filter_map(Result::err).collect();
        if failed.is_empty() {
            continue;
        }
        left.extend(failed);
        if timeout(PAUSE, beside.behind.notified()).await.is_ok() {
            left = beside.fallen_behind();
        }
        left.retain(|ended| beside.journal.holds(ended));
    }
}

impl Beside {
    /// What has to be written again now.
    fn fallen_behind(&self) -> VecDeque<Ended> {
        let entries = self.journal.entries();
        if !entries.is_empty() {
            warn!(
                event = "revocations-restored",
                count = entries.len(),
                "the store may have gone backwards; what ended here in the last 15 minutes is written again"
            );
        }
        entries.into()
    }
}

/// # Errors
/// What was not written.
async fn write_again(redis: &Redis, ended: Ended) -> Result<(), Ended> {
    let written = match ended {
        Ended::Session { key, reason, at, forget_at } => {
            redis.restore_end(&key, reason, at, forget_at).await
        }
        Ended::User { tag, line } => redis.restore_line(&tag, line).await,
        Ended::Everyone { line } => redis.restore_everyone(line).await,
    };
    written.map_err(|_| ended)
}
