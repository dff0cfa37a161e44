//! Where a request comes from, as far as a session cares.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Longest user-agent text kept with a session, in bytes.
pub const AGENT_LIMIT: usize = 200;

/// The client's network address and software.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientContext {
    pub address: IpAddr,
    /// The User-Agent field, cut at [`AGENT_LIMIT`] bytes and kept to printable ASCII.
    pub agent: String,
}

impl ClientContext {
    /// Keeps of `agent` what can be shown and logged safely.
    pub fn new(address: IpAddr, agent: &[u8]) -> ClientContext {
        let printable = agent.iter().filter(|byte| (0x20..0x7f).contains(*byte));
        let agent = printable.take(AGENT_LIMIT).map(|byte| char::from(*byte)).collect();
        // An IPv4 address that came in IPv6 clothes is that IPv4 address (GHSA-7jmw-8259-q9jx).
        ClientContext { address: address.to_canonical(), agent }
    }

    /// Whether two requests come from the same network (IPv4 /24, IPv6 /48) and the same software.
    pub fn same_place(&self, other: &ClientContext) -> bool {
        self.agent == other.agent && self.network() == other.network()
    }

    /// The network as people write it: `203.0.113.0/24`, `2001:db8:1::/48`.
    pub fn network(&self) -> String {
        match self.address {
            IpAddr::V4(address) => {
                let [a, b, c, _] = address.octets();
                format!("{a}.{b}.{c}.0/24")
            }
            IpAddr::V6(address) => {
                let [a, b, c, ..] = address.segments();
                format!("{a:x}:{b:x}:{c:x}::/48")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(address: &str, agent: &str) -> ClientContext {
        ClientContext::new(address.parse().expect("an address"), agent.as_bytes())
    }

    #[test]
    fn the_same_place_is_the_same_network_and_software() {
        let home = context("203.0.113.7", "Firefox");
        assert!(home.same_place(&context("203.0.113.200", "Firefox")));
        assert!(home.same_place(&context("::ffff:203.0.113.9", "Firefox")));
        assert!(!home.same_place(&context("203.0.114.7", "Firefox")));
        assert!(!home.same_place(&context("203.0.113.7", "curl")));
    }

    #[test]
    fn a_user_agent_brings_no_control_bytes_and_no_length() {
        let hostile = [b"a\r\nb\x1b[31m".as_slice(), &[b'x'; 500]].concat();
        let context = ClientContext::new(IpAddr::from([127, 0, 0, 1]), &hostile);
        assert_eq!(context.agent.len(), AGENT_LIMIT);
        assert!(context.agent.starts_with("ab[31mx"));
    }
}
