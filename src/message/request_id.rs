//! The name of one request, by which a user's complaint, a line of the log and a line of the app's log
//! are brought together. It is no secret, and nothing is decided by it.

use std::sync::atomic::{AtomicU64, Ordering};

use data_encoding::HEXLOWER;
use http::header::{HeaderMap, HeaderName, HeaderValue};

/// The field in which upstreams hear it.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest name that is taken over from a proxy before us.
const LONGEST: usize = 64;

/// A few letters and digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(HeaderValue);

impl RequestId {
    /// What a trusted proxy before us called the request, where it did so once and plainly.
    pub fn told(headers: &HeaderMap) -> Option<RequestId> {
        let mut lines = headers.get_all(X_REQUEST_ID).into_iter();
        let (Some(name), None) = (lines.next(), lines.next()) else { return None };
        let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
        let fits = (1..=LONGEST).contains(&name.len()) && name.as_bytes().iter().all(is_plain);
        fits.then(|| RequestId(name.clone()))
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }

    /// As a field's value.
    pub fn value(&self) -> &HeaderValue {
        &self.0
    }
}

impl From<u64> for RequestId {
    fn from(number: u64) -> RequestId {
        // Each request gets one, and the general formatter takes eight times as long.
        let text = HEXLOWER.encode(&number.to_be_bytes());
        let value = HeaderValue::try_from(text);
        RequestId(value.unwrap_or_else(|_| HeaderValue::from_static("0")))
    }
}

/// One worker's names: each differs from all others of the worker, and no two workers begin alike.
#[derive(Debug)]
pub struct RequestIds {
    state: AtomicU64,
}

impl RequestIds {
    /// A sequence that begins anywhere; `seed` is random.
    pub fn new(seed: [u8; 8]) -> RequestIds {
        RequestIds { state: AtomicU64::new(u64::from_ne_bytes(seed)) }
    }

    /// The next name. SplitMix64: it runs through all numbers before one returns, and does not show how
    /// many requests there were.
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
    fn no_two_requests_have_one_name() {
        let ids = RequestIds::new([7; 8]);
        let names: std::collections::BTreeSet<String> =
            (0..10_000).map(|_| ids.next().as_str().to_owned()).collect();
        assert_eq!(names.len(), 10_000);
        assert!(names.iter().all(|name| name.len() == 16));
    }

    #[test]
    fn only_one_short_and_plain_name_is_taken_over() {
        let told = |lines: &[&str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(X_REQUEST_ID, HeaderValue::from_str(line).expect("a value"));
            }
            RequestId::told(&headers).map(|id| id.as_str().to_owned())
        };
        assert_eq!(told(&["4f-A_1.b"]).as_deref(), Some("4f-A_1.b"));
        let long = "a".repeat(LONGEST + 1);
        for lines in [&[][..], &["a", "a"], &[""], &["a b"], &["<b>"], &["a\"b"], &[&long]] {
            assert_eq!(told(lines), None, "{lines:?}");
        }
    }
}
