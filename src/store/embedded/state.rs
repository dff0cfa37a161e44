//! State shared by readers and the writer.

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;

use parking_lot::Mutex;

use crate::clock::UnixMillis;
use crate::session::SessionKey;
use crate::store::tables::Tables;

/// State shared by readers and the writer.
#[derive(Debug, Default)]
pub(super) struct EmbeddedState {
    pub(super) tables: Tables,
    /// Touches that are in memory but not yet in the file.
    pub(super) touches: Mutex<HashMap<SessionKey, UnixMillis>>,
    /// Whether the result of a sweep is in the queue.
    pub(super) is_sweep_queued: AtomicBool,
}
