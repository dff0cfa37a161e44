//! The request head sent to an upstream. Its only constructor takes a sanitized head and a permit, so
//! unsanitized heads are never forwarded and identity headers always name an authorized user.
//!
//! ```compile_fail,E0451
//! let head = doorward::proxy::UpstreamHead { parts: http::Request::new(()).into_parts().0 };
//! ```
//!
//! ```
//! # fn f(head: doorward::message::SanitizedHead, permit: &doorward::auth::Permit) {
//! let head = doorward::proxy::UpstreamHead::new(head, permit);
//! # }
//! ```
//!
//! The route comes from the permit, so a permit for a public route cannot build the head for another route:
//!
//! ```compile_fail,E0061
//! # fn f(head: doorward::message::SanitizedHead, permit: &doorward::auth::Permit, route: &doorward::route::Route) {
//! let head = doorward::proxy::UpstreamHead::new(head, permit, route);
//! # }
//! ```
//!
//! ```compile_fail,E0451
//! # fn f(other: doorward::auth::Permit, route: std::sync::Arc<doorward::route::Route>) {
//! let permit = doorward::auth::Permit { route, ..other };
//! # }
//! ```
//!
//! ```compile_fail,E0624
//! # fn f(route: std::sync::Arc<doorward::route::Route>, user: std::sync::Arc<doorward::session::Identity>, session: doorward::connections::SessionSnapshot) {
//! let permit = doorward::auth::Permit::for_user(route, user, session);
//! # }
//! ```

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Uri, Version, request};

use crate::auth::Permit;
use crate::message::SanitizedHead;
use crate::message::request_id::X_REQUEST_ID;
use crate::message::sanitize::SanitizedParts;
use crate::route::{HostHeader, Route};

use super::assertion::ASSERTION;
use super::forwarded_headers::ForwardedHeaders;
use super::upstream_origin;

const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// Number of headers added to each request, identity headers excluded.
const MAX_ADDED: usize = ForwardedHeaders::COUNT + 7;

/// A request head ready to send to the upstream.
#[derive(Debug)]
pub struct UpstreamHead {
    parts: request::Parts,
}

impl UpstreamHead {
    /// Adds forwarded headers and identity headers.
    pub fn new(head: SanitizedHead, permit: &Permit) -> UpstreamHead {
        let forwarded_headers = ForwardedHeaders::new(head.client(), head.host().clone());
        UpstreamHead::with_forwarded(&forwarded_headers, head, permit)
    }

    /// As [`UpstreamHead::new`], with forwarded headers that are already rendered.
    pub(super) fn with_forwarded(
        forwarded_headers: &ForwardedHeaders,
        head: SanitizedHead,
        permit: &Permit,
    ) -> UpstreamHead {
        let SanitizedParts {
            method, version, target, headers, request, websocket, trailers, ..
        } = head.into_parts();
        let route = permit.route();
        let (mut parts, ()) = Request::new(()).into_parts();
        parts.method = method;
        // The target as received, byte for byte (RFC 9110 7.7).
        parts.uri = Uri::from(target.raw().clone());
        parts.headers = headers;
        // One reservation: each growth of the map rehashes every name.
        parts.headers.reserve(MAX_ADDED + route.identity.headers.len() + route.headers.set.len());
        forwarded_headers.write_to(&mut parts.headers);
        parts.headers.insert(X_REQUEST_ID, request.value().clone());
        write_options(&mut parts.headers, route);
        if route.upstream_options.via {
            parts.headers.append(header::VIA, via(version));
        }
        if trailers {
            parts.headers.insert(header::TE, HeaderValue::from_static("trailers"));
        }
        if let Some(identity) = permit.identity() {
            for (name, value) in route.identity.values(identity) {
                parts.headers.insert(name.clone(), value);
            }
        }
        for (name, value) in &route.headers.set {
            parts.headers.insert(name, value.clone());
        }
        if websocket {
            parts.headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            parts.headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        }
        UpstreamHead { parts }
    }

    /// Sets the assertion; `None` sends none.
    pub(super) fn set_assertion(&mut self, assertion: Option<HeaderValue>) {
        if let Some(assertion) = assertion {
            self.parts.headers.insert(ASSERTION, assertion);
        }
    }

    /// Adds the body.
    pub fn into_request<B>(self, body: B) -> Request<B> {
        Request::from_parts(self.parts, body)
    }
}

/// Sets what the upstream options of the route require besides the defaults.
fn write_options(headers: &mut HeaderMap, route: &Route) {
    let options = &route.upstream_options;
    if let Some(prefix) = &options.forwarded_prefix {
        headers.insert(X_FORWARDED_PREFIX, prefix.clone());
    }
    let HostHeader::Upstream = options.host_header else { return };
    let Some(upstream) = route.upstreams.first() else { return };
    if let Ok(authority) = HeaderValue::from_str(upstream.authority().as_str())
        && let Some(public) = headers.insert(header::HOST, authority)
    {
        upstream_origin::translate_request(headers, public.as_bytes(), upstream);
    }
}

/// `Via` with the protocol version of the received request (RFC 9110 7.6.3).
fn via(version: Version) -> HeaderValue {
    HeaderValue::from_static(match version {
        Version::HTTP_2 => "2.0 doorward",
        Version::HTTP_10 => "1.0 doorward",
        _ => "1.1 doorward",
    })
}
