//! The connection: made lazily, made again when it breaks, and what its errors mean.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use ::redis::aio::{ConnectionManager, ConnectionManagerConfig};
use ::redis::io::tcp::TcpSettings;
use ::redis::io::tcp::socket2::TcpKeepalive;
use ::redis::{
    Client, ClientTlsConfig, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, FromRedisValue,
    IntoConnectionInfo, RedisError, RedisResult, ScriptInvocation, ServerErrorKind,
    TlsCertificates, Value, from_redis_value,
};
use zeroize::Zeroizing;

use super::{Redis, RedisSettings, Shared};
use crate::store::{OpenError, Unavailable};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the kernel keeps a connection whose peer acknowledges nothing.
const USER_TIMEOUT: Duration = Duration::from_secs(2);
const KEEPALIVE: Duration = Duration::from_secs(30);
/// Commands that may wait for one connection.
const PIPELINE: usize = 1_024;

/// The connection, and how many there were before it.
#[derive(Default)]
pub(super) struct Connection {
    manager: Option<ConnectionManager>,
    number: u64,
}

/// One thing to ask.
#[derive(Clone, Copy)]
pub(super) enum Ask<'a> {
    Command(&'a Cmd),
    Script(&'a ScriptInvocation<'a>),
}

impl Redis {
    /// Asks, and once more when the connection broke.
    pub(super) async fn ask<T: FromRedisValue>(&self, ask: Ask<'_>) -> Result<T, Unavailable> {
        let limit = self.shared.connect_timeout().saturating_add(self.shared.response_timeout);
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
            *connection = Connection { manager: None, number: number.wrapping_add(1) };
        }
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
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
            .set_connection_timeout(Some(self.connect_timeout()))
            .set_response_timeout(Some(self.response_timeout))
            .set_pipeline_buffer_size(PIPELINE);
        self.client.get_connection_manager_lazy(config)
    }

    /// Who allows a slow server long answers allows it a slow handshake too.
    pub(super) fn connect_timeout(&self) -> Duration {
        CONNECT_TIMEOUT.max(self.response_timeout)
    }

    pub(super) fn silent(&self, limit: Duration) -> Unavailable {
        Unavailable(format!(
            "Redis at {} does not answer within {} ms",
            self.address,
            limit.as_millis()
        ))
    }

    /// What an operator can act on.
    #[allow(clippy::wildcard_enum_match_arm, reason = "not our enum, and it grows")]
    pub(super) fn unavailable(&self, error: &RedisError) -> Unavailable {
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
    pub(super) fn without_secrets(&self, text: String) -> String {
        self.secrets.iter().fold(text, |text, secret| text.replace(secret.as_str(), "[hidden]"))
    }
}

pub(super) fn connection_info(settings: &RedisSettings) -> Result<ConnectionInfo, OpenError> {
    // The crate's own error may quote the URL, and that a password.
    let wrong =
        || OpenError::Redis("the URL is not redis://HOST:PORT or rediss://HOST:PORT".into());
    let info = settings.url.as_str().into_connection_info().map_err(|_| wrong())?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE);
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

pub(super) fn secrets(info: &ConnectionInfo) -> Vec<Zeroizing<String>> {
    let password = info.redis_settings().password();
    password
        .filter(|password| !password.is_empty())
        .map(|password| Zeroizing::new(password.to_owned()))
        .into_iter()
        .collect()
}

pub(super) fn client(info: ConnectionInfo, settings: &RedisSettings) -> Result<Client, OpenError> {
    let failed = |error: RedisError| OpenError::Redis(error.to_string());
    if !matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
        return Client::open(info).map_err(failed);
    }
    let root_cert = settings.ca.as_deref().map(pem).transpose()?;
    let client_tls = match (&settings.client_cert, &settings.client_key) {
        (Some(cert), Some(key)) => {
            Some(ClientTlsConfig { client_cert: pem(cert)?, client_key: pem(key)? })
        }
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => {
            return Err(OpenError::Redis(
                "a client certificate and its key go together".to_owned(),
            ));
        }
    };
    let certificates = TlsCertificates { client_tls, root_cert };
    Client::build_with_tls(info, certificates).map_err(failed)
}

fn pem(path: &Path) -> Result<Vec<u8>, OpenError> {
    std::fs::read(path).map_err(|error| OpenError::Secret { path: path.to_owned(), error })
}
