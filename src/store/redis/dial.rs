//! How servers are reached: addresses, certificates, credentials, deadlines. Nothing is connected here.

use std::path::Path;
use std::time::Duration;

use ::redis::{AsyncConnectionConfig, ProtocolVersion, PushInfo, RedisConnectionInfo, RedisResult};
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use super::RedisSettings;
use super::connection::{Connection, Place, Target};
use super::tls;
use crate::config::{HostPort, RedisServers, RedisUrl};
use crate::store::OpenError;

pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Commands that may wait in the queue of one connection.
const PIPELINE: usize = 1_024;

/// Makes connections.
pub(super) struct Dialer {
    /// What TLS needs, when it is spoken.
    tls: Option<TlsConnector>,
    redis: RedisConnectionInfo,
    sentinel: RedisConnectionInfo,
    pub(super) response_timeout: Duration,
    /// Texts that must not appear in an error.
    secrets: Vec<Zeroizing<String>>,
}

impl Dialer {
    pub(super) fn new(url: &RedisUrl, settings: &RedisSettings) -> Result<Dialer, OpenError> {
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
        Ok(Dialer {
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

    /// A server that keeps sessions.
    pub(super) fn target(&self, at: &HostPort) -> Target {
        Target { place: self.place(at), redis: self.redis.clone() }
    }

    /// A sentinel, which has credentials of its own.
    pub(super) fn sentinel(&self, at: &HostPort) -> Target {
        Target { place: self.place(at), redis: self.sentinel.clone() }
    }

    pub(super) fn unix(&self, path: &Path) -> Target {
        Target { place: Place::Unix(path.to_owned()), redis: self.redis.clone() }
    }

    fn place(&self, at: &HostPort) -> Place {
        match &self.tls {
            Some(connector) => Place::Tls(at.clone(), connector.clone()),
            None => Place::Tcp(at.clone()),
        }
    }

    /// Who allows a slow server long answers allows it a slow handshake too.
    pub(super) fn connect_timeout(&self) -> Duration {
        CONNECT_TIMEOUT.max(self.response_timeout)
    }

    pub(super) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    pub(super) fn patience(&self) -> Patience {
        Patience { connect: self.connect_timeout(), answer: self.response_timeout }
    }

    /// A connection of the protocol that has pushes; its answers have no deadline.
    pub(super) async fn connect_push(
        &self,
        target: &Target,
        on_push: impl Fn(PushInfo) + Send + Sync + 'static,
    ) -> RedisResult<Connection> {
        let config = AsyncConnectionConfig::new().set_response_timeout(None).set_push_sender(
            move |push| -> Result<(), ()> {
                on_push(push);
                Ok(())
            },
        );
        let redis = target.redis.clone().set_protocol(ProtocolVersion::RESP3);
        self.patience().within(&Target { redis, ..target.clone() }, config).await
    }

    /// A server quotes the arguments of a command that it does not know, AUTH among them.
    pub(super) fn without_secrets(&self, text: String) -> String {
        self.secrets.iter().fold(text, |text, secret| text.replace(secret.as_str(), "[hidden]"))
    }
}

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    connect: Duration,
    pub(super) answer: Duration,
}

impl Patience {
    /// A connection whose answers have a deadline.
    pub(super) async fn connect(self, target: &Target) -> RedisResult<Connection> {
        let config = AsyncConnectionConfig::new()
            .set_response_timeout(Some(self.answer))
            .set_pipeline_buffer_size(PIPELINE);
        self.within(target, config).await
    }

    /// The name, the connection and all that is said at its beginning.
    async fn within(
        self,
        target: &Target,
        config: AsyncConnectionConfig,
    ) -> RedisResult<Connection> {
        match tokio::time::timeout(self.connect, Connection::open(target, config)).await {
            Ok(connected) => connected,
            Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
        }
    }
}

/// What an operator calls the store, while no server of it is named.
pub(super) fn name(servers: &RedisServers) -> String {
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
