//! Responses of the demo's servers.

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::Full;
use serde_json::Value;

pub(super) type AppResponse = Response<Full<Bytes>>;

pub(super) fn page(html: String) -> AppResponse {
    with_type(html, "text/html; charset=utf-8")
}

pub(super) fn json_response(status: StatusCode, body: &Value) -> AppResponse {
    let mut response = with_type(body.to_string(), "application/json");
    *response.status_mut() = status;
    response
}

fn with_type(body: String, kind: &'static str) -> AppResponse {
    let mut response = Response::new(Full::from(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
