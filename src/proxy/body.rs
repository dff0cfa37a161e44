//! Bodies on their way through: never buffered, never with a client's trailers.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::guard::{Cut, Ending, Full as NoRoom, Live, Sight, Terms, Watched};
use crate::message::hygiene;
use crate::route::BodyLimits;
use crate::session::RoutePolicy;
use crate::upstream;

use super::caller::Caller;
use super::pace::{Deadline, Late, Pace};

/// An upstream's answer to a request with our body.
pub(super) type UpstreamBody = upstream::UpstreamBody<RequestBody>;

/// What a client sends. Trailers are dropped: an upstream may merge them with the head
/// (RFC 9110 6.5.1), and a name there would be past every check.
pub struct RequestBody {
    inner: Incoming,
    /// Absent when there is nothing to come, as for most requests.
    inbound: Option<Box<Inbound>>,
}

/// What is watched while a client sends.
struct Inbound {
    left: Option<u64>,
    pace: Pace,
    caller: Arc<Caller>,
    fate: Arc<Fate>,
    /// Here too: what the client sends would go on while it does not read the answer.
    ending: Option<Ending>,
}

/// Why a request's body broke.
#[derive(Debug, thiserror::Error)]
pub enum RequestBodyError {
    #[error("the client's body broke off: {0}")]
    Client(#[from] hyper::Error),
    #[error("the client's body is longer than max_body")]
    TooLong,
    #[error("the client's body comes too slowly")]
    TooSlow,
    #[error("{0}")]
    Cut(#[from] WasCut),
}

/// How a body ended that the HTTP client took along.
#[derive(Debug, Default)]
pub(super) struct Fate {
    too_long: AtomicBool,
    too_slow: AtomicBool,
}

impl Fate {
    /// The status that says it, when it was the client's doing.
    pub(super) fn status(&self) -> Option<StatusCode> {
        let too_long = self.too_long.load(Ordering::Relaxed);
        let too_slow = self.too_slow.load(Ordering::Relaxed);
        let slow = too_slow.then_some(StatusCode::REQUEST_TIMEOUT);
        too_long.then_some(StatusCode::PAYLOAD_TOO_LARGE).or(slow)
    }
}

impl RequestBody {
    /// A body that keeps to the limits of its route.
    pub fn new(
        inner: Incoming,
        limits: &BodyLimits,
        caller: &Arc<Caller>,
        ending: Option<Ending>,
    ) -> RequestBody {
        let inbound = (!inner.is_end_stream()).then(|| {
            Box::new(Inbound {
                left: (limits.max > 0).then_some(limits.max),
                pace: Pace::new(limits.timeout, limits.min_rate),
                caller: Arc::clone(caller),
                fate: Arc::default(),
                ending,
            })
        });
        RequestBody { inner, inbound }
    }

    /// Says later how the body ended; absent when there is none.
    pub(super) fn fate(&self) -> Option<Arc<Fate>> {
        self.inbound.as_ref().map(|inbound| Arc::clone(&inbound.fate))
    }
}

impl Inbound {
    fn count(&mut self, data: &Bytes) -> Result<(), RequestBodyError> {
        self.pace.moved(data.len());
        if !data.is_empty() {
            self.caller.took(data.len());
        }
        let Some(left) = &mut self.left else { return Ok(()) };
        let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
        *left = left.checked_sub(length).ok_or_else(|| {
            self.fate.too_long.store(true, Ordering::Relaxed);
            RequestBodyError::TooLong
        })?;
        Ok(())
    }

    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<RequestBodyError> {
        self.pace.poll_late(cx).map(|()| {
            self.fate.too_slow.store(true, Ordering::Relaxed);
            RequestBodyError::TooSlow
        })
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = RequestBodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        let me = &mut *self;
        let Some(inbound) = &mut me.inbound else { return Poll::Ready(None) };
        if let Some(ending) = &mut inbound.ending
            && let Err(why) = std::task::ready!(ending.poll_on(cx))
        {
            return Poll::Ready(Some(Err(WasCut(why).into())));
        }
        match Pin::new(&mut me.inner).poll_frame(cx) {
            Poll::Pending => inbound.poll_late(cx).map(|late| Some(Err(late))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => Poll::Ready(Some(inbound.count(&data).map(|()| Frame::data(data)))),
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
    Upstream(Outbound),
    /// An upstream's long answer, cut when its session ends.
    Watched(Outbound, Watch),
}

/// From when on an answer is cut with its session.
pub enum Watch {
    Now(Watched),
    /// Once it has taken its time. Most short answers are whole before that, and cost the register nothing.
    Soon(Box<Soon>),
}

/// What is needed to register it then.
pub struct Soon {
    pub(super) live: Live,
    pub(super) sight: Sight,
    pub(super) policy: RoutePolicy,
    pub(super) max_age: Option<Duration>,
    pub(super) due: Instant,
    /// Made when it is first waited for.
    pub(super) timer: Option<Pin<Box<Sleep>>>,
}

/// An upstream's body, and how long it may be silent in the middle of it.
pub struct Outbound {
    body: UpstreamBody,
    idle: Duration,
    /// Made when it is first waited for.
    pace: Option<Box<Pace>>,
    end: Option<Box<Timed>>,
}

/// A deadline with its timer.
struct Timed {
    timer: Pin<Box<Sleep>>,
    why: Late,
}

/// Why a response's body broke.
#[derive(Debug, thiserror::Error)]
pub enum ResponseBodyError {
    #[error("the upstream's body broke off: {0}")]
    Upstream(String),
    #[error("the upstream fell silent in the middle of its answer")]
    UpstreamSilent,
    #[error("the answer was not whole within request_timeout")]
    Late,
    #[error("{0}")]
    Cut(#[from] WasCut),
    #[error("it became a live connection, and {0}")]
    Full(#[from] NoRoom),
}

/// A live connection was cut.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("cut: {}", .0.word())]
pub struct WasCut(pub Cut);

impl Outbound {
    pub(super) fn new(body: UpstreamBody, idle: Duration, end: Option<Deadline>) -> Outbound {
        let end =
            end.map(|end| Box::new(Timed { timer: Box::pin(sleep_until(end.at)), why: end.why }));
        Outbound { body, idle, pace: None, end }
    }

    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<ResponseBodyError> {
        let Some(end) = &mut self.end else { return Poll::Pending };
        end.timer.as_mut().poll(cx).map(|()| match end.why {
            Late::Request => ResponseBodyError::Late,
            Late::Age => WasCut(Cut::TooOld).into(),
        })
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ResponseBodyError>>> {
        if let Poll::Ready(late) = self.poll_late(cx) {
            return Poll::Ready(Some(Err(late)));
        }
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Pending => self.poll_silent(cx),
            Poll::Ready(frame) => {
                if let Some(pace) = &mut self.pace {
                    pace.moved(0);
                }
                let frame = frame.map(|frame| frame.map(cleaned));
                Poll::Ready(frame.map(|frame| {
                    frame.map_err(|error| ResponseBodyError::Upstream(error.to_string()))
                }))
            }
        }
    }

    fn poll_silent(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ResponseBodyError>>> {
        let pace = self.pace.get_or_insert_with(|| Box::new(Pace::new(self.idle, 0)));
        pace.poll_late(cx).map(|()| Some(Err(ResponseBodyError::UpstreamSilent)))
    }
}

impl Watch {
    /// Whether what comes may be passed on.
    fn poll_on(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ResponseBodyError>> {
        if let Watch::Soon(soon) = self
            && soon.due <= Instant::now()
        {
            *self = Watch::Now(soon.watch()?);
        }
        match self {
            Watch::Now(watched) => watched.poll_on(cx).map_err(|why| WasCut(why).into()),
            Watch::Soon(_) => Poll::Ready(Ok(())),
        }
    }

    /// To be called while nothing comes; ready when it is time to look again.
    fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Watch::Now(_) => Poll::Pending,
            Watch::Soon(soon) => {
                let due = soon.due;
                soon.timer.get_or_insert_with(|| Box::pin(sleep_until(due))).as_mut().poll(cx)
            }
        }
    }
}

impl Soon {
    fn watch(&self) -> Result<Watched, NoRoom> {
        let terms = Terms { policy: Some(&self.policy), max_age: self.max_age };
        self.live.watch(&self.sight, terms)
    }
}

impl ResponseBody {
    /// The same answer, no longer cut when its session ends.
    pub(super) fn unwatched(self) -> ResponseBody {
        match self {
            ResponseBody::Watched(body, _) => ResponseBody::Upstream(body),
            own @ (ResponseBody::Own(_) | ResponseBody::Upstream(_)) => own,
        }
    }
}

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
            ResponseBody::Upstream(outbound) => outbound.poll_frame(cx),
            ResponseBody::Watched(outbound, watch) => loop {
                if let Err(error) = std::task::ready!(watch.poll_on(cx)) {
                    return Poll::Ready(Some(Err(error)));
                }
                match outbound.poll_frame(cx) {
                    Poll::Pending => std::task::ready!(watch.poll_due(cx)),
                    frame @ Poll::Ready(_) => return frame,
                }
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ResponseBody::Own(body) => body.is_end_stream(),
            ResponseBody::Upstream(outbound) | ResponseBody::Watched(outbound, _) => {
                outbound.body.is_end_stream()
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ResponseBody::Own(body) => body.size_hint(),
            ResponseBody::Upstream(outbound) | ResponseBody::Watched(outbound, _) => {
                outbound.body.size_hint()
            }
        }
    }
}

/// Trailers pass, for gRPC says there how a call ended.
fn cleaned(mut frame: Frame<Bytes>) -> Frame<Bytes> {
    if let Some(trailers) = frame.trailers_mut() {
        hygiene::clean_trailers(trailers);
    }
    frame
}
