//! Removes from a request head everything that a client may not set.
//!
//! Applies on every path (public routes, upgrades, errors), before the gateway adds a header.

use std::collections::BTreeSet;
use std::net::IpAddr;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Version};

use super::cookies::CookieNames;
use super::hop;
use super::host::Host;
use super::identity_headers::{IdentityHeaders, is_plain_byte};
use super::inbound::{self, InboundHead};
use super::request_id::RequestId;
use super::target::Target;

/// Headers that only the gateway may set, on any route.
#[derive(Clone, Debug)]
pub struct ReservedHeaders {
    /// Folded names, sorted.
    names: Vec<HeaderName>,
}

/// Headers about a request's origin. The gateway sets them itself and drops the client's, including
/// those of other proxies, none of which is between the gateway and the upstream.
const FORWARDING_HEADERS: [&str; 27] = [
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "client-ip",
    // RFC 9440: a client must not assert its own certificate.
    "client-cert",
    "client-cert-chain",
    "fastly-client-ip",
    "forwarded",
    "forwarded-for",
    "front-end-https",
    "proxy-authorization",
    // CGI exposes it as HTTP_PROXY, which many libraries use as their outgoing proxy (httpoxy).
    "proxy",
    "true-client-ip",
    "x-client-cert",
    "x-client-ip",
    "x-client-verify",
    "x-cluster-client-ip",
    "x-envoy-external-address",
    "x-forwarded",
    "x-original-host",
    "x-original-method",
    "x-original-uri",
    "x-original-url",
    "x-proxyuser-ip",
    "x-real-ip",
    "x-request-id",
    "x-rewrite-url",
    "x-url-scheme",
];

/// Common identity headers, reserved even if a route uses others.
const IDENTITY_HEADERS: [&str; 12] = [
    "auth-user",
    "proxy-user",
    "sm-user",
    "x-auth-email",
    "x-auth-user",
    "x-auth-username",
    "x-user",
    "x-user-email",
    "x-user-groups",
    "x-user-id",
    "x-user-name",
    "x-username",
];

/// Prefixes of headers that gateways and proxies set. Sorted, and none is a prefix of another.
const RESERVED_PREFIXES: [&str; 17] = [
    "cf-access-authenticated-user-",
    "oidc-",
    "remote-",
    "ssl-client-",
    "tailscale-user-",
    "x-amzn-oidc-",
    "x-auth-request-",
    "x-authenticated-",
    "x-authentik-",
    "x-forwarded-",
    "x-goog-authenticated-user-",
    "x-ms-client-principal",
    "x-pomerium-",
    "x-remote-",
    "x-ssl-client-",
    "x-vouch-",
    "x-webauth-",
];

impl ReservedHeaders {
    /// Reserves the identity headers of all routes, the standard ones and those that upstreams
    /// commonly trust.
    pub fn new<'a>(routes: impl Iterator<Item = &'a IdentityHeaders>) -> ReservedHeaders {
        let names_of = |identity: &IdentityHeaders| -> Vec<String> {
            identity.headers.iter().map(|header| fold_name(header.name.as_str())).collect()
        };
        let mut names: BTreeSet<String> = routes.flat_map(names_of).collect();
        names.extend(names_of(&IdentityHeaders::standard()));
        names.extend(
            FORWARDING_HEADERS.iter().chain(&IDENTITY_HEADERS).map(|name| (*name).to_owned()),
        );
        ReservedHeaders { names: names.iter().filter_map(|name| name.parse().ok()).collect() }
    }

    /// Whether the header is reserved, in any spelling.
    ///
    /// A name with `_` is always dropped: CGI, WSGI and PHP upstreams read it as `-`
    /// (CVE-2025-64484). Other characters are folded to `-` first: lighttpd and older Apache fold
    /// all of them (`X~Forwarded~User`), PHP folds the dot.
    fn is_reserved(&self, name: &str) -> bool {
        if name.bytes().all(is_plain_byte) {
            return self.contains(name) || has_reserved_prefix(name);
        }
        let folded = fold_name(name);
        name.contains('_') || self.contains(&folded) || has_reserved_prefix(&folded)
    }

    fn contains(&self, folded: &str) -> bool {
        self.names.binary_search_by(|name| name.as_str().cmp(folded)).is_ok()
    }
}

fn fold_name(name: &str) -> String {
    name.bytes().map(|byte| if is_plain_byte(byte) { char::from(byte) } else { '-' }).collect()
}

fn has_reserved_prefix(name: &str) -> bool {
    // Only the last prefix that sorts before the name can match.
    let before = RESERVED_PREFIXES.partition_point(|prefix| *prefix <= name);
    RESERVED_PREFIXES[..before].last().is_some_and(|prefix| name.starts_with(prefix))
}

/// A request head without any client-supplied identity, origin, connection or session data. Only
/// [`SanitizedHead::new`] creates one, and it cannot be modified.
///
/// ```
/// # fn f(head: doorward::message::SanitizedHead) {
/// let headers: &http::HeaderMap = head.headers();
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
/// let headers: &mut http::HeaderMap = head.headers();
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
    pub(crate) headers: HeaderMap,
    pub(crate) client: IpAddr,
    pub(crate) request: RequestId,
    pub(crate) websocket: bool,
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
            mut headers,
            client,
            requester: asker,
            websocket,
            fingerprint: _,
        } = head;
        hop::strip_with(&mut headers, |name| {
            is_framing(name, websocket) || reserved.is_reserved(name.as_str())
        });
        cookies.strip(&mut headers);
        trim_values(&mut headers);
        if method == Method::OPTIONS {
            decrement_max_forwards(&mut headers);
        }
        let request = asker.request;
        let parts =
            SanitizedParts { method, version, host, target, headers, client, request, websocket };
        SanitizedHead { parts }
    }

    /// Returns the remaining client headers.
    pub fn headers(&self) -> &HeaderMap {
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
        "content-length" | "expect" | "host" => true,
        "sec-websocket-key" => !websocket,
        _ => false,
    }
}

/// RFC 9110 7.6.2: every intermediary decrements it.
fn decrement_max_forwards(headers: &mut HeaderMap) {
    if let Some(left) = inbound::max_forwards(headers) {
        headers.insert(header::MAX_FORWARDS, HeaderValue::from(left.saturating_sub(1)));
    }
}

/// HTTP/2 allows whitespace around a value; HTTP/1.1 would strip it (RFC 9113 8.2.1).
fn trim_values(headers: &mut HeaderMap) {
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
    use crate::message::identity_headers::{IdentityHeader, ValueEncoding};
    use crate::message::inbound::RequestContext;
    use http::Request;
    use proptest::prelude::*;

    fn sanitized(headers: &[(&str, &str)]) -> SanitizedHead {
        sanitized_for(&IdentityHeaders::standard(), headers)
    }

    fn sanitized_for(identity: &IdentityHeaders, headers: &[(&str, &str)]) -> SanitizedHead {
        let mut build = Request::get("/").header("host", "a.test");
        for (name, value) in headers {
            build = build.header(*name, *value);
        }
        let (parts, ()) = build.body(()).expect("a request").into_parts();
        let client = IpAddr::from([127, 0, 0, 1]);
        let context = RequestContext { client, fingerprint: None, request: RequestId::from(1) };
        let head = InboundHead::parse(parts, context).expect("unambiguous");
        let reserved = ReservedHeaders::new([identity].into_iter());
        SanitizedHead::new(head, &reserved, &CookieNames::new(None))
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
            let identity = IdentityHeaders { headers: vec![header], encoding: ValueEncoding::Utf8 };
            let spelt = |(c, mark): (char, &usize)| match c {
                '-' => MARKS[*mark],
                c => c.to_ascii_uppercase(),
            };
            let other: String = name.chars().zip(&marks).map(spelt).collect();
            for spelling in [&name, &other] {
                let head = sanitized_for(&identity, &[(spelling, "evil")]);
                prop_assert!(head.headers().is_empty(), "{} of {}", spelling, name);
            }
        }
    }

    const MARKS: [char; 8] = ['-', '_', '.', '~', '+', '!', '\'', '`'];

    /// HYP-05.
    #[test]
    fn header_names_with_underscores_are_dropped() {
        assert!(sanitized(&[("Transfer_Encoding", "chunked"), ("a_b", "1")]).headers().is_empty());
        assert_eq!(sanitized(&[("a.b", "1")]).headers().len(), 1);
    }

    #[test]
    fn names_beside_the_reserved_prefixes_pass() {
        for name in
            ["remote", "oidc", "x-authent", "x-remot-e", "x-webauthn", "a", "z", "x-auth-token"]
        {
            assert_eq!(sanitized(&[(name, "1")]).headers().len(), 1, "{name}");
        }
        assert!(RESERVED_PREFIXES.is_sorted());
        let pairs = RESERVED_PREFIXES.iter().zip(&RESERVED_PREFIXES[1..]);
        assert!(pairs.clone().count() > 10);
        assert!(pairs.into_iter().all(|(one, next)| !next.starts_with(one)));
    }

    #[test]
    fn forwarding_headers_of_a_client_are_dropped() {
        for name in FORWARDING_HEADERS {
            assert!(sanitized(&[(name, "evil")]).headers().is_empty(), "{name}");
        }
    }

    /// httpoxy.
    #[test]
    fn the_proxy_header_is_dropped() {
        for name in ["Proxy", "PROXY", "proxy"] {
            assert!(sanitized(&[(name, "http://evil.test")]).headers().is_empty(), "{name}");
        }
    }

    /// HYP-22, HYP-25.
    #[test]
    fn framing_is_dropped_and_whitespace_is_trimmed() {
        let head = sanitized(&[("content-length", "002"), ("x-a", " b ")]);
        assert!(!head.headers().contains_key("content-length"));
        assert_eq!(head.headers()["x-a"], "b");
    }
}
