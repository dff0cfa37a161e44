//! One request and its answer, as the connection counts them: from the head to the last byte.

use std::cell::Cell;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::proxy::{Gateway, ResponseBody, ResponseBodyError};
use crate::telemetry::Limit;

use super::pulse::Pulse;

/// A request under way. Dropped before its answer, it was taken back by the client.
pub(super) struct Turn {
    gateway: Arc<Gateway>,
    pulse: Arc<Pulse>,
    answered: bool,
}

impl Turn {
    pub(super) fn begin(gateway: &Arc<Gateway>, pulse: &Arc<Pulse>) -> Turn {
        pulse.begin();
        gateway.pressure.begin();
        Turn { gateway: Arc::clone(gateway), pulse: Arc::clone(pulse), answered: false }
    }

    /// The answer's head is there; the turn is over with its body.
    pub(super) fn answered(mut self, body: ResponseBody) -> Answered {
        self.answered = true;
        Answered { body, turn: self }
    }
}

impl Turn {
    /// Counts the limit that broke an answer off.
    fn note(&self, error: &ResponseBodyError) {
        let limit = match error {
            ResponseBodyError::UpstreamSilent => Limit::UpstreamIdle,
            ResponseBodyError::Late => Limit::Request,
            ResponseBodyError::Upstream(_)
            | ResponseBodyError::Cut(_)
            | ResponseBodyError::Full(_) => return,
        };
        self.gateway.guard.shared().metrics.limit(limit, None);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.pulse.end();
        self.gateway.pressure.end();
        if !self.answered {
            self.pulse.taken_back();
        }
    }
}

/// An answer's body.
pub(super) struct Answered {
    body: ResponseBody,
    turn: Turn,
}

/// Whom the sending of an answer waits for, as its body was last asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waits {
    NotAsked,
    /// It had nothing to give yet, or nothing any more.
    ForUs,
    /// It gave so many bytes; whoever wants more will ask.
    ForClient(usize),
}

tokio::task_local! {
    /// Set where somebody wants to know (see [`super::streams`]).
    pub(super) static WAITS: Cell<Waits>;
}

impl Body for Answered {
    type Data = Bytes;
    type Error = ResponseBodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ResponseBodyError>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        let waits = match &frame {
            Poll::Ready(Some(Ok(frame))) => {
                Waits::ForClient(frame.data_ref().map_or(0, Bytes::len))
            }
            Poll::Ready(Some(Err(error))) => {
                self.turn.note(error);
                Waits::ForUs
            }
            Poll::Ready(_) | Poll::Pending => Waits::ForUs,
        };
        // Nobody wants to know on HTTP/1.1: there the connection itself is watched.
        WAITS.try_with(|cell| cell.set(waits)).unwrap_or_default();
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
