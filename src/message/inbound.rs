//! What a client sent, checked before anything is decided on it.
//!
//! hyper refuses much and lets much through; what it lets through is refused here, by the clauses of
//! RFC 9110, 9112 and 9113. Framing is never passed on: hyper makes ours anew.

use std::net::IpAddr;

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, StatusCode, Uri, Version, request};

use super::forwarded::ChainError;
use super::host::{Host, HostError};
use super::intent::{Asker, Intent};
use super::readings::{Doubt, Readings};
use super::request_id::RequestId;
use super::target::{Target, TargetError};
use crate::session::Fingerprint;

/// A request's head, unambiguous. Its fields may still say anything.
#[derive(Debug)]
pub struct InboundHead {
    pub method: Method,
    pub version: Version,
    pub host: Host,
    pub target: Target,
    pub headers: HeaderMap,
    pub client: IpAddr,
    /// Of the client's TLS handshake, where it was looked at.
    pub fingerprint: Option<Fingerprint>,
    pub asker: Asker,
    /// A complete and correct WebSocket handshake.
    pub websocket: bool,
}

/// A request that two programs could read in two ways, or that no gateway serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    #[error("the request has too many fields")]
    TooManyFields,
    #[error("{0}")]
    Chain(#[from] ChainError),
    #[error("the request has no Host")]
    HostMissing,
    #[error("the request has several Host fields")]
    HostTwice,
    #[error("the Host field: {0}")]
    Host(#[from] HostError),
    #[error("the Host field and the request target name different hosts")]
    HostMismatch,
    #[error("{0}")]
    Target(#[from] TargetError),
    #[error("the request target names another scheme than https")]
    Scheme,
    #[error("CONNECT and TRACE are not served")]
    Method,
    #[error("Transfer-Encoding is anything but one `chunked`")]
    TransferEncoding,
    #[error("Expect is anything but 100-continue")]
    Expect,
    #[error("the WebSocket handshake is incomplete")]
    WebSocket,
    #[error("the request came round in a circle: an upstream of this gateway sends it back here")]
    Loop,
}

/// How often a request may have come through a gateway of this kind (several may stand in a row).
const ROUNDS: usize = 8;

/// As [`Via`](header::VIA) calls us.
pub const PSEUDONYM: &str = "doorward";

/// What a request is beside its head.
#[derive(Clone, Debug)]
pub struct Arrival {
    pub client: IpAddr,
    /// Of the connection's TLS handshake, where it is the client's own and was looked at.
    pub fingerprint: Option<Fingerprint>,
    pub request: RequestId,
}

impl BadRequest {
    /// The answer's status.
    pub fn status(self) -> StatusCode {
        match self {
            BadRequest::Method => StatusCode::METHOD_NOT_ALLOWED,
            BadRequest::Expect => StatusCode::EXPECTATION_FAILED,
            // RFC 9209 2.3.27.
            BadRequest::Loop => StatusCode::BAD_GATEWAY,
            // RFC 6585 5.
            BadRequest::TooManyFields => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            BadRequest::Chain(_)
            | BadRequest::HostMissing
            | BadRequest::HostTwice
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
    /// Checks a head that came over TLS. Paths in doubt are refused.
    pub fn read(parts: request::Parts, arrival: Arrival) -> Result<InboundHead, BadRequest> {
        InboundHead::judged(parts, arrival, |_, readings| match readings.doubt {
            Doubt::Mark => true,
            Doubt::Shape => false,
        })
    }

    /// As [`InboundHead::read`], where `harmless` may say of a host that all readings of a path in doubt
    /// lead to one place.
    pub fn judged(
        parts: request::Parts,
        arrival: Arrival,
        harmless: impl Fn(&Host, &Readings) -> bool,
    ) -> Result<InboundHead, BadRequest> {
        let request::Parts { method, uri, version, headers, .. } = parts;
        if method == Method::CONNECT || method == Method::TRACE {
            return Err(BadRequest::Method);
        }
        check_scheme(&uri)?;
        check_fields(&headers)?;
        let host = host_of(&uri, &headers)?;
        let websocket = websocket(&method, version, &headers)?;
        check_rounds(&headers)?;
        let intent = Intent::of(&method, &headers);
        let target = target_of(&method, uri, |readings| harmless(&host, readings))?;
        let Arrival { client, fingerprint, request } = arrival;
        let asker = Asker { intent, request };
        Ok(InboundHead {
            method,
            version,
            host,
            target,
            headers,
            client,
            fingerprint,
            asker,
            websocket,
        })
    }

    /// Whether no gateway may pass it on (RFC 9110 7.6.2).
    pub fn is_at_its_end(&self) -> bool {
        self.method == Method::OPTIONS && forwards_left(&self.headers) == Some(0)
    }
}

/// How many gateways may still pass it on: digits, as many as there are (RFC 9110 7.6.2).
pub(super) fn forwards_left(headers: &HeaderMap) -> Option<u64> {
    let left = headers.get(header::MAX_FORWARDS)?.to_str().ok()?.trim();
    let is_number = !left.is_empty() && left.bytes().all(|byte| byte.is_ascii_digit());
    // More than can be counted is no less.
    is_number.then(|| left.parse().unwrap_or(u64::MAX))
}

/// An absolute target must say the scheme of the transport (RFC 9113 8.3.1); an authority without a
/// scheme is the target form of CONNECT alone.
fn check_scheme(uri: &Uri) -> Result<(), BadRequest> {
    match (uri.scheme_str(), uri.authority()) {
        (Some("https"), _) | (None, None) => Ok(()),
        (Some(_), _) | (None, Some(_)) => Err(BadRequest::Scheme),
    }
}

fn check_fields(headers: &HeaderMap) -> Result<(), BadRequest> {
    let coding =
        only(headers, &header::TRANSFER_ENCODING).map_err(|_| BadRequest::TransferEncoding)?;
    if coding.is_some_and(|value| !value.as_bytes().eq_ignore_ascii_case(b"chunked")) {
        return Err(BadRequest::TransferEncoding);
    }
    let expect = only(headers, &header::EXPECT).map_err(|_| BadRequest::Expect)?;
    if expect.is_some_and(|value| !value.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        return Err(BadRequest::Expect);
    }
    Ok(())
}

/// RFC 9112 3.2: exactly one Host; 3.2.2: an absolute target must agree with it.
fn host_of(uri: &Uri, headers: &HeaderMap) -> Result<Host, BadRequest> {
    let field = only(headers, &header::HOST).map_err(|_| BadRequest::HostTwice)?;
    let field = field.map(|value| value.to_str().map_err(|_| HostError::Character)).transpose()?;
    let field = field.map(Host::parse).transpose()?;
    let target = uri.authority().map(|authority| Host::parse(authority.as_str())).transpose()?;
    match (field, target) {
        (Some(field), Some(target)) if field != target => Err(BadRequest::HostMismatch),
        (_, Some(host)) | (Some(host), None) => Ok(host),
        (None, None) => Err(BadRequest::HostMissing),
    }
}

/// A public route whose upstream is this gateway would go round until nothing is left.
fn check_rounds(headers: &HeaderMap) -> Result<(), BadRequest> {
    let lines = headers.get_all(header::VIA).into_iter();
    let ours = lines
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .filter(|hop| hop.trim_ascii().ends_with(PSEUDONYM.as_bytes()));
    if ours.count() < ROUNDS { Ok(()) } else { Err(BadRequest::Loop) }
}

fn target_of(
    method: &Method,
    uri: Uri,
    harmless: impl Fn(&Readings) -> bool,
) -> Result<Target, BadRequest> {
    let path = uri.into_parts().path_and_query.ok_or(TargetError::NotAPath)?;
    if path.as_str() == "*" && *method == Method::OPTIONS {
        return Err(BadRequest::Target(TargetError::NotAPath));
    }
    Ok(Target::judged(path, harmless)?)
}

/// RFC 6455 4.2.1. A half-made handshake is refused: it is how tunnels are smuggled.
fn websocket(method: &Method, version: Version, headers: &HeaderMap) -> Result<bool, BadRequest> {
    let asks = headers
        .get(header::UPGRADE)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    if !asks || version == Version::HTTP_2 {
        return Ok(false);
    }
    let complete = *method == Method::GET
        && version == Version::HTTP_11
        && names_upgrade(headers)
        && headers.get(header::SEC_WEBSOCKET_VERSION).is_some_and(|value| value == "13")
        && matches!(only(headers, &header::SEC_WEBSOCKET_KEY), Ok(Some(key)) if is_key(key))
        && !headers.contains_key(header::TRANSFER_ENCODING)
        && headers.get(header::CONTENT_LENGTH).is_none_or(|value| value == "0");
    if complete { Ok(true) } else { Err(BadRequest::WebSocket) }
}

fn names_upgrade(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(header::CONNECTION).into_iter();
    let mut tokens = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    tokens.any(|token| token.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
}

fn is_key(key: &HeaderValue) -> bool {
    data_encoding::BASE64.decode(key.as_bytes()).is_ok_and(|bytes| bytes.len() == 16)
}

struct Several;

fn only<'a>(
    headers: &'a HeaderMap,
    name: &header::HeaderName,
) -> Result<Option<&'a HeaderValue>, Several> {
    let mut values = headers.get_all(name).into_iter();
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        (_, Some(_)) => Err(Several),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn read(build: request::Builder) -> Result<InboundHead, BadRequest> {
        let (parts, ()) = build.body(()).expect("a request").into_parts();
        InboundHead::read(parts, arrival())
    }

    fn arrival() -> Arrival {
        let (client, request) = (IpAddr::from([127, 0, 0, 1]), RequestId::from(1));
        Arrival { client, fingerprint: None, request }
    }

    #[test]
    fn rfc_9209_2_3_27_a_request_that_goes_round_is_stopped() {
        let came = |rounds| {
            let via = vec!["1.1 doorward"; rounds].join(", ");
            read(get("/").header("host", "a.test").header("via", "1.0 squid").header("via", via))
        };
        assert!(came(ROUNDS - 1).is_ok());
        assert_eq!(came(ROUNDS).err(), Some(BadRequest::Loop));
    }

    fn get(target: &str) -> request::Builder {
        Request::get(target)
    }

    #[test]
    fn hyp_07_hyp_08_exactly_one_host() {
        assert_eq!(read(get("/")).err(), Some(BadRequest::HostMissing));
        let twice = get("/").header("host", "a.test").header("host", "a.test");
        assert_eq!(read(twice).err(), Some(BadRequest::HostTwice));
        assert_eq!(
            read(get("/").header("host", "A.test:8443")).expect("one").host.name(),
            "a.test"
        );
    }

    #[test]
    fn hyp_10_hyp_11_target_and_host_agree() {
        let other = get("https://evil.test/").header("host", "a.test");
        assert_eq!(read(other).err(), Some(BadRequest::HostMismatch));
        let same = get("https://a.test/x").header("host", "a.test");
        assert_eq!(read(same).expect("agree").target.path(), "/x");
    }

    #[test]
    fn hyp_13_hyp_15_hyp_26_userinfo_authority_form_and_other_schemes() {
        assert!(matches!(read(get("https://u@a.test/")).err(), Some(BadRequest::Host(_))));
        assert_eq!(read(get("foo").header("host", "a.test")).err(), Some(BadRequest::Scheme));
        assert_eq!(read(get("http://a.test/")).err(), Some(BadRequest::Scheme));
    }

    #[test]
    fn hyp_02_03_04_transfer_encoding_is_one_chunked() {
        let post = || Request::post("/").header("host", "a.test");
        assert!(read(post().header("transfer-encoding", "Chunked")).is_ok());
        for value in ["gzip, chunked", "chunked, chunked", "identity", ""] {
            let error = read(post().header("transfer-encoding", value)).err();
            assert_eq!(error, Some(BadRequest::TransferEncoding), "{value}");
        }
        let two =
            post().header("transfer-encoding", "identity").header("transfer-encoding", "chunked");
        assert_eq!(read(two).err(), Some(BadRequest::TransferEncoding));
    }

    #[test]
    fn hyp_23_connect_trace_and_unknown_expectations() {
        let method = |method| Request::builder().method(method).uri("/").header("host", "a.test");
        assert_eq!(read(method("TRACE")).err(), Some(BadRequest::Method));
        assert_eq!(read(method("GET").header("expect", "foo")).err(), Some(BadRequest::Expect));
        assert_eq!(BadRequest::Expect.status(), StatusCode::EXPECTATION_FAILED);
    }

    #[test]
    fn a_websocket_handshake_is_complete_or_refused() {
        let handshake = || {
            get("/")
                .header("host", "a.test")
                .header("upgrade", "WebSocket")
                .header("connection", "keep-alive, Upgrade")
        };
        let key = "dGhlIHNhbXBsZSBub25jZQ==";
        let whole =
            handshake().header("sec-websocket-version", "13").header("sec-websocket-key", key);
        assert!(read(whole).expect("complete").websocket);
        assert_eq!(read(handshake()).err(), Some(BadRequest::WebSocket));
        let old = handshake().header("sec-websocket-version", "8").header("sec-websocket-key", key);
        assert_eq!(read(old).err(), Some(BadRequest::WebSocket));
        let short =
            handshake().header("sec-websocket-version", "13").header("sec-websocket-key", "eA==");
        assert_eq!(read(short).err(), Some(BadRequest::WebSocket));
        let h2c = get("/").header("host", "a.test").header("upgrade", "h2c");
        assert!(!read(h2c).expect("stripped later").websocket);
    }
}
