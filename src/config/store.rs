//! `[store]`: location and timeouts of the session store.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::diagnostics::KeyDefault::Value;
use super::duration;
use super::outage::{Outage, outage};
use super::reader::{Field, Reader};
use super::redis_keys::{RedisKeys, RedisLocation, redis_keys};
use super::redis_url::RedisUrl;

/// The session store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    pub location: StoreLocation,
    /// Per command.
    pub response_timeout: Duration,
    pub outage: Outage,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreLocation {
    /// Sessions are lost when the process ends.
    Memory,
    /// Directory on this machine, for a single gateway.
    Embedded(PathBuf),
    Redis(RedisLocation),
}

/// The parsed `url`.
enum ParsedUrl {
    Memory,
    Embedded(String),
    Redis(String, RedisUrl),
    /// Contains credentials; its line must not be shown.
    WithCredentials,
}

pub(super) fn store(mut section: Reader<'_>) -> Option<StoreConfig> {
    let url = section.text("url", Value(r#""embedded:state""#), parse_url);
    let keys = redis_keys(&mut section);
    let timeout =
        section.quantity("response_timeout", Value(r#""500ms""#), duration::parse_positive);
    let outage = outage(&mut section);
    let location = location(&section, url?, keys?);
    Some(StoreConfig { location: location?, response_timeout: timeout?.value, outage: outage? })
}

fn location(section: &Reader<'_>, url: Field<ParsedUrl>, keys: RedisKeys) -> Option<StoreLocation> {
    let diagnostics = section.diagnostics;
    match url.value {
        ParsedUrl::Memory => {
            keys.reject_without_redis(section);
            diagnostics.warning(
                &url.span,
                "every session ends with the process, and gateways share no sessions",
                "write \"embedded:state\" or a redis:// URL",
            );
            Some(StoreLocation::Memory)
        }
        ParsedUrl::Embedded(directory) => {
            keys.reject_without_redis(section);
            Some(StoreLocation::Embedded(match url.is_set {
                true => diagnostics.resolve(&url.span, &directory),
                false => diagnostics.in_state_dir(Path::new(&directory)),
            }))
        }
        ParsedUrl::Redis(text, redis) => {
            Some(StoreLocation::Redis(keys.redis(section, text, &redis, &url.span)))
        }
        ParsedUrl::WithCredentials => {
            diagnostics.error(
                &url.span,
                "`url` contains a user name or password, and URLs end up in logs",
                "write username = \"…\" and password_file = \"…\" instead",
            );
            None
        }
    }
}

fn parse_url(text: &str) -> Result<ParsedUrl, String> {
    let Some((scheme, rest)) = text.split_once(':') else { return Err(unknown_store(text)) };
    match scheme {
        "memory" if rest.is_empty() => Ok(ParsedUrl::Memory),
        "embedded" if rest.is_empty() => {
            Err("`embedded:` has no directory; write \"embedded:state\"".to_owned())
        }
        "embedded" => Ok(ParsedUrl::Embedded(rest.to_owned())),
        _ if rest.contains('@') => Ok(ParsedUrl::WithCredentials),
        "redis" | "rediss" | "redis+unix" | "unix" | "redis+sentinel" | "rediss+sentinel"
        | "redis+cluster" | "rediss+cluster" => {
            RedisUrl::parse(text).map(|url| ParsedUrl::Redis(text.to_owned(), url))
        }
        _ => Err(unknown_store(text)),
    }
}

fn unknown_store(text: &str) -> String {
    format!(
        "`{text}` is not a store; write \"memory:\", \"embedded:DIRECTORY\", \
         \"redis://HOST:PORT\" or \"rediss://HOST:PORT\" (or unix, redis+sentinel, redis+cluster)"
    )
}
