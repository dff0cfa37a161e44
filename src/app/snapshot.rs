//! Configuration snapshot: every value that is derived from the configuration.

use std::sync::Arc;

use crate::config::Config;
use crate::message::ReservedHeaders;
use crate::portal::Branding;
use crate::proxy::TrustedProxies;
use crate::route::RouteTable;
use crate::session::SignalsMode;

use super::start_error::StartError;

/// An immutable set of values. A reload replaces all of them at once.
pub(super) struct Snapshot {
    pub(super) config: Config,
    pub(super) routes: Arc<RouteTable>,
    pub(super) reserved_headers: Arc<ReservedHeaders>,
    pub(super) trusted_proxies: Arc<TrustedProxies>,
    pub(super) branding: Arc<Branding>,
    /// Whether any route needs TLS fingerprints.
    pub(super) fingerprints: bool,
    pub(super) workers: usize,
}

impl Snapshot {
    /// Derives all values.
    ///
    /// # Errors
    /// A configured file cannot be read.
    pub(super) fn build(config: Config) -> Result<Snapshot, StartError> {
        let routes = Arc::new(config.routes.clone());
        let reserved_headers = ReservedHeaders::new(routes.iter().map(|route| &route.identity));
        Ok(Snapshot {
            reserved_headers: Arc::new(reserved_headers),
            trusted_proxies: Arc::new(TrustedProxies::new(config.server.trusted_proxies.clone())),
            branding: Arc::new(branding(&config)?),
            fingerprints: routes.iter().any(|route| route.policy.signals != SignalsMode::Off),
            workers: workers(&config),
            routes,
            config,
        })
    }

    /// Returns the share of `limits.requests` of each worker.
    pub(super) fn requests_per_worker(&self) -> usize {
        self.config.limits.requests.div_ceil(self.workers)
    }
}

fn branding(config: &Config) -> Result<Branding, StartError> {
    let style = match &config.portal.style {
        None => String::new(),
        Some(path) => std::fs::read_to_string(path)
            .map_err(|error| StartError::File { path: path.clone(), error })?,
    };
    Ok(Branding { name: config.portal.name.clone(), style })
}

fn workers(config: &Config) -> usize {
    match config.server.workers {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get),
        number => number,
    }
}
