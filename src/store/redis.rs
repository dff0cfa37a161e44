//! Sessions in Redis or Valkey, shared by several gateways.
//!
//! | key | holds |
//! | --- | --- |
//! | `dw:{TAG}:s:ID` | the packed slot: a sealed record or a tombstone |
//! | `dw:{TAG}:t:ID` | the last touch, in decimal |
//! | `dw:{TAG}:nb` | the user's line: `at`, or `at id` with the excepted session |
//! | `dw:{TAG}:u` | hash: id to `created forget_at`; `max` the greatest `created`; `kept` the entries left by the last sweep |
//! | `dw:everyone` | the line of all users |
//!
//! Invariants:
//! - all keys of one user share the hash tag `{TAG}`, hence a cluster slot: every change of a user is one
//!   script
//! - the hot path is one MGET; a script runs only when something changes
//! - expiry is set by Redis' clock an hour after `forget_at`, and only ever moves later
//! - an error never shows the password
//!
//! A command is repeated once when the connection broke, since each can be run twice without harm. A
//! command without an answer in time is not: Redis is slow then, and more work would not help it.

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::redis::aio::{ConnectionManager, ConnectionManagerConfig};
use ::redis::io::tcp::TcpSettings;
use ::redis::{
    Client, ClientTlsConfig, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, FromRedisValue,
    IntoConnectionInfo, RedisError, RedisResult, Script, ScriptInvocation, ServerErrorKind,
    TlsCertificates, Value, cmd, from_redis_value,
};
use bytes::Bytes;
use data_encoding::HEXLOWER;
use zeroize::Zeroizing;

use super::entry::{
    FORGET_SLACK, LINE_KEPT, MOST_PER_USER, collision, live_prefix, pack_ended, pack_live,
    too_many, unpack,
};
use super::memory::newest_first;
use super::{Commit, LISTED_MOST, Listed, Loaded, OpenError, Slot, Unavailable};
use crate::clock::UnixMillis;
use crate::session::{EndReason, NotBefore, SessionId, SessionKey, UserTag};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the kernel keeps a connection whose peer acknowledges nothing.
const USER_TIMEOUT: Duration = Duration::from_secs(2);
const KEEPALIVE: Duration = Duration::from_secs(30);
/// Commands that may wait for one connection.
const PIPELINE: usize = 1_024;
/// Keys that one SCAN step looks at.
const SCAN_COUNT: usize = 1_000;
const EVERYONE: &str = "dw:everyone";

/// Where Redis is and how to reach it.
#[derive(Clone, Default)]
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
}

impl fmt::Debug for RedisSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisSettings")
            .field("ca", &self.ca)
            .field("client_cert", &self.client_cert)
            .field("username", &self.username)
            .field("response_timeout", &self.response_timeout)
            .finish_non_exhaustive()
    }
}

/// The store of `redis://` and `rediss://`: one connection, shared by the clones of this handle.
#[derive(Clone)]
pub struct Redis {
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

/// The connection, and how many there were before it.
#[derive(Default)]
struct Connection {
    manager: Option<ConnectionManager>,
    number: u64,
}

/// One thing to ask.
#[derive(Clone, Copy)]
enum Ask<'a> {
    Command(&'a Cmd),
    Script(&'a ScriptInvocation<'a>),
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
        Ok(Redis {
            shared: Arc::new(shared),
            connection: Arc::default(),
        })
    }

    pub(super) fn for_worker(&self) -> Redis {
        Redis {
            shared: Arc::clone(&self.shared),
            connection: Arc::default(),
        }
    }

    pub(super) fn round_trips(&self) -> u64 {
        self.shared.round_trips.load(Ordering::Relaxed)
    }

    pub(super) async fn load(&self, key: &SessionKey) -> Result<Loaded, Unavailable> {
        let names = Names::of(&key.tag);
        let mut command = cmd("MGET");
        command
            .arg(names.record(key.id))
            .arg(names.touch(key.id))
            .arg(names.line());
        let (record, touched, line): (Option<Vec<u8>>, Option<Vec<u8>>, Option<Vec<u8>>) =
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
        self.ask::<String>(Ask::Command(&cmd("PING")))
            .await
            .map(|_| ())
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
        command.arg(cursor).arg("MATCH").arg("dw:{*}:u");
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
            let slot = self.slot(pair[0].clone())?;
            let touched = self.millis(pair[1].clone())?;
            if let Slot::Live { revision, sealed } = slot {
                let key = SessionKey { tag: *tag, id: *id };
                let listed = Listed {
                    key,
                    revision,
                    sealed,
                    touched,
                };
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
        Unavailable(format!(
            "Redis at {} answers strangely: {what}",
            self.shared.address
        ))
    }
}

/// The names of one user's keys.
struct Names(String);

impl Names {
    fn of(tag: &UserTag) -> Names {
        Names(format!("dw:{{{}}}", HEXLOWER.encode(&tag.0)))
    }

    fn record(&self, id: SessionId) -> String {
        format!("{}:s:{}", self.0, hex(id))
    }

    fn touch(&self, id: SessionId) -> String {
        format!("{}:t:{}", self.0, hex(id))
    }

    fn line(&self) -> String {
        format!("{}:nb", self.0)
    }

    fn index(&self) -> String {
        format!("{}:u", self.0)
    }

    fn tag_of_index(name: &[u8]) -> Option<UserTag> {
        let tag = name.strip_prefix(b"dw:{")?.strip_suffix(b"}:u")?;
        let bytes = HEXLOWER.decode(tag).ok()?;
        Some(UserTag(bytes.try_into().ok()?))
    }
}

fn hex(id: SessionId) -> String {
    HEXLOWER.encode(&id.0)
}

fn id_of(hex: &[u8]) -> Option<SessionId> {
    Some(SessionId(HEXLOWER.decode(hex).ok()?.try_into().ok()?))
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

impl Redis {
    /// Asks, and once more when the connection broke.
    async fn ask<T: FromRedisValue>(&self, ask: Ask<'_>) -> Result<T, Unavailable> {
        let limit = CONNECT_TIMEOUT.saturating_add(self.shared.response_timeout);
        let value = match tokio::time::timeout(limit, self.twice(ask)).await {
            Ok(answer) => answer.map_err(|error| self.shared.unavailable(&error))?,
            Err(_) => return Err(self.shared.silent(limit)),
        };
        from_redis_value(value).map_err(|error| self.strange(&error.to_string()))
    }

    async fn twice(&self, ask: Ask<'_>) -> RedisResult<Value> {
        match self.once(ask).await {
            Err(error) if broken(&error) => self.once(ask).await,
            answer => answer,
        }
    }

    async fn once(&self, ask: Ask<'_>) -> RedisResult<Value> {
        let (mut manager, number) = self.manager()?;
        self.shared.round_trips.fetch_add(1, Ordering::Relaxed);
        let answer = match ask {
            Ask::Command(command) => command.query_async(&mut manager).await,
            Ask::Script(call) => call.invoke_async(&mut manager).await,
        };
        if answer.as_ref().is_err_and(spoilt) {
            self.drop_connection(number);
        }
        answer
    }

    /// The worker's connection, made when there is none. Connecting happens with the first command.
    fn manager(&self) -> RedisResult<(ConnectionManager, u64)> {
        let mut connection = self.connection();
        let number = connection.number;
        if let Some(manager) = &connection.manager {
            return Ok((manager.clone(), number));
        }
        let manager = self.shared.connect()?;
        connection.manager = Some(manager.clone());
        Ok((manager, number))
    }

    /// Lets go of the connection, unless somebody replaced it already.
    fn drop_connection(&self, number: u64) {
        let mut connection = self.connection();
        if connection.number == number {
            *connection = Connection {
                manager: None,
                number: number.wrapping_add(1),
            };
        }
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the connection broke before the answer came; the manager is making a new one.
fn broken(error: &RedisError) -> bool {
    !error.is_timeout() && (error.is_io_error() || error.is_connection_dropped())
}

/// Whether the manager would keep a useless connection: it makes a new one only after an I/O error, so a
/// refused password or a master turned replica would stay for ever.
fn spoilt(error: &RedisError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::AuthenticationFailed
            | ErrorKind::Client
            | ErrorKind::InvalidClientConfig
            | ErrorKind::Server(ServerErrorKind::ReadOnly)
    ) || error.code() == Some("NOAUTH")
}

impl Shared {
    fn connect(&self) -> RedisResult<ConnectionManager> {
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(0)
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(self.response_timeout))
            .set_pipeline_buffer_size(PIPELINE);
        self.client.get_connection_manager_lazy(config)
    }

    fn silent(&self, limit: Duration) -> Unavailable {
        Unavailable(format!(
            "Redis at {} does not answer within {} ms",
            self.address,
            limit.as_millis()
        ))
    }

    /// What an operator can act on.
    fn unavailable(&self, error: &RedisError) -> Unavailable {
        if error.is_timeout() {
            return self.silent(self.response_timeout);
        }
        let cause = match error.kind() {
            ErrorKind::Server(ServerErrorKind::ReadOnly) => {
                "is a read-only replica; the store must name the master"
            }
            ErrorKind::Server(ServerErrorKind::BusyLoading) => "is still loading its data",
            ErrorKind::Server(ServerErrorKind::NoPerm) => {
                "does not permit the user a command or a key"
            }
            ErrorKind::AuthenticationFailed => "refuses the username or the password",
            _ if error.is_connection_refusal() => "refuses the connection; is it running?",
            _ => match error.code() {
                Some("NOAUTH") => "wants a password",
                Some("WRONGPASS") => "refuses the username or the password",
                Some("OOM") => "is out of memory; raise maxmemory",
                Some("MISCONF") => "cannot save to its disk and takes no writes",
                _ => "fails",
            },
        };
        let detail = self.without_secrets(error.to_string());
        Unavailable(format!("Redis at {} {cause}: {detail}", self.address))
    }

    /// A server quotes the arguments of a command that it does not know, AUTH among them.
    fn without_secrets(&self, text: String) -> String {
        self.secrets.iter().fold(text, |text, secret| {
            text.replace(secret.as_str(), "[hidden]")
        })
    }
}

fn connection_info(settings: &RedisSettings) -> Result<ConnectionInfo, OpenError> {
    // The crate's own error may quote the URL, and that a password.
    let wrong =
        || OpenError::Redis("the URL is not redis://HOST:PORT or rediss://HOST:PORT".into());
    let info = settings
        .url
        .as_str()
        .into_connection_info()
        .map_err(|_| wrong())?;
    let keepalive = ::redis::io::tcp::socket2::TcpKeepalive::new().with_time(KEEPALIVE);
    let tcp = TcpSettings::default()
        .set_nodelay(true)
        .set_keepalive(keepalive)
        .set_user_timeout(USER_TIMEOUT);
    let mut redis = info.redis_settings().clone();
    if let Some(username) = &settings.username {
        redis = redis.set_username(username);
    }
    if let Some(password) = &settings.password {
        redis = redis.set_password(password.as_str());
    }
    Ok(info.set_tcp_settings(tcp).set_redis_settings(redis))
}

fn secrets(info: &ConnectionInfo) -> Vec<Zeroizing<String>> {
    let password = info.redis_settings().password();
    password
        .filter(|password| !password.is_empty())
        .map(|password| Zeroizing::new(password.to_owned()))
        .into_iter()
        .collect()
}

fn client(info: ConnectionInfo, settings: &RedisSettings) -> Result<Client, OpenError> {
    let failed = |error: RedisError| OpenError::Redis(error.to_string());
    if !matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
        return Client::open(info).map_err(failed);
    }
    let root_cert = settings.ca.as_deref().map(pem).transpose()?;
    let client_tls = match (&settings.client_cert, &settings.client_key) {
        (Some(cert), Some(key)) => Some(ClientTlsConfig {
            client_cert: pem(cert)?,
            client_key: pem(key)?,
        }),
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => {
            return Err(OpenError::Redis(
                "a client certificate and its key go together".to_owned(),
            ));
        }
    };
    let certificates = TlsCertificates {
        client_tls,
        root_cert,
    };
    Client::build_with_tls(info, certificates).map_err(failed)
}

fn pem(path: &Path) -> Result<Vec<u8>, OpenError> {
    std::fs::read(path).map_err(|error| OpenError::Secret {
        path: path.to_owned(),
        error,
    })
}

/// The scripts. Redis keeps them by their hash and is sent the text when it does not know one.
struct Scripts {
    create: Script,
    commit: Script,
    touch: Script,
    end: Script,
    revoke_user: Script,
    revoke_everyone: Script,
}

impl Scripts {
    fn new() -> Scripts {
        let script = |body: &str| Script::new(&format!("{LATER}\n{body}"));
        Scripts {
            create: script(CREATE),
            commit: script(COMMIT),
            touch: script(TOUCH),
            end: script(END),
            revoke_user: Script::new(REVOKE_USER),
            revoke_everyone: Script::new(REVOKE_EVERYONE),
        }
    }
}

/// Moves a key's expiry later, never earlier; a key without one gets it. Never sooner than in an hour: a
/// gateway whose clock is far behind must not lose what it has just written.
const LATER: &str = r"
local clock = redis.call('TIME')
local function expire_later(key, at)
  local ttl = math.max(at - (clock[1] * 1000 + math.floor(clock[2] / 1000)), 3600000)
  if ttl > redis.call('PTTL', key) then redis.call('PEXPIRE', key, string.format('%.0f', ttl)) end
end
";

/// KEYS record touch index; ARGV value expiry id created forget_at most forgotten_before.
/// Sweeps the index when it has doubled since the last sweep, so that a user who logs in for years does
/// not grow it, and no single login pays for it.
const CREATE: &str = r"
local now = redis.call('GET', KEYS[1])
if now then
  if now == ARGV[1] then return 1 end
  return 0
end
local entries = redis.call('HLEN', KEYS[3])
if entries > 64 + 2 * tonumber(redis.call('HGET', KEYS[3], 'kept') or '0') then
  local index = redis.call('HGETALL', KEYS[3])
  for i = 1, #index, 2 do
    local forget = string.match(index[i + 1], '^%d+ (%d+)$')
    if forget and tonumber(forget) < tonumber(ARGV[7]) then redis.call('HDEL', KEYS[3], index[i]) end
  end
  entries = redis.call('HLEN', KEYS[3])
  redis.call('HSET', KEYS[3], 'kept', entries)
end
if entries >= tonumber(ARGV[6]) then return -1 end
redis.call('SET', KEYS[1], ARGV[1])
expire_later(KEYS[1], tonumber(ARGV[2]))
redis.call('DEL', KEYS[2])
redis.call('HSET', KEYS[3], ARGV[3], ARGV[4] .. ' ' .. ARGV[5])
if tonumber(ARGV[4]) > tonumber(redis.call('HGET', KEYS[3], 'max') or '0') then
  redis.call('HSET', KEYS[3], 'max', ARGV[4])
end
expire_later(KEYS[3], tonumber(ARGV[2]))
return 1
";

/// KEYS record index; ARGV expected value expiry id forget_at.
const COMMIT: &str = r"
if redis.call('GETRANGE', KEYS[1], 0, 8) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL')
expire_later(KEYS[1], tonumber(ARGV[3]))
local entry = redis.call('HGET', KEYS[2], ARGV[4])
if entry then
  local created, forget = string.match(entry, '^(%d+) (%d+)$')
  if created and tonumber(forget) < tonumber(ARGV[5]) then
    redis.call('HSET', KEYS[2], ARGV[4], created .. ' ' .. ARGV[5])
    expire_later(KEYS[2], tonumber(ARGV[3]))
  end
end
return 1
";

/// KEYS record touch; ARGV at expiry.
const TOUCH: &str = r"
if redis.call('GETRANGE', KEYS[1], 0, 0) ~= '\1' then return 0 end
if tonumber(ARGV[1]) <= tonumber(redis.call('GET', KEYS[2]) or '0') then return 0 end
redis.call('SET', KEYS[2], ARGV[1], 'KEEPTTL')
expire_later(KEYS[2], tonumber(ARGV[2]))
return 1
";

/// KEYS record touch index; ARGV tombstone expiry id.
const END: &str = r"
if redis.call('GETRANGE', KEYS[1], 0, 0) ~= '\2' then
  redis.call('SET', KEYS[1], ARGV[1], 'KEEPTTL')
end
expire_later(KEYS[1], tonumber(ARGV[2]))
redis.call('DEL', KEYS[2])
redis.call('HDEL', KEYS[3], ARGV[3])
return 1
";

/// KEYS line index; ARGV now except kept_ms.
const REVOKE_USER: &str = r"
local before, excepted = 0, ''
local line = redis.call('GET', KEYS[1])
if line then
  local at, id = string.match(line, '^(%d+) ?(%x*)$')
  if not at then return redis.error_reply('ERR the line is not a line') end
  before, excepted = tonumber(at), id
end
local at = math.max(tonumber(ARGV[1]), before, tonumber(redis.call('HGET', KEYS[2], 'max') or '0'))
local except = ARGV[2]
if at == before and except ~= excepted then except = '' end
line = string.format('%.0f', at)
if except ~= '' then line = line .. ' ' .. except end
redis.call('SET', KEYS[1], line, 'PX', ARGV[3])
local index = redis.call('HGETALL', KEYS[2])
for i = 1, #index, 2 do
  local created = string.match(index[i + 1], '^(%d+) ')
  if created and index[i] ~= except and tonumber(created) <= at then
    redis.call('HDEL', KEYS[2], index[i])
  end
end
return line
";

/// KEYS line; ARGV now.
const REVOKE_EVERYONE: &str = r"
local before = redis.call('GET', KEYS[1])
if before and tonumber(before) >= tonumber(ARGV[1]) then return before end
redis.call('SET', KEYS[1], ARGV[1])
return ARGV[1]
";

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(url: &str) -> RedisSettings {
        RedisSettings {
            url: url.to_owned(),
            password: Some(Zeroizing::new("hunter2".to_owned())),
            response_timeout: Duration::from_millis(500),
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
        let shown = [
            format!("{settings:?}"),
            format!("{redis:?}"),
            redis.shared.without_secrets(quoted),
        ];
        for text in shown {
            assert!(!text.contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn all_keys_of_a_user_share_one_hash_tag() {
        let names = Names::of(&UserTag([0xab; 8]));
        let id = SessionId([1; 16]);
        for name in [
            names.record(id),
            names.touch(id),
            names.line(),
            names.index(),
        ] {
            assert!(name.starts_with("dw:{abababababababab}:"), "{name}");
        }
        let index = names.index();
        assert_eq!(
            Names::tag_of_index(index.as_bytes()),
            Some(UserTag([0xab; 8]))
        );
    }

    #[test]
    fn foreign_text_is_no_line() {
        let id = SessionId([7; 16]);
        let line = format!("12 {}", hex(id));
        assert_eq!(
            not_before(line.as_bytes()),
            Some(NotBefore {
                at: UnixMillis(12),
                except: Some(id)
            })
        );
        for foreign in ["", "x", "-1", "1 ", "1 zz", "1  ", "18446744073709551616"] {
            assert_eq!(not_before(foreign.as_bytes()), None, "{foreign}");
        }
    }
}
