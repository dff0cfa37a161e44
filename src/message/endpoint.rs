//! Address of an upstream.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::Arc;

use http::uri::{Authority, Scheme, Uri};

use super::host::Host;

/// Protocol between the gateway and an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// `http://` and `unix:`: HTTP/1.1 in cleartext.
    Http1,
    /// `h2c://`: HTTP/2 in cleartext with prior knowledge.
    Http2,
    /// `https://`: TLS; ALPN chooses HTTP/2 or HTTP/1.1.
    Tls,
}

/// Longest path of a Unix socket in bytes.
const MAX_SOCKET_PATH: usize = 107;

/// One upstream address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    transport: Transport,
    authority: Authority,
    port: u16,
    /// Path of a Unix socket; its authority is `localhost`.
    socket: Option<Arc<Path>>,
    /// Hash of the other fields, precomputed because each request looks up an endpoint.
    hash: u64,
}

impl Hash for Endpoint {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// Reason for rejecting an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    #[error("write a full address, as in \"http://127.0.0.1:3000\"")]
    Shape,
    #[error(
        "`{0}` is not an upstream scheme; write http://, https://, h2c:// (HTTP/2 in cleartext) or unix:/path"
    )]
    Scheme(String),
    #[error(
        "an upstream has no path or query: the request's own path is forwarded unchanged; write it without `{0}`"
    )]
    Path(String),
    #[error("`{0}` has no absolute path; write \"unix:/run/app.sock\"")]
    Socket(String),
    #[error("the path in `{0}` is longer than {MAX_SOCKET_PATH} bytes; write a shorter one")]
    LongSocket(String),
    #[error("an upstream has no user name or password in its address")]
    Userinfo,
    #[error(
        "`{0}` has an invalid port; write a number from 1 to 65535, or omit it for the default"
    )]
    Port(String),
}

impl Endpoint {
    /// Parses `http://host[:port]`, `https://…`, `h2c://…` or `unix:/path`.
    pub fn parse(text: &str) -> Result<Endpoint, EndpointError> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Endpoint::unix(path);
        }
        // The URI parser silently drops a fragment.
        if let Some((_, fragment)) = text.split_once('#') {
            return Err(EndpointError::Path(format!("#{fragment}")));
        }
        let uri: Uri = text.parse().map_err(|_| EndpointError::Shape)?;
        let parts = uri.into_parts();
        let scheme = parts.scheme.ok_or(EndpointError::Shape)?;
        let authority = parts.authority.ok_or(EndpointError::Shape)?;
        let transport = transport(&scheme)?;
        if authority.as_str().contains('@') {
            return Err(EndpointError::Userinfo);
        }
        // The URI parser accepts `http://:80`, `http://[]` and `http://a[::1]`.
        if Host::parse(authority.host()).is_err() {
            return Err(EndpointError::Shape);
        }
        match parts.path_and_query {
            Some(path) if path.as_str() != "/" => Err(EndpointError::Path(path.to_string())),
            Some(_) | None => {
                let port = port(transport, &authority)?;
                Ok(Endpoint::new(transport, authority, port, None))
            }
        }
    }

    fn unix(path: &str) -> Result<Endpoint, EndpointError> {
        if !path.starts_with('/') || path.starts_with("//") || path.ends_with('/') {
            return Err(EndpointError::Socket(format!("unix:{path}")));
        }
        if path.len() > MAX_SOCKET_PATH {
            return Err(EndpointError::LongSocket(format!("unix:{path}")));
        }
        let (localhost, socket) = (Authority::from_static("localhost"), Path::new(path));
        Ok(Endpoint::new(Transport::Http1, localhost, 80, Some(socket.into())))
    }

    fn new(
        transport: Transport,
        authority: Authority,
        port: u16,
        socket: Option<Arc<Path>>,
    ) -> Endpoint {
        let mut hasher = DefaultHasher::new();
        (transport, &authority, port, &socket).hash(&mut hasher);
        Endpoint { transport, authority, port, socket, hash: hasher.finish() }
    }

    /// Returns the protocol.
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// Returns the host name or address without the port; IPv6 without brackets.
    pub fn host(&self) -> &str {
        self.authority.host().trim_start_matches('[').trim_end_matches(']')
    }

    /// Returns the port, explicit or default.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the path of a Unix socket.
    pub fn socket(&self) -> Option<&Path> {
        self.socket.as_deref()
    }

    /// Returns the authority as configured; `localhost` for a Unix socket.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = &self.socket {
            return write!(f, "unix:{}", path.display());
        }
        let scheme = match self.transport {
            Transport::Http1 => "http",
            Transport::Http2 => "h2c",
            Transport::Tls => "https",
        };
        write!(f, "{scheme}://{}", self.authority)
    }
}

fn transport(scheme: &Scheme) -> Result<Transport, EndpointError> {
    match scheme.as_str() {
        "http" => Ok(Transport::Http1),
        "https" => Ok(Transport::Tls),
        "h2c" => Ok(Transport::Http2),
        other => Err(EndpointError::Scheme(other.to_owned())),
    }
}

/// An invalid explicit port must not fall back to the default.
fn port(transport: Transport, authority: &Authority) -> Result<u16, EndpointError> {
    if authority.as_str() == authority.host() {
        return Ok(match transport {
            Transport::Http1 | Transport::Http2 => 80,
            Transport::Tls => 443,
        });
    }
    let written = authority.port_u16().filter(|port| *port != 0);
    written.ok_or_else(|| EndpointError::Port(authority.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_address_round_trips() {
        for (text, port) in [
            ("http://127.0.0.1:3000", 3000),
            ("https://app.test", 443),
            ("h2c://[::1]:50051", 50051),
            ("unix:/run/app/web.sock", 80),
        ] {
            let endpoint = Endpoint::parse(text).expect(text);
            assert_eq!((endpoint.to_string().as_str(), endpoint.port()), (text, port));
        }
        assert_eq!(Endpoint::parse("h2c://[::1]:1").expect("v6").host(), "::1");
    }

    #[test]
    fn an_invalid_upstream_address_is_rejected_with_its_reason() {
        let error = |text: &str| Endpoint::parse(text).expect_err("refused");
        assert_eq!(error("127.0.0.1:3000"), EndpointError::Shape);
        for nowhere in [
            "http://:80",
            "https://[]",
            "http://[a.test]:80",
            "http://a[::1]:80",
            "http://[::1%25lo]",
        ] {
            assert_eq!(error(nowhere), EndpointError::Shape, "{nowhere}");
        }
        for path in ["", "run/app.sock", "//run/app.sock", "/run/"] {
            let text = format!("unix:{path}");
            assert_eq!(error(&text), EndpointError::Socket(text.clone()));
        }
        let long = format!("unix:/{}", "a".repeat(107));
        assert_eq!(error(&long), EndpointError::LongSocket(long.clone()));
        assert_eq!(error("ftp://a"), EndpointError::Scheme("ftp".into()));
        assert_eq!(error("http://a/b"), EndpointError::Path("/b".into()));
        assert_eq!(error("http://a/#b"), EndpointError::Path("#b".into()));
        assert_eq!(error("http://u:p@a"), EndpointError::Userinfo);
        for port in ["a:0", "a:", "a:65536", "[::1]:99999"] {
            assert_eq!(error(&format!("http://{port}")), EndpointError::Port(port.into()));
        }
    }
}
