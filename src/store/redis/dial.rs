//! How servers are reached: addresses, certificates, credentials, deadlines. Nothing is connected here.

use std::path::Path;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::io::tcp::TcpSettings;
use ::redis::io::tcp::socket2::TcpKeepalive;
use ::redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, IntoConnectionInfo,
    ProtocolVersion, PushInfo, RedisConnectionInfo, RedisError, RedisResult, TlsCertificates,
};
use zeroize::Zeroizing;

use super::RedisSettings;
use crate::config::{HostPort, RedisServers, RedisUrl};
use crate::store::OpenError;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the kernel keeps a connection whose peer acknowledges nothing.
const USER_TIMEOUT: Duration = Duration::from_secs(2);
const KEEPALIVE: Duration = Duration::from_secs(30);
/// Commands that may wait in the queue of one connection.
const PIPELINE: usize = 1_024;

/// Makes connections.
pub(super) struct Dialer {
    /// What TLS needs, when it is spoken.
    tls: Option<ConnectionAddr>,
    redis: RedisConnectionInfo,
    sentinel: RedisConnectionInfo,
    tcp: TcpSettings,
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
            tls: if url.tls { Some(tls(settings)?) } else { None },
            redis: credentials(&settings.username, &settings.password).set_db(url.database.into()),
            sentinel: credentials(&settings.sentinel_username, &settings.sentinel_password),
            tcp: TcpSettings::default()
                .set_nodelay(true)
                .set_keepalive(TcpKeepalive::new().with_time(KEEPALIVE))
                .set_user_timeout(USER_TIMEOUT),
            response_timeout: settings.response_timeout,
            secrets: passwords
                .into_iter()
                .flatten()
                .filter(|password| !password.is_empty())
                .cloned()
                .collect(),
        })
    }

    /// Of a server that keeps sessions.
    pub(super) fn client(&self, at: &HostPort) -> RedisResult<Client> {
        self.open(self.address(at), self.redis.clone())
    }

    /// Of a sentinel, which has credentials of its own.
    pub(super) fn sentinel(&self, at: &HostPort) -> RedisResult<Client> {
        self.open(self.address(at), self.sentinel.clone())
    }

    pub(super) fn unix(&self, path: &Path) -> RedisResult<Client> {
        self.open(ConnectionAddr::Unix(path.to_owned()), self.redis.clone())
    }

    fn open(&self, address: ConnectionAddr, redis: RedisConnectionInfo) -> RedisResult<Client> {
        let info = address.into_connection_info()?;
        Client::open(info.set_tcp_settings(self.tcp.clone()).set_redis_settings(redis))
    }

    fn address(&self, at: &HostPort) -> ConnectionAddr {
        let (host, port) = (at.host.clone(), at.port);
        match &self.tls {
            Some(ConnectionAddr::TcpTls { insecure, tls_params, .. }) => ConnectionAddr::TcpTls {
                host,
                port,
                insecure: *insecure,
                tls_params: tls_params.clone(),
            },
            Some(_) | None => ConnectionAddr::Tcp(host, port),
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
        client: &Client,
        on_push: impl Fn(PushInfo) + Send + Sync + 'static,
    ) -> RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new().set_response_timeout(None).set_push_sender(
            move |push| -> Result<(), ()> {
                on_push(push);
                Ok(())
            },
        );
        let info = client.get_connection_info().clone();
        let resp3 = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let client = Client::open(info.set_redis_settings(resp3))?;
        self.patience().within(&client, config).await
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
    pub(super) async fn connect(self, client: &Client) -> RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_response_timeout(Some(self.answer))
            .set_pipeline_buffer_size(PIPELINE);
        self.within(client, config).await
    }

    /// The crate's own deadline does not cover the handshake that follows the connection.
    async fn within(
        self,
        client: &Client,
        config: AsyncConnectionConfig,
    ) -> RedisResult<MultiplexedConnection> {
        let config = config.set_connection_timeout(Some(self.connect));
        let connecting = client.get_multiplexed_async_connection_with_config(&config);
        match tokio::time::timeout(self.connect, connecting).await {
            Ok(connected) => connected,
            Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
        }
    }
}

/// Every server of one store is trusted alike, so what this address carries serves for all.
fn tls(settings: &RedisSettings) -> Result<ConnectionAddr, OpenError> {
    let failed = |error: RedisError| OpenError::Redis(error.to_string());
    let any = ConnectionAddr::TcpTls {
        host: "any".to_owned(),
        port: 1,
        insecure: false,
        tls_params: None,
    };
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
    let root_cert = settings.ca.as_deref().map(pem).transpose()?;
    let certificates = TlsCertificates { client_tls, root_cert };
    let client = Client::build_with_tls(any, certificates).map_err(failed)?;
    Ok(client.get_connection_info().addr().clone())
}

fn pem(path: &Path) -> Result<Vec<u8>, OpenError> {
    std::fs::read(path).map_err(|error| OpenError::Secret { path: path.to_owned(), error })
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
