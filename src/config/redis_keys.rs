//! The `[store]` keys for Redis, and their dependencies.

use std::path::PathBuf;
use std::time::Duration;

use super::diagnostics::Span;
use super::duration;
use super::reader::{Field, Reader, non_empty};
use super::redis_url::RedisUrl;

/// Maximum replicas that a write waits for.
const MAX_REPLICAS: usize = 16;
/// A healthy replica confirms a write within a few milliseconds.
const WAIT_TIMEOUT: Duration = Duration::from_millis(100);

/// Redis or Valkey. Contains no secret: passwords are read from files at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisLocation {
    /// In the form of [`RedisUrl`].
    pub url: String,
    pub ca: Option<PathBuf>,
    pub client_cert: Option<PathBuf>,
    pub client_key: Option<PathBuf>,
    pub username: Option<String>,
    pub password_file: Option<PathBuf>,
    pub sentinel_username: Option<String>,
    pub sentinel_password_file: Option<PathBuf>,
    /// Whether sessions are cached until Redis reports a change.
    pub local_cache: bool,
    /// Replicas that must confirm a new session or a revocation; zero waits for none.
    pub wait_replicas: u32,
    pub wait_timeout: Duration,
}

pub(super) struct RedisKeys {
    ca: Option<Field<PathBuf>>,
    client_cert: Option<Field<PathBuf>>,
    client_key: Option<Field<PathBuf>>,
    username: Option<Field<String>>,
    password_file: Option<Field<PathBuf>>,
    sentinel_username: Option<Field<String>>,
    sentinel_password_file: Option<Field<PathBuf>>,
    local_cache: Option<Field<bool>>,
    wait_replicas: Option<Field<usize>>,
    wait_timeout: Option<Field<Duration>>,
}

/// What a key depends on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Requires {
    Redis,
    Tls,
    Sentinel,
}

/// Reads all keys, so that every error is reported.
pub(super) fn redis_keys(section: &mut Reader<'_>) -> Option<RedisKeys> {
    let name = |text: &str| non_empty(text).map(str::to_owned);
    let ca = section.optional_file("ca", r#""certs/redis-ca.pem""#);
    let client_cert = section.optional_file("client_cert", r#""certs/redis-client.pem""#);
    let client_key = section.optional_file("client_key", r#""certs/redis-client.key""#);
    let username = section.optional("username", r#""doorward""#, name);
    let password_file = section.optional_file("password_file", r#""secrets/redis""#);
    let sentinel_username = section.optional("sentinel_username", r#""doorward""#, name);
    let sentinel_password_file =
        section.optional_file("sentinel_password_file", r#""secrets/sentinel""#);
    let local_cache = section.optional("local_cache", r#""on""#, super::values::on_or_off);
    let wait_replicas = section.optional_number("wait_replicas", "1", 0..=MAX_REPLICAS);
    let wait_timeout =
        section.optional_quantity("wait_timeout", r#""100ms""#, duration::parse_positive);
    Some(RedisKeys {
        ca: ca?,
        client_cert: client_cert?,
        client_key: client_key?,
        username: username?,
        password_file: password_file?,
        sentinel_username: sentinel_username?,
        sentinel_password_file: sentinel_password_file?,
        local_cache: local_cache?,
        wait_replicas: wait_replicas?,
        wait_timeout: wait_timeout?,
    })
}

impl RedisKeys {
    fn dependencies(&self) -> [(&'static str, Requires, Option<&Span>); 10] {
        fn span<T>(key: &Option<Field<T>>) -> Option<&Span> {
            key.as_ref().map(|key| &key.span)
        }
        [
            ("ca", Requires::Tls, span(&self.ca)),
            ("client_cert", Requires::Tls, span(&self.client_cert)),
            ("client_key", Requires::Tls, span(&self.client_key)),
            ("username", Requires::Redis, span(&self.username)),
            ("password_file", Requires::Redis, span(&self.password_file)),
            ("sentinel_username", Requires::Sentinel, span(&self.sentinel_username)),
            ("sentinel_password_file", Requires::Sentinel, span(&self.sentinel_password_file)),
            ("local_cache", Requires::Redis, span(&self.local_cache)),
            ("wait_replicas", Requires::Redis, span(&self.wait_replicas)),
            ("wait_timeout", Requires::Redis, span(&self.wait_timeout)),
        ]
    }

    /// Rejects the keys with another store, which would ignore them.
    pub(super) fn reject_without_redis(&self, section: &Reader<'_>) {
        self.reject(
            section,
            |_| true,
            "needs a Redis store",
            "leave it out, or write url = \"rediss://…\"",
        );
    }

    pub(super) fn redis(
        self,
        section: &Reader<'_>,
        text: String,
        url: &RedisUrl,
        span: &Span,
    ) -> RedisLocation {
        self.require_client_cert_pair(section);
        if !url.tls {
            let help = if url.is_unix() {
                "leave it out: a Unix socket uses no TLS"
            } else {
                "write rediss:// in `url`"
            };
            self.reject(section, |requires| requires == Requires::Tls, "needs TLS", help);
        }
        if !url.servers.is_sentinel() {
            let help = "leave it out, or write url = \"redis+sentinel://…\"";
            self.reject(
                section,
                |requires| requires == Requires::Sentinel,
                "needs sentinels",
                help,
            );
        }
        if !url.tls && !url.is_local() {
            section.diagnostics.warning(
                span,
                "sessions and the store password are sent unencrypted",
                "write rediss:// and ca, unless the network between is private",
            );
        }
        self.into_location(text)
    }

    fn into_location(self, url: String) -> RedisLocation {
        fn value<T>(key: Option<Field<T>>) -> Option<T> {
            key.map(|key| key.value)
        }
        RedisLocation {
            url,
            ca: value(self.ca),
            client_cert: value(self.client_cert),
            client_key: value(self.client_key),
            username: value(self.username),
            password_file: value(self.password_file),
            sentinel_username: value(self.sentinel_username),
            sentinel_password_file: value(self.sentinel_password_file),
            local_cache: value(self.local_cache).unwrap_or(true),
            wait_replicas: value(self.wait_replicas)
                .and_then(|number| u32::try_from(number).ok())
                .unwrap_or(0),
            wait_timeout: value(self.wait_timeout).unwrap_or(WAIT_TIMEOUT),
        }
    }

    fn reject(
        &self,
        section: &Reader<'_>,
        applies: impl Fn(Requires) -> bool,
        what: &str,
        help: &str,
    ) {
        for (key, requires, span) in self.dependencies() {
            if let Some(span) = span.filter(|_| applies(requires)) {
                section.diagnostics.error(span, format!("`{key}` {what}"), help);
            }
        }
    }

    fn require_client_cert_pair(&self, section: &Reader<'_>) {
        let incomplete = match (&self.client_cert, &self.client_key) {
            (Some(cert), None) => (&cert.span, "client_cert", "client_key"),
            (None, Some(key)) => (&key.span, "client_key", "client_cert"),
            (Some(_), Some(_)) | (None, None) => return,
        };
        let (span, key, missing) = incomplete;
        section.diagnostics.error(
            span,
            format!("`{key}` has no effect without `{missing}`"),
            format!("write {missing} = \"…\" too"),
        );
    }
}
