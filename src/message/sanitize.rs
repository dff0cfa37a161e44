//! From what a client sent to what may go upstream: everything that a client may not say is gone.
//!
//! This happens on every path (public routes, upgrades, errors), before we add a field of ours.

use std::collections::BTreeSet;
use std::net::IpAddr;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Version};

use super::cookies::CookieNames;
use super::hop;
use super::host::Host;
use super::identity::IdentityFields;
use super::inbound::{self, InboundHead};
use super::request_id::RequestId;
use super::target::Target;

/// Fields that only the gateway sets, on any route.
#[derive(Clone, Debug)]
pub struct OwnedFields {
    /// Folded, in alphabetical order.
    names: Vec<HeaderName>,
}

/// Where a request comes from, as we tell upstreams; a client's own word about it is not passed on, nor
/// what other proxies call it (none of them stands between us and the app).
const FORWARDING: [&str; 27] = [
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "client-ip",
    // RFC 9440 asks for it: no client says which certificate it showed.
    "client-cert",
    "client-cert-chain",
    "fastly-client-ip",
    "forwarded",
    "forwarded-for",
    "front-end-https",
    "proxy-authorization",
    // CGI hands it on as HTTP_PROXY, which many libraries take for the proxy to send their own
    // requests through (httpoxy).
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

/// Names by which apps know a user, owned even where a route sets other ones.
const WELL_KNOWN: [&str; 12] = [
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

/// Beginnings of names that gateways and proxies use: whatever follows is not a client's to say. In
/// alphabetical order, and none of them begins with another.
const FAMILIES: [&str; 17] = [
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

impl OwnedFields {
    /// The identity fields of all routes, the standard ones, and what upstreams commonly believe.
    pub fn new<'a>(routes: impl Iterator<Item = &'a IdentityFields>) -> OwnedFields {
        let names_of = |fields: &IdentityFields| -> Vec<String> {
            fields.fields.iter().map(|field| folded(field.name.as_str())).collect()
        };
        let mut names: BTreeSet<String> = routes.flat_map(names_of).collect();
        names.extend(names_of(&IdentityFields::standard()));
        names.extend(FORWARDING.iter().chain(&WELL_KNOWN).map(|name| (*name).to_owned()));
        OwnedFields { names: names.iter().filter_map(|name| name.parse().ok()).collect() }
    }

    /// In every spelling. A name with `_` goes whatever it says: CGI, WSGI and PHP upstreams read
    /// it as the name with `-` (CVE-2025-64484). Other marks go where they would be ours: lighttpd and
    /// older Apache fold all of them (`X~Forwarded~User`), PHP folds the dot.
    fn is_ours(&self, name: &str) -> bool {
        if name.bytes().all(is_plain) {
            return self.owns(name) || is_of_a_family(name);
        }
        let folded = folded(name);
        name.contains('_') || self.owns(&folded) || is_of_a_family(&folded)
    }

    fn owns(&self, folded: &str) -> bool {
        self.names.binary_search_by(|name| name.as_str().cmp(folded)).is_ok()
    }
}

/// Letters, digits and `-`: what no upstream folds to anything else but case.
pub(super) fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-'
}

fn folded(name: &str) -> String {
    name.bytes().map(|byte| if is_plain(byte) { char::from(byte) } else { '-' }).collect()
}

fn is_of_a_family(name: &str) -> bool {
    // Only the last that stands before it in the order can be its beginning.
    let before = FAMILIES.partition_point(|family| *family <= name);
    FAMILIES[..before].last().is_some_and(|family| name.starts_with(family))
}

/// A head without one byte of identity, origin, connection or session that the client chose. Only the
/// cleaning makes one, and nobody adds anything to it.
///
/// ```
/// # fn f(head: doorward::message::SanitizedHead) {
/// let fields: &http::HeaderMap = head.headers();
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
/// let fields: &mut http::HeaderMap = head.headers();
/// # }
/// ```
///
/// ```compile_fail,E0624
/// # fn f(head: doorward::message::SanitizedHead) {
/// let cleaned = head.into_cleaned();
/// # }
/// ```
#[derive(Debug)]
pub struct SanitizedHead {
    cleaned: Cleaned,
}

/// What a [`SanitizedHead`] holds.
#[derive(Debug)]
pub(crate) struct Cleaned {
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
    /// Strips the head. The WebSocket handshake's own fields stay; whether it is one was checked.
    pub fn new(head: InboundHead, owned: &OwnedFields, cookies: &CookieNames) -> SanitizedHead {
        let InboundHead {
            method,
            version,
            host,
            target,
            mut headers,
            client,
            asker,
            websocket,
            fingerprint: _,
        } = head;
        hop::strip_with(&mut headers, |name| {
            is_made_anew(name, websocket) || owned.is_ours(name.as_str())
        });
        cookies.strip(&mut headers);
        trim_values(&mut headers);
        if method == Method::OPTIONS {
            count_down(&mut headers);
        }
        let request = asker.request;
        let cleaned =
            Cleaned { method, version, host, target, headers, client, request, websocket };
        SanitizedHead { cleaned }
    }

    /// What is left of what the client said.
    pub fn headers(&self) -> &HeaderMap {
        &self.cleaned.headers
    }

    /// The host that was asked for.
    pub fn host(&self) -> &Host {
        &self.cleaned.host
    }

    /// Where the request comes from.
    pub fn client(&self) -> IpAddr {
        self.cleaned.client
    }

    /// A complete and correct WebSocket handshake.
    pub fn is_websocket(&self) -> bool {
        self.cleaned.websocket
    }

    /// For whoever makes of it the head that goes upstream.
    pub(crate) fn into_cleaned(self) -> Cleaned {
        self.cleaned
    }
}

/// Framing and expectation are between the client and us, and ours are made where we send.
fn is_made_anew(name: &HeaderName, websocket: bool) -> bool {
    match name.as_str() {
        "content-length" | "expect" | "host" => true,
        "sec-websocket-key" => !websocket,
        _ => false,
    }
}

/// RFC 9110 7.6.2: every gateway takes one off.
fn count_down(headers: &mut HeaderMap) {
    if let Some(left) = inbound::forwards_left(headers) {
        headers.insert(header::MAX_FORWARDS, HeaderValue::from(left.saturating_sub(1)));
    }
}

/// HTTP/2 lets blanks stand around a value; HTTP/1.1 would read it without (RFC 9113 8.2.1).
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
    use crate::message::identity::{IdentityField, ValueEncoding};
    use crate::message::inbound::Arrival;
    use http::Request;
    use proptest::prelude::*;

    fn sanitized(fields: &[(&str, &str)]) -> SanitizedHead {
        sanitized_for(&IdentityFields::standard(), fields)
    }

    fn sanitized_for(identity: &IdentityFields, fields: &[(&str, &str)]) -> SanitizedHead {
        let mut build = Request::get("/").header("host", "a.test");
        for (name, value) in fields {
            build = build.header(*name, *value);
        }
        let (parts, ()) = build.body(()).expect("a request").into_parts();
        let client = IpAddr::from([127, 0, 0, 1]);
        let arrival = Arrival { client, fingerprint: None, request: RequestId::from(1) };
        let head = InboundHead::read(parts, arrival).expect("unambiguous");
        let owned = OwnedFields::new([identity].into_iter());
        SanitizedHead::new(head, &owned, &CookieNames::new(None))
    }

    #[test]
    fn cve_2025_64484_no_spelling_of_an_identity_field_passes() {
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

        /// Whatever name a configuration may give to an identity field, no client can say it.
        #[test]
        fn cve_2025_64484_no_name_that_loads_can_be_said_by_a_client(
            name in "[A-Za-z0-9!#$%&'*+.^_`|~-]{1,12}",
            marks in proptest::collection::vec(0..MARKS.len(), 12),
        ) {
            let Ok(field) = IdentityField::parse(&name, "{email}") else { return Ok(()) };
            let identity = IdentityFields { fields: vec![field], encoding: ValueEncoding::Utf8 };
            let spelt = |(c, mark): (char, &usize)| match c {
                '-' => MARKS[*mark],
                c => c.to_ascii_uppercase(),
            };
            let other: String = name.chars().zip(&marks).map(spelt).collect();
            for said in [&name, &other] {
                let head = sanitized_for(&identity, &[(said, "evil")]);
                prop_assert!(head.headers().is_empty(), "{} of {}", said, name);
            }
        }
    }

    const MARKS: [char; 8] = ['-', '_', '.', '~', '+', '!', '\'', '`'];

    #[test]
    fn hyp_05_names_with_underscores_never_reach_an_upstream() {
        assert!(sanitized(&[("Transfer_Encoding", "chunked"), ("a_b", "1")]).headers().is_empty());
        assert_eq!(sanitized(&[("a.b", "1")]).headers().len(), 1);
    }

    #[test]
    fn names_beside_the_families_pass() {
        for name in
            ["remote", "oidc", "x-authent", "x-remot-e", "x-webauthn", "a", "z", "x-auth-token"]
        {
            assert_eq!(sanitized(&[(name, "1")]).headers().len(), 1, "{name}");
        }
        assert!(FAMILIES.is_sorted());
        let pairs = FAMILIES.iter().zip(&FAMILIES[1..]);
        assert!(pairs.clone().count() > 10);
        assert!(pairs.into_iter().all(|(one, next)| !next.starts_with(one)));
    }

    #[test]
    fn a_clients_word_about_its_origin_is_not_passed_on() {
        for name in FORWARDING {
            assert!(sanitized(&[(name, "evil")]).headers().is_empty(), "{name}");
        }
    }

    #[test]
    fn httpoxy_no_client_names_the_proxy_of_an_app() {
        for name in ["Proxy", "PROXY", "proxy"] {
            assert!(sanitized(&[(name, "http://evil.test")]).headers().is_empty(), "{name}");
        }
    }

    #[test]
    fn hyp_22_framing_is_not_passed_on_and_hyp_25_blanks_are_trimmed() {
        let head = sanitized(&[("content-length", "002"), ("x-a", " b ")]);
        assert!(!head.headers().contains_key("content-length"));
        assert_eq!(head.headers()["x-a"], "b");
    }
}
