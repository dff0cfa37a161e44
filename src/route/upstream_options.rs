//! How the gateway connects to the upstream of a route, and which head it sends.

use std::path::PathBuf;
use std::time::Duration;

use http::HeaderValue;
use http::uri::PathAndQuery;
use rustls::pki_types::ServerName;

use super::path_mapping::PathMapping;

/// Connection and request head of a route's upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamOptions {
    pub tls: UpstreamTls,
    /// `None` checks no endpoint.
    pub health: Option<HealthCheck>,
    pub host_header: HostHeader,
    /// Whether requests carry `Via`. nginx compresses no response to a request with it.
    pub via: bool,
    /// Whether requests of a session go to the same endpoint.
    pub sticky: bool,
    /// Value of `X-Forwarded-Prefix`; `None` sends none.
    pub forwarded_prefix: Option<HeaderValue>,
    /// Maps paths, if the upstream serves the route below another path.
    pub path_mapping: Option<PathMapping>,
}

/// TLS towards https upstreams.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamTls {
    /// Trusted CA certificates, and the upstream's own certificate if it is self-signed; `None` trusts
    /// the CAs of the system.
    pub ca: Option<PathBuf>,
    /// Name in the upstream's certificate; `None` expects the host of its address.
    pub server_name: Option<ServerName<'static>>,
    /// Certificate that the gateway presents.
    pub certificate: Option<ClientCertificate>,
}

/// PEM files of a client certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// Health check of each endpoint: a GET request, whose response must have a status of 2xx or 3xx.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    pub path: PathAndQuery,
    /// Time between two checks.
    pub interval: Duration,
    /// Longest wait for the response head, with the connection.
    pub timeout: Duration,
    /// Number of failures in a row after which an endpoint is down.
    pub fall: u32,
    /// Number of successes in a row after which it is up again.
    pub rise: u32,
}

/// The `Host` header that the upstream receives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HostHeader {
    /// The host that the client requested.
    #[default]
    Client,
    /// The host of the first upstream address.
    Upstream,
}

impl Default for UpstreamOptions {
    fn default() -> UpstreamOptions {
        UpstreamOptions {
            tls: UpstreamTls::default(),
            health: None,
            host_header: HostHeader::default(),
            via: true,
            sticky: false,
            forwarded_prefix: None,
            path_mapping: None,
        }
    }
}
