//! Finds the boundaries of WebSocket frames (RFC 6455 5.2). Pure; stores no payload.
//!
//! Invariant: `advance` gets every byte once and in order, in pieces of any size, and never fails. A false
//! length only moves the boundary out of reach.

/// Two fixed bytes, eight of extended length, four of masking key.
const HEADER_MAX: usize = 14;

/// Position within a stream of frames.
#[derive(Debug, Default)]
pub struct FrameScanner {
    header: [u8; HEADER_MAX],
    /// Bytes received of an incomplete header; zero between headers.
    header_len: usize,
    /// Payload bytes missing from the current frame.
    remaining: u64,
    /// Payload length of the first data frame since the last [`FrameScanner::take_data`].
    data_seen: Option<u64>,
    /// Whether a close frame has started. It is the last frame of a stream.
    closing: bool,
}

impl FrameScanner {
    /// Processes the next bytes of the stream.
    pub fn advance(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if self.remaining > 0 {
                bytes = self.skip_payload(bytes);
            } else {
                self.push_header_byte(*first);
                bytes = rest;
            }
        }
    }

    /// Whether a frame may be inserted at this position.
    pub fn at_boundary(&self) -> bool {
        self.header_len == 0 && self.remaining == 0 && !self.closing
    }

    /// Returns the payload length of the first data frame that started since the last call. Control frames do
    /// not count, as programs send them without a user.
    pub fn take_data(&mut self) -> Option<u64> {
        self.data_seen.take()
    }

    fn skip_payload<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let skipped = usize::try_from(self.remaining)
            .map_or(bytes.len(), |remaining| remaining.min(bytes.len()));
        self.remaining -= skipped as u64;
        &bytes[skipped..]
    }

    fn push_header_byte(&mut self, byte: u8) {
        self.header[self.header_len] = byte;
        self.header_len += 1;
        if self.header_len >= 2 && self.header_len == header_length(self.header[1]) {
            self.remaining = payload_length(&self.header);
            let opcode = self.header[0] & 0x0f;
            if opcode < 0x8 {
                self.data_seen.get_or_insert(self.remaining);
            }
            self.closing |= opcode == 0x8;
            self.header_len = 0;
        }
    }
}

fn header_length(second: u8) -> usize {
    let extended = match second & 0x7f {
        126 => 2,
        127 => 8,
        0..=125 | 128.. => 0,
    };
    let mask = if second & 0x80 == 0 { 0 } else { 4 };
    2 + extended + mask
}

fn payload_length(header: &[u8; HEADER_MAX]) -> u64 {
    let [_, second, a, b, c, d, e, f, g, h, ..] = *header;
    match second & 0x7f {
        126 => u64::from(u16::from_be_bytes([a, b])),
        127 => u64::from_be_bytes([a, b, c, d, e, f, g, h]),
        short => u64::from(short),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(opcode: u8, length: usize, masked: bool) -> Vec<u8> {
        let mask = u8::from(masked) << 7;
        let mut frame = vec![0x80 | opcode];
        match length {
            0..=125 => frame.push(mask | length as u8),
            126..=65_535 => {
                frame.push(mask | 126);
                frame.extend((length as u16).to_be_bytes());
            }
            _ => {
                frame.push(mask | 127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend(vec![0x88; length + if masked { 4 } else { 0 }]);
        frame
    }

    #[test]
    fn boundaries_are_found_for_any_length_and_split() {
        for length in [0, 1, 125, 126, 127, 65_535, 65_536, 70_000] {
            for masked in [false, true] {
                let complete = frame(1, length, masked);
                for split in [1, 2, 3, 5, 9, 13, complete.len() - 1]
                    .into_iter()
                    .filter(|split| *split < complete.len())
                {
                    let mut scanner = FrameScanner::default();
                    scanner.advance(&complete[..split]);
                    assert!(!scanner.at_boundary(), "{length} {masked} split at {split}");
                    scanner.advance(&complete[split..]);
                    assert!(scanner.at_boundary(), "{length} {masked} complete after {split}");
                }
            }
        }
    }

    #[test]
    fn several_frames_in_one_piece_are_scanned() {
        let mut scanner = FrameScanner::default();
        let stream = [frame(1, 3, false), frame(9, 0, false), frame(2, 300, false)].concat();
        scanner.advance(&stream);
        assert!(scanner.at_boundary());
        scanner.advance(&stream[..stream.len() - 1]);
        assert!(!scanner.at_boundary());
    }

    #[test]
    fn no_boundary_follows_a_close_frame() {
        let mut scanner = FrameScanner::default();
        scanner.advance(&frame(8, 2, false));
        assert!(!scanner.at_boundary());
    }

    #[test]
    fn only_data_frames_count_as_data() {
        let mut scanner = FrameScanner::default();
        scanner.advance(&[frame(9, 4, true), frame(10, 4, true), frame(8, 2, true)].concat());
        assert_eq!(scanner.take_data(), None);
        for opcode in [0, 1, 2] {
            scanner.advance(&frame(opcode, 3, true));
            assert_eq!((scanner.take_data(), scanner.take_data()), (Some(3), None), "{opcode}");
        }
    }

    #[test]
    fn a_maximal_length_never_panics() {
        let mut scanner = FrameScanner::default();
        scanner.advance(&[0x82, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        scanner.advance(&[0xff; 4096]);
        assert!(!scanner.at_boundary());
    }
}
