//! Sessions in Redis or Valkey, shared by several gateways.
//!
//! | key | value |
//! | --- | --- |
//! | `dw:s:{TAG}:ID` | packed slot: a sealed record or a tombstone |
//! | `dw:t:{TAG}:ID` | last touch, decimal |
//! | `dw:nb:{TAG}` | user's cutoff: `at`, or `at id` with the excepted session |
//! | `dw:u:{TAG}` | hash: ID to `created retain_until`; `max`: the greatest `created`; `kept`: entries left by the last sweep |
//! | `dw:m:{TAG}` | user's sealed history |
//! | `dw:everyone` | global cutoff |
//! | `dw:ahead:{dw:everyone}` | greatest `created` that was ahead of Redis' own clock |
//!
//! Invariants:
//! - all keys of a user share the hash tag `{TAG}` and so a cluster slot: every change of a user is
//!   one script
//! - the hot path is one MGET; scripts run only for changes
//! - keys expire by Redis' clock an hour after `retain_until`; an expiry only moves later
//! - errors never contain the password
//!
//! Requires Redis 6 or Valkey. An ACL user needs the keys `~dw:*` and the commands `+mget +get +set
//! +del +getrange +pexpire +pttl +hget +hset +hdel +hlen +hgetall +scan +time +ping +eval +evalsha
//! +info +role +client|tracking +wait +asking +cluster|nodes`. A sentinel user needs
//! `sentinel|master`.
//!
//! | part | content |
//! | --- | --- |
//! | [`executor`] | one command: destination, attempts, deadline |
//! | [`topology`] | the primaries, from [`sentinel`]s or a [`cluster`] |
//! | [`pool`] | a worker's connections to one node |
//! | [`node`] | a node with its circuit [`breaker`] |
//! | [`connection`] | a connection with limited replies ([`bounded_stream`]) |
//! | [`primaries`] | the primaries, for invalidation |
//!
//! A command is retried once after a broken connection, because every command is idempotent. After
//! a timeout it is not: Redis is slow then, and a retry would add load.

mod bounded_stream;
mod breaker;
mod cluster;
pub(super) mod connection;
mod connector;
mod diagnostics;
mod errors;
mod executor;
pub(super) mod keys;
mod listing;
mod node;
mod pool;
pub(super) mod primaries;
mod refresh;
mod reply_limit;
mod scripts;
mod sentinel;
mod settings;
mod slots;
mod tls;
mod topology;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ::redis::cmd;
use bytes::Bytes;

use self::connector::Connector;
pub use self::diagnostics::Advice;
use self::diagnostics::AdviceFlags;
use self::executor::{CommandError, CommandRef, CommandTarget, WorkerConnections};
use self::keys::{GLOBAL_CUTOFF, LATEST_FUTURE_CREATED, UserKeys, encode_id, parse_id};
use self::node::ReplicaWait;
use self::scripts::{ScriptCall, Scripts};
pub use self::settings::RedisSettings;
use self::slots::HashSlot;
use self::topology::Topology;

use super::entry::{
    CUTOFF_RETENTION, MAX_HISTORY_BYTES, MAX_SESSIONS_PER_USER, RETENTION_SLACK, id_collision,
    live_prefix, pack_ended, pack_live, too_many_sessions, unpack,
};
use super::{CommitOutcome, Durability, Loaded, OpenError, Slot, Unavailable};
use crate::clock::UnixMillis;
use crate::config::RedisUrl;
use crate::session::{EndReason, RevocationCutoff, SessionId, SessionKey, UserTag};

/// A handle with its own connections. Clones share them.
#[derive(Clone)]
pub(super) struct RedisSessions {
    shared: Arc<RedisState>,
    connections: Arc<WorkerConnections>,
}

impl fmt::Debug for RedisSessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redis({})", self.shared.name)
    }
}

/// State shared by all workers.
struct RedisState {
    /// Name of the store, for errors.
    name: String,
    connector: Arc<Connector>,
    topology: Topology,
    scripts: Scripts,
    wait: Option<ReplicaWait>,
    counters: CommandCounters,
    advice: AdviceFlags,
}

#[derive(Default)]
struct CommandCounters {
    round_trips: AtomicU64,
    rejected: AtomicU64,
}

impl RedisSessions {
    pub(super) fn new(settings: &RedisSettings) -> Result<RedisSessions, OpenError> {
        let url = RedisUrl::parse(&settings.url).map_err(OpenError::Redis)?;
        let connector = Arc::new(Connector::new(&url, settings)?);
        let wait = ReplicaWait { replicas: settings.wait_replicas, timeout: settings.wait_timeout };
        let shared = RedisState {
            name: connector::display_name(&url.servers),
            topology: Topology::new(url.servers, &connector),
            connector,
            scripts: Scripts::new(),
            wait: (wait.replicas > 0).then_some(wait),
            counters: CommandCounters::default(),
            advice: AdviceFlags::default(),
        };
        Ok(RedisSessions { shared: Arc::new(shared), connections: Arc::default() })
    }

    pub(super) fn for_worker(&self) -> RedisSessions {
        RedisSessions { shared: Arc::clone(&self.shared), connections: Arc::default() }
    }

    pub(super) fn round_trips(&self) -> u64 {
        self.shared.counters.round_trips.load(Ordering::Relaxed)
    }

    /// Returns the commands rejected because too many were in flight.
    pub(super) fn rejected(&self) -> u64 {
        self.shared.counters.rejected.load(Ordering::Relaxed)
    }

    /// Reports whether an advice is active.
    pub(super) fn has_advice(&self, advice: Advice) -> bool {
        self.shared.advice.contains(advice)
    }

    /// Returns the number of primaries with an open circuit.
    pub(super) fn open_circuits(&self) -> usize {
        self.shared.topology.map().primaries.iter().filter(|one| one.breaker.is_open()).count()
    }

    pub(super) async fn load(&self, key: &SessionKey) -> Result<Loaded, Unavailable> {
        let keys = UserKeys::new(&key.tag);
        let wanted = [keys.record(key.id), keys.touch(key.id), keys.cutoff()];
        let mut command = cmd("MGET");
        command.arg(&wanted);
        let target = self.user_target(&key.tag);
        let read = match self.query_unless_migrating(target, CommandRef::Command(&command)).await {
            Err(CommandError::SlotMigrating) => self.load_one_by_one(target, wanted).await?,
            read => read?,
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
            let mut command = cmd("GET");
            command.arg(name);
            *value = self.query(target, CommandRef::Command(&command)).await?;
        }
        Ok(read)
    }

    /// Returns the slot of a user's keys.
    fn user_target(&self, tag: &UserTag) -> CommandTarget<'static> {
        CommandTarget::Slot(HashSlot::for_user(tag))
    }

    fn global_target(&self) -> CommandTarget<'static> {
        CommandTarget::Slot(HashSlot::global())
    }

    pub(super) async fn create(
        &self,
        key: &SessionKey,
        sealed: &[u8],
        created: UnixMillis,
        retain_until: UnixMillis,
    ) -> Result<Durability, Unavailable> {
        let keys = UserKeys::new(&key.tag);
        let mut call = self.shared.scripts.create.call();
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
        match self.write_replicated(self.user_target(&key.tag), CommandRef::Script(&call)).await? {
            (1, durability) => Ok(durability),
            (2, durability) => self.record_future_created(created).await.map(|()| durability),
            (0, _) => Err(id_collision()),
            (-1, _) => Err(too_many_sessions()),
            (other, _) => Err(self.unexpected_reply(&format!("create returned {other}"))),
        }
    }

    /// Records a session with a `created` ahead of Redis' clock before its login is acknowledged,
    /// so that [`RedisSessions::revoke_all_users`] covers it.
    async fn record_future_created(&self, created: UnixMillis) -> Result<(), Unavailable> {
        let mut call = self.shared.scripts.advance_time.call();
        let kept = u64::try_from(CUTOFF_RETENTION.as_millis()).unwrap_or(u64::MAX);
        call.key(LATEST_FUTURE_CREATED.to_owned()).arg(to_lua_number(created)).arg(kept);
        self.write_replicated::<String>(self.global_target(), CommandRef::Script(&call))
            .await
            .map(|_| ())
    }

    /// Advances the global cutoff to at least `cutoff`.
    pub(super) async fn restore_global_cutoff(
        &self,
        cutoff: UnixMillis,
    ) -> Result<(), Unavailable> {
        let mut call = self.shared.scripts.advance_time.call();
        call.key(GLOBAL_CUTOFF.to_owned()).arg(to_lua_number(cutoff));
        self.query::<String>(self.global_target(), CommandRef::Script(&call)).await.map(|_| ())
    }

    pub(super) async fn commit(
        &self,
        key: &SessionKey,
        expected: u64,
        sealed: &[u8],
        retain_until: UnixMillis,
    ) -> Result<CommitOutcome, Unavailable> {
        let keys = UserKeys::new(&key.tag);
        let mut call = self.shared.scripts.commit.call();
        call.key(keys.record(key.id))
            .key(keys.index())
            .arg(live_prefix(expected).as_slice())
            .arg(pack_live(expected.saturating_add(1), sealed))
            .arg(expiry(retain_until))
            .arg(encode_id(key.id))
            .arg(to_lua_number(retain_until));
        match self.query(self.user_target(&key.tag), CommandRef::Script(&call)).await? {
            1 => Ok(CommitOutcome::Swapped),
            0 => Ok(CommitOutcome::Conflict),
            other => Err(self.unexpected_reply(&format!("commit returned {other}"))),
        }
    }

    pub(super) async fn touch(
        &self,
        key: &SessionKey,
        at: UnixMillis,
        retain_until: UnixMillis,
    ) -> Result<(), Unavailable> {
        let keys = UserKeys::new(&key.tag);
        let mut call = self.shared.scripts.touch.call();
        call.key(keys.record(key.id))
            .key(keys.touch(key.id))
            .arg(to_lua_number(at))
            .arg(expiry(retain_until));
        self.query::<i64>(self.user_target(&key.tag), CommandRef::Script(&call)).await.map(|_| ())
    }

    pub(super) async fn end(
        &self,
        key: &SessionKey,
        reason: EndReason,
        at: UnixMillis,
        retain_until: UnixMillis,
    ) -> Result<Durability, Unavailable> {
        let call = self.tombstone(key, reason, at, retain_until);
        let written = self
            .write_replicated::<i64>(self.user_target(&key.tag), CommandRef::Script(&call))
            .await;
        written.map(|(_, durability)| durability)
    }

    /// Writes a lost tombstone again. It does not wait for replicas: after a failover, thousands of
    /// restores would wait for missing ones.
    pub(super) async fn restore_end(
        &self,
        key: &SessionKey,
        reason: EndReason,
        at: UnixMillis,
        retain_until: UnixMillis,
    ) -> Result<(), Unavailable> {
        let call = self.tombstone(key, reason, at, retain_until);
        self.query::<i64>(self.user_target(&key.tag), CommandRef::Script(&call)).await.map(|_| ())
    }

    fn tombstone(
        &self,
        key: &SessionKey,
        reason: EndReason,
        at: UnixMillis,
        retain_until: UnixMillis,
    ) -> ScriptCall<'_> {
        let keys = UserKeys::new(&key.tag);
        let mut call = self.shared.scripts.end.call();
        call.key(keys.record(key.id))
            .key(keys.touch(key.id))
            .key(keys.index())
            .arg(pack_ended(reason, at))
            .arg(expiry(retain_until))
            .arg(encode_id(key.id));
        call
    }

    pub(super) async fn revoke_user(
        &self,
        tag: &UserTag,
        now: UnixMillis,
        except: Option<SessionId>,
    ) -> Result<(RevocationCutoff, Durability), Unavailable> {
        let keys = UserKeys::new(tag);
        let mut call = self.shared.scripts.revoke_user.call();
        call.key(keys.cutoff())
            .key(keys.index())
            .arg(to_lua_number(now))
            .arg(except.map(encode_id).unwrap_or_default())
            .arg(u64::try_from(CUTOFF_RETENTION.as_millis()).unwrap_or(u64::MAX));
        let (cutoff, durability) =
            self.write_replicated(self.user_target(tag), CommandRef::Script(&call)).await?;
        Ok((self.parse_cutoff(Some(cutoff))?, durability))
    }

    /// Restores a user's cutoff. It revokes the same sessions as before and no newer ones.
    pub(super) async fn restore_user_cutoff(
        &self,
        tag: &UserTag,
        cutoff: RevocationCutoff,
    ) -> Result<(), Unavailable> {
        let mut call = self.shared.scripts.restore_cutoff.call();
        call.key(UserKeys::new(tag).cutoff())
            .arg(to_lua_number(cutoff.at))
            .arg(cutoff.except.map(encode_id).unwrap_or_default())
            .arg(u64::try_from(CUTOFF_RETENTION.as_millis()).unwrap_or(u64::MAX));
        self.query::<i64>(self.user_target(tag), CommandRef::Script(&call)).await.map(|_| ())
    }

    pub(super) async fn user_cutoff(&self, tag: &UserTag) -> Result<RevocationCutoff, Unavailable> {
        let mut command = cmd("GET");
        command.arg(UserKeys::new(tag).cutoff());
        let cutoff = self.query(self.user_target(tag), CommandRef::Command(&command)).await?;
        self.parse_cutoff(cutoff)
    }

    pub(super) async fn user_history(&self, tag: &UserTag) -> Result<Option<Bytes>, Unavailable> {
        let mut command = cmd("GETRANGE");
        command.arg(UserKeys::new(tag).history()).arg(0).arg(MAX_HISTORY_BYTES);
        let read: Vec<u8> =
            self.query(self.user_target(tag), CommandRef::Command(&command)).await?;
        Ok((!read.is_empty()).then(|| Bytes::from(read)))
    }

    pub(super) async fn swap_user_history(
        &self,
        tag: &UserTag,
        expected: &[u8],
        sealed: &[u8],
        retain_until: UnixMillis,
    ) -> Result<CommitOutcome, Unavailable> {
        let mut call = self.shared.scripts.swap_history.call();
        call.key(UserKeys::new(tag).history())
            .arg(expected)
            .arg(sealed)
            .arg(expiry(retain_until))
            .arg(MAX_HISTORY_BYTES);
        match self.query(self.user_target(tag), CommandRef::Script(&call)).await? {
            1 => Ok(CommitOutcome::Swapped),
            0 => Ok(CommitOutcome::Conflict),
            other => {
                Err(self.unexpected_reply(&format!("the swap of a user history returned {other}")))
            }
        }
    }

    pub(super) async fn revoke_all_users(
        &self,
        now: UnixMillis,
    ) -> Result<(UnixMillis, Durability), Unavailable> {
        let mut call = self.shared.scripts.revoke_all_users.call();
        call.key(GLOBAL_CUTOFF.to_owned())
            .key(LATEST_FUTURE_CREATED.to_owned())
            .arg(to_lua_number(now));
        let (cutoff, durability) =
            self.write_replicated(self.global_target(), CommandRef::Script(&call)).await?;
        Ok((self.parse_millis(Some(cutoff))?, durability))
    }

    pub(super) async fn global_cutoff(&self) -> Result<UnixMillis, Unavailable> {
        let mut command = cmd("GET");
        command.arg(GLOBAL_CUTOFF);
        let cutoff = self.query(self.global_target(), CommandRef::Command(&command)).await?;
        self.parse_millis(cutoff)
    }

    pub(super) async fn ping(&self) -> Result<(), Unavailable> {
        self.query::<String>(self.global_target(), CommandRef::Command(&cmd("PING")))
            .await
            .map(|_| ())
    }

    fn parse_slot(&self, value: Option<Vec<u8>>) -> Result<Slot, Unavailable> {
        match value {
            None => Ok(Slot::Absent),
            Some(value) => unpack(Bytes::from(value)).ok_or_else(|| {
                self.unexpected_reply("a session key has a value that doorward did not write")
            }),
        }
    }

    fn parse_millis(&self, value: Option<Vec<u8>>) -> Result<UnixMillis, Unavailable> {
        match value {
            None => Ok(UnixMillis(0)),
            Some(value) => parse_decimal(&value)
                .ok_or_else(|| self.unexpected_reply("a time is not a number of milliseconds")),
        }
    }

    fn parse_cutoff(&self, value: Option<Vec<u8>>) -> Result<RevocationCutoff, Unavailable> {
        match value {
            None => Ok(RevocationCutoff::default()),
            Some(value) => parse_cutoff_text(&value).ok_or_else(|| {
                self.unexpected_reply("a user's cutoff has a value that doorward did not write")
            }),
        }
    }

    fn unexpected_reply(&self, detail: &str) -> Unavailable {
        Unavailable(format!("Redis at {} sent an unexpected reply: {detail}", self.shared.name))
    }
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

fn parse_decimal(text: &[u8]) -> Option<UnixMillis> {
    std::str::from_utf8(text).ok()?.parse().ok().map(UnixMillis)
}

/// Limits a time to the range in which Lua numbers are exact, until the year 287396.
fn to_lua_number(at: UnixMillis) -> u64 {
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
            assert!(RedisSessions::new(&settings(url)).is_err(), "{url}");
        }
        let half = RedisSettings {
            client_cert: Some(PathBuf::from("cert.pem")),
            ..settings("rediss://localhost:6380")
        };
        assert!(matches!(RedisSessions::new(&half), Err(OpenError::Redis(_))));
    }

    #[test]
    fn debug_output_and_errors_never_show_the_password() {
        let inside = settings("redis://someone:hunter2@localhost:1");
        let refused = RedisSessions::new(&inside).expect_err("a password in an address");
        let settings = settings("redis://localhost:1");
        let redis = RedisSessions::new(&settings).expect("a good URL");
        let quoted = "ERR unknown command, with args beginning with: `AUTH` `hunter2`".to_owned();
        let shown =
            [format!("{settings:?}"), format!("{redis:?}"), redis.shared.connector.redact(quoted)];
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
