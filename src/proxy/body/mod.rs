//! Request and response bodies.

mod inbound;
mod response;

pub(super) use inbound::{BodyOutcome, BufferLimits};
pub use inbound::{InboundBody, RequestBodyError};
pub(super) use response::{DelayedTracking, TimedBody, Tracking, UpstreamBody};
pub use response::{ResponseBody, ResponseBodyError};

use crate::connections::CloseReason;

/// A tracked connection was closed.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("closed: {}", .0.as_str())]
pub struct ConnectionClosed(pub CloseReason);
