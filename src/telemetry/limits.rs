//! Rejections by a limit: a counter and a throttled log entry for each limit. One entry per connection
//! would let a flood fill the log.

use std::net::IpAddr;
use std::time::Instant;

use parking_lot::Mutex;
use tracing::warn;

use super::log_throttle::LogThrottle;

/// A limit of `[limits]`, or one of HTTP/2 that has no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Too many connections, all of them with a session.
    Connections,
    /// A connection without a session was closed for a new connection.
    ConnectionEvicted,
    ConnectionsPerNetwork,
    ConnectionRate,
    HandshakeTimeout,
    HeaderTimeout,
    /// Too many headers, or too many bytes of them.
    Headers,
    WriteTimeout,
    BodyTimeout,
    MaxBody,
    UpstreamIdleTimeout,
    WebSocketIdleTimeout,
    RequestTimeout,
    /// Too many connections to one upstream.
    UpstreamConnections,
    /// Too many HTTP/2 streams that the client reset.
    StreamResets,
    /// Too many bytes of HTTP/2 control frames: pings, settings, empty frames.
    ControlBytes,
    Requests,
    Memory,
    /// The event loop of a worker is late.
    WorkerLag,
}

impl Limit {
    const ALL: [Limit; 19] = [
        Limit::Connections,
        Limit::ConnectionEvicted,
        Limit::ConnectionsPerNetwork,
        Limit::ConnectionRate,
        Limit::HandshakeTimeout,
        Limit::HeaderTimeout,
        Limit::Headers,
        Limit::WriteTimeout,
        Limit::BodyTimeout,
        Limit::MaxBody,
        Limit::UpstreamIdleTimeout,
        Limit::WebSocketIdleTimeout,
        Limit::RequestTimeout,
        Limit::UpstreamConnections,
        Limit::StreamResets,
        Limit::ControlBytes,
        Limit::Requests,
        Limit::Memory,
        Limit::WorkerLag,
    ];

    /// Returns the value of the `limit` label and of the `limit` log field.
    pub fn as_str(self) -> &'static str {
        match self {
            Limit::Connections => "connections",
            Limit::ConnectionEvicted => "connection-evicted",
            Limit::ConnectionsPerNetwork => "connections-per-network",
            Limit::ConnectionRate => "connection-rate",
            Limit::HandshakeTimeout => "handshake-timeout",
            Limit::HeaderTimeout => "header-timeout",
            Limit::Headers => "headers",
            Limit::WriteTimeout => "write-timeout",
            Limit::BodyTimeout => "body-timeout",
            Limit::MaxBody => "max-body",
            Limit::UpstreamIdleTimeout => "upstream-idle-timeout",
            Limit::WebSocketIdleTimeout => "websocket-idle-timeout",
            Limit::RequestTimeout => "request-timeout",
            Limit::UpstreamConnections => "upstream-connections",
            Limit::StreamResets => "stream-resets",
            Limit::ControlBytes => "control-bytes",
            Limit::Requests => "requests",
            Limit::Memory => "memory",
            Limit::WorkerLag => "worker-lag",
        }
    }
}

/// Throttles the log entries of rejections, for each limit on its own.
#[derive(Default)]
pub(super) struct LimitLog {
    limits: Mutex<[LogThrottle; Limit::ALL.len()]>,
}

impl LimitLog {
    /// Records a rejection. The first one of a burst is logged at once.
    pub(super) fn record(&self, limit: Limit, client: Option<IpAddr>) {
        let mut limits = self.limits.lock();
        let index = Limit::ALL.iter().position(|other| *other == limit);
        if let Some(throttle) = index.and_then(|index| limits.get_mut(index)) {
            throttle.record(1);
            log(limit, throttle.due(Instant::now()), client);
        }
    }

    /// Logs unreported rejections whose interval is over.
    pub(super) fn flush(&self) {
        let mut limits = self.limits.lock();
        let now = Instant::now();
        for (limit, throttle) in Limit::ALL.iter().zip(limits.iter_mut()) {
            log(*limit, throttle.due(now), None);
        }
    }
}

fn log(limit: Limit, count: Option<u64>, client: Option<IpAddr>) {
    if let Some(count) = count {
        let client = client.map(|address| address.to_string());
        warn!(event = "limit.hit", limit = limit.as_str(), count, client);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_has_its_own_label() {
        let labels: std::collections::BTreeSet<_> = Limit::ALL.iter().map(|l| l.as_str()).collect();
        assert_eq!(labels.len(), Limit::ALL.len());
    }
}
