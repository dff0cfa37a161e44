//! Connection pools of one worker, one for each set of connection settings.

use std::sync::Arc;

use crate::route::{Route, UpstreamTls};
use crate::tls::{self, TlsError};
use crate::upstream::{HeadLimits, UpstreamError, UpstreamSettings, Upstreams};

use super::RequestBody;

/// Routes with the same TLS settings and limits share a pool.
#[derive(Default)]
pub struct UpstreamClusters {
    clusters: Vec<Cluster>,
}

struct Cluster {
    tls: UpstreamTls,
    settings: UpstreamSettings,
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
        let settings = settings(route);
        self.clusters.iter().find(|cluster| {
            cluster.settings == settings && cluster.tls == route.upstream_options.tls
        })
    }
}

impl Cluster {
    /// Reads the files of the TLS settings.
    fn new(route: &Route) -> Result<Cluster, TlsError> {
        let (tls, settings) = (route.upstream_options.tls.clone(), settings(route));
        let config = tls::upstream_config(tls.ca.as_deref(), tls.certificate.as_ref())?;
        let upstreams = Upstreams::new(settings, &config).with_server_name(tls.server_name.clone());
        Ok(Cluster { tls, settings, upstreams })
    }
}

fn settings(route: &Route) -> UpstreamSettings {
    UpstreamSettings {
        response_timeout: route.response_timeout,
        response_head: HeadLimits {
            headers: route.limits.response_headers,
            bytes: route.limits.response_header_bytes,
        },
        ..UpstreamSettings::default()
    }
}
