//! Finds the client address: the socket peer, or the address that a trusted proxy reports.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{self, HeaderMap};
use ipnet::IpNet;
use parking_lot::Mutex;
use tracing::warn;

use crate::message::forwarded::{self, ChainError, Hop};

/// Networks of the proxies that report the client. Empty by default.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies {
    networks: Vec<IpNet>,
    source: ClientSource,
    /// Untrusted peers that sent forwarded headers, with the time of their report.
    reported: Arc<Mutex<HashMap<IpAddr, Instant>>>,
}

/// Where trusted proxies report the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientSource {
    /// In either header.
    #[default]
    Headers,
    /// In `Forwarded` only.
    Forwarded,
    /// In `X-Forwarded-For` only.
    XForwardedFor,
    /// In the PROXY header of the connection. The request passes them unread, so its headers are the
    /// client's own.
    Connection,
}

/// Time between two reports of one untrusted peer.
const REPORT_INTERVAL: Duration = Duration::from_hours(24);

/// Maximum number of peers that are reported in one interval.
const MAX_REPORTED: usize = 16;

impl TrustedProxies {
    /// From `server.trusted_proxies`.
    pub fn new(networks: Vec<IpNet>, source: ClientSource) -> TrustedProxies {
        TrustedProxies { networks, source, reported: Arc::default() }
    }

    /// Returns the rightmost address of `Forwarded` or `X-Forwarded-For` that is not a trusted proxy. Returns
    /// the peer if the peer is not trusted. An unreadable entry stops the search at the address after it.
    ///
    /// # Errors
    /// If both headers are present and disagree: a proxy may set one and pass on the client's forgery in
    /// the other.
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> Result<IpAddr, ChainError> {
        let peer = peer.to_canonical();
        if !self.trusts_headers(peer) {
            return Ok(peer);
        }
        let chains = forwarded::chains(headers, |name| match self.source {
            ClientSource::Headers => true,
            ClientSource::Forwarded => *name == header::FORWARDED,
            ClientSource::XForwardedFor => *name != header::FORWARDED,
            ClientSource::Connection => false,
        })?;
        let mut clients = chains.iter().map(|hops| self.first_untrusted(peer, hops));
        let Some(client) = clients.next() else { return Ok(peer) };
        if clients.all(|other| other == client) { Ok(client) } else { Err(ChainError::Disagree) }
    }

    fn first_untrusted(&self, peer: IpAddr, hops: &[Hop]) -> IpAddr {
        let mut client = peer;
        for hop in hops.iter().rev() {
            let Some(hop) = hop.filter(|_| self.trusts(client)) else { break };
            client = hop;
        }
        client
    }

    /// Whether the headers of a request from `peer` are those of a trusted proxy.
    pub fn trusts_headers(&self, peer: IpAddr) -> bool {
        self.source != ClientSource::Connection && self.trusts(peer)
    }

    /// Reports, once a day, a peer that sends forwarded headers and is not trusted. Behind a balancer that is
    /// missing in `server.trusted_proxies`, all users share its address and its limits.
    pub(super) fn report_untrusted(&self, peer: IpAddr, headers: &HeaderMap) {
        let is_forwarded =
            headers.contains_key("x-forwarded-for") || headers.contains_key(header::FORWARDED);
        let is_untrusted = self.source != ClientSource::Connection && !self.trusts(peer);
        if is_forwarded && is_untrusted && self.is_report_due(peer, Instant::now()) {
            warn!(
                event = "proxy.untrusted-forwarded", %peer,
                "this peer sends X-Forwarded-For or Forwarded, which is ignored; if it is your \
                 proxy, add it to server.trusted_proxies, because now all of its users share the \
                 limits of one address"
            );
        }
    }

    fn is_report_due(&self, peer: IpAddr, now: Instant) -> bool {
        let mut reported = self.reported.lock();
        reported.retain(|_, at| now.duration_since(*at) < REPORT_INTERVAL);
        let is_due = !reported.contains_key(&peer) && reported.len() < MAX_REPORTED;
        if is_due {
            reported.insert(peer, now);
        }
        is_due
    }

    /// Whether `address` belongs to a trusted proxy.
    pub fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks.iter().any(|network| network.contains(&address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    fn resolve(
        trusted: &[&str],
        peer: &str,
        lines: &[(&'static str, &str)],
    ) -> Result<String, ChainError> {
        let networks = trusted.iter().map(|net| net.parse().expect("a network")).collect();
        let mut headers = HeaderMap::new();
        for (name, entry) in lines {
            let value = HeaderValue::from_str(entry).expect("a value");
            headers.append(HeaderName::from_static(name), value);
        }
        let peer = peer.parse().expect("a peer");
        let proxies = TrustedProxies::new(networks, ClientSource::Headers);
        proxies.client(peer, &headers).map(|client| client.to_string())
    }

    /// The client that each source reports for these headers of a trusted proxy.
    fn by_source(source: ClientSource, lines: &[(&'static str, &'static str)]) -> String {
        let headers = lines
            .iter()
            .map(|(name, line)| (HeaderName::from_static(name), HeaderValue::from_static(line)));
        let proxies = TrustedProxies::new(vec!["10.0.0.0/8".parse().expect("a network")], source);
        let client = proxies.client(IpAddr::from([10, 0, 0, 1]), &headers.collect());
        client.map_or_else(|error| error.to_string(), |client| client.to_string())
    }

    #[test]
    fn only_the_header_of_the_proxy_is_read() {
        let both = [("forwarded", "for=1.1.1.1"), ("x-forwarded-for", "203.0.113.9")];
        assert_eq!(by_source(ClientSource::XForwardedFor, &both), "203.0.113.9");
        assert_eq!(by_source(ClientSource::Forwarded, &both), "1.1.1.1");
        assert_eq!(by_source(ClientSource::Connection, &both), "10.0.0.1");
        let broken = [("forwarded", "for=\""), ("x-forwarded-for", "203.0.113.9")];
        assert_eq!(by_source(ClientSource::XForwardedFor, &broken), "203.0.113.9");
        assert_eq!(by_source(ClientSource::XForwardedFor, &both[..1]), "10.0.0.1");
    }

    fn client(trusted: &[&str], peer: &str, lines: &[&str]) -> String {
        let lines: Vec<_> = lines.iter().map(|entry| ("x-forwarded-for", *entry)).collect();
        resolve(trusted, peer, &lines).expect("a client")
    }

    #[test]
    fn no_proxy_is_trusted_by_default() {
        assert_eq!(client(&[], "198.51.100.1", &["203.0.113.9"]), "198.51.100.1");
        assert_eq!(client(&["10.0.0.0/8"], "198.51.100.1", &["203.0.113.9"]), "198.51.100.1");
        // Headers of an untrusted peer are not parsed.
        let nonsense = [("forwarded", "for=\""), ("x-forwarded-for", "1.1.1.1")];
        assert_eq!(
            resolve(&["10.0.0.0/8"], "198.51.100.1", &nonsense),
            Ok("198.51.100.1".to_owned())
        );
    }

    #[test]
    fn an_untrusted_peer_is_reported_once_a_day() {
        let proxies = TrustedProxies::default();
        let peer = |n| IpAddr::from([192, 0, 2, n]);
        let now = Instant::now();
        assert!(proxies.is_report_due(peer(1), now) && proxies.is_report_due(peer(2), now));
        let later = |hours| now + Duration::from_hours(hours);
        assert!(!proxies.is_report_due(peer(1), later(23)));
        assert!(proxies.is_report_due(peer(1), later(24)));
        let many = (3..100).filter(|n| proxies.is_report_due(peer(*n), later(24))).count();
        assert_eq!(many, MAX_REPORTED - 1, "an attacker cannot fill the log");
    }

    #[test]
    fn the_rightmost_untrusted_hop_is_the_client() {
        let trusted = ["10.0.0.0/8"];
        assert_eq!(
            client(&trusted, "10.0.0.1", &["1.1.1.1, 203.0.113.9, 10.0.0.2"]),
            "203.0.113.9"
        );
        assert_eq!(client(&trusted, "10.0.0.1", &["1.1.1.1", "203.0.113.9"]), "203.0.113.9");
        assert_eq!(client(&trusted, "::ffff:10.0.0.1", &["203.0.113.9"]), "203.0.113.9");
    }

    #[test]
    fn rfc_7239_forwarded_equals_x_forwarded_for() {
        let client = |entry| resolve(&["10.0.0.0/8"], "10.0.0.1", &[("forwarded", entry)]);
        for (entry, expected) in [
            ("for=203.0.113.9;proto=https", "203.0.113.9"),
            ("for=1.1.1.1, for=\"[2001:db8::9]:4711\", for=10.0.0.2", "2001:db8::9"),
            ("for=1.1.1.1, for=unknown", "10.0.0.1"),
            ("for=1.1.1.1, for=_hidden, for=10.0.0.2", "10.0.0.2"),
            ("for=1.1.1.1, proto=https", "10.0.0.1"),
        ] {
            assert_eq!(client(entry), Ok(expected.to_owned()), "{entry}");
        }
    }

    #[test]
    fn rfc_7239_8_1_both_headers_must_name_the_same_client() {
        let both = |forwarded, other| {
            let lines = [("forwarded", forwarded), ("x-forwarded-for", other)];
            resolve(&["10.0.0.0/8"], "10.0.0.1", &lines)
        };
        let one = Ok("203.0.113.9".to_owned());
        assert_eq!(both("for=203.0.113.9", "1.1.1.1, 203.0.113.9"), one);
        assert_eq!(both("for=203.0.113.9, for=10.0.0.2", "203.0.113.9"), one);
        // One header from the proxy, the other forged by the client.
        assert_eq!(both("for=203.0.113.9", "1.1.1.1"), Err(ChainError::Disagree));
        assert_eq!(both("for=1.1.1.1", "203.0.113.9"), Err(ChainError::Disagree));
        assert_eq!(both("for=unknown", "203.0.113.9"), Err(ChainError::Disagree));
        assert_eq!(both("for=203.0.113.9", ""), Err(ChainError::Disagree));
    }

    /// CVE-2024-47070.
    #[test]
    fn an_unreadable_hop_never_becomes_the_client() {
        for hop in ["nonsense", "", "unknown", "unix:", "203.0.113.9:x", "[203.0.113.9]", "\u{e9}"]
        {
            let entry = format!("1.1.1.1, {hop}");
            assert_eq!(client(&["10.0.0.0/8"], "10.0.0.1", &[&entry]), "10.0.0.1", "{hop}");
        }
        let trusted = ["10.0.0.0/8"];
        assert_eq!(client(&trusted, "10.0.0.1", &["1.1.1.1, 203.0.113.9:4711"]), "203.0.113.9");
    }
}
