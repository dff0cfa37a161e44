//! Settings of the client.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use zeroize::Zeroizing;

/// Addresses, credentials and deadlines of Redis.
#[derive(Clone)]
pub struct RedisSettings {
    /// URL in the format of the configuration.
    pub url: String,
    /// PEM file with trusted certificate authorities; the system's if absent.
    pub ca: Option<PathBuf>,
    /// PEM file with the client certificate chain, if the server requires one.
    pub client_cert: Option<PathBuf>,
    /// PEM file with the key of `client_cert`.
    pub client_key: Option<PathBuf>,
    pub username: Option<String>,
    pub password: Option<Zeroizing<String>>,
    pub sentinel_username: Option<String>,
    pub sentinel_password: Option<Zeroizing<String>>,
    /// Replicas that must acknowledge a replicated write; zero waits for none.
    pub wait_replicas: u32,
    /// Maximum wait for replicas.
    pub wait_timeout: Duration,
    /// Deadline of one command.
    pub response_timeout: Duration,
    /// Whether values may be cached until Redis reports a change.
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
            sentinel_username: None,
            sentinel_password: None,
            wait_replicas: 0,
            wait_timeout: Duration::from_millis(100),
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
