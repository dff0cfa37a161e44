//! Measures replies in parallel to the client library, without buffering.
//!
//! It parses only the structure: the type of each element, its length or element count, and its
//! end.

use std::io;

/// Maximum bytes of one reply. The largest legitimate replies are below 3 MiB.
pub(super) const MAX_REPLY_BYTES: usize = 8 * 1024 * 1024;
/// Maximum elements of one reply; each costs memory. The largest legitimate reply is a hash with
/// 10,000 entries.
pub(super) const MAX_REPLY_ELEMENTS: usize = 64 * 1024;
/// Maximum bytes of a line. The library rescans a partial line at every read.
const MAX_LINE_BYTES: usize = 64 * 1024;
const MAX_LENGTH_DIGITS: usize = 20;
/// Maximum nesting depth.
const MAX_DEPTH: usize = 8;
/// Length of the line terminator, which also follows a string.
const CRLF_BYTES: usize = 2;

/// Error for a reply that is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ReplyLimitError {
    #[error(
        "a reply of more than {MAX_REPLY_BYTES} bytes or {MAX_REPLY_ELEMENTS} elements, which doorward never wrote"
    )]
    TooLarge,
    #[error("a reply that violates the Redis protocol")]
    Malformed,
}

impl From<ReplyLimitError> for io::Error {
    fn from(error: ReplyLimitError) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }
}

/// Parser state of one connection.
#[derive(Debug, Default)]
pub(super) struct ReplyMeter {
    state: ParseState,
    /// Missing elements of the open aggregates, outermost first.
    open: Vec<usize>,
    bytes: usize,
    elements: usize,
    error: Option<ReplyLimitError>,
}

/// The meaning of the next byte.
#[derive(Clone, Copy, Debug, Default)]
enum ParseState {
    /// The type byte of an element.
    #[default]
    Type,
    /// Part of a simple line.
    Line { length: usize, returned: bool },
    /// Part of a length.
    Length { of: Prefixed, length: LengthPrefix },
    /// Payload with this many bytes left.
    Payload(usize),
}

/// A type with a length prefix.
#[derive(Clone, Copy, Debug)]
enum Prefixed {
    /// May be null.
    NullableString,
    String,
    /// `each` elements per counted item, plus `more`.
    Aggregate {
        each: usize,
        more: usize,
    },
}

/// A length as far as it was read.
#[derive(Clone, Copy, Debug, Default)]
struct LengthPrefix {
    is_negative: bool,
    digits: usize,
    value: usize,
    returned: bool,
}

impl ReplyMeter {
    /// # Errors
    /// If a limit is exceeded. All later calls fail too.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Result<(), ReplyLimitError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        self.scan(bytes).inspect_err(|error| self.error = Some(*error))
    }

    fn scan(&mut self, mut bytes: &[u8]) -> Result<(), ReplyLimitError> {
        while let Some((first, rest)) = bytes.split_first() {
            bytes = match self.state {
                ParseState::Payload(left) => {
                    let (_, rest) = bytes.split_at(left.min(bytes.len()));
                    self.skip_payload(left - (bytes.len() - rest.len()));
                    rest
                }
                ParseState::Type => {
                    self.count(1, 1)?;
                    self.state = state_after_type(*first)?;
                    rest
                }
                ParseState::Line { length, returned } => {
                    self.count(1, 0)?;
                    self.scan_line(*first, length, returned)?;
                    rest
                }
                ParseState::Length { of, length } => {
                    self.count(1, 0)?;
                    self.scan_length(*first, of, length)?;
                    rest
                }
            };
        }
        Ok(())
    }

    fn count(&mut self, bytes: usize, elements: usize) -> Result<(), ReplyLimitError> {
        self.bytes = self.bytes.saturating_add(bytes);
        self.elements = self.elements.saturating_add(elements);
        if self.bytes > MAX_REPLY_BYTES || self.elements > MAX_REPLY_ELEMENTS {
            return Err(ReplyLimitError::TooLarge);
        }
        Ok(())
    }

    fn scan_line(
        &mut self,
        byte: u8,
        length: usize,
        returned: bool,
    ) -> Result<(), ReplyLimitError> {
        if returned && byte == b'\n' {
            self.end_element();
        } else if length >= MAX_LINE_BYTES {
            return Err(ReplyLimitError::TooLarge);
        } else {
            self.state = ParseState::Line { length: length + 1, returned: byte == b'\r' };
        }
        Ok(())
    }

    fn scan_length(
        &mut self,
        byte: u8,
        of: Prefixed,
        length: LengthPrefix,
    ) -> Result<(), ReplyLimitError> {
        if !(length.returned && byte == b'\n') {
            self.state = ParseState::Length { of, length: length.push(byte)? };
            return Ok(());
        }
        match (of, length.is_negative) {
            (Prefixed::NullableString | Prefixed::Aggregate { each: 1, .. }, true)
                if length.value == 1 =>
            {
                self.end_element();
            }
            // The library would treat this length as unbounded.
            (_, true) => return Err(ReplyLimitError::Malformed),
            (Prefixed::NullableString | Prefixed::String, false) => {
                self.count(length.value, 0)?;
                self.state = ParseState::Payload(length.value.saturating_add(CRLF_BYTES));
            }
            (Prefixed::Aggregate { each, more }, false) => {
                self.open_aggregate(length.value.saturating_mul(each).saturating_add(more))?;
            }
        }
        Ok(())
    }

    /// Elements are counted as they arrive, but an excessive count fails at once.
    fn open_aggregate(&mut self, elements: usize) -> Result<(), ReplyLimitError> {
        if elements > MAX_REPLY_ELEMENTS || self.open.len() >= MAX_DEPTH {
            return Err(ReplyLimitError::TooLarge);
        }
        if elements == 0 {
            self.end_element();
        } else {
            self.open.push(elements);
            self.state = ParseState::Type;
        }
        Ok(())
    }

    fn skip_payload(&mut self, left: usize) {
        self.state = ParseState::Payload(left);
        if left == 0 {
            self.end_element();
        }
    }

    /// Ends an element, and every aggregate that it completes.
    fn end_element(&mut self) {
        self.state = ParseState::Type;
        while let Some(open) = self.open.last_mut() {
            *open = open.saturating_sub(1);
            if *open > 0 {
                return;
            }
            self.open.pop();
        }
        (self.bytes, self.elements) = (0, 0);
    }
}

impl LengthPrefix {
    fn push(mut self, byte: u8) -> Result<LengthPrefix, ReplyLimitError> {
        match byte {
            _ if self.returned => return Err(ReplyLimitError::Malformed),
            b'-' if self.digits == 0 && !self.is_negative => self.is_negative = true,
            b'0'..=b'9' if self.digits < MAX_LENGTH_DIGITS => {
                let digit = usize::from(byte - b'0');
                self.value = self.value.saturating_mul(10).saturating_add(digit);
                self.digits += 1;
            }
            b'\r' if self.digits > 0 => self.returned = true,
            _ => return Err(ReplyLimitError::Malformed),
        }
        Ok(self)
    }
}

/// RESP2 and RESP3. Redis sends no streamed strings or aggregates.
fn state_after_type(byte: u8) -> Result<ParseState, ReplyLimitError> {
    let length_of = |of| Ok(ParseState::Length { of, length: LengthPrefix::default() });
    match byte {
        b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(' => {
            Ok(ParseState::Line { length: 0, returned: false })
        }
        b'$' => length_of(Prefixed::NullableString),
        b'!' | b'=' => length_of(Prefixed::String),
        b'*' | b'~' | b'>' => length_of(Prefixed::Aggregate { each: 1, more: 0 }),
        b'%' => length_of(Prefixed::Aggregate { each: 2, more: 0 }),
        // An attribute is followed by the value that it describes.
        b'|' => length_of(Prefixed::Aggregate { each: 2, more: 1 }),
        _ => Err(ReplyLimitError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One reply of each type.
    const REPLIES: [&str; 20] = [
        "+OK\r\n",
        "-ERR no\rsuch\nthing\r\n",
        ":-12\r\n",
        "$-1\r\n",
        "*-1\r\n",
        "$0\r\n\r\n",
        "$5\r\na\r\nbc\r\n",
        "*0\r\n",
        "*3\r\n$1\r\na\r\n$-1\r\n:1\r\n",
        "*2\r\n*2\r\n+a\r\n+b\r\n*1\r\n*0\r\n",
        "%1\r\n$5\r\nproto\r\n:3\r\n",
        "~2\r\n#t\r\n_\r\n",
        ",1.5\r\n",
        "(3492890328409238509324850943850943825024385\r\n",
        "!9\r\nERR wrong\r\n",
        "=7\r\ntxt:abc\r\n",
        ">2\r\n$10\r\ninvalidate\r\n*2\r\n$1\r\na\r\n$1\r\nb\r\n",
        ">2\r\n$10\r\ninvalidate\r\n_\r\n",
        "|1\r\n+ttl\r\n:3600\r\n$1\r\na\r\n",
        "%2\r\n+a\r\n%0\r\n+b\r\n*1\r\n%1\r\n+c\r\n+d\r\n",
    ];

    fn is_between_replies(measure: &ReplyMeter) -> bool {
        matches!(measure.state, ParseState::Type) && measure.open.is_empty() && measure.bytes == 0
    }

    #[test]
    fn replies_end_where_the_client_library_ends_them() {
        for reply in REPLIES {
            let mut measure = ReplyMeter::default();
            for (number, byte) in reply.as_bytes().iter().enumerate() {
                let start = &reply.as_bytes()[..number];
                let is_whole = ::redis::parse_redis_value(start).is_ok();
                assert_eq!(is_between_replies(&measure), is_whole || number == 0, "{start:?}");
                measure.read(&[*byte]).expect("valid");
            }
            assert!(is_between_replies(&measure), "{reply:?}");
            assert!(::redis::parse_redis_value(reply.as_bytes()).is_ok(), "{reply:?}");
        }
    }

    #[test]
    fn replies_are_accepted_in_chunks_of_any_size() {
        let all = REPLIES.concat().repeat(50);
        for size in 1..200 {
            let mut measure = ReplyMeter::default();
            for piece in all.as_bytes().chunks(size) {
                measure.read(piece).expect("each is small");
            }
            assert!(is_between_replies(&measure), "in chunks of {size}");
        }
    }

    fn limit_error(reply: &[u8]) -> Option<ReplyLimitError> {
        ReplyMeter::default().read(reply).err()
    }

    #[test]
    fn an_excessive_length_is_rejected_before_its_payload() {
        for kind in ["$", "!", "="] {
            let too_long = format!("{kind}{}\r\n", MAX_REPLY_BYTES + 1);
            assert_eq!(
                limit_error(too_long.as_bytes()),
                Some(ReplyLimitError::TooLarge),
                "{too_long}"
            );
        }
        for (kind, elements) in [("*", 1), ("~", 1), (">", 1), ("%", 2), ("|", 2)] {
            let most = MAX_REPLY_ELEMENTS / elements;
            let too_many = format!("{kind}{}\r\n", most + 1);
            assert_eq!(
                limit_error(too_many.as_bytes()),
                Some(ReplyLimitError::TooLarge),
                "{too_many}"
            );
        }
        let endless = format!("*{}\r\n", u64::MAX);
        assert_eq!(limit_error(endless.as_bytes()), Some(ReplyLimitError::TooLarge));
    }

    #[test]
    fn limits_apply_to_the_sum_of_all_elements() {
        let half = [
            format!("${}\r\n", MAX_REPLY_BYTES / 2).as_bytes(),
            &vec![b'x'; MAX_REPLY_BYTES / 2],
            b"\r\n",
        ]
        .concat();
        assert_eq!(limit_error(&[b"*1\r\n".as_slice(), &half].concat()), None);
        let two = [b"*2\r\n".as_slice(), &half, &half].concat();
        assert_eq!(limit_error(&two), Some(ReplyLimitError::TooLarge), "bytes of several elements");
        let lists = format!("*300\r\n{}", format!("*300\r\n{}", ":1\r\n".repeat(300)).repeat(300));
        assert_eq!(
            limit_error(lists.as_bytes()),
            Some(ReplyLimitError::TooLarge),
            "elements of several lists"
        );
        let one_by_one = half.repeat(3);
        assert_eq!(limit_error(&one_by_one), None, "several replies");
    }

    #[test]
    fn endless_lines_and_deep_nesting_are_rejected() {
        let line = [b"-ERR ".as_slice(), &vec![b'x'; MAX_LINE_BYTES]].concat();
        assert_eq!(limit_error(&line), Some(ReplyLimitError::TooLarge));
        let digits = [b"$".as_slice(), &[b'0'; MAX_LENGTH_DIGITS + 1]].concat();
        assert_eq!(limit_error(&digits), Some(ReplyLimitError::Malformed));
        assert_eq!(
            limit_error("*1\r\n".repeat(MAX_DEPTH + 1).as_bytes()),
            Some(ReplyLimitError::TooLarge)
        );
    }

    #[test]
    fn protocol_violations_are_rejected() {
        for foreign in [
            "HTTP/1.1 400",
            "$x\r\n",
            "$\r\n",
            "$-2\r\n",
            "!-1\r\n",
            "=-1\r\n",
            "%-1\r\n",
            "$--1\r\n",
            "*1\rx",
            "$?\r\n",
            "$1-\r\n",
        ] {
            assert_eq!(
                limit_error(foreign.as_bytes()),
                Some(ReplyLimitError::Malformed),
                "{foreign:?}"
            );
        }
    }

    #[test]
    fn after_an_error_all_input_is_rejected() {
        let mut measure = ReplyMeter::default();
        assert_eq!(measure.read(b"x"), Err(ReplyLimitError::Malformed));
        assert_eq!(measure.read(b"+OK\r\n"), Err(ReplyLimitError::Malformed));
    }
}
