//! Parser for the head of an HTTP/1.1 response, including the framing of its body. Pure: no socket,
//! no clock.
//!
//! It is at least as strict as hyper's client and uses the same head parser (`httparse`); a test
//! and a fuzz target compare the two. It is stricter where two parsers could frame one response
//! differently: both a length and a transfer coding, or codings other than `chunked`.

use std::mem::MaybeUninit;

use bytes::{Buf, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode, Version};
use httparse::{Header, ParserConfig, Status};
use hyper::ext::ReasonPhrase;

use super::error::UpstreamError;
use super::settings::HeadLimits;

/// Number of headers that are parsed without an allocation.
const COMMON_HEADERS: usize = 100;

/// Room for the headers that the gateway adds to a response. A map that grows hashes every name again.
const ADDED_HEADERS: usize = 4;

/// Maximum number of interim responses (1xx) before the final one. Each one extends the response
/// timeout: WebDAV servers send a 102 every 20 seconds while they copy.
const MAX_INTERIM: usize = 1_000;

/// End of the body (RFC 9112 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Length(u64),
    Chunked,
    /// The body ends when the connection closes.
    UntilClose,
}

/// A parsed head with its body framing.
#[derive(Debug)]
pub(super) struct ResponseHead {
    pub(super) response: Response<()>,
    pub(super) framing: Framing,
    /// Whether the connection may be reused once the body is complete.
    pub(super) keep_alive: bool,
}

/// A head and its length in bytes; `None` if it is incomplete.
type ParsedHead = Result<Option<(ResponseHead, usize)>, UpstreamError>;

/// What a response may look like, because of its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestKind {
    /// HEAD: the response has no body, whatever its length.
    Head,
    /// A request for an upgrade: a 101 is a final response.
    Upgrade,
    Other,
}

/// Reads the interim and final responses to one request.
#[derive(Debug)]
pub(super) struct ResponseHeadReader {
    request: RequestKind,
    limits: HeadLimits,
    interim: usize,
    /// Number of buffered bytes already scanned without finding the end of a head.
    scanned: usize,
}

impl ResponseHeadReader {
    pub(super) fn new(request: RequestKind, limits: HeadLimits) -> ResponseHeadReader {
        ResponseHeadReader { request, limits, interim: 0, scanned: 0 }
    }

    /// Removes the final response head from `buffer`, after any interim ones. Returns `None` while
    /// it is incomplete.
    pub(super) fn read(
        &mut self,
        buffer: &mut BytesMut,
    ) -> Result<Option<ResponseHead>, UpstreamError> {
        loop {
            // The first bytes are parsed at once, so that anything but HTTP is rejected early.
            // After that, the parser runs only when an end of head may be present: a head that
            // arrives byte by byte would otherwise be parsed from its start each time.
            let may_be_whole = self.scanned == 0 || contains_head_end(buffer, self.scanned);
            let read = if may_be_whole { self.parse_head(buffer)? } else { None };
            let Some((head, length)) = read else {
                self.scanned = buffer.len();
                return if buffer.len() < self.limits.bytes {
                    Ok(None)
                } else {
                    Err(too_long(self.limits))
                };
            };
            if length > self.limits.bytes {
                return Err(too_long(self.limits));
            }
            buffer.advance(length);
            self.scanned = 0;
            match head.response.status() {
                StatusCode::SWITCHING_PROTOCOLS if self.request == RequestKind::Upgrade => {
                    return Ok(Some(head));
                }
                StatusCode::SWITCHING_PROTOCOLS => {
                    return Err(protocol_error("101 without a request for it"));
                }
                status if status.is_informational() && self.interim < MAX_INTERIM => {
                    self.interim += 1
                }
                status if status.is_informational() => {
                    return Err(protocol_error("too many interim responses"));
                }
                _ => return Ok(Some(head)),
            }
        }
    }

    /// Number of interim responses so far.
    pub(super) fn interim(&self) -> usize {
        self.interim
    }

    fn parse_head(&self, bytes: &[u8]) -> ParsedHead {
        let mut headers = [const { MaybeUninit::uninit() }; COMMON_HEADERS];
        let few = headers.get_mut(..self.limits.headers.min(COMMON_HEADERS)).unwrap_or_default();
        match self.parse_into(few, bytes) {
            Err(httparse::Error::TooManyHeaders) if self.limits.headers > COMMON_HEADERS => {
                let mut many = Box::new_uninit_slice(self.limits.headers);
                self.parse_into(&mut many, bytes)
            }
            parsed => parsed,
        }
        .unwrap_or_else(|error| Err(self.parse_error(error)))
    }

    /// RFC 9112 5.1: a proxy removes whitespace between a name and its colon.
    fn parse_into<'b>(
        &self,
        headers: &mut [MaybeUninit<Header<'b>>],
        bytes: &'b [u8],
    ) -> Result<ParsedHead, httparse::Error> {
        let mut parsed = httparse::Response::new(&mut []);
        let mut config = ParserConfig::default();
        config.allow_spaces_after_header_name_in_responses(true);
        Ok(match config.parse_response_with_uninit_headers(&mut parsed, bytes, headers)? {
            Status::Complete(length) => {
                self.convert(&parsed, bytes).map(|head| Some((head, length)))
            }
            Status::Partial => Ok(None),
        })
    }

    fn convert(
        &self,
        parsed: &httparse::Response<'_, '_>,
        bytes: &[u8],
    ) -> Result<ResponseHead, UpstreamError> {
        if parsed.headers.iter().any(|header| is_padded_framing(header, bytes)) {
            return Err(protocol_error("whitespace between a framing header and its colon"));
        }
        let code = parsed.code.and_then(|code| StatusCode::from_u16(code).ok());
        let status = code.ok_or_else(|| protocol_error("the response has no status"))?;
        let mut response = Response::new(());
        *response.status_mut() = status;
        if parsed.version != Some(1) {
            *response.version_mut() = Version::HTTP_10;
        }
        set_reason(&mut response, parsed.reason);
        *response.headers_mut() = to_header_map(parsed.headers)?;
        let framing = framing(self.request == RequestKind::Head, &mut response)?;
        let keep_alive = framing != Framing::UntilClose && keep_alive(&response);
        Ok(ResponseHead { response, framing, keep_alive })
    }

    fn parse_error(&self, error: httparse::Error) -> UpstreamError {
        if error == httparse::Error::TooManyHeaders {
            too_many(self.limits)
        } else {
            protocol_error(&error.to_string())
        }
    }
}

impl HeadLimits {
    /// Checks a head that the HTTP/2 library parsed: its own limits are coarser.
    pub(super) fn check(self, headers: &HeaderMap) -> Result<(), UpstreamError> {
        const SEPARATORS: usize = 4;
        let size = |(name, value): (&HeaderName, &HeaderValue)| {
            name.as_str().len() + value.len() + SEPARATORS
        };
        if headers.len() > self.headers {
            Err(too_many(self))
        } else if headers.iter().map(size).sum::<usize>() > self.bytes {
            Err(too_long(self))
        } else {
            Ok(())
        }
    }
}

/// Names the setting that the operator can change.
fn too_long(limits: HeadLimits) -> UpstreamError {
    let text = "the response head is longer than limits.response_header_bytes";
    protocol_error(&format!("{text} ({})", limits.bytes))
}

/// Names the setting that the operator can change.
fn too_many(limits: HeadLimits) -> UpstreamError {
    let text = "the response has more headers than limits.response_headers";
    protocol_error(&format!("{text} ({})", limits.headers))
}

/// Whether whitespace follows the name of a framing header. Recipients disagree about whether such a
/// line counts.
fn is_padded_framing(header: &Header<'_>, bytes: &[u8]) -> bool {
    let is_framing = ["content-length", "transfer-encoding"]
        .iter()
        .any(|name| header.name.eq_ignore_ascii_case(name));
    let end = header.name.as_ptr() as usize + header.name.len() - bytes.as_ptr() as usize;
    is_framing && bytes.get(end) != Some(&b':')
}

/// Determines the body framing of a response to a request (`is_head`: to HEAD).
///
/// Also applied to responses over HTTP/2, whose length a client on HTTP/1.1 may trust.
pub(super) fn framing<B>(
    is_head: bool,
    response: &mut Response<B>,
) -> Result<Framing, UpstreamError> {
    let status = response.status();
    if status.is_informational() {
        return Ok(Framing::Length(0));
    }
    let is_http_10 = response.version() == Version::HTTP_10;
    let headers = response.headers_mut();
    // A client may trust the length in a response to HEAD.
    let length = content_length(headers)?;
    if is_head || [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&status) {
        return Ok(Framing::Length(0));
    }
    match (headers.contains_key(header::TRANSFER_ENCODING), length) {
        (true, Some(_)) => Err(protocol_error("both Content-Length and Transfer-Encoding")),
        (true, None) if is_http_10 => Err(protocol_error("Transfer-Encoding in HTTP/1.0")),
        (true, None) if is_chunked(headers) => Ok(Framing::Chunked),
        (true, None) => Err(protocol_error("a Transfer-Encoding other than chunked")),
        (false, Some(length)) => Ok(Framing::Length(length)),
        (false, None) => Ok(Framing::UntilClose),
    }
}

/// Whether an empty line ends within the bytes after `scanned`.
fn contains_head_end(buffer: &[u8], scanned: usize) -> bool {
    let unscanned = buffer.get(scanned.saturating_sub(2)..).unwrap_or_default();
    unscanned.windows(2).any(|two| two == b"\n\n")
        || unscanned.windows(3).any(|three| three == b"\n\r\n")
}

/// Copies the headers: a value that borrowed the connection's buffer would keep all of it alive.
pub(super) fn to_header_map(parsed: &[Header<'_>]) -> Result<HeaderMap, UpstreamError> {
    let mut headers = HeaderMap::with_capacity(parsed.len() + ADDED_HEADERS);
    for header in parsed {
        let name = HeaderName::from_bytes(header.name.as_bytes());
        let value = HeaderValue::from_bytes(header.value);
        let (Ok(name), Ok(value)) = (name, value) else {
            return Err(protocol_error("an invalid header"));
        };
        headers.append(name, value);
    }
    Ok(headers)
}

/// Forwards a non-standard reason phrase; clients on HTTP/1.1 receive it.
fn set_reason(response: &mut Response<()>, reason: Option<&str>) {
    let usual = response.status().canonical_reason();
    if let Some(reason) = reason.filter(|reason| Some(*reason) != usual)
        && let Ok(reason) = ReasonPhrase::try_from(reason.as_bytes())
    {
        response.extensions_mut().insert(reason);
    }
}

/// Returns the length if all `Content-Length` values agree, and reduces them to one header (RFC
/// 9110 8.6).
fn content_length(headers: &mut HeaderMap) -> Result<Option<u64>, UpstreamError> {
    let mut agreed = None;
    let mut count = 0;
    for line in headers.get_all(header::CONTENT_LENGTH) {
        for text in line.as_bytes().split(|byte| *byte == b',') {
            let length = parse_length(text.trim_ascii());
            if length.is_none() || (count > 0 && length != agreed) {
                return Err(protocol_error("an invalid or contradictory Content-Length"));
            }
            agreed = length;
            count += 1;
        }
    }
    if let Some(length) = agreed.filter(|_| count > 1) {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(agreed)
}

fn parse_length(text: &[u8]) -> Option<u64> {
    let is_plain = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let number = std::str::from_utf8(text).ok().filter(|_| is_plain)?.parse().ok()?;
    // hyper reserves the last two values for other purposes.
    (number < u64::MAX - 1).then_some(number)
}

fn is_chunked(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(header::TRANSFER_ENCODING).iter();
    let only = (lines.next(), lines.next());
    matches!(only, (Some(line), None) if line.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"))
}

/// RFC 9112 9.3: `close` in any `Connection` header wins.
fn keep_alive(response: &Response<()>) -> bool {
    let has_option = |option: &[u8]| {
        let lines = response.headers().get_all(header::CONNECTION).iter();
        let mut options = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
        options.any(|value| value.trim_ascii().eq_ignore_ascii_case(option))
    };
    !has_option(b"close") && (response.version() == Version::HTTP_11 || has_option(b"keep-alive"))
}

pub(super) fn protocol_error(what: &str) -> UpstreamError {
    UpstreamError::Protocol(what.to_owned())
}
