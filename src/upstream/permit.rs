//! Permits of exchanges and slots of streams: what an exchange occupies until it ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::OwnedSemaphorePermit;

use super::endpoint_state::Outstanding;

/// Permission for one exchange. An anonymous exchange also holds one of the anonymous permits.
/// Empty once the permit is shared.
#[derive(Default)]
pub(super) struct ExchangePermit {
    _anonymous: Option<OwnedSemaphorePermit>,
    _exchange: Option<OwnedSemaphorePermit>,
    /// `None` where the route has one endpoint.
    outstanding: Option<Outstanding>,
}

impl ExchangePermit {
    pub(super) fn new(
        anonymous: Option<OwnedSemaphorePermit>,
        exchange: OwnedSemaphorePermit,
    ) -> ExchangePermit {
        ExchangePermit { _anonymous: anonymous, _exchange: Some(exchange), outstanding: None }
    }

    pub(super) fn count_as(&mut self, outstanding: Outstanding) {
        self.outstanding = Some(outstanding);
    }

    pub(super) fn outstanding(&self) -> Option<&Outstanding> {
        self.outstanding.as_ref()
    }
}

/// Stream slot and permit of an exchange on a shared connection.
pub(super) struct StreamGuard {
    _slot: Arc<StreamSlot>,
    _permit: Arc<ExchangePermit>,
}

impl StreamGuard {
    pub(super) fn new(slot: Arc<StreamSlot>, permit: Arc<ExchangePermit>) -> StreamGuard {
        StreamGuard { _slot: slot, _permit: permit }
    }
}

/// The slot that a stream occupies, counted in its connection's number of active streams.
pub(super) struct StreamSlot(Arc<AtomicUsize>);

impl StreamSlot {
    pub(super) fn new(active_streams: &Arc<AtomicUsize>) -> StreamSlot {
        active_streams.fetch_add(1, Ordering::Relaxed);
        StreamSlot(Arc::clone(active_streams))
    }

    pub(super) fn is_counted_in(&self, active_streams: &Arc<AtomicUsize>) -> bool {
        Arc::ptr_eq(&self.0, active_streams)
    }
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
