//! Parameters of connections: addresses, certificates, credentials and deadlines.

use std::path::Path;
use std::time::Duration;

use ::redis::{
    AsyncConnectionConfig, ProtocolVersion, PushInfo, RedisConnectionInfo, RedisError, RedisResult,
};
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use super::connection::{ConnectTarget, NodeAddress, RedisConnection};
use super::errors::{InvalidSettings, RedisUnavailable, describe};
use super::settings::RedisSettings;
use super::tls;
use crate::config::{HostPort, RedisServers, RedisUrl};

pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Commands that may be queued on one connection.
const PIPELINE_CAPACITY: usize = 1_024;

/// Opens connections.
pub(super) struct Connector {
    /// `None` without TLS.
    tls: Option<TlsConnector>,
    redis: RedisConnectionInfo,
    sentinel: RedisConnectionInfo,
    pub(super) response_timeout: Duration,
    /// Secrets that must not appear in errors.
    secrets: Vec<Zeroizing<String>>,
}

impl Connector {
    pub(super) fn new(
        url: &RedisUrl,
        settings: &RedisSettings,
    ) -> Result<Connector, InvalidSettings> {
        let credentials = |user: &Option<String>, password: &Option<Zeroizing<String>>| {
            let mut info = RedisConnectionInfo::default();
            if let Some(user) = user {
                info = info.set_username(user);
            }
            match password {
                Some(password) => info.set_password(password.as_str()),
                None => info,
            }
        };
        let passwords = [&settings.password, &settings.sentinel_password];
        Ok(Connector {
            tls: if url.tls { Some(tls::connector(settings)?) } else { None },
            redis: credentials(&settings.username, &settings.password).set_db(url.database.into()),
            sentinel: credentials(&settings.sentinel_username, &settings.sentinel_password),
            response_timeout: settings.response_timeout,
            secrets: passwords
                .into_iter()
                .flatten()
                .filter(|password| !password.is_empty())
                .cloned()
                .collect(),
        })
    }

    /// Returns the target of a node.
    pub(super) fn target(&self, at: &HostPort) -> ConnectTarget {
        ConnectTarget { address: self.node_address(at), redis: self.redis.clone() }
    }

    /// Returns the target of a sentinel, which has its own credentials.
    pub(super) fn sentinel(&self, at: &HostPort) -> ConnectTarget {
        ConnectTarget { address: self.node_address(at), redis: self.sentinel.clone() }
    }

    pub(super) fn unix(&self, path: &Path) -> ConnectTarget {
        ConnectTarget { address: NodeAddress::Unix(path.to_owned()), redis: self.redis.clone() }
    }

    fn node_address(&self, at: &HostPort) -> NodeAddress {
        match &self.tls {
            Some(connector) => NodeAddress::Tls(at.clone(), connector.clone()),
            None => NodeAddress::Tcp(at.clone()),
        }
    }

    /// Returns the connect timeout. It is at least the response timeout, because a slow server is
    /// slow to connect too.
    pub(super) fn connect_timeout(&self) -> Duration {
        CONNECT_TIMEOUT.max(self.response_timeout)
    }

    pub(super) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    pub(super) fn timeouts(&self) -> RedisTimeouts {
        RedisTimeouts { connect: self.connect_timeout(), response: self.response_timeout }
    }

    /// Opens a RESP3 connection for pushes. Its commands have no deadline.
    pub(super) async fn connect_push(
        &self,
        target: &ConnectTarget,
        on_push: impl Fn(PushInfo) + Send + Sync + 'static,
    ) -> RedisResult<RedisConnection> {
        let config = AsyncConnectionConfig::new().set_response_timeout(None).set_push_sender(
            move |push| -> Result<(), ()> {
                on_push(push);
                Ok(())
            },
        );
        let redis = target.redis.clone().set_protocol(ProtocolVersion::RESP3);
        self.timeouts().open(&ConnectTarget { redis, ..target.clone() }, config).await
    }

    pub(super) fn timeout_error(&self, address: &str, limit: Duration) -> RedisUnavailable {
        RedisUnavailable(format!(
            "Redis at {address} did not respond within {} ms",
            limit.as_millis()
        ))
    }

    /// Returns an error that an operator can act on.
    pub(super) fn to_unavailable(&self, address: &str, error: &RedisError) -> RedisUnavailable {
        if error.is_timeout() {
            return self.timeout_error(address, self.response_timeout);
        }
        let detail = self.redact(error.to_string());
        RedisUnavailable(format!("Redis at {address} {}: {detail}", describe(error)))
    }

    /// Removes secrets from an error text. A server quotes the arguments of unknown commands,
    /// including AUTH.
    pub(super) fn redact(&self, text: String) -> String {
        self.secrets.iter().fold(text, |text, secret| text.replace(secret.as_str(), "[hidden]"))
    }
}

/// Deadlines of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct RedisTimeouts {
    connect: Duration,
    pub(super) response: Duration,
}

impl RedisTimeouts {
    /// Opens a connection whose commands have a deadline.
    pub(super) async fn connect(self, target: &ConnectTarget) -> RedisResult<RedisConnection> {
        let config = AsyncConnectionConfig::new()
            .set_response_timeout(Some(self.response))
            .set_pipeline_buffer_size(PIPELINE_CAPACITY);
        self.open(target, config).await
    }

    /// Resolves, connects and authenticates within the connect timeout.
    async fn open(
        self,
        target: &ConnectTarget,
        config: AsyncConnectionConfig,
    ) -> RedisResult<RedisConnection> {
        match tokio::time::timeout(self.connect, RedisConnection::open(target, config)).await {
            Ok(connected) => connected,
            Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
        }
    }
}

/// Returns the name of the store for errors that concern no specific node.
pub(super) fn display_name(servers: &RedisServers) -> String {
    let list =
        |hosts: &[HostPort]| hosts.iter().map(HostPort::to_string).collect::<Vec<_>>().join(",");
    match servers {
        RedisServers::One(at) => at.to_string(),
        RedisServers::Unix(path) => path.display().to_string(),
        RedisServers::Sentinel { sentinels, master } => {
            format!("{master} (sentinels {})", list(sentinels))
        }
        RedisServers::Cluster(seeds) => format!("the cluster of {}", list(seeds)),
    }
}
