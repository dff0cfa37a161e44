//! Host names and addresses of requests, upstreams and clients.

use std::net::IpAddr;

use doorward::message::forwarded::ChainError;
use doorward::message::{Endpoint, Host, HostPattern};
use doorward::proxy::{ClientSource, TrustedProxies};
use http::{HeaderMap, HeaderName, HeaderValue};

/// A host round-trips, has one spelling and contains no delimiter.
pub fn host(bytes: &[u8]) {
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

/// A host pattern matches its own name and, with `*.`, subdomains; never a name that only has the
/// same suffix.
fn pattern(text: &str, name: &str) {
    let Ok(exact) = HostPattern::parse(text) else { return };
    assert!(exact.matches(name) && !exact.matches(&format!("x{name}")), "{text:?}");
    if let Ok(below) = HostPattern::parse(&format!("*.{text}")) {
        assert!(below.matches(&format!("x.{name}")), "{text:?}");
        assert!(!below.matches(name) && !below.matches(&format!("x{name}")), "{text:?}");
    }
}

/// An upstream address round-trips.
pub fn endpoint(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(endpoint) = Endpoint::parse(text) else { return };
    let shown = endpoint.to_string();
    assert_eq!(Endpoint::parse(&shown).as_ref(), Ok(&endpoint), "{text:?}");
    assert!(!endpoint.host().is_empty() && !endpoint.host().contains(['@', '/', '[', ']']));
    assert_ne!(endpoint.port(), 0);
}

/// The client is the peer or the address that the last trusted proxy reported, never another or a
/// combined one.
///
/// The first line is the peer. Other lines are `Forwarded` if they begin with `F`, otherwise
/// `X-Forwarded-For`.
pub fn client_addr(bytes: &[u8]) {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let peer = lines.next().and_then(|line| std::str::from_utf8(line).ok()?.parse().ok());
    let peer: IpAddr = peer.unwrap_or(IpAddr::from([10, 0, 0, 1])).to_canonical();
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = match line.strip_prefix(b"F") {
            Some(value) => (FORWARDED, value),
            None => (X_FORWARDED_FOR, line),
        };
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(name, value);
        }
    }
    assert_eq!(
        TrustedProxies::default().client(peer, &headers),
        Ok(peer),
        "the peer is the client"
    );
    let client = client_of(peer, &headers);
    if !proxies().trusts(peer) {
        assert_eq!(client, Ok(peer), "an untrusted peer is the client");
        return;
    }
    assert_last_entry_wins(peer, &headers);
    let Ok(client) = client else { return };
    assert!(client == peer || is_named(&headers, client), "{client} of {headers:?}");
    if !proxies().trusts(client) {
        assert_left_is_ignored(peer, &headers, client);
    }
}

const FORWARDED: HeaderName = http::header::FORWARDED;
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

fn proxies() -> TrustedProxies {
    let networks = ["10.0.0.0/8", "fd00::/8"].map(|net| net.parse().expect("a network"));
    TrustedProxies::new(networks.to_vec(), ClientSource::Headers)
}

fn client_of(peer: IpAddr, headers: &HeaderMap) -> Result<IpAddr, ChainError> {
    proxies().client(peer, headers)
}

/// The entry that a trusted proxy appends is used, or the request is rejected, whatever the client
/// sent.
fn assert_last_entry_wins(peer: IpAddr, headers: &HeaderMap) {
    for (name, entry, client) in [
        (FORWARDED, "for=203.0.113.99", "203.0.113.99"),
        (FORWARDED, "proto=https;for=\"[2001:db8::99]\"", "2001:db8::99"),
        (X_FORWARDED_FOR, "203.0.113.99", "203.0.113.99"),
    ] {
        let client: IpAddr = client.parse().expect("an address");
        for longer in [in_its_own_header(headers, &name, entry), at_the_end(headers, &name, entry)]
        {
            let result = client_of(peer, &longer);
            assert!(result.is_err() || result == Ok(client), "{result:?} of {longer:?}");
        }
    }
}

fn in_its_own_header(headers: &HeaderMap, name: &HeaderName, entry: &str) -> HeaderMap {
    let mut longer = headers.clone();
    longer.append(name, HeaderValue::from_str(entry).expect("a value"));
    longer
}

fn at_the_end(headers: &HeaderMap, name: &HeaderName, entry: &str) -> HeaderMap {
    let mut lines: Vec<_> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
    let last = lines.pop().unwrap_or_default();
    let last = [last, b", ", entry.as_bytes()].concat();
    let mut longer = headers.clone();
    longer.remove(name);
    for line in lines.into_iter().chain([&last[..]]) {
        longer.append(name, HeaderValue::from_bytes(line).expect("it was one"));
    }
    longer
}

/// Entries to the left of the first untrusted address do not matter.
fn assert_left_is_ignored(peer: IpAddr, headers: &HeaderMap, client: IpAddr) {
    let mut longer = HeaderMap::new();
    for (name, forged) in [
        (X_FORWARDED_FOR, ["198.51.100.66, 10.0.0.66", "nonsense", ",,"]),
        (FORWARDED, ["for=198.51.100.66, for=10.0.0.66", "for=_x;by=\"a, b\"", ",;,"]),
    ] {
        for value in forged.iter().filter(|_| headers.contains_key(&name)) {
            longer.append(&name, HeaderValue::from_static(value));
        }
    }
    longer.extend(headers.clone());
    let result = client_of(peer, &longer);
    let is_too_long = result == Err(ChainError::TooLong);
    assert!(is_too_long || result == Ok(client), "{result:?} for {longer:?}");
}

/// Whether the headers contain the address, with or without a port.
fn is_named(headers: &HeaderMap, client: IpAddr) -> bool {
    let is = |text: &str| text.parse().is_ok_and(|found: IpAddr| found.to_canonical() == client);
    headers.values().any(|line| {
        let line: String = line
            .as_bytes()
            .iter()
            .filter(|byte| **byte != b'\\')
            .map(|byte| char::from(*byte))
            .collect();
        let mut runs = line.split(|c: char| !c.is_ascii_hexdigit() && !matches!(c, '.' | ':'));
        runs.any(|run| is(run) || run.split_once(':').is_some_and(|(address, _)| is(address)))
    })
}
