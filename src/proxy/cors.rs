//! CORS headers of local responses to listed origins. The app sets its own on all others.
//!
//! A preflight has no cookie, so it cannot be authenticated. The gateway answers it itself: the operator
//! has listed the origin, and the request that follows is authenticated.

use http::header::{self, HeaderMap, HeaderValue};
use http::{Response, StatusCode};

use crate::message::CrossOriginPolicy;

use super::body::ResponseBody;

/// Time in seconds for which a browser may store the answer.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

/// Builds the answer to a preflight: everything that it asks for is allowed.
pub(super) fn preflight(policy: &CrossOriginPolicy, request: &HeaderMap) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::Local(http_body_util::Full::default()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    for (asked, allowed) in [
        (header::ACCESS_CONTROL_REQUEST_METHOD, header::ACCESS_CONTROL_ALLOW_METHODS),
        (header::ACCESS_CONTROL_REQUEST_HEADERS, header::ACCESS_CONTROL_ALLOW_HEADERS),
    ] {
        if let Some(value) = request.get(asked) {
            headers.insert(allowed, value.clone());
        }
    }
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    allow_origin(policy, request, headers);
    response
}

/// Lets scripts of a listed origin read a local response, for example a 401.
pub(super) fn allow_origin(
    policy: &CrossOriginPolicy,
    request: &HeaderMap,
    headers: &mut HeaderMap,
) {
    let Some(origin) = policy.listed_origin(request) else { return };
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    let exposed = HeaderValue::from_static("WWW-Authenticate, X-Request-Id, Retry-After");
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
}
