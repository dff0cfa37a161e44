//! Limits per endpoint and the priority of a request.

use std::time::Duration;

/// Limits for one endpoint, per worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpstreamSettings {
    /// Limit for DNS, TCP and TLS together. Also the limit for waiting on a permit when
    /// `max_connections_per_endpoint` exchanges are in progress.
    pub connect_timeout: Duration,
    /// Limit from the last progress of the request body to the response head.
    pub response_timeout: Duration,
    /// Lifetime of an idle connection. It must be shorter than the upstream's own limit (5 s in
    /// Node.js), so that the gateway closes first.
    pub idle_timeout: Duration,
    pub max_idle_per_endpoint: usize,
    /// Maximum number of exchanges and tunnels in progress. Each takes a connection with HTTP/1.1
    /// and a stream with HTTP/2.
    pub max_connections_per_endpoint: usize,
    pub response_head: HeadLimits,
}

/// Limits for a response head, for HTTP/1.1 and HTTP/2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Maximum number of headers.
    pub headers: usize,
    /// Maximum size in bytes; in HTTP/2 after decompression.
    pub bytes: usize,
}

impl Default for HeadLimits {
    fn default() -> HeadLimits {
        HeadLimits { headers: 256, bytes: 64 * 1024 }
    }
}

impl Default for UpstreamSettings {
    fn default() -> UpstreamSettings {
        UpstreamSettings {
            connect_timeout: Duration::from_secs(5),
            response_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(4),
            max_idle_per_endpoint: 64,
            max_connections_per_endpoint: 1024,
            response_head: HeadLimits::default(),
        }
    }
}

impl UpstreamSettings {
    /// Returns the number of permits that anonymous requests may use.
    pub(super) fn anonymous_limit(&self) -> usize {
        self.max_connections_per_endpoint.saturating_sub(self.max_connections_per_endpoint / 4)
    }

    /// Returns the maximum number of idle pinned connections, which are not counted as exchanges.
    pub(super) fn pinned_limit(&self) -> usize {
        self.max_connections_per_endpoint / 4
    }
}

/// Priority of a request when an endpoint runs short of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// The request belongs to a session.
    Authenticated,
    /// No session. A quarter of the connections is reserved for [`Priority::Authenticated`].
    Anonymous,
}
