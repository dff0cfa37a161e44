//! A request to an upstream.

use http::header::{HOST, HeaderMap, HeaderValue};
use http::uri::{PathAndQuery, Uri};
use http::{Method, Request};

use crate::message::HeaderLines;

/// A request whose head has no connection headers. Bodies are framed anew.
#[derive(Clone, Debug)]
pub struct UpstreamRequest<B> {
    pub method: Method,
    pub target: PathAndQuery,
    pub headers: HeaderLines,
    pub body: B,
    /// Whether the upstream may end a response of unknown length over TLS without close_notify (RFC 9112 9.8). The
    /// response may then be truncated unnoticed.
    pub lenient_close: bool,
}

impl<B> UpstreamRequest<B> {
    pub(super) fn map<T>(self, convert: impl FnOnce(B) -> T) -> UpstreamRequest<T> {
        let UpstreamRequest { method, target, headers, body, lenient_close } = self;
        UpstreamRequest { method, target, headers, body: convert(body), lenient_close }
    }
}

/// An authority in the target becomes `Host`, unless there is one.
impl<B> From<Request<B>> for UpstreamRequest<B> {
    fn from(request: Request<B>) -> UpstreamRequest<B> {
        let (parts, body) = request.into_parts();
        let (method, target) = (parts.method, parts.uri.into_parts());
        let mut headers = HeaderLines::from(parts.headers);
        if let Some(authority) = target.authority.filter(|_| !headers.contains(&HOST))
            && let Ok(host) = HeaderValue::from_str(authority.as_str())
        {
            headers.append(HOST, host);
        }
        let target = target.path_and_query.unwrap_or(PathAndQuery::from_static("/"));
        UpstreamRequest { method, target, headers, body, lenient_close: false }
    }
}

/// Without [`UpstreamRequest::lenient_close`], which applies to HTTP/1.1.
impl<B> From<UpstreamRequest<B>> for Request<B> {
    fn from(request: UpstreamRequest<B>) -> Request<B> {
        let mut converted = Request::new(request.body);
        *converted.method_mut() = request.method;
        *converted.uri_mut() = Uri::from(request.target);
        *converted.headers_mut() = HeaderMap::from(request.headers);
        converted
    }
}
