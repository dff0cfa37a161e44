//! The head that goes upstream. It can be made of a sanitised head and a permit only, so nothing is
//! forwarded that was not cleaned, and nobody is named who was not admitted.
//!
//! ```compile_fail,E0451
//! let head = doorward::proxy::UpstreamHead { parts: http::Request::new(()).into_parts().0 };
//! ```
//!
//! ```
//! # fn f(head: doorward::message::SanitizedHead, permit: &doorward::guard::Permit, route: &doorward::route::Route) {
//! let head = doorward::proxy::UpstreamHead::new(head, permit, route);
//! # }
//! ```
//!
//! ```compile_fail,E0451
//! # fn f(other: doorward::guard::Permit) {
//! let permit = doorward::guard::Permit { ..other };
//! # }
//! ```
//!
//! ```compile_fail,E0624
//! # fn f(user: std::sync::Arc<doorward::session::Identity>, sight: doorward::guard::Sight) {
//! let permit = doorward::guard::Permit::user(user, sight);
//! # }
//! ```

use http::header::{self, HeaderValue};
use http::{Request, Uri, Version, request};

use crate::guard::Permit;
use crate::message::SanitizedHead;
use crate::message::request_id::X_REQUEST_ID;
use crate::message::sanitize::Cleaned;
use crate::route::Route;

use super::way::Way;

/// The most fields that every request gets, beside who asks.
const OURS: usize = Way::FIELDS + 4;

/// A request's head, ready for the upstream.
#[derive(Debug)]
pub struct UpstreamHead {
    parts: request::Parts,
}

impl UpstreamHead {
    /// Adds who the user is and where the request came from.
    pub fn new(head: SanitizedHead, permit: &Permit, route: &Route) -> UpstreamHead {
        let way = Way::new(head.client(), head.host().clone());
        UpstreamHead::by(&way, head, permit, route)
    }

    /// As [`UpstreamHead::new`], with the head's way as it was written before.
    pub(super) fn by(
        way: &Way,
        head: SanitizedHead,
        permit: &Permit,
        route: &Route,
    ) -> UpstreamHead {
        let Cleaned { method, version, target, headers, request, websocket, .. } =
            head.into_cleaned();
        let (mut parts, ()) = Request::new(()).into_parts();
        parts.method = method;
        // Byte for byte what the client sent (RFC 9110 7.7).
        parts.uri = Uri::from(target.raw().clone());
        parts.headers = headers;
        // Once for all that follows: growing step by step hashes every name again each time.
        parts.headers.reserve(OURS + route.identity.fields.len());
        way.write(&mut parts.headers);
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

/// RFC 9110 7.6.3: the version that the request came in.
fn via(version: Version) -> HeaderValue {
    HeaderValue::from_static(match version {
        Version::HTTP_2 => "2.0 doorward",
        Version::HTTP_10 => "1.0 doorward",
        _ => "1.1 doorward",
    })
}
