//! Where a client is: the peer of the socket, unless the operator named proxies to believe.

use std::net::IpAddr;

use http::HeaderMap;
use ipnet::IpNet;

use crate::message::forwarded::{self, ChainError, Hop};

/// Proxies in front of us whose word about the client is believed. Nobody by default.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies {
    networks: Vec<IpNet>,
}

impl TrustedProxies {
    /// From `server.trusted_proxies`.
    pub fn new(networks: Vec<IpNet>) -> TrustedProxies {
        TrustedProxies { networks }
    }

    /// The client: the rightmost address of `Forwarded` or `X-Forwarded-For` that is no trusted proxy,
    /// when the peer is one. An entry that cannot be read ends the search there: the last known address
    /// counts. Where both fields are there, they lead to the same client or the request is refused: a
    /// proxy may write one and pass on what its client made up in the other.
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> Result<IpAddr, ChainError> {
        let peer = peer.to_canonical();
        if !self.trusts(peer) {
            return Ok(peer);
        }
        let ways = forwarded::chains(headers)?;
        let mut clients = ways.iter().map(|hops| self.beyond(peer, hops));
        let Some(client) = clients.next() else { return Ok(peer) };
        if clients.all(|other| other == client) { Ok(client) } else { Err(ChainError::Disagree) }
    }

    fn beyond(&self, peer: IpAddr, hops: &[Hop]) -> IpAddr {
        let mut client = peer;
        for hop in hops.iter().rev() {
            let Some(hop) = hop.filter(|_| self.trusts(client)) else { break };
            client = hop;
        }
        client
    }

    /// Whether this is one of them.
    pub fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks.iter().any(|network| network.contains(&address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    fn told(
        trusted: &[&str],
        peer: &str,
        lines: &[(&'static str, &str)],
    ) -> Result<String, ChainError> {
        let networks = trusted.iter().map(|net| net.parse().expect("a network")).collect();
        let mut headers = HeaderMap::new();
        for (name, line) in lines {
            let value = HeaderValue::from_str(line).expect("a value");
            headers.append(HeaderName::from_static(name), value);
        }
        let peer = peer.parse().expect("a peer");
        TrustedProxies::new(networks).client(peer, &headers).map(|client| client.to_string())
    }

    fn client(trusted: &[&str], peer: &str, lines: &[&str]) -> String {
        let lines: Vec<_> = lines.iter().map(|line| ("x-forwarded-for", *line)).collect();
        told(trusted, peer, &lines).expect("a client")
    }

    #[test]
    fn by_default_nobody_is_believed() {
        assert_eq!(client(&[], "198.51.100.1", &["203.0.113.9"]), "198.51.100.1");
        assert_eq!(client(&["10.0.0.0/8"], "198.51.100.1", &["203.0.113.9"]), "198.51.100.1");
        // Not even looked at.
        let nonsense = [("forwarded", "for=\""), ("x-forwarded-for", "1.1.1.1")];
        assert_eq!(told(&["10.0.0.0/8"], "198.51.100.1", &nonsense), Ok("198.51.100.1".to_owned()));
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
    fn rfc_7239_forwarded_is_believed_like_the_older_field() {
        let client = |line| told(&["10.0.0.0/8"], "10.0.0.1", &[("forwarded", line)]);
        for (line, expected) in [
            ("for=203.0.113.9;proto=https", "203.0.113.9"),
            ("for=1.1.1.1, for=\"[2001:db8::9]:4711\", for=10.0.0.2", "2001:db8::9"),
            ("for=1.1.1.1, for=unknown", "10.0.0.1"),
            ("for=1.1.1.1, for=_hidden, for=10.0.0.2", "10.0.0.2"),
            ("for=1.1.1.1, proto=https", "10.0.0.1"),
        ] {
            assert_eq!(client(line), Ok(expected.to_owned()), "{line}");
        }
    }

    #[test]
    fn rfc_7239_8_1_two_fields_name_one_client_or_nobody() {
        let both = |forwarded, other| {
            let lines = [("forwarded", forwarded), ("x-forwarded-for", other)];
            told(&["10.0.0.0/8"], "10.0.0.1", &lines)
        };
        let one = Ok("203.0.113.9".to_owned());
        assert_eq!(both("for=203.0.113.9", "1.1.1.1, 203.0.113.9"), one);
        assert_eq!(both("for=203.0.113.9, for=10.0.0.2", "203.0.113.9"), one);
        // What the one proxy writes and what the client made up.
        assert_eq!(both("for=203.0.113.9", "1.1.1.1"), Err(ChainError::Disagree));
        assert_eq!(both("for=1.1.1.1", "203.0.113.9"), Err(ChainError::Disagree));
        assert_eq!(both("for=unknown", "203.0.113.9"), Err(ChainError::Disagree));
        assert_eq!(both("for=203.0.113.9", ""), Err(ChainError::Disagree));
    }

    #[test]
    fn cve_2024_47070_an_unreadable_hop_never_invents_a_client() {
        for hop in ["nonsense", "", "unknown", "unix:", "203.0.113.9:x", "[203.0.113.9]", "\u{e9}"]
        {
            let line = format!("1.1.1.1, {hop}");
            assert_eq!(client(&["10.0.0.0/8"], "10.0.0.1", &[&line]), "10.0.0.1", "{hop}");
        }
        let trusted = ["10.0.0.0/8"];
        assert_eq!(client(&trusted, "10.0.0.1", &["1.1.1.1, 203.0.113.9:4711"]), "203.0.113.9");
    }
}
