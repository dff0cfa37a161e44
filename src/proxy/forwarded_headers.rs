//! `Host`, `Forwarded` and `X-Forwarded-*` of upstream requests. They are equal for all requests of one
//! client to one host on a connection, so they are rendered once.

use std::net::IpAddr;

use http::header::{self, HeaderName, HeaderValue};

use crate::message::{HeaderLines, Host};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Rendered values for one client and one host.
#[derive(Debug)]
pub(super) struct ForwardedHeaders {
    client: IpAddr,
    host: Host,
    /// `None` if the value is not a valid header value; the header is then omitted.
    forwarded: Option<HeaderValue>,
    client_value: Option<HeaderValue>,
    host_value: Option<HeaderValue>,
}

impl ForwardedHeaders {
    /// Number of headers that [`ForwardedHeaders::write_to`] sets.
    pub(super) const COUNT: usize = 5;

    pub(super) fn new(client: IpAddr, host: Host) -> ForwardedHeaders {
        let (client_text, host_text) = (client.to_string(), host.to_string());
        ForwardedHeaders {
            forwarded: HeaderValue::try_from(forwarded(client, &client_text, &host_text)).ok(),
            client_value: HeaderValue::try_from(client_text).ok(),
            host_value: HeaderValue::try_from(host_text).ok(),
            client,
            host,
        }
    }

    pub(super) fn matches(&self, client: IpAddr, host: &Host) -> bool {
        self.client == client && self.host == *host
    }

    /// Returns the public host as in `Host`.
    pub(super) fn host(&self) -> &[u8] {
        self.host_value.as_ref().map(HeaderValue::as_bytes).unwrap_or_default()
    }

    /// Sets the headers and replaces existing values.
    pub(super) fn write_to(&self, headers: &mut HeaderLines) {
        let entries = [
            (header::HOST, &self.host_value),
            (header::FORWARDED, &self.forwarded),
            (X_FORWARDED_FOR, &self.client_value),
            (X_FORWARDED_HOST, &self.host_value),
        ];
        for (name, value) in entries {
            if let Some(value) = value {
                headers.set(name, value.clone());
            }
        }
        headers.set(X_FORWARDED_PROTO, HeaderValue::from_static("https"));
    }
}

/// RFC 7239, with one hop only: earlier hops would be unverified.
fn forwarded(client: IpAddr, text: &str, host: &str) -> String {
    match client {
        IpAddr::V4(_) => ["for=", text, ";host=\"", host, "\";proto=https"].concat(),
        // Section 6 requires brackets and quotes.
        IpAddr::V6(_) => ["for=\"[", text, "]\";host=\"", host, "\";proto=https"].concat(),
    }
}
