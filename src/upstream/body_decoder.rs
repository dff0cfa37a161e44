//! Decoder for the body of an HTTP/1.1 response: finds the body's bytes and its end. Pure: no
//! socket.

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http_body::SizeHint;
use httparse::{EMPTY_HEADER, Status};

use super::error::UpstreamError;
use super::response_head::{self, Framing, protocol_error};

/// Maximum length of a chunk-size line in bytes.
const MAX_SIZE_LINE: usize = 4 * 1024;

/// Maximum total size of chunk extensions in one body, in bytes. They are discarded.
const MAX_EXTENSIONS: usize = 16 * 1024;

/// Maximum size of the trailers in bytes.
const MAX_TRAILERS: usize = 16 * 1024;

/// Maximum number of trailers.
const MAX_TRAILER_FIELDS: usize = 100;

/// Data shorter than this is copied, so that the connection's buffer stays in place.
const COPY_THRESHOLD: usize = 8 * 1024;

/// Decoder state for one body.
#[derive(Debug)]
pub(super) struct BodyDecoder {
    state: DecoderState,
    extensions: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DecoderState {
    Length(u64),
    ChunkSize,
    Chunk(u64),
    ChunkEnd,
    Trailers,
    UntilClose,
    Done,
}

/// The next decoded part of a body.
#[derive(Debug)]
pub(super) enum Decoded {
    Data(Bytes),
    Trailers(HeaderMap),
    /// The body is complete.
    End,
    /// More bytes are needed.
    NeedMore,
}

impl BodyDecoder {
    pub(super) fn new(framing: Framing) -> BodyDecoder {
        let state = match framing {
            Framing::Length(0) => DecoderState::Done,
            Framing::Length(length) => DecoderState::Length(length),
            Framing::Chunked => DecoderState::ChunkSize,
            Framing::UntilClose => DecoderState::UntilClose,
        };
        BodyDecoder { state, extensions: 0 }
    }

    pub(super) fn is_complete(&self) -> bool {
        self.state == DecoderState::Done
    }

    /// Whether the body ends when the connection closes.
    pub(super) fn ends_with_connection(&self) -> bool {
        self.state == DecoderState::UntilClose
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match self.state {
            DecoderState::Length(left) => SizeHint::with_exact(left),
            DecoderState::Done => SizeHint::with_exact(0),
            DecoderState::ChunkSize
            | DecoderState::Chunk(_)
            | DecoderState::ChunkEnd
            | DecoderState::Trailers
            | DecoderState::UntilClose => SizeHint::default(),
        }
    }

    /// Decodes the next part from `buffer`.
    pub(super) fn next(&mut self, buffer: &mut BytesMut) -> Result<Decoded, UpstreamError> {
        loop {
            match self.state {
                DecoderState::Done => return Ok(Decoded::End),
                DecoderState::UntilClose => {
                    return Ok(take_data(buffer, u64::MAX).map_or(Decoded::NeedMore, Decoded::Data));
                }
                DecoderState::Length(left) => {
                    let Some(data) = take_data(buffer, left) else { return Ok(Decoded::NeedMore) };
                    let left = left.saturating_sub(byte_count(&data));
                    self.state =
                        if left == 0 { DecoderState::Done } else { DecoderState::Length(left) };
                    return Ok(Decoded::Data(data));
                }
                DecoderState::Chunk(left) => {
                    let Some(data) = take_data(buffer, left) else { return Ok(Decoded::NeedMore) };
                    let left = left.saturating_sub(byte_count(&data));
                    self.state =
                        if left == 0 { DecoderState::ChunkEnd } else { DecoderState::Chunk(left) };
                    return Ok(Decoded::Data(data));
                }
                DecoderState::ChunkSize => {
                    let Some(size) = self.chunk_size(buffer)? else { return Ok(Decoded::NeedMore) };
                    self.state =
                        if size == 0 { DecoderState::Trailers } else { DecoderState::Chunk(size) };
                }
                DecoderState::ChunkEnd => match buffer.first_chunk() {
                    Some(b"\r\n") => {
                        buffer.advance(2);
                        self.state = DecoderState::ChunkSize;
                    }
                    Some(_) => return Err(protocol_error("a chunk longer than its declared size")),
                    None => return Ok(Decoded::NeedMore),
                },
                DecoderState::Trailers => return self.trailers(buffer),
            }
        }
    }

    /// Parses a chunk-size line and discards its extensions (RFC 9112 7.1).
    fn chunk_size(&mut self, buffer: &mut BytesMut) -> Result<Option<u64>, UpstreamError> {
        let line = buffer.get(..buffer.len().min(MAX_SIZE_LINE)).unwrap_or_default();
        let Some(end) = line.iter().position(|byte| *byte == b'\n') else {
            return if line.len() < MAX_SIZE_LINE {
                Ok(None)
            } else {
                Err(protocol_error("a chunk size line that is too long"))
            };
        };
        let (size, extension) =
            line.get(..end).and_then(parse_chunk_size).ok_or_else(invalid_chunk_size)?;
        self.extensions += extension;
        if self.extensions > MAX_EXTENSIONS {
            return Err(protocol_error("too many chunk extensions"));
        }
        buffer.advance(end + 1);
        Ok(Some(size))
    }

    fn trailers(&mut self, buffer: &mut BytesMut) -> Result<Decoded, UpstreamError> {
        if buffer.starts_with(b"\r\n") {
            buffer.advance(2);
            self.state = DecoderState::Done;
            return Ok(Decoded::End);
        }
        let mut headers = [EMPTY_HEADER; MAX_TRAILER_FIELDS];
        let parsed = httparse::parse_headers(buffer, &mut headers);
        let (length, headers) = match parsed.map_err(|error| protocol_error(&error.to_string()))? {
            Status::Complete((length, headers)) => (length, response_head::to_header_map(headers)?),
            Status::Partial if buffer.len() < MAX_TRAILERS => return Ok(Decoded::NeedMore),
            Status::Partial => return Err(protocol_error("the trailers are too long")),
        };
        if buffer.get(..length).is_none_or(has_bare_line_feed) {
            return Err(protocol_error("a trailer line that does not end in CRLF"));
        }
        buffer.advance(length);
        self.state = DecoderState::Done;
        Ok(Decoded::Trailers(headers))
    }
}

/// Returns the chunk size and the length of the extensions in bytes.
fn parse_chunk_size(line: &[u8]) -> Option<(u64, usize)> {
    let line = line.strip_suffix(b"\r")?;
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (digits, rest) = line.split_at(digits);
    let is_number = (1..=16).contains(&digits.len());
    let is_extension = rest.trim_ascii_start().first().is_none_or(|first| *first == b';');
    if !is_number || !is_extension || rest.contains(&b'\r') {
        return None;
    }
    let size = u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    Some((size, rest.len()))
}

/// `httparse` accepts a bare LF as the end of a line; the next parser may not (RFC 9112 2.2).
fn has_bare_line_feed(lines: &[u8]) -> bool {
    let before = std::iter::once(&b'\n').chain(lines);
    before.zip(lines).any(|(before, byte)| *byte == b'\n' && *before != b'\r')
}

fn invalid_chunk_size() -> UpstreamError {
    protocol_error("an invalid chunk size")
}

/// Removes up to `max` bytes; `None` if the buffer is empty.
fn take_data(buffer: &mut BytesMut, max: u64) -> Option<Bytes> {
    let available = buffer.len().min(usize::try_from(max).unwrap_or(usize::MAX));
    if available == 0 {
        return None;
    }
    if available >= COPY_THRESHOLD {
        return Some(buffer.split_to(available).freeze());
    }
    let data = Bytes::copy_from_slice(buffer.get(..available).unwrap_or_default());
    buffer.advance(available);
    Some(data)
}

fn byte_count(data: &Bytes) -> u64 {
    u64::try_from(data.len()).unwrap_or(u64::MAX)
}
