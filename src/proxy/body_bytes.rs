//! Counter of the bytes that a client connection received in request bodies.

use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of framing counted for each piece of a body.
const FRAME_OVERHEAD: u64 = 64;

/// Bytes received in request bodies, framing included.
#[derive(Debug, Default)]
pub struct BodyBytes(AtomicU64);

impl BodyBytes {
    pub(super) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Counts one piece of a body.
    pub(super) fn add(&self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX).saturating_add(FRAME_OVERHEAD);
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}
