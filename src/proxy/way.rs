//! The way that a request came, as apps are told it. It is the same for all requests of a connection
//! that is of one client and for one host, so it is written once. Who asks is written each time.

use std::net::IpAddr;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::message::Host;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// From a client, for a host.
#[derive(Debug)]
pub(super) struct Way {
    client: IpAddr,
    host: Host,
    /// `Forwarded`, `X-Forwarded-For` and `Host`; absent where one cannot be written.
    forwarded: Option<HeaderValue>,
    client_value: Option<HeaderValue>,
    host_value: Option<HeaderValue>,
}

impl Way {
    /// How many fields tell of it.
    pub(super) const FIELDS: usize = 5;

    pub(super) fn new(client: IpAddr, host: Host) -> Way {
        let (client_text, host_text) = (client.to_string(), host.to_string());
        Way {
            forwarded: HeaderValue::try_from(forwarded(client, &client_text, &host_text)).ok(),
            client_value: HeaderValue::try_from(client_text).ok(),
            host_value: HeaderValue::try_from(host_text).ok(),
            client,
            host,
        }
    }

    pub(super) fn is(&self, client: IpAddr, host: &Host) -> bool {
        self.client == client && self.host == *host
    }

    /// Tells of it, in the place of whatever stands there.
    pub(super) fn write(&self, headers: &mut HeaderMap) {
        let fields = [
            (header::HOST, &self.host_value),
            (header::FORWARDED, &self.forwarded),
            (X_FORWARDED_FOR, &self.client_value),
            (X_FORWARDED_HOST, &self.host_value),
        ];
        for (name, value) in fields {
            if let Some(value) = value {
                headers.insert(name, value.clone());
            }
        }
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("https"));
    }
}

/// RFC 7239: one hop, for what is left of it would be a client's word.
fn forwarded(client: IpAddr, text: &str, host: &str) -> String {
    match client {
        IpAddr::V4(_) => ["for=", text, ";host=\"", host, "\";proto=https"].concat(),
        // Section 6: in brackets and quoted.
        IpAddr::V6(_) => ["for=\"[", text, "]\";host=\"", host, "\";proto=https"].concat(),
    }
}
