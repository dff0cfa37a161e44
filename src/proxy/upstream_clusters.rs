//! Connection pools of one worker, one for each set of connection settings.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::route::Route;
use crate::tls::{self, TlsError};
use crate::upstream::{UpstreamError, UpstreamSettings, Upstreams};

use super::RequestBody;

/// Routes with the same CA and response timeout share a pool.
#[derive(Default)]
pub struct UpstreamClusters {
    clusters: Vec<Cluster>,
}

struct Cluster {
    ca: Option<PathBuf>,
    response_timeout: Duration,
    upstreams: Upstreams<RequestBody>,
}

impl UpstreamClusters {
    /// Reads the CA files of the routes.
    pub fn new<'a>(
        routes: impl Iterator<Item = &'a Arc<Route>>,
    ) -> Result<UpstreamClusters, TlsError> {
        let mut clusters = UpstreamClusters::default();
        for route in routes {
            if clusters.find(route).is_none() {
                clusters.clusters.push(Cluster::new(route)?);
            }
        }
        Ok(clusters)
    }

    /// Returns the pool of a route that was passed to [`UpstreamClusters::new`].
    pub(super) fn get(&self, route: &Route) -> Result<&Upstreams<RequestBody>, UpstreamError> {
        self.find(route).map(|cluster| &cluster.upstreams).ok_or(UpstreamError::NoEndpoint)
    }

    fn find(&self, route: &Route) -> Option<&Cluster> {
        self.clusters.iter().find(|cluster| {
            cluster.response_timeout == route.response_timeout && cluster.ca == route.upstream_ca
        })
    }
}

impl Cluster {
    fn new(route: &Route) -> Result<Cluster, TlsError> {
        let settings = UpstreamSettings {
            response_timeout: route.response_timeout,
            ..UpstreamSettings::default()
        };
        let trust = tls::client_config(route.upstream_ca.as_deref())?;
        Ok(Cluster {
            ca: route.upstream_ca.clone(),
            response_timeout: route.response_timeout,
            upstreams: Upstreams::new(settings, &trust),
        })
    }
}
