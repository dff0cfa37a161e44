//! Sessions in Redis or Valkey, shared by several gateways.
//!
//! | key | holds |
//! | --- | --- |
//! | `dw:s:{TAG}:ID` | the packed slot: a sealed record or a tombstone |
//! | `dw:t:{TAG}:ID` | the last touch, in decimal |
//! | `dw:nb:{TAG}` | the user's line: `at`, or `at id` with the excepted session |
//! | `dw:u:{TAG}` | hash: id to `created forget_at`; `max` the greatest `created`; `kept` the entries left by the last sweep |
//! | `dw:m:{TAG}` | the user's memo, sealed |
//! | `dw:everyone` | the line of all users |
//! | `dw:ahead:{dw:everyone}` | the latest `created` that was ahead of Redis' own clock |
//!
//! Invariants:
//! - all keys of one user share the hash tag `{TAG}`, hence a cluster slot: every change of a user is one
//!   script
//! - the hot path is one MGET; a script runs only when something changes
//! - expiry is set by Redis' clock an hour after `forget_at`, and only ever moves later
//! - an error never shows the password
//!
//! Redis 6 or later, or Valkey. A user of an ACL needs the keys `~dw:*` and the commands `+mget +get +set
//! +del +getrange +pexpire +pttl +hget +hset +hdel +hlen +hgetall +scan +time +ping +eval +evalsha
//! +info +role +client|tracking +wait +asking +cluster|nodes`; one of a sentinel the command `sentinel|master`.
//!
//! | part | what |
//! | --- | --- |
//! | [`link`] | one question: where it goes, how often, how long |
//! | [`topology`] | which servers there are, from [`sentinel`]s or a [`cluster`]'s nodes |
//! | [`lanes`] | a worker's connections to one, also those on which writes wait for replicas |
//! | [`server`] | one of them, with the server's [`breaker`] |
//! | [`connection`] | a connection, whose answers are [`bounded`] |
//! | [`nodes`] | the primaries, for who follows changes |
//!
//! A command is repeated once when the connection broke, since each can be run twice without harm. A
//! command without an answer in time is not: Redis is slow then, and more work would not help it.

mod bounded;
mod breaker;
mod cluster;
pub(super) mod connection;
mod dial;
mod inspect;
mod lanes;
mod link;
mod listing;
mod measure;
pub(super) mod names;
pub(super) mod nodes;
mod scripts;
mod sentinel;
mod server;
mod settings;
mod slots;
mod tend;
mod tls;
mod topology;
mod trouble;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ::redis::cmd;
use bytes::Bytes;

use self::dial::Dialer;
pub use self::inspect::Advice;
use self::inspect::Advised;
use self::link::{Ask, Own, Place, Refused};
use self::names::{AHEAD, EVERYONE, Names, hex, id_of};
use self::scripts::{Call, Scripts};
use self::server::Wait;
pub use self::settings::RedisSettings;
use self::slots::Slot as HashSlot;
use self::topology::Topology;

use super::entry::{
    FORGET_SLACK, LINE_KEPT, MEMO_LIMIT, MOST_PER_USER, collision, live_prefix, pack_ended,
    pack_live, too_many, unpack,
};
use super::{Commit, Durability, Loaded, OpenError, Slot, Unavailable};
use crate::clock::UnixMillis;
use crate::config::RedisUrl;
use crate::session::{EndReason, NotBefore, SessionId, SessionKey, UserTag};

/// A handle with connections of its own, shared by its clones.
#[derive(Clone)]
pub(super) struct Redis {
    shared: Arc<Shared>,
    own: Arc<Own>,
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redis({})", self.shared.name)
    }
}

/// What all workers share.
struct Shared {
    /// The store as a whole, for errors.
    name: String,
    dialer: Arc<Dialer>,
    topology: Topology,
    scripts: Scripts,
    wait: Option<Wait>,
    counters: Counters,
    advised: Advised,
}

#[derive(Default)]
struct Counters {
    round_trips: AtomicU64,
    shed: AtomicU64,
}

impl Redis {
    pub(super) fn new(settings: &RedisSettings) -> Result<Redis, OpenError> {
        let url = RedisUrl::parse(&settings.url).map_err(OpenError::Redis)?;
        let dialer = Arc::new(Dialer::new(&url, settings)?);
        let wait = Wait { replicas: settings.wait_replicas, timeout: settings.wait_timeout };
        let shared = Shared {
            name: dial::name(&url.servers),
            topology: Topology::new(url.servers, &dialer),
            dialer,
            scripts: Scripts::new(),
            wait: (wait.replicas > 0).then_some(wait),
            counters: Counters::default(),
            advised: Advised::default(),
        };
        Ok(Redis { shared: Arc::new(shared), own: Arc::default() })
    }

    pub(super) fn for_worker(&self) -> Redis {
        Redis { shared: Arc::clone(&self.shared), own: Arc::default() }
    }

    pub(super) fn round_trips(&self) -> u64 {
        self.shared.counters.round_trips.load(Ordering::Relaxed)
    }

    /// Questions that were refused because too many waited.
    pub(super) fn shed(&self) -> u64 {
        self.shared.counters.shed.load(Ordering::Relaxed)
    }

    /// Whether there is something for an operator to change.
    pub(super) fn advises(&self, advice: Advice) -> bool {
        self.shared.advised.has(advice)
    }

    /// Primaries that are not asked for a moment.
    pub(super) fn left_alone(&self) -> usize {
        self.shared.topology.map().primaries.iter().filter(|one| one.breaker.is_open()).count()
    }

    pub(super) async fn load(&self, key: &SessionKey) -> Result<Loaded, Unavailable> {
        let names = Names::of(&key.tag);
        let wanted = [names.record(key.id), names.touch(key.id), names.line()];
        let mut command = cmd("MGET");
        command.arg(&wanted);
        let place = self.user(&key.tag);
        let read = match self.ask_settled(place, Ask::Command(&command)).await {
            Err(Refused::Unsettled) => self.one_by_one(place, wanted).await?,
            read => read?,
        };
        let [record, touched, line]: [Option<Vec<u8>>; 3] = read;
        Ok(Loaded {
            slot: self.slot(record)?,
            touched: self.millis(touched)?,
            not_before: self.line(line)?,
        })
    }

    /// While a slot moves, keys are here and there, and Redis answers for one at a time. The line is read
    /// last: a revocation in between is seen.
    async fn one_by_one(
        &self,
        place: Place<'_>,
        wanted: [String; 3],
    ) -> Result<[Option<Vec<u8>>; 3], Unavailable> {
        let mut read = [None, None, None];
        for (value, name) in read.iter_mut().zip(wanted) {
            let mut command = cmd("GET");
            command.arg(name);
            *value = self.ask(place, Ask::Command(&command)).await?;
        }
        Ok(read)
    }

    /// Where a user's keys are.
    fn user(&self, tag: &UserTag) -> Place<'static> {
        Place::Slot(HashSlot::of_user(tag))
    }

    fn everyone(&self) -> Place<'static> {
        Place::Slot(HashSlot::of_everyone())
    }

    pub(super) async fn create(
        &self,
        key: &SessionKey,
        sealed: &[u8],
        created: UnixMillis,
        forget_at: UnixMillis,
    ) -> Result<Durability, Unavailable> {
        let names = Names::of(&key.tag);
        let mut call = self.shared.scripts.create.call();
        call.key(names.record(key.id))
            .key(names.touch(key.id))
            .key(names.index())
            .arg(pack_live(1, sealed))
            .arg(expiry(forget_at))
            .arg(hex(key.id))
            .arg(exact(created))
            .arg(exact(forget_at))
            .arg(MOST_PER_USER)
            .arg(exact(created.minus(FORGET_SLACK)));
        match self.write(self.user(&key.tag), Ask::Script(&call)).await? {
            (1, durability) => Ok(durability),
            (2, durability) => self.begun_ahead(created).await.map(|()| durability),
            (0, _) => Err(collision()),
            (-1, _) => Err(too_many()),
            (other, _) => Err(self.strange(&format!("create answered {other}"))),
        }
    }

    /// Notes a session of a gateway whose clock is ahead before its login is acknowledged, so that an end
    /// of all sessions reaches it.
    async fn begun_ahead(&self, created: UnixMillis) -> Result<(), Unavailable> {
        let mut call = self.shared.scripts.raise.call();
        let kept = u64::try_from(LINE_KEPT.as_millis()).unwrap_or(u64::MAX);
        call.key(AHEAD.to_owned()).arg(exact(created)).arg(kept);
        self.write::<String>(self.everyone(), Ask::Script(&call)).await.map(|_| ())
    }

    /// Moves the line of all users to where it was, and no further.
    pub(super) async fn restore_everyone(&self, line: UnixMillis) -> Result<(), Unavailable> {
        let mut call = self.shared.scripts.raise.call();
        call.key(EVERYONE.to_owned()).arg(exact(line));
        self.ask::<String>(self.everyone(), Ask::Script(&call)).await.map(|_| ())
    }

    pub(super) async fn commit(
        &self,
        key: &SessionKey,
        expected: u64,
        sealed: &[u8],
        forget_at: UnixMillis,
    ) -> Result<Commit, Unavailable> {
        let names = Names::of(&key.tag);
        let mut call = self.shared.scripts.commit.call();
        call.key(names.record(key.id))
            .key(names.index())
            .arg(live_prefix(expected).as_slice())
            .arg(pack_live(expected.saturating_add(1), sealed))
            .arg(expiry(forget_at))
            .arg(hex(key.id))
            .arg(exact(forget_at));
        match self.ask(self.user(&key.tag), Ask::Script(&call)).await? {
            1 => Ok(Commit::Swapped),
            0 => Ok(Commit::Lost),
            other => Err(self.strange(&format!("commit answered {other}"))),
        }
    }

    pub(super) async fn touch(
        &self,
        key: &SessionKey,
        at: UnixMillis,
        forget_at: UnixMillis,
    ) -> Result<(), Unavailable> {
        let names = Names::of(&key.tag);
        let mut call = self.shared.scripts.touch.call();
        call.key(names.record(key.id))
            .key(names.touch(key.id))
            .arg(exact(at))
            .arg(expiry(forget_at));
        self.ask::<i64>(self.user(&key.tag), Ask::Script(&call)).await.map(|_| ())
    }

    pub(super) async fn end(
        &self,
        key: &SessionKey,
        reason: EndReason,
        at: UnixMillis,
        forget_at: UnixMillis,
    ) -> Result<Durability, Unavailable> {
        let call = self.tombstone(key, reason, at, forget_at);
        let written = self.write::<i64>(self.user(&key.tag), Ask::Script(&call)).await;
        written.map(|(_, durability)| durability)
    }

    /// Ends a session that was ended before and whose tombstone may be lost. Nobody asks how durable that
    /// is: thousands would wait for replicas that a failover has just taken away.
    pub(super) async fn restore_end(
        &self,
        key: &SessionKey,
        reason: EndReason,
        at: UnixMillis,
        forget_at: UnixMillis,
    ) -> Result<(), Unavailable> {
        let call = self.tombstone(key, reason, at, forget_at);
        self.ask::<i64>(self.user(&key.tag), Ask::Script(&call)).await.map(|_| ())
    }

    fn tombstone(
        &self,
        key: &SessionKey,
        reason: EndReason,
        at: UnixMillis,
        forget_at: UnixMillis,
    ) -> Call<'_> {
        let names = Names::of(&key.tag);
        let mut call = self.shared.scripts.end.call();
        call.key(names.record(key.id))
            .key(names.touch(key.id))
            .key(names.index())
            .arg(pack_ended(reason, at))
            .arg(expiry(forget_at))
            .arg(hex(key.id));
        call
    }

    pub(super) async fn revoke_user(
        &self,
        tag: &UserTag,
        now: UnixMillis,
        except: Option<SessionId>,
    ) -> Result<(NotBefore, Durability), Unavailable> {
        let names = Names::of(tag);
        let mut call = self.shared.scripts.revoke_user.call();
        call.key(names.line())
            .key(names.index())
            .arg(exact(now))
            .arg(except.map(hex).unwrap_or_default())
            .arg(u64::try_from(LINE_KEPT.as_millis()).unwrap_or(u64::MAX));
        let (line, durability) = self.write(self.user(tag), Ask::Script(&call)).await?;
        Ok((self.line(Some(line))?, durability))
    }

    /// Draws a line that was drawn before and may be lost. It ends what it ended then and nothing since.
    pub(super) async fn restore_line(
        &self,
        tag: &UserTag,
        line: NotBefore,
    ) -> Result<(), Unavailable> {
        let mut call = self.shared.scripts.restore_line.call();
        call.key(Names::of(tag).line())
            .arg(exact(line.at))
            .arg(line.except.map(hex).unwrap_or_default())
            .arg(u64::try_from(LINE_KEPT.as_millis()).unwrap_or(u64::MAX));
        self.ask::<i64>(self.user(tag), Ask::Script(&call)).await.map(|_| ())
    }

    pub(super) async fn not_before(&self, tag: &UserTag) -> Result<NotBefore, Unavailable> {
        let mut command = cmd("GET");
        command.arg(Names::of(tag).line());
        let line = self.ask(self.user(tag), Ask::Command(&command)).await?;
        self.line(line)
    }

    pub(super) async fn memo(&self, tag: &UserTag) -> Result<Option<Bytes>, Unavailable> {
        let mut command = cmd("GETRANGE");
        command.arg(Names::of(tag).memo()).arg(0).arg(MEMO_LIMIT);
        let read: Vec<u8> = self.ask(self.user(tag), Ask::Command(&command)).await?;
        Ok((!read.is_empty()).then(|| Bytes::from(read)))
    }

    pub(super) async fn swap_memo(
        &self,
        tag: &UserTag,
        expected: &[u8],
        sealed: &[u8],
        forget_at: UnixMillis,
    ) -> Result<Commit, Unavailable> {
        let mut call = self.shared.scripts.swap_memo.call();
        call.key(Names::of(tag).memo())
            .arg(expected)
            .arg(sealed)
            .arg(expiry(forget_at))
            .arg(MEMO_LIMIT);
        match self.ask(self.user(tag), Ask::Script(&call)).await? {
            1 => Ok(Commit::Swapped),
            0 => Ok(Commit::Lost),
            other => Err(self.strange(&format!("a memo's swap answered {other}"))),
        }
    }

    pub(super) async fn revoke_everyone(
        &self,
        now: UnixMillis,
    ) -> Result<(UnixMillis, Durability), Unavailable> {
        let mut call = self.shared.scripts.revoke_everyone.call();
        call.key(EVERYONE.to_owned()).key(AHEAD.to_owned()).arg(exact(now));
        let (line, durability) = self.write(self.everyone(), Ask::Script(&call)).await?;
        Ok((self.millis(Some(line))?, durability))
    }

    pub(super) async fn everyone_line(&self) -> Result<UnixMillis, Unavailable> {
        let mut command = cmd("GET");
        command.arg(EVERYONE);
        let line = self.ask(self.everyone(), Ask::Command(&command)).await?;
        self.millis(line)
    }

    pub(super) async fn ping(&self) -> Result<(), Unavailable> {
        self.ask::<String>(self.everyone(), Ask::Command(&cmd("PING"))).await.map(|_| ())
    }

    fn slot(&self, value: Option<Vec<u8>>) -> Result<Slot, Unavailable> {
        match value {
            None => Ok(Slot::Absent),
            Some(value) => unpack(Bytes::from(value))
                .ok_or_else(|| self.strange("a session's key holds what doorward did not write")),
        }
    }

    fn millis(&self, value: Option<Vec<u8>>) -> Result<UnixMillis, Unavailable> {
        match value {
            None => Ok(UnixMillis(0)),
            Some(value) => decimal(&value)
                .ok_or_else(|| self.strange("a time is not a number of milliseconds")),
        }
    }

    fn line(&self, value: Option<Vec<u8>>) -> Result<NotBefore, Unavailable> {
        match value {
            None => Ok(NotBefore::default()),
            Some(value) => not_before(&value)
                .ok_or_else(|| self.strange("a user's line is not what doorward writes")),
        }
    }

    fn strange(&self, what: &str) -> Unavailable {
        Unavailable(format!("Redis at {} answers strangely: {what}", self.shared.name))
    }
}

fn not_before(value: &[u8]) -> Option<NotBefore> {
    let mut parts = value.splitn(2, |byte| *byte == b' ');
    let at = decimal(parts.next()?)?;
    let except = match parts.next() {
        None => None,
        Some(id) => Some(id_of(id)?),
    };
    Some(NotBefore { at, except })
}

fn decimal(text: &[u8]) -> Option<UnixMillis> {
    std::str::from_utf8(text).ok()?.parse().ok().map(UnixMillis)
}

/// The greatest time that a script's floating-point numbers keep exact: the year 287396.
fn exact(at: UnixMillis) -> u64 {
    at.0.min((1 << 53) - 1)
}

fn expiry(forget_at: UnixMillis) -> u64 {
    exact(forget_at.plus(FORGET_SLACK))
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
    fn a_wrong_url_or_half_a_client_certificate_is_refused_at_start() {
        for url in ["", "http://localhost", "redis//localhost", "rediss://"] {
            assert!(Redis::new(&settings(url)).is_err(), "{url}");
        }
        let half = RedisSettings {
            client_cert: Some(PathBuf::from("cert.pem")),
            ..settings("rediss://localhost:6380")
        };
        assert!(matches!(Redis::new(&half), Err(OpenError::Redis(_))));
    }

    #[test]
    fn no_debug_text_and_no_error_shows_the_password() {
        let inside = settings("redis://someone:hunter2@localhost:1");
        let refused = Redis::new(&inside).expect_err("a password in an address");
        let settings = settings("redis://localhost:1");
        let redis = Redis::new(&settings).expect("a good URL");
        let quoted = "ERR unknown command, with args beginning with: `AUTH` `hunter2`".to_owned();
        let shown = [
            format!("{settings:?}"),
            format!("{redis:?}"),
            redis.shared.dialer.without_secrets(quoted),
        ];
        for text in shown.into_iter().chain([refused.to_string()]) {
            assert!(!text.contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn foreign_text_is_no_line() {
        let id = SessionId([7; 16]);
        let line = format!("12 {}", hex(id));
        assert_eq!(
            not_before(line.as_bytes()),
            Some(NotBefore { at: UnixMillis(12), except: Some(id) })
        );
        for foreign in ["", "x", "-1", "1 ", "1 zz", "1  ", "18446744073709551616"] {
            assert_eq!(not_before(foreign.as_bytes()), None, "{foreign}");
        }
    }
}
