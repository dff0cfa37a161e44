//! Validated request heads.
//!
//! hyper accepts some messages that RFC 9110, 9112 and 9113 forbid or leave ambiguous; they are
//! rejected here. Framing is never forwarded: hyper frames the upstream request anew.

use std::net::IpAddr;

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, StatusCode, Uri, Version, request};

use super::forwarded::ChainError;
use super::host::{Host, HostError};
use super::intent::{Intent, Requester};
use super::method_override;
use super::path_ambiguity::{Ambiguity, AmbiguousPath};
use super::request_id::RequestId;
use super::target::{Target, TargetError};
use crate::session::{ClientContext, TlsFingerprint};

/// An unambiguous request head. Its headers are not sanitized yet.
#[derive(Debug)]
pub struct InboundHead {
    pub method: Method,
    pub version: Version,
    pub host: Host,
    pub target: Target,
    pub headers: HeaderMap,
    pub client: IpAddr,
    /// TLS fingerprint (JA4) of the client; `None` if not computed.
    pub fingerprint: Option<TlsFingerprint>,
    pub requester: Requester,
    /// Whether the request is a valid WebSocket handshake.
    pub websocket: bool,
    /// Methods that the request names beside its own, by a header, a parameter or a form.
    pub overrides: Vec<Method>,
}

/// Reason for rejecting a request that is ambiguous or not supported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    #[error("the request has too many headers")]
    TooManyHeaders,
    #[error("{0}")]
    Chain(#[from] ChainError),
    #[error("the request has no Host")]
    HostMissing,
    #[error("the request has several Host headers")]
    DuplicateHost,
    #[error("the Host header: {0}")]
    Host(#[from] HostError),
    #[error("the Host header and the request target name different hosts")]
    HostMismatch,
    #[error("{0}")]
    Target(#[from] TargetError),
    #[error("the request target has a scheme other than https")]
    Scheme,
    #[error("CONNECT and TRACE are not supported")]
    Method,
    #[error("Transfer-Encoding is anything but one `chunked`")]
    TransferEncoding,
    #[error("Expect is anything but 100-continue")]
    Expect,
    #[error("the WebSocket handshake is incomplete")]
    WebSocket,
    #[error("the request loops: an upstream of this gateway sends it back here")]
    Loop,
}

/// Maximum number of times that a request may pass a doorward gateway; several may be chained.
const MAX_HOPS: usize = 8;

/// The gateway's pseudonym in [`Via`](header::VIA).
pub const PSEUDONYM: &str = "doorward";

/// Context of a request besides its head.
#[derive(Clone, Debug)]
pub struct RequestContext {
    pub client: IpAddr,
    /// TLS fingerprint (JA4) of the connection; `None` if it is a proxy's or not computed.
    pub fingerprint: Option<TlsFingerprint>,
    pub request: RequestId,
}

impl BadRequest {
    /// Returns the response status.
    pub fn status(self) -> StatusCode {
        match self {
            BadRequest::Method => StatusCode::METHOD_NOT_ALLOWED,
            BadRequest::Expect => StatusCode::EXPECTATION_FAILED,
            // RFC 9209 2.3.27.
            BadRequest::Loop => StatusCode::BAD_GATEWAY,
            // RFC 6585 5.
            BadRequest::TooManyHeaders => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            BadRequest::Chain(_)
            | BadRequest::HostMissing
            | BadRequest::DuplicateHost
            | BadRequest::Host(_)
            | BadRequest::HostMismatch
            | BadRequest::Target(_)
            | BadRequest::Scheme
            | BadRequest::TransferEncoding
            | BadRequest::WebSocket => StatusCode::BAD_REQUEST,
        }
    }
}

impl InboundHead {
    /// Validates a head that arrived over TLS. Rejects paths with ambiguous segments.
    pub fn parse(
        mut parts: request::Parts,
        context: RequestContext,
    ) -> Result<InboundHead, BadRequest> {
        InboundHead::parse_with(&mut parts, context, |_, path| match path.ambiguity {
            Ambiguity::Delimiter => path.interpret().is_some(),
            Ambiguity::Segments => false,
        })
    }

    /// As [`InboundHead::parse`], but accepts an ambiguous path if `is_allowed` returns true for it
    /// on that host. Takes the headers out of `parts` only if it accepts the head.
    pub fn parse_with(
        parts: &mut request::Parts,
        context: RequestContext,
        is_allowed: impl Fn(&Host, &AmbiguousPath<'_>) -> bool,
    ) -> Result<InboundHead, BadRequest> {
        let request::Parts { method, uri, version, headers, .. } = parts;
        if *method == Method::CONNECT || *method == Method::TRACE {
            return Err(BadRequest::Method);
        }
        check_scheme(uri)?;
        check_headers(headers)?;
        let host = parse_host(uri, headers)?;
        let websocket = is_websocket_handshake(method, *version, headers)?;
        check_loop(headers)?;
        let intent = Intent::from_request(method, headers);
        let target = parse_target(method, std::mem::take(uri), |path| is_allowed(&host, path))?;
        let overrides = method_override::named_methods(method, headers, target.query());
        let RequestContext { client, fingerprint, request } = context;
        let requester = Requester { intent, request };
        Ok(InboundHead {
            method: std::mem::take(method),
            version: *version,
            host,
            target,
            headers: std::mem::take(headers),
            client,
            fingerprint,
            requester,
            websocket,
            overrides,
        })
    }

    /// Returns every method as which the app may execute the request. Its own is the first.
    pub fn methods(&self) -> impl Iterator<Item = &Method> {
        std::iter::once(&self.method).chain(&self.overrides)
    }

    /// Returns the client's address and software as sessions record them.
    pub fn client_context(&self) -> ClientContext {
        let bytes = |name| self.headers.get(name).map_or(&b""[..], HeaderValue::as_bytes);
        ClientContext::new(self.client, bytes(header::USER_AGENT))
            .with_language(bytes(header::ACCEPT_LANGUAGE))
            .with_fingerprint(self.fingerprint)
    }

    /// Whether `Max-Forwards` forbids forwarding the request (RFC 9110 7.6.2).
    pub fn max_forwards_exhausted(&self) -> bool {
        self.method == Method::OPTIONS && max_forwards(&self.headers) == Some(0)
    }
}

/// Returns the value of `Max-Forwards` if it is a number (RFC 9110 7.6.2).
pub(super) fn max_forwards(headers: &HeaderMap) -> Option<u64> {
    let left = headers.get(header::MAX_FORWARDS)?.to_str().ok()?.trim();
    let is_number = !left.is_empty() && left.bytes().all(|byte| byte.is_ascii_digit());
    // A value too large to represent is still large.
    is_number.then(|| left.parse().unwrap_or(u64::MAX))
}

/// An absolute target must have the scheme of the transport (RFC 9113 8.3.1). Only CONNECT may have
/// an authority without a scheme.
fn check_scheme(uri: &Uri) -> Result<(), BadRequest> {
    match (uri.scheme_str(), uri.authority()) {
        (Some("https"), _) | (None, None) => Ok(()),
        (Some(_), _) | (None, Some(_)) => Err(BadRequest::Scheme),
    }
}

fn check_headers(headers: &HeaderMap) -> Result<(), BadRequest> {
    let coding =
        single(headers, &header::TRANSFER_ENCODING).map_err(|_| BadRequest::TransferEncoding)?;
    if coding.is_some_and(|value| !value.as_bytes().eq_ignore_ascii_case(b"chunked")) {
        return Err(BadRequest::TransferEncoding);
    }
    let expect = single(headers, &header::EXPECT).map_err(|_| BadRequest::Expect)?;
    if expect.is_some_and(|value| !value.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        return Err(BadRequest::Expect);
    }
    Ok(())
}

/// RFC 9112 3.2: exactly one Host; 3.2.2: an absolute target must agree with it.
fn parse_host(uri: &Uri, headers: &HeaderMap) -> Result<Host, BadRequest> {
    let header = single(headers, &header::HOST).map_err(|_| BadRequest::DuplicateHost)?;
    let header =
        header.map(|value| value.to_str().map_err(|_| HostError::Character)).transpose()?;
    let header = header.map(Host::parse).transpose()?;
    let target = uri.authority().map(|authority| Host::parse(authority.as_str())).transpose()?;
    match (header, target) {
        (Some(header), Some(target)) if header != target => Err(BadRequest::HostMismatch),
        (_, Some(host)) | (Some(host), None) => Ok(host),
        (None, None) => Err(BadRequest::HostMissing),
    }
}

/// A public route whose upstream is this gateway would otherwise loop until resources are
/// exhausted.
fn check_loop(headers: &HeaderMap) -> Result<(), BadRequest> {
    let lines = headers.get_all(header::VIA).into_iter();
    let own_hops = lines
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .filter(|hop| hop.trim_ascii().ends_with(PSEUDONYM.as_bytes()));
    if own_hops.count() < MAX_HOPS { Ok(()) } else { Err(BadRequest::Loop) }
}

fn parse_target(
    method: &Method,
    uri: Uri,
    is_allowed: impl Fn(&AmbiguousPath<'_>) -> bool,
) -> Result<Target, BadRequest> {
    let path = uri.into_parts().path_and_query.ok_or(TargetError::NotAPath)?;
    if path.as_str() == "*" && *method == Method::OPTIONS {
        return Err(BadRequest::Target(TargetError::NotAPath));
    }
    Ok(Target::parse_with(path, is_allowed)?)
}

/// RFC 6455 4.2.1. An incomplete handshake is rejected because it can smuggle a tunnel.
fn is_websocket_handshake(
    method: &Method,
    version: Version,
    headers: &HeaderMap,
) -> Result<bool, BadRequest> {
    let requested = headers
        .get(header::UPGRADE)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    if !requested || version == Version::HTTP_2 {
        return Ok(false);
    }
    let complete = *method == Method::GET
        && version == Version::HTTP_11
        && has_upgrade_option(headers)
        && headers.get(header::SEC_WEBSOCKET_VERSION).is_some_and(|value| value == "13")
        && matches!(single(headers, &header::SEC_WEBSOCKET_KEY), Ok(Some(key)) if is_websocket_key(key))
        && !headers.contains_key(header::TRANSFER_ENCODING)
        && headers.get(header::CONTENT_LENGTH).is_none_or(|value| value == "0");
    if complete { Ok(true) } else { Err(BadRequest::WebSocket) }
}

fn has_upgrade_option(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(header::CONNECTION).into_iter();
    let mut tokens = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    tokens.any(|token| token.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
}

fn is_websocket_key(key: &HeaderValue) -> bool {
    data_encoding::BASE64.decode(key.as_bytes()).is_ok_and(|bytes| bytes.len() == 16)
}

struct Duplicate;

fn single<'a>(
    headers: &'a HeaderMap,
    name: &header::HeaderName,
) -> Result<Option<&'a HeaderValue>, Duplicate> {
    let mut values = headers.get_all(name).into_iter();
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        (_, Some(_)) => Err(Duplicate),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn parse(build: request::Builder) -> Result<InboundHead, BadRequest> {
        let (parts, ()) = build.body(()).expect("a request").into_parts();
        InboundHead::parse(parts, context())
    }

    fn context() -> RequestContext {
        let (client, request) = (IpAddr::from([127, 0, 0, 1]), RequestId::from(1));
        RequestContext { client, fingerprint: None, request }
    }

    /// RFC 9209 2.3.27.
    #[test]
    fn a_request_loop_is_stopped() {
        let with_hops = |hops| {
            let via = vec!["1.1 doorward"; hops].join(", ");
            parse(get("/").header("host", "a.test").header("via", "1.0 squid").header("via", via))
        };
        assert!(with_hops(MAX_HOPS - 1).is_ok());
        assert_eq!(with_hops(MAX_HOPS).err(), Some(BadRequest::Loop));
    }

    fn get(target: &str) -> request::Builder {
        Request::get(target)
    }

    /// HYP-07, HYP-08.
    #[test]
    fn exactly_one_host_is_required() {
        assert_eq!(parse(get("/")).err(), Some(BadRequest::HostMissing));
        let twice = get("/").header("host", "a.test").header("host", "a.test");
        assert_eq!(parse(twice).err(), Some(BadRequest::DuplicateHost));
        assert_eq!(
            parse(get("/").header("host", "A.test:8443")).expect("one").host.name(),
            "a.test"
        );
    }

    /// HYP-10, HYP-11.
    #[test]
    fn target_and_host_must_agree() {
        let other = get("https://evil.test/").header("host", "a.test");
        assert_eq!(parse(other).err(), Some(BadRequest::HostMismatch));
        let same = get("https://a.test/x").header("host", "a.test");
        assert_eq!(parse(same).expect("agree").target.path(), "/x");
    }

    /// HYP-13, HYP-15, HYP-26.
    #[test]
    fn userinfo_authority_form_and_other_schemes_are_rejected() {
        assert!(matches!(parse(get("https://u@a.test/")).err(), Some(BadRequest::Host(_))));
        assert_eq!(parse(get("foo").header("host", "a.test")).err(), Some(BadRequest::Scheme));
        assert_eq!(parse(get("http://a.test/")).err(), Some(BadRequest::Scheme));
    }

    /// HYP-02, HYP-03, HYP-04.
    #[test]
    fn transfer_encoding_must_be_one_chunked() {
        let post = || Request::post("/").header("host", "a.test");
        assert!(parse(post().header("transfer-encoding", "Chunked")).is_ok());
        for value in ["gzip, chunked", "chunked, chunked", "identity", ""] {
            let error = parse(post().header("transfer-encoding", value)).err();
            assert_eq!(error, Some(BadRequest::TransferEncoding), "{value}");
        }
        let two =
            post().header("transfer-encoding", "identity").header("transfer-encoding", "chunked");
        assert_eq!(parse(two).err(), Some(BadRequest::TransferEncoding));
    }

    /// HYP-23.
    #[test]
    fn connect_trace_and_unknown_expectations_are_rejected() {
        let method = |method| Request::builder().method(method).uri("/").header("host", "a.test");
        assert_eq!(parse(method("TRACE")).err(), Some(BadRequest::Method));
        assert_eq!(parse(method("GET").header("expect", "foo")).err(), Some(BadRequest::Expect));
        assert_eq!(BadRequest::Expect.status(), StatusCode::EXPECTATION_FAILED);
    }

    #[test]
    fn a_websocket_handshake_must_be_complete() {
        let handshake = || {
            get("/")
                .header("host", "a.test")
                .header("upgrade", "WebSocket")
                .header("connection", "keep-alive, Upgrade")
        };
        let key = "dGhlIHNhbXBsZSBub25jZQ==";
        let whole =
            handshake().header("sec-websocket-version", "13").header("sec-websocket-key", key);
        assert!(parse(whole).expect("complete").websocket);
        assert_eq!(parse(handshake()).err(), Some(BadRequest::WebSocket));
        let old = handshake().header("sec-websocket-version", "8").header("sec-websocket-key", key);
        assert_eq!(parse(old).err(), Some(BadRequest::WebSocket));
        let short =
            handshake().header("sec-websocket-version", "13").header("sec-websocket-key", "eA==");
        assert_eq!(parse(short).err(), Some(BadRequest::WebSocket));
        let h2c = get("/").header("host", "a.test").header("upgrade", "h2c");
        assert!(!parse(h2c).expect("stripped later").websocket);
    }
}
