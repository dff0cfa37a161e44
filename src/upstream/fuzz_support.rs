//! Parses a response from byte chunks without a connection. Public only for the fuzz targets and
//! the corpus test.

use bytes::{BufMut, BytesMut};
use http::{HeaderMap, StatusCode};

use super::body_decoder::{BodyDecoder, Decoded};
use super::response_head::{RequestKind, ResponseHeadReader};
use super::settings::HeadLimits;

/// A complete response.
#[derive(Debug, PartialEq, Eq)]
pub struct ParsedResponse {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
    /// Whether the connection would be reused.
    pub is_reusable: bool,
}

/// Parses `bytes` in chunks of `size`, as if the connection closed after them. Returns `None` if
/// the response is incomplete or invalid. `is_head`: the request was HEAD.
pub fn parse_in_chunks(bytes: &[u8], size: usize, is_head: bool) -> Option<ParsedResponse> {
    let mut chunks = bytes.chunks(size.max(1));
    let mut buffer = BytesMut::new();
    let request = if is_head { RequestKind::Head } else { RequestKind::Other };
    let mut reader = ResponseHeadReader::new(request, HeadLimits::default());
    let head = loop {
        buffer.put_slice(chunks.next()?);
        if let Some(head) = reader.read(&mut buffer).ok()? {
            break head;
        }
    };
    let mut decoder = BodyDecoder::new(head.framing);
    let (mut body, mut trailers) = (Vec::new(), None);
    loop {
        match decoder.next(&mut buffer).ok()? {
            Decoded::Data(data) => body.extend_from_slice(&data),
            Decoded::Trailers(headers) => trailers = Some(headers),
            Decoded::End => break,
            Decoded::NeedMore => match chunks.next() {
                Some(chunk) => buffer.put_slice(chunk),
                None if decoder.ends_with_connection() => break,
                None => return None,
            },
        }
    }
    let is_reusable = head.keep_alive && buffer.is_empty() && chunks.next().is_none();
    let (parts, ()) = head.response.into_parts();
    Some(ParsedResponse {
        status: parts.status,
        headers: parts.headers,
        body,
        trailers,
        is_reusable,
    })
}
