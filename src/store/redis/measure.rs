//! How much the answers of a server are, read beside the client library and without keeping anything.
//!
//! Only what says how much follows is looked at: the kind of each part, its length or its number of parts,
//! and where it ends. What it says is the library's to read.

use std::io;

/// Bytes of one answer. The longest that doorward asks for, 100 records of a user with very many groups, and
/// the index of one with 10,000 sessions, have less than 3 MiB.
pub(super) const MOST_BYTES: usize = 8 * 1024 * 1024;
/// Parts of one answer, each of which costs memory however short it is. The most that doorward asks for are
/// two for each of the 10,000 sessions that a user may have.
pub(super) const MOST_PARTS: usize = 64 * 1024;
/// Bytes of a line, which the library looks through again whenever more of it comes.
const MOST_OF_A_LINE: usize = 64 * 1024;
const MOST_DIGITS: usize = 20;
/// Answers within answers.
const DEEPEST: usize = 8;
/// What ends a line, and the contents of a text with a length.
const END: usize = 2;

/// Why an answer is not read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error(
        "an answer of more than {MOST_BYTES} bytes or {MOST_PARTS} parts, which doorward never wrote"
    )]
    TooMuch,
    #[error("an answer that is not of Redis' protocol")]
    Foreign,
}

impl From<Refusal> for io::Error {
    fn from(refusal: Refusal) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, refusal)
    }
}

/// The answers of one connection, as far as they were read.
#[derive(Debug, Default)]
pub(super) struct Measure {
    at: At,
    /// Parts that are still to come, the outermost answer first.
    open: Vec<usize>,
    bytes: usize,
    parts: usize,
    refused: Option<Refusal>,
}

/// What the next byte is.
#[derive(Clone, Copy, Debug, Default)]
enum At {
    /// The first of a part.
    #[default]
    Kind,
    /// Of a line that says all there is.
    Line { length: usize, returned: bool },
    /// Of the line that says how much follows.
    Size { of: Sized, size: Size },
    /// Of contents with so many bytes to come.
    Contents(usize),
}

/// What has a size before it.
#[derive(Clone, Copy, Debug)]
enum Sized {
    /// Which may also be none.
    String,
    Text,
    /// Of so many parts for each that is counted, and so many more.
    Many {
        each: usize,
        more: usize,
    },
}

/// A number as far as it was read.
#[derive(Clone, Copy, Debug, Default)]
struct Size {
    is_negative: bool,
    digits: usize,
    number: usize,
    returned: bool,
}

impl Measure {
    /// # Errors
    /// When it is too much, from then on for ever.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        if let Some(refused) = self.refused {
            return Err(refused);
        }
        self.read_on(bytes).inspect_err(|refusal| self.refused = Some(*refusal))
    }

    fn read_on(&mut self, mut bytes: &[u8]) -> Result<(), Refusal> {
        while let Some((first, rest)) = bytes.split_first() {
            bytes = match self.at {
                At::Contents(left) => {
                    let (_, rest) = bytes.split_at(left.min(bytes.len()));
                    self.contents(left - (bytes.len() - rest.len()));
                    rest
                }
                At::Kind => {
                    self.count(1, 1)?;
                    self.at = kind(*first)?;
                    rest
                }
                At::Line { length, returned } => {
                    self.count(1, 0)?;
                    self.line(*first, length, returned)?;
                    rest
                }
                At::Size { of, size } => {
                    self.count(1, 0)?;
                    self.size(*first, of, size)?;
                    rest
                }
            };
        }
        Ok(())
    }

    fn count(&mut self, bytes: usize, parts: usize) -> Result<(), Refusal> {
        self.bytes = self.bytes.saturating_add(bytes);
        self.parts = self.parts.saturating_add(parts);
        if self.bytes > MOST_BYTES || self.parts > MOST_PARTS {
            return Err(Refusal::TooMuch);
        }
        Ok(())
    }

    fn line(&mut self, byte: u8, length: usize, returned: bool) -> Result<(), Refusal> {
        if returned && byte == b'\n' {
            self.part_ends();
        } else if length >= MOST_OF_A_LINE {
            return Err(Refusal::TooMuch);
        } else {
            self.at = At::Line { length: length + 1, returned: byte == b'\r' };
        }
        Ok(())
    }

    fn size(&mut self, byte: u8, of: Sized, size: Size) -> Result<(), Refusal> {
        if !(size.returned && byte == b'\n') {
            self.at = At::Size { of, size: size.and(byte)? };
            return Ok(());
        }
        match (of, size.is_negative) {
            (Sized::String | Sized::Many { each: 1, .. }, true) if size.number == 1 => {
                self.part_ends();
            }
            // The library takes such a length for an endless one.
            (_, true) => return Err(Refusal::Foreign),
            (Sized::String | Sized::Text, false) => {
                self.count(size.number, 0)?;
                self.at = At::Contents(size.number.saturating_add(END));
            }
            (Sized::Many { each, more }, false) => {
                self.opens(size.number.saturating_mul(each).saturating_add(more))?;
            }
        }
        Ok(())
    }

    /// The parts are counted as they come, but too many are refused before.
    fn opens(&mut self, parts: usize) -> Result<(), Refusal> {
        if parts > MOST_PARTS || self.open.len() >= DEEPEST {
            return Err(Refusal::TooMuch);
        }
        if parts == 0 {
            self.part_ends();
        } else {
            self.open.push(parts);
            self.at = At::Kind;
        }
        Ok(())
    }

    fn contents(&mut self, left: usize) {
        self.at = At::Contents(left);
        if left == 0 {
            self.part_ends();
        }
    }

    /// And with the last part of an answer the answer.
    fn part_ends(&mut self) {
        self.at = At::Kind;
        while let Some(open) = self.open.last_mut() {
            *open = open.saturating_sub(1);
            if *open > 0 {
                return;
            }
            self.open.pop();
        }
        (self.bytes, self.parts) = (0, 0);
    }
}

impl Size {
    fn and(mut self, byte: u8) -> Result<Size, Refusal> {
        match byte {
            _ if self.returned => return Err(Refusal::Foreign),
            b'-' if self.digits == 0 && !self.is_negative => self.is_negative = true,
            b'0'..=b'9' if self.digits < MOST_DIGITS => {
                let digit = usize::from(byte - b'0');
                self.number = self.number.saturating_mul(10).saturating_add(digit);
                self.digits += 1;
            }
            b'\r' if self.digits > 0 => self.returned = true,
            _ => return Err(Refusal::Foreign),
        }
        Ok(self)
    }
}

/// RESP2 and RESP3; strings and lists whose length comes last are in neither of what Redis sends.
fn kind(byte: u8) -> Result<At, Refusal> {
    let size = |of| Ok(At::Size { of, size: Size::default() });
    match byte {
        b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(' => {
            Ok(At::Line { length: 0, returned: false })
        }
        b'$' => size(Sized::String),
        b'!' | b'=' => size(Sized::Text),
        b'*' | b'~' | b'>' => size(Sized::Many { each: 1, more: 0 }),
        b'%' => size(Sized::Many { each: 2, more: 0 }),
        // Followed by what it is an attribute of.
        b'|' => size(Sized::Many { each: 2, more: 1 }),
        _ => Err(Refusal::Foreign),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of every kind that there is.
    const ANSWERS: [&str; 20] = [
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

    fn is_between_answers(measure: &Measure) -> bool {
        matches!(measure.at, At::Kind) && measure.open.is_empty() && measure.bytes == 0
    }

    #[test]
    fn an_answer_ends_where_the_client_library_says_that_it_ends() {
        for answer in ANSWERS {
            let mut measure = Measure::default();
            for (number, byte) in answer.as_bytes().iter().enumerate() {
                let start = &answer.as_bytes()[..number];
                let is_whole = ::redis::parse_redis_value(start).is_ok();
                assert_eq!(is_between_answers(&measure), is_whole || number == 0, "{start:?}");
                measure.read(&[*byte]).expect("of Redis' protocol");
            }
            assert!(is_between_answers(&measure), "{answer:?}");
            assert!(::redis::parse_redis_value(answer.as_bytes()).is_ok(), "{answer:?}");
        }
    }

    #[test]
    fn any_number_of_answers_in_pieces_of_any_size_is_read() {
        let all = ANSWERS.concat().repeat(50);
        for size in 1..200 {
            let mut measure = Measure::default();
            for piece in all.as_bytes().chunks(size) {
                measure.read(piece).expect("each is short");
            }
            assert!(is_between_answers(&measure), "in pieces of {size}");
        }
    }

    fn refusal(answer: &[u8]) -> Option<Refusal> {
        Measure::default().read(answer).err()
    }

    #[test]
    fn a_length_is_refused_before_what_has_it() {
        for kind in ["$", "!", "="] {
            let too_long = format!("{kind}{}\r\n", MOST_BYTES + 1);
            assert_eq!(refusal(too_long.as_bytes()), Some(Refusal::TooMuch), "{too_long}");
        }
        for (kind, parts) in [("*", 1), ("~", 1), (">", 1), ("%", 2), ("|", 2)] {
            let most = MOST_PARTS / parts;
            let too_many = format!("{kind}{}\r\n", most + 1);
            assert_eq!(refusal(too_many.as_bytes()), Some(Refusal::TooMuch), "{too_many}");
        }
        let endless = format!("*{}\r\n", u64::MAX);
        assert_eq!(refusal(endless.as_bytes()), Some(Refusal::TooMuch));
    }

    #[test]
    fn what_is_short_by_itself_is_refused_together() {
        let half =
            [format!("${}\r\n", MOST_BYTES / 2).as_bytes(), &vec![b'x'; MOST_BYTES / 2], b"\r\n"]
                .concat();
        assert_eq!(refusal(&[b"*1\r\n".as_slice(), &half].concat()), None);
        let two = [b"*2\r\n".as_slice(), &half, &half].concat();
        assert_eq!(refusal(&two), Some(Refusal::TooMuch), "bytes of several parts");
        let lists = format!("*300\r\n{}", format!("*300\r\n{}", ":1\r\n".repeat(300)).repeat(300));
        assert_eq!(refusal(lists.as_bytes()), Some(Refusal::TooMuch), "parts of several lists");
        let one_by_one = half.repeat(3);
        assert_eq!(refusal(&one_by_one), None, "several answers");
    }

    #[test]
    fn a_line_without_an_end_and_lists_without_a_bottom_are_refused() {
        let line = [b"-ERR ".as_slice(), &vec![b'x'; MOST_OF_A_LINE]].concat();
        assert_eq!(refusal(&line), Some(Refusal::TooMuch));
        let digits = [b"$".as_slice(), &[b'0'; MOST_DIGITS + 1]].concat();
        assert_eq!(refusal(&digits), Some(Refusal::Foreign));
        assert_eq!(refusal("*1\r\n".repeat(DEEPEST + 1).as_bytes()), Some(Refusal::TooMuch));
    }

    #[test]
    fn what_is_not_of_the_protocol_is_refused() {
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
            assert_eq!(refusal(foreign.as_bytes()), Some(Refusal::Foreign), "{foreign:?}");
        }
    }

    #[test]
    fn after_a_refusal_nothing_is_read() {
        let mut measure = Measure::default();
        assert_eq!(measure.read(b"x"), Err(Refusal::Foreign));
        assert_eq!(measure.read(b"+OK\r\n"), Err(Refusal::Foreign));
    }
}
