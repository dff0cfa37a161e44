//! Request heads, from the client's bytes to the upstream request.

use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use doorward::auth::Permit;
use doorward::config::Config;
use doorward::message::{
    CookieNames, InboundHead, RequestContext, RequestId, ReservedHeaders, SanitizedHead,
};
use doorward::proxy::UpstreamHead;
use doorward::route::{Route, RouteTable};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Request, Uri, Version, request};

/// A gateway with one public route and one with custom identity headers.
const CONFIG: &str = r#"
[[tls.certificate]]
cert = "c.pem"
key = "c.key"
[store]
url = "memory:"
[login.password]
users = "users.toml"
[[route]]
host = "a.test"
upstream = "http://127.0.0.1:1"
access = "public"
[[route]]
host = "b.test"
upstream = "http://127.0.0.1:1"
access = "session"
identity = { "X-Team" = "{groups}" }
"#;

static ROUTES: LazyLock<RouteTable> = LazyLock::new(|| {
    let (config, _) = Config::parse(CONFIG, "doorward.toml", Path::new("")).expect("it loads");
    config.routes
});

/// Headers that clients may not set.
pub static RESERVED: LazyLock<ReservedHeaders> =
    LazyLock::new(|| public_route().headers.reserved().clone());

const CLIENT: &str = "192.0.2.7";

/// Headers that upstreams trust. Deliberately separate from the lists in the source.
pub const TRUSTED: [&str; 24] = [
    "x-forwarded-user",
    "x-forwarded-email",
    "x-forwarded-groups",
    "x-forwarded-preferred-username",
    "x-forwarded-prefix",
    "x-forwarded-port",
    "forwarded",
    "x-real-ip",
    "x-original-url",
    "x-rewrite-url",
    "remote-user",
    "x-remote-user",
    "x-auth-request-user",
    "x-webauth-user",
    "x-ssl-client-verify",
    "x-client-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "client-cert",
    "oidc-claim-sub",
    "x-authentik-username",
    "x-team",
    "proxy",
    "proxy-authorization",
];

/// The first line is `METHOD target`, prefixed with `2` for HTTP/2; the other lines are headers.
pub fn request_head(bytes: &[u8]) {
    let Some(parts) = parts(bytes) else { return };
    let requested = parts.uri.clone();
    let client: IpAddr = CLIENT.parse().expect("an address");
    let context = RequestContext { client, fingerprint: None, request: RequestId::from(1) };
    let Ok(head) = InboundHead::parse(parts, context) else { return };
    assert_unambiguous(&head);
    let clean = SanitizedHead::new(head, &RESERVED, &CookieNames::default());
    assert_no_reserved(&HeaderMap::from(clean.headers().clone()));
    let request = upstream_head(clean).into_request(());
    let path = |uri: &Uri| uri.path_and_query().map(|path| path.as_str().to_owned());
    assert_eq!(path(request.uri()), path(&requested), "forwarded as it came");
    assert_forwarding_headers(request.headers());
}

/// Builds the upstream head for the public route.
pub fn upstream_head(clean: SanitizedHead) -> UpstreamHead {
    UpstreamHead::new(clean, &Permit::public(public_route()).expect("a public route"))
}

fn public_route() -> &'static Arc<Route> {
    let route = ROUTES.iter().find(|route| Permit::public(route).is_some());
    route.expect("a public route")
}

fn assert_unambiguous(head: &InboundHead) {
    assert!(head.headers.get_all("host").iter().count() <= 1);
    assert!(head.headers.get_all("transfer-encoding").iter().count() <= 1);
    assert!(!head.host.name().is_empty());
    assert!(!["CONNECT", "TRACE"].contains(&head.method.as_str()));
    if head.websocket {
        assert!(head.method == "GET" && head.version == Version::HTTP_11);
    }
}

/// No spelling of a reserved header and no hop-by-hop header is left.
fn assert_no_reserved(headers: &HeaderMap) {
    for name in headers.keys() {
        let folded = name.as_str().replace(['_', '.', '~', '+'], "-");
        assert!(!TRUSTED.contains(&folded.as_str()), "{name}");
        assert!(!folded.starts_with("x-forwarded-") && !folded.starts_with("remote-"), "{name}");
        assert!(!name.as_str().contains('_'), "{name}");
    }
    for name in ["connection", "trailer", "transfer-encoding", "content-length", "upgrade"] {
        assert!(!headers.contains_key(name), "{name}");
    }
    // The announcement of trailers is the only one that is set anew.
    assert!(headers.get_all("te").iter().all(|value| value == "trailers"));
    assert!(headers.get_all("cookie").iter().count() <= 1);
}

/// Each forwarding header occurs once, with the gateway's value.
fn assert_forwarding_headers(headers: &HeaderMap) {
    let all = |name| headers.get_all(name).iter().map(HeaderValue::as_bytes).collect::<Vec<_>>();
    assert_eq!(all("x-forwarded-for"), [CLIENT.as_bytes()]);
    assert_eq!(all("x-forwarded-proto"), [b"https"]);
    assert_eq!(all("forwarded").len(), 1);
    assert_eq!(all("x-request-id"), [b"0000000000000001"]);
    assert_eq!(all("host"), all("x-forwarded-host"));
    assert_eq!(all("host").len(), 1);
    assert!(all("x-forwarded-user").is_empty(), "no identity on a public route");
}

fn parts(bytes: &[u8]) -> Option<request::Parts> {
    let (line, rest) = bytes.split_at(bytes.iter().position(|byte| *byte == b'\n')?);
    let (version, line) = match line.strip_prefix(b"2") {
        Some(line) => (Version::HTTP_2, line),
        None => (Version::HTTP_11, line),
    };
    let at = line.iter().position(|byte| *byte == b' ')?;
    let request = Request::builder().method(&line[..at]).uri(&line[at + 1..]).version(version);
    let (mut parts, ()) = request.body(()).ok()?.into_parts();
    parts.headers = fields(rest);
    Some(parts)
}

/// Parses each valid line as a header.
pub fn fields(bytes: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        let Some(at) = line.iter().position(|byte| *byte == b':') else { continue };
        let name = HeaderName::from_bytes(&line[..at]);
        let value = HeaderValue::from_bytes(line[at + 1..].trim_ascii_start());
        if let (Ok(name), Ok(value)) = (name, value) {
            // The limit of the `http` crate; hyper stops at a hundred headers.
            let _full = headers.try_append(name, value);
        }
    }
    headers
}
