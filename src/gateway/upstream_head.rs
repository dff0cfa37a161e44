//! The head that goes upstream. It can be made of a sanitised head and a permit only, so nothing is
//! forwarded that was not cleaned, and nobody is named who was not admitted.
//!
//! ```compile_fail,E0451
//! let head = doorward::gateway::UpstreamHead { parts: http::Request::new(()).into_parts().0 };
//! ```

use std::net::IpAddr;

use http::header::{self, HeaderName, HeaderValue};
use http::{Request, Uri, Version, request};

use crate::guard::Permit;
use crate::http::SanitizedHead;
use crate::http::request_id::X_REQUEST_ID;
use crate::route::Route;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The most fields that every request gets.
const OURS: usize = 9;

/// A request's head, ready for the upstream.
#[derive(Debug)]
pub struct UpstreamHead {
    parts: request::Parts,
}

impl UpstreamHead {
    /// Adds who the user is and where the request came from.
    pub fn new(head: SanitizedHead, permit: &Permit, route: &Route) -> UpstreamHead {
        let SanitizedHead { method, version, host, target, headers, client, request, websocket } =
            head;
        let (mut parts, ()) = Request::new(()).into_parts();
        parts.method = method;
        // Byte for byte what the client sent (RFC 9110 7.7).
        parts.uri = Uri::from(target.raw().clone());
        parts.headers = headers;
        // Once for all that follows: growing step by step hashes every name again each time.
        parts.headers.reserve(OURS + route.identity.fields.len());
        let (client_text, host_text) = (client.to_string(), host.to_string());
        let forwarded = forwarded(client, &client_text, &host_text);
        if let Ok(forwarded) = HeaderValue::try_from(forwarded) {
            parts.headers.insert(header::FORWARDED, forwarded);
        }
        if let Ok(client) = HeaderValue::try_from(client_text) {
            parts.headers.insert(X_FORWARDED_FOR, client);
        }
        if let Ok(host) = HeaderValue::try_from(host_text) {
            parts.headers.insert(X_FORWARDED_HOST, host.clone());
            parts.headers.insert(header::HOST, host);
        }
        parts.headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("https"));
        parts.headers.insert(X_REQUEST_ID, request.value().clone());
        parts.headers.append(header::VIA, via(version));
        if let Some(identity) = permit.identity() {
            for (name, value) in route.identity.values(identity) {
                parts.headers.insert(name.clone(), value);
            }
        }
        if websocket {
            parts.headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            parts.headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        }
        UpstreamHead { parts }
    }

    /// The request with its body.
    pub fn into_request<B>(self, body: B) -> Request<B> {
        Request::from_parts(self.parts, body)
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

/// RFC 9110 7.6.3: the version that the request came in.
fn via(version: Version) -> HeaderValue {
    HeaderValue::from_static(match version {
        Version::HTTP_2 => "2.0 doorward",
        Version::HTTP_10 => "1.0 doorward",
        _ => "1.1 doorward",
    })
}
