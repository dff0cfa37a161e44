//! Finds the client address: the socket peer, or the address that a trusted proxy reports.

use std::net::IpAddr;

use http::HeaderMap;
use ipnet::IpNet;

use crate::message::forwarded::{self, ChainError, Hop};

/// Networks of the proxies whose forwarded headers are trusted. Empty by default.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies {
    networks: Vec<IpNet>,
}

impl TrustedProxies {
    /// From `server.trusted_proxies`.
    pub fn new(networks: Vec<IpNet>) -> TrustedProxies {
        TrustedProxies { networks }
    }

    /// Returns the rightmost address of `Forwarded` or `X-Forwarded-For` that is not a trusted proxy. Returns
    /// the peer if the peer is not trusted. An unreadable entry stops the search at the address after it.
    ///
    /// # Errors
    /// If both headers are present and disagree: a proxy may set one and pass on the client's forgery in
    /// the other.
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> Result<IpAddr, ChainError> {
        let peer = peer.to_canonical();
        if !self.trusts(peer) {
            return Ok(peer);
        }
        let chains = forwarded::chains(headers)?;
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
        TrustedProxies::new(networks).client(peer, &headers).map(|client| client.to_string())
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
