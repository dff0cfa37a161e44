//! URLs of a provider: `https`, or `http` on loopback for tests and development.

use std::fmt;
use std::net::IpAddr;

use http::Uri;

use crate::message::Endpoint;
use crate::message::endpoint::Transport;

/// A checked URL. It keeps the text, because an issuer is compared byte by byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebUrl {
    text: String,
    endpoint: Endpoint,
    /// Path and query; at least `/`.
    path: String,
}

/// Reason for rejecting a URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WebUrlError {
    #[error("`{0}` is not a URL such as \"https://login.example.com/realm\"")]
    Shape(String),
    #[error("`{0}` is not https; http is accepted for loopback addresses only")]
    Insecure(String),
}

impl WebUrl {
    /// Parses `https://host[:port][/path][?query]`. Fragments and user names are rejected.
    pub fn parse(text: &str) -> Result<WebUrl, WebUrlError> {
        let shape = || WebUrlError::Shape(text.to_owned());
        if text.contains('#') {
            return Err(shape());
        }
        let uri: Uri = text.parse().map_err(|_| shape())?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(shape());
        };
        let endpoint = Endpoint::parse(&format!("{scheme}://{authority}")).map_err(|_| shape())?;
        let is_safe = match endpoint.transport() {
            Transport::Tls => true,
            Transport::Http1 => is_loopback(endpoint.host()),
            Transport::Http2 => false,
        };
        if !is_safe {
            return Err(WebUrlError::Insecure(text.to_owned()));
        }
        Ok(WebUrl { text: text.to_owned(), endpoint, path })
    }

    /// Returns the URL as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the address to connect to.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Returns path and query.
    pub fn path_and_query(&self) -> &str {
        &self.path
    }

    /// Returns the URL with parameters added to its query.
    pub(super) fn with_query(&self, encoded: &str) -> String {
        let separator = if self.path.contains('?') { '&' } else { '?' };
        format!("{}{separator}{encoded}", self.text)
    }

    /// Returns the URL with segments added to its path. The base has no query.
    pub(super) fn join(&self, suffix: &str) -> Result<WebUrl, WebUrlError> {
        WebUrl::parse(&format!("{}{suffix}", self.text.trim_end_matches('/')))
    }

    pub(super) fn is_cleartext(&self) -> bool {
        self.endpoint.transport() != Transport::Tls
    }
}

impl fmt::Display for WebUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_url_is_https_or_loopback() {
        for good in [
            "https://login.example.com",
            "https://login.example.com:8443/realms/a?x=1",
            "http://127.0.0.1:8080/a",
            "http://[::1]:8080",
            "http://localhost:1",
        ] {
            assert_eq!(WebUrl::parse(good).expect(good).as_str(), good);
        }
        for insecure in ["http://login.example.com", "http://127.0.0.1.example.com", "h2c://[::1]"]
        {
            let error = WebUrl::parse(insecure).expect_err(insecure);
            assert_eq!(error, WebUrlError::Insecure(insecure.to_owned()));
        }
        for shapeless in [
            "",
            "login.example.com",
            "/realms/a",
            "ftp://a",
            "https://a#b",
            "https://user@a/",
            "https://a:0/",
            "https:///a",
        ] {
            assert!(matches!(WebUrl::parse(shapeless), Err(WebUrlError::Shape(_))), "{shapeless}");
        }
    }

    #[test]
    fn parameters_and_segments_extend_a_url() {
        let plain = WebUrl::parse("https://a.test/x").expect("a URL");
        assert_eq!(plain.with_query("b=1"), "https://a.test/x?b=1");
        let query = WebUrl::parse("https://a.test/x?p=q").expect("a URL");
        assert_eq!(query.with_query("b=1"), "https://a.test/x?p=q&b=1");
        let slash = WebUrl::parse("https://a.test/x/").expect("a URL");
        assert_eq!(slash.join("/y").expect("a URL").as_str(), "https://a.test/x/y");
    }
}
