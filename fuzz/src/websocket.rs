//! WebSocket frame boundaries.

use doorward::proxy::frames::FrameScanner;

/// The frame boundaries do not depend on the chunking, so the gateway never inserts a frame into
/// another one. The first byte is the chunk size.
pub fn frames(bytes: &[u8]) {
    let Some((length, stream)) = bytes.split_first() else { return };
    let mut whole = FrameScanner::default();
    whole.advance(stream);
    let mut pieces = FrameScanner::default();
    for chunk in stream.chunks(usize::from(*length).max(1)) {
        pieces.advance(chunk);
    }
    assert_eq!(whole.at_boundary(), pieces.at_boundary(), "cut into pieces of {length}");
    assert_eq!(whole.at_boundary(), ends_between(stream), "read as a whole");
}

/// Whether the complete stream ends at a frame boundary (RFC 6455 5.2).
fn ends_between(mut stream: &[u8]) -> bool {
    let mut closed = false;
    while let [first, second, rest @ ..] = stream {
        let (extended, short) = match second & 0x7f {
            126 => (2, None),
            127 => (8, None),
            short => (0, Some(u64::from(short))),
        };
        let Some((digits, rest)) = rest.split_at_checked(extended) else { return false };
        let length = short.unwrap_or_else(|| {
            digits.iter().fold(0, |length, digit| length << 8 | u64::from(*digit))
        });
        let mask = if second & 0x80 == 0 { 0 } else { 4 };
        let Some(rest) = rest.get(mask..) else { return false };
        let Some(rest) = usize::try_from(length).ok().and_then(|length| rest.get(length..)) else {
            return false;
        };
        closed |= first & 0x0f == 8;
        stream = rest;
    }
    stream.is_empty() && !closed
}
