//! Parses a configuration file into checked values.
//!
//! The text is parsed into a TOML tree with locations, and the tree into a [`Config`], which is valid by
//! construction. All errors are reported at once, with file, line and what to write. Unknown keys are errors,
//! because an operator may rely on a setting that would be ignored.
//!
//! A configuration contains no secrets: it names files, which are read at start.

mod audit;
mod changes;
mod client_auth;
mod cross_checks;
mod diagnostic;
mod diagnostics;
mod duration;
mod file_checks;
mod file_paths;
mod identity;
mod ldap;
mod ldap_filter;
mod limits;
mod log;
mod login;
mod long_lived;
mod notify;
mod oidc;
mod outage;
mod path_base;
mod portal;
mod presets;
mod programs;
mod reader;
mod redis_keys;
mod redis_url;
mod restart_keys;
mod route;
mod route_headers;
mod server;
mod session;
mod session_control;
mod signals;
mod size;
mod store;
mod unknown;
mod upstream;
mod value_reader;
mod values;

use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::DeTable;

use crate::route::RouteTable;
use crate::session::SessionPolicy;

use cross_checks::CrossChecks;
use diagnostics::Diagnostics;
use path_base::PathBase;
use reader::Reader;
use route::{RouteDefaults, RouteSection};

pub use audit::Audit;
pub use changes::{KeyChange, changes};
pub use client_auth::{CertificateName, ClientCertificates};
pub use diagnostic::{ConfigError, Diagnostic, RenderStyle, Warning};
pub use diagnostics::{Key, KeyDefault};
pub use file_checks::check_executable;
pub use file_paths::FilePaths;
pub use ldap::{LdapAttributes, LdapSection, LdapUrl};
pub use ldap_filter::FilterTemplate;
pub use limits::{Limits, Memory};
pub use log::{Log, LogFormat, LogLevel};
pub use login::{Login, PasswordOptions};
pub use long_lived::LongLived;
pub use notify::{Notify, NotifyCommand, NotifyEvent, Webhook};
pub use oidc::{OidcAllow, OidcClaims, OidcClientAuth, OidcSection};
pub use outage::{OnOutage, Outage};
pub use portal::PortalOptions;
pub use redis_keys::RedisLocation;
pub use redis_url::{HostPort, RedisServers, RedisUrl};
pub use server::{AdminListeners, CertificateFiles, ForwardedHeader, Server};
pub use session::Session;
pub use signals::Signals;
pub use store::{StoreConfig, StoreLocation};

/// Maximum size of a configuration file.
const MAX_FILE_BYTES: usize = 1 << 20;

/// A checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    pub server: Server,
    pub limits: Limits,
    pub admin: AdminListeners,
    /// Created at the first start.
    pub keys_file: PathBuf,
    /// Never empty.
    pub certificates: Vec<CertificateFiles>,
    pub client_auth: Vec<ClientCertificates>,
    pub store: StoreConfig,
    pub session: Session,
    pub long_lived: LongLived,
    pub login: Login,
    pub log: Log,
    pub audit: Audit,
    pub notify: Notify,
    pub signals: Signals,
    pub portal: PortalOptions,
    pub routes: RouteTable,
    /// Text of the file. It contains no secrets.
    pub source: String,
}

impl Config {
    /// Loads a file. Relative paths start at its directory.
    pub fn load(path: &Path) -> Result<(Config, Vec<Warning>), ConfigError> {
        let file = path.display().to_string();
        let text = read(path, &file)?;
        let paths = PathBase::of(path);
        let diagnostics = Diagnostics::new(&file, &text, &paths);
        let config = parse(&diagnostics);
        diagnostics.finish(config)
    }

    /// Parses a text. Relative paths start at `base`; `file` is the name in messages.
    pub fn parse(
        text: &str,
        file: &str,
        base: &Path,
    ) -> Result<(Config, Vec<Warning>), ConfigError> {
        let paths = PathBase { base: base.to_owned(), fallback: None };
        let diagnostics = Diagnostics::new(file, text, &paths);
        let config = parse(&diagnostics);
        diagnostics.finish(config)
    }

    /// Returns the files and directories that the gateway writes.
    pub fn written_paths(&self) -> impl Iterator<Item = &Path> {
        let sessions = match &self.store.location {
            StoreLocation::Embedded(directory) => Some(directory),
            StoreLocation::Memory | StoreLocation::Redis(_) => None,
        };
        let users = self.login.password.as_ref().map(|login| &login.users);
        let others = [sessions, users, self.audit.file.as_ref(), self.admin.socket.as_ref()];
        others.into_iter().flatten().chain([&self.keys_file]).map(PathBuf::as_path)
    }

    /// Like [`Config::load`]; also checks the files that the configuration names.
    pub fn check(path: &Path) -> Result<(Config, Vec<Warning>), ConfigError> {
        let file = path.display().to_string();
        let text = read(path, &file)?;
        let paths = PathBase::of(path);
        let diagnostics = Diagnostics::new(&file, &text, &paths);
        let config = parse(&diagnostics);
        diagnostics.check_files();
        diagnostics.finish(config)
    }
}

/// Parses a duration such as `30m`.
///
/// # Errors
/// The text states what to write.
pub fn duration(text: &str) -> Result<Duration, String> {
    duration::parse(text).map_err(|error| error.to_string())
}

/// Returns every known key of the sections in `text`, with its default.
pub fn known_keys(text: &str) -> Vec<Key> {
    let paths = PathBase::default();
    let diagnostics = Diagnostics::new("", text, &paths);
    parse(&diagnostics);
    oidc::register_keys(&diagnostics);
    client_auth::register_keys(&diagnostics);
    ldap::register_keys(&diagnostics);
    diagnostics.keys()
}

fn read(path: &Path, file: &str) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|error| {
        let message = format!("cannot be read: {error}");
        ConfigError::new(vec![Diagnostic::for_file(file, message)], "")
    })
}

fn parse(diagnostics: &Diagnostics<'_>) -> Option<Config> {
    if diagnostics.source.len() > MAX_FILE_BYTES {
        diagnostics.error(&None, "is longer than 1 MiB", "");
        return None;
    }
    let (tree, errors) = DeTable::parse_recoverable(diagnostics.source);
    diagnostics.syntax(&errors);
    // After a syntax error, keys of the broken lines would be reported as missing.
    if errors.is_empty() { checked(Reader::root(diagnostics, tree.get_ref())) } else { None }
}

fn checked(mut file: Reader<'_>) -> Option<Config> {
    let diagnostics = file.diagnostics;
    let section = file.section("server", "server");
    let server_span = section.as_ref().and_then(|section| section.span.clone());
    let server = section.and_then(server::server);
    let limits = file.section("limits", "limits").and_then(limits::limits);
    let admin = file.section("admin", "admin").and_then(server::admin);
    let keys_file = file.section("keys", "keys").and_then(server::keys);
    let tls = file.section("tls", "tls").and_then(server::tls);
    let store = file.section("store", "store").and_then(store::store);
    let session = file.section("session", "session").map(session::session).unwrap_or_default();
    let live = file.section("live", "live").and_then(long_lived::long_lived);
    let login = file.section("login", "login").and_then(login::login);
    let log = file.section("log", "log").and_then(log::log);
    let audit = file.section("audit", "audit").and_then(audit::audit);
    let notify = file.section("notify", "notify").and_then(notify::notify);
    let signals = file.section("signals", "signals").and_then(signals::signals);
    let portal = file.section("portal", "portal").and_then(portal::portal);
    let bodies = limits.as_ref().map(|limits| limits.bodies);
    let outage = store.as_ref().map(|store| store.outage);
    let defaults = RouteDefaults { bodies: bodies.unwrap_or_default(), outage };
    let routes = routes(&mut file, session.policy.as_ref(), &defaults);
    drop(file);
    let checks = CrossChecks { diagnostics, server: server_span, routes: &routes };
    checks.check_certificates(tls.as_ref());
    checks.check_client_auth(tls.as_ref(), login.as_ref());
    checks.check_login(login.as_ref());
    checks.check_login_names(tls.as_ref(), login.as_ref());
    checks.check_bearer(login.as_ref());
    checks.check_second_factor(login.as_ref());
    checks.check_domain(session.domain.as_ref());
    checks.check_passed_headers();
    checks.warn_shared_host();
    checks.warn_mapped_paths();
    let table = checks.route_table();
    let tls = tls?;
    Some(Config {
        server: server?,
        limits: limits?,
        admin: admin?,
        keys_file: keys_file?,
        certificates: tls.certificates,
        client_auth: tls.client_auth.into_iter().map(|at| at.settings).collect(),
        store: store?,
        session: session.finish()?,
        long_lived: live?,
        login: login?,
        log: log?,
        audit: audit?,
        notify: notify?,
        signals: signals?,
        portal: portal?,
        routes: table?,
        source: diagnostics.source.to_owned(),
    })
}

/// Returns the valid routes. A gateway without a route would respond 404 to every request.
fn routes(
    file: &mut Reader<'_>,
    session: Option<&SessionPolicy>,
    defaults: &RouteDefaults,
) -> Vec<RouteSection> {
    if !file.is_set("route") {
        let help = "write [[route]] with host, upstream and access = \"session\"";
        file.diagnostics.error(&None, "no route is configured", help);
    }
    let sections = file.sections("route", "route").unwrap_or_default();
    sections.into_iter().filter_map(|section| route::route(section, session, defaults)).collect()
}
