//! The log, the access log, session events and metrics.
//!
//! No token, cookie or session ID reaches a log; a session is identified by its handle.
//! `docs/metrics-and-events.md` lists every metric and event.

pub mod audit;
mod gauge_guard;
pub mod events;
pub mod notify;
pub mod limits;
pub mod log;
pub mod metrics;
pub mod access_log;
mod window;

pub use audit::AuditLog;
pub use gauge_guard::GaugeGuard;
pub use events::SessionEvent;
pub use notify::Notifier;
pub use limits::Limit;
pub use metrics::{ADMIT, Metrics, StoreStats};
pub use access_log::{AccessLogFields, AccessLogWriter, AccessLog};
