//! Loads everything that a start loads, without starting: `doorward check` then finds what `doorward run`
//! would find. Also checks what a start cannot see, such as certificates that expire soon.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};

use crate::audit::read_last_head;
use crate::clock::Clock;
use crate::config::{Config, StoreLocation};
use crate::identity::Directory;
use crate::message::HostPattern;
use crate::proxy::{SharedEndpoints, UpstreamClusters};
use crate::route::{Access, ClientCertificate, Route};
use crate::store::Store;
use crate::tls::{self, Certificates};

use super::components::{files_written_with_keys, redis_settings};
use super::geoip_files::read_geoip_databases;
use super::snapshot::Snapshot;
use super::{keys, notify};

/// Certificates that expire within this time are reported.
const EXPIRY_NOTICE: SignedDuration = SignedDuration::from_hours(21 * 24);

/// Problems that prevent a start, and doubtful settings.
#[derive(Debug, Default)]
pub struct Preflight {
    pub errors: Vec<String>,
    pub warnings: Vec<String>,
}

impl Preflight {
    /// Reads the files that the configuration names. Opens neither sockets nor stores, so a gateway may
    /// run at the same time.
    pub fn run(config: &Config, now: Timestamp) -> Preflight {
        let mut found = Preflight::default();
        found.check_parts(config);
        found.check_certificates(config, now);
        found.check_client_certificates(config, now);
        found.check_accounts(config);
        found.warn_readable_secrets(config);
        found.warn_open_state_dir(&config.server.state_dir);
        found.warnings.extend(read_geoip_databases(&config.signals).1);
        found
    }

    fn check_parts(&mut self, config: &Config) {
        self.expect(Snapshot::build(config.clone(), &Clock::System, None));
        self.expect(UpstreamClusters::new(
            &config.routes,
            &UpstreamClusters::default(),
            &SharedEndpoints::default(),
        ));
        self.expect(notify::settings(&config.notify));
        // Provisional keys are not written, so this creates no file.
        self.expect(keys::load_or_generate(&config.keys_file, &files_written_with_keys(config)));
        if let Some(audit) = config.audit.file.as_ref().filter(|file| file.exists()) {
            self.expect(read_last_head(audit));
        }
        if let StoreLocation::Redis(location) = &config.store.location {
            let settings = redis_settings(location, config.store.response_timeout);
            if let Some(settings) = self.expect(settings) {
                self.expect(Store::redis(&settings));
            }
        }
    }

    fn expect<T, E: std::fmt::Display>(&mut self, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.errors.push(error.to_string())).ok()
    }

    fn check_certificates(&mut self, config: &Config, now: Timestamp) {
        let Some(certificates) =
            self.expect(Certificates::load(&config.certificates, &config.client_auth))
        else {
            return;
        };
        for (path, expires) in certificates.expiries() {
            self.warn_expiry(&path, expires, now);
        }
        let uncovered = config.routes.iter().filter(|route| !is_covered(route, &certificates));
        let hosts: BTreeSet<String> = uncovered.map(|route| route.host.to_string()).collect();
        self.warnings.extend(hosts.into_iter().map(|host| {
            format!("no certificate has the name {host}: browsers will reject the connection; add a [[tls.certificate]] with it")
        }));
    }

    /// Checks the certificates that the gateway presents to upstreams. Whether they fit to their keys is already
    /// checked.
    fn check_client_certificates(&mut self, config: &Config, now: Timestamp) {
        let files = config.routes.iter().filter_map(|route| client_certificate(route));
        let certs: BTreeSet<&Path> = files.map(|files| files.cert.as_path()).collect();
        for path in certs {
            if let Ok(expires) = tls::file_expiry(path) {
                self.warn_expiry(path, expires, now);
            }
        }
    }

    fn warn_expiry(&mut self, path: &Path, expires: Timestamp, now: Timestamp) {
        let path = path.display();
        let left = expires.duration_since(now);
        if left <= SignedDuration::ZERO {
            self.warnings.push(format!("{path}: the certificate expired at {expires}; renew it"));
        } else if left < EXPIRY_NOTICE {
            let days = left.as_hours() / 24;
            self.warnings
                .push(format!("{path}: the certificate expires in {days} days, at {expires}"));
        }
    }

    /// Checks the users file, and whether its users can satisfy the access rules.
    fn check_accounts(&mut self, config: &Config) {
        let Some(login) = &config.login.password else { return };
        let Some(directory) = self.expect(Directory::open(&login.users)) else { return };
        let users = login.users.display();
        for route in config.routes.iter() {
            let Access::Session(rule) = &route.access else { continue };
            let unknown = rule.groups.iter().filter(|group| !directory.has_group(group));
            self.warnings.extend(unknown.map(|group| {
                format!("{}: no user in {users} has the group {group}", route.label())
            }));
            let unknown = rule.users.iter().filter(|user| directory.find(user).is_none());
            self.warnings.extend(
                unknown.map(|user| format!("{}: {users} has no user {user}", route.label())),
            );
        }
    }

    /// Another user who can write to the directory can replace the keys and the users.
    fn warn_open_state_dir(&mut self, path: &Path) {
        if std::fs::metadata(path).is_ok_and(|it| it.permissions().mode() & 0o022 != 0) {
            let path = path.display();
            self.warnings.push(format!(
                "{path}: other users of this machine can replace the keys and users in it; chmod 700"
            ));
        }
    }

    fn warn_readable_secrets(&mut self, config: &Config) {
        let is_exposed = |path: &&Path| {
            std::fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o007 != 0)
        };
        let exposed: Vec<String> = secret_files(config)
            .iter()
            .map(PathBuf::as_path)
            .filter(is_exposed)
            .map(|path| {
                let path = path.display();
                format!("{path}: every user of this machine may read or write this secret; chmod 600, or 640 if the gateway's group must read it")
            })
            .collect();
        self.warnings.extend(exposed);
    }
}

fn is_covered(route: &Route, certificates: &Certificates) -> bool {
    match &route.host {
        HostPattern::Exact(name) => {
            name.starts_with('[')
                || name.parse::<std::net::IpAddr>().is_ok()
                || certificates.has_name(name)
        }
        HostPattern::Subdomain(parent) => certificates.has_name(&format!("*{parent}")),
        HostPattern::Any => true,
    }
}

fn client_certificate(route: &Route) -> Option<&ClientCertificate> {
    route.upstream_options.tls.certificate.as_ref()
}

fn secret_files(config: &Config) -> Vec<PathBuf> {
    let mut files = vec![config.keys_file.clone()];
    files.extend(config.certificates.iter().map(|files| files.key.clone()));
    files.extend(config.login.password.iter().map(|login| login.users.clone()));
    let clients = config.routes.iter().filter_map(|route| client_certificate(route));
    files.extend(clients.map(|files| files.key.clone()));
    let headers = config.routes.iter().flat_map(|route| &route.headers.set_files);
    files.extend(headers.map(|(_, file)| file.clone()));
    let passwords = config.routes.iter().flat_map(|route| route.identity.password_files());
    files.extend(passwords.map(Path::to_owned));
    files.sort();
    files.dedup();
    files.extend(config.login.oidc.iter().flat_map(|provider| provider.secret_files().cloned()));
    files.extend(config.login.ldap.iter().filter_map(|it| it.bind_password_file.clone()));
    match &config.store.location {
        StoreLocation::Memory => {}
        StoreLocation::Embedded(directory) => files.push(Store::embedded_file(directory)),
        StoreLocation::Redis(redis) => {
            let secrets = [&redis.password_file, &redis.sentinel_password_file, &redis.client_key];
            files.extend(secrets.into_iter().flatten().cloned());
        }
    }
    files
}
