//! What operators see: one structured line per request and per session event, and counters.
//!
//! No token, no cookie and no raw session id ever reaches a line; sessions are named by their handle.

pub mod audit;
mod counted;
pub mod events;
pub mod hook;
pub mod limits;
pub mod log;
pub mod metrics;
pub mod requests;
mod window;

pub use audit::Audit;
pub use counted::Counted;
pub use events::SessionEvent;
pub use hook::Hook;
pub use limits::Limit;
pub use metrics::{ADMIT, Metrics, StoreFigures};
pub use requests::{RequestLine, RequestLines, RequestLog};
