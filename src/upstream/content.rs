//! The body of an HTTP/1.1 answer, found in the bytes that come: how much of them is its, and where it
//! ends. No socket here either.

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http_body::SizeHint;
use httparse::{EMPTY_HEADER, Status};

use super::answer::{self, Framing, wrong};
use super::error::UpstreamError;

/// The longest line that says a chunk's size.
const SIZE_LINE: usize = 4 * 1024;

/// All that chunk extensions of one body may take, which nobody reads.
const EXTENSIONS: usize = 16 * 1024;

/// The most bytes of trailers.
const TRAILERS: usize = 16 * 1024;

/// The most fields of trailers.
const FIELDS: usize = 100;

/// Data shorter than this is copied out of the connection's buffer, which then stays in its place.
const SHORT: usize = 8 * 1024;

/// What is left of a body.
#[derive(Debug)]
pub(super) struct Content {
    state: State,
    extensions: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Length(u64),
    ChunkSize,
    Chunk(u64),
    ChunkEnd,
    Trailers,
    Close,
    Done,
}

/// What the bytes at hand are.
#[derive(Debug)]
pub(super) enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
    /// The body is whole.
    End,
    /// Nothing without more bytes.
    More,
}

impl Content {
    pub(super) fn new(framing: Framing) -> Content {
        let state = match framing {
            Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::ChunkSize,
            Framing::Close => State::Close,
        };
        Content { state, extensions: 0 }
    }

    pub(super) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Whether the connection's end is the body's.
    pub(super) fn ends_with_connection(&self) -> bool {
        self.state == State::Close
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match self.state {
            State::Length(left) => SizeHint::with_exact(left),
            State::Done => SizeHint::with_exact(0),
            State::ChunkSize
            | State::Chunk(_)
            | State::ChunkEnd
            | State::Trailers
            | State::Close => SizeHint::default(),
        }
    }

    /// Takes the next piece out of `buffer`.
    pub(super) fn next(&mut self, buffer: &mut BytesMut) -> Result<Piece, UpstreamError> {
        loop {
            match self.state {
                State::Done => return Ok(Piece::End),
                State::Close => return Ok(data(buffer, u64::MAX).map_or(Piece::More, Piece::Data)),
                State::Length(left) => {
                    let Some(data) = data(buffer, left) else { return Ok(Piece::More) };
                    let left = left.saturating_sub(length(&data));
                    self.state = if left == 0 { State::Done } else { State::Length(left) };
                    return Ok(Piece::Data(data));
                }
                State::Chunk(left) => {
                    let Some(data) = data(buffer, left) else { return Ok(Piece::More) };
                    let left = left.saturating_sub(length(&data));
                    self.state = if left == 0 { State::ChunkEnd } else { State::Chunk(left) };
                    return Ok(Piece::Data(data));
                }
                State::ChunkSize => {
                    let Some(size) = self.size(buffer)? else { return Ok(Piece::More) };
                    self.state = if size == 0 { State::Trailers } else { State::Chunk(size) };
                }
                State::ChunkEnd => match buffer.first_chunk() {
                    Some(b"\r\n") => {
                        buffer.advance(2);
                        self.state = State::ChunkSize;
                    }
                    Some(_) => return Err(wrong("a chunk that is longer than it says")),
                    None => return Ok(Piece::More),
                },
                State::Trailers => return self.trailers(buffer),
            }
        }
    }

    /// A line of hexadecimal digits, and extensions that nobody reads (RFC 9112 7.1).
    fn size(&mut self, buffer: &mut BytesMut) -> Result<Option<u64>, UpstreamError> {
        let line = buffer.get(..buffer.len().min(SIZE_LINE)).unwrap_or_default();
        let Some(end) = line.iter().position(|byte| *byte == b'\n') else {
            return if line.len() < SIZE_LINE {
                Ok(None)
            } else {
                Err(wrong("an endless chunk size"))
            };
        };
        let (size, extension) = line.get(..end).and_then(size_line).ok_or_else(no_size)?;
        self.extensions += extension;
        if self.extensions > EXTENSIONS {
            return Err(wrong("too many chunk extensions"));
        }
        buffer.advance(end + 1);
        Ok(Some(size))
    }

    fn trailers(&mut self, buffer: &mut BytesMut) -> Result<Piece, UpstreamError> {
        if buffer.starts_with(b"\r\n") {
            buffer.advance(2);
            self.state = State::Done;
            return Ok(Piece::End);
        }
        let mut fields = [EMPTY_HEADER; FIELDS];
        let parsed = httparse::parse_headers(buffer, &mut fields);
        let (length, fields) = match parsed.map_err(|error| wrong(&error.to_string()))? {
            Status::Complete((length, fields)) => (length, answer::fields(fields)?),
            Status::Partial if buffer.len() < TRAILERS => return Ok(Piece::More),
            Status::Partial => return Err(wrong("the trailers of its answer are too long")),
        };
        if buffer.get(..length).is_none_or(has_bare_line_feed) {
            return Err(wrong("a line of trailers that ends in no CRLF"));
        }
        buffer.advance(length);
        self.state = State::Done;
        Ok(Piece::Trailers(fields))
    }
}

/// The size, and how many bytes of extension stand behind it.
fn size_line(line: &[u8]) -> Option<(u64, usize)> {
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

/// The parser lets it pass as an end of line; who reads after us may not (RFC 9112 2.2).
fn has_bare_line_feed(lines: &[u8]) -> bool {
    let before = std::iter::once(&b'\n').chain(lines);
    before.zip(lines).any(|(before, byte)| *byte == b'\n' && *before != b'\r')
}

fn no_size() -> UpstreamError {
    wrong("a chunk without a size")
}

/// At most `most` bytes of what is there; `None` where nothing is.
fn data(buffer: &mut BytesMut, most: u64) -> Option<Bytes> {
    let at_hand = buffer.len().min(usize::try_from(most).unwrap_or(usize::MAX));
    if at_hand == 0 {
        return None;
    }
    if at_hand >= SHORT {
        return Some(buffer.split_to(at_hand).freeze());
    }
    let data = Bytes::copy_from_slice(buffer.get(..at_hand).unwrap_or_default());
    buffer.advance(at_hand);
    Some(data)
}

fn length(data: &Bytes) -> u64 {
    u64::try_from(data.len()).unwrap_or(u64::MAX)
}
