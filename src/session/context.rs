//! Where a request comes from, as far as a session cares.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::fingerprint::Fingerprint;

/// Longest user-agent text kept with a session, in bytes.
pub const AGENT_LIMIT: usize = 200;

/// Longest language kept with a session, in bytes.
const LANGUAGE_LIMIT: usize = 35;

/// The client's network address and software.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientContext {
    pub address: IpAddr,
    /// The User-Agent field, cut at [`AGENT_LIMIT`] bytes and kept to printable ASCII.
    pub agent: String,
    /// The first language of Accept-Language, in lower case; empty where there is none.
    pub language: String,
    /// Of the TLS handshake; absent where nobody looked at it.
    pub fingerprint: Option<Fingerprint>,
}

impl ClientContext {
    /// Keeps of `agent` what can be shown and logged safely.
    pub fn new(address: IpAddr, agent: &[u8]) -> ClientContext {
        let printable = agent.iter().filter(|byte| (0x20..0x7f).contains(*byte));
        let agent = printable.take(AGENT_LIMIT).map(|byte| char::from(*byte)).collect();
        // An IPv4 address that came in IPv6 clothes is that IPv4 address (GHSA-7jmw-8259-q9jx).
        ClientContext {
            address: address.to_canonical(),
            agent,
            language: String::new(),
            fingerprint: None,
        }
    }

    /// Adds what an Accept-Language field says first.
    #[must_use]
    pub fn speaking(mut self, accept_language: &[u8]) -> ClientContext {
        let is_tag = |byte: &&u8| byte.is_ascii_alphanumeric() || **byte == b'-';
        let first = accept_language.iter().take_while(is_tag).take(LANGUAGE_LIMIT);
        self.language = first.map(|byte| char::from(byte.to_ascii_lowercase())).collect();
        self
    }

    /// Adds what the TLS handshake looked like.
    #[must_use]
    pub fn shaking_hands(mut self, fingerprint: Option<Fingerprint>) -> ClientContext {
        self.fingerprint = fingerprint;
        self
    }

    /// Whether two requests come from the same network (IPv4 /24, IPv6 /48) and the same software,
    /// by what it says and by how it shakes hands.
    pub fn same_place(&self, other: &ClientContext) -> bool {
        self.agent == other.agent
            && self.may_be(other.fingerprint)
            && self.network_address() == other.network_address()
    }

    /// Whether this handshake is like that one, as far as both are known.
    pub(super) fn may_be(&self, fingerprint: Option<Fingerprint>) -> bool {
        match (self.fingerprint, fingerprint) {
            (Some(one), Some(other)) => one == other,
            (None, _) | (_, None) => true,
        }
    }

    /// The network's first address.
    pub fn network_address(&self) -> IpAddr {
        network_of(self.address)
    }

    /// The network as people write it: `203.0.113.0/24`, `2001:db8:1::/48`.
    pub fn network(&self) -> String {
        network_in_words(self.address)
    }
}

/// The network that an address lies in, as people write it.
pub fn network_in_words(address: IpAddr) -> String {
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

/// The first address of the network that an address lies in: a /24, or a /48 of IPv6.
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
    fn of_the_languages_the_first_is_kept_and_nothing_that_is_no_tag() {
        let spoken = |field: &[u8]| context("192.0.2.1", "").speaking(field).language;
        assert_eq!(spoken(b"de-CH,de;q=0.9,en;q=0.8"), "de-ch");
        assert_eq!(spoken(b"\r\nX: y"), "");
        assert_eq!(spoken(&[b'x'; 500]).len(), LANGUAGE_LIMIT);
    }

    #[test]
    fn a_user_agent_brings_no_control_bytes_and_no_length() {
        let hostile = [b"a\r\nb\x1b[31m".as_slice(), &[b'x'; 500]].concat();
        let context = ClientContext::new(IpAddr::from([127, 0, 0, 1]), &hostile);
        assert_eq!(context.agent.len(), AGENT_LIMIT);
        assert!(context.agent.starts_with("ab[31mx"));
    }
}
