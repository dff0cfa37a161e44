//! Names and addresses: of a request, of an upstream, of a client.

use std::net::IpAddr;

use doorward::gateway::TrustedProxies;
use doorward::http::{Endpoint, Host, HostPattern};
use http::{HeaderMap, HeaderValue};

/// A host reads back as itself, in one spelling, and holds nothing that starts another part.
pub fn authority(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(host) = Host::parse(text) else { return };
    assert_eq!(Host::parse(&host.to_string()).as_ref(), Ok(&host), "{text:?}");
    let name = host.name();
    let foreign = |byte: u8| byte.is_ascii_uppercase() || b"@/\\?#,; \t%\"'".contains(&byte);
    assert!(!name.is_empty() && name.is_ascii() && !name.bytes().any(foreign), "{name:?}");
    assert!(!name.ends_with('.') && host.port() != Some(0), "{name:?}");
    assert_eq!(Host::parse(&text.to_ascii_uppercase()).as_ref(), Ok(&host), "case");
    pattern(text, name);
}

/// A route's host means itself and, with `*.`, what is below; nothing that only ends alike.
fn pattern(text: &str, name: &str) {
    let Ok(exact) = HostPattern::parse(text) else { return };
    assert!(exact.matches(name) && !exact.matches(&format!("x{name}")), "{text:?}");
    if let Ok(below) = HostPattern::parse(&format!("*.{text}")) {
        assert!(below.matches(&format!("x.{name}")), "{text:?}");
        assert!(!below.matches(name) && !below.matches(&format!("x{name}")), "{text:?}");
    }
}

/// An upstream's address shows as it reads.
pub fn endpoint(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(endpoint) = Endpoint::parse(text) else { return };
    let shown = endpoint.to_string();
    assert_eq!(Endpoint::parse(&shown).as_ref(), Ok(&endpoint), "{text:?}");
    assert!(!endpoint.host().is_empty() && !endpoint.host().contains(['@', '/', '[', ']']));
    assert_ne!(endpoint.port(), 0);
}

/// The client is the peer, or an address that a trusted proxy named: never one made up of parts.
/// The first line is the peer, the others are `X-Forwarded-For` fields.
pub fn origin(bytes: &[u8]) {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let peer = lines.next().and_then(|line| std::str::from_utf8(line).ok()?.parse().ok());
    let peer: IpAddr = peer.unwrap_or(IpAddr::from([10, 0, 0, 1]));
    let mut headers = HeaderMap::new();
    for value in lines.filter_map(|line| HeaderValue::from_bytes(line).ok()) {
        headers.append("x-forwarded-for", value);
    }
    let nobody = TrustedProxies::default();
    assert_eq!(nobody.client(peer, &headers), peer.to_canonical(), "nobody is believed");
    let networks = ["10.0.0.0/8", "fd00::/8"].map(|net| net.parse().expect("a network"));
    let client = TrustedProxies::new(networks.to_vec()).client(peer, &headers);
    let trusted = networks.iter().any(|network| network.contains(&peer.to_canonical()));
    let named = trusted && is_named(&headers, client);
    assert!(client == peer.to_canonical() || named, "{client} of {headers:?}");
    if !networks.iter().any(|network| network.contains(&client)) {
        // Who is no proxy of ours wrote what stands to the left of him.
        let mut longer = HeaderMap::new();
        for value in ["198.51.100.66, 10.0.0.66", "nonsense", ",,"] {
            longer.append("x-forwarded-for", HeaderValue::from_static(value));
        }
        longer.extend(headers);
        let believed = TrustedProxies::new(networks.to_vec()).client(peer, &longer);
        assert_eq!(believed, client, "the left of {longer:?}");
    }
}

fn is_named(headers: &HeaderMap, client: IpAddr) -> bool {
    let hops = headers.values().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    let mut addresses = hops.filter_map(|hop| std::str::from_utf8(hop).ok()?.trim().parse().ok());
    addresses.any(|hop: IpAddr| hop.to_canonical() == client)
}
