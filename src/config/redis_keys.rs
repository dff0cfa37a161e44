//! The keys of `[store]` that say something about Redis only, and what they must say together.

use std::path::PathBuf;
use std::time::Duration;

use super::duration;
use super::findings::Place;
use super::reader::{Reader, Setting, not_empty};
use super::redis_url::RedisUrl;
use super::store::RedisLocation;

/// Replicas that a write may wait for.
const MOST_REPLICAS: usize = 16;
/// A replica that is well has a write within a few milliseconds.
const WAIT_TIMEOUT: Duration = Duration::from_millis(100);

pub(super) struct RedisKeys {
    ca: Option<Setting<PathBuf>>,
    client_cert: Option<Setting<PathBuf>>,
    client_key: Option<Setting<PathBuf>>,
    username: Option<Setting<String>>,
    password_file: Option<Setting<PathBuf>>,
    sentinel_username: Option<Setting<String>>,
    sentinel_password_file: Option<Setting<PathBuf>>,
    local_cache: Option<Setting<bool>>,
    wait_replicas: Option<Setting<usize>>,
    wait_timeout: Option<Setting<Duration>>,
}

/// What a key is of no use without.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    Redis,
    Tls,
    Sentinel,
}

/// Reads them all, so that none hides another's problem.
pub(super) fn redis_keys(section: &mut Reader<'_>) -> Option<RedisKeys> {
    let name = |text: &str| not_empty(text).map(str::to_owned);
    let ca = section.optional_file("ca", r#""certs/redis-ca.pem""#);
    let client_cert = section.optional_file("client_cert", r#""certs/redis-client.pem""#);
    let client_key = section.optional_file("client_key", r#""certs/redis-client.key""#);
    let username = section.optional("username", r#""doorward""#, name);
    let password_file = section.optional_file("password_file", r#""secrets/redis""#);
    let sentinel_username = section.optional("sentinel_username", r#""doorward""#, name);
    let sentinel_password_file =
        section.optional_file("sentinel_password_file", r#""secrets/sentinel""#);
    let local_cache = section.optional("local_cache", r#""on""#, super::on_or_off);
    let wait_replicas = section.optional_number("wait_replicas", "1", 0..=MOST_REPLICAS);
    let wait_timeout =
        section.optional_measure("wait_timeout", r#""100ms""#, duration::parse_positive);
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
    fn places(&self) -> [(&'static str, Needs, Option<&Place>); 10] {
        fn at<T>(key: &Option<Setting<T>>) -> Option<&Place> {
            key.as_ref().map(|key| &key.place)
        }
        [
            ("ca", Needs::Tls, at(&self.ca)),
            ("client_cert", Needs::Tls, at(&self.client_cert)),
            ("client_key", Needs::Tls, at(&self.client_key)),
            ("username", Needs::Redis, at(&self.username)),
            ("password_file", Needs::Redis, at(&self.password_file)),
            ("sentinel_username", Needs::Sentinel, at(&self.sentinel_username)),
            ("sentinel_password_file", Needs::Sentinel, at(&self.sentinel_password_file)),
            ("local_cache", Needs::Redis, at(&self.local_cache)),
            ("wait_replicas", Needs::Redis, at(&self.wait_replicas)),
            ("wait_timeout", Needs::Redis, at(&self.wait_timeout)),
        ]
    }

    /// Another store would ignore them: somebody believes in a protection that is not there.
    pub(super) fn belong_to_redis(&self, section: &Reader<'_>) {
        self.refuse(
            section,
            |_| true,
            "belongs to a Redis store",
            "leave it out, or write url = \"rediss://…\"",
        );
    }

    pub(super) fn redis(
        self,
        section: &Reader<'_>,
        text: String,
        url: &RedisUrl,
        place: &Place,
    ) -> RedisLocation {
        self.pair_up(section);
        if !url.tls {
            let help = if url.is_unix() {
                "leave it out: a socket is not encrypted"
            } else {
                "write rediss:// in `url`"
            };
            self.refuse(section, |needs| needs == Needs::Tls, "needs TLS", help);
        }
        if !url.servers.is_sentinel() {
            let help = "leave it out, or write url = \"redis+sentinel://…\"";
            self.refuse(section, |needs| needs == Needs::Sentinel, "needs sentinels", help);
        }
        if !url.tls && !url.is_local() {
            section.findings.warning(
                place,
                "sessions and the password of the store travel in clear text",
                "write rediss:// and ca, unless the network between is yours alone",
            );
        }
        self.located(text)
    }

    fn located(self, url: String) -> RedisLocation {
        fn value<T>(key: Option<Setting<T>>) -> Option<T> {
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

    fn refuse(&self, section: &Reader<'_>, which: impl Fn(Needs) -> bool, what: &str, help: &str) {
        for (key, needs, place) in self.places() {
            if let Some(place) = place.filter(|_| which(needs)) {
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
