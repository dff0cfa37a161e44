//! Sessions in Redis or Valkey, shared by several gateways.
//!
//! | key | holds |
//! | --- | --- |
//! | `dw:s:{TAG}:ID` | the packed slot: a sealed record or a tombstone |
//! | `dw:t:{TAG}:ID` | the last touch, in decimal |
//! | `dw:nb:{TAG}` | the user's line: `at`, or `at id` with the excepted session |
//! | `dw:u:{TAG}` | hash: id to `created forget_at`; `max` the greatest `created`; `kept` the entries left by the last sweep |
//! | `dw:everyone` | the line of all users |
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
//! +script|load +info +client|tracking`.
//!
//! A command is repeated once when the connection broke, since each can be run twice without harm. A
//! command without an answer in time is not: Redis is slow then, and more work would not help it.

mod link;
pub(super) mod names;
pub(super) mod nodes;
mod scripts;

use std::collections::HashSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::redis::{Client, cmd};
use bytes::Bytes;
use zeroize::Zeroizing;

use self::link::{Ask, Connection, client, connection_info, secrets};
use self::names::{ALL_INDEXES, EVERYONE, Names, hex, id_of};
use self::scripts::Scripts;

use super::entry::{
    FORGET_SLACK, LINE_KEPT, MOST_PER_USER, collision, live_prefix, pack_ended, pack_live,
    too_many, unpack,
};
use super::memory::newest_first;
use super::{Commit, LISTED_MOST, Listed, Loaded, OpenError, Slot, Unavailable};
use crate::clock::UnixMillis;
use crate::session::{EndReason, NotBefore, SessionId, SessionKey, UserTag};

/// Keys that one SCAN step looks at.
const SCAN_COUNT: usize = 1_000;

/// Where Redis is and how to reach it.
#[derive(Clone)]
pub struct RedisSettings {
    /// `redis://` or `rediss://`, with host, port and database.
    pub url: String,
    /// PEM file with the authorities that may vouch for the server; the system's when absent.
    pub ca: Option<PathBuf>,
    /// PEM file with our certificate chain, for a server that asks for one.
    pub client_cert: Option<PathBuf>,
    /// PEM file with the key of `client_cert`.
    pub client_key: Option<PathBuf>,
    pub username: Option<String>,
    pub password: Option<Zeroizing<String>>,
    /// How long one command may take.
    pub response_timeout: Duration,
    /// Whether what Redis said of a session is believed until it tells of a change.
    pub local_cache: bool,
}

impl Default for RedisSettings {
    fn default() -> RedisSettings {
        RedisSettings {
            url: "redis://127.0.0.1:6379".to_owned(),
            ca: None,
            client_cert: None,
            client_key: None,
            username: None,
            password: None,
            response_timeout: Duration::from_millis(500),
            local_cache: true,
        }
    }
}

impl fmt::Debug for RedisSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisSettings")
            .field("ca", &self.ca)
            .field("client_cert", &self.client_cert)
            .field("username", &self.username)
            .field("response_timeout", &self.response_timeout)
            .field("local_cache", &self.local_cache)
            .finish_non_exhaustive()
    }
}

/// A Redis server: one connection, shared by the clones of this handle.
#[derive(Clone)]
pub(super) struct Redis {
    shared: Arc<Shared>,
    connection: Arc<Mutex<Connection>>,
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redis({})", self.shared.address)
    }
}

/// What all workers share.
struct Shared {
    client: Client,
    address: String,
    /// Texts that must not appear in an error.
    secrets: Vec<Zeroizing<String>>,
    response_timeout: Duration,
    scripts: Scripts,
    round_trips: AtomicU64,
}

impl Redis {
    pub(super) fn new(settings: &RedisSettings) -> Result<Redis, OpenError> {
        let info = connection_info(settings)?;
        let address = info.addr().to_string();
        let secrets = secrets(&info);
        let client = client(info, settings)?;
        let shared = Shared {
            client,
            address,
            secrets,
            response_timeout: settings.response_timeout,
            scripts: Scripts::new(),
            round_trips: AtomicU64::new(0),
        };
        Ok(Redis { shared: Arc::new(shared), connection: Arc::default() })
    }

    pub(super) fn for_worker(&self) -> Redis {
        Redis { shared: Arc::clone(&self.shared), connection: Arc::default() }
    }

    pub(super) fn round_trips(&self) -> u64 {
        self.shared.round_trips.load(Ordering::Relaxed)
    }

    pub(super) async fn load(&self, key: &SessionKey) -> Result<Loaded, Unavailable> {
        let names = Names::of(&key.tag);
        let mut command = cmd("MGET");
        command.arg(names.record(key.id)).arg(names.touch(key.id)).arg(names.line());
        let [record, touched, line]: [Option<Vec<u8>>; 3] =
            self.ask(Ask::Command(&command)).await?;
        Ok(Loaded {
            slot: self.slot(record)?,
            touched: self.millis(touched)?,
            not_before: self.line(line)?,
        })
    }

    pub(super) async fn create(
        &self,
        key: &SessionKey,
        sealed: &[u8],
        created: UnixMillis,
        forget_at: UnixMillis,
    ) -> Result<(), Unavailable> {
        let names = Names::of(&key.tag);
        let mut call = self.shared.scripts.create.prepare_invoke();
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
        match self.ask(Ask::Script(&call)).await? {
            1 => Ok(()),
            0 => Err(collision()),
            -1 => Err(too_many()),
            other => Err(self.strange(&format!("create answered {other}"))),
        }
    }

    pub(super) async fn commit(
        &self,
        key: &SessionKey,
        expected: u64,
        sealed: &[u8],
        forget_at: UnixMillis,
    ) -> Result<Commit, Unavailable> {
        let names = Names::of(&key.tag);
        let mut call = self.shared.scripts.commit.prepare_invoke();
        call.key(names.record(key.id))
            .key(names.index())
            .arg(live_prefix(expected).as_slice())
            .arg(pack_live(expected.saturating_add(1), sealed))
            .arg(expiry(forget_at))
            .arg(hex(key.id))
            .arg(exact(forget_at));
        match self.ask(Ask::Script(&call)).await? {
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
        let mut call = self.shared.scripts.touch.prepare_invoke();
        call.key(names.record(key.id))
            .key(names.touch(key.id))
            .arg(exact(at))
            .arg(expiry(forget_at));
        self.ask::<i64>(Ask::Script(&call)).await.map(|_| ())
    }

    pub(super) async fn end(
        &self,
        key: &SessionKey,
        reason: EndReason,
        at: UnixMillis,
        forget_at: UnixMillis,
    ) -> Result<(), Unavailable> {
        let names = Names::of(&key.tag);
        let mut call = self.shared.scripts.end.prepare_invoke();
        call.key(names.record(key.id))
            .key(names.touch(key.id))
            .key(names.index())
            .arg(pack_ended(reason, at))
            .arg(expiry(forget_at))
            .arg(hex(key.id));
        self.ask::<i64>(Ask::Script(&call)).await.map(|_| ())
    }

    pub(super) async fn revoke_user(
        &self,
        tag: &UserTag,
        now: UnixMillis,
        except: Option<SessionId>,
    ) -> Result<NotBefore, Unavailable> {
        let names = Names::of(tag);
        let mut call = self.shared.scripts.revoke_user.prepare_invoke();
        call.key(names.line())
            .key(names.index())
            .arg(exact(now))
            .arg(except.map(hex).unwrap_or_default())
            .arg(u64::try_from(LINE_KEPT.as_millis()).unwrap_or(u64::MAX));
        let line = self.ask(Ask::Script(&call)).await?;
        self.line(Some(line))
    }

    /// Draws a line that was drawn before and may be lost. It ends what it ended then and nothing since.
    pub(super) async fn restore_line(
        &self,
        tag: &UserTag,
        line: NotBefore,
    ) -> Result<(), Unavailable> {
        let mut call = self.shared.scripts.restore_line.prepare_invoke();
        call.key(Names::of(tag).line())
            .arg(exact(line.at))
            .arg(line.except.map(hex).unwrap_or_default())
            .arg(u64::try_from(LINE_KEPT.as_millis()).unwrap_or(u64::MAX));
        self.ask::<i64>(Ask::Script(&call)).await.map(|_| ())
    }

    pub(super) async fn not_before(&self, tag: &UserTag) -> Result<NotBefore, Unavailable> {
        let mut command = cmd("GET");
        command.arg(Names::of(tag).line());
        let line = self.ask(Ask::Command(&command)).await?;
        self.line(line)
    }

    pub(super) async fn revoke_everyone(&self, now: UnixMillis) -> Result<UnixMillis, Unavailable> {
        let mut call = self.shared.scripts.revoke_everyone.prepare_invoke();
        call.key(EVERYONE).arg(exact(now));
        let line = self.ask(Ask::Script(&call)).await?;
        self.millis(Some(line))
    }

    pub(super) async fn everyone_line(&self) -> Result<UnixMillis, Unavailable> {
        let mut command = cmd("GET");
        command.arg(EVERYONE);
        let line = self.ask(Ask::Command(&command)).await?;
        self.millis(line)
    }

    pub(super) async fn ping(&self) -> Result<(), Unavailable> {
        self.ask::<String>(Ask::Command(&cmd("PING"))).await.map(|_| ())
    }

    /// The index first and the line after it: a session that a revocation in between ends is not shown.
    pub(super) async fn sessions_of(&self, tag: &UserTag) -> Result<Vec<Listed>, Unavailable> {
        let mut command = cmd("HGETALL");
        command.arg(Names::of(tag).index());
        let index: Vec<(Vec<u8>, Vec<u8>)> = self.ask(Ask::Command(&command)).await?;
        let line = self.not_before(tag).await?;
        let mut dated: Vec<_> = index
            .iter()
            .filter_map(|(field, value)| indexed(field, value))
            .filter(|(id, created)| !line.ends(*id, *created))
            .collect();
        dated.sort_by_key(|(id, created)| (std::cmp::Reverse(*created), *id));
        dated.truncate(LISTED_MOST);
        self.listed(tag, dated).await
    }

    /// Walks the users' indexes with SCAN, which unlike KEYS lets others have their turn.
    pub(super) async fn all(&self, limit: usize) -> Result<Vec<Listed>, Unavailable> {
        let (mut out, mut seen) = (Vec::new(), HashSet::new());
        let mut cursor: u64 = 0;
        loop {
            let (next, names) = self.scan_indexes(cursor).await?;
            for tag in names.iter().filter_map(|name| Names::tag_of_index(name)) {
                if out.len() >= limit {
                    return Ok(out);
                }
                if seen.insert(tag) {
                    let room = limit - out.len();
                    out.extend(self.sessions_of(&tag).await?.into_iter().take(room));
                }
            }
            if next == 0 {
                return Ok(out);
            }
            cursor = next;
        }
    }

    async fn scan_indexes(&self, cursor: u64) -> Result<(u64, Vec<Vec<u8>>), Unavailable> {
        let mut command = cmd("SCAN");
        command.arg(cursor).arg("MATCH").arg(ALL_INDEXES);
        command.arg("COUNT").arg(SCAN_COUNT);
        self.ask(Ask::Command(&command)).await
    }

    /// The records and touches of `dated`, in one round trip.
    async fn listed(
        &self,
        tag: &UserTag,
        dated: Vec<(SessionId, UnixMillis)>,
    ) -> Result<Vec<Listed>, Unavailable> {
        if dated.is_empty() {
            return Ok(Vec::new());
        }
        let names = Names::of(tag);
        let mut command = cmd("MGET");
        for (id, _) in &dated {
            command.arg(names.record(*id)).arg(names.touch(*id));
        }
        let values: Vec<Option<Vec<u8>>> = self.ask(Ask::Command(&command)).await?;
        let mut out = Vec::with_capacity(dated.len());
        for ((id, created), pair) in dated.iter().zip(values.chunks_exact(2)) {
            let [record, touch] = pair else { continue };
            let slot = self.slot(record.clone())?;
            let touched = self.millis(touch.clone())?;
            if let Slot::Live { revision, sealed } = slot {
                let key = SessionKey { tag: *tag, id: *id };
                let listed = Listed { key, revision, sealed, touched };
                out.push((*created, listed));
            }
        }
        newest_first(&mut out);
        Ok(out.into_iter().map(|(_, listed)| listed).collect())
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
        Unavailable(format!("Redis at {} answers strangely: {what}", self.shared.address))
    }
}

/// A session in the index; `None` for the two fields that are no sessions.
fn indexed(field: &[u8], value: &[u8]) -> Option<(SessionId, UnixMillis)> {
    let created = value.split(|byte| *byte == b' ').next()?;
    Some((id_of(field)?, decimal(created)?))
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
        let settings = settings("redis://someone:hunter2@localhost:1");
        let redis = Redis::new(&settings).expect("a good URL");
        let quoted = "ERR unknown command, with args beginning with: `AUTH` `hunter2`".to_owned();
        let shown =
            [format!("{settings:?}"), format!("{redis:?}"), redis.shared.without_secrets(quoted)];
        for text in shown {
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
