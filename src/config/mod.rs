//! Raw configuration to checked values.
//!
//! Two steps: the text becomes a tree that knows its lines, and the tree becomes a [`Config`],
//! which cannot be wrong. No problem hides another: all of them are reported, with file, line, what
//! is wrong and what to write. A key that is not known is a problem, for a setting that is silently
//! ignored is one that somebody relies on.
//!
//! Nothing here holds a secret; secrets stand in files of their own, named here and read at start.

mod audit;
mod duration;
mod files;
mod findings;
mod limits;
mod live;
mod log;
mod login;
mod notify;
mod outage;
mod portal;
mod problem;
mod reader;
mod redis_keys;
mod redis_url;
mod route;
mod server;
mod session;
mod signals;
mod size;
mod steering;
mod store;
mod together;
mod unknown;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::DeTable;

use crate::route::RouteTable;
use crate::session::SessionPolicy;

use findings::Findings;
use reader::Reader;
use route::{Inherited, RouteSection};
use together::Together;

pub use audit::Audit;
pub use files::program;
pub use findings::{Key, Usual};
pub use limits::{Limits, Memory};
pub use live::Live;
pub use log::{Log, LogFormat, LogLevel};
pub use login::{Login, PasswordLogin};
pub use notify::{Notify, NotifyCommand, NotifyEvent, Webhook};
pub use outage::{OnOutage, Outage};
pub use portal::Portal;
pub use problem::{Problem, Problems, Style, Warning};
pub use redis_url::{HostPort, RedisServers, RedisUrl};
pub use server::{Admin, CertificateFiles, Server};
pub use session::Session;
pub use signals::Signals;
pub use store::{RedisLocation, StoreConfig, StoreLocation};

/// A file longer than this is no configuration.
const LONGEST: usize = 1 << 20;

/// Everything that the gateway is told.
#[derive(Clone, Debug)]
pub struct Config {
    pub server: Server,
    pub limits: Limits,
    pub admin: Admin,
    /// Made at the first start.
    pub keys_file: PathBuf,
    /// Never empty.
    pub certificates: Vec<CertificateFiles>,
    pub store: StoreConfig,
    pub session: Session,
    pub live: Live,
    pub login: Login,
    pub log: Log,
    pub audit: Audit,
    pub notify: Notify,
    pub signals: Signals,
    pub portal: Portal,
    pub routes: RouteTable,
}

impl Config {
    /// Reads a file. Relative paths in it start from the working directory.
    pub fn load(path: &Path) -> Result<(Config, Vec<Warning>), Problems> {
        let file = path.display().to_string();
        Config::parse(&read(path, &file)?, &file, Path::new(""))
    }

    /// Reads a text. Relative paths in it start from `base`; `file` is its name in messages.
    pub fn parse(text: &str, file: &str, base: &Path) -> Result<(Config, Vec<Warning>), Problems> {
        let findings = Findings::new(file, text, base);
        let config = parse(&findings);
        findings.conclude(config)
    }

    /// As [`Config::load`], and says which of the files named in it cannot be read.
    pub fn check(path: &Path) -> Result<(Config, Vec<Warning>), Problems> {
        let file = path.display().to_string();
        let text = read(path, &file)?;
        let findings = Findings::new(&file, &text, Path::new(""));
        let config = parse(&findings);
        findings.look_for_files();
        findings.conclude(config)
    }
}

/// Reads a duration as the configuration writes it, as in `30m`.
///
/// # Errors
/// Says what to write instead.
pub fn duration(text: &str) -> Result<Duration, String> {
    duration::parse(text).map_err(|error| error.to_string())
}

/// Every key that is known in the sections of this text, with what holds when it is not written.
pub fn known_keys(text: &str) -> Vec<Key> {
    let findings = Findings::new("", text, Path::new(""));
    parse(&findings);
    findings.keys()
}

fn read(path: &Path, file: &str) -> Result<String, Problems> {
    std::fs::read_to_string(path).map_err(|error| {
        let message = format!("cannot be read: {error}");
        Problems::new(vec![Problem::of_file(file, message)], "")
    })
}

fn parse(findings: &Findings<'_>) -> Option<Config> {
    if findings.source.len() > LONGEST {
        findings.problem(&None, "is longer than a mebibyte and no configuration", "");
        return None;
    }
    let (tree, errors) = DeTable::parse_recoverable(findings.source);
    findings.syntax(&errors);
    // What a broken line took away would be reported as missing, and mislead.
    if errors.is_empty() { checked(Reader::of_file(findings, tree.get_ref())) } else { None }
}

fn checked(mut file: Reader<'_>) -> Option<Config> {
    let findings = file.findings;
    let section = file.section("server", "server");
    let server_place = section.as_ref().and_then(|section| section.place.clone());
    let server = section.and_then(server::server);
    let limits = file.section("limits", "limits").and_then(limits::limits);
    let admin = file.section("admin", "admin").and_then(server::admin);
    let keys_file = file.section("keys", "keys").and_then(server::keys);
    let certificates = file.section("tls", "tls").and_then(server::certificates);
    let store = file.section("store", "store").and_then(store::store);
    let session = file.section("session", "session").map(session::session).unwrap_or_default();
    let live = file.section("live", "live").and_then(live::live);
    let login = file.section("login", "login").and_then(login::login);
    let log = file.section("log", "log").and_then(log::log);
    let audit = file.section("audit", "audit").and_then(audit::audit);
    let notify = file.section("notify", "notify").and_then(notify::notify);
    let signals = file.section("signals", "signals").and_then(signals::signals);
    let portal = file.section("portal", "portal").and_then(portal::portal);
    let bodies = limits.as_ref().map(|limits| limits.bodies);
    let outage = store.as_ref().map(|store| store.outage);
    let inherited = Inherited { bodies: bodies.unwrap_or_default(), outage };
    let routes = routes(&mut file, session.policy.as_ref(), &inherited);
    drop(file);
    let together = Together { findings, server: server_place, routes: &routes };
    together.certificates(certificates.as_deref());
    together.login(login.as_ref());
    together.domain(session.domain.as_ref());
    together.warn_of_neighbours();
    let table = together.table();
    Some(Config {
        server: server?,
        limits: limits?,
        admin: admin?,
        keys_file: keys_file?,
        certificates: certificates?,
        store: store?,
        session: session.checked()?,
        live: live?,
        login: login?,
        log: log?,
        audit: audit?,
        notify: notify?,
        signals: signals?,
        portal: portal?,
        routes: table?,
    })
}

/// The routes that are right. A gateway without one would answer 404 to everybody.
fn routes(
    file: &mut Reader<'_>,
    session: Option<&SessionPolicy>,
    inherited: &Inherited,
) -> Vec<RouteSection> {
    if !file.is_written("route") {
        let help = "write [[route]] with host, upstream and access = \"session\"";
        file.findings.problem(&None, "there is no route", help);
    }
    let sections = file.sections("route", "route").unwrap_or_default();
    sections.into_iter().filter_map(|section| route::route(section, session, inherited)).collect()
}

/// Whether what is sent there stays on this machine.
fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

fn on_or_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        other => Err(not_one_of(other, &["on", "off"])),
    }
}

fn not_one_of(text: &str, known: &[&str]) -> String {
    let known: Vec<String> = known.iter().map(|word| format!("\"{word}\"")).collect();
    format!("`{text}` is not known; write {}", known.join(" or "))
}
