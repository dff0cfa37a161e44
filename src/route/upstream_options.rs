//! How the gateway connects to the upstream of a route, and which head it sends.

use std::path::PathBuf;

use http::HeaderValue;
use rustls::pki_types::ServerName;

/// Connection and request head of a route's upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamOptions {
    pub tls: UpstreamTls,
    pub host_header: HostHeader,
    /// Whether requests carry `Via`. nginx compresses no response to a request with it.
    pub via: bool,
    /// Value of `X-Forwarded-Prefix`; `None` sends none.
    pub forwarded_prefix: Option<HeaderValue>,
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
            host_header: HostHeader::default(),
            via: true,
            forwarded_prefix: None,
        }
    }
}
