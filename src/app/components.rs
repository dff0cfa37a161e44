//! Long-lived components: they keep their state when the configuration is reloaded.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::audit::AuditLog;
use crate::clock::Clock;
use crate::config::{self, Config, RedisLocation, Signals, StoreLocation};
use crate::identity::{Directory, LoginMethod, LoginMethods, PasswordLogin, PasswordSettings};
use crate::proxy::{MemoryLoad, SharedEndpoints};
use crate::secret::KeyRing;
use crate::server::ConnectionLimiter;
use crate::sessions::{Shared, SharedParts};
use crate::store::{RedisSettings, Store};
use crate::telemetry::{AccessLogWriter, Metrics};
use crate::tls::{Certificates, HandshakeAcceptor};

use super::geoip_files::GeoIpFiles;
use super::snapshot::Snapshot;
use super::start_error::StartError;
use super::{keys, notify, secrets};

/// Environment variables that hold the store passwords if no file is configured.
const STORE_PASSWORD: &str = "DOORWARD_STORE_PASSWORD";
const SENTINEL_PASSWORD: &str = "DOORWARD_SENTINEL_PASSWORD";

/// The parts that all workers share.
pub(super) struct Components {
    pub(super) shared: Arc<Shared>,
    pub(super) store: Store,
    pub(super) certificates: Arc<Certificates>,
    /// Shared, so that every worker resumes the TLS sessions of the others.
    pub(super) acceptor: HandshakeAcceptor,
    pub(super) login: Option<Arc<PasswordLogin>>,
    pub(super) limiter: Arc<ConnectionLimiter>,
    pub(super) memory_load: Arc<MemoryLoad>,
    pub(super) endpoints: Arc<SharedEndpoints>,
    pub(super) access_log: Option<AccessLogWriter>,
    geoip_files: Mutex<GeoIpFiles>,
}

impl Components {
    /// Opens files and stores, and loads keys and certificates.
    pub(super) fn build(
        snapshot: &Snapshot,
        clock: Clock,
        access_log: Option<AccessLogWriter>,
    ) -> Result<Components, StartError> {
        let config = &snapshot.config;
        let users = config.login.password.as_ref().map(|login| Directory::open(&login.users));
        let users = users.transpose()?;
        let keys = keys::load_or_generate(&config.keys_file, &files_written_with_keys(config))?;
        let store = open_store(config, clock.clone())?;
        let keys = keys::confirm_at_start(keys, &config.keys_file, &store)?;
        let login = match (users, &config.login.password) {
            (Some(users), Some(login)) => Some(password_login(users, login, &keys)?),
            (_, _) => None,
        };
        let audit = match &config.audit.file {
            Some(path) => Some(AuditLog::open(path.clone(), keys.audit().clone(), clock.clone())?),
            None => None,
        };
        let metrics = Metrics::default();
        let notifier = notify::start(config, &metrics)?;
        let login_methods =
            LoginMethods::new(login.clone().map(LoginMethod::Password).into_iter().collect());
        let parts = SharedParts::new(&store, keys, clock, config.into());
        let shared = SharedParts { login_methods, metrics, audit, notifier, ..parts };
        let shared = Arc::new(Shared::new(shared));
        let mut geoip_files = GeoIpFiles::new(&config.signals);
        shared.geoip.store(Arc::new(geoip_files.reload_if_changed().unwrap_or_default()));
        let certificates = Certificates::load(&config.certificates, &config.client_auth)?;
        let components = Components {
            store,
            acceptor: HandshakeAcceptor::new(Arc::clone(&certificates))?,
            certificates,
            login,
            limiter: Arc::new(ConnectionLimiter::new(snapshot.connection_limits())),
            memory_load: Arc::default(),
            endpoints: Arc::default(),
            access_log: access_log.filter(|_| config.log.requests),
            geoip_files: Mutex::new(geoip_files),
            shared,
        };
        components.report_certificates();
        Ok(components)
    }

    /// Sets the metrics of the certificates.
    pub(super) fn report_certificates(&self) {
        for (file, expires) in self.certificates.expiries() {
            self.shared.metrics.certificate_expiry(file.display().to_string(), expires);
        }
    }

    /// Loads other GeoIP databases if the configuration names others.
    pub(super) fn reconfigure_geoip(&self, running: &Signals, new: &Signals) {
        if (&running.country_db, &running.asn_db) != (&new.country_db, &new.asn_db) {
            let mut files = self.geoip_files.lock();
            *files = GeoIpFiles::new(new);
            self.shared.geoip.store(Arc::new(files.reload_if_changed().unwrap_or_default()));
        }
    }

    /// Reloads the GeoIP databases that changed.
    pub(super) fn reload_geoip(&self) {
        let mut files = self.geoip_files.lock();
        if let Some(geoip) = files.reload_if_changed() {
            self.shared.geoip.store(Arc::new(geoip));
        }
    }
}

pub(super) fn files_written_with_keys(config: &Config) -> Vec<PathBuf> {
    let sessions = match &config.store.location {
        StoreLocation::Embedded(directory) => Some(Store::embedded_file(directory)),
        StoreLocation::Memory | StoreLocation::Redis(_) => None,
    };
    sessions.into_iter().chain(config.audit.file.clone()).collect()
}

fn password_login(
    users: Directory,
    config: &config::PasswordOptions,
    keys: &KeyRing,
) -> Result<Arc<PasswordLogin>, StartError> {
    let (min_length, is_changeable) = (config.min_length, config.change);
    let settings = PasswordSettings { min_length, is_changeable, ..PasswordSettings::default() };
    let login = PasswordLogin::new(Arc::new(users), settings, keys.login().clone());
    login.map(Arc::new).map_err(|error| StartError::Login(error.to_string()))
}

fn open_store(config: &Config, clock: Clock) -> Result<Store, StartError> {
    match &config.store.location {
        StoreLocation::Memory => Ok(Store::memory(clock)),
        StoreLocation::Embedded(directory) => Ok(Store::embedded(directory, clock)?),
        StoreLocation::Redis(location) => {
            Ok(Store::redis(&redis_settings(location, config.store.response_timeout)?)?)
        }
    }
}

pub(super) fn redis_settings(
    location: &RedisLocation,
    response_timeout: Duration,
) -> Result<RedisSettings, StartError> {
    let secret =
        |file: &Option<PathBuf>, variable| secrets::read_file_or_variable(file.as_ref(), variable);
    Ok(RedisSettings {
        url: location.url.clone(),
        ca: location.ca.clone(),
        client_cert: location.client_cert.clone(),
        client_key: location.client_key.clone(),
        username: location.username.clone(),
        password: secret(&location.password_file, STORE_PASSWORD)?,
        sentinel_username: location.sentinel_username.clone(),
        sentinel_password: secret(&location.sentinel_password_file, SENTINEL_PASSWORD)?,
        wait_replicas: location.wait_replicas,
        wait_timeout: location.wait_timeout,
        response_timeout,
        local_cache: location.local_cache,
    })
}
