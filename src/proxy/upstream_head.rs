//! The request head sent to an upstream. Its only constructor takes a sanitized head and a permit, so
//! unsanitized heads are never forwarded and identity headers always name an authorized user.
//!
//! ```compile_fail,E0451
//! let head = doorward::proxy::UpstreamHead { parts: http::Request::new(()).into_parts().0 };
//! ```
//!
//! ```
//! # fn f(head: doorward::message::SanitizedHead, permit: &doorward::auth::Permit, route: &doorward::route::Route) {
//! let head = doorward::proxy::UpstreamHead::new(head, permit, route);
//! # }
//! ```
//!
//! ```compile_fail,E0451
//! # fn f(other: doorward::auth::Permit) {
//! let permit = doorward::auth::Permit { ..other };
//! # }
//! ```
//!
//! ```compile_fail,E0624
//! # fn f(user: std::sync::Arc<doorward::session::Identity>, snapshot: doorward::connections::SessionSnapshot) {
//! let permit = doorward::auth::Permit::for_user(user, snapshot);
//! # }
//! ```

use http::header::{self, HeaderValue};
use http::{Request, Uri, Version, request};

use crate::auth::Permit;
use crate::message::SanitizedHead;
use crate::message::request_id::X_REQUEST_ID;
use crate::message::sanitize::SanitizedParts;
use crate::route::Route;

use super::forwarded_headers::ForwardedHeaders;

/// Number of headers added to each request, identity headers excluded.
const MAX_ADDED: usize = ForwardedHeaders::COUNT + 4;

/// A request head ready to send to the upstream.
#[derive(Debug)]
pub struct UpstreamHead {
    parts: request::Parts,
}

impl UpstreamHead {
    /// Adds forwarded headers and identity headers.
    pub fn new(head: SanitizedHead, permit: &Permit, route: &Route) -> UpstreamHead {
        let forwarded_headers = ForwardedHeaders::new(head.client(), head.host().clone());
        UpstreamHead::with_forwarded(&forwarded_headers, head, permit, route)
    }

    /// As [`UpstreamHead::new`], with forwarded headers that are already rendered.
    pub(super) fn with_forwarded(
        forwarded_headers: &ForwardedHeaders,
        head: SanitizedHead,
        permit: &Permit,
        route: &Route,
    ) -> UpstreamHead {
        let SanitizedParts { method, version, target, headers, request, websocket, .. } =
            head.into_parts();
        let (mut parts, ()) = Request::new(()).into_parts();
        parts.method = method;
        // The target as received, byte for byte (RFC 9110 7.7).
        parts.uri = Uri::from(target.raw().clone());
        parts.headers = headers;
        // One reservation: each growth of the map rehashes every name.
        parts.headers.reserve(MAX_ADDED + route.identity.headers.len());
        forwarded_headers.write_to(&mut parts.headers);
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

    /// Adds the body.
    pub fn into_request<B>(self, body: B) -> Request<B> {
        Request::from_parts(self.parts, body)
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
