//! Request IDs: they correlate a user's report, the access log and the upstream's log. They are not
//! secret and affect no decision.

use std::sync::atomic::{AtomicU64, Ordering};

use data_encoding::HEXLOWER;
use http::header::{HeaderMap, HeaderName, HeaderValue};

/// Header that carries the request ID to upstreams.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Maximum length of an ID from a trusted proxy, in bytes.
const MAX_LENGTH: usize = 64;

/// A request ID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(HeaderValue);

impl RequestId {
    /// Returns the ID that a trusted proxy set; `None` unless there is exactly one short, plain
    /// value.
    pub fn from_trusted_proxy(headers: &HeaderMap) -> Option<RequestId> {
        let mut values = headers.get_all(X_REQUEST_ID).into_iter();
        let (Some(name), None) = (values.next(), values.next()) else { return None };
        let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
        let fits = (1..=MAX_LENGTH).contains(&name.len()) && name.as_bytes().iter().all(is_plain);
        fits.then(|| RequestId(name.clone()))
    }

    /// Returns the ID as text.
    pub fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }

    /// Returns the ID as a header value.
    pub fn value(&self) -> &HeaderValue {
        &self.0
    }
}

impl From<u64> for RequestId {
    fn from(number: u64) -> RequestId {
        // Runs for each request; the general formatter takes eight times as long.
        let text = HEXLOWER.encode(&number.to_be_bytes());
        let value = HeaderValue::try_from(text);
        RequestId(value.unwrap_or_else(|_| HeaderValue::from_static("0")))
    }
}

/// Request ID generator of one worker. IDs are unique per worker, and workers start at different
/// points.
#[derive(Debug)]
pub struct RequestIds {
    state: AtomicU64,
}

impl RequestIds {
    /// Creates a generator from a random `seed`.
    pub fn new(seed: [u8; 8]) -> RequestIds {
        RequestIds { state: AtomicU64::new(u64::from_ne_bytes(seed)) }
    }

    /// Returns the next ID. SplitMix64 repeats only after all numbers and does not reveal how many
    /// requests there were.
    pub fn next(&self) -> RequestId {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let state = self.state.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        RequestId::from(mixed ^ (mixed >> 31))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_are_unique() {
        let ids = RequestIds::new([7; 8]);
        let names: std::collections::BTreeSet<String> =
            (0..10_000).map(|_| ids.next().as_str().to_owned()).collect();
        assert_eq!(names.len(), 10_000);
        assert!(names.iter().all(|name| name.len() == 16));
    }

    #[test]
    fn only_a_single_short_plain_id_is_accepted() {
        let parse = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for line in values {
                headers.append(X_REQUEST_ID, HeaderValue::from_str(line).expect("a value"));
            }
            RequestId::from_trusted_proxy(&headers).map(|id| id.as_str().to_owned())
        };
        assert_eq!(parse(&["4f-A_1.b"]).as_deref(), Some("4f-A_1.b"));
        let long = "a".repeat(MAX_LENGTH + 1);
        for values in [&[][..], &["a", "a"], &[""], &["a b"], &["<b>"], &["a\"b"], &[&long]] {
            assert_eq!(parse(values), None, "{values:?}");
        }
    }
}
