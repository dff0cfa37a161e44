//! The request head sent to an upstream. Its only constructor takes a sanitized head and a permit, so
//! unsanitized heads are never forwarded and identity headers always name an authorized user.
//!
//! ```compile_fail,E0451
//! let head = doorward::proxy::UpstreamHead { method: http::Method::GET, target: http::uri::PathAndQuery::from_static("/"), headers: doorward::message::HeaderLines::default() };
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

use http::header::{self, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Request, Version};

use crate::auth::Permit;
use crate::message::request_id::X_REQUEST_ID;
use crate::message::sanitize::SanitizedParts;
use crate::message::{HeaderLines, SanitizedHead};
use crate::route::{HostHeader, Route};
use crate::upstream::UpstreamRequest;

use super::assertion::ASSERTION;
use super::forwarded_headers::ForwardedHeaders;
use super::rendered_identity::IdentityCache;
use super::{upstream_origin, upstream_path};

const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// Number of headers added to each request, identity headers excluded.
const MAX_ADDED: usize = ForwardedHeaders::COUNT + 7;

/// A request head ready to send to the upstream.
#[derive(Debug)]
pub struct UpstreamHead {
    method: Method,
    target: PathAndQuery,
    headers: HeaderLines,
}

impl UpstreamHead {
    /// Adds forwarded headers and identity headers.
    pub fn new(head: SanitizedHead, permit: &Permit) -> UpstreamHead {
        let forwarded_headers = ForwardedHeaders::new(head.client(), head.host().clone());
        UpstreamHead::with_rendered(&forwarded_headers, &IdentityCache::default(), head, permit)
    }

    /// As [`UpstreamHead::new`], with headers that may already be rendered.
    pub(super) fn with_rendered(
        forwarded_headers: &ForwardedHeaders,
        identity: &IdentityCache,
        head: SanitizedHead,
        permit: &Permit,
    ) -> UpstreamHead {
        let SanitizedParts {
            method,
            version,
            target,
            mut headers,
            request,
            websocket,
            trailers,
            ..
        } = head.into_parts();
        let route = permit.route();
        headers.reserve(MAX_ADDED + route.identity.headers.len() + route.headers.set.len());
        forwarded_headers.write_to(&mut headers);
        headers.set(X_REQUEST_ID, request.value().clone());
        write_options(&mut headers, route);
        if route.upstream_options.via {
            headers.append(header::VIA, via(version));
        }
        if trailers {
            headers.set(header::TE, HeaderValue::from_static("trailers"));
        }
        if let Some(identity) = identity.headers_of(permit) {
            for (name, value) in identity.headers() {
                headers.set(name.clone(), value.clone());
            }
        }
        for (name, value) in &route.headers.set {
            headers.set(name.clone(), value.clone());
        }
        if websocket {
            headers.set(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.set(header::UPGRADE, HeaderValue::from_static("websocket"));
        }
        UpstreamHead { method, target: upstream_target(target.raw(), route), headers }
    }

    /// Sets the assertion; `None` sends none.
    pub(super) fn set_assertion(&mut self, assertion: Option<HeaderValue>) {
        if let Some(assertion) = assertion {
            self.headers.set(ASSERTION, assertion);
        }
    }

    /// Adds the body.
    pub(super) fn into_upstream_request<B>(self, body: B) -> UpstreamRequest<B> {
        let UpstreamHead { method, target, headers } = self;
        UpstreamRequest { method, target, headers, body, lenient_close: false }
    }

    /// As the type of the HTTP libraries.
    pub fn into_request<B>(self, body: B) -> Request<B> {
        self.into_upstream_request(body).into()
    }
}

/// The target as received, byte for byte (RFC 9110 7.7), or with the path prefix of the upstream. Requests whose
/// path cannot be mapped are refused before.
fn upstream_target(target: &PathAndQuery, route: &Route) -> PathAndQuery {
    let mapping = route.upstream_options.path_mapping.as_ref();
    let mapped = mapping
        .and_then(|mapping| PathAndQuery::try_from(mapping.to_upstream(target.as_str())?).ok());
    mapped.unwrap_or_else(|| target.clone())
}

/// Sets what the upstream options of the route require besides the defaults.
fn write_options(headers: &mut HeaderLines, route: &Route) {
    let options = &route.upstream_options;
    if let Some(prefix) = &options.forwarded_prefix {
        headers.set(X_FORWARDED_PREFIX, prefix.clone());
    }
    if let Some(mapping) = &options.path_mapping
        && let Some(host) = headers.get(&header::HOST).cloned()
    {
        upstream_path::map_request(headers, host.as_bytes(), mapping);
    }
    let HostHeader::Upstream = options.host_header else { return };
    let Some(upstream) = route.upstreams.first() else { return };
    if let Ok(authority) = HeaderValue::from_str(upstream.authority().as_str())
        && let Some(public) = headers.get(&header::HOST).cloned()
    {
        headers.set(header::HOST, authority);
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
