//! A host name in the one form in which routes, cookies and certificates compare it.

use std::fmt;

/// A host name: lower case, without port, without the trailing dot (CVE-2022-23632).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Host {
    name: String,
    port: Option<u16>,
}

/// Why an authority names no host of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    #[error("the host is empty")]
    Empty,
    #[error("the host holds a character that a host name cannot have")]
    Character,
    #[error("the port is not a number from 1 to 65535")]
    Port,
}

impl Host {
    /// Reads `name`, `name:port`, `[v6]` or `[v6]:port`. Userinfo, lists and paths are refused.
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

    /// The name alone.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is the machine that the browser runs on (RFC 6761 6.3).
    pub fn is_local(&self) -> bool {
        self.name == "localhost" || self.name.ends_with(".localhost")
    }

    /// The same of what stands in a `Host` field, whether it can be read or not.
    pub fn looks_local(field: &str) -> bool {
        let name = field.split(':').next().unwrap_or_default().trim_end_matches('.');
        let last = name.rsplit('.').next().unwrap_or_default();
        last.trim().eq_ignore_ascii_case("localhost")
    }

    /// The port that the client wrote.
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
    let after_bracket = authority.rfind(']').map_or(0, |at| at + 1);
    let (bracketed, rest) = authority.split_at(after_bracket);
    let Some((name, digits)) = rest.split_once(':') else {
        return Ok((authority, None));
    };
    let (name, _) = authority.split_at(bracketed.len() + name.len());
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(HostError::Port);
    }
    let port = digits.parse().ok().filter(|port| *port != 0).ok_or(HostError::Port)?;
    Ok((name, Some(port)))
}

fn is_name(name: &str) -> bool {
    name.len() <= 253
        && name.split('.').all(|label| !label.is_empty() && label.len() <= 63)
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

fn is_v6(name: &str) -> bool {
    let inner = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    inner.is_some_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok())
}

/// The `host` of a route.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostPattern {
    /// One name.
    Exact(String),
    /// `*.example.com`: any name below, of any depth. Holds `.example.com`.
    Below(String),
    /// `*`: any host.
    Any,
}

impl HostPattern {
    /// Reads `wiki.example.com`, `*.example.com` or `*`; a route's host has no port.
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
            (None, true) => Ok(HostPattern::Below(format!(".{}", host.name))),
            (None, false) => Ok(HostPattern::Exact(host.name)),
        }
    }

    /// Whether `name` (of a [`Host`]) is meant.
    pub fn matches(&self, name: &str) -> bool {
        match self {
            HostPattern::Exact(exact) => exact == name,
            HostPattern::Below(suffix) => name.ends_with(suffix.as_str()),
            HostPattern::Any => true,
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostPattern::Exact(name) => f.write_str(name),
            HostPattern::Below(suffix) => write!(f, "*{suffix}"),
            HostPattern::Any => f.write_str("*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cve_2022_23632_case_port_and_trailing_dot_do_not_make_another_host() {
        for text in
            ["wiki.example.com", "WIKI.Example.Com", "wiki.example.com.", "wiki.example.com:8443"]
        {
            assert_eq!(Host::parse(text).expect(text).name(), "wiki.example.com");
        }
        assert_eq!(Host::parse("[::1]:8443").expect("v6").name(), "[::1]");
    }

    #[test]
    fn hyp_09_lists_userinfo_paths_and_empty_hosts_are_refused() {
        for text in [
            "", ".", "a, b", "u@a", "a/x", "a b", "a:", "a:x", "a:0", "a:99999", "[::1", "a..b",
            "::1", "a:1:2", "é",
        ] {
            assert!(Host::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_wildcard_needs_a_dot_boundary() {
        let below = HostPattern::parse("*.example.com").expect("a pattern");
        assert!(below.matches("a.example.com") && below.matches("a.b.example.com"));
        assert!(!below.matches("example.com") && !below.matches("evil-example.com"));
    }
}
