//! Redis URL: a single server, a Unix socket, a Sentinel-managed primary, or a cluster.
//!
//! ```text
//! redis://HOST[:PORT][/DATABASE]                       rediss:// with TLS
//! redis+unix:///PATH[?db=DATABASE]                     or unix://
//! redis+sentinel://HOST[:PORT],…/MASTER[/DATABASE]     rediss+sentinel:// with TLS to all of them
//! redis+cluster://HOST[:PORT],…                        rediss+cluster:// with TLS
//! ```
//!
//! URLs with credentials are rejected, because URLs end up in logs.

use std::fmt;
use std::path::PathBuf;

/// Default ports.
const REDIS_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;
/// Maximum sentinels or cluster seeds in one URL.
const MAX_HOSTS: usize = 32;
/// Maximum length of a primary's name in bytes.
const MAX_NAME_LEN: usize = 256;

/// A parsed Redis URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisUrl {
    pub tls: bool,
    pub servers: RedisServers,
    pub database: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisServers {
    One(HostPort),
    Unix(PathBuf),
    /// Never empty. The sentinels report the address of the primary.
    Sentinel {
        sentinels: Vec<HostPort>,
        master: String,
    },
    /// Seed nodes. Never empty.
    Cluster(Vec<HostPort>),
}

/// A host, without brackets around an IPv6 address, and a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    pub host: String,
    pub port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl RedisUrl {
    /// Parses a URL.
    ///
    /// # Errors
    /// The text states what to write, and never repeats a password.
    pub fn parse(text: &str) -> Result<RedisUrl, String> {
        if text.contains('@') {
            return Err("the URL contains a user name or password, and URLs end up in logs; \
                        write username and password_file instead"
                .to_owned());
        }
        let (scheme, rest) = text.split_once("://").unwrap_or((text, ""));
        let tls = scheme.starts_with("rediss");
        let read = match scheme {
            "redis" | "rediss" => one(rest),
            "redis+unix" | "unix" => unix(rest),
            "redis+sentinel" | "rediss+sentinel" => sentinel(rest),
            "redis+cluster" | "rediss+cluster" => cluster(rest),
            _ => None,
        };
        let (servers, database) = read.ok_or_else(|| wrong(text, scheme))?;
        Ok(RedisUrl { tls, servers, database })
    }

    /// Whether all servers are on this machine.
    pub(super) fn is_local(&self) -> bool {
        match &self.servers {
            RedisServers::Unix(_) => true,
            RedisServers::One(at) => super::values::is_loopback(&at.host),
            RedisServers::Sentinel { sentinels: hosts, .. } | RedisServers::Cluster(hosts) => {
                hosts.iter().all(|at| super::values::is_loopback(&at.host))
            }
        }
    }

    pub(super) fn is_unix(&self) -> bool {
        match self.servers {
            RedisServers::Unix(_) => true,
            RedisServers::One(_) | RedisServers::Sentinel { .. } | RedisServers::Cluster(_) => {
                false
            }
        }
    }
}

impl RedisServers {
    pub(crate) fn is_sentinel(&self) -> bool {
        match self {
            RedisServers::Sentinel { .. } => true,
            RedisServers::One(_) | RedisServers::Unix(_) | RedisServers::Cluster(_) => false,
        }
    }
}

fn wrong(text: &str, scheme: &str) -> String {
    let help = match scheme.trim_start_matches("rediss").trim_start_matches("redis") {
        "+sentinel" => format!("write \"{scheme}://HOST:PORT,HOST:PORT/MASTER\""),
        "+cluster" => format!("write \"{scheme}://HOST:PORT,HOST:PORT\""),
        "+unix" | "unix" => "write \"redis+unix:///PATH?db=0\"".to_owned(),
        _ => "write \"redis://HOST:PORT\" or \"redis://HOST:PORT/DATABASE\"".to_owned(),
    };
    format!("`{text}` is not a Redis URL; {help}")
}

fn one(rest: &str) -> Option<(RedisServers, u16)> {
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    Some((RedisServers::One(host_port(host, REDIS_PORT)?), database(path)?))
}

fn unix(rest: &str) -> Option<(RedisServers, u16)> {
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let number = if query.is_empty() { "" } else { query.strip_prefix("db=")? };
    let is_absolute = path.starts_with('/') && path.len() > 1;
    let database = database(number)?;
    is_absolute.then(|| (RedisServers::Unix(PathBuf::from(path)), database))
}

fn sentinel(rest: &str) -> Option<(RedisServers, u16)> {
    let (hosts, path) = rest.split_once('/')?;
    let (master, number) = path.split_once('/').unwrap_or((path, ""));
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if master.is_empty() || master.len() > MAX_NAME_LEN || !master.bytes().all(is_name) {
        return None;
    }
    let sentinels = host_ports(hosts, SENTINEL_PORT)?;
    Some((RedisServers::Sentinel { sentinels, master: master.to_owned() }, database(number)?))
}

/// A cluster has the database 0 only.
fn cluster(rest: &str) -> Option<(RedisServers, u16)> {
    let hosts = rest.strip_suffix('/').unwrap_or(rest);
    Some((RedisServers::Cluster(host_ports(hosts, REDIS_PORT)?), 0))
}

fn database(text: &str) -> Option<u16> {
    if text.is_empty() { Some(0) } else { text.parse().ok() }
}

fn host_ports(list: &str, default: u16) -> Option<Vec<HostPort>> {
    let hosts: Option<Vec<HostPort>> = list.split(',').map(|at| host_port(at, default)).collect();
    hosts.filter(|hosts| hosts.len() <= MAX_HOSTS)
}

fn host_port(text: &str, default: u16) -> Option<HostPort> {
    let (host, port) = match text.strip_prefix('[') {
        Some(bracketed) => {
            let (host, after) = bracketed.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, if after.is_empty() { None } else { Some(after.strip_prefix(':')?) })
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:".contains(&byte);
    let port = match port {
        None => default,
        Some(port) => port.parse().ok().filter(|port| *port > 0)?,
    };
    let is_host = !host.is_empty() && host.bytes().all(is_name);
    is_host.then(|| HostPort { host: host.to_owned(), port })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(host: &str, port: u16) -> HostPort {
        HostPort { host: host.to_owned(), port }
    }

    fn servers(text: &str) -> (bool, RedisServers, u16) {
        let url = RedisUrl::parse(text).unwrap_or_else(|error| panic!("{error}"));
        (url.tls, url.servers, url.database)
    }

    #[test]
    fn every_form_is_parsed() {
        let one = |host, port| RedisServers::One(at(host, port));
        assert_eq!(servers("redis://localhost"), (false, one("localhost", 6379), 0));
        assert_eq!(servers("rediss://r.example:6380/3"), (true, one("r.example", 6380), 3));
        assert_eq!(servers("redis://[::1]:7000/"), (false, one("::1", 7000), 0));
        let path = RedisServers::Unix(PathBuf::from("/run/redis.sock"));
        assert_eq!(servers("redis+unix:///run/redis.sock?db=2"), (false, path.clone(), 2));
        assert_eq!(servers("unix:///run/redis.sock"), (false, path, 0));
        let master = RedisServers::Sentinel {
            sentinels: vec![at("a", 1), at("b", 26379)],
            master: "mymaster".to_owned(),
        };
        assert_eq!(servers("redis+sentinel://a:1,b/mymaster/4"), (false, master.clone(), 4));
        assert_eq!(servers("rediss+sentinel://a:1,b/mymaster"), (true, master, 0));
        let cluster = RedisServers::Cluster(vec![at("a", 7000), at("b", 6379)]);
        assert_eq!(servers("rediss+cluster://a:7000,b"), (true, cluster, 0));
    }

    #[test]
    fn an_invalid_url_states_what_to_write() {
        for (wrong, help) in [
            ("redis://", "redis://HOST:PORT"),
            ("redis:localhost", "redis://HOST:PORT"),
            ("redis://a,b", "redis://HOST:PORT"),
            ("redis://a:0", "redis://HOST:PORT"),
            ("redis://a/x", "redis://HOST:PORT/DATABASE"),
            ("redis://[::1", "redis://HOST:PORT"),
            ("rediss+unix:///run/x", "redis+unix:///PATH"),
            ("unix://run/x", "redis+unix:///PATH"),
            ("unix:///run/x?password=1", "redis+unix:///PATH"),
            ("redis+sentinel://a:1", "redis+sentinel://HOST:PORT,HOST:PORT/MASTER"),
            ("redis+sentinel://a:1/", "redis+sentinel://HOST:PORT,HOST:PORT/MASTER"),
            ("redis+sentinel://a:1/my master", "redis+sentinel://HOST:PORT,HOST:PORT/MASTER"),
            ("rediss+cluster://a:1,/", "rediss+cluster://HOST:PORT,HOST:PORT"),
            ("redis+cluster://a:1/1", "redis+cluster://HOST:PORT,HOST:PORT"),
        ] {
            let error = RedisUrl::parse(wrong).expect_err(wrong);
            assert!(error.contains(help), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_password_in_a_url_is_rejected_and_not_repeated() {
        for url in ["redis://u:hunter2@h", "redis+sentinel://u:hunter2@h/m"] {
            let error = RedisUrl::parse(url).expect_err("refused");
            assert!(error.contains("password_file") && !error.contains("hunter2"), "{error}");
        }
    }
}
