//! The commands of the Redis store.
//!
//! Invariant: when a write returns, with any result, no proof from before it remains. A
//! failed write may have been applied.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::redis::{Cmd, FromRedisValue, cmd};
use bytes::Bytes;
use tokio::sync::broadcast;

use super::diagnostics::{self, Advice, AdviceFlags};
use super::keys::{
    LATEST_FUTURE_CREATED, PROBE, UserKeys, encode_id, global_target, parse_id, user_target,
};
use super::scripts::Scripts;
use super::shared_state::{InvalidateOnDrop, SharedState};
use crate::clock::UnixMillis;
use crate::redis::{
    CommandError, CommandRef, CommandTarget, Primaries, RedisClient, RedisSettings,
    RedisUnavailable, ScriptCall,
};
use crate::session::{EndReason, RevocationCutoff, SessionKey, UserTag};
use crate::store::cache::{CacheStats, DualInstant};
use crate::store::entry::{
    CUTOFF_RETENTION, MAX_HISTORY_BYTES, MAX_SESSIONS_PER_USER, RETENTION_SLACK, id_collision,
    live_prefix, pack_ended, pack_live, too_many_sessions, unpack,
};
use crate::store::revocation_log::Revocation;
use crate::store::types::{
    CommitOutcome, Durability, EndedSession, ExpiredSession, Loaded, Slot, StoreChange,
    StoreOpenError, Unavailable,
};

/// Redis and the process-local state. Clones share a connection; each worker has its own.
#[derive(Clone)]
pub struct RedisStore {
    pub(super) client: RedisClient,
    pub(super) scripts: Arc<Scripts>,
    advice: Arc<AdviceFlags>,
    shared: Arc<SharedState>,
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.client.fmt(f)
    }
}

impl RedisStore {
    pub(in crate::store) fn new(settings: &RedisSettings) -> Result<RedisStore, StoreOpenError> {
        let client =
            RedisClient::new(settings).map_err(|error| StoreOpenError::Redis(error.to_string()))?;
        let shared = Arc::new(SharedState::new(settings.local_cache));
        Ok(RedisStore { client, scripts: Arc::new(Scripts::new()), advice: Arc::default(), shared })
    }

    pub(in crate::store) fn for_worker(&self) -> RedisStore {
        RedisStore { client: self.client.for_worker(), ..self.clone() }
    }

    pub(in crate::store) fn subscribe(&self) -> broadcast::Receiver<StoreChange> {
        self.shared.subscribe()
    }

    pub(in crate::store) fn shared(&self) -> &Arc<SharedState> {
        &self.shared
    }

    pub(in crate::store) fn primaries(&self) -> Primaries {
        self.client.primaries()
    }

    pub(in crate::store) async fn run_topology_refresh(&self) {
        self.client.run_topology_refresh().await;
    }

    pub(in crate::store) async fn run_diagnostics(&self) {
        diagnostics::run(&self.client, &self.advice).await;
    }

    pub(in crate::store) fn stats(&self) -> RedisStats {
        RedisStats {
            round_trips: self.client.round_trips(),
            rejected: self.client.rejected(),
            open_circuits: self.client.open_circuits(),
            advice: Advice::ALL.map(|advice| self.advice.contains(advice)),
            cache: self.shared.cache.stats(),
            staleness: self.shared.cache.freshness.age(DualInstant::now()),
        }
    }

    /// Returns the total deadline of a request: two slow replies, and three waits for replicas,
    /// because a login may also end older sessions.
    pub(in crate::store) fn request_deadline(&self) -> Duration {
        self.client.total_deadline(2, 3)
    }

    /// Loads a session, and applies the revocation log.
    pub(in crate::store) async fn load(&self, key: &SessionKey) -> Result<Loaded, Unavailable> {
        Ok(self.shared.revocation_log.apply(key, self.load_stored(key).await?))
    }

    async fn load_stored(&self, key: &SessionKey) -> Result<Loaded, Unavailable> {
        let keys = UserKeys::new(&key.tag);
        let wanted = [keys.record(key.id), keys.touch(key.id), keys.cutoff()];
        let mut command = cmd("MGET");
        command.arg(&wanted);
        let target = user_target(&key.tag);
        let read =
            match self.client.query_unless_migrating(target, CommandRef::Command(&command)).await {
                Err(CommandError::SlotMigrating) => self.load_one_by_one(target, wanted).await?,
                read => read.map_err(RedisUnavailable::from)?,
            };
        let [record, touched, cutoff]: [Option<Vec<u8>>; 3] = read;
        Ok(Loaded {
            slot: self.parse_slot(record)?,
            touched: self.parse_millis(touched)?,
            user_cutoff: self.parse_cutoff(cutoff)?,
        })
    }

    /// Loads a session with one command per key, for a migrating slot. The cutoff is read last, so
    /// a revocation in between is seen.
    async fn load_one_by_one(
        &self,
        target: CommandTarget<'_>,
        wanted: [String; 3],
    ) -> Result<[Option<Vec<u8>>; 3], Unavailable> {
        let mut read = [None, None, None];
        for (value, name) in read.iter_mut().zip(wanted) {
            *value = self.read(target, &name).await?;
        }
        Ok(read)
    }

    /// Reads a string; `None` if the key is missing or has another type, as in a load.
    pub(super) async fn read(
        &self,
        target: CommandTarget<'_>,
        name: &str,
    ) -> Result<Option<Vec<u8>>, Unavailable> {
        let mut command = cmd("MGET");
        command.arg(name);
        let [value]: [Option<Vec<u8>>; 1] = self.query(target, &command).await?;
        Ok(value)
    }

    pub(in crate::store) async fn create(
        &self,
        key: &SessionKey,
        sealed: &[u8],
        created: UnixMillis,
        retain_until: UnixMillis,
    ) -> Result<Durability, Unavailable> {
        let _guard = self.invalidate_on_drop(StoreChange::Session(*key));
        let keys = UserKeys::new(&key.tag);
        let mut call = self.scripts.create.call();
        call.key(keys.record(key.id))
            .key(keys.touch(key.id))
            .key(keys.index())
            .arg(pack_live(1, sealed))
            .arg(expiry(retain_until))
            .arg(encode_id(key.id))
            .arg(to_lua_number(created))
            .arg(to_lua_number(retain_until))
            .arg(MAX_SESSIONS_PER_USER)
            .arg(to_lua_number(created.minus(RETENTION_SLACK)));
        match self.run_replicated(user_target(&key.tag), &call).await? {
            (1, durability) => Ok(durability),
            (2, durability) => self.record_future_created(created).await.map(|()| durability),
            (0, _) => Err(id_collision()),
            (-1, _) => Err(too_many_sessions()),
            (other, _) => Err(self.unexpected_reply(&format!("create returned {other}"))),
        }
    }

    /// Records a session with a `created` ahead of Redis' clock before its login is acknowledged,
    /// so that [`RedisStore::revoke_all_users`] covers it.
    async fn record_future_created(&self, created: UnixMillis) -> Result<(), Unavailable> {
        let mut call = self.scripts.advance_time.call();
        let kept = u64::try_from(CUTOFF_RETENTION.as_millis()).unwrap_or(u64::MAX);
        call.key(LATEST_FUTURE_CREATED.to_owned()).arg(to_lua_number(created)).arg(kept);
        self.run_replicated::<String>(global_target(), &call).await.map(|_| ())
    }

    pub(in crate::store) async fn commit(
        &self,
        key: &SessionKey,
        expected: u64,
        sealed: &[u8],
        retain_until: UnixMillis,
    ) -> Result<CommitOutcome, Unavailable> {
        let _guard = self.invalidate_on_drop(StoreChange::Session(*key));
        let keys = UserKeys::new(&key.tag);
        let mut call = self.scripts.commit.call();
        call.key(keys.record(key.id))
            .key(keys.index())
            .arg(live_prefix(expected).as_slice())
            .arg(pack_live(expected.saturating_add(1), sealed))
            .arg(expiry(retain_until))
            .arg(encode_id(key.id))
            .arg(to_lua_number(retain_until));
        match self.run(user_target(&key.tag), &call).await? {
            1 => Ok(CommitOutcome::Swapped),
            0 => Ok(CommitOutcome::Conflict),
            other => Err(self.unexpected_reply(&format!("commit returned {other}"))),
        }
    }

    /// Updates the cached touch. After a failure the proof is removed instead: a proven touch must
    /// not be later than the stored one.
    pub(in crate::store) async fn touch(
        &self,
        key: &SessionKey,
        at: UnixMillis,
        retain_until: UnixMillis,
    ) -> Result<(), Unavailable> {
        let guard = self.invalidate_on_drop(StoreChange::Session(*key));
        let keys = UserKeys::new(&key.tag);
        let mut call = self.scripts.touch.call();
        call.key(keys.record(key.id))
            .key(keys.touch(key.id))
            .arg(to_lua_number(at))
            .arg(expiry(retain_until));
        self.run::<i64>(user_target(&key.tag), &call).await?;
        guard.disarm();
        self.shared.cache.update_touch(key, at);
        Ok(())
    }

    pub(in crate::store) async fn end(
        &self,
        key: &SessionKey,
        reason: EndReason,
        at: UnixMillis,
        retain_until: UnixMillis,
    ) -> Result<EndedSession, Unavailable> {
        let _guard = self.invalidate_on_drop(StoreChange::Session(*key));
        let call = self.tombstone(key, reason, at, retain_until);
        let (first, durability) = self.run_replicated(user_target(&key.tag), &call).await?;
        self.record(Revocation::Session { key: *key, reason, at, retain_until });
        Ok(EndedSession { durability, is_first: first })
    }

    pub(in crate::store) async fn expire(
        &self,
        session: &ExpiredSession,
        reason: EndReason,
        at: UnixMillis,
    ) -> Result<bool, Unavailable> {
        let key = &session.key;
        let _guard = self.invalidate_on_drop(StoreChange::Session(*key));
        let keys = UserKeys::new(&key.tag);
        let mut call = self.scripts.expire.call();
        call.key(keys.record(key.id))
            .key(keys.touch(key.id))
            .key(keys.index())
            .arg(live_prefix(session.revision).as_slice())
            .arg(to_lua_number(session.touched))
            .arg(to_lua_number(session.due))
            .arg(pack_ended(reason, at))
            .arg(expiry(session.retain_until))
            .arg(encode_id(key.id));
        self.run(user_target(&key.tag), &call).await
    }

    /// Writes a lost tombstone again. It does not wait for replicas: after a failover, thousands of
    /// restores would wait for missing ones.
    pub(in crate::store) async fn restore_end(
        &self,
        key: &SessionKey,
        reason: EndReason,
        at: UnixMillis,
        retain_until: UnixMillis,
    ) -> Result<(), Unavailable> {
        let call = self.tombstone(key, reason, at, retain_until);
        self.run::<i64>(user_target(&key.tag), &call).await.map(|_| ())
    }

    fn tombstone(
        &self,
        key: &SessionKey,
        reason: EndReason,
        at: UnixMillis,
        retain_until: UnixMillis,
    ) -> ScriptCall<'_> {
        let keys = UserKeys::new(&key.tag);
        let mut call = self.scripts.end.call();
        call.key(keys.record(key.id))
            .key(keys.touch(key.id))
            .key(keys.index())
            .arg(pack_ended(reason, at))
            .arg(expiry(retain_until))
            .arg(encode_id(key.id));
        call
    }

    pub(in crate::store) async fn user_history(
        &self,
        tag: &UserTag,
    ) -> Result<Option<Bytes>, Unavailable> {
        let (target, name) = (user_target(tag), UserKeys::new(tag).history());
        let mut command = cmd("GETRANGE");
        command.arg(&name).arg(0).arg(MAX_HISTORY_BYTES);
        let read: Vec<u8> = match self.query(target, &command).await {
            // A key of another type is no history, and the next write replaces it.
            Err(error) => match self.read(target, &name).await? {
                None => Vec::new(),
                Some(_) => return Err(error),
            },
            read => read?,
        };
        Ok((!read.is_empty()).then(|| Bytes::from(read)))
    }

    pub(in crate::store) async fn swap_user_history(
        &self,
        tag: &UserTag,
        expected: &[u8],
        sealed: &[u8],
        retain_until: UnixMillis,
    ) -> Result<CommitOutcome, Unavailable> {
        let mut call = self.scripts.swap_history.call();
        call.key(UserKeys::new(tag).history())
            .arg(expected)
            .arg(sealed)
            .arg(expiry(retain_until))
            .arg(MAX_HISTORY_BYTES);
        match self.run(user_target(tag), &call).await? {
            1 => Ok(CommitOutcome::Swapped),
            0 => Ok(CommitOutcome::Conflict),
            other => {
                Err(self.unexpected_reply(&format!("the swap of a user history returned {other}")))
            }
        }
    }

    /// Writes, because a Redis without memory, disk or enough replicas still answers reads.
    pub(in crate::store) async fn ping(&self) -> Result<(), Unavailable> {
        let mut command = cmd("SET");
        command.arg(PROBE).arg(1).arg("PX").arg(60_000);
        self.query::<String>(global_target(), &command).await.map(|_| ())
    }

    /// Connects, so that the primaries are known.
    pub(super) async fn connect(&self) -> Result<(), Unavailable> {
        self.query::<String>(global_target(), &cmd("PING")).await.map(|_| ())
    }

    /// Reports whether another program replaced the index of a user by a key of another type.
    pub(super) async fn is_foreign_index(&self, tag: &UserTag) -> Result<bool, Unavailable> {
        let mut call = self.scripts.is_foreign_index.call();
        call.key(UserKeys::new(tag).index());
        self.run(user_target(tag), &call).await
    }

    pub(super) fn parse_slot(&self, value: Option<Vec<u8>>) -> Result<Slot, Unavailable> {
        match value {
            None => Ok(Slot::Absent),
            Some(value) => unpack(Bytes::from(value)).ok_or_else(|| {
                self.unexpected_reply("a session key has a value that doorward did not write")
            }),
        }
    }

    pub(super) fn parse_millis(&self, value: Option<Vec<u8>>) -> Result<UnixMillis, Unavailable> {
        match value {
            None => Ok(UnixMillis(0)),
            Some(value) => parse_decimal(&value)
                .ok_or_else(|| self.unexpected_reply("a time is not a number of milliseconds")),
        }
    }

    pub(super) fn parse_cutoff(
        &self,
        value: Option<Vec<u8>>,
    ) -> Result<RevocationCutoff, Unavailable> {
        match value {
            None => Ok(RevocationCutoff::default()),
            Some(value) => parse_cutoff_text(&value).ok_or_else(|| {
                self.unexpected_reply("a user's cutoff has a value that doorward did not write")
            }),
        }
    }
}

impl RedisStore {
    pub(super) async fn query<T: FromRedisValue>(
        &self,
        target: CommandTarget<'_>,
        command: &Cmd,
    ) -> Result<T, Unavailable> {
        Ok(self.client.query(target, CommandRef::Command(command)).await?)
    }

    pub(super) async fn run<T: FromRedisValue>(
        &self,
        target: CommandTarget<'_>,
        call: &ScriptCall<'_>,
    ) -> Result<T, Unavailable> {
        Ok(self.client.query(target, CommandRef::Script(call)).await?)
    }

    /// Runs a script and waits for replicas.
    pub(super) async fn run_replicated<T: FromRedisValue>(
        &self,
        target: CommandTarget<'_>,
        call: &ScriptCall<'_>,
    ) -> Result<(T, Durability), Unavailable> {
        let (value, replication) =
            self.client.write_replicated(target, CommandRef::Script(call)).await?;
        Ok((value, Durability::from(replication)))
    }

    fn unexpected_reply(&self, detail: &str) -> Unavailable {
        self.client.unexpected_reply(detail).into()
    }

    pub(super) fn record(&self, revocation: Revocation) {
        self.shared.revocation_log.record(revocation, Instant::now());
    }

    pub(super) fn invalidate_on_drop(&self, change: StoreChange) -> InvalidateOnDrop<'_> {
        InvalidateOnDrop::new(&self.shared, change)
    }
}

/// Counters and gauges of the Redis store, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RedisStats {
    pub round_trips: u64,
    /// Commands rejected because too many were in flight.
    pub rejected: u64,
    /// Nodes whose circuit breaker is open.
    pub open_circuits: usize,
    /// Active advice for the operator, in the order of [`Advice::ALL`].
    pub advice: [bool; Advice::ALL.len()],
    /// Cache statistics; `None` when the cache is disabled.
    pub cache: Option<CacheStats>,
    /// Time since all changes were last confirmed to have arrived; `None` if unconfirmed.
    pub staleness: Option<Duration>,
}

fn parse_cutoff_text(value: &[u8]) -> Option<RevocationCutoff> {
    let mut parts = value.splitn(2, |byte| *byte == b' ');
    let at = parse_decimal(parts.next()?)?;
    let except = match parts.next() {
        None => None,
        Some(id) => Some(parse_id(id)?),
    };
    Some(RevocationCutoff { at, except })
}

pub(super) fn parse_decimal(text: &[u8]) -> Option<UnixMillis> {
    std::str::from_utf8(text).ok()?.parse().ok().map(UnixMillis)
}

/// Limits a time to the range in which Lua numbers are exact, until the year 287396.
pub(super) fn to_lua_number(at: UnixMillis) -> u64 {
    at.0.min((1 << 53) - 1)
}

fn expiry(retain_until: UnixMillis) -> u64 {
    to_lua_number(retain_until.plus(RETENTION_SLACK))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use zeroize::Zeroizing;

    use super::*;
    use crate::session::SessionId;

    fn settings(url: &str) -> RedisSettings {
        RedisSettings {
            url: url.to_owned(),
            password: Some(Zeroizing::new("hunter2".to_owned())),
            ..RedisSettings::default()
        }
    }

    #[test]
    fn an_invalid_url_or_client_certificate_is_rejected_at_startup() {
        for url in ["", "http://localhost", "redis//localhost", "rediss://"] {
            assert!(RedisStore::new(&settings(url)).is_err(), "{url}");
        }
        let half = RedisSettings {
            client_cert: Some(PathBuf::from("cert.pem")),
            ..settings("rediss://localhost:6380")
        };
        assert!(matches!(RedisStore::new(&half), Err(StoreOpenError::Redis(_))));
    }

    #[test]
    fn debug_output_and_errors_never_show_the_password() {
        let inside = settings("redis://someone:hunter2@localhost:1");
        let refused = RedisStore::new(&inside).expect_err("a password in an address");
        let settings = settings("redis://localhost:1");
        let redis = RedisStore::new(&settings).expect("a good URL");
        let quoted = "ERR unknown command, with args beginning with: `AUTH` `hunter2`".to_owned();
        let shown = [format!("{settings:?}"), format!("{redis:?}"), redis.client.redact(quoted)];
        for text in shown.into_iter().chain([refused.to_string()]) {
            assert!(!text.contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn foreign_text_is_rejected_as_a_cutoff() {
        let id = SessionId([7; 16]);
        let cutoff = format!("12 {}", encode_id(id));
        assert_eq!(
            parse_cutoff_text(cutoff.as_bytes()),
            Some(RevocationCutoff { at: UnixMillis(12), except: Some(id) })
        );
        for foreign in ["", "x", "-1", "1 ", "1 zz", "1  ", "18446744073709551616"] {
            assert_eq!(parse_cutoff_text(foreign.as_bytes()), None, "{foreign}");
        }
    }
}
