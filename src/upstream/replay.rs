//! An answer read from bytes that are given in pieces, without a connection. For fuzzing and the replay
//! of what it found; nothing else outside builds on it.

use bytes::{BufMut, BytesMut};
use http::{HeaderMap, StatusCode};

use super::answer::AnswerReader;
use super::content::{Content, Piece};

/// A whole answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Answered {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
    /// Whether its connection would be used again.
    pub is_clean: bool,
}

/// What `bytes` say in pieces of `size` when the connection ends behind them; `None` where it is no
/// whole answer. `head`: it answers HEAD.
pub fn read(bytes: &[u8], size: usize, head: bool) -> Option<Answered> {
    let mut pieces = bytes.chunks(size.max(1));
    let mut buffer = BytesMut::new();
    let mut reader = AnswerReader::new(head);
    let answer = loop {
        buffer.put_slice(pieces.next()?);
        if let Some(answer) = reader.read(&mut buffer).ok()? {
            break answer;
        }
    };
    let mut content = Content::new(answer.framing);
    let (mut body, mut trailers) = (Vec::new(), None);
    loop {
        match content.next(&mut buffer).ok()? {
            Piece::Data(data) => body.extend_from_slice(&data),
            Piece::Trailers(fields) => trailers = Some(fields),
            Piece::End => break,
            Piece::More => match pieces.next() {
                Some(piece) => buffer.put_slice(piece),
                None if content.ends_with_connection() => break,
                None => return None,
            },
        }
    }
    let is_clean = answer.persists && buffer.is_empty() && pieces.next().is_none();
    let (parts, ()) = answer.response.into_parts();
    Some(Answered { status: parts.status, headers: parts.headers, body, trailers, is_clean })
}
