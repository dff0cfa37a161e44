//! Connection pools of one worker, one for each set of connection settings.

use std::sync::Arc;

use crate::message::Endpoint;
use crate::route::{Route, RouteTable, UpstreamTls};
use crate::tls::{self, TlsError};
use crate::upstream::{HeadLimits, UpstreamError, UpstreamSettings, Upstreams};

use super::InboundBody;

/// Routes with the same TLS settings and limits share a pool.
#[derive(Default)]
pub struct UpstreamClusters {
    clusters: Vec<Arc<Cluster>>,
}

struct Cluster {
    tls: UpstreamTls,
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
    ) -> Result<UpstreamClusters, TlsError> {
        let mut clusters = UpstreamClusters::default();
        for route in routes.iter() {
            if clusters.find(route).is_none() {
                let tls_files = tls_files(route)?;
                let cluster = match previous.find(route).filter(|it| it.tls_files == tls_files) {
                    Some(same) => Arc::clone(same),
                    None => Arc::new(Cluster::new(route, tls_files)?),
                };
                clusters.clusters.push(cluster);
            }
        }
        Ok(clusters)
    }

    /// Drops the pools of endpoints that no route names. Exchanges in progress complete.
    pub fn drop_unused_pools(&self, routes: &RouteTable) {
        let is_used = |it: &Endpoint| routes.iter().any(|route| route.upstreams.contains(it));
        self.clusters.iter().for_each(|cluster| cluster.upstreams.retain(is_used));
    }

    /// Returns the pool of a route that was passed to [`UpstreamClusters::new`].
    pub(super) fn get(&self, route: &Route) -> Result<&Upstreams<InboundBody>, UpstreamError> {
        self.find(route).map(|cluster| &cluster.upstreams).ok_or(UpstreamError::NoEndpoint)
    }

    fn find(&self, route: &Route) -> Option<&Arc<Cluster>> {
        let settings = settings(route);
        self.clusters.iter().find(|cluster| {
            cluster.settings == settings && cluster.tls == route.upstream_options.tls
        })
    }
}

impl Cluster {
    fn new(route: &Route, tls_files: Vec<Vec<u8>>) -> Result<Cluster, TlsError> {
        let (tls, settings) = (route.upstream_options.tls.clone(), settings(route));
        let config = tls::upstream_config(tls.ca.as_deref(), tls.certificate.as_ref())?;
        let upstreams = Upstreams::new(settings, &config).with_server_name(tls.server_name.clone());
        Ok(Cluster { tls, tls_files, settings, upstreams })
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
        let first = UpstreamClusters::new(&routes("60s", &ca), &UpstreamClusters::default());
        let first = first.expect("a CA file");
        let keeps = |timeout| {
            let next = UpstreamClusters::new(&routes(timeout, &ca), &first).expect("a CA file");
            Arc::ptr_eq(&next.clusters[0], &first.clusters[0])
        };
        assert!(keeps("60s"));
        assert!(!keeps("61s"));
        std::fs::remove_dir_all(directory.path()).expect("removed");
        std::fs::create_dir(directory.path()).expect("created");
        authority();
        assert!(!keeps("60s"), "the file has another authority");
        std::fs::remove_file(&ca).expect("removed");
        assert!(UpstreamClusters::new(&routes("60s", &ca), &first).is_err());
    }
}
