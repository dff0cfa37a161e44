//! The log, the access log, session events and metrics.
//!
//! No token, cookie or session ID reaches a log; a session is identified by its handle.
//! `docs/metrics-and-events.md` lists every metric and event.

pub mod access_log;
pub mod events;
mod gauge_guard;
pub mod limits;
pub mod log;
pub mod log_throttle;
pub mod metrics;
mod printable;
pub mod process;

pub use access_log::{AccessLog, AccessLogFields, AccessLogWriter};
pub use events::SessionEvent;
pub use gauge_guard::GaugeGuard;
pub use limits::Limit;
pub use log_throttle::LogThrottle;
pub use metrics::{ADMIT, AuditStats, Metrics, Phase, RouteMetricsTable, StoreStats};
pub use printable::{Printable, escape};
