//! Method overrides: an app that honors one executes a GET as a DELETE.
//!
//! A request is judged as its own method and as every method that it names. A form may name one in its
//! body, which is not read here, so a form that is posted counts as every method that writes.

use http::header::{self, HeaderMap, HeaderValue};
use http::{HeaderName, Method};

const HEADERS: [HeaderName; 3] = [
    HeaderName::from_static("x-http-method"),
    HeaderName::from_static("x-http-method-override"),
    HeaderName::from_static("x-method-override"),
];

/// Names of query parameters that frameworks read, beside those of the headers.
const PARAMETERS: [&str; 2] = ["_method", "_httpmethod"];

/// Content types of HTML forms.
const FORMS: [&str; 2] = ["application/x-www-form-urlencoded", "multipart/form-data"];

/// Returns the methods that a request names beside its own. Empty for almost all requests.
pub(super) fn named_methods(
    method: &Method,
    headers: &HeaderMap,
    query: Option<&str>,
) -> Vec<Method> {
    let mut named = Vec::new();
    for name in headers.keys().filter(|name| HEADERS.contains(name)) {
        headers.get_all(name).iter().for_each(|value| add_all(value.as_bytes(), &mut named));
    }
    if let Some(query) = query {
        let parameters = form_urlencoded::parse(query.as_bytes());
        let overrides = parameters.filter(|(name, _)| is_parameter(name));
        overrides.for_each(|(_, value)| add_all(value.as_bytes(), &mut named));
    }
    if *method == Method::POST && is_form(headers) {
        named.extend([Method::PUT, Method::PATCH, Method::DELETE]);
    }
    named
}

/// Whether the name, in lower case, is a header that names another method.
pub(super) fn is_header(name: &str) -> bool {
    HEADERS.iter().any(|header| header.as_str() == name)
}

fn is_parameter(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    PARAMETERS.contains(&name.as_str()) || is_header(&name)
}

/// Adds the methods of a list. All methods that no rule can list count as CONNECT, which is not safe.
fn add_all(list: &[u8], named: &mut Vec<Method>) {
    let words = list.split(|byte| matches!(byte, b',' | b' ' | b'\t'));
    for word in words.filter(|word| !word.is_empty()) {
        let method = Method::from_bytes(&word.to_ascii_uppercase()).ok().filter(is_standard);
        let method = method.unwrap_or(Method::CONNECT);
        if !named.contains(&method) {
            named.push(method);
        }
    }
}

fn is_standard(method: &Method) -> bool {
    use Method as M;
    [M::GET, M::HEAD, M::OPTIONS, M::POST, M::PUT, M::PATCH, M::DELETE].contains(method)
}

fn is_form(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    content_type.is_some_and(|value| {
        let kind = value.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        FORMS.iter().any(|form| kind.eq_ignore_ascii_case(form.as_bytes()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(method: Method, headers: &[(&'static str, &'static str)], query: &str) -> Vec<Method> {
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        named_methods(&method, &headers.collect(), Some(query).filter(|query| !query.is_empty()))
    }

    #[test]
    fn headers_and_parameters_name_methods() {
        for name in ["x-http-method-override", "x-http-method", "x-method-override"] {
            assert_eq!(named(Method::GET, &[(name, " delete ")], ""), [Method::DELETE], "{name}");
        }
        for query in [
            "_method=DELETE",
            "a=1&_METHOD=delete",
            "%5Fm%65thod=%44ELETE",
            "X-HTTP-Method-Override=DELETE",
            "_HttpMethod=DELETE",
        ] {
            assert_eq!(named(Method::GET, &[], query), [Method::DELETE], "{query}");
        }
        let several = [("x-http-method", "GET, PUT"), ("x-method-override", "PUT\tPATCH")];
        let all = [Method::GET, Method::PUT, Method::PATCH, Method::POST];
        assert_eq!(named(Method::GET, &several, "_method=post"), all);
    }

    #[test]
    fn an_unknown_method_counts_as_one_that_no_rule_can_list() {
        assert_eq!(named(Method::GET, &[("x-http-method", "MERGE, x, y")], ""), [Method::CONNECT]);
        assert_eq!(named(Method::GET, &[("x-http-method", "TRACE")], ""), [Method::CONNECT]);
        assert!(!Method::CONNECT.is_safe());
    }

    #[test]
    fn a_posted_form_counts_as_every_method_that_writes() {
        let form = [("content-type", "Application/X-WWW-Form-Urlencoded; charset=utf-8")];
        let writes = [Method::PUT, Method::PATCH, Method::DELETE];
        assert_eq!(named(Method::POST, &form, ""), writes);
        assert_eq!(
            named(Method::POST, &[("content-type", "multipart/form-data; b=1")], ""),
            writes
        );
        assert!(named(Method::GET, &form, "").is_empty());
        assert!(named(Method::POST, &[("content-type", "application/json")], "").is_empty());
        assert!(
            named(Method::GET, &[("x-other", "DELETE")], "method=DELETE&a_method=x").is_empty()
        );
    }
}
