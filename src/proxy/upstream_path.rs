//! Translates paths in headers between a route and the path of its upstream.
//!
//! Bodies stay as they are. An app whose pages contain absolute links needs a base path of its own.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::message::HeaderLines;
use crate::route::PathMapping;

/// Target of a copy or move in WebDAV (RFC 4918 10.3).
const DESTINATION: HeaderName = HeaderName::from_static("destination");

/// Maps the path that a request names besides its own target. `host` is the public one.
pub(super) fn map_request(headers: &mut HeaderLines, host: &[u8], mapping: &PathMapping) {
    let mapped = map_url(headers.get(&DESTINATION), host, |path| mapping.to_upstream(path));
    if let Some(value) = mapped {
        headers.set(DESTINATION, value);
    }
}

/// Maps the paths of redirects and cookies of the upstream to those of the route. `host` is the public one.
pub(super) fn map_response(headers: &mut HeaderMap, host: &[u8], mapping: &PathMapping) {
    for name in [header::LOCATION, header::CONTENT_LOCATION] {
        let mapped = map_url(headers.get(&name), host, |path| mapping.to_public(path));
        if let Some(value) = mapped {
            headers.insert(name, value);
        }
    }
    for (_, value) in headers.iter_mut().filter(|(name, _)| *name == header::SET_COOKIE) {
        if let Some(mapped) = value.to_str().ok().and_then(|text| map_cookie(text, mapping)) {
            *value = mapped;
        }
    }
}

/// Maps an absolute path, or a URL of the public origin. Relative paths and other origins stay.
fn map_url(
    value: Option<&HeaderValue>,
    host: &[u8],
    map: impl Fn(&str) -> Option<String>,
) -> Option<HeaderValue> {
    let (origin, path) = split_origin(value?.to_str().ok()?, host)?;
    let path = map(if path.is_empty() { "/" } else { path })?;
    HeaderValue::try_from([origin, &path].concat()).ok()
}

/// Splits off the public origin, which is empty for an absolute path.
fn split_origin<'a>(url: &'a str, host: &[u8]) -> Option<(&'a str, &'a str)> {
    if url.starts_with('/') && !url.starts_with("//") {
        return Some(("", url));
    }
    let after = url.strip_prefix("https://").or_else(|| url.strip_prefix("//"))?;
    let end = after.find(['/', '?', '#']).unwrap_or(after.len());
    let is_public = after.as_bytes().get(..end)?.eq_ignore_ascii_case(host);
    is_public.then(|| url.split_at_checked(url.len() - after.len() + end))?
}

/// Maps the `Path` attribute of a cookie (RFC 6265 5.2.4). Without one, browsers use the public path.
fn map_cookie(cookie: &str, mapping: &PathMapping) -> Option<HeaderValue> {
    let mut changed = false;
    let parts: Vec<String> = cookie
        .split(';')
        .enumerate()
        .map(|(number, part)| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let is_path = number > 0 && name.trim().eq_ignore_ascii_case("path");
            match mapping.to_public(value.trim()).filter(|_| is_path && value.contains('/')) {
                Some(path) => {
                    changed = true;
                    format!("{name}={}", cookie_path(&path))
                }
                None => part.to_owned(),
            }
        })
        .collect();
    changed.then(|| HeaderValue::try_from(parts.join(";")).ok())?
}

/// `/wiki/` would not cover `/wiki` itself.
fn cookie_path(path: &str) -> &str {
    match path.trim_end_matches('/') {
        "" => "/",
        path => path,
    }
}

#[cfg(test)]
mod tests {
    use crate::message::PathPrefix;

    use super::*;

    const HOST: &[u8] = b"app.test:8443";

    fn mapping() -> PathMapping {
        let prefix = |text| PathPrefix::parse(text).expect("a prefix");
        PathMapping::new(prefix("/wiki"), prefix("/"))
    }

    fn mapped(name: HeaderName, value: &str) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(&name, HeaderValue::from_str(value).expect("a value"));
        map_response(&mut headers, HOST, &mapping());
        headers[name].to_str().expect("ASCII").to_owned()
    }

    #[test]
    fn a_redirect_below_the_upstreams_path_becomes_public() {
        for (sent, received) in [
            ("/", "/wiki/"),
            ("/login?next=/a#b", "/wiki/login?next=/a#b"),
            ("https://app.test:8443/a", "https://app.test:8443/wiki/a"),
            ("https://APP.test:8443", "https://APP.test:8443/wiki/"),
            ("//app.test:8443/a", "//app.test:8443/wiki/a"),
            ("a/b", "a/b"),
            ("?page=2", "?page=2"),
            ("https://app.test/a", "https://app.test/a"),
            ("https://login.test/a", "https://login.test/a"),
            ("//login.test/a", "//login.test/a"),
            ("http://app.test:8443/a", "http://app.test:8443/a"),
        ] {
            assert_eq!(mapped(header::LOCATION, sent), received);
            assert_eq!(mapped(header::CONTENT_LOCATION, sent), received);
        }
    }

    #[test]
    fn the_path_of_a_cookie_becomes_public() {
        for (sent, received) in [
            ("a=/b; Path=/; Secure", "a=/b; Path=/wiki; Secure"),
            ("a=1;path=/admin/", "a=1;path=/wiki/admin"),
            ("a=1; PATH=/x; Path=/", "a=1; PATH=/wiki/x; Path=/wiki"),
            ("path=/; HttpOnly", "path=/; HttpOnly"),
            ("a=1; Path=; Domain=/", "a=1; Path=; Domain=/"),
            ("a=1; Path=relative", "a=1; Path=relative"),
            ("a=1", "a=1"),
        ] {
            assert_eq!(mapped(header::SET_COOKIE, sent), received);
        }
    }

    #[test]
    fn the_destination_of_a_move_is_a_path_of_the_upstream() {
        let mut headers = HeaderLines::default();
        for (sent, received) in [
            ("https://app.test:8443/wiki/a%20b", "https://app.test:8443/a%20b"),
            ("/wiki/a", "/a"),
            ("https://app.test:8443/other/a", "https://app.test:8443/other/a"),
            ("https://other.test/wiki/a", "https://other.test/wiki/a"),
        ] {
            headers.set(DESTINATION, HeaderValue::from_static(sent));
            map_request(&mut headers, HOST, &mapping());
            assert_eq!(headers.get(&DESTINATION).expect("a value"), received);
        }
    }
}
