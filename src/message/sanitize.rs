//! Removes from a request head everything that a client may not set.
//!
//! Applies on every path (public routes, upgrades, errors), before the gateway adds a header.

use std::net::IpAddr;

use http::header::{self, HeaderName, HeaderValue};
use http::{Method, Version};

use super::cookies::CookieNames;
use super::header_lines::HeaderLines;
use super::hop;
use super::host::Host;
use super::inbound::{self, InboundHead};
use super::request_id::RequestId;
use super::reserved_headers::{ReservedHeaders, is_forwarding};
use super::target::Target;
use super::token_credentials;

/// Room for the headers that the gateway adds for the upstream.
const ADDED_HEADERS: usize = 16;

/// A request head without any client-supplied identity, origin, connection or session data. Only
/// [`SanitizedHead::new`] creates one, and it cannot be modified.
///
/// ```
/// # fn f(head: doorward::message::SanitizedHead) {
/// let headers: &doorward::message::HeaderLines = head.headers();
/// # }
/// ```
///
/// ```compile_fail,E0451
/// # fn f(other: doorward::message::SanitizedHead) {
/// let head = doorward::message::SanitizedHead { ..other };
/// # }
/// ```
///
/// ```compile_fail,E0308
/// # fn f(mut head: doorward::message::SanitizedHead) {
/// let headers: &mut doorward::message::HeaderLines = head.headers();
/// # }
/// ```
///
/// ```compile_fail,E0624
/// # fn f(head: doorward::message::SanitizedHead) {
/// let parts = head.into_parts();
/// # }
/// ```
#[derive(Debug)]
pub struct SanitizedHead {
    parts: SanitizedParts,
}

/// Contents of a [`SanitizedHead`].
#[derive(Debug)]
pub(crate) struct SanitizedParts {
    pub(crate) method: Method,
    pub(crate) version: Version,
    pub(crate) host: Host,
    pub(crate) target: Target,
    pub(crate) headers: HeaderLines,
    pub(crate) client: IpAddr,
    pub(crate) request: RequestId,
    pub(crate) websocket: bool,
    dropped: Vec<HeaderName>,
    /// Whether the client accepts trailers.
    pub(crate) trailers: bool,
}

impl SanitizedHead {
    /// Sanitizes the head. The headers of a validated WebSocket handshake are kept.
    pub fn new(
        head: InboundHead,
        reserved: &ReservedHeaders,
        cookies: &CookieNames,
    ) -> SanitizedHead {
        let InboundHead {
            method,
            version,
            host,
            target,
            headers,
            client,
            requester,
            websocket,
            fingerprint: _,
            overrides: _,
        } = head;
        let mut dropped = Vec::new();
        let trailers = hop::accepts_trailers(&headers);
        let max_forwards = match method {
            Method::OPTIONS => inbound::max_forwards(&headers),
            _ => None,
        };
        let mut headers = hop::stripped(headers, ADDED_HEADERS, |name| {
            let is_reserved = reserved.is_reserved(name.as_str());
            if is_reserved && !is_forwarding(name.as_str()) {
                dropped.push(name.clone());
            }
            is_reserved || is_framing(name, websocket)
        });
        cookies.strip(&mut headers);
        token_credentials::strip(&mut headers);
        trim_values(&mut headers);
        if let Some(left) = max_forwards {
            decrement_max_forwards(&mut headers, left);
        }
        let request = requester.request;
        let parts = SanitizedParts {
            method,
            version,
            host,
            target,
            headers,
            client,
            request,
            websocket,
            dropped,
            trailers,
        };
        SanitizedHead { parts }
    }

    /// Returns the remaining client headers.
    pub fn headers(&self) -> &HeaderLines {
        &self.parts.headers
    }

    /// Returns the requested host.
    pub fn host(&self) -> &Host {
        &self.parts.host
    }

    /// Returns the client's address.
    pub fn client(&self) -> IpAddr {
        self.parts.client
    }

    /// Returns the names of the removed headers that an app may miss: reserved ones, but none about the
    /// connection or the origin of the request.
    pub fn dropped(&self) -> &[HeaderName] {
        &self.parts.dropped
    }

    /// Whether the request is a valid WebSocket handshake.
    pub fn is_websocket(&self) -> bool {
        self.parts.websocket
    }

    /// Used only to build the upstream head.
    pub(crate) fn into_parts(self) -> SanitizedParts {
        self.parts
    }
}

/// Whether the header belongs to the client's connection and is set anew for the upstream.
fn is_framing(name: &HeaderName, websocket: bool) -> bool {
    match name.as_str() {
        // `Alt-Used` names an alternative service, and upstreams cannot announce one.
        "alt-used" | "content-length" | "expect" | "host" => true,
        "sec-websocket-key" => !websocket,
        _ => false,
    }
}

/// RFC 9110 7.6.2: every intermediary decrements it.
fn decrement_max_forwards(headers: &mut HeaderLines, left: u64) {
    if headers.contains(&header::MAX_FORWARDS) {
        headers.set(header::MAX_FORWARDS, HeaderValue::from(left.saturating_sub(1)));
    }
}

/// HTTP/2 allows whitespace around a value; HTTP/1.1 would strip it (RFC 9113 8.2.1).
fn trim_values(headers: &mut HeaderLines) {
    for value in headers.values_mut() {
        let trimmed = value.as_bytes().trim_ascii();
        if trimmed.len() != value.len() {
            *value =
                HeaderValue::from_bytes(trimmed).unwrap_or_else(|_| HeaderValue::from_static(""));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::identity_headers::IdentityHeader;
    use crate::message::inbound::RequestContext;
    use crate::message::reserved_headers::HeaderRules;
    use http::Request;
    use proptest::prelude::*;

    fn sanitized(headers: &[(&str, &str)]) -> SanitizedHead {
        sanitized_by(&HeaderRules::default(), headers)
    }

    fn sanitized_by(rules: &HeaderRules, headers: &[(&str, &str)]) -> SanitizedHead {
        let mut build = Request::get("/").header("host", "a.test");
        for (name, value) in headers {
            build = build.header(*name, *value);
        }
        let (parts, ()) = build.body(()).expect("a request").into_parts();
        let client = IpAddr::from([127, 0, 0, 1]);
        let context = RequestContext { client, fingerprint: None, request: RequestId::from(1) };
        let head = InboundHead::parse(parts, context).expect("unambiguous");
        SanitizedHead::new(head, &ReservedHeaders::new(rules), &CookieNames::default())
    }

    /// CVE-2025-64484.
    #[test]
    fn no_spelling_of_an_identity_header_passes() {
        for name in [
            "X-Forwarded-User",
            "x-forwarded-user",
            "X_Forwarded_User",
            "X-Forwarded_User",
            "X.Forwarded.User",
            "X~Forwarded+User",
            "X-Forwarded-Access-Token",
            "X-Remote-Extra-Scopes",
            "X-SSL-Client-Verify",
            "REMOTE_USER",
            "Remote-User",
            "Remote-Anything",
            "OIDC-Claim-Sub",
            "OIDC_CLAIM_sub",
            "X-Auth-Request-Email",
            "X-Authenticated-User",
            "X-authentik-username",
            "X-MS-Client-Principal",
            "X-MS-Client-Principal-Name",
            "X-Webauth-User",
            "X~Webauth~Role",
        ] {
            assert!(sanitized(&[(name, "evil")]).headers().is_empty(), "{name}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// No client can set an identity header of any name that a configuration may choose.
        /// CVE-2025-64484.
        #[test]
        fn no_configurable_identity_header_passes(
            name in "[A-Za-z0-9!#$%&'*+.^_`|~-]{1,12}",
            marks in proptest::collection::vec(0..MARKS.len(), 12),
        ) {
            let Ok(header) = IdentityHeader::parse(&name, "{email}") else { return Ok(()) };
            let rules = HeaderRules { identity: vec![header.name], ..HeaderRules::default() };
            let spelt = |(c, mark): (char, &usize)| match c {
                '-' => MARKS[*mark],
                c => c.to_ascii_uppercase(),
            };
            let other: String = name.chars().zip(&marks).map(spelt).collect();
            for spelling in [&name, &other] {
                let head = sanitized_by(&rules, &[(spelling, "evil")]);
                prop_assert!(head.headers().is_empty(), "{} of {}", spelling, name);
            }
        }
    }

    const MARKS: [char; 8] = ['-', '_', '.', '~', '+', '!', '\'', '`'];

    /// HYP-05.
    #[test]
    fn header_names_with_underscores_are_dropped() {
        assert!(sanitized(&[("Transfer_Encoding", "chunked"), ("a_b", "1")]).headers().is_empty());
        assert_eq!(sanitized(&[("a.b", "1")]).headers().iter().count(), 1);
    }

    #[test]
    fn dropped_headers_are_reported_unless_about_the_origin() {
        let head = sanitized(&[
            ("x-forwarded-for", "192.0.2.1"),
            ("x-real-ip", "192.0.2.1"),
            ("connection", "x-hop"),
            ("x-hop", "1"),
            ("x-user-id", "7"),
            ("api_key", "k"),
            ("x-kept", "1"),
        ]);
        let dropped: Vec<&str> = head.dropped().iter().map(HeaderName::as_str).collect();
        assert_eq!(dropped, ["x-user-id", "api_key"]);
    }

    /// httpoxy.
    #[test]
    fn the_proxy_header_is_dropped() {
        for name in ["Proxy", "PROXY", "proxy"] {
            assert!(sanitized(&[(name, "http://evil.test")]).headers().is_empty(), "{name}");
        }
    }

    #[test]
    fn the_alternative_service_of_a_client_is_dropped() {
        assert!(sanitized(&[("Alt-Used", "app.test:8443")]).headers().is_empty());
    }

    /// HYP-22, HYP-25.
    #[test]
    fn framing_is_dropped_and_whitespace_is_trimmed() {
        let head = sanitized(&[("content-length", "002"), ("x-a", " b ")]);
        assert!(!head.headers().contains(&header::CONTENT_LENGTH));
        let kept = head.headers().get(&HeaderName::from_static("x-a"));
        assert_eq!(kept.expect("a header"), "b");
    }
}
