//! Bodies on their way through: never buffered, never with a client's trailers.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;

use crate::guard::{Cut, Ending, Watched};
use crate::http::hygiene;
use crate::upstream;

/// An upstream's answer to a request with our body.
pub(super) type UpstreamBody = upstream::UpstreamBody<RequestBody>;

/// What a client sends. Trailers are dropped: an upstream may merge them with the head
/// (RFC 9110 6.5.1), and a name there would be past every check.
pub struct RequestBody {
    inner: Incoming,
    left: Option<u64>,
    /// Here too: what the client sends would go on while it does not read the answer.
    ending: Option<Ending>,
}

/// Why a request's body broke.
#[derive(Debug, thiserror::Error)]
pub enum RequestBodyError {
    #[error("the client's body broke off: {0}")]
    Client(#[from] hyper::Error),
    #[error("the client's body is longer than server.max_body")]
    TooLong,
    #[error("{0}")]
    Cut(#[from] WasCut),
}

impl RequestBody {
    /// `limit` in bytes; zero is none.
    pub fn new(inner: Incoming, limit: u64, ending: Option<Ending>) -> RequestBody {
        RequestBody { inner, left: (limit > 0).then_some(limit), ending }
    }

    fn count(&mut self, data: &Bytes) -> Result<(), RequestBodyError> {
        let Some(left) = &mut self.left else { return Ok(()) };
        let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
        *left = left.checked_sub(length).ok_or(RequestBodyError::TooLong)?;
        Ok(())
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = RequestBodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        if let Some(ending) = &mut self.ending
            && let Poll::Ready(why) = ending.poll_cut(cx)
        {
            return Poll::Ready(Some(Err(WasCut(why).into())));
        }
        match std::task::ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
            None => Poll::Ready(None),
            Some(Err(error)) => Poll::Ready(Some(Err(error.into()))),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => Poll::Ready(Some(self.count(&data).map(|()| Frame::data(data)))),
                // Trailers are the last frame.
                Err(_) => Poll::Ready(None),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// What a client receives.
pub enum ResponseBody {
    /// A page or answer of ours.
    Own(Full<Bytes>),
    /// An upstream's answer.
    Upstream(UpstreamBody),
    /// An upstream's long answer, cut when its session ends.
    Watched(UpstreamBody, Watched),
}

/// Why a response's body broke.
#[derive(Debug, thiserror::Error)]
pub enum ResponseBodyError {
    #[error("the upstream's body broke off: {0}")]
    Upstream(String),
    #[error("{0}")]
    Cut(#[from] WasCut),
}

/// A live connection was cut.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("cut: {}", .0.word())]
pub struct WasCut(pub Cut);

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = ResponseBodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ResponseBodyError>>> {
        match self.get_mut() {
            ResponseBody::Own(body) => match std::task::ready!(Pin::new(body).poll_frame(cx)) {
                Some(Ok(frame)) => Poll::Ready(Some(Ok(frame))),
                Some(Err(never)) => match never {},
                None => Poll::Ready(None),
            },
            ResponseBody::Upstream(body) => poll_upstream(body, cx),
            ResponseBody::Watched(body, watched) => {
                if let Poll::Ready(why) = watched.poll_cut(cx) {
                    return Poll::Ready(Some(Err(WasCut(why).into())));
                }
                poll_upstream(body, cx)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ResponseBody::Own(body) => body.is_end_stream(),
            ResponseBody::Upstream(body) | ResponseBody::Watched(body, _) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ResponseBody::Own(body) => body.size_hint(),
            ResponseBody::Upstream(body) | ResponseBody::Watched(body, _) => body.size_hint(),
        }
    }
}

fn poll_upstream(
    body: &mut UpstreamBody,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, ResponseBodyError>>> {
    let frame = std::task::ready!(Pin::new(body).poll_frame(cx));
    let frame = frame.map(|frame| frame.map(cleaned));
    Poll::Ready(frame.map(|frame| frame.map_err(|e| ResponseBodyError::Upstream(e.to_string()))))
}

/// Trailers pass, for gRPC says there how a call ended.
fn cleaned(mut frame: Frame<Bytes>) -> Frame<Bytes> {
    if let Some(trailers) = frame.trailers_mut() {
        hygiene::clean_trailers(trailers);
    }
    frame
}
