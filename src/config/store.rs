//! `[store]`: where sessions live.

use std::path::PathBuf;
use std::time::Duration;

use http::uri::{Authority, Uri};

use super::duration;
use super::findings::Usual::Is;
use super::reader::{Reader, Setting, not_empty};

/// Where sessions live and how long an answer may take.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    pub location: StoreLocation,
    pub response_timeout: Duration,
}

#[derive(Clone, Debug)]
pub enum StoreLocation {
    /// Lost when the process ends.
    Memory,
    /// A directory on this machine, for one node.
    Embedded(PathBuf),
    Redis(RedisLocation),
}

/// A Redis or Valkey server. Holds no secret: the password is read from its file at start.
#[derive(Clone, Debug)]
pub struct RedisLocation {
    /// `redis://HOST[:PORT][/DB]` or `rediss://…`, without user or password.
    pub url: String,
    pub ca: Option<PathBuf>,
    pub client_cert: Option<PathBuf>,
    pub client_key: Option<PathBuf>,
    pub username: Option<String>,
    pub password_file: Option<PathBuf>,
    /// Whether a hot session is asked for again only when Redis tells of a change.
    pub local_cache: bool,
}

impl RedisLocation {
    fn is_tls(&self) -> bool {
        self.url.starts_with("rediss:")
    }
}

/// Keys that say something about a Redis server only.
struct RedisKeys {
    ca: Option<Setting<PathBuf>>,
    client_cert: Option<Setting<PathBuf>>,
    client_key: Option<Setting<PathBuf>>,
    username: Option<Setting<String>>,
    password_file: Option<Setting<PathBuf>>,
    local_cache: Option<Setting<bool>>,
}

/// What a `url` names, before the other keys are looked at.
enum Named {
    Memory,
    Embedded(String),
    Redis(String),
    /// With a password inside. Kept apart, for its line must not be shown.
    Secret,
}

pub(super) fn store(mut section: Reader<'_>) -> Option<StoreConfig> {
    let url = section.text("url", Is(r#""embedded:state""#), named);
    let keys = redis_keys(&mut section);
    let timeout = section.measure("response_timeout", Is(r#""500ms""#), duration::parse_positive);
    let location = location(&section, url?, keys?);
    Some(StoreConfig { location: location?, response_timeout: timeout?.value })
}

fn redis_keys(section: &mut Reader<'_>) -> Option<RedisKeys> {
    let ca = section.optional_file("ca", r#""certs/redis-ca.pem""#);
    let client_cert = section.optional_file("client_cert", r#""certs/redis-client.pem""#);
    let client_key = section.optional_file("client_key", r#""certs/redis-client.key""#);
    let username =
        section.optional("username", r#""doorward""#, |text| not_empty(text).map(str::to_owned));
    let password_file = section.optional_file("password_file", r#""secrets/redis""#);
    let local_cache = section.optional("local_cache", r#""on""#, on_or_off);
    Some(RedisKeys {
        ca: ca?,
        client_cert: client_cert?,
        client_key: client_key?,
        username: username?,
        password_file: password_file?,
        local_cache: local_cache?,
    })
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
        Named::Redis(text) => {
            let url = Setting { value: text, place: url.place, written: url.written };
            Some(StoreLocation::Redis(keys.redis(section, url)))
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

impl RedisKeys {
    fn places(&self) -> [(&'static str, Option<&super::findings::Place>); 6] {
        [
            ("ca", self.ca.as_ref().map(|key| &key.place)),
            ("client_cert", self.client_cert.as_ref().map(|key| &key.place)),
            ("client_key", self.client_key.as_ref().map(|key| &key.place)),
            ("username", self.username.as_ref().map(|key| &key.place)),
            ("password_file", self.password_file.as_ref().map(|key| &key.place)),
            ("local_cache", self.local_cache.as_ref().map(|key| &key.place)),
        ]
    }

    /// Another store would ignore them: somebody believes in a protection that is not there.
    fn belong_to_redis(&self, section: &Reader<'_>) {
        self.refuse(
            section,
            6,
            "belongs to a Redis store",
            "leave it out, or write url = \"rediss://…\"",
        );
    }

    fn redis(self, section: &Reader<'_>, url: Setting<String>) -> RedisLocation {
        let place = url.place.clone();
        self.pair_up(section);
        let location = RedisLocation {
            url: url.value,
            ca: self.ca.as_ref().map(|key| key.value.clone()),
            client_cert: self.client_cert.as_ref().map(|key| key.value.clone()),
            client_key: self.client_key.as_ref().map(|key| key.value.clone()),
            username: self.username.as_ref().map(|key| key.value.clone()),
            password_file: self.password_file.as_ref().map(|key| key.value.clone()),
            local_cache: self.local_cache.as_ref().is_none_or(|key| key.value),
        };
        if !location.is_tls() {
            self.refuse(section, 3, "needs TLS", "write url = \"rediss://…\"");
            warn_of_clear_text(section, &location.url, &place);
        }
        location
    }

    fn refuse(&self, section: &Reader<'_>, first: usize, what: &str, help: &str) {
        for (key, place) in self.places().into_iter().take(first) {
            if let Some(place) = place {
                section.findings.problem(place, format!("`{key}` {what}"), help);
            }
        }
    }

    fn pair_up(&self, section: &Reader<'_>) {
        let lonely = match (&self.client_cert, &self.client_key) {
            (Some(cert), None) => (&cert.place, "client_cert", "client_key"),
            (None, Some(key)) => (&key.place, "client_key", "client_cert"),
            (Some(_), Some(_)) | (None, None) => return,
        };
        let (place, written, missing) = lonely;
        section.findings.problem(
            place,
            format!("`{written}` is of no use without `{missing}`"),
            format!("write {missing} = \"…\" too"),
        );
    }
}

fn warn_of_clear_text(section: &Reader<'_>, url: &str, place: &super::findings::Place) {
    let host = url.parse::<Uri>().ok().and_then(|uri| uri.host().map(super::is_loopback));
    if host == Some(false) {
        section.findings.warning(
            place,
            "sessions and the password of the store travel in clear text",
            "write rediss:// and ca, unless the network between is yours alone",
        );
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
        "redis" | "rediss" => redis(text).map(Named::Redis),
        "redis+sentinel" | "redis+cluster" | "rediss+sentinel" | "rediss+cluster" => Err(format!(
            "{scheme}:// is not supported yet; write the redis:// address of one server"
        )),
        _ => Err(no_store(text)),
    }
}

fn on_or_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        other => Err(super::not_one_of(other, &["on", "off"])),
    }
}

fn no_store(text: &str) -> String {
    format!(
        "`{text}` is no store; write \"memory:\", \"embedded:DIRECTORY\", \
         \"redis://HOST:PORT\" or \"rediss://HOST:PORT\""
    )
}

fn redis(text: &str) -> Result<String, String> {
    let wrong = || {
        format!(
            "`{text}` is no address of a Redis server; write \"redis://HOST:PORT\" or \
             \"redis://HOST:PORT/DATABASE\""
        )
    };
    let uri: Uri = text.parse().map_err(|_| wrong())?;
    let host = uri.authority().map(Authority::host).filter(|host| !host.is_empty());
    let database = uri.path().trim_start_matches('/');
    let is_database = database.is_empty() || database.parse::<u16>().is_ok();
    match (host, uri.query()) {
        (Some(_), None) if is_database => Ok(text.to_owned()),
        (Some(_) | None, Some(_) | None) => Err(wrong()),
    }
}
