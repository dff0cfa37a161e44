//! `[store]`: where sessions live.

use std::path::PathBuf;
use std::time::Duration;

use super::duration;
use super::findings::Usual::Is;
use super::outage::{Outage, outage};
use super::reader::{Reader, Setting};
use super::redis_keys::{RedisKeys, redis_keys};
use super::redis_url::RedisUrl;

/// Where sessions live and how long an answer may take.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    pub location: StoreLocation,
    pub response_timeout: Duration,
    pub outage: Outage,
}

#[derive(Clone, Debug)]
pub enum StoreLocation {
    /// Lost when the process ends.
    Memory,
    /// A directory on this machine, for one node.
    Embedded(PathBuf),
    Redis(RedisLocation),
}

/// A Redis or Valkey. Holds no secret: passwords are read from their files at start.
#[derive(Clone, Debug)]
pub struct RedisLocation {
    /// As [`RedisUrl`] reads it.
    pub url: String,
    pub ca: Option<PathBuf>,
    pub client_cert: Option<PathBuf>,
    pub client_key: Option<PathBuf>,
    pub username: Option<String>,
    pub password_file: Option<PathBuf>,
    pub sentinel_username: Option<String>,
    pub sentinel_password_file: Option<PathBuf>,
    /// Whether a hot session is asked for again only when Redis tells of a change.
    pub local_cache: bool,
    /// Replicas that have to have a new session or a revocation.
    pub wait_replicas: u32,
    pub wait_timeout: Duration,
}

/// What a `url` names, before the other keys are looked at.
enum Named {
    Memory,
    Embedded(String),
    Redis(String, RedisUrl),
    /// With a password inside. Kept apart, for its line must not be shown.
    Secret,
}

pub(super) fn store(mut section: Reader<'_>) -> Option<StoreConfig> {
    let url = section.text("url", Is(r#""embedded:state""#), named);
    let keys = redis_keys(&mut section);
    let timeout = section.measure("response_timeout", Is(r#""500ms""#), duration::parse_positive);
    let outage = outage(&mut section);
    let location = location(&section, url?, keys?);
    Some(StoreConfig { location: location?, response_timeout: timeout?.value, outage: outage? })
}

fn location(section: &Reader<'_>, url: Setting<Named>, keys: RedisKeys) -> Option<StoreLocation> {
    let findings = section.findings;
    match url.value {
        Named::Memory => {
            keys.belong_to_redis(section);
            findings.warning(
                &url.place,
                "every session ends when the process does, and nodes share none",
                "write \"embedded:state\" or a redis:// address",
            );
            Some(StoreLocation::Memory)
        }
        Named::Embedded(directory) => {
            keys.belong_to_redis(section);
            Some(StoreLocation::Embedded(findings.base.join(directory)))
        }
        Named::Redis(text, redis) => {
            Some(StoreLocation::Redis(keys.redis(section, text, &redis, &url.place)))
        }
        Named::Secret => {
            findings.problem(
                &url.place,
                "`url` holds a user name or password, and addresses end in logs",
                "write username = \"…\" and password_file = \"…\" instead",
            );
            None
        }
    }
}

fn named(text: &str) -> Result<Named, String> {
    let Some((scheme, rest)) = text.split_once(':') else { return Err(no_store(text)) };
    match scheme {
        "memory" if rest.is_empty() => Ok(Named::Memory),
        "embedded" if rest.is_empty() => {
            Err("`embedded:` names no directory; write \"embedded:state\"".to_owned())
        }
        "embedded" => Ok(Named::Embedded(rest.to_owned())),
        _ if rest.contains('@') => Ok(Named::Secret),
        "redis" | "rediss" | "redis+unix" | "unix" | "redis+sentinel" | "rediss+sentinel"
        | "redis+cluster" | "rediss+cluster" => {
            RedisUrl::parse(text).map(|url| Named::Redis(text.to_owned(), url))
        }
        _ => Err(no_store(text)),
    }
}

fn no_store(text: &str) -> String {
    format!(
        "`{text}` is no store; write \"memory:\", \"embedded:DIRECTORY\", \
         \"redis://HOST:PORT\" or \"rediss://HOST:PORT\" (or unix, redis+sentinel, redis+cluster)"
    )
}
