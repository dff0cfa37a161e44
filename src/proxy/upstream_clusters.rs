//! Connection pools of one worker, one for each set of connection settings.

use std::sync::Arc;

use crate::message::Endpoint;
use crate::route::{Route, RouteTable, UpstreamTls};
use crate::secret::random_bytes;
use crate::tls::{self, TlsError};
use crate::upstream::{HeadLimits, RequestBody, UpstreamError, UpstreamSettings, Upstreams};

use super::InboundBody;
use super::shared_endpoints::{EndpointKey, SharedEndpoints};

/// The cluster of each route, by its index. Routes with the same settings share one.
#[derive(Default)]
pub struct UpstreamClusters(Vec<Arc<Cluster>>);

struct Cluster {
    key: EndpointKey,
    /// Content of the files of the TLS settings.
    tls_files: Vec<Vec<u8>>,
    settings: UpstreamSettings,
    upstreams: Upstreams<InboundBody>,
}

impl UpstreamClusters {
    /// Reads the CA files of the routes. Pools of `previous` with the same settings stay in use, with
    /// their connections.
    pub fn new(
        routes: &RouteTable,
        previous: &UpstreamClusters,
        endpoints: &SharedEndpoints,
    ) -> Result<UpstreamClusters, TlsError> {
        let mut clusters = UpstreamClusters::default();
        for route in routes.iter() {
            let cluster = match clusters.find(route) {
                Some(same) => Arc::clone(same),
                None => {
                    let tls_files = tls_files(route)?;
                    match previous.find(route).filter(|it| it.tls_files == tls_files) {
                        Some(same) => Arc::clone(same),
                        None => Arc::new(Cluster::new(route, tls_files, endpoints)?),
                    }
                }
            };
            clusters.0.push(cluster);
        }
        Ok(clusters)
    }

    /// Drops the pools of endpoints that no route names. Exchanges in progress complete.
    pub fn drop_unused_pools(&self, routes: &RouteTable) {
        let is_used = |it: &Endpoint| routes.iter().any(|route| route.upstreams.contains(it));
        self.0.iter().for_each(|cluster| cluster.upstreams.retain(is_used));
    }

    /// Returns the pool of a route of the table that was passed to [`UpstreamClusters::new`].
    pub(super) fn get(&self, route: &Route) -> Result<&Upstreams<InboundBody>, UpstreamError> {
        self.0.get(route.index).map(|it| &it.upstreams).ok_or(UpstreamError::NoEndpoint)
    }

    fn find(&self, route: &Route) -> Option<&Arc<Cluster>> {
        let (settings, key) = (settings(route), EndpointKey::of(route));
        self.0.iter().find(|cluster| cluster.settings == settings && cluster.key == key)
    }
}

impl Cluster {
    fn new(
        route: &Route,
        tls_files: Vec<Vec<u8>>,
        endpoints: &SharedEndpoints,
    ) -> Result<Cluster, TlsError> {
        let settings = settings(route);
        let first_ticket = usize::from_ne_bytes(random_bytes());
        let upstreams =
            connect_to(route, settings)?.with_shared_states(endpoints.states(route), first_ticket);
        Ok(Cluster { key: EndpointKey::of(route), tls_files, settings, upstreams })
    }
}

/// Returns a client with the TLS settings of a route.
pub(super) fn connect_to<B: RequestBody>(
    route: &Route,
    settings: UpstreamSettings,
) -> Result<Upstreams<B>, TlsError> {
    let tls = &route.upstream_options.tls;
    let config = tls::upstream_config(tls.ca.as_deref(), tls.certificate.as_ref())?;
    Ok(Upstreams::new(settings, &config).with_server_name(tls.server_name.clone()))
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

/// Reads the files of the TLS settings. Read before [`Cluster::new`] reads them: a file that changes in
/// between differs at the next reload.
fn tls_files(route: &Route) -> Result<Vec<Vec<u8>>, TlsError> {
    let UpstreamTls { ca, certificate, .. } = &route.upstream_options.tls;
    let pair = certificate.iter().flat_map(|files| [&files.cert, &files.key]);
    ca.iter().chain(pair).map(|path| tls::read(path)).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    fn routes(timeout: &str, ca: &Path) -> RouteTable {
        let text = format!(
            "[[tls.certificate]]\ncert = \"c\"\nkey = \"k\"\n[[route]]\nhost = \"a.test\"\nupstream = \"https://127.0.0.1:1\"\naccess = \"public\"\nresponse_timeout = \"{timeout}\"\nupstream_ca = \"{}\"\n",
            ca.display()
        );
        let config = Config::parse(&text, "test.toml", Path::new(""));
        config.expect("a valid configuration").0.routes
    }

    #[test]
    fn a_new_table_keeps_pools_whose_settings_and_files_are_unchanged() {
        let directory = tempfile::tempdir().expect("a directory");
        let ca = directory.path().join("ca.pem");
        let authority = || {
            crate::tls::dev_ca::make(directory.path(), &["a.test".to_owned()]).expect("made");
        };
        authority();
        let endpoints = SharedEndpoints::default();
        let none = UpstreamClusters::default();
        let first = UpstreamClusters::new(&routes("60s", &ca), &none, &endpoints);
        let first = first.expect("a CA file");
        let keeps = |timeout| {
            let next = UpstreamClusters::new(&routes(timeout, &ca), &first, &endpoints);
            Arc::ptr_eq(&next.expect("a CA file").0[0], &first.0[0])
        };
        assert!(keeps("60s"));
        assert!(!keeps("61s"));
        std::fs::remove_dir_all(directory.path()).expect("removed");
        std::fs::create_dir(directory.path()).expect("created");
        authority();
        assert!(!keeps("60s"), "the file has another authority");
        std::fs::remove_file(&ca).expect("removed");
        assert!(UpstreamClusters::new(&routes("60s", &ca), &first, &endpoints).is_err());
    }
}
