//! Raw configuration to checked values; produces only values that cannot be wrong.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::route::RouteTable;
use crate::session::SessionPolicy;

#[derive(Clone, Debug)]
pub struct Config {
    pub server: Server,
    pub admin: Admin,
    pub keys_file: PathBuf,
    pub certificates: Vec<CertificateFiles>,
    pub store: StoreConfig,
    pub session: Session,
    pub login: Login,
    pub log: Log,
    pub portal: Portal,
    pub routes: RouteTable,
}
#[derive(Clone, Debug)]
pub struct Server {
    pub https: Vec<SocketAddr>,
    pub http: Vec<SocketAddr>,
    pub trusted_proxies: Vec<IpNet>,
    pub workers: usize,
    pub drain: Duration,
    pub max_connections: usize,
    pub handshake_timeout: Duration,
    pub header_timeout: Duration,
    pub idle_timeout: Duration,
    pub max_body: u64,
}
#[derive(Clone, Debug)]
pub struct Admin {
    pub listen: Option<SocketAddr>,
    pub socket: Option<PathBuf>,
}
#[derive(Clone, Debug)]
pub struct CertificateFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
}
#[derive(Clone, Debug)]
pub struct StoreConfig {
    pub location: StoreLocation,
    pub response_timeout: Duration,
}
#[derive(Clone, Debug)]
pub enum StoreLocation {
    Memory,
    Embedded(PathBuf),
    Redis(RedisLocation),
}
#[derive(Clone, Debug)]
pub struct RedisLocation {
    pub url: String,
    pub ca: Option<PathBuf>,
    pub client_cert: Option<PathBuf>,
    pub client_key: Option<PathBuf>,
    pub username: Option<String>,
    pub password_file: Option<PathBuf>,
}
#[derive(Clone, Debug)]
pub struct Session {
    pub policy: SessionPolicy,
    pub max_per_user: usize,
    pub domain: Option<String>,
}
#[derive(Clone, Debug)]
pub struct Login {
    pub password: Option<PasswordLogin>,
}
#[derive(Clone, Debug)]
pub struct PasswordLogin {
    pub users: PathBuf,
}
#[derive(Clone, Copy, Debug)]
pub struct Log {
    pub level: LogLevel,
    pub format: LogFormat,
    pub requests: bool,
}
#[derive(Clone, Copy, Debug)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
}
#[derive(Clone, Copy, Debug)]
pub enum LogFormat {
    Json,
    Text,
}
#[derive(Clone, Debug)]
pub struct Portal {
    pub name: String,
    pub style: Option<PathBuf>,
}
// TEMPORARY STAND-IN
use crate::http::*;
use crate::route::*;
use crate::session::*;
pub type Problems = String;
fn dur(v: Option<&toml::Value>, d: u64) -> Duration {
    let Some(s) = v.and_then(|v| v.as_str()) else { return Duration::from_secs(d) };
    let (n, u) = s.split_at(s.find(|c: char| c.is_alphabetic()).unwrap());
    let n: u64 = n.parse().unwrap();
    match u {
        "ms" => Duration::from_millis(n),
        "s" => Duration::from_secs(n),
        "m" => Duration::from_secs(n * 60),
        _ => Duration::from_secs(n * 3600),
    }
}
impl Config {
    pub fn load(path: &std::path::Path) -> Result<(Config, Vec<String>), Problems> {
        Config::parse(&std::fs::read_to_string(path).map_err(|e| e.to_string())?, "x", path)
    }
    pub fn parse(
        text: &str,
        _: &str,
        _: &std::path::Path,
    ) -> Result<(Config, Vec<String>), Problems> {
        let t: toml::Table = text.parse().map_err(|e: toml::de::Error| e.to_string())?;
        let g = |a: &str, b: &str| t.get(a).and_then(|x| x.get(b));
        let s = |a: &str, b: &str| g(a, b).and_then(|v| v.as_str()).map(str::to_owned);
        let addrs = |b: &str| {
            g("server", b)
                .and_then(|v| v.as_array())
                .map(|v| {
                    v.iter()
                        .map(|x| x.as_str().unwrap().parse().unwrap())
                        .collect::<Vec<SocketAddr>>()
                })
                .unwrap_or_default()
        };
        let url = s("store", "url").unwrap_or("memory:".into());
        let location = if let Some(d) = url.strip_prefix("embedded:") {
            StoreLocation::Embedded(d.into())
        } else if url == "memory:" {
            StoreLocation::Memory
        } else {
            StoreLocation::Redis(RedisLocation {
                url,
                ca: None,
                client_cert: None,
                client_key: None,
                username: None,
                password_file: None,
            })
        };
        let routes = t
            .get("route")
            .and_then(|r| r.as_array())
            .unwrap()
            .iter()
            .map(|r| {
                let st = |k: &str| r.get(k).and_then(|v| v.as_str());
                let list = |v: Option<&toml::Value>| {
                    v.and_then(|v| v.as_array())
                        .map(|v| v.iter().map(|x| x.as_str().unwrap().to_owned()).collect())
                        .unwrap_or_default()
                };
                let access = match r.get("access") {
                    Some(toml::Value::String(s)) if s == "public" => Access::Public,
                    Some(toml::Value::String(_)) => Access::Session(Requirement::default()),
                    Some(a) => Access::Session(Requirement {
                        users: list(a.get("users")),
                        groups: list(a.get("groups")),
                    }),
                    None => panic!(),
                };
                let identity = match r.get("identity").and_then(|i| i.as_table()) {
                    None => IdentityFields::standard(),
                    Some(t) => IdentityFields {
                        fields: t
                            .iter()
                            .map(|(k, v)| IdentityField::parse(k, v.as_str().unwrap()).unwrap())
                            .collect(),
                        encoding: ValueEncoding::Utf8,
                    },
                };
                Route {
                    host: HostPattern::parse(st("host").unwrap_or("*")).unwrap(),
                    path: PathPrefix::parse(st("path").unwrap_or("/")).unwrap(),
                    upstreams: vec![Endpoint::parse(st("upstream").unwrap()).unwrap()],
                    access,
                    identity,
                    policy: RoutePolicy::default(),
                    renewal: true,
                    response_timeout: Duration::from_secs(60),
                    upstream_ca: None,
                }
            })
            .collect();
        let c = Config {
            server: Server {
                https: addrs("https"),
                http: addrs("http"),
                trusted_proxies: vec![],
                workers: 0,
                drain: Duration::from_secs(5),
                max_connections: 10000,
                handshake_timeout: Duration::from_secs(10),
                header_timeout: Duration::from_secs(30),
                idle_timeout: Duration::from_secs(60),
                max_body: 0,
            },
            admin: Admin {
                listen: s("admin", "listen").filter(|s| !s.is_empty()).map(|s| s.parse().unwrap()),
                socket: s("admin", "socket").map(Into::into),
            },
            keys_file: s("keys", "file").unwrap().into(),
            certificates: t["tls"]["certificate"]
                .as_array()
                .unwrap()
                .iter()
                .map(|c| CertificateFiles {
                    cert: c["cert"].as_str().unwrap().into(),
                    key: c["key"].as_str().unwrap().into(),
                })
                .collect(),
            store: StoreConfig { location, response_timeout: Duration::from_millis(500) },
            session: Session {
                policy: SessionPolicy::new(
                    dur(g("session", "idle_timeout"), 1800),
                    dur(g("session", "absolute_timeout"), 43200),
                    dur(g("session", "rotate_after"), 600),
                    dur(g("session", "rotation_grace"), 30),
                    OnReuse::Revoke,
                )
                .unwrap(),
                max_per_user: 0,
                domain: None,
            },
            login: Login {
                password: t
                    .get("login")
                    .and_then(|l| l.get("password"))
                    .map(|p| PasswordLogin { users: p["users"].as_str().unwrap().into() }),
            },
            log: Log {
                level: LogLevel::Info,
                format: if s("log", "format").as_deref() == Some("text") {
                    LogFormat::Text
                } else {
                    LogFormat::Json
                },
                requests: g("log", "requests").and_then(|v| v.as_bool()).unwrap_or(true),
            },
            portal: Portal { name: "doorward".into(), style: None },
            routes: RouteTable::new(routes).unwrap(),
        };
        Ok((c, vec![]))
    }
}
