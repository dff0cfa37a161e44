//! Host names in the canonical form that routes, cookies and certificates compare.

use std::fmt;

use memchr::{memchr, memrchr};

/// A host name: lower case, without a trailing dot (CVE-2022-23632), and the port that the client
/// sent.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Host {
    name: String,
    port: Option<u16>,
}

/// Reason for rejecting an authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    #[error("the host is empty")]
    Empty,
    #[error("the host contains a character that is invalid in a host name")]
    Character,
    #[error("the port is not a number from 1 to 65535")]
    Port,
}

impl Host {
    /// Parses `name`, `name:port`, `[v6]` or `[v6]:port`. Rejects userinfo, lists and paths.
    pub fn parse(authority: &str) -> Result<Host, HostError> {
        let (name, port) = split_port(authority)?;
        let name = name.strip_suffix('.').unwrap_or(name);
        if name.is_empty() {
            return Err(HostError::Empty);
        }
        if !is_name(name) && !is_v6(name) {
            return Err(HostError::Character);
        }
        Ok(Host { name: name.to_ascii_lowercase(), port })
    }

    /// Returns the name without the port.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the name refers to the browser's own machine (RFC 6761 6.3).
    pub fn is_localhost(&self) -> bool {
        self.name == "localhost" || self.name.ends_with(".localhost")
    }

    /// As [`Host::is_localhost`], for a raw `Host` header that may be invalid.
    pub fn is_localhost_header(field: &str) -> bool {
        let field = field.as_bytes();
        let name = field.get(..memchr(b':', field).unwrap_or(field.len())).unwrap_or_default();
        let dots = name.iter().rev().take_while(|byte| **byte == b'.').count();
        let name = name.get(..name.len() - dots).unwrap_or_default();
        let last = name.get(memrchr(b'.', name).map_or(0, |at| at + 1)..).unwrap_or_default();
        last.trim_ascii().eq_ignore_ascii_case(b"localhost")
    }

    /// Removes a port that is not one of these. A client may write any port, and apps build links from
    /// it.
    pub fn retain_port(&mut self, known: &[u16]) {
        self.port = self.port.filter(|port| known.contains(port));
    }

    /// Returns the port that the client sent.
    pub fn port(&self) -> Option<u16> {
        self.port
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}:{port}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

fn split_port(authority: &str) -> Result<(&str, Option<u16>), HostError> {
    let after_bracket = memrchr(b']', authority.as_bytes()).map_or(0, |at| at + 1);
    let (_, rest) = authority.split_at(after_bracket);
    let Some(colon) = memchr(b':', rest.as_bytes()) else {
        return Ok((authority, None));
    };
    let (name, port) = authority.split_at(after_bracket + colon);
    let digits = port.strip_prefix(':').unwrap_or_default();
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(HostError::Port);
    }
    let port = digits.parse().ok().filter(|port| *port != 0).ok_or(HostError::Port)?;
    Ok((name, Some(port)))
}

fn is_name(name: &str) -> bool {
    let is_letter = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    name.len() <= 253
        && name
            .as_bytes()
            .split(|byte| *byte == b'.')
            .all(|label| (1..=63).contains(&label.len()) && label.iter().all(is_letter))
}

fn is_v6(name: &str) -> bool {
    let inner = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    inner.is_some_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok())
}

/// The `host` pattern of a route.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostPattern {
    /// One host name.
    Exact(String),
    /// `*.example.com`: any subdomain at any depth. Contains `.example.com`.
    Subdomain(String),
    /// `*`: any host.
    Any,
}

impl HostPattern {
    /// Parses `wiki.example.com`, `*.example.com` or `*`. A pattern has no port.
    pub fn parse(text: &str) -> Result<HostPattern, HostError> {
        if text == "*" {
            return Ok(HostPattern::Any);
        }
        let (below, name) = match text.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let host = Host::parse(name)?;
        match (host.port, below) {
            (Some(_), _) => Err(HostError::Port),
            (None, true) => Ok(HostPattern::Subdomain(format!(".{}", host.name))),
            (None, false) => Ok(HostPattern::Exact(host.name)),
        }
    }

    /// Whether `other` matches every host that this pattern matches.
    pub fn is_within(&self, other: &HostPattern) -> bool {
        match self {
            HostPattern::Exact(name) => other.matches(name),
            // The name below the suffix is irrelevant: it is never empty.
            HostPattern::Subdomain(suffix) => other.matches(&format!("x{suffix}")),
            HostPattern::Any => *other == HostPattern::Any,
        }
    }

    /// Orders exact names before wildcards, longer wildcards before shorter ones, and `*` last.
    pub fn rank(&self) -> (u8, std::cmp::Reverse<usize>) {
        match self {
            HostPattern::Exact(_) => (0, std::cmp::Reverse(0)),
            HostPattern::Subdomain(suffix) => (1, std::cmp::Reverse(suffix.len())),
            HostPattern::Any => (2, std::cmp::Reverse(0)),
        }
    }

    /// Whether the pattern matches `name`, the name of a [`Host`].
    pub fn matches(&self, name: &str) -> bool {
        match self {
            HostPattern::Exact(exact) => exact == name,
            HostPattern::Subdomain(suffix) => name.ends_with(suffix.as_str()),
            HostPattern::Any => true,
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostPattern::Exact(name) => f.write_str(name),
            HostPattern::Subdomain(suffix) => write!(f, "*{suffix}"),
            HostPattern::Any => f.write_str("*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CVE-2022-23632.
    #[test]
    fn case_port_and_trailing_dot_do_not_change_the_host() {
        for text in
            ["wiki.example.com", "WIKI.Example.Com", "wiki.example.com.", "wiki.example.com:8443"]
        {
            assert_eq!(Host::parse(text).expect(text).name(), "wiki.example.com");
        }
        assert_eq!(Host::parse("[::1]:8443").expect("v6").name(), "[::1]");
    }

    /// HYP-09.
    #[test]
    fn lists_userinfo_paths_and_empty_hosts_are_rejected() {
        for text in [
            "", ".", "a, b", "u@a", "a/x", "a b", "a:", "a:x", "a:0", "a:99999", "[::1", "a..b",
            "::1", "a:1:2", "é",
        ] {
            assert!(Host::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_wildcard_matches_only_at_a_dot() {
        let below = HostPattern::parse("*.example.com").expect("a pattern");
        assert!(below.matches("a.example.com") && below.matches("a.b.example.com"));
        assert!(!below.matches("example.com") && !below.matches("evil-example.com"));
    }
}
