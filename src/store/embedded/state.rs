//! State shared by readers and the writer.

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::clock::UnixMillis;
use crate::session::SessionKey;
use crate::store::memory::Tables;

/// State shared by readers and the writer.
#[derive(Debug, Default)]
pub(super) struct EmbeddedState {
    pub(super) tables: Tables,
    /// Touches that are in memory but not yet in the file.
    touches: Mutex<HashMap<SessionKey, UnixMillis>>,
    /// Whether the result of a sweep is in the queue.
    pub(super) is_sweep_queued: AtomicBool,
}

impl EmbeddedState {
    pub(super) fn touches(&self) -> MutexGuard<'_, HashMap<SessionKey, UnixMillis>> {
        self.touches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
