//! The network and the software of a client, as kept with a session.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::fingerprint::TlsFingerprint;

/// Maximum length of a stored user agent, in bytes.
pub const MAX_USER_AGENT_BYTES: usize = 200;

/// Maximum length of a stored language tag, in bytes.
const MAX_LANGUAGE_BYTES: usize = 35;

/// The address and the software of a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientContext {
    pub address: IpAddr,
    /// The `User-Agent` header: printable ASCII only, cut at [`MAX_USER_AGENT_BYTES`].
    pub user_agent: String,
    /// The first language of `Accept-Language` in lower case; empty if there is none.
    pub language: String,
    /// TLS fingerprint; `None` if the handshake was not recorded.
    pub fingerprint: Option<TlsFingerprint>,
}

impl ClientContext {
    /// Creates a context. Drops every byte of `user_agent` that is unsafe to log or display.
    pub fn new(address: IpAddr, user_agent: &[u8]) -> ClientContext {
        let user_agent = printable(user_agent, MAX_USER_AGENT_BYTES);
        // An IPv4-mapped IPv6 address is that IPv4 address (GHSA-7jmw-8259-q9jx).
        ClientContext {
            address: address.to_canonical(),
            user_agent,
            language: String::new(),
            fingerprint: None,
        }
    }

    /// Adds the first language of an `Accept-Language` header.
    #[must_use]
    pub fn with_language(mut self, accept_language: &[u8]) -> ClientContext {
        let is_tag = |byte: &&u8| byte.is_ascii_alphanumeric() || **byte == b'-';
        let first = accept_language.iter().take_while(is_tag).take(MAX_LANGUAGE_BYTES);
        self.language = first.map(|byte| char::from(byte.to_ascii_lowercase())).collect();
        self
    }

    /// Adds the TLS fingerprint.
    #[must_use]
    pub fn with_fingerprint(mut self, fingerprint: Option<TlsFingerprint>) -> ClientContext {
        self.fingerprint = fingerprint;
        self
    }

    /// Returns whether network (IPv4 /24, IPv6 /48), user agent and TLS fingerprint are the same.
    pub fn is_same_location(&self, other: &ClientContext) -> bool {
        self.user_agent == other.user_agent
            && self.matches_fingerprint(other.fingerprint)
            && self.network_address() == other.network_address()
    }

    /// Returns whether the TLS fingerprints are equal. An unknown fingerprint matches any other.
    pub(super) fn matches_fingerprint(&self, fingerprint: Option<TlsFingerprint>) -> bool {
        match (self.fingerprint, fingerprint) {
            (Some(one), Some(other)) => one == other,
            (None, _) | (_, None) => true,
        }
    }

    /// Returns the first address of the client's network.
    pub fn network_address(&self) -> IpAddr {
        network_of(self.address)
    }

    /// Formats the client's network: `203.0.113.0/24`, `2001:db8:1::/48`.
    pub fn network_display(&self) -> String {
        network_display(self.address)
    }
}

/// Returns the first printable ASCII characters of a text, at most `max`.
fn printable(text: &[u8], max: usize) -> String {
    let is_printable = |byte: &u8| (0x20..0x7f).contains(byte);
    match std::str::from_utf8(text) {
        // True for nearly every request: one copy.
        Ok(text) if text.len() <= max && text.as_bytes().iter().all(is_printable) => {
            text.to_owned()
        }
        Ok(_) | Err(_) => {
            let printable = text.iter().filter(|byte| is_printable(byte));
            printable.take(max).map(|byte| char::from(*byte)).collect()
        }
    }
}

/// Formats the network of an address.
pub fn network_display(address: IpAddr) -> String {
    match address {
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

/// Returns the network that one subscriber controls, the unit of rate limits: an IPv4 address (also in
/// IPv6 notation) or an IPv6 /64.
pub fn subscriber_network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => prefix(IpAddr::V6(address), 64),
    }
}

/// Networks around an address that one attacker may control, narrow to wide: prefix length, and the
/// multiple of a subscriber's limits that the network has.
pub const IPV4_NETWORKS: [(u32, u32); 2] = [(32, 1), (24, 4)];
pub const IPV6_NETWORKS: [(u32, u32); 3] = [(64, 1), (56, 2), (48, 4)];

/// Returns the first address of the network with this prefix length.
pub fn prefix(address: IpAddr, length: u32) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32_u32.saturating_sub(length)).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128_u32.saturating_sub(length)).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
        }
    }
}

/// Returns the first address of the /24 (IPv4) or /48 (IPv6) that contains the address.
pub fn network_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            IpAddr::from([a, b, c, 0])
        }
        IpAddr::V6(address) => {
            let [a, b, c, ..] = address.segments();
            IpAddr::from([a, b, c, 0, 0, 0, 0, 0])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(address: &str, user_agent: &str) -> ClientContext {
        ClientContext::new(address.parse().expect("an address"), user_agent.as_bytes())
    }

    #[test]
    fn a_subscriber_network_is_an_ipv4_address_or_an_ipv6_64() {
        let network = |text: &str| subscriber_network(text.parse().expect("an address"));
        assert_eq!(network("2001:db8::1"), network("2001:db8::ffff:0:0:1"));
        assert_ne!(network("2001:db8::1"), network("2001:db8:0:1::1"));
        assert_eq!(network("::ffff:192.0.2.1"), network("192.0.2.1"));
        assert_ne!(network("192.0.2.1"), network("192.0.2.2"));
    }

    #[test]
    fn a_prefix_keeps_the_leading_bits() {
        let first = |text: &str, length| prefix(text.parse().expect("an address"), length);
        assert_eq!(first("192.0.2.77", 24), IpAddr::from([192, 0, 2, 0]));
        assert_eq!(first("192.0.2.77", 32), IpAddr::from([192, 0, 2, 77]));
        assert_eq!(first("2001:db8:1:2fff::1", 56), first("2001:db8:1:2f00::", 128));
        assert_eq!(first("2001:db8:1:2fff::1", 48), first("2001:db8:1::", 128));
    }

    #[test]
    fn a_location_is_a_network_and_a_client() {
        let home = context("203.0.113.7", "Firefox");
        assert!(home.is_same_location(&context("203.0.113.200", "Firefox")));
        assert!(home.is_same_location(&context("::ffff:203.0.113.9", "Firefox")));
        assert!(!home.is_same_location(&context("203.0.114.7", "Firefox")));
        assert!(!home.is_same_location(&context("203.0.113.7", "curl")));
    }

    #[test]
    fn only_the_first_language_tag_is_kept() {
        let language = |header: &[u8]| context("192.0.2.1", "").with_language(header).language;
        assert_eq!(language(b"de-CH,de;q=0.9,en;q=0.8"), "de-ch");
        assert_eq!(language(b"\r\nX: y"), "");
        assert_eq!(language(&[b'x'; 500]).len(), MAX_LANGUAGE_BYTES);
    }

    #[test]
    fn a_user_agent_is_cut_and_loses_control_bytes() {
        let hostile = [b"a\r\nb\x1b[31m".as_slice(), &[b'x'; 500]].concat();
        let context = ClientContext::new(IpAddr::from([127, 0, 0, 1]), &hostile);
        assert_eq!(context.user_agent.len(), MAX_USER_AGENT_BYTES);
        assert!(context.user_agent.starts_with("ab[31mx"));
    }
}
