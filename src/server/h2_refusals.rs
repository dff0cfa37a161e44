//! Finds the refusals of the HTTP/2 library in the bytes that it sends.
//!
//! The library refuses some heads without a call of the request handler. They need an access log entry too:
//!
//! | head | frame |
//! | --- | --- |
//! | larger than twice the limit | HEADERS with END_STREAM and one field, the status. Other responses have a `Date` |
//! | malformed | RST_STREAM or GOAWAY with an error of the client |
//!
//! A reset after a response head, or during the upload of a body, may concern a request that was handled. It is not
//! counted.

use http::StatusCode;

/// Bytes of a frame head, and of the part of a payload that is needed.
const HEAD: usize = 9;
const PAYLOAD: usize = 8;

/// More streams than a client may have open. Older ones have ended without a frame.
const MAX_RESPONDING: usize = 200;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const PROTOCOL_ERROR: [u8; 4] = [0, 0, 0, 1];
const COMPRESSION_ERROR: [u8; 4] = [0, 0, 0, 9];

/// Scans the frames of one connection.
#[derive(Debug, Default)]
pub(super) struct RefusalScanner {
    /// The start of the current frame.
    frame: Vec<u8>,
    /// Bytes of the current frame that are left.
    skip: usize,
    /// Streams whose response has begun and not ended.
    responding: Vec<[u8; 4]>,
}

impl RefusalScanner {
    /// Scans sent bytes, and calls `on_refusal` for each refusal.
    pub(super) fn scan(&mut self, mut bytes: &[u8], mut on_refusal: impl FnMut(StatusCode)) {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            if self.skip > 0 {
                return;
            }
            let missing = self.start_length() - self.frame.len();
            let (start, rest) = bytes.split_at(missing.min(bytes.len()));
            self.frame.extend_from_slice(start);
            bytes = rest;
            if self.frame.len() >= HEAD && self.frame.len() == self.start_length() {
                if let Some(status) = self.classify() {
                    on_refusal(status);
                }
                self.skip = payload_length(&self.frame).saturating_sub(self.frame.len() - HEAD);
                self.frame.clear();
            }
        }
    }

    /// Number of bytes of the current frame that are needed.
    fn start_length(&self) -> usize {
        match self.frame.get(3) {
            Some(&(HEADERS | RST_STREAM | GOAWAY)) if self.frame.len() >= HEAD => {
                HEAD + payload_length(&self.frame).min(PAYLOAD)
            }
            Some(_) | None => HEAD,
        }
    }

    fn classify(&mut self) -> Option<StatusCode> {
        let (head, payload) = self.frame.split_at_checked(HEAD)?;
        let &[_, _, _, kind, flags, ref stream @ ..] = head.first_chunk::<HEAD>()?;
        let is_end = flags & END_STREAM != 0;
        let began = self.responding.iter().position(|responding| responding == stream);
        match (kind, began) {
            (HEADERS, None) if !is_end => {
                self.add_responding(*stream);
                None
            }
            (HEADERS, None)
                if payload_length(head) == payload.len() && is_single_field(payload) =>
            {
                // A reset of the same stream may follow.
                self.add_responding(*stream);
                Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
            }
            // After the number of the last stream.
            (GOAWAY, _) => [PROTOCOL_ERROR, COMPRESSION_ERROR]
                .iter()
                .any(|code| payload.ends_with(code))
                .then_some(StatusCode::BAD_REQUEST),
            (RST_STREAM, None) => {
                payload.starts_with(&PROTOCOL_ERROR).then_some(StatusCode::BAD_REQUEST)
            }
            (DATA | HEADERS | RST_STREAM, Some(began)) if is_end || kind == RST_STREAM => {
                self.responding.swap_remove(began);
                None
            }
            (_, _) => None,
        }
    }

    fn add_responding(&mut self, stream: [u8; 4]) {
        if self.responding.len() == MAX_RESPONDING {
            self.responding.remove(0);
        }
        self.responding.push(stream);
    }
}

fn payload_length(head: &[u8]) -> usize {
    head.first_chunk().map_or(0, |&[high, middle, low]| {
        usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low)
    })
}

/// Whether a header block has one field (RFC 7541 6): an indexed one, or a literal with the name `:status`.
fn is_single_field(block: &[u8]) -> bool {
    match block {
        [field] => field & 0x80 != 0,
        [0x48 | 0x08 | 0x18, length, value @ ..] => usize::from(length & 0x7f) == value.len(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).expect("short");
        [&[0, 0, length, kind, flags, 0, 0, 0, stream][..], payload].concat()
    }

    fn refusals(bytes: &[u8]) -> Vec<u16> {
        let scan = |size: usize| {
            let (mut scanner, mut found) = (RefusalScanner::default(), Vec::new());
            for part in bytes.chunks(size) {
                scanner.scan(part, |status| found.push(status.as_u16()));
            }
            found
        };
        let found = scan(bytes.len());
        for size in 1..20 {
            assert_eq!(scan(size), found, "in parts of {size}");
        }
        found
    }

    #[test]
    fn a_status_alone_and_a_reset_are_refusals() {
        let literal = frame(HEADERS, 5, 1, b"\x48\x03431");
        let indexed = frame(HEADERS, 5, 3, &[0xbe]);
        let reset = frame(RST_STREAM, 0, 5, &PROTOCOL_ERROR);
        let settings = frame(4, 0, 0, &[0; 36]);
        let implicit = frame(RST_STREAM, 0, 3, &PROTOCOL_ERROR);
        let all = [settings, literal, indexed, reset, implicit].concat();
        assert_eq!(refusals(&all), [431, 431, 400]);
        for (code, expected) in [(0, vec![]), (1, vec![400]), (9, vec![400])] {
            assert_eq!(refusals(&frame(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, code])), expected);
        }
    }

    #[test]
    fn responses_trailers_and_cancellations_are_no_refusals() {
        let empty = frame(HEADERS, 5, 1, &[0x89, 0xbe]);
        let response =
            frame(HEADERS, 4, 3, &[0x88, 0xbe, 0xbf, 0xc0, 0xc1, 0xc2, 0xc3, 0xc4, 0xc5]);
        let data = frame(DATA, 0, 3, &[1; 200]);
        let trailers = frame(HEADERS, 5, 3, &[0xbf]);
        let cancelled = frame(RST_STREAM, 0, 7, &[0, 0, 0, 8]);
        let started = frame(HEADERS, 4, 9, &[0x88, 0xbe]);
        let aborted = frame(RST_STREAM, 0, 9, &PROTOCOL_ERROR);
        let all = [empty, response, data, trailers, cancelled, started, aborted].concat();
        assert_eq!(refusals(&all), [0_u16; 0]);
    }

    #[test]
    fn ended_streams_are_forgotten() {
        let mut scanner = RefusalScanner::default();
        for stream in [1, 3, 5] {
            scanner.scan(&frame(HEADERS, 4, stream, &[0x88, 0xbe]), |_| panic!("a response"));
            scanner.scan(&frame(DATA, END_STREAM, stream, b"x"), |_| panic!("its end"));
        }
        assert!(scanner.responding.is_empty());
        for stream in 0..255 {
            scanner.scan(&frame(HEADERS, 5, stream, &[0xbe]), |_| {});
        }
        assert_eq!(scanner.responding.len(), MAX_RESPONDING);
    }
}
