//! Configuration snapshot: every value that is derived from the configuration.

use std::path::Path;
use std::sync::Arc;

use http::HeaderValue;
use zeroize::Zeroizing;

use crate::clock::Clock;
use crate::config::{Config, ForwardedHeader, Server};
use crate::portal::{Branding, Help};
use crate::proxy::{ClientSource, DroppedHeaders, TrustedProxies};
use crate::route::RouteTable;
use crate::server::{ConnectionLimiter, ConnectionLimits, ServerLimits};
use crate::session::SignalsMode;
use crate::sessions::SessionSettings;
use crate::telemetry::Metrics;

use super::memory;
use super::oidc::BuiltProviders;
use super::rlimit;
use super::start_error::StartError;

/// An immutable set of values. A reload replaces all of them at once.
pub(super) struct Snapshot {
    pub(super) config: Config,
    pub(super) routes: Arc<RouteTable>,
    pub(super) sessions: Arc<SessionSettings>,
    pub(super) dropped_headers: Arc<DroppedHeaders>,
    pub(super) trusted_proxies: Arc<TrustedProxies>,
    pub(super) branding: Arc<Branding>,
    pub(super) login_providers: BuiltProviders,
    pub(super) workers: usize,
    /// Memory limit of the process in bytes; `None` is no limit.
    pub(super) memory_limit: Option<u64>,
}

impl Snapshot {
    /// Derives all values. Parts of the running snapshot that do not change are kept.
    ///
    /// # Errors
    /// A configured file cannot be read.
    pub(super) fn build(
        config: Config,
        clock: &Clock,
        running: Option<&Snapshot>,
    ) -> Result<Snapshot, StartError> {
        let running = running.map(|running| &running.login_providers);
        let mut routes = config.routes.clone();
        routes.read_header_files(header_file)?;
        let routes = Arc::new(routes);
        let login_providers = BuiltProviders::build(&config, clock, running)?;
        let providers = Arc::clone(&login_providers.providers);
        Ok(Snapshot {
            sessions: Arc::new(SessionSettings { providers, ..SessionSettings::from(&config) }),
            dropped_headers: Arc::default(),
            trusted_proxies: Arc::new(trusted_proxies(&config.server)),
            branding: Arc::new(branding(&config)?),
            login_providers,
            workers: workers(&config),
            memory_limit: memory::limit(config.limits.memory),
            routes,
            config,
        })
    }

    /// Returns the share of `limits.requests` of each worker.
    pub(super) fn requests_per_worker(&self) -> usize {
        self.config.limits.requests.div_ceil(self.workers)
    }

    /// Returns the limits on client connections, which open files may lower.
    pub(super) fn connection_limits(&self) -> ConnectionLimits {
        let configured = &self.config.limits;
        ConnectionLimits {
            connections: rlimit::max_connections(configured.connections),
            per_network: configured.connections_per_network,
            rate: configured.connection_rate,
        }
    }

    /// Returns the limits and settings of the listeners.
    pub(super) fn server_limits(
        &self,
        limiter: Arc<ConnectionLimiter>,
        metrics: Metrics,
    ) -> ServerLimits {
        let needs_fingerprint = |mode| mode != SignalsMode::Off;
        ServerLimits {
            configured: self.config.limits.clone(),
            proxy_protocol: self.config.server.proxy_protocol,
            fingerprints: self.routes.iter().any(|it| needs_fingerprint(it.policy.signals)),
            limiter,
            metrics,
        }
    }
}

/// Reads the value of a header. A line end after it is not part of it.
fn header_file(path: &Path) -> Result<HeaderValue, StartError> {
    let failed = |error| StartError::File { path: path.to_owned(), error };
    let text = std::fs::read_to_string(path).map(Zeroizing::new).map_err(failed)?;
    let invalid =
        |_| failed(std::io::Error::other("not a header value: one line of printable ASCII"));
    let mut value = HeaderValue::from_str(text.trim_end()).map_err(invalid)?;
    value.set_sensitive(true);
    Ok(value)
}

fn trusted_proxies(server: &Server) -> TrustedProxies {
    let source = match (server.proxy_protocol, server.forwarded_header) {
        (true, _) => ClientSource::Connection,
        (false, ForwardedHeader::Either) => ClientSource::Headers,
        (false, ForwardedHeader::Forwarded) => ClientSource::Forwarded,
        (false, ForwardedHeader::XForwardedFor) => ClientSource::XForwardedFor,
    };
    TrustedProxies::new(server.trusted_proxies.clone(), source)
}

fn branding(config: &Config) -> Result<Branding, StartError> {
    let style = match &config.portal.style {
        None => String::new(),
        Some(path) => std::fs::read_to_string(path)
            .map_err(|error| StartError::File { path: path.clone(), error })?,
    };
    let portal = &config.portal;
    let (name, help, start) = (portal.name.clone(), portal.help.clone(), portal.start.clone());
    Ok(Branding { name, style, help: help.map(Help::new), start })
}

fn workers(config: &Config) -> usize {
    match config.server.workers {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get),
        number => number,
    }
}
