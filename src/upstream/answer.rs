//! The head of an HTTP/1.1 answer, and what it says of the body behind it. Bytes in, meaning out: no
//! socket, no clock.
//!
//! At least as strict as the HTTP library's own client, whose parser of heads this is (`httparse`); a
//! test and a fuzz target hold the two against each other. Stricter where two readers could frame one
//! answer in two ways: both a length and a transfer coding, codings other than `chunked`.

use bytes::{Buf, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode, Version};
use httparse::{Header, ParserConfig, Status};
use hyper::ext::ReasonPhrase;

use super::error::UpstreamError;

/// The most bytes of a head.
pub(super) const LONGEST: usize = 64 * 1024;

/// The most fields of a head, or of trailers.
const FIELDS: usize = 100;

/// The most interim answers (1xx) before the one that counts.
const INTERIM: usize = 16;

/// Where the body ends (RFC 9112 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Length(u64),
    Chunked,
    /// With the connection.
    Close,
}

/// A head, and what follows from it.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) response: Response<()>,
    pub(super) framing: Framing,
    /// Whether the connection may carry another exchange, should the body end well.
    pub(super) persists: bool,
}

/// Reads the answers to one request.
#[derive(Debug)]
pub(super) struct AnswerReader {
    /// Whether it was HEAD, whose answers have no body.
    head: bool,
    interim: usize,
    /// Bytes in which no head ended.
    seen: usize,
}

impl AnswerReader {
    pub(super) fn new(head: bool) -> AnswerReader {
        AnswerReader { head, interim: 0, seen: 0 }
    }

    /// Takes the answer's head out of `buffer`, and the interim ones before it; `None` while it is not
    /// whole.
    pub(super) fn read(&mut self, buffer: &mut BytesMut) -> Result<Option<Answer>, UpstreamError> {
        loop {
            // What is no HTTP is told at once. Later a head is read when it may be whole: one that comes
            // in drops is not read from its beginning with each.
            let may_be_whole = self.seen == 0 || ends_within(buffer, self.seen);
            let read = if may_be_whole { self.head(buffer)? } else { None };
            let Some((answer, length)) = read else {
                self.seen = buffer.len();
                return match buffer.len() {
                    0..LONGEST => Ok(None),
                    LONGEST.. => Err(wrong("the head of its answer is too long")),
                };
            };
            buffer.advance(length);
            self.seen = 0;
            match answer.response.status() {
                StatusCode::SWITCHING_PROTOCOLS => {
                    return Err(wrong("101 without a request for it"));
                }
                status if status.is_informational() && self.interim < INTERIM => self.interim += 1,
                status if status.is_informational() => {
                    return Err(wrong("too many interim answers"));
                }
                _ => return Ok(Some(answer)),
            }
        }
    }

    fn head(&self, bytes: &[u8]) -> Result<Option<(Answer, usize)>, UpstreamError> {
        let mut fields = [const { std::mem::MaybeUninit::uninit() }; FIELDS];
        let mut parsed = httparse::Response::new(&mut []);
        let config = ParserConfig::default();
        let status = config.parse_response_with_uninit_headers(&mut parsed, bytes, &mut fields);
        let length = match status.map_err(|error| wrong(&error.to_string()))? {
            Status::Complete(length) => length,
            Status::Partial => return Ok(None),
        };
        let code = parsed.code.and_then(|code| StatusCode::from_u16(code).ok());
        let status = code.ok_or_else(|| wrong("its answer has no status"))?;
        let mut response = Response::new(());
        *response.status_mut() = status;
        if parsed.version != Some(1) {
            *response.version_mut() = Version::HTTP_10;
        }
        keep_reason(&mut response, parsed.reason);
        *response.headers_mut() = self::fields(parsed.headers)?;
        let framing = framing(self.head, &mut response)?;
        let persists = framing != Framing::Close && persists(&response);
        Ok(Some((Answer { response, framing, persists }, length)))
    }
}

/// Where the body of an answer ends, `head` being whether HEAD was asked. Also for answers that the HTTP
/// library read, which chooses where two readers could differ: what it passed on would be framed anew by
/// the other choice, or be coded in a way that nobody is told of.
pub(super) fn framing<B>(head: bool, response: &mut Response<B>) -> Result<Framing, UpstreamError> {
    let status = response.status();
    if status.is_informational() {
        return Ok(Framing::Length(0));
    }
    let is_http_10 = response.version() == Version::HTTP_10;
    let headers = response.headers_mut();
    // Who asks by HEAD how long an answer is may believe it.
    let length = length(headers)?;
    if head || [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&status) {
        return Ok(Framing::Length(0));
    }
    match (headers.contains_key(header::TRANSFER_ENCODING), length) {
        (true, Some(_)) => Err(wrong("both Content-Length and Transfer-Encoding")),
        (true, None) if is_http_10 => Err(wrong("Transfer-Encoding in HTTP/1.0")),
        (true, None) if is_chunked(headers) => Ok(Framing::Chunked),
        (true, None) => Err(wrong("a Transfer-Encoding other than chunked")),
        (false, Some(length)) => Ok(Framing::Length(length)),
        (false, None) => Ok(Framing::Close),
    }
}

/// Whether an empty line stands in what came after the first `seen` bytes, or a little before.
fn ends_within(buffer: &[u8], seen: usize) -> bool {
    let news = buffer.get(seen.saturating_sub(2)..).unwrap_or_default();
    news.windows(2).any(|two| two == b"\n\n") || news.windows(3).any(|three| three == b"\n\r\n")
}

/// Copies them: a field that lived in the connection's buffer would keep all of it.
pub(super) fn fields(parsed: &[Header<'_>]) -> Result<HeaderMap, UpstreamError> {
    let mut fields = HeaderMap::with_capacity(parsed.len());
    for field in parsed {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let value = HeaderValue::from_bytes(field.value);
        let (Ok(name), Ok(value)) = (name, value) else {
            return Err(wrong("a field that cannot be"));
        };
        fields.append(name, value);
    }
    Ok(fields)
}

/// A reason of its own is passed on, where the client's protocol has room for it.
fn keep_reason(response: &mut Response<()>, reason: Option<&str>) {
    let usual = response.status().canonical_reason();
    if let Some(reason) = reason.filter(|reason| Some(*reason) != usual)
        && let Ok(reason) = ReasonPhrase::try_from(reason.as_bytes())
    {
        response.extensions_mut().insert(reason);
    }
}

/// The length that all lines agree on, which becomes the only one (RFC 9110 8.6).
fn length(headers: &mut HeaderMap) -> Result<Option<u64>, UpstreamError> {
    let mut agreed = None;
    let mut said = 0;
    for line in headers.get_all(header::CONTENT_LENGTH) {
        for text in line.as_bytes().split(|byte| *byte == b',') {
            let length = number(text.trim_ascii());
            if length.is_none() || (said > 0 && length != agreed) {
                return Err(wrong("a Content-Length that is no number, or several"));
            }
            agreed = length;
            said += 1;
        }
    }
    if let Some(length) = agreed.filter(|_| said > 1) {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(agreed)
}

fn number(text: &[u8]) -> Option<u64> {
    let is_plain = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let number = std::str::from_utf8(text).ok().filter(|_| is_plain)?.parse().ok()?;
    // As the HTTP library: the last two numbers mean other things to it.
    (number < u64::MAX - 1).then_some(number)
}

fn is_chunked(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(header::TRANSFER_ENCODING).iter();
    let only = (lines.next(), lines.next());
    matches!(only, (Some(line), None) if line.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"))
}

/// RFC 9112 9.3. A `close` on any line stands.
fn persists(response: &Response<()>) -> bool {
    let says = |option: &[u8]| {
        let lines = response.headers().get_all(header::CONNECTION).iter();
        let mut options = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
        options.any(|said| said.trim_ascii().eq_ignore_ascii_case(option))
    };
    !says(b"close") && (response.version() == Version::HTTP_11 || says(b"keep-alive"))
}

pub(super) fn wrong(what: &str) -> UpstreamError {
    UpstreamError::Protocol(what.to_owned())
}
