//! The runtime of a thread.

use tokio::runtime::{Builder, Runtime};

/// Tasks that a worker polls before it polls its sockets. With tokio's default of 61 and thousands of ready
/// tasks, a newly readable socket waits too long for its turn.
const EVENT_INTERVAL: u32 = 8;

/// Builds a runtime for the current thread.
pub(super) fn runtime() -> Result<Runtime, std::io::Error> {
    Builder::new_current_thread().enable_all().event_interval(EVENT_INTERVAL).build()
}
