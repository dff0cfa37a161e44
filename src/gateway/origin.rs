//! Where a client is: the peer of the socket, unless the operator named proxies to believe.

use std::net::IpAddr;

use http::HeaderMap;
use ipnet::IpNet;

/// Longest chain that is read; a longer one is somebody's game.
const CHAIN_LIMIT: usize = 32;

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

    /// The client: the rightmost address of `X-Forwarded-For` that is no trusted proxy, when the peer
    /// is one. An entry that cannot be read ends the search there: the last known address counts.
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer.to_canonical();
        if self.networks.is_empty() {
            return client;
        }
        for hop in chain(headers) {
            if !self.trusts(client) {
                break;
            }
            let Some(hop) = hop else { break };
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

/// From right to left; `None` for what is no address.
fn chain(headers: &HeaderMap) -> impl Iterator<Item = Option<IpAddr>> {
    let lines: Vec<_> = headers.get_all("x-forwarded-for").into_iter().collect();
    let hops =
        lines.into_iter().rev().flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
    hops.map(|hop| {
        std::str::from_utf8(hop).ok()?.trim().parse().ok().map(|hop: IpAddr| hop.to_canonical())
    })
    .take(CHAIN_LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn client(trusted: &[&str], peer: &str, lines: &[&str]) -> String {
        let networks = trusted.iter().map(|net| net.parse().expect("a network")).collect();
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append("x-forwarded-for", HeaderValue::from_str(line).expect("a value"));
        }
        TrustedProxies::new(networks).client(peer.parse().expect("a peer"), &headers).to_string()
    }

    #[test]
    fn by_default_nobody_is_believed() {
        assert_eq!(client(&[], "198.51.100.1", &["203.0.113.9"]), "198.51.100.1");
        assert_eq!(client(&["10.0.0.0/8"], "198.51.100.1", &["203.0.113.9"]), "198.51.100.1");
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
    fn cve_2024_47070_an_unreadable_hop_never_invents_a_client() {
        assert_eq!(client(&["10.0.0.0/8"], "10.0.0.1", &["1.1.1.1, nonsense"]), "10.0.0.1");
    }
}
