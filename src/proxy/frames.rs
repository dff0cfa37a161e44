//! Where one WebSocket frame ends and the next begins (RFC 6455 5.2). Pure; holds no payload.
//!
//! Invariant: `advance` sees every byte once and in order, in pieces of any size, and never fails:
//! a length that an upstream invents only puts the boundary out of reach.

/// Two fixed bytes, eight of extended length, four of masking key.
const HEADER_MAX: usize = 14;

/// A place in a stream of frames.
#[derive(Debug, Default)]
pub struct Frames {
    header: [u8; HEADER_MAX],
    /// Header bytes seen of a frame whose header is not whole yet.
    have: usize,
    /// Payload bytes that the frame still owes.
    owed: u64,
    /// The header of a data frame was seen since [`Frames::take_data`] asked.
    data: bool,
    /// A close frame has begun: after it the stream says nothing more.
    closing: bool,
}

impl Frames {
    /// Takes note of the next bytes of the stream.
    pub fn advance(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if self.owed > 0 {
                bytes = self.skip_payload(bytes);
            } else {
                self.take_header(*first);
                bytes = rest;
            }
        }
    }

    /// Whether a frame of our own may be put in here.
    pub fn between(&self) -> bool {
        self.have == 0 && self.owed == 0 && !self.closing
    }

    /// Whether somebody said something since this was asked last: pings, pongs and closes are talk of
    /// programs.
    pub fn take_data(&mut self) -> bool {
        std::mem::take(&mut self.data)
    }

    fn skip_payload<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let here = usize::try_from(self.owed).map_or(bytes.len(), |owed| owed.min(bytes.len()));
        self.owed -= here as u64;
        &bytes[here..]
    }

    fn take_header(&mut self, byte: u8) {
        self.header[self.have] = byte;
        self.have += 1;
        if self.have >= 2 && self.have == header_length(self.header[1]) {
            self.owed = payload_length(&self.header);
            let opcode = self.header[0] & 0x0f;
            self.data |= opcode < 0x8;
            self.closing |= opcode == 0x8;
            self.have = 0;
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
    fn only_whole_frames_leave_room_whatever_their_length_and_however_they_are_cut() {
        for length in [0, 1, 125, 126, 127, 65_535, 65_536, 70_000] {
            for masked in [false, true] {
                let whole = frame(1, length, masked);
                for cut in [1, 2, 3, 5, 9, 13, whole.len() - 1]
                    .into_iter()
                    .filter(|cut| *cut < whole.len())
                {
                    let mut frames = Frames::default();
                    frames.advance(&whole[..cut]);
                    assert!(!frames.between(), "{length} {masked} cut at {cut}");
                    frames.advance(&whole[cut..]);
                    assert!(frames.between(), "{length} {masked} whole after {cut}");
                }
            }
        }
    }

    #[test]
    fn many_frames_in_one_piece_are_counted_to_the_last() {
        let mut frames = Frames::default();
        let stream = [frame(1, 3, false), frame(9, 0, false), frame(2, 300, false)].concat();
        frames.advance(&stream);
        assert!(frames.between());
        frames.advance(&stream[..stream.len() - 1]);
        assert!(!frames.between());
    }

    #[test]
    fn after_a_close_frame_there_is_no_room_for_another() {
        let mut frames = Frames::default();
        frames.advance(&frame(8, 2, false));
        assert!(!frames.between());
    }

    #[test]
    fn only_data_frames_are_talk() {
        let mut frames = Frames::default();
        frames.advance(&[frame(9, 4, true), frame(10, 4, true), frame(8, 2, true)].concat());
        assert!(!frames.take_data());
        for opcode in [0, 1, 2] {
            frames.advance(&frame(opcode, 3, true));
            assert!(frames.take_data() && !frames.take_data(), "opcode {opcode}");
        }
    }

    #[test]
    fn a_length_without_end_never_panics() {
        let mut frames = Frames::default();
        frames.advance(&[0x82, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        frames.advance(&[0xff; 4096]);
        assert!(!frames.between());
    }
}
