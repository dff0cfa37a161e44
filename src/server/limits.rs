//! Limits and settings of the listeners in one configuration.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::debug;

use crate::config;
use crate::telemetry::Metrics;

use super::connection_limiter::ConnectionLimiter;
use super::proxy_protocol;

/// Limits and settings of the listeners. A connection keeps those of its start.
pub struct ServerLimits {
    pub configured: config::Limits,
    /// Whether connections start with a PROXY protocol header.
    pub proxy_protocol: bool,
    /// Whether any route needs TLS fingerprints.
    pub fingerprints: bool,
    /// Shared by all workers and configurations.
    pub limiter: Arc<ConnectionLimiter>,
    pub metrics: Metrics,
}

impl ServerLimits {
    /// Reads the PROXY protocol header. Returns `None` if it is required and missing or invalid,
    /// `Some(None)` if the peer is the client.
    pub(super) async fn read_proxy_header(&self, stream: &mut TcpStream) -> Option<Option<IpAddr>> {
        if !self.proxy_protocol {
            return Some(None);
        }
        match timeout(self.configured.handshake_timeout, proxy_protocol::read(stream)).await {
            Ok(Ok(client)) => Some(client),
            Ok(Err(error)) => {
                debug!(%error, "invalid PROXY header");
                None
            }
            Err(_) => {
                debug!("PROXY header timed out");
                None
            }
        }
    }
}
