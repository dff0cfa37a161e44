//! Responses of the portal: HTML pages for browsers, JSON for scripts, redirects and files.

use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::Full;
use serde_json::Value;

/// A complete response of the portal.
pub(super) type Page = Response<Full<Bytes>>;

/// Forbids external resources, inline code and framing.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// As above, with our own script files, which request our own JSON.
const SCRIPTED_POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self'; script-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Builds an HTML response with `no-store` and the security headers.
pub(super) fn html_page(status: StatusCode, html: String) -> Page {
    let mut page = Response::new(Full::from(html));
    *page.status_mut() = status;
    let headers = page.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers
        .insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONTENT_SECURITY_POLICY));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    // Isolates the page from windows that opened it, and from embedding by other sites.
    let alone = HeaderValue::from_static("same-origin");
    headers.insert("cross-origin-opener-policy", alone.clone());
    headers.insert("cross-origin-resource-policy", alone);
    set_page_headers(headers);
    page
}

/// Builds a page with one of our script files.
pub(super) fn scripted_page(status: StatusCode, html: String) -> Page {
    let mut page = html_page(status, html);
    let policy = HeaderValue::from_static(SCRIPTED_POLICY);
    page.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    page
}

/// Builds a JSON response with `no-store`.
pub(super) fn json_page(status: StatusCode, body: &Value) -> Page {
    let mut page = Response::new(Full::from(Bytes::from(body.to_string())));
    *page.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    page.headers_mut().insert(header::CONTENT_TYPE, json);
    set_page_headers(page.headers_mut());
    page
}

/// Builds a redirect that is followed with GET.
pub(super) fn see_other(target: &str) -> Page {
    let mut page = Response::new(Full::default());
    *page.status_mut() = StatusCode::SEE_OTHER;
    let location = HeaderValue::from_str(target).unwrap_or_else(|_| HeaderValue::from_static("/"));
    page.headers_mut().insert(header::LOCATION, location);
    set_page_headers(page.headers_mut());
    page
}

/// Builds a file that caches keep for five minutes.
pub(super) fn public_file(content_type: &'static str, text: String) -> Page {
    let mut page = Response::new(Full::from(text));
    let headers = page.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    page
}

fn set_page_headers(headers: &mut http::HeaderMap) {
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}

/// Adds `Retry-After`.
pub(super) fn with_retry_after(mut page: Page, wait: Duration) -> Page {
    let seconds = HeaderValue::from(whole_seconds(wait));
    page.headers_mut().insert(header::RETRY_AFTER, seconds);
    page
}

/// Rounds up: a client that waits this long waits long enough.
pub(super) fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}
