//! Tracked connections: WebSocket tunnels, event streams, long polls and large bodies, which must
//! end with their session.
//!
//! Invariants:
//!
//! - Subscribe, then check. A request takes an [`EndSeq`] before the store command, and an end
//!   since then closes the connection at its registration. Ends are logged before the registry is
//!   searched, and connections are registered before the log is read. So an end and a registration
//!   cannot miss each other.
//! - A rotation closes no connection, because connections belong to the session and not to a token.
//! - Limits apply in total and per session.

mod client;
mod close_handle;
mod end_log;
mod registry;
mod revalidator;
mod snapshot;
mod stall_detector;
mod tracked;

pub use client::{
    ClientBody, ClientBodyError, ClientStream, ClientUpgrade, Evictable, OpeningStream,
};
pub use close_handle::CloseHandle;
pub use registry::{ConnectionGuard, ConnectionRegistry};
pub(crate) use revalidator::run_checks;
pub use snapshot::{
    CloseReason, ConnectionPolicy, EndSeq, LimitExceeded, RouteOrigin, SessionSnapshot,
    TrackingLimits, TrackingSettings,
};
