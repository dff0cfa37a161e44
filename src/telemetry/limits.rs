//! Limits that bite: a counter for each, and one line per burst. A line per connection would make the
//! log the next thing that a flood fills.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::warn;

/// Between two lines about the same limit.
const PAUSE: Duration = Duration::from_secs(10);

/// A limit of `[limits]`, or one of HTTP/2's that has no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// All places taken, by clients with a session.
    Connections,
    /// A connection without a session gave its place to a new one.
    Displaced,
    ConnectionsPerNetwork,
    ConnectionRate,
    Handshake,
    Header,
    /// More of them, or longer, than a head may be.
    Headers,
    Write,
    Body,
    MaxBody,
    UpstreamIdle,
    /// A WebSocket on which nothing was said.
    TunnelIdle,
    /// A request that was not answered whole in time.
    Request,
    /// Connections to one app.
    UpstreamConnections,
    /// Requests that HTTP/2 clients took back.
    Resets,
    /// Bytes that are neither heads nor bodies: pings, settings, empty frames.
    Chatter,
    Requests,
    Memory,
    /// The worker cannot keep up.
    Lag,
}

impl Limit {
    const ALL: [Limit; 19] = [
        Limit::Connections,
        Limit::Displaced,
        Limit::ConnectionsPerNetwork,
        Limit::ConnectionRate,
        Limit::Handshake,
        Limit::Header,
        Limit::Headers,
        Limit::Write,
        Limit::Body,
        Limit::MaxBody,
        Limit::UpstreamIdle,
        Limit::TunnelIdle,
        Limit::Request,
        Limit::UpstreamConnections,
        Limit::Resets,
        Limit::Chatter,
        Limit::Requests,
        Limit::Memory,
        Limit::Lag,
    ];

    /// The label, and the word in the log.
    pub fn word(self) -> &'static str {
        match self {
            Limit::Connections => "connections",
            Limit::Displaced => "displaced",
            Limit::ConnectionsPerNetwork => "connections-per-network",
            Limit::ConnectionRate => "connection-rate",
            Limit::Handshake => "handshake-timeout",
            Limit::Header => "header-timeout",
            Limit::Headers => "headers",
            Limit::Write => "write-timeout",
            Limit::Body => "body-timeout",
            Limit::MaxBody => "max-body",
            Limit::UpstreamIdle => "upstream-idle-timeout",
            Limit::TunnelIdle => "websocket-idle-timeout",
            Limit::Request => "request-timeout",
            Limit::UpstreamConnections => "upstream-connections",
            Limit::Resets => "resets",
            Limit::Chatter => "chatter",
            Limit::Requests => "requests",
            Limit::Memory => "memory",
            Limit::Lag => "lag",
        }
    }
}

/// What was met and not told yet, by limit.
#[derive(Default)]
pub(super) struct Bursts {
    bursts: Mutex<[Burst; Limit::ALL.len()]>,
}

#[derive(Clone, Copy, Default)]
struct Burst {
    untold: u64,
    told: Option<Instant>,
}

impl Bursts {
    /// One more; the first of a burst is told at once.
    pub(super) fn note(&self, limit: Limit, client: Option<IpAddr>) {
        let mut bursts = self.bursts.lock().unwrap_or_else(PoisonError::into_inner);
        let place = Limit::ALL.iter().position(|known| *known == limit);
        if let Some(burst) = place.and_then(|place| bursts.get_mut(place)) {
            burst.untold += 1;
            burst.tell(limit, client, Instant::now());
        }
    }

    /// The rest of bursts that are over, or go on.
    pub(super) fn tell(&self) {
        let mut bursts = self.bursts.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        for (limit, burst) in Limit::ALL.iter().zip(bursts.iter_mut()) {
            burst.tell(*limit, None, now);
        }
    }
}

impl Burst {
    /// Returns how many the line spoke of, if there was one.
    fn tell(&mut self, limit: Limit, client: Option<IpAddr>, now: Instant) -> Option<u64> {
        let is_due = self.told.is_none_or(|told| now.duration_since(told) >= PAUSE);
        if self.untold == 0 || !is_due {
            return None;
        }
        let count = std::mem::take(&mut self.untold);
        self.told = Some(now);
        let client = client.map(|address| address.to_string());
        warn!(event = "limit", limit = limit.word(), count, client);
        Some(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_makes_one_line_at_its_start_and_one_each_ten_seconds() {
        let mut burst = Burst::default();
        let start = Instant::now();
        let mut lines = Vec::new();
        for millis in 0..25_000 {
            burst.untold += 1;
            lines.extend(burst.tell(Limit::Chatter, None, start + Duration::from_millis(millis)));
        }
        assert_eq!(lines, [1, 10_000, 10_000]);
        assert_eq!(burst.tell(Limit::Chatter, None, start + Duration::from_secs(31)), Some(4_999));
        assert_eq!(burst.tell(Limit::Chatter, None, start + Duration::from_secs(60)), None);
    }

    #[test]
    fn every_limit_has_a_word_of_its_own() {
        let words: std::collections::BTreeSet<_> = Limit::ALL.iter().map(|l| l.word()).collect();
        assert_eq!(words.len(), Limit::ALL.len());
    }
}
